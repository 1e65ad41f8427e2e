"""Transport along levels too: content goes up and down between neighbours, never below the sea bed, all tracers alike."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr
from keras import ops

import physml
from physml import FieldModel, FieldSpec, Transport, _backend

SHAPE = (5, 6)
DEPTH = [0.0, 10.0, 40.0, 100.0]
BOUNDARY = {"lat": "closed", "lon": "periodic"}


@pytest.fixture
def ocean():
    """Two tracers on four levels of unlike volume above an uneven sea bed, with species on a dimension of their own."""
    rng = np.random.default_rng(0)
    wet = np.arange(4)[:, None, None] < rng.integers(0, 5, SHAPE)
    names = ("a", "b", "u")
    ds = xr.Dataset({n: (("time", "depth", "lat", "lon"), rng.random((5, 4, *SHAPE)).astype("float32")) for n in names})
    ds["s"] = (("time", "species", "depth", "lat", "lon"), rng.random((5, 2, 4, *SHAPE)).astype("float32"))
    ds["wet"] = (("depth", "lat", "lon"), wet)
    ds["volume"] = (("depth", "lat", "lon"), np.where(wet, rng.uniform(1e9, 4e9, (4, *SHAPE)), np.nan))
    return ds.where(ds.wet).assign(wet=ds.wet).assign_coords(time=np.arange(5), depth=DEPTH, species=["n", "p"])


def layout_of(ocean, targets=("a", "b"), levels=("species", "depth")):
    return FieldSpec(["a", "u", "b", "s"], list(targets), target_offsets=1, mask="wet",
                     levels=dict.fromkeys(levels)).bind(ocean)  # fmt: skip


def bound(layout, size=3, boundary=BOUNDARY, vertical=None, **options):
    head = Transport(size, boundary, vertical={"depth": 3} if vertical is None else vertical, **options)
    head.bind(layout)
    return head


def inputs(layout, ocean):
    return np.nan_to_num(layout.pack(ocean, "inputs").values[:3]).astype("float32")


def by_name(layout, y, name, role="targets"):
    """Return ``[batch, *space, *levels]`` of one variable."""
    where = layout.where(role, name, 1 if role == "targets" else 0)
    return y[..., where].reshape(*y.shape[:-1], *(len(v) for v in layout.variables[name].levels.values()))


def say(head, layout, seed=1, size=3.0):
    return np.random.default_rng(seed).normal(0, size, (3, *SHAPE, head.channels(layout))).astype("float32")


def moved(head, n, x):
    return np.asarray(head(ops.convert_to_tensor(n), ops.convert_to_tensor(x)))


@pytest.mark.parametrize("targets", [("a",), ("a", "b"), ("s", "b"), ("s",)])
@pytest.mark.parametrize(("balance", "levels"), [(0, ("species", "depth")), (2, ("depth", "species"))])
def test_nothing_is_lost_turns_negative_or_sinks_into_the_sea_bed(ocean, targets, balance, levels):
    layout = layout_of(ocean, targets, levels)
    head = bound(layout, volume="volume", balance=balance)
    assert head.channels(layout) == 4 * 27
    x = inputs(layout, ocean)
    y = moved(head, say(head, layout), x)
    volume = np.moveaxis(np.nan_to_num(ocean.volume.values), 0, -1)
    wet = np.moveaxis(ocean.wet.values, 0, -1)
    assert y.min() >= 0
    for name in targets:
        before, after = (by_name(layout, f, name, r).astype("float64") for f, r in ((x, "inputs"), (y, "targets")))
        axis = 1 + 2 + list(layout.variables[name].levels).index("depth")
        before, after = (np.moveaxis(f, axis, 3).reshape(3, *SHAPE, 4, -1) for f in (before, after))
        assert not after[:, ~wet].any()
        totals = [(f * volume[..., None]).sum((1, 2, 3)) for f in (before, after)]
        np.testing.assert_allclose(totals[1], totals[0], rtol=1e-7)
        assert np.abs(after - before).max() > 0.05


@pytest.mark.parametrize("step", [1, -1])
def test_a_shift_by_a_level_is_exact_and_none_leaves_the_column(ocean, step):
    whole = ocean.assign(wet=ocean.wet | True).fillna(0.5)
    layout = layout_of(whole, ["s"])
    head = bound(layout)
    n = np.zeros((3, *SHAPE, 4, 27), "float32")
    n[..., head._moves.index((0, 0, step))], n[..., head._moves.index((0, 0, 0))] = 300, 150
    x = inputs(layout, whole)
    before, after = by_name(layout, x, "s", "inputs"), by_name(layout, moved(head, n.reshape(3, *SHAPE, -1), x), "s")
    ends = (3, 2, 0) if step > 0 else (0, 1, 3)  # what has nowhere to go stays
    np.testing.assert_array_equal(after[..., 1:3], before[..., 0:2] if step > 0 else before[..., 2:4])
    np.testing.assert_allclose(after[..., ends[0]], before[..., ends[0]] + before[..., ends[1]], rtol=1e-6)
    assert not after[..., ends[2]].any()
    np.testing.assert_allclose(after.sum((1, 2, 4)), before.sum((1, 2, 4)), rtol=1e-6)


def test_all_tracers_and_species_are_moved_by_the_same_shares(ocean):
    layout = layout_of(ocean, ("a", "s", "b"))
    head = bound(layout, volume="volume")
    x = inputs(layout, ocean)
    for name in ("a", "b", "s"):
        x[..., layout.where("inputs", name)] = np.tile(x[..., layout.where("inputs", "a")], 2 if name == "s" else 1)
    n = say(head, layout)
    y = moved(head, n, x)
    np.testing.assert_array_equal(by_name(layout, y, "a"), by_name(layout, y, "b"))
    for species in range(2):
        np.testing.assert_array_equal(by_name(layout, y, "s")[..., species, :], by_name(layout, y, "a"))


def test_without_vertical_every_level_keeps_its_content(ocean):
    flat = ocean.assign(wet=ocean.wet.isel(depth=0, drop=True)).drop_vars("volume").fillna(0.5)
    layout = layout_of(flat, ["a"])
    head = Transport(3, BOUNDARY)
    head.bind(layout)
    assert head.channels(layout) == 9
    x = inputs(layout, flat) * layout.valid("inputs")
    y = moved(head, say(head, layout), x.astype("float32"))
    np.testing.assert_allclose(y.sum((1, 2)), x[..., layout.where("inputs", "a")].sum((1, 2)), rtol=1e-6)
    assert np.abs(y - x[..., layout.where("inputs", "a")]).max() > 0.05


def test_the_gradient_is_that_of_finite_differences(ocean):
    layout = layout_of(ocean, ["a", "s"])
    head = bound(layout, volume="volume", balance=1)
    rng = np.random.default_rng(4)
    x, n = inputs(layout, ocean), say(head, layout, size=1.0)
    weights = rng.normal(size=(3, *SHAPE, 12)).astype("float32")
    direction = rng.normal(size=x.shape)

    def loss(x):
        return ops.sum(ops.cast(head(ops.convert_to_tensor(n), x), "float64") * weights)

    x = x.astype("float64")
    _, gradient = _backend.value_and_gradient(loss, x)
    with _backend.float64():
        ahead, behind = (float(loss(ops.convert_to_tensor(x + s * direction))) for s in (0.1, -0.1))
    np.testing.assert_allclose((gradient * direction).sum(), (ahead - behind) / 0.2, rtol=1e-8)


def test_a_model_with_levels_is_whole_in_its_file_and_compiles(ocean, tmp_path):
    layout = layout_of(ocean, ["a", "s"])
    head = Transport(3, BOUNDARY, volume="volume", vertical={"depth": 3})
    start = keras.Input((*SHAPE, len(layout.inputs)))
    out = keras.layers.Dense(head.channels(layout), dtype="mixed_float16")(start)
    model = FieldModel(keras.Model(start, out), layout, head=head)
    x = inputs(layout, ocean)
    plain = np.asarray(model(ops.convert_to_tensor(x)))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(physml.load(tmp_path / "model.keras")(ops.convert_to_tensor(x))), plain)
    model.compile(jit_compile=True)
    np.testing.assert_allclose(model.predict_on_batch(x), plain, rtol=2e-3, atol=1e-4)
    assert physml.load(tmp_path / "model.keras").head.vertical == {"depth": 3}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda ds: Transport(3, BOUNDARY, vertical={"depth": 2}), r"size is no neighbourhood.*Received: 2"),
        (lambda ds: Transport(3, BOUNDARY, vertical={"depth": 3, "species": 3}), r"vertical names several dimensions"),
        (lambda ds: bound(layout_of(ds), vertical={"dept": 3}), r"'a' does not have the levels that are moved along 'dept'; did you mean 'depth'"),
        (lambda ds: bound(layout_of(ds), vertical={"dept": 3}).channels, r"'a' does not have the levels"),
        (lambda ds: bound(layout_of(ds.assign(b=ds.b.isel(depth=0)))), r"'b' does not have the levels.*Received: no levels"),
        (lambda ds: bound(layout_of(ds, ("s",)), vertical={"species": 3}), r"needs one mask for all targets"),
    ],
)  # fmt: skip
def test_levels_that_cannot_be_moved_along_are_refused(ocean, make, words):
    with pytest.raises(ValueError, match=words):
        make(ocean)


def test_a_configuration_without_vertical_is_that_of_before():
    old = {"size": 3, "boundary": BOUNDARY, "volume": None, "stay": 4.0, "balance": 0, "linear": False}
    head = Transport.from_config(old)
    assert head.get_config() == old | {"vertical": None}
