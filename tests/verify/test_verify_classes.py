"""The table of confusion and its scores are scikit-learn's; extremes are counted by hand and as scores counts them."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

from physml import verify

ICE = {"flag_values": np.array([0, 2, 5], "int8"), "flag_meanings": "water slush ice", "long_name": "surface"}


def raising_scheduler(*args, **kwargs):
    raise AssertionError("computed too early")


def flags(seed: int = 0) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice([0.0, 2.0, 5.0], size=(60, 4), p=[0.6, 0.3, 0.1])
    forecast = np.where(rng.uniform(size=truth.shape) < 0.6, truth, rng.choice([0.0, 2.0, 5.0], size=truth.shape))
    truth[:5, 0] = np.nan
    coords = {"time": np.arange(60), "x": np.arange(4)}
    weights = xr.DataArray([1.0, 2.0, 0.0, 3.0], {"x": np.arange(4)}, ("x",), attrs={"units": "m2"})
    return *(xr.DataArray(a, coords, ("time", "x"), "ice", ICE) for a in (forecast, truth)), weights


def flat(forecast, truth, weights):
    known = truth.notnull().values
    return truth.values[known], forecast.values[known], weights.broadcast_like(truth).values[known]


def test_the_scores_of_the_table_are_those_of_scikit_learn():
    from sklearn import metrics

    forecast, truth, weights = flags()
    o, f, w = flat(forecast, truth, weights)
    found = verify.confusion(forecast, truth, weights=weights)
    np.testing.assert_allclose(found["count"], metrics.confusion_matrix(o, f, sample_weight=w))
    assert found["count"].attrs["units"] == "m2"
    assert found["class"].values.tolist() == ["water", "slush", "ice"]
    assert found.accuracy.item() == pytest.approx(metrics.accuracy_score(o, f, sample_weight=w))
    assert found.balanced_accuracy.item() == pytest.approx(metrics.balanced_accuracy_score(o, f, sample_weight=w))
    assert found.heidke.item() == pytest.approx(metrics.cohen_kappa_score(o, f, sample_weight=w))
    np.testing.assert_allclose(found.recall, metrics.recall_score(o, f, average=None, sample_weight=w))
    np.testing.assert_allclose(found.precision, metrics.precision_score(o, f, average=None, sample_weight=w))
    for i, value in enumerate((0, 2, 5)):
        mine, theirs = o == value, f == value
        false_rate = np.average(theirs[~mine], weights=w[~mine])
        assert found.peirce_by_class[i].item() == pytest.approx(found.recall[i].item() - false_rate)
        kappa = metrics.cohen_kappa_score(mine, theirs, sample_weight=w)
        assert found.heidke_by_class[i].item() == pytest.approx(kappa)


def test_skill_is_one_for_the_truth_and_zero_for_a_constant():
    _, truth, _ = flags()
    perfect = verify.confusion(truth, truth)
    assert (perfect.accuracy, perfect.balanced_accuracy, perfect.heidke, perfect.peirce) == (1, 1, 1, 1)
    constant = verify.confusion(xr.zeros_like(truth), truth)
    assert constant.heidke.item() == pytest.approx(0, abs=1e-15)
    assert constant.peirce.item() == pytest.approx(0, abs=1e-15)
    assert constant.balanced_accuracy.item() == pytest.approx(1 / 3)


def test_a_class_that_does_not_occur_does_not_count_and_a_lost_forecast_does():
    forecast, truth, _ = flags()
    two = truth.where(truth != 5)
    found = verify.confusion(forecast, two)
    assert np.isnan(found.recall.sel({"class": "ice"}))
    assert found.balanced_accuracy.item() == pytest.approx(found.recall[:2].mean().item())
    forecast[10, 1] = np.nan
    by_place = verify.confusion(forecast, truth, "time")
    np.testing.assert_array_equal(np.isnan(by_place.accuracy), [False, True, False, False])
    np.testing.assert_array_equal(np.isnan(by_place.balanced_accuracy), [False, True, False, False])
    forecast[10, 1] = 3.0
    assert np.isnan(verify.confusion(forecast, truth).accuracy)


def test_extremes_are_counted_as_scores_counts_them():
    from scores.categorical import ThresholdEventOperator

    rng = np.random.default_rng(0)
    truth = xr.DataArray(rng.gamma(2.0, size=1000), dims="time", name="rain", attrs={"units": "mm"})
    forecast = (0.7 * truth + 0.5 * rng.gamma(2.0, size=1000)).assign_attrs(units="mm")
    found = verify.extremes(forecast, truth, quantiles=[0.5, 0.9])
    for q in (0.5, 0.9):
        level = np.quantile(truth, q)
        operator = ThresholdEventOperator(default_event_threshold=level, default_op_fn=np.greater)
        table = operator.make_contingency_manager(forecast, truth)
        one = found.sel(quantile=q)
        assert one.threshold.item() == pytest.approx(level)
        assert one.frequency_bias.item() == pytest.approx(table.frequency_bias().item())
        assert one.ets.item() == pytest.approx(table.equitable_threat_score().item())
        assert one.csi.item() == pytest.approx(table.critical_success_index().item())
        assert one.base_rate.item() == pytest.approx(1 - q)
        assert one.quantile_bias.item() == pytest.approx(np.quantile(forecast, q) - level)
    assert found.quantile_bias.attrs["units"] == "mm"
    lower = verify.extremes(-forecast, -truth, quantiles=[0.5, 0.1], tail="lower")
    np.testing.assert_allclose(lower.ets, found.ets)
    np.testing.assert_allclose(lower.quantile_bias, -found.quantile_bias)


def test_a_smooth_forecast_has_too_few_extremes_and_a_lost_one_has_none_to_tell():
    rng = np.random.default_rng(1)
    truth = xr.DataArray(rng.normal(size=(500, 3)), dims=("time", "x"))
    found = verify.extremes(0.5 * truth, truth, "time")
    assert found.ets.dims == ("quantile", "x")
    assert (found.frequency_bias < 0.5).all()
    assert (found.quantile_bias < 0).all()
    perfect = verify.extremes(truth, truth)
    np.testing.assert_array_equal(perfect.ets, 1)
    np.testing.assert_array_equal(perfect.quantile_bias, 0)
    lost = truth.copy()
    lost[7, 1] = np.nan
    broken = verify.extremes(lost, truth, "time")
    for name in ("ets", "frequency_bias", "quantile_bias"):
        np.testing.assert_array_equal(np.isnan(broken[name]).any("quantile"), [False, True, False])


def test_thresholds_of_other_years_and_weights_are_taken():
    truth = xr.DataArray([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]], dims=("time", "x"))
    bound = xr.DataArray([[1.5, 6.5]], {"quantile": [0.9]}, ("quantile", "x"))
    weights = xr.DataArray([1.0, 3.0], dims="x")
    found = verify.extremes(truth - 1, truth, weights=weights, threshold=bound)
    assert "quantile_bias" not in found
    # Of weights: 1 hit at the first place, 1 + 3 misses.
    assert found.base_rate.item() == pytest.approx(5 / 12)
    assert found.hit_rate.item() == pytest.approx(1 / 5)
    heavy = verify.extremes(truth, truth, weights=weights, quantiles=[0.5])
    assert heavy.threshold.item() > np.median(truth)


@pytest.mark.parametrize("chunks", [{"time": 31, "x": 3}])
def test_lazy_equals_eager_and_computes_nothing(chunks):
    forecast, truth, weights = flags()
    rng = np.random.default_rng(2)
    dry = [xr.DataArray(rng.normal(size=(60, 4)), forecast.coords, forecast.dims) for _ in range(2)]

    def found(f, o, df, do):
        return [
            verify.confusion(f, o, weights=weights),
            verify.confusion(f, o, "time"),
            verify.extremes(df, do, "time", quantiles=[0.8]),
            verify.extremes(df, do, weights=weights, quantiles=[0.8]),
        ]

    with dask.config.set(scheduler=raising_scheduler):
        lazy = found(*(a.chunk(chunks) for a in (forecast, truth, *dry)))
    for a, b in zip(lazy, found(forecast, truth, *dry), strict=True):
        assert all(v.chunks is not None for v in a.data_vars.values())
        xr.testing.assert_allclose(a.compute(scheduler="synchronous"), b, rtol=1e-12)


F, T, _ = flags()
REFUSED = {
    "no classes": (lambda: verify.confusion(F, T.drop_attrs()), "does not tell its classes.*flag_values"),
    "other classes": (
        lambda: verify.confusion(F.assign_attrs(flag_meanings="water ice slush"), T),
        "different classes.*slush.*name the classes alike",
    ),
    "values that are no class": (lambda: verify.confusion(F, T + 1, values=[0, 2, 5]), "values that are no class"),
    "names that do not pair": (lambda: verify.confusion(F, T, values=[0, 2], names=["a"]), "do not pair"),
    "the middle": (lambda: verify.extremes(F, T, tail="middle"), "'upper' or 'lower'"),
    "percentiles": (lambda: verify.extremes(F, T, quantiles=[90]), "quantiles are no probabilities"),
    "thresholds without levels": (lambda: verify.extremes(F, T, threshold=T[0]), "a dimension 'quantile'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_class_and_no_extreme_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()
