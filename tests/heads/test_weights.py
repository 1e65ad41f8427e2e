"""The loss of every head is the area-weighted mean over valid cells of the formula by hand, and metrics see its point forecast."""

import keras
import numpy as np
import pytest
import xarray as xr
from keras import ops

from physml import Batches, FieldSpec, losses, predict
from physml.data import Patches
from physml.heads import Classes, Gaussian, Quantiles, Samples

HEADS = {
    "gaussian": (Gaussian(), "crps", lambda t, p: losses.gaussian_crps(t, p)),
    "constant": (Gaussian("constant"), "nll", losses.gaussian_nll),
    "quantiles": (Quantiles((0.1, 0.5, 0.9)), "pinball", lambda t, p: losses.pinball(t, p, (0.1, 0.5, 0.9))),
    "samples": (Samples(3), "fair_crps", losses.fair_crps),
}


def parameters_of(kind, out, name, scaling, month=None):
    """Answers in scaled units ``[time, lat, lon, (depth,) parameter]``, from the labelled prediction."""
    mean, std = (float(getattr(scaling, w)[name][0]) for w in ("mean", "std"))
    if kind in ("gaussian", "constant"):
        return np.stack([(out[name] - mean) / std, out[f"{name}_std"] / std], -1)
    dim = {"quantiles": "quantile", "samples": "member"}[kind]
    return ((out[name] - mean) / std).transpose(..., dim).values


def by_hand(loss, weights, valid):
    """Weighted mean over valid values; both broadcast to the loss."""
    loss = np.where(valid, ops.convert_to_numpy(loss), 0)
    return (loss * weights).sum() / (np.broadcast_to(weights * valid, loss.shape)).sum()


@pytest.mark.parametrize(
    "kind", ["gaussian", "quantiles", *(pytest.param(n, marks=pytest.mark.long) for n in ("constant", "samples"))]
)
def test_the_loss_is_the_area_weighted_mean_over_valid_cells(sea, untrained, kind):
    head, name, formula = HEADS[kind]
    spec = FieldSpec("x", "y", mask="wet", area="area")
    model = untrained(sea, spec, head)
    model.compile(loss=name, metrics=["mae"])
    found = model.evaluate(Batches(sea, spec, 24), return_dict=True, verbose=0)
    p = parameters_of(kind, predict(model, sea), "y", model.scaling)
    truth = (sea.y.values - model.scaling.mean["y"]) / model.scaling.std["y"]
    weights, valid = sea.area.values, sea.wet.values
    p, truth = np.where(valid[..., None], p, 1), np.where(valid, truth, 0)
    expected = by_hand(formula(truth.astype("float32"), p.astype("float32")), weights, valid)
    assert found["loss"] == pytest.approx(expected, rel=1e-4)
    point = {"quantiles": p[..., 1], "samples": p.mean(-1)}.get(kind, p[..., 0])
    assert found["mae"] == pytest.approx(by_hand(abs(point - truth), weights, valid), rel=1e-4)


def test_a_mask_that_differs_by_level_counts_each_level_where_it_is_valid(sea, untrained):
    spec = FieldSpec("x", "z", levels="depth", mask="deep", area="area")
    model = untrained(sea, spec, Gaussian())
    model.compile(loss="crps", metrics=["mae"])
    found = model.evaluate(Batches(sea, spec, 24), return_dict=True, verbose=0)
    out, s = predict(model, sea), model.scaling
    p = np.stack([(out.z - s.mean["z"]) / s.std["z"], out.z_std / s.std["z"]], -1)
    truth = ((sea.z - s.mean["z"]) / s.std["z"]).values
    valid, weights = sea.deep.values, sea.area.values[..., None]
    p = np.where(valid[..., None], p, 1).astype("float32")
    expected = by_hand(losses.gaussian_crps(truth.astype("float32"), p), weights, valid)
    assert found["loss"] == pytest.approx(expected, rel=1e-4)
    assert found["mae"] == pytest.approx(by_hand(abs(p[..., 0] - truth), weights, valid), rel=1e-4)


def test_missing_targets_do_not_count(sea, untrained):
    holes = sea.assign(y=sea.y.where(sea.x < 0.8))
    spec = FieldSpec("x", "y", mask="wet", area="area")
    model = untrained(sea, spec, Gaussian())
    model.compile(loss="crps")
    found = model.evaluate(Batches(holes, spec, 24, missing="mask"), verbose=0)
    out, s = predict(model, sea), model.scaling
    truth = ((holes.y - s.mean["y"]) / s.std["y"]).values.astype("float32")
    p = np.stack([(out.y - s.mean["y"]) / s.std["y"], out.y_std / s.std["y"]], -1).astype("float32")
    there = np.isfinite(truth)
    loss = ops.convert_to_numpy(losses.gaussian_crps(np.where(there, truth, 0), np.where(there[..., None], p, 1)))
    weights = sea.area.values * sea.wet.values
    # As for every loss, the weights are those of the whole mask: what is missing counts as no error.
    assert found == pytest.approx((loss * weights * there).mean() / weights.mean(), rel=1e-4)


def test_on_patches_of_a_map_only_valid_cells_count(sea, untrained):
    spec = FieldSpec("x", "y", mask="wet", area="area")
    model = untrained(sea, spec, Gaussian(), any_size=True)
    model.compile(loss="crps")
    batches = Batches(sea, spec, 8, patches=Patches({"lat": 4, "lon": 3}, per_sample=1), fill=np.nan)
    whole = model.evaluate(Batches(sea, spec, 24, fill=np.nan), verbose=0)
    assert model.evaluate(batches, verbose=0) == pytest.approx(whole, rel=1e-4)
    assert np.isfinite(whole)


def test_statistics_by_month_scale_mean_and_spread_of_each_sample(sea, untrained):
    sea = xr.concat([sea, sea.assign_coords(time=xr.date_range("2002-01-01", periods=24, freq="MS"))], "time", data_vars="minimal", coords="minimal", compat="override")  # fmt: skip
    spec = FieldSpec(["x", "time.month"], "y", mask="wet")
    model = untrained(sea, spec, Gaussian(), by="month")
    model.compile(loss="crps")
    found = model.evaluate(Batches(sea, spec, 48), verbose=0)
    out, month = predict(model, sea), sea.time.dt.month.values - 1
    mean, std = (model.scaling.monthly[w]["y"][month, 0].reshape(-1, 1, 1) for w in ("mean", "std"))
    p = np.stack([(out.y - mean) / std, out.y_std / std], -1).astype("float32")
    truth = ((sea.y.values - mean) / std).astype("float32")
    valid = sea.wet.values
    p, truth = np.where(valid[..., None], p, 1), np.where(valid, truth, 0)
    assert found == pytest.approx(by_hand(losses.gaussian_crps(truth, p), np.ones((4, 3)), valid), rel=1e-4)


def test_an_increment_has_the_spread_of_the_change(sea, untrained):
    spec = FieldSpec(["y", "x"], "y", target_offsets=1, mask="wet")
    model = untrained(sea, spec, Gaussian("constant", least=1e-6), increment=True)
    out = predict(model, sea)
    unit = float(model.scaling.increment["y"][0, 0])
    np.testing.assert_allclose(out.y_std.where(sea.wet).max(), unit, rtol=1e-5)
    np.testing.assert_allclose(out.y_std.min(), unit, rtol=1e-5)
    network = model.network(model._scale.inputs(np.nan_to_num(model.layout.pack(sea, "inputs").values)))
    change = ops.convert_to_numpy(network)[..., 0] * unit
    np.testing.assert_allclose(out.y.values, sea.y.values + np.where(sea.wet, change, np.nan), rtol=1e-6)


@pytest.mark.parametrize(
    "loss", ["cross_entropy", *(pytest.param(n, marks=pytest.mark.long) for n in ("focal", "brier"))]
)
def test_losses_of_classes_are_weighted_by_area_and_by_class(sea, untrained, loss):
    regime = (1 + (sea.x > -0.5) + (sea.x > 0.6)).astype("int8").where(sea.wet, 0).astype("int8")
    ds = sea.assign(regime=regime.assign_attrs(flag_values=np.int8([1, 2, 3]), flag_meanings="cold mild hot"))
    spec = FieldSpec("x", "regime", mask="wet", area="area")
    factors = {"cold": 3.0, "mild": 1.0, "hot": 0.5}
    model = untrained(ds, spec, Classes(class_weights=factors))
    model.compile(loss=loss, metrics=["accuracy"])
    found = model.evaluate(Batches(ds, spec, 24), return_dict=True, verbose=0)
    out = predict(model, ds)
    p = out.regime_probability.transpose(..., "category").values
    truth, valid = regime.values.astype("float32") - 1, ds.wet.values
    p = np.where(valid[..., None], p, 1 / 3).astype("float32")
    formula = getattr(losses, loss)(truth.clip(0), p, class_weights=[3.0, 1.0, 0.5])
    assert found["loss"] == pytest.approx(by_hand(formula, ds.area.values, valid), rel=1e-4)
    right = (out.regime.values - 1 == truth).astype("float64")
    assert found["accuracy"] == pytest.approx(by_hand(right, ds.area.values, valid), rel=1e-5)


def test_a_loss_of_another_head_and_losses_in_physical_units_are_refused(sea, untrained):
    spec = FieldSpec("x", "y", mask="wet")
    model = untrained(sea, spec, Gaussian())
    with pytest.raises(ValueError, match=r"the loss 'crps' belongs to another head. Expected: a loss of Gaussian"):
        model.compile(loss=Samples(3).loss("crps"))
    with pytest.raises(ValueError, match="the losses of the head Gaussian are in scaled units"):
        untrained(sea, spec, Gaussian(), loss_units="physical")


def test_a_loss_of_ones_own_sees_the_parameters(sea, untrained):
    spec = FieldSpec("x", "y", mask="wet")
    model = untrained(sea, spec, Gaussian())
    seen = []

    def own(truth, parameters):
        seen.append((tuple(truth.shape[1:]), tuple(parameters.shape[1:])))
        return ops.mean(ops.abs(truth - parameters[..., :1]))

    model.compile("sgd", own)
    model.evaluate(Batches(sea, spec, 24), verbose=0)
    assert seen[0] == ((4, 3, 1, 1), (4, 3, 1, 2))
    assert keras.losses.get(model.loss) is own
