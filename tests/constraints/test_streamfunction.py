"""A streamfunction makes every flow without divergence or through a coast, and no other: round islands, along channels."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import example, given
from hypothesis import strategies as st
from keras import ops

from physml import FieldSpec, Streamfunction, _backend
from physml.constraints._cgrid import components
from physml.testbeds import gyre as beds

SHAPE = (6, 7)
CLOSED = {"lat": "closed", "lon": "closed"}
CHANNEL = {"lat": "closed", "lon": "periodic"}
MERIDIONAL = {"lat": "periodic", "lon": "closed"}
TORUS = {"lat": "periodic", "lon": "periodic"}
FLOW = {"lon": "u", "lat": "v"}
LENGTHS = {"lon": "dy", "lat": "dx"}


def islands():
    """One island in the middle, one across the seam of longitude, two cells that touch at a corner."""
    wet = np.ones(SHAPE, bool)
    wet[1, 3] = wet[3, 6] = wet[3, 0] = False
    wet[3, 3] = wet[4, 4] = False
    return wet


def dataset(wet, seed=0, levels=None):
    rng = np.random.default_rng(seed)
    dims = ("depth", "lat", "lon") if levels else ("lat", "lon")
    shape = (levels, *SHAPE) if levels else SHAPE
    ds = xr.Dataset({n: (("time", *dims), rng.random((4, *shape))) for n in ("u", "v")})
    ds["wet"] = (dims, wet)
    for name, size in (("dy", 1e4), ("dx", 2e4)):
        ds[name] = (("lat", "lon"), size * rng.uniform(0.5, 2, SHAPE))
    return ds.assign_coords(time=np.arange(4), lat=np.arange(6.0), lon=np.arange(7.0))


def bound(ds, boundary=CLOSED, edges=LENGTHS, unit=None, targets=("u", "v"), **options):
    levels = {"levels": "depth"} if "depth" in ds.dims else {}
    layout = FieldSpec(["u", "v"], list(targets), mask="wet", **levels).bind(ds)
    head = Streamfunction(FLOW, boundary, edges, **options)
    head.bind(layout, unit)
    return layout, head


def say(layout, head, seed=1):
    return np.random.default_rng(seed).normal(size=(3, *SHAPE, head.channels(layout)))


def answer(call, *args):
    with _backend.float64():
        found = call(*(ops.convert_to_tensor(a) for a in args))
        return [np.asarray(f) for f in found] if isinstance(found, list) else np.asarray(found)


def flows(head, n):
    return answer(head.flows, n, n)


def outflow(along_y, along_x):
    """Return the net outflow of every cell; the ends of closed dimensions carry nothing."""
    return along_y - np.roll(along_y, 1, 1) + along_x - np.roll(along_x, 1, 2)


def shut(layout, boundary):
    """Return the closed faces along y and along x, worked out anew."""
    valid = layout.valid("targets")[..., : len(layout.targets) // 2]
    found = []
    for axis, dim in enumerate(("lat", "lon")):
        closed = ~(valid & np.roll(valid, -1, axis))
        if boundary[dim] == "closed":
            closed[(slice(None),) * axis + (-1,)] = True
        found.append(closed)
    return found


def deepening():
    return np.stack([np.ones(SHAPE, bool), islands(), np.arange(7) > 2 + np.zeros(SHAPE)])


CASES = {
    "basin": (CLOSED, islands(), None),
    "channel": (CHANNEL, islands(), None),
    "meridional channel": (MERIDIONAL, islands(), None),
    "blocked channel": (CHANNEL, np.arange(7) != 2 + np.zeros(SHAPE), None),
    "torus": (TORUS, np.ones(SHAPE, bool), None),
    "torus with land": (TORUS, islands(), None),
    "levels": (CLOSED, deepening(), 3),
    "torus with levels": (TORUS, deepening(), 3),
    "channel with levels": (CHANNEL, deepening(), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_no_cell_has_a_net_outflow_and_no_coast_is_crossed(name):
    boundary, wet, levels = CASES[name]
    layout, head = bound(dataset(wet, levels=levels), boundary)
    n = say(layout, head)
    found = flows(head, n)
    largest = max(np.abs(head_psi(head, n)).max(), *(np.abs(f).max() for f in found))
    assert np.abs(outflow(*found)).max() <= 1e-15 * largest
    for flow, closed in zip(found, shut(layout, boundary), strict=True):
        assert not flow[:, closed].any()
        assert np.abs(flow[:, ~closed]).min() > 0


def head_psi(head, n):
    return answer(head.corners, n)


@pytest.mark.parametrize("name", CASES)
def test_velocities_are_flows_over_the_sizes_of_their_faces(name):
    boundary, wet, levels = CASES[name]
    ds = dataset(wet, levels=levels)
    layout, head = bound(ds, boundary, targets=("v", "u"), unit=np.full(2 * (levels or 1), 0.3))
    n = say(layout, head)
    y = answer(head, n, n)
    along_y, along_x = flows(head, n)
    v, u = np.split(y, 2, axis=-1)
    np.testing.assert_allclose(v * ds.dx.values[..., None], along_y, rtol=1e-14)
    np.testing.assert_allclose(u * ds.dy.values[..., None], along_x, rtol=1e-14)
    assert 0.01 < np.abs(y).max() < 30


def test_a_single_corner_turns_the_four_faces_around_it():
    _, head = bound(dataset(np.ones(SHAPE, bool)), edges={"lat": 1.0, "lon": 1.0}, scale=1.0)
    n = np.zeros((1, *SHAPE, 1))
    n[0, 2, 3] = 1.0
    v, u = (f[0, ..., 0] for f in flows(head, n))
    assert {tuple(map(int, at)): float(u[tuple(at)]) for at in np.argwhere(u)} == {(2, 3): -1.0, (3, 3): 1.0}
    assert {tuple(map(int, at)): float(v[tuple(at)]) for at in np.argwhere(v)} == {(2, 3): 1.0, (2, 4): -1.0}


@pytest.mark.parametrize("island", [False, True])
def test_the_streamfunction_of_the_gyre_gives_its_transports_back(island):
    ds = beds.simulate(n_runs=1, n_steps=3, shape=(12, 16), island=island, dtype="float64")
    faces = ds.isel(run=0, lat_face=slice(1, None), lon_face=slice(1, None))
    ds = ds.isel(run=0)[["wet", "tracer"]]
    ds["u"] = (("time", "lat", "lon"), faces.transport_x.values)
    ds["v"] = (("time", "lat", "lon"), faces.transport_y.values)
    layout = FieldSpec("tracer", ["u", "v"], mask="wet").bind(ds)
    head = Streamfunction(FLOW, CLOSED, {"lon": 1.0, "lat": 1.0}, scale=1.0)
    head.bind(layout)
    psi = np.cumsum(ds.v.values, axis=-1)[..., None]
    y = answer(head, psi, psi)
    np.testing.assert_allclose(y[..., 0], ds.u.values, atol=1e-10 * np.abs(psi).max())
    np.testing.assert_allclose(y[..., 1], ds.v.values, atol=1e-10 * np.abs(psi).max())


def test_the_transport_of_a_channel_is_the_difference_between_its_walls():
    layout, head = bound(dataset(islands()), CHANNEL, scale=1.0)
    n = say(layout, head)
    psi = head_psi(head, n)
    _, along_x = flows(head, n)
    through = along_x.sum(1)
    np.testing.assert_allclose(through, np.broadcast_to(-psi[:, -1, :1], through.shape), rtol=1e-13)
    np.testing.assert_allclose(psi[:, -1, 0, 0], (n[:, -1, :, 0] * head._unit).mean(1), rtol=1e-13)
    assert np.abs(through).min() > 0


@pytest.mark.parametrize("wet", [np.ones(SHAPE, bool), islands()])
def test_a_torus_has_a_mean_flow_along_both_dimensions(wet):
    layout, head = bound(dataset(wet), TORUS)
    assert head.channels(layout) == 3
    n = say(layout, head)
    along_y, along_x = flows(head, n)
    mean = n.mean((1, 2)) * head._unit
    np.testing.assert_allclose(
        along_y.sum(2)[..., 0], np.repeat(7 * mean[:, 1:2], 6, 1), rtol=1e-12, atol=1e-14 * np.abs(along_y).max()
    )
    np.testing.assert_allclose(
        along_x.sum(1)[..., 0], np.repeat(6 * mean[:, 2:], 7, 1), rtol=1e-12, atol=1e-14 * np.abs(along_x).max()
    )


def test_every_coast_has_one_value_the_mean_around_it():
    layout, head = bound(dataset(islands()), CHANNEL, scale=1.0)
    n = say(layout, head)
    psi = head_psi(head, n)[..., 0] / head._unit
    for corners in ([(0, 2), (0, 3), (1, 2), (1, 3)], [(2, 5), (2, 6), (2, 0), (3, 5), (3, 6), (3, 0)],
                    [(2, 2), (2, 3), (3, 2), (3, 3), (3, 4), (4, 3), (4, 4)]):  # fmt: skip
        at = tuple(np.transpose(corners))
        np.testing.assert_allclose(
            psi[:, *at], np.repeat(n[..., 0][:, *at].mean(1)[:, None], len(corners), 1), rtol=1e-13
        )
    free = np.ones(SHAPE, bool)
    free[0:2, 2:4] = free[2:4, [5, 6, 0]] = free[2:5, 2:5] = free[-1] = False
    free[2, 4] = free[4, 2] = True
    np.testing.assert_allclose(psi[:, free], n[..., 0][:, free], rtol=1e-15)


@pytest.mark.long
@given(
    seed=st.integers(0, 2**32 - 1),
    land=st.floats(0, 0.8),
    boundary=st.sampled_from([CLOSED, CHANNEL, MERIDIONAL, TORUS]),
)
@example(seed=0, land=0.0, boundary=TORUS)
def test_every_flow_without_divergence_can_be_said_and_no_other(seed, land, boundary):
    every_flow(np.random.default_rng(seed).random(SHAPE) >= land, boundary)


@pytest.mark.parametrize(
    "land",
    [
        lambda y, x: y == 2,  # a barrier
        lambda y, x: (y == 1) | (y == 4),  # two channels round the grid
        lambda y, x: (x - y) % 6 == 0,  # an oblique barrier, on a square
        lambda y, x: (y == 2) & (x > 0),  # a barrier with a strait
    ],
)
def test_every_flow_round_a_torus_with_barriers_can_be_said(land):
    y, x = np.indices(SHAPE)
    every_flow(~land(y, x) & (x < 7), TORUS)


def every_flow(wet, boundary):
    layout, head = bound(dataset(wet), boundary, edges={"lat": 1.0, "lon": 1.0}, scale=1.0)
    n = wet.size * head.channels(layout)
    each = np.eye(n).reshape(-1, *SHAPE, head.channels(layout))
    found = flows(head, each)
    assert np.abs(outflow(*found)).max() <= 1e-15
    closed = shut(layout, boundary)
    assert not any(f[:, c].any() for f, c in zip(found, closed, strict=True))
    faces = sum(int((~c).sum()) for c in closed)
    basins = int(components(wet, [boundary[d] == "periodic" for d in ("lat", "lon")]).max())
    reach = np.linalg.matrix_rank(np.concatenate([f.reshape(n, -1) for f in found], axis=1), tol=1e-9)
    assert reach == faces - (int(wet.sum()) - basins)


def test_the_gradient_is_that_of_finite_differences_and_reaches_the_coasts():
    layout, head = bound(dataset(islands()), CHANNEL)
    rng = np.random.default_rng(4)
    n, weights = say(layout, head), rng.normal(size=(3, *SHAPE, 2))

    def loss(n):
        return ops.sum(head(n, ops.convert_to_tensor(weights)) ** 2 * weights)

    _, gradient = _backend.value_and_gradient(loss, n)
    direction = rng.normal(size=n.shape)
    with _backend.float64():
        ahead, behind = (float(loss(ops.convert_to_tensor(n + s * direction))) for s in (1e-3, -1e-3))
    np.testing.assert_allclose((ahead - behind) / 2e-3, (gradient * direction).sum(), rtol=1e-8)
    assert (gradient != 0).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda ds: bound(ds, {"lat": "closed"}), r"Streamfunction: the boundary does not fit the grid.*each of"),
        (lambda ds: bound(ds, edges={"lat": 1.0}), r"Streamfunction: edges does not fit the grid.*each of two space dimensions"),
        (lambda ds: bound(ds.assign(dy=0 * ds.dy)), r"the edge along lon 'dy' is not positive where it is needed.*2[0-9] of 2[0-9] values"),
        (lambda ds: bound(ds, targets=("u",)), r"makes the two velocities and nothing else. Expected: targets \['u', 'v'\]"),
        (lambda ds: bound(ds.isel(lat=slice(None, None, -1))), r"the coordinate 'lat' decreases.*slice\(None, None, -1\)"),
        (lambda ds: bound(ds.rename(lat="y", lon="x")), r"velocity does not fit the grid.*here \('y', 'x'\)"),
    ],
)  # fmt: skip
def test_what_has_no_streamfunction_is_refused(make, words):
    with pytest.raises((ValueError, KeyError), match=words):
        make(dataset(islands()))


def test_masks_that_differ_between_the_velocities_are_refused():
    ds = dataset(islands())
    ds["wet"] = ds.wet & xr.DataArray([True, False], dims="depth")
    ds["v"] = ds.v.expand_dims(depth=2)
    layout = FieldSpec("u", ["u", "v"], mask="wet", levels="depth").bind(ds)
    head = Streamfunction(FLOW, CLOSED, LENGTHS)
    with pytest.raises(
        ValueError, match=r"needs one mask and the same levels for both velocities.*\[\[37, 0\], \[37\]\]"
    ):
        head.bind(layout)
