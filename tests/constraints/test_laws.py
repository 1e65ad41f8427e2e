"""Budgets hold over the dimensions named, for every group, level, lead and sample, with sources in their units."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr
from keras import ops

from physml import Conserve, Constraints, FieldSpec, NonNegative


@pytest.fixture
def sea(sst):
    """Return temperatures above zero on two levels, with the lower level closed north of the equator, volumes, and rain."""
    rng = np.random.default_rng(1)
    sst["wet"] = sst.wet & ((sst.depth < 10) | (sst.lat < 30))
    sst["temp"] = sst.temp.where(sst.wet)
    sst["rain"] = xr.zeros_like(sst.temp) + rng.random(sst.temp.shape).astype("float32")
    sst["volume"] = (("depth", "lat", "lon"), rng.uniform(1, 3, (2, 4, 6)), {"units": "m3"})
    sst["rain"].attrs["units"] = "degC"
    sst["temp"].attrs["units"] = "degC"
    return sst.drop_vars("salt")


def tensors(layout, ds, seed=0):
    """Return inputs, and outputs of a poor network, by variable."""
    x = layout.pack(ds, "inputs").isel(time=slice(0, 3)).fillna(0).values.astype("float32")
    noise = np.random.default_rng(seed).normal(5, 8, (3, *layout.shape, len(layout.targets))).astype("float32")
    return layout.split(noise * layout.valid("targets"), "targets"), layout.split(x, "inputs")


def as_dataset(layout, y):
    """Return the output of one variable as an array with named dimensions."""
    y = np.asarray(y["temp"], "float64").reshape(3, *layout.shape, -1, 2)
    return xr.DataArray(y, dims=("time", "lat", "lon", "lead", "depth"))


@pytest.mark.parametrize("over", [("lat", "lon"), ("lon",), ("depth",), ("lat", "lon", "depth"), ("depth", "lat")])
@pytest.mark.parametrize("leads", [(1,), (1, 3)])
@pytest.mark.parametrize("positive", [False, True])
def test_a_budget_holds_in_every_group_level_and_lead(sea, over, leads, positive):
    spec = FieldSpec("temp", "temp", target_offsets=leads, levels="depth", mask="wet")
    law = Conserve("temp", over, "volume")
    laws = Constraints([law, NonNegative("temp")] if positive else [law])
    layout = laws.bind(spec.bind(sea))
    outputs, inputs = tensors(layout, sea)
    moved = laws.project(outputs, inputs, layout)
    before, after = as_dataset(layout, outputs), as_dataset(layout, moved)
    bare = sea.isel(time=slice(0, 3)).drop_vars(list(sea.coords))
    weights = bare.volume * bare.wet
    state = bare.temp.fillna(0).astype("float64")
    want = (weights * state).sum(over)
    got = (weights * after).sum(over)
    xr.testing.assert_allclose(got, want.broadcast_like(got).transpose(*got.dims), rtol=3e-7)
    if positive:
        assert after.min() >= 0
        assert (before < 0).any()
    else:  # the nearest field in the volume integral: all cells of a group move alike
        step = (after - before).where(bare.wet)
        assert float((step.max(over) - step.min(over)).max()) < 1e-5
    np.testing.assert_array_equal(after.where(weights == 0, 0), before.where(weights == 0, 0))
    residual = np.asarray(law.residual(outputs, inputs, layout))
    by_hand = ((weights * before).sum(over) - want) / xr.where(want > 0, want, 1)
    rest = [d for d in ("lat", "lon", "depth") if d not in over]
    by_hand = by_hand.transpose("time", "lead", *rest).values.reshape(residual.shape)
    np.testing.assert_allclose(residual, by_hand, rtol=2e-6, atol=1e-7)
    assert np.abs(np.asarray(law.residual(moved, inputs, layout))).max() < 3e-7


@pytest.mark.parametrize(
    ("units", "factor"), [("degC", 1.0), ("K", 1.0), ("degC s-1", 86400.0), ("K d-1", 1.0), ("mK h-1", 24e-3)]
)
@pytest.mark.parametrize("lead", [1, 2])
def test_sources_count_in_their_units(sea, units, factor, lead):
    sea = sea.assign_coords(time=xr.date_range("2000-01-01", periods=24))
    sea["rain"].attrs["units"] = units
    spec = FieldSpec(["temp", "rain"], "temp", target_offsets=lead, levels="depth", mask="wet")
    law = Conserve("temp", ("lat", "lon", "depth"), "volume", sources="rain")
    layout = Constraints(law).bind(spec.bind(sea))
    outputs, inputs = tensors(layout, sea)
    after = as_dataset(layout, law.project(outputs, inputs, layout))
    first = sea.isel(time=slice(0, 3)).drop_vars(list(sea.coords))
    gain = factor * (1 if units in ("degC", "K") else lead)
    want = (first.volume * first.wet * (first.temp.fillna(0).astype("float64") + gain * first.rain)).sum(
        ["lat", "lon", "depth"]
    )
    got = (first.volume * first.wet * after).sum(["lat", "lon", "depth", "lead"])
    np.testing.assert_allclose(got, want, rtol=1e-7)


def test_a_source_without_levels_counts_on_every_level(sea):
    sea["rain"] = sea.rain.isel(depth=0, drop=True)
    spec = FieldSpec(["temp", "rain"], "temp", target_offsets=1, levels="depth", mask="wet")
    law = Conserve("temp", "depth", sources="rain")
    layout = Constraints(law).bind(spec.bind(sea))
    outputs, inputs = tensors(layout, sea)
    after = as_dataset(layout, law.project(outputs, inputs, layout)).isel(lead=0)
    first = sea.isel(time=slice(0, 3)).drop_vars(list(sea.coords))
    want = ((first.temp.fillna(0) + first.rain) * first.wet).sum("depth")
    xr.testing.assert_allclose((after * first.wet).sum("depth"), want.transpose(*after.isel(depth=0).dims), rtol=1e-5)


def test_a_given_total_needs_no_input(sea):
    spec = FieldSpec("rain", "temp", target_offsets=1, levels="depth", mask="wet")
    law = Conserve("temp", ("lat", "lon", "depth"), equals=1000.0)
    layout = Constraints(law).bind(spec.bind(sea))
    outputs, inputs = tensors(layout, sea)
    total = as_dataset(layout, law.project(outputs, inputs, layout)).sum(["lat", "lon", "depth", "lead"])
    np.testing.assert_allclose(total, 1000, rtol=1e-7)
    assert law.needs() == ()


def test_rows_without_a_valid_cell_have_no_law_and_stay_finite(sea):
    sea["wet"] = sea.wet & (sea.lat > -20)
    sea["temp"] = sea.temp.where(sea.wet)
    laws = Constraints([Conserve("temp", "lon"), NonNegative("temp")])
    layout = laws.bind(FieldSpec("temp", "temp", target_offsets=1, levels="depth", mask="wet").bind(sea))
    outputs, inputs = tensors(layout, sea)
    for name, residual in laws.residuals(laws.project(outputs, inputs, layout), inputs, layout).items():
        assert np.abs(np.asarray(residual)).max() < 3e-7, name
    fixed = Constraints([Conserve("temp", "lon", equals=7.0)])
    residual = fixed.residuals(fixed.project(outputs, inputs, layout), inputs, layout)["conserve_temp"]
    assert np.abs(np.asarray(residual)).max() < 1e-6


def test_soft_loss_and_metric_follow_from_the_residuals(sea):
    laws = Constraints([NonNegative("temp"), Conserve("temp", ("lat", "lon"), "volume")])
    layout = laws.bind(FieldSpec("temp", "temp", target_offsets=1, levels="depth", mask="wet").bind(sea))
    outputs, inputs = tensors(layout, sea)
    found = {k: np.asarray(v) for k, v in laws.residuals(outputs, inputs, layout).items()}
    np.testing.assert_array_equal(found["nonnegative_temp"], np.minimum(outputs["temp"], 0))
    penalty = sum((v.astype("float64") ** 2).mean() for v in found.values())
    np.testing.assert_allclose(float(laws.loss(outputs, inputs, layout)), penalty, rtol=1e-5)
    metrics = laws.metric(outputs, inputs, layout)
    assert float(metrics["nonnegative_temp"]) == -outputs["temp"].min()
    moved = laws.project(outputs, inputs, layout)
    assert float(laws.loss(moved, inputs, layout)) < 1e-12


def test_the_gradient_of_the_penalty_is_that_of_finite_differences(sea):
    laws = Constraints([NonNegative("temp"), Conserve("temp", ("lat", "lon"), "volume")])
    layout = laws.bind(FieldSpec("temp", "temp", target_offsets=1, levels="depth", mask="wet").bind(sea))
    outputs, inputs = tensors(layout, sea)
    from physml import _backend

    def penalty(y):
        return laws.loss({"temp": y}, inputs, layout)

    _, gradient = _backend.value_and_gradient(penalty, outputs["temp"])
    direction = np.random.default_rng(2).normal(size=outputs["temp"].shape).astype("float32")
    ahead, behind = (float(penalty(ops.convert_to_tensor(outputs["temp"] + s * direction))) for s in (0.05, -0.05))
    np.testing.assert_allclose((gradient * direction).sum(), (ahead - behind) / 0.1, rtol=2e-2)


def test_laws_survive_their_config():
    laws = Constraints(
        [NonNegative("a"), Conserve("a", ("x", "y"), "volume", sources="s"), Conserve("b", "x", equals=3)]
    )
    again = Constraints.from_config(laws.to_config())
    assert list(again) == list(laws)
    assert repr(again) == repr(laws)
    assert hash(next(iter(again))) == hash(NonNegative("a"))


def test_weights_may_be_an_array_of_their_own(sea):
    own = sea.volume.rename("other").copy()
    spec = FieldSpec("temp", "temp", target_offsets=1, levels={"depth": [50.0]}, mask="wet")
    laws = Constraints(Conserve("temp", ("lat", "lon"), own))
    layout = laws.bind(spec.bind(sea))
    expected = (own.sel(depth=50) * sea.wet.sel(depth=50)).transpose("lat", "lon")
    np.testing.assert_array_equal(laws.laws[0].weight_field(layout)[..., 0], expected)
    with pytest.raises(ValueError, match=r"two laws bring different 'weights of temp'.*pass weights='name'"):
        Constraints(Conserve("temp", ("lat", "lon"), own * 2)).bind(layout)


@pytest.mark.parametrize(
    ("laws", "words"),
    [
        ([Conserve("tepm", "lat")], r"Conserve acts on 'tepm', which is no target; did you mean 'temp'\?"),
        ([NonNegative("rain")], r"NonNegative acts on 'rain', which is no target.*add it to the targets"),
        ([Conserve("temp", "lev")], r"sums over \['lev'\], which the field does not have.*'lat', 'lon', 'depth'"),
        (
            [Conserve("temp", "lat"), Conserve("temp", "lat", equals=3)],
            r"the law .*equals=3.*follows from.*drop one of them",
        ),
        (
            [Conserve("temp", "lat", "minus")],
            r"weights 'minus' of Conserve\('temp'\) are no weights.*of 38 valid cells",
        ),
        ([Conserve("temp", "lat", "hole")], r"weights 'hole' of Conserve.*4 of 38 valid cells missing or negative"),
        (
            [Conserve("temp", "lat", "none")],
            r"not all zero. Received: 0 of 38 valid cells missing or negative, 0 above zero",
        ),
        (
            [Conserve("temp", "lat", "volum")],
            r"weights of Conserve\('temp'\) 'volum' is not in .*did you mean 'volume'",
        ),
        ([Conserve("temp", "lat", sources="rai")], r"'rai' at offset 0 is not among the inputs"),
        ([Conserve("temp", "lat", sources="snow")], r"source 'snow'.*do not add up. Expected: 'degC' per step.*'kg'"),
        ([Conserve("temp", "lat", sources="flux")], r"'flux'.*'degC s-1' with steps of 1 month"),
        ([Conserve("temp", "lat", sources="bare")], r"cannot tell the units of its source 'bare'.*bare: None"),
        ([Conserve("temp", "lat", sources=["rain", "day"])], r"mixes sources per step and per time"),
    ],
)
def test_laws_that_do_not_fit_are_refused(sea, laws, words):
    volume = sea.volume.isel(depth=0, drop=True)
    sea = sea.assign(minus=-volume, none=volume * 0, hole=volume.where(volume.lat + volume.lon != 15))
    for name, units in (("snow", "kg"), ("flux", "degC s-1"), ("bare", None), ("day", "mK")):
        sea[name] = sea.rain.assign_attrs(units=units)
    del sea["bare"].attrs["units"]
    inputs = ["temp", "rain", "snow", "flux", "bare", "day"]
    layout = FieldSpec(inputs, "temp", target_offsets=1, levels="depth", mask="wet").bind(sea)
    with pytest.raises((ValueError, KeyError), match=words):
        Constraints(laws).bind(layout)


def test_arguments_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"has both equals and sources.*drop one of them"):
        Conserve("a", "x", sources="s", equals=1)
    with pytest.raises(ValueError, match=r"sums over no dimension. Expected: one or more"):
        Conserve("a", ())
    with pytest.raises(TypeError, match=r"holds something that is no constraint.*Received: str"):
        Constraints(["temp >= 0"])
    with pytest.raises(ValueError, match=r"unknown constraint 'Conserv'; did you mean 'Conserve'\?"):
        Constraints.from_config([{"type": "Conserv", "name": "a", "over": "x"}])


def test_sources_with_several_leads_are_refused(sea):
    layout = FieldSpec(["temp", "rain"], "temp", target_offsets=(1, 2), levels="depth", mask="wet").bind(sea)
    with pytest.raises(ValueError, match=r"has sources and several target offsets.*roll a one-step model out"):
        Constraints(Conserve("temp", "lat", sources="rain")).bind(layout)


def test_half_precision_keeps_float64_sums(sea):
    laws = Constraints([Conserve("temp", ("lat", "lon", "depth"))])
    layout = laws.bind(FieldSpec("temp", "temp", target_offsets=1, levels="depth", mask="wet").bind(sea))
    outputs, inputs = tensors(layout, sea)
    half = {"temp": ops.cast(outputs["temp"], "float16")}
    moved = laws.project(half, {"temp": ops.cast(inputs["temp"], "float16")}, layout)
    assert keras.backend.standardize_dtype(moved["temp"].dtype) == "float16"
    want = np.asarray(ops.cast(inputs["temp"], "float16"), "float64").sum((1, 2, 3))
    np.testing.assert_allclose(np.asarray(moved["temp"], "float64").sum((1, 2, 3)), want, rtol=2e-4)
