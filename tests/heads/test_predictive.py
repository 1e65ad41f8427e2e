"""Quantiles, intervals and calibration of any predicted distribution are those by hand, and stay lazy."""

import dask
import numpy as np
import pytest
import xarray as xr
from scipy import stats

from physml.heads import calibration, interval, quantiles_of, reliability


@pytest.fixture
def gaussian():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(400, 50))
    std = np.exp(0.5 * rng.normal(size=mean.shape))
    attrs = {"units": "K", "long_name": "temperature", "ancillary_variables": "t_std"}
    fields = xr.Dataset({"t": (("time", "x"), mean, attrs), "t_std": (("time", "x"), std)})
    truth = (fields.t + fields.t_std * rng.normal(size=mean.shape)).rename("t")
    return fields, truth


def raising(*args, **kwargs):
    raise RuntimeError("computed")


def test_intervals_of_a_gaussian_are_its_quantiles(gaussian):
    fields, truth = gaussian
    found = interval(fields, "t", 0.8)
    expected = stats.norm.ppf([[[0.1]], [[0.9]]], fields.t, fields.t_std)
    np.testing.assert_allclose(found, expected)
    assert found.bound.values.tolist() == ["lower", "upper"]
    assert found.attrs == {"units": "K", "long_name": "80 % interval of temperature"}
    inside = (truth > found.sel(bound="lower")) & (truth < found.sel(bound="upper"))
    assert float(inside.mean()) == pytest.approx(0.8, abs=0.01)


def test_intervals_of_quantiles_are_those_predicted_and_no_others(gaussian):
    fields, _ = gaussian
    levels = [0.05, 0.5, 0.95]
    predicted = xr.Dataset({"t": quantiles_of(fields, "t", levels)})
    xr.testing.assert_identical(interval(predicted, "t", 0.9), interval(fields, "t", 0.9))
    with pytest.raises(ValueError, match=r"the quantile 0.1 of 't' was not predicted. Expected: 0.05, 0.5, 0.95"):
        interval(predicted, "t", 0.8)


def test_intervals_of_members_are_their_quantiles(gaussian):
    members = gaussian[0].t.expand_dims(member=9) + xr.DataArray(np.arange(9.0), dims="member")
    found = interval(xr.Dataset({"t": members}), "t", 0.5)
    np.testing.assert_allclose(found.sel(bound="upper"), gaussian[0].t + 6)


def test_they_are_lazy(gaussian):
    fields, truth = (v.chunk(time=50) for v in gaussian)
    members = xr.Dataset({"t": fields.t.expand_dims(member=4)})
    with dask.config.set(scheduler=raising):
        lazy = [interval(fields, "t"), interval(members, "t"), calibration(fields, truth), reliability(fields.t_std * 0 + 0.3, truth > 0)]  # fmt: skip
    np.testing.assert_array_equal(lazy[0], interval(gaussian[0], "t"))
    np.testing.assert_allclose(lazy[2].observed, calibration(*gaussian).observed)
    assert all(v.chunks for v in (lazy[0], lazy[1], lazy[2].observed, lazy[3].observed))


def test_a_calibrated_gaussian_has_the_truth_below_each_quantile_as_often_as_its_level(gaussian):
    found = calibration(*gaussian)
    np.testing.assert_allclose(found.observed, found.level, atol=0.01)
    assert int(found["count"]) == 20_000
    narrow = calibration(gaussian[0].assign(t_std=gaussian[0].t_std / 2), gaussian[1])
    assert float(narrow.observed.sel(level=0.9)) == pytest.approx(stats.norm.cdf(stats.norm.ppf(0.9) / 2), abs=0.015)


def test_calibration_counts_weights_and_leaves_out_what_is_missing():
    fields = xr.Dataset({"t": ("x", [0.0, 0.0, 0.0]), "t_std": ("x", [1.0, 1.0, 1.0])})
    truth = xr.DataArray([-1.0, 1.0, np.nan], dims="x", name="t")
    found = calibration(fields, truth, levels=[0.5], weights=xr.DataArray([1.0, 3.0, 9.0], dims="x"))
    assert found.observed.values.tolist() == [0.25]
    assert int(found["count"]) == 2


def test_reliability_is_the_frequency_in_each_bin_by_hand():
    p = xr.DataArray([0.05, 0.15, 0.95, 1.0, 0.92, 0.5], dims="x", name="p")
    happened = xr.DataArray([0, 1, 1, 1, 0, np.nan], dims="x")
    found = reliability(p, happened, bins=5, weights=xr.DataArray([1, 3, 1, 1, 2, 7], dims="x"))
    np.testing.assert_allclose(
        found.predicted, [(0.05 + 3 * 0.15) / 4, np.nan, np.nan, np.nan, (0.95 + 1 + 2 * 0.92) / 4]
    )
    np.testing.assert_allclose(found.observed, [0.75, np.nan, np.nan, np.nan, 0.5])
    assert found["count"].values.tolist() == [2, 0, 0, 0, 3]


def test_what_holds_no_distribution_is_refused(gaussian):
    fields, truth = gaussian
    with pytest.raises(ValueError, match="the prediction holds no distribution of 't'"):
        interval(fields[["t"]], "t")
    with pytest.raises(ValueError, match="the level of the interval is no probability"):
        interval(fields, "t", 90)
    with pytest.raises(ValueError, match="prediction and truth have nothing in common"):
        calibration(fields.assign_coords(time=np.arange(400)), truth.assign_coords(time=np.arange(400) + 1000))
