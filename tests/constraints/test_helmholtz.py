"""A given divergence is met in every cell, whatever the coasts; what no flow can have is taken out and told."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from keras import ops
from scipy.ndimage import gaussian_filter

from physml import FieldSpec, Helmholtz, _backend
from physml.constraints import _poisson
from physml.constraints._cgrid import components, open_faces
from physml.constraints._poisson import Poisson

SHAPE = (8, 10)
CLOSED = {"lat": "closed", "lon": "closed"}
CHANNEL = {"lat": "closed", "lon": "periodic"}
TORUS = {"lat": "periodic", "lon": "periodic"}
FLOW = {"lon": "u", "lat": "v"}
ONE = {"lon": 1.0, "lat": 1.0}


def coasts():
    """An island, a lake of one cell, a lake of three, and a strait."""
    wet = np.ones(SHAPE, bool)
    wet[2:4, 2:4] = False
    wet[:, 6] = False
    wet[4, 6] = True
    wet[5:8, 7:10] = False
    wet[6, 8] = wet[7, 9] = wet[0, 6] = wet[0, 7] = True
    wet[6, 9] = False
    return wet


def dataset(wet, seed=0, levels=None):
    rng = np.random.default_rng(seed)
    dims = ("depth", "lat", "lon") if levels else ("lat", "lon")
    shape = (levels, *SHAPE) if levels else SHAPE
    ds = xr.Dataset({n: (("time", *dims), rng.normal(size=(4, *shape))) for n in ("u", "v", "w")})
    ds["wet"] = (dims, wet)
    for name, size in (("dy", 1e4), ("dx", 2e4), ("east", 2e4), ("north", 1e4), ("area", 2e8)):
        ds[name] = (("lat", "lon"), size * rng.uniform(0.5, 2, SHAPE))
    ds.update({n: ds[n].where(ds.wet) for n in ("u", "v", "w")})
    return ds.assign_coords(time=np.arange(4))


def bound(ds, boundary=CLOSED, divergence="w", unit=None, **options):
    levels = {"levels": "depth"} if "depth" in ds.dims else {}
    layout = FieldSpec(["u", "w", "v"], ["u", "v"], mask="wet", **levels).bind(ds)
    edges = options.pop("edges", {"lon": "dy", "lat": "dx"})
    distances = options.pop("distances", {"lon": "east", "lat": "north"})
    head = Helmholtz(FLOW, boundary, edges, distances, options.pop("area", "area"), divergence, **options)
    head.bind(layout, unit)
    return layout, head


def inputs(layout, ds):
    return np.nan_to_num(layout.pack(ds, "inputs").values[:3])


def say(layout, head, seed=1):
    return np.random.default_rng(seed).normal(size=(3, *SHAPE, head.channels(layout)))


def answer(call, *args):
    with _backend.float64():
        found = call(*(ops.convert_to_tensor(a) for a in args))
        return [np.asarray(f) for f in found] if isinstance(found, list) else np.asarray(found)


def divergence(y, ds):
    """Return the net outflow of every cell over its area, worked out with NumPy."""
    u, v = np.split(y, 2, axis=-1)
    u, v = u * ds.dy.values[..., None], v * ds.dx.values[..., None]
    return (u - np.roll(u, 1, 2) + v - np.roll(v, 1, 1)) / ds.area.values[..., None]


CASES = {
    "basin": (CLOSED, np.ones(SHAPE, bool), None),
    "channel": (CHANNEL, np.ones(SHAPE, bool), None),
    "torus": (TORUS, np.ones(SHAPE, bool), None),
    "lakes": (CLOSED, coasts(), None),
    "lakes round the globe": (CHANNEL, coasts(), None),
    "lakes on a torus": (TORUS, coasts(), None),
    "levels": (CHANNEL, np.stack([np.ones(SHAPE, bool), coasts(), np.arange(10) > 3 + np.zeros(SHAPE)]), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_the_divergence_is_the_given_one_less_the_mean_of_each_basin(name):
    boundary, wet, levels = CASES[name]
    ds = dataset(wet, levels=levels)
    layout, head = bound(ds, boundary, factor=-1e-6)
    x = inputs(layout, ds)
    y = answer(head, say(layout, head), x)
    want = -1e-6 * x[..., layout.where("inputs", "w", 0)]
    valid = layout.valid("targets")[..., : want.shape[-1]]
    for c in range(want.shape[-1]):
        basins = components(valid[..., c], [boundary[d] == "periodic" for d in ("lat", "lon")])
        for k in range(1, basins.max() + 1):
            at = basins == k
            want[:, at, c] -= (want[:, at, c] @ ds.area.values[at] / ds.area.values[at].sum())[:, None]
    found = np.where(valid, divergence(y, ds), 0.0)
    assert np.abs(found - want).max() <= 1e-11 * np.abs(want).max()
    told = -1e-6 * (x[..., layout.where("inputs", "w", 0)] - answer(head.excess, x))
    np.testing.assert_allclose(np.where(valid, told, 0.0), want, atol=1e-14 * np.abs(want).max())


@pytest.mark.parametrize("name", ["lakes", "levels"])
def test_no_coast_is_crossed(name):
    boundary, wet, levels = CASES[name]
    ds = dataset(wet, levels=levels)
    layout, head = bound(ds, boundary)
    valid = layout.valid("targets")[..., : levels or 1]
    for axis, flow in enumerate(answer(head.flows, say(layout, head), inputs(layout, ds))):
        opened = open_faces(valid, axis, boundary[("lat", "lon")[axis]] == "periodic")
        assert not flow[:, ~opened].any()
        assert np.abs(flow[:, opened]).min() > 0


def test_the_potential_flow_has_no_circulation():
    ds = dataset(coasts())
    layout, head = bound(ds, edges={"lon": 3.0, "lat": 2.0}, distances={"lon": 2.0, "lat": 3.0}, area=6.0)
    y = answer(head, 0 * say(layout, head), inputs(layout, ds))
    u, v = 2.0 * y[..., 0], 3.0 * y[..., 1]  # along the way from centre to centre
    loop = u[:, :-1, :-1] + v[:, :-1, 1:] - u[:, 1:, :-1] - v[:, :-1, :-1]
    wet = coasts()
    whole = wet[:-1, :-1] & wet[:-1, 1:] & wet[1:, :-1] & wet[1:, 1:]
    assert np.abs(loop[:, whole]).max() < 1e-12 * np.abs(u).max()
    assert np.abs(u).max() > 0.1


def test_a_plane_wave_on_a_torus_converges_with_the_square_of_the_cells():
    errors = []
    for n in (8, 16, 32):
        at = (np.arange(n) + 0.5) / n
        phase = 2 * np.pi * (at[None, :] + 2 * at[:, None])
        h, k = 1.0 / n, np.array([2 * np.pi, 4 * np.pi])
        solver = Poisson([np.ones((n, n, 1))] * 2, np.ones((n, n, 1), bool), np.full((n, n, 1), h**2), (True, True))
        q = (h**2 * -(k**2).sum() * np.cos(phase))[None, ..., None]
        along_x = answer(solver.flows, q)[0, ..., 1] / h
        want = -k[0] * np.sin(2 * np.pi * (at[None, :] + 0.5 * h + 2 * at[:, None]))
        errors.append(np.abs(along_x - want).max())
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.1
    assert abs(np.log2(errors[1] / errors[2]) - 2) < 0.1


@pytest.mark.long
def test_without_land_on_latitude_circles_one_pass_is_enough_and_with_land_resolution_costs_little():
    passes = []
    for n in (16, 32, 64):
        lat = np.linspace(-75, 75, n)
        wet = np.ones((n, 2 * n, 1), bool)
        k = [
            np.broadcast_to(c[:, None, None], wet.shape).copy()
            for c in (np.cos(np.radians(lat)), 1 / np.cos(np.radians(lat)))
        ]
        k[0][-1] = 0
        clear = Poisson(k, wet, np.ones(wet.shape), (False, True)).passes()
        assert clear <= 2
        wet[n // 4 : n // 2, n // 2 : n] = False
        wet[n // 2 :, n // 8 : n // 4] = False
        k = [np.where(open_faces(wet, axis, axis == 1), c, 0.0) for axis, c in enumerate(k)]
        passes.append(Poisson(k, wet, np.ones(wet.shape), (False, True)).passes())
    assert passes[-1] <= 60
    assert passes[-1] <= 1.5 * passes[0]


@pytest.mark.long
@pytest.mark.parametrize(("shape", "width", "passes"), [((64, 128), 3.6, 60), ((48, 96), 0.5, 200)])
def test_ragged_coasts_with_lakes_are_solved_to_the_last_digits(shape, width, passes):
    rng, (ny, nx) = np.random.default_rng(0), shape
    noise = gaussian_filter(rng.normal(size=shape), width, mode=("nearest", "wrap"))
    wet = (noise < np.quantile(noise, 0.7))[..., None]
    lat = (np.arange(ny) + 0.5) * 160 / ny - 80
    dx, dx_north = (
        1.1e5 * 360 / nx * np.cos(np.radians(at))[:, None, None] * np.ones(wet.shape) for at in (lat, lat + 80 / ny)
    )
    dy = 1.1e5 * 160 / ny
    k = [np.where(open_faces(wet, 0, False), dx_north / dy, 0.0), np.where(open_faces(wet, 1, True), dy / dx, 0.0)]
    solver = Poisson(k, wet, dx * dy, (False, True))
    assert components(wet[..., 0], (False, True)).max() > 1
    assert solver.passes() < passes
    q = rng.normal(size=(2, *wet.shape)) * dx * dy * wet
    along_y, along_x = np.split(answer(solver.flows, q), 2, axis=-1)
    out = along_y - np.roll(along_y, 1, 1) + along_x - np.roll(along_x, 1, 2)
    want = q - answer(solver.excess, q) * dx * dy * wet
    assert np.abs(out - want).max() <= 1e-12 * np.abs(want).max()


def test_the_gradient_is_that_of_finite_differences():
    ds = dataset(coasts())
    layout, head = bound(ds, factor=1e-6)
    rng = np.random.default_rng(4)
    n, x, weights = say(layout, head), inputs(layout, ds), rng.normal(size=(3, *SHAPE, 2))

    for at, given_ in enumerate((n, x)):

        def loss(value, at=at):
            args = [ops.convert_to_tensor(n), ops.convert_to_tensor(x)]
            args[at] = value
            return ops.sum(head(*args) ** 2 * weights)

        _, gradient = _backend.value_and_gradient(loss, given_)
        direction = rng.normal(size=given_.shape)
        with _backend.float64():
            ahead, behind = (float(loss(ops.convert_to_tensor(given_ + s * direction))) for s in (1e-3, -1e-3))
        np.testing.assert_allclose((ahead - behind) / 2e-3, (gradient * direction).sum(), rtol=1e-8)
    assert not gradient[:, ~ds.wet.values].any()
    assert (gradient[..., 1][:, components(ds.wet.values, (False, False)) == 1] != 0).all()


def test_solving_is_its_own_adjoint():
    ds = dataset(coasts())
    _, head = bound(ds)
    rng = np.random.default_rng(5)
    q, g = rng.normal(size=(1, *SHAPE, 1)), rng.normal(size=(1, *SHAPE, 2))
    _, gradient = _backend.value_and_gradient(lambda q: ops.sum(head._poisson.flows(q) * g), q)
    np.testing.assert_allclose((gradient * q).sum(), (answer(head._poisson.flows, q) * g).sum(), rtol=1e-10)


def test_units_are_checked_and_converted():
    ds = dataset(coasts())
    for name, units in {"u": "cm s-1", "v": "cm s-1", "dy": "km", "dx": "km", "area": "km2", "w": "d-1"}.items():
        ds[name].attrs["units"] = units
    layout, head = bound(ds)
    x = inputs(layout, ds)
    y = answer(head, say(layout, head), x)
    u_per_w = 1e5 / 86400  # cm s-1 for a divergence of 1 d-1 over 1 km
    want = u_per_w * (x[..., 1:2] - answer(head.excess, x))
    np.testing.assert_allclose(
        np.where(ds.wet.values[..., None], divergence(y, ds), 0.0), want, atol=1e-9 * np.abs(want).max()
    )
    ds["w"].attrs["units"] = "m s-1"
    with pytest.raises(ValueError, match=r"units of the divergence 'w' do not fit.*Received: 'm s-1'"):
        bound(ds)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda ds: bound(ds, divergence="h"), r"'h' at offset 0 is not among the inputs"),
        (lambda ds: bound(ds, distances={"lat": 1.0}), r"Helmholtz: distances do not fit the grid"),
        (lambda ds: bound(ds, distances={"lat": 1.0, "lon": 0.0}), r"the distance along lon 0.0 is not positive"),
        (lambda ds: bound(ds.assign(area=ds.area * np.nan)), r"Helmholtz: area 'area' is not positive where it is needed"),
        (lambda ds: bound(ds, factor=0), r"a factor of 0 leaves no divergence.*use Streamfunction"),
        (lambda ds: bound(ds, CHANNEL | {"lat": "open"}), r"Helmholtz: the boundary does not fit the grid"),
    ],
)  # fmt: skip
def test_what_has_no_potential_is_refused(make, words):
    with pytest.raises((ValueError, KeyError), match=words):
        make(dataset(coasts()))


def test_a_divergence_on_other_levels_is_refused():
    ds = dataset(np.stack([coasts()] * 3), levels=3)
    ds["w"] = ds.w.isel(depth=0)
    with pytest.raises(ValueError, match=r"'w' does not tell that of every velocity.*Received: 1 and 3 level"):
        bound(ds)


def test_a_grid_on_which_the_iteration_ends_too_early_is_refused(monkeypatch):
    ds = dataset(coasts())
    for module in (_poisson, __import__("physml.constraints.helmholtz", fromlist=["MAX_PASSES"])):
        monkeypatch.setattr(module, "MAX_PASSES", 3)
    with pytest.raises(
        ValueError, match=r"the potential cannot be found on this grid. Expected: convergence in 3 passes"
    ):
        bound(ds)
