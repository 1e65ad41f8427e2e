"""Spread beside skill is lazy, weighted, kept by lead, and knows the spread that a Gaussian says."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

from physml import verify


def raising_scheduler(*args, **kwargs):
    raise AssertionError("computed too early")


def ensemble(seed: int = 0, members: int = 20) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Members and truth of one distribution, whose width grows from place to place."""
    rng = np.random.default_rng(seed)
    coords = {"time": np.arange(300), "x": np.arange(4)}
    width = xr.DataArray([0.5, 1.0, 2.0, 4.0], {"x": np.arange(4)}, ("x",))
    mean = xr.DataArray(rng.normal(size=(300, 4)), coords, ("time", "x"))
    truth = (mean + width * xr.DataArray(rng.normal(size=(300, 4)), coords, ("time", "x"))).assign_attrs(units="K")
    drawn = xr.DataArray(rng.normal(size=(members, 300, 4)), coords, ("member", "time", "x"))
    return (mean + width * drawn).transpose("member", ...).assign_attrs(units="K"), truth.rename("t"), width


def test_the_spread_of_a_gaussian_is_its_standard_deviation():
    members, truth, width = ensemble()
    mean = members.mean("member").assign_attrs(units="K")
    forecast = xr.Dataset({"t": mean, "t_std": (width * xr.ones_like(mean)).assign_attrs(units="K")})
    found = verify.spread_skill(forecast, truth, bins=4)
    np.testing.assert_allclose(found.spread, [0.5, 1.0, 2.0, 4.0])
    np.testing.assert_allclose(found.rmse, found.spread, rtol=0.15)
    np.testing.assert_array_equal(found["count"], 300)
    assert found.rmse.attrs["units"] == "K"
    np.testing.assert_allclose(found.rmse[0], verify.rmse(mean, truth, "time")[0])


def test_dimensions_are_kept_and_weights_weigh():
    members, truth, width = ensemble()
    by_place = verify.spread_skill(members, truth, dim="time", bins=2)
    assert by_place.rmse.dims == ("x", "bin")
    np.testing.assert_allclose(by_place.total_spread, width * np.sqrt(21 / 20), rtol=0.05)
    weights = xr.DataArray([0.0, 0.0, 1.0, 0.0], {"x": np.arange(4)}, ("x",))
    one = verify.spread_skill(members, truth, weights=weights, bins=2)
    xr.testing.assert_allclose(one.drop_vars("x", errors="ignore"), by_place.isel(x=2, drop=True))
    broken = members.copy(deep=True)
    broken[3, 5, 2] = np.nan
    lost = verify.spread_skill(broken, truth, dim="time", bins=1)
    np.testing.assert_array_equal(np.isnan(lost.total_rmse), [False, False, True, False])
    land = truth.where(truth.time != 5)
    np.testing.assert_array_equal(verify.spread_skill(broken, land, dim="time", bins=1)["count"], 299)


@pytest.mark.parametrize("chunks", [{"time": 70}, {"time": 300, "x": 1, "member": 7}])
def test_lazy_equals_eager_and_computes_nothing(chunks):
    members, truth, _ = ensemble(members=8)
    with dask.config.set(scheduler=raising_scheduler):
        lazy = [
            verify.spread_skill(members.chunk(chunks), truth.chunk({k: v for k, v in chunks.items() if k != "member"})),
            verify.rank_histogram(members.chunk(chunks), truth, dim="time"),
        ]
    eager = [verify.spread_skill(members, truth), verify.rank_histogram(members, truth, dim="time")]
    for a, b in zip(lazy, eager, strict=True):
        assert a["count"].chunks is not None
        xr.testing.assert_allclose(a.compute(scheduler="synchronous"), b)


def test_lazy_bins_are_checked_when_they_are_computed():
    members, truth, _ = ensemble(members=3)
    found = verify.spread_skill(members[:, :1].chunk(), truth[:1].chunk(), bins=9)
    with pytest.raises(ValueError, match="1 to 4, the number of cases"):
        found.rmse.compute(scheduler="synchronous")
