"""Cases in which laws once went wrong: loading, arrays of one name, numbers in groups, land, levels and leads, coefficients of zero."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr
from keras import ops

import physml
from physml import (
    BlockMean,
    Bounds,
    Budget,
    Closure,
    Completion,
    Conserve,
    Constraints,
    FieldModel,
    FieldSpec,
    Monotone,
    NonNegative,
    Scaling,
    _backend,
)

N, LAT, LON = 4, 3, 6


@pytest.fixture
def ds():
    rng = np.random.default_rng(0)
    dims = ("time", "y", "x")
    out = xr.Dataset(
        {n: (dims, rng.uniform(0, 1, (N, LAT, LON))) for n in ("c", "k", "rain")}
        | {"r": ((*dims, "z"), rng.uniform(0, 1, (N, LAT, LON, 2)))}
        | {"tot": ("time", rng.uniform(4, 6, N)), "dp": (dims, rng.integers(0, 2, (N, LAT, LON)) * 1.0)},
        {"time": np.arange(N), "y": np.arange(LAT), "x": np.arange(LON), "z": [0.0, 1.0]},
    )
    wet = np.ones((LAT, LON), bool)
    wet[:, -1] = False
    out["wet"] = (("y", "x"), wet)
    out["bathy"] = (("y", "x"), rng.uniform(50, 80, (LAT, LON)))
    for n in ("w1", "w2"):
        out[n] = (("y", "x"), rng.uniform(1, 3, (LAT, LON)))
    out["basin"] = (("y", "x"), np.broadcast_to(np.array([0, 0, 1, 1, 1, 1]), (LAT, LON)))
    return out


def project(laws, layout, ds):
    y, x = (layout.pack(ds, role).fillna(0).values for role in ("targets", "inputs"))
    with _backend.float64():
        fields = [layout.split(ops.convert_to_tensor(v), r) for v, r in ((y, "targets"), (x, "inputs"))]
        return {n: np.asarray(v) for n, v in laws.project(*fields, layout).items()}


@pytest.mark.parametrize(
    "laws",
    [
        [Bounds("c", 5.0, "bathy")],
        [Conserve("c", "x", "w1"), Conserve("c", "x", "w2")],
        [Conserve("c", ("y", "x"), xr.DataArray(np.full((LAT, LON), 2.0), dims=("y", "x")))],
        [Closure("c", sources={"k": xr.DataArray(np.full((LAT, LON), 2.0), dims=("y", "x"))})],
    ],
)
def test_what_was_bound_once_is_loaded_whatever_its_fields(ds, laws, tmp_path):
    ds = ds.isel(x=slice(0, 5)) if len(laws) == 2 else ds
    scaling = Scaling.fit(ds, FieldSpec(["c", "k"], "c", target_offsets=1))
    start = keras.Input((*scaling.layout.shape, 2))
    model = FieldModel(keras.Model(start, keras.layers.Conv2D(1, 1)(start)), scaling=scaling, constraints=laws)
    model.save(tmp_path / "model.keras")
    again = physml.load(tmp_path / "model.keras")
    x = model.layout.pack(ds, "inputs").values.astype("float32")
    np.testing.assert_array_equal(again.predict_on_batch(x), model.predict_on_batch(x))
    assert list(again.constraints) == laws


def test_arrays_of_two_laws_are_not_mixed_up(ds):
    arrays = [xr.DataArray(np.full((LAT, LON), v), dims=("y", "x")) for v in (1.0, 2.0)]
    laws = Constraints([Conserve("c", ("y", "x"), arrays[0]), Conserve("c", "x", arrays[1])])
    with pytest.raises(ValueError, match=r"two laws bring different 'weights of c'"):
        laws.bind(FieldSpec(["c"], "c", target_offsets=1).bind(ds))
    assert Conserve("c", "x", arrays[0]) != Conserve("c", "x", arrays[1])
    assert Conserve("c", "x", arrays[0]) == Conserve("c", "x", arrays[0].copy())


def test_one_number_counts_once_in_every_group(ds):
    laws = Constraints(Budget({"c": 1}, equals={"tot": 1}, groups="basin"))
    layout = laws.bind(FieldSpec(["tot", "k"], "c").bind(ds))
    moved = project(laws, layout, ds)["c"][..., 0]
    for columns in (slice(0, 2), slice(2, 6)):
        np.testing.assert_allclose(moved[:, :, columns].sum((1, 2)), ds.tot, rtol=1e-12)


def test_block_means_mind_units_and_weights(ds):
    ds.c.attrs["units"], ds.k.attrs["units"] = "kg kg-1", "g kg-1"
    with pytest.raises(
        ValueError, match=r"BlockMean\('c'\): the coarse field is in other units.*'kg kg-1' for 'k'.*'g kg-1'"
    ):
        Constraints(BlockMean("c", "k", {"x": 2})).bind(FieldSpec("k", "c").bind(ds))
    with pytest.raises(ValueError, match=r"BlockMean\('c'\): the weights differ between samples"):
        Constraints(BlockMean("c", "rain", {"x": 2}, "dp")).bind(FieldSpec(["rain", "dp"], "c").bind(ds.drop_attrs()))


def test_bounds_on_land_do_not_reach_the_sea(ds):
    ds["cap"] = xr.where(ds.wet, 10.0, np.nan) + 0 * ds.c
    laws = Constraints([Monotone("c", "x"), Bounds("c", upper="cap")])
    moved = laws.apply(ds[["c", "wet"]], ds[["cap", "wet"]], mask="wet").c.where(ds.wet)
    alone = Constraints(Monotone("c", "x")).apply(ds[["c", "wet"]], mask="wet").c.where(ds.wet)
    np.testing.assert_allclose(moved, alone, atol=1e-14)
    assert (moved.diff("x") >= 0).where(ds.wet[:, 1:]).fillna(1).all()


def test_bounds_act_on_levels_and_leads_alike(ds):
    laws = Constraints(NonNegative("r"))
    spec = FieldSpec("k", "r", levels="z", target_offsets=(1, 2))
    layout = laws.bind(spec.bind(ds))
    y = np.random.default_rng(0).normal(size=(2, LAT, LON, 4)).astype("float32")
    moved = laws.project({"r": ops.convert_to_tensor(y)}, {}, layout)["r"]
    np.testing.assert_array_equal(np.asarray(moved), np.maximum(y, 0))


def test_land_breaks_no_bound(ds):
    ds["c"] = (ds.c + 35).where(ds.wet)
    laws = Constraints(Bounds("c", 30, 40))
    found = laws.check(ds, FieldSpec("c", "c", target_offsets=1, mask="wet"))
    assert float(found.bounds_c.max()) == 0


def test_a_completion_does_not_overrule_bounds_in_silence(ds):
    for other in (Bounds("c", upper="k"), NonNegative("k")):
        laws = Constraints([Completion(Budget({"c": 1, "k": 1}, equals=1.0), "c"), other])
        with pytest.raises(ValueError, match=r"cannot move '[ck]', which Completion 'c_k' leaves as it is"):
            laws.bind(FieldSpec("rain", ["c", "k"]).bind(ds))


def test_reports_are_made_where_laws_cannot_be_met_and_with_a_metric_of_one_variable(ds):
    laws = Constraints([NonNegative("c"), Conserve("k", "x", equals=-1.0), NonNegative("k")], metric={"k": 2.0})
    found = laws.report(ds[["c", "k"]])
    assert float(found.conserve_k_after.max()) > 0.1
    assert "moved_c_by_nonnegative_c" in found
    with pytest.raises(ValueError, match="conserve_k cannot be satisfied"):
        laws.apply(ds[["c", "k"]])


def test_nan_on_land_does_not_reach_a_plain_model(ds):
    layout = FieldSpec("c", "c", target_offsets=1, mask="wet").bind(ds)
    layer = Constraints(Conserve("c", "x")).layer(layout)
    x = layout.pack(ds.where(ds.wet), "inputs").values.astype("float32")
    y = np.asarray(layer(np.ones_like(x), x))
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y[:, :, :5].sum(2), np.nansum(x, 2), rtol=1e-6)


def test_a_coefficient_of_zero_has_its_gradient(ds):
    law = Budget({"c": 1}, "x", "dp")
    layout = Constraints(law).bind(FieldSpec("dp", "c").bind(ds))
    y, x = (layout.pack(ds, role).values for role in ("targets", "inputs"))

    def value(dp):
        return ops.sum(law.residual({"c": ops.convert_to_tensor(y)}, {"dp": dp}, layout))

    with _backend.float64():
        _, gradient = _backend.value_and_gradient(value, x)
    np.testing.assert_allclose(gradient, y, rtol=1e-12)
    assert (x == 0).any()


def test_a_bound_where_two_variables_lie_has_both_their_gradients(ds):
    laws = Constraints([Bounds("c", lower="rain"), Bounds("k", lower="c")])
    layout = laws.bind(FieldSpec("rain", ["c", "k"]).bind(ds))
    y = -np.ones((1, LAT, LON, 1))

    def value(low):
        moved = laws.project({n: ops.convert_to_tensor(y) for n in ("c", "k")}, {"rain": low}, layout)
        return ops.sum(moved["c"] + moved["k"])

    with _backend.float64():
        _, gradient = _backend.value_and_gradient(value, np.full((1, LAT, LON, 1), 0.5))
    np.testing.assert_allclose(gradient, 2.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda ds: Constraints.from_config([{"type": "Conserve", "name": "c", "ovr": "x"}]), r"Conserve takes no argument 'ovr'; did you mean 'over'"),
        (lambda ds: Constraints.from_config([{"type": "Conserve", "name": "c"}]), r"Conserve lacks the argument 'over'"),
        (lambda ds: Constraints(Budget(["c"], groups="none")).bind(FieldSpec("k", "c").bind(ds)), r"the groups 'none' hold no group"),
        (
            lambda ds: Constraints(Budget(["c"], weights="r")).bind(FieldSpec(["k", "r"], "c", levels="z").bind(ds)),
            r"the coefficient of 'c' has levels that the term lacks. Expected: 1 levels, or none. Received: 2",
        ),
        (
            lambda ds: Constraints(Completion(Budget(["c", "k"], "x"), "c", level=9)).bind(FieldSpec("rain", ["c", "k"]).bind(ds.drop_vars("x"))),
            r"does not know which value of 'c' along 'x'.*\[0, 1, 2, 3, 4, 5\]",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(ds, make, words):
    ds["none"] = ds.basin * np.nan
    with pytest.raises(ValueError, match=words):
        make(ds)


def test_a_field_without_time_bounds_without_being_moved(ds):
    outputs = ds[["c", "bathy"]].assign(bathy=ds.bathy / 160)
    moved = Constraints(Bounds("c", upper="bathy")).apply(outputs)
    np.testing.assert_allclose(moved.c, np.minimum(ds.c, outputs.bathy))
    xr.testing.assert_identical(moved.bathy, outputs.bathy)
