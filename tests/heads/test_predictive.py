"""Quantiles and intervals of any predicted distribution are those by hand, and stay lazy."""

import dask
import numpy as np
import pytest
import xarray as xr
from scipy import stats

from physml.heads import interval, quantiles_of


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
    fields = gaussian[0].chunk(time=50)
    members = xr.Dataset({"t": fields.t.expand_dims(member=4)})
    with dask.config.set(scheduler=raising):
        lazy = [interval(fields, "t"), interval(members, "t")]
    np.testing.assert_array_equal(lazy[0], interval(gaussian[0], "t"))
    assert all(v.chunks for v in lazy)


def test_what_holds_no_distribution_is_refused(gaussian):
    fields, _ = gaussian
    with pytest.raises(ValueError, match="the prediction holds no distribution of 't'"):
        interval(fields[["t"]], "t")
    with pytest.raises(ValueError, match="the level of the interval is no probability"):
        interval(fields, "t", 90)
