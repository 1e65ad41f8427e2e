"""Probabilities are scored as scikit-learn does; diagrams hold what the cases say, and their bars what chance allows."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from scipy import stats

from physml import verify


def raising_scheduler(*args, **kwargs):
    raise AssertionError("computed too early")


def events(seed: int = 0, size: int = 400, memory: int = 1) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Probabilities in twentieths, events that happen as often, and weights, on time and two places."""
    rng = np.random.default_rng(seed)
    p = xr.DataArray(rng.integers(0, 21, (size, 2)) / 20, dims=("time", "x"), name="rain_probability")
    lot = np.repeat(rng.uniform(size=(size // memory + 1, 2)), memory, 0)[:size]
    o = xr.DataArray((lot < p.values) * 1.0, dims=("time", "x"), name="rain", attrs={"long_name": "rain", "units": "1"})
    o[::7, 0] = np.nan
    w = xr.DataArray([1.0, 3.0], dims="x")
    return p, o, w


def flat(*arrays):
    known = arrays[1].notnull().values
    return [a.broadcast_like(arrays[1]).values[known] for a in arrays]


def test_the_brier_score_is_that_of_scikit_learn():
    from sklearn.metrics import brier_score_loss

    p, o, w = events()
    pv, ov, wv = flat(p, o, w)
    assert verify.brier(p, o).item() == pytest.approx(brier_score_loss(ov, pv))
    score = verify.brier(p, o, weights=w)
    assert score.item() == pytest.approx(brier_score_loss(ov, pv, sample_weight=wv))
    assert score.attrs == {"long_name": "Brier score of rain", "units": "1"}
    both = verify.brier(xr.Dataset({"rain": o.fillna(0), "rain_probability": p}), xr.Dataset({"rain": o}))
    assert list(both) == ["rain"]
    assert both.rain.item() == verify.brier(p, o).item()
    assert verify.skill(p, o, 0 * p + 0.5, score=verify.brier).item() == pytest.approx(
        1 - verify.brier(p, o).item() / 0.25
    )


def test_the_brier_score_of_classes_sums_over_classes_found_by_name():
    truth = xr.DataArray([1.0, 7.0, np.nan, 7.0], dims="x", name="regime")
    truth.attrs = {"flag_values": np.array([1, 7], "int8"), "flag_meanings": "calm strong_wind"}
    p = xr.DataArray(
        [[0.2, 0.8], [1.0, 0.0], [0.5, 0.5], [0.9, 0.1]], {"category": ["strong wind", "calm"]}, ("x", "category")
    )
    by_cell = verify.brier(p, truth, dim=())
    np.testing.assert_allclose(by_cell, [0.08, 0.0, np.nan, 0.02])
    assert verify.brier(p, truth).item() == pytest.approx(0.1 / 3)
    p[1, 0] = np.nan
    assert np.isnan(verify.brier(p, truth))


@pytest.mark.parametrize("bins", [10, 3, [0.0, 0.05, 0.6, 1.0]])
def test_the_parts_of_the_brier_score_add_up_to_it(bins):
    p, o, w = events()
    parts = verify.brier_decomposition(p, o, "time", w, bins=bins)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    np.testing.assert_allclose(total, verify.brier(p, o, "time", w), rtol=1e-12)
    np.testing.assert_allclose(parts.brier, verify.brier(p, o, "time", w), rtol=1e-12)
    exact = verify.brier_decomposition(p, o, bins=[0, *(np.arange(1, 21) - 0.5) / 20, 1.0])
    assert abs(exact.within.item()) < 1e-15
    sharp = verify.brier_decomposition(p.round(), o)
    assert sharp.reliability.item() > 3 * parts.reliability.max().item()


def test_the_area_under_the_roc_is_that_of_scikit_learn():
    from sklearn.metrics import roc_auc_score, roc_curve

    p, o, w = events()
    pv, ov, wv = flat(p, o, w)
    found = verify.roc(p, o)
    assert found.area.item() == pytest.approx(roc_auc_score(ov, pv), rel=1e-12)
    assert verify.roc(p, o, weights=w).area.item() == pytest.approx(roc_auc_score(ov, pv, sample_weight=wv), rel=1e-12)
    false, hits, _ = roc_curve(ov, pv, drop_intermediate=False)
    np.testing.assert_allclose(np.unique(found.hit_rate), np.unique(hits))
    np.testing.assert_allclose(np.unique(found.false_alarm_rate), np.unique(false))
    by_place = verify.roc(p, o, "time")
    assert by_place.area.dims == ("x",)
    assert by_place.area[1].item() == pytest.approx(roc_auc_score(o[:, 1], p[:, 1]))
    lost = p.copy()
    lost[1, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(verify.roc(lost, o, "time").area), [False, True])


def test_the_reliability_diagram_counts_by_hand():
    p = xr.DataArray([0.0, 0.1, 0.2, 0.5, 0.9, 1.0], dims="x")
    o = xr.DataArray([0, 0, 1, 1, np.nan, 1], dims="x")
    found = verify.reliability(p, o, bins=4, weights=xr.DataArray([1.0, 1, 2, 1, 1, 1], dims="x"))
    np.testing.assert_array_equal(found["count"], [3, 0, 1, 1])
    np.testing.assert_allclose(found.probability, [0.125, np.nan, 0.5, 1.0])
    np.testing.assert_allclose(found.frequency, [0.5, np.nan, 1.0, 1.0])
    np.testing.assert_allclose(found.low[0], stats.binom.ppf(0.025, 3, 0.125) / 3)
    np.testing.assert_allclose(found.high[0], stats.binom.ppf(0.975, 3, 0.125) / 3)


def test_a_reliable_forecast_lies_in_the_consistency_bars_and_a_sharpened_one_does_not():
    p, o, _ = events(size=5000)
    good = verify.reliability(p, o)
    assert ((good.low <= good.frequency) & (good.frequency <= good.high)).mean() >= 0.9
    bad = verify.reliability((p + 0.3 * (p - 0.5)).clip(0, 1), o)
    assert ((bad.low <= bad.frequency) & (bad.frequency <= bad.high)).mean() < 0.5


def test_bootstrap_bars_are_wider_where_errors_have_memory():
    p, _, _ = events(1, size=2000)
    p = xr.zeros_like(p) + 0.4
    short = (xr.DataArray(np.random.default_rng(2).uniform(size=(2000, 2)), dims=("time", "x")) < p) * 1.0
    long = short.isel(time=np.repeat(np.arange(100), 20)).assign_attrs(short.attrs)
    widths = []
    for truth in (short, long):
        found = verify.reliability(p, truth, bars="bootstrap", n=300, along="time").isel(bin=4)
        assert found.low < found.frequency < found.high
        widths.append(float(found.high - found.low))
    expected = 2 * 1.96 * np.sqrt(0.24 / 4000)
    assert widths[0] == pytest.approx(expected, rel=0.2)
    assert widths[1] > 3 * expected


def test_the_calibration_of_distributions_is_how_often_the_truth_lies_below_their_quantiles():
    rng = np.random.default_rng(4)
    mean = xr.DataArray(rng.normal(size=3000), dims="time", name="t", attrs={"units": "K"})
    truth = (mean + rng.normal(size=3000)).assign_attrs(units="K")
    forecast = xr.Dataset({"t": mean, "t_std": xr.ones_like(mean).assign_attrs(units="K")})
    found = verify.reliability(forecast, truth)
    assert found.attrs["kind"] == "distribution"
    np.testing.assert_allclose(found.probability, np.arange(1, 20) / 20)
    expected = [(verify.pit(forecast, truth) <= p).mean() for p in found.probability.values]
    np.testing.assert_allclose(found.frequency, expected)
    assert (found["count"] == 3000).all()
    assert ((found.low <= found.frequency) & (found.frequency <= found.high)).mean() > 0.8
    levels = xr.DataArray([0.1, 0.5, 0.9], dims="quantile", name="quantile")
    quantiles = mean + xr.DataArray(stats.norm.ppf(levels), {"quantile": levels.values}, ("quantile",))
    own = verify.reliability(quantiles.assign_attrs(units="K").rename("t"), truth, bars="bootstrap", n=50, block=2)
    np.testing.assert_allclose(own.probability, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(own.frequency, [expected[1], expected[9], expected[17]])


@pytest.mark.parametrize("chunks", [{"time": 177, "x": 1}])
def test_lazy_equals_eager_and_computes_nothing(chunks):
    p, o, w = events()

    def found(p, o):
        return [
            verify.brier(p, o, "time", w).to_dataset(name="brier"),
            verify.brier_decomposition(p, o, weights=w, bins=2),
            verify.roc(p, o, "time", thresholds=[0.2, 0.7]),
            verify.reliability(p, o, weights=w, bins=2),
            verify.reliability(p, o, "time", bars="bootstrap", block=3, n=20, bins=2),
        ]

    with dask.config.set(scheduler=raising_scheduler):
        lazy = found(p.chunk(chunks), o.chunk(chunks))
    for a, b in zip(lazy, found(p, o), strict=True):
        assert all(v.chunks is not None for v in a.data_vars.values())
        xr.testing.assert_allclose(a.compute(scheduler="synchronous"), b, rtol=1e-12)


P, HAPPENED, _ = events()
FLAGS = xr.DataArray([0.0, 1.0], dims="x", name="regime", attrs={"flag_values": [0, 1], "flag_meanings": "calm windy"})
TWO = xr.DataArray([[0.5, 0.5], [0.5, 0.5]], {"category": ["calm", "stormy"]}, ("x", "category"))
REFUSED = {
    "percent": (lambda: verify.brier(100 * P, HAPPENED), "probabilities are none. Expected: 0 to 1.*5 to 100"),
    "a truth of other values": (
        lambda: verify.brier(P, HAPPENED + 1),
        r"holds values that are no class.*\[0.0, 1.0\].*\[2.0\]",
    ),
    "a class of another name": (
        lambda: verify.brier(TWO, FLAGS),
        "class 'stormy' of the probabilities is none of regime",
    ),
    "a truth without classes": (lambda: verify.brier(TWO, FLAGS.drop_attrs()), "class 'calm'.*flag_values"),
    "bins with a gap": (lambda: verify.reliability(P, HAPPENED, bins=[0.1, 1.0]), "do not divide all probabilities"),
    "unknown bars": (lambda: verify.reliability(P, HAPPENED, bars="bootstraps"), "did you mean 'bootstrap'"),
    "thresholds that fall": (lambda: verify.roc(P, HAPPENED, thresholds=[0.5, 0.1]), "thresholds do not ascend"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_probability_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_lazy_probabilities_are_checked_when_they_are_computed():
    score = verify.brier((100 * P).chunk(), HAPPENED.chunk())
    with pytest.raises(ValueError, match="probabilities are none"):
        score.compute(scheduler="synchronous")


def test_cases_that_weigh_nothing_are_not_counted_nor_missed():
    p = xr.DataArray([0.1, np.nan, 0.9, 0.8], dims="x")
    o = xr.DataArray([0.0, 1, 1, 0], dims="x", name="rain")
    weights = xr.DataArray([1.0, 0, 0, 2], dims="x")
    found = verify.reliability(p, o, weights=weights, bins=2)
    assert found["count"].values.tolist() == [1, 1]
    assert found.frequency.values.tolist() == [0, 0]
    told = xr.Dataset({"rain": p, "rain_std": 0 * p + 1})
    assert verify.reliability(told, o, weights=weights, levels=[0.5])["count"].values.tolist() == [2]
