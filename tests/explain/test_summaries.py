"""Means over samples, with intervals that know that one month resembles the next."""

import numpy as np
import pytest
import xarray as xr

from physml import grid
from physml.explain import mean_absolute, summary
from physml.explain.shapley.sweep import t_quantile


def series(n, memory=0.0, groups=3):
    """Return attributions that remember their past, with mean 1 and variance 1."""
    noise = np.random.default_rng(0).normal(size=(n, groups))
    x = [noise[0]]
    for step in noise[1:]:
        x.append(memory * x[-1] + np.sqrt(1 - memory**2) * step)
    return xr.Dataset({"attribution": (("group", "time"), 1 + np.array(x).T)})


def test_independent_samples_get_student_intervals():
    one = series(30)
    found = summary(one, block=1)
    values = one.attribution.values
    half = t_quantile(29, 0.95) * values.std(1, ddof=1) / np.sqrt(30)
    np.testing.assert_allclose(found["mean"], values.mean(1), rtol=1e-14)
    np.testing.assert_allclose(found.mean_upper - found["mean"], half, rtol=1e-12)
    np.testing.assert_allclose(found.mean_absolute, abs(values).mean(1), rtol=1e-14)


def test_blocks_cover_where_samples_resemble_each_other_and_singles_do_not():
    many = series(240, memory=0.8, groups=200)
    covered = {}
    for block in (1, 24):
        found = summary(many, block=block)
        covered[block] = float(((found.mean_lower <= 1) & (found.mean_upper >= 1)).mean())
    assert covered[1] < 0.7
    assert covered[24] > 0.88


def test_fields_are_averaged_by_area_and_stay_lazy():
    rng = np.random.default_rng(0)
    lat, lon = np.linspace(-75, 75, 6), np.arange(0.0, 360, 45)
    values = rng.normal(size=(2, 12, 6, 8))
    values[..., 0, 0] = np.nan
    coords = {
        "group": ["a", "b"],
        "time": xr.date_range("2000-01-01", periods=12, freq="MS"),
        "lat": ("lat", lat, {"units": "degrees_north"}),
        "lon": ("lon", lon, {"units": "degrees_east"}),
    }
    about = {"units": "K", "long_name": "contribution to sst"}
    result = xr.Dataset({"attribution": (("group", "time", "lat", "lon"), values, about)}, coords)
    result["stderr"] = xr.full_like(result.attribution, 0.5)
    result["rows"] = ("time", np.ones(12, int))
    lazy = summary(result.chunk(time=4))
    assert lazy.mean_absolute_lower.chunks is not None
    found = lazy.compute()
    area = grid.cell_area(result)
    expected = abs(result.attribution).weighted(area).mean(("lat", "lon")).mean("time")
    np.testing.assert_allclose(found.mean_absolute, expected, rtol=1e-12)
    np.testing.assert_allclose(found.noise, 0.5, rtol=1e-12)
    assert found.mean_absolute.attrs == {"units": "K", "long_name": "mean absolute contribution to sst"}
    assert (found.mean_absolute_lower < found.mean_absolute).all()
    maps = summary(result, space=False)
    assert maps["mean"].dims == ("group", "lat", "lon")
    np.testing.assert_allclose(maps["mean"], result.attribution.mean("time"), rtol=1e-12)
    ordered = mean_absolute(result.assign(attribution=result.attribution * xr.DataArray([1.0, 9.0], dims="group")))
    assert ordered.group.values.tolist() == ["b", "a"]


def test_samples_that_make_no_interval_are_refused():
    with pytest.raises(ValueError, match=r"blocks do not fit the samples.*1 <= block <= 5.*5, 9"):
        summary(series(5), block=9)
    with pytest.raises(ValueError, match="level is no probability"):
        summary(series(5), level=95)
    with pytest.raises(ValueError, match="the dimension of the samples is not clear"):
        summary(xr.Dataset({"attribution": (("group", "run", "month"), np.zeros((1, 2, 3)))}))
