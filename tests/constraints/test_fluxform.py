"""Fluxes: what leaves a cell enters its neighbour, no cell gives more than it holds, and coasts and closed ends are shut."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import example, given
from hypothesis import strategies as st
from keras import ops

from physml import FieldSpec, FluxForm, _backend

SHAPE = (5, 6)
CHANNEL = {"lat": "closed", "lon": "periodic"}
LEVELS = (0.0, 10.0, 40.0)


def dataset(wet, seed=0, levels=False):
    """Return two tracers on cells of unlike volume, the second with a source; three levels where asked for."""
    rng = np.random.default_rng(seed)
    dims, shape = (("depth", "lat", "lon"), (3, *SHAPE)) if levels else (("lat", "lon"), SHAPE)
    ds = xr.Dataset({n: (("time", *dims), rng.random((4, *shape))) for n in ("a", "b", "s")})
    ds["wet"] = (dims if wet.ndim == len(dims) else ("lat", "lon"), wet)
    ds["volume"] = (dims, rng.uniform(1e9, 4e9, shape))
    ds = ds.where(ds.wet).assign(wet=ds.wet).assign_coords(time=xr.date_range("2000-01-01", periods=4))
    for n in ("a", "b"):
        ds[n].attrs["units"] = "kg m-3"
    ds["s"].attrs["units"] = "kg m-3 s-1"
    return ds.assign_coords(depth=list(LEVELS)) if levels else ds


def with_island():
    wet = np.ones(SHAPE, bool)
    wet[2, 2:4] = wet[0, 0] = False
    return wet


def with_sea_bed():
    depth = np.random.default_rng(5).integers(0, 4, SHAPE)
    return np.arange(3)[:, None, None] < depth


def bound(ds, boundary=CHANNEL, targets=("a", "b"), unit=None, **options):
    levels = {"levels": "depth"} if "depth" in ds.dims else {}
    layout = FieldSpec(["a", "s", "b"], list(targets), target_offsets=1, mask="wet", **levels).bind(ds)
    head = FluxForm(boundary, **options)
    head.bind(layout, unit)
    return layout, head


def inputs(layout, ds, kind="float64"):
    return np.nan_to_num(layout.pack(ds, "inputs").values[:3]).astype(kind)


def say(layout, head, size=1.0, seed=1):
    return np.random.default_rng(seed).normal(0, size, (3, *SHAPE, head.channels(layout)))


def step(head, n, x):
    with _backend.float64():
        return np.asarray(head(ops.convert_to_tensor(n), ops.convert_to_tensor(x)))


def fluxes(head, n, x):
    with _backend.float64():
        return [np.asarray(f) for f in head.fluxes(ops.convert_to_tensor(n), ops.convert_to_tensor(x))]


def state(layout, x):
    return np.concatenate([x[..., layout.where("inputs", t, 0)] for t in layout.spec.targets], axis=-1)


def volumes(layout):
    parts = [layout.static("volume", t) for t in layout.spec.targets]
    return np.where(layout.valid("targets"), np.concatenate(parts, axis=-1), 0.0)


CASES = {
    "channel": (CHANNEL, with_island(), False, None),
    "closed": ({"lat": "closed", "lon": "closed"}, with_island(), False, None),
    "doubly periodic": ({"lat": "periodic", "lon": "periodic"}, np.ones(SHAPE, bool), False, None),
    "levels": (CHANNEL, with_sea_bed(), True, None),
    "levels, vertical too": (CHANNEL, with_sea_bed(), True, "depth"),
}


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_total_and_the_content_of_every_box_change_by_what_crosses_their_faces(name, positive):
    boundary, wet, levels, vertical = CASES[name]
    ds = dataset(wet, levels=levels)
    layout, head = bound(ds, boundary, volume="volume", positive=positive, vertical=vertical)
    x, n = inputs(layout, ds), say(layout, head)
    y, volume, before = step(head, n, x), volumes(layout), state(layout, x)
    scale = (before * volume).sum((1, 2, 3))
    assert np.abs(y - before).max() > 0.1
    np.testing.assert_allclose(((y - before) * volume).sum((1, 2, 3)) / scale, 0, atol=1e-14)
    along_y, along_x, *down = fluxes(head, n, x)
    change = ((y - before) * volume)[:, 1:4, 2:5]
    came_in = along_y[:, 0, 2:5].sum(1) - along_y[:, 3, 2:5].sum(1) + along_x[:, 1:4, 1].sum(1) - along_x[:, 1:4, 4].sum(1)
    if down:  # a box of all levels: what goes down stays in it
        change, came_in = (v.reshape(*v.shape[:-1], 2, 3).sum(-1) for v in (change, came_in))
        assert np.abs(down[0]).max() > 0
    np.testing.assert_allclose(change.sum((1, 2)) / scale[:, None], came_in / scale[:, None], atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_closed_faces_carry_exactly_nothing(name):
    boundary, wet, levels, vertical = CASES[name]
    ds = dataset(wet, levels=levels)
    layout, head = bound(ds, boundary, volume="volume", vertical=vertical)
    along_y, along_x, *down = fluxes(head, say(layout, head), inputs(layout, ds))
    valid = layout.valid("targets")
    for axis, (flux, dim) in enumerate(zip((along_y, along_x), ("lat", "lon"), strict=True)):
        shut = ~(valid & np.roll(valid, -1, axis))
        if boundary[dim] == "closed":
            shut[(slice(None),) * axis + (-1,)] = True
        assert not flux[:, shut].any()
        assert (flux[:, ~shut] != 0).all()
    if down:
        shut = ~(valid & valid[..., [1, 2, 0, 4, 5, 3]])
        shut[..., [2, 5]] = True
        assert not down[0][:, shut].any()
        assert (down[0][:, ~shut] != 0).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.floats(-8, 8),
    amount=st.floats(-30, 12),
    land=st.floats(0, 0.7),
    empty=st.floats(0, 0.9),
    kind=st.sampled_from(["float32", "float64"]),
)
@example(seed=0, size=3.0, amount=0.0, land=0.2, empty=0.3, kind="float32")
def test_nothing_ever_turns_negative(seed, size, amount, land, empty, kind):
    rng = np.random.default_rng(seed)
    ds = dataset(rng.random(SHAPE) >= land, seed)
    layout, head = bound(ds, volume="volume", positive=True)
    n = say(layout, head, 10**size, seed)
    x = inputs(layout, ds, kind) * np.asarray(10**amount, kind)
    x *= rng.random(x.shape) >= empty
    for call in (step, lambda h, n, x: np.asarray(h(ops.convert_to_tensor(n), ops.convert_to_tensor(x)))):
        y = call(head, n.astype(kind), x)
        assert (y >= 0).all()
        before, after = ((f.astype("float64") * volumes(layout)).sum((1, 2)) for f in (state(layout, x), y))
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-37 * 4e9 * 30)


def test_a_cell_can_be_emptied_but_not_twice():
    ds = dataset(np.ones(SHAPE, bool))
    layout, head = bound(ds, positive=True, targets=("a",))
    x, n = inputs(layout, ds), np.zeros((3, *SHAPE, 2))
    n[:, 1, 1] = (30.0, 10.0)  # far more than it holds: three parts go up, one goes right
    y, c = step(head, n, x)[..., 0], x[..., 0]
    np.testing.assert_allclose(y[:, 1, 1], 0, atol=1e-13)
    np.testing.assert_allclose(y[:, 2, 1] - c[:, 2, 1], 0.75 * c[:, 1, 1], rtol=1e-12)
    np.testing.assert_allclose(y[:, 1, 2] - c[:, 1, 2], 0.25 * c[:, 1, 1], rtol=1e-12)


def test_fluxes_that_no_cell_lacks_are_not_limited():
    ds = dataset(with_island())
    free, limited = (bound(ds, volume="volume", positive=p)[1] for p in (False, True))
    layout, _ = bound(ds)
    x = 1.0 + inputs(layout, ds)
    n = np.clip(say(layout, free, 0.05), -0.1, 0.1)
    np.testing.assert_array_equal(step(limited, n, x), step(free, n, x))


def test_a_network_that_says_nothing_predicts_persistence():
    ds = dataset(with_island())
    layout, head = bound(ds, volume="volume", positive=True)
    x = inputs(layout, ds)
    np.testing.assert_allclose(step(head, 0 * say(layout, head), x), state(layout, x), rtol=3e-16)


def test_a_flux_of_one_moves_a_unit_of_the_mean_cell():
    ds = dataset(np.ones(SHAPE, bool))
    layout, head = bound(ds, volume="volume", unit=np.array([3.0, 7.0]))
    x, n = inputs(layout, ds), np.zeros((3, *SHAPE, 4))
    n[:, 1, 1] = 1.0
    along_y, along_x = fluxes(head, n, x)
    mean = ds.volume.values.mean()
    for flux in (along_y, along_x):
        np.testing.assert_allclose(flux[:, 1, 1], [[3 * mean, 7 * mean]] * 3, rtol=1e-14)
    y = step(head, n, x)
    np.testing.assert_allclose(
        y[:, 2, 1] - x[:, 2, 1][:, [0, 2]], [[3 * mean, 7 * mean]] * 3 / ds.volume.values[2, 1], rtol=1e-12
    )


def test_sources_are_gained_in_their_units():
    ds = dataset(with_island())
    layout, head = bound(ds, volume="volume", sources={"b": "s"}, positive=True)
    x, n = inputs(layout, ds), say(layout, head)
    y, volume, before = step(head, n, x), volumes(layout), state(layout, x)
    gained = 86400 * x[..., 1] * volume[..., 1]
    total = (y * volume).sum((1, 2))
    np.testing.assert_allclose(total[:, 0], (before * volume).sum((1, 2))[:, 0], rtol=1e-14)
    np.testing.assert_allclose(total[:, 1], (before * volume).sum((1, 2))[:, 1] + gained.sum((1, 2)), rtol=1e-14)


def test_float32_fields_lose_no_more_than_their_storage():
    ds = dataset(with_island())
    layout, head = bound(ds, volume="volume", positive=True)
    x = inputs(layout, ds, "float32")
    y = step(head, say(layout, head).astype("float32"), x)
    assert y.dtype == np.float32
    before, after = ((f.astype("float64") * volumes(layout)).sum((1, 2)) for f in (state(layout, x), y))
    np.testing.assert_allclose(after, before, rtol=6e-8)


@pytest.mark.parametrize("positive", [False, True])
def test_the_gradient_is_that_of_finite_differences(positive):
    ds = dataset(with_sea_bed(), levels=True)
    layout, head = bound(ds, volume="volume", positive=positive, vertical="depth")
    rng = np.random.default_rng(3)
    x, n = inputs(layout, ds), say(layout, head)
    weights = rng.normal(size=(3, *SHAPE, 6))
    for at, given_ in enumerate((n, x)):
        direction = rng.normal(size=given_.shape)

        def loss(v, at=at):
            args = [ops.convert_to_tensor(n), ops.convert_to_tensor(x)]
            args[at] = v
            return ops.sum(head(*args) * weights)

        _, gradient = _backend.value_and_gradient(loss, given_)
        with _backend.float64():
            ahead, behind = (float(loss(ops.convert_to_tensor(given_ + s * direction))) for s in (1e-7, -1e-7))
        want = (gradient * direction).sum()
        np.testing.assert_allclose((ahead - behind) / 2e-7, want, rtol=2e-8)
        assert np.abs(gradient).max() > 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda ds: bound(ds, {"lat": "closed"}), r"FluxForm: the boundary does not fit the grid.*each of"),
        (lambda ds: bound(ds, CHANNEL | {"latt": "closed"}), r"does not fit the grid; did you mean 'lat'"),
        (lambda ds: bound(ds, volume="vol"), r"'vol' is not in the Dataset"),
        (lambda ds: bound(ds.assign(volume=-ds.volume), volume="volume"), r"FluxForm: volume 'volume' is not positive where.*27 of 27 values"),
        (lambda ds: bound(ds, vertical="depth"), r"FluxForm: 'a' has no levels along 'depth'"),
        (lambda ds: FluxForm(CHANNEL).bind(FieldSpec("s", "a", target_offsets=1).bind(ds)), r"'a' at offset 0 is not among the inputs"),
        (lambda ds: FluxForm(CHANNEL).bind(FieldSpec("a", "a", target_offsets=(1, 2)).bind(ds)), r"FluxForm moves 'a' over one step.*roll"),
        (lambda ds: bound(ds, sources={"b": "a"}, targets=("a",)), r"'b', which is no target"),
    ],
)  # fmt: skip
def test_what_has_no_flux_form_is_refused(make, words):
    with pytest.raises((ValueError, KeyError), match=words):
        make(dataset(with_island()))


def test_sources_of_other_units_are_refused():
    ds = dataset(with_island())
    ds["s"].attrs["units"] = "m s-1"
    with pytest.raises(ValueError, match=r"source 's' .*units that do not add up"):
        bound(ds, sources={"b": "s"})
