"""Transport only moves: nothing is lost, nothing turns negative, nothing goes on land or over a closed edge."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import xarray as xr
from keras import ops

from physml import FieldModel, FieldSpec, Layout, Transport, _backend

SHAPE = (6, 8)
BOUNDARY = {"lat": "closed", "lon": "periodic"}


@pytest.fixture
def ocean():
    """Two tracers and a velocity on 6 x 8 cells of unlike volume with an island."""
    rng = np.random.default_rng(0)
    wet = np.ones(SHAPE, bool)
    wet[2:4, 3] = False
    names = ("a", "b", "u")
    ds = xr.Dataset({n: (("time", "lat", "lon"), rng.random((5, *SHAPE)).astype("float32")) for n in names})
    ds["wet"] = (("lat", "lon"), wet)
    ds["volume"] = (("lat", "lon"), np.where(wet, rng.uniform(1e9, 4e9, SHAPE), np.nan))
    return ds.where(ds.wet).assign(wet=ds.wet).assign_coords(time=np.arange(5))


def layout_of(ocean, targets=("a", "b"), **options):
    return FieldSpec(["a", "u", "b"], list(targets), target_offsets=1, mask="wet", **options).bind(ocean)


def bound(layout, size=3, boundary=BOUNDARY, **options):
    head = Transport(size, boundary, **options)
    head.bind(layout)
    return head


def moved(head, logits, x):
    return np.asarray(head(ops.convert_to_tensor(logits), ops.convert_to_tensor(x)))


def inputs(layout, ocean):
    return np.nan_to_num(layout.pack(ocean, "inputs").values[:3]).astype("float32")


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("balance", [0, 2])
@pytest.mark.parametrize("boundary", ["closed", "periodic"])
def test_nothing_is_lost_and_nothing_turns_negative(ocean, size, balance, boundary):
    layout = layout_of(ocean)
    head = bound(layout, size, {"lat": "closed", "lon": boundary}, volume="volume", balance=balance)
    x = inputs(layout, ocean)
    logits = np.random.default_rng(1).normal(0, 5, (3, *SHAPE, head.channels(layout))).astype("float32")
    y = moved(head, logits, x)
    volume = np.nan_to_num(ocean.volume.values)[..., None]
    before, after = ((f.astype("float64") * volume).sum((1, 2)) for f in (x[..., [0, 2]], y))
    np.testing.assert_allclose(after, before, rtol=1e-7)
    assert y.dtype == np.float32
    assert y.min() >= 0
    assert (y[:, ~ocean.wet.values] == 0).all()
    assert np.abs(y - x[..., [0, 2]]).max() > 0.05


@pytest.mark.parametrize(
    ("lat", "lon", "reached"),
    [
        (0, 0, {(r, c % 8) for r in (0, 1) for c in (-1, 0, 1)}),  # over the periodic seam, not over the closed edge
        (5, 7, {(r, c % 8) for r in (4, 5) for c in (6, 7, 8)}),
        (2, 2, {(r, c) for r in (1, 2, 3) for c in (1, 2, 3)} - {(2, 3), (3, 3)}),  # not onto the island
    ],
)
def test_content_goes_to_the_valid_neighbours_alone(ocean, lat, lon, reached):
    layout = layout_of(ocean, ["a"])
    head = bound(layout, volume="volume")
    x = np.zeros((1, *SHAPE, 3), "float32")
    x[0, lat, lon] = 1
    y = moved(head, np.zeros((1, *SHAPE, 9), "float32"), x)[0, ..., 0]
    assert {tuple(int(i) for i in at) for at in np.argwhere(y > 0)} == reached


@pytest.mark.parametrize("step", [(0, 1), (0, -1), (0, 2), (0, -2)])
def test_a_shift_by_whole_cells_is_exact_over_the_periodic_seam(ocean, step):
    layout = layout_of(ocean.assign(wet=ocean.wet | True), ["b"])
    head = bound(layout, 5)
    logits = np.zeros((3, *SHAPE, 25), "float32")
    logits[..., head._moves.index(step)] = 200
    x = inputs(layout, ocean)
    np.testing.assert_array_equal(moved(head, logits, x)[..., 0], np.roll(x[..., 2], step, (1, 2)))


def test_a_shift_changes_concentration_by_the_volumes(ocean):
    layout = layout_of(ocean, ["a"])
    head = bound(layout, volume="volume")
    logits = np.zeros((3, *SHAPE, 9), "float32")
    logits[..., head._moves.index((1, 0))] = 200
    x = inputs(layout, ocean)
    y = moved(head, logits, x)[..., 0]
    volume = ocean.volume.values
    np.testing.assert_allclose(y[:, 2, 0], x[:, 1, 0, 0] * volume[1, 0] / volume[2, 0], rtol=1e-6)


def test_an_untrained_head_is_close_to_persistence(ocean):
    layout = layout_of(ocean, ["a"])
    x = inputs(layout, ocean)
    for stay, tolerance in ((4.0, 0.2), (30.0, 1e-6)):
        y = moved(bound(layout, stay=stay), np.zeros((3, *SHAPE, 9), "float32"), x)
        assert np.abs(y[..., 0] - x[..., 0]).max() < tolerance


def test_the_step_is_linear_in_what_is_moved(ocean):
    layout = layout_of(ocean)
    head = bound(layout, volume="volume")
    logits = np.random.default_rng(2).normal(size=(3, *SHAPE, 9)).astype("float32")
    x = inputs(layout, ocean)
    other = x[::-1].copy()
    both = moved(head, logits, 2 * x + 3 * other)
    np.testing.assert_allclose(both, 2 * moved(head, logits, x) + 3 * moved(head, logits, other), rtol=1e-5, atol=1e-6)


def test_balancing_keeps_a_constant_nearly_constant(ocean):
    layout = layout_of(ocean, ["a"])
    logits = np.random.default_rng(3).normal(0, 2, (1, *SHAPE, 9)).astype("float32")
    x = np.ones((1, *SHAPE, 3), "float32") * ocean.wet.values[..., None]
    away = []
    for balance in (0, 2, 8, 32):
        y = moved(bound(layout, volume="volume", balance=balance), logits, x)[0, ..., 0]
        away.append(np.abs(y - 1)[ocean.wet.values].max())
    assert all(later < earlier for earlier, later in itertools.pairwise(away))
    assert away[-1] < 0.05 * away[0]


@pytest.mark.parametrize("shape", [(1, 8), (2, 3), (3, 1)])
def test_a_grid_narrower_than_the_neighbourhood(shape):
    x = np.random.default_rng(0).random((4, *shape)).astype("float32")
    ds = xr.Dataset({"a": (("time", "lat", "lon"), x)}, {"time": np.arange(4)})
    layout = FieldSpec("a", "a", target_offsets=1).bind(ds)
    for boundary in (BOUNDARY, {"lat": "closed", "lon": "closed"}):
        head = bound(layout, 5, boundary)
        y = moved(head, np.random.default_rng(1).normal(size=(4, *shape, 25)).astype("float32"), x[..., None])
        assert y.shape == (4, *shape, 1)
        np.testing.assert_allclose(y.sum((1, 2, 3)), x.sum((1, 2)), rtol=1e-6)


def test_the_gradient_is_that_of_finite_differences(ocean):
    layout = layout_of(ocean, ["a"])
    head = bound(layout, volume="volume", balance=1)
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(3, *SHAPE, 9)).astype("float32")
    x, weights = inputs(layout, ocean), rng.normal(size=(3, *SHAPE, 1)).astype("float32")
    direction = rng.normal(size=logits.shape).astype("float32")

    def loss(logits):
        return ops.sum(head(logits, ops.convert_to_tensor(x)) * weights)

    _, gradient = _backend.value_and_gradient(loss, logits)
    ahead, behind = (float(loss(ops.convert_to_tensor(logits + s * direction))) for s in (0.01, -0.01))
    np.testing.assert_allclose((gradient * direction).sum(), (ahead - behind) / 0.02, rtol=1e-2)
    assert (np.abs(gradient).sum(-1)[:, ocean.wet.values] > 0).all()


def test_one_head_serves_models_of_two_grids(ocean):
    head = Transport(3, BOUNDARY)
    models = []
    for part in (ocean, ocean.isel(lat=slice(0, 4), lon=slice(2, 8))):
        layout = layout_of(part, ["a"])
        start = keras.Input((*layout.shape, 3))
        models.append((part, FieldModel(keras.Model(start, keras.layers.Dense(9)(start)), layout, head=head)))
    for part, model in models:
        y = model.predict_on_batch(inputs(model.layout, part))
        assert y.shape[1:3] == model.layout.shape
        assert not y[:, ~part.wet.values].any()


def test_the_network_does_not_see_what_moves_when_linear(ocean):
    layout = layout_of(ocean)
    assert bound(layout, linear=True).seen.tolist() == [0, 1, 0]
    assert bound(layout).seen.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda ds: Transport(4, BOUNDARY), r"size is no neighbourhood. Expected: 3, 5, 7.*Received: 4"),
        (lambda ds: bound(layout_of(ds), boundary={"lat": "closed"}), r"the boundary does not fit the grid.*each of"),
        (lambda ds: bound(layout_of(ds), boundary=BOUNDARY | {"lo": "closed"}), r"does not fit the grid; did you mean 'lon'"),
        (lambda ds: bound(layout_of(ds), boundary=BOUNDARY | {"lat": "open"}), r"'periodic' or 'closed' for each"),
        (lambda ds: bound(FieldSpec("u", "a", target_offsets=1).bind(ds)), r"'a' at offset 0 is not among the inputs"),
        (lambda ds: bound(FieldSpec("a", "a", target_offsets=(1, 2)).bind(ds)), r"moves 'a' over one step.*roll"),
        (lambda ds: bound(layout_of(ds.assign(volume=-ds.volume)), volume="volume"), r"volume 'volume' is not positive.*46 cells"),
        (lambda ds: bound(FieldSpec("a", "a", mask="wet").bind(ds), linear=True), r"the network sees nothing.*linear=False"),
    ],
)  # fmt: skip
def test_what_cannot_be_transported_is_refused(ocean, make, words):
    with pytest.raises((ValueError, KeyError), match=words):
        make(ocean)


def test_a_mask_that_differs_between_levels_is_refused(ocean):
    deep = ocean.expand_dims(lev=[0, 1]).transpose("time", "lev", "lat", "lon")
    deep["wet"] = deep.wet.isel(time=0, missing_dims="ignore") & ((deep.lev == 0) | (deep.lat > 2))
    spec = FieldSpec(["a", "u"], "a", target_offsets=1, mask="wet", levels="lev")
    with pytest.raises(ValueError, match=r"needs one mask for all targets.*\[46, .*valid cells by channel"):
        bound(spec.bind(deep))


def test_the_shares_are_named_by_displacement(ocean):
    layout = layout_of(ocean, ["a"])
    head = bound(layout)
    shares = head.shares(ops.zeros((1, *SHAPE, 9)))
    assert len(shares) == len(head._moves) == 9
    np.testing.assert_allclose(sum(np.asarray(s, "float64") for s in shares)[0, ..., 0], 1, rtol=1e-6)
    assert Layout.from_config(layout.to_config(), layout.arrays()).shape == SHAPE
