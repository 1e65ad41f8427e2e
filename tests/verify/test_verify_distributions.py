"""Scores of distributions equal their integrals and the scores of many members; calibrated forecasts cover what they say."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from scipy import integrate, stats

from physml import verify

RNG = np.random.default_rng(0)


def raising_scheduler(*args, **kwargs):
    raise AssertionError("computed too early")


def normal(seed: int = 0, *, units: str = "K", **sizes: int) -> xr.DataArray:
    values = np.random.default_rng(seed).normal(size=tuple(sizes.values()))
    coords = {d: np.arange(float(n)) for d, n in sizes.items() if d != "member"}
    return xr.DataArray(values, coords, tuple(sizes), "t", {"units": units, "long_name": "temperature"})


def gaussian(seed: int = 1, **sizes: int) -> xr.Dataset:
    mean = normal(seed, **sizes)
    return xr.Dataset({"t": mean, "t_std": (0.5 + abs(normal(seed + 1, **sizes))).assign_attrs(units="K")})


def test_the_crps_of_a_gaussian_is_the_integral_of_the_squared_distance_of_its_distribution():
    forecast, truth = gaussian(time=4), normal(time=4)
    score = verify.crps(forecast, truth, dim=())
    for i in range(4):
        mean, std, y = float(forecast.t[i]), float(forecast.t_std[i]), float(truth[i])
        below = integrate.quad(lambda x, m=mean, s=std: stats.norm.cdf(x, m, s) ** 2, -20, y)[0]
        above = integrate.quad(lambda x, m=mean, s=std: stats.norm.sf(x, m, s) ** 2, y, 20)[0]
        assert float(score[i]) == pytest.approx(below + above, rel=1e-6)
    assert score.attrs == {"long_name": "continuous ranked probability score of temperature", "units": "K"}
    assert score.name == "t"


def test_members_quantiles_and_the_gaussian_they_are_drawn_from_score_alike():
    truth = normal(time=30)
    forecast = gaussian(time=30)
    levels = (np.arange(100) + 0.5) / 100
    deviates = xr.DataArray(stats.norm.ppf(levels), {"quantile": levels}, ("quantile",))
    quantiles = (forecast.t + deviates * forecast.t_std).assign_attrs(forecast.t.attrs)
    exact = verify.crps(forecast, truth)
    assert verify.crps(quantiles, truth).item() == pytest.approx(exact.item(), rel=5e-3)
    members = quantiles.rename(quantile="member").drop_vars("member")
    # Quantiles at the middles of equal parts are members.
    assert verify.crps(quantiles, truth).item() == pytest.approx(
        verify.crps(members, truth, fair=False).item(), rel=1e-12
    )
    drawn = (forecast.t + forecast.t_std * normal(9, member=500, time=30)).assign_attrs(forecast.t.attrs)
    assert verify.crps(drawn, truth).item() == pytest.approx(exact.item(), rel=0.02)


def test_a_certain_gaussian_has_its_absolute_error_for_crps_and_an_endless_logarithmic_score():
    truth = normal(time=5)
    certain = xr.Dataset({"t": truth + 0.3, "t_std": 0 * truth}).assign_attrs(truth.attrs)
    certain["t"].attrs = certain["t_std"].attrs = truth.attrs
    assert verify.crps(certain, truth).item() == pytest.approx(0.3)
    assert np.isposinf(verify.log_score(certain, truth))
    point = (truth + 0.3).assign_attrs(truth.attrs)
    assert verify.crps(point, truth, point=True).item() == pytest.approx(0.3)
    worse = certain.assign(t_std=certain.t_std - 1)
    assert np.isnan(verify.crps(worse, truth))


def test_the_logarithmic_score_is_scipys_density():
    forecast, truth = gaussian(time=20), normal(time=20)
    weights = xr.DataArray(RNG.uniform(size=20), {"time": truth.time}, ("time",))
    expected = -stats.norm.logpdf(truth, forecast.t, forecast.t_std)
    score = verify.log_score(forecast, truth, weights=weights)
    assert score.item() == pytest.approx(np.average(expected, weights=weights), rel=1e-12)
    assert score.attrs["units"] == "1"


def test_weights_masks_and_lost_forecasts_count_as_for_the_rmse():
    forecast, truth = gaussian(time=6, x=3), normal(time=6, x=3)
    truth[:, 0] = np.nan
    weights = xr.DataArray([5.0, 1.0, 3.0], {"x": truth.x}, ("x",))
    every = verify.crps(forecast, truth, dim=())
    assert np.isnan(every[:, 0]).all()
    expected = np.average(every[:, 1:], weights=np.tile([1.0, 3.0], (6, 1)))
    assert verify.crps(forecast, truth, weights=weights).item() == pytest.approx(expected)
    lost = forecast.copy(deep=True)
    lost.t_std[2, 1] = np.nan
    by_time = verify.crps(lost, truth, "x", weights)
    assert np.isnan(by_time[2])
    assert by_time.notnull().sum() == 5
    lost = forecast.copy(deep=True)
    lost.t[2, 0] = np.nan
    assert np.isfinite(verify.crps(lost, truth))
    members = normal(3, member=5, time=6, x=3)
    members[4, 1, 2] = np.nan
    assert np.isnan(verify.crps(members, truth))
    np.testing.assert_array_equal(np.isnan(verify.crps(members, truth, "x")), np.arange(6) == 1)


def test_spreads_convert_without_the_zero_of_the_unit():
    forecast, truth = gaussian(time=6), normal(time=6)
    celsius = xr.Dataset({"t": forecast.t - 273.15, "t_std": forecast.t_std})
    for v in celsius.data_vars.values():
        v.attrs["units"] = "degC"
    converted = verify.crps(celsius, truth, convert_units=True)
    assert converted.item() == pytest.approx(verify.crps(forecast, truth).item(), rel=1e-12)
    with pytest.raises(ValueError, match="different units"):
        verify.crps(celsius, truth)


def test_a_gaussian_covers_its_levels_and_an_over_confident_one_less():
    mean = normal(1, time=8000)
    truth = (mean + 2.0 * normal(2, time=8000)).assign_attrs(mean.attrs)
    forecast = xr.Dataset({"t": mean, "t_std": xr.full_like(mean, 2.0)})
    levels = [0.5, 0.9, 0.95]
    covered = verify.coverage(forecast, truth, level=levels)
    assert covered.level.values.tolist() == levels
    np.testing.assert_allclose(covered, levels, atol=0.01)
    assert verify.coverage(forecast.assign(t_std=forecast.t_std / 2), truth).item() == pytest.approx(
        2 * stats.norm.cdf(stats.norm.ppf(0.95) / 2) - 1, abs=0.01
    )
    members = (mean + 2.0 * normal(3, member=19, time=8000)).assign_attrs(mean.attrs)
    assert verify.coverage(members, truth, level=0.9).item() == pytest.approx(0.9, abs=0.01)
    quantiles = xr.concat(
        [mean - 3.2897, mean, mean + 3.2897], xr.DataArray([0.05, 0.5, 0.95], dims="quantile", name="quantile")
    )
    np.testing.assert_allclose(
        verify.coverage(quantiles.assign_attrs(mean.attrs), truth, level=0.9), covered[1], atol=1e-4
    )


def test_the_probability_integral_transform_of_calibrated_forecasts_is_uniform():
    mean = normal(1, time=5000)
    truth = (mean + normal(2, time=5000)).assign_attrs(mean.attrs)
    forecast = xr.Dataset({"t": mean, "t_std": xr.ones_like(mean)})
    members = (mean + normal(3, member=9, time=5000)).assign_attrs(mean.attrs)
    levels = np.arange(0.02, 1, 0.02)
    quantiles = (mean + xr.DataArray(stats.norm.ppf(levels), {"quantile": levels}, ("quantile",))).assign_attrs(
        mean.attrs
    )
    gaussian_pit = verify.pit(forecast, truth)
    np.testing.assert_allclose(gaussian_pit, stats.norm.cdf(truth, mean, 1))
    assert stats.kstest(gaussian_pit, "uniform").pvalue > 0.01
    inside = (gaussian_pit > 0.02) & (gaussian_pit < 0.98)
    np.testing.assert_allclose(verify.pit(quantiles, truth).where(inside), gaussian_pit.where(inside), atol=0.003)
    ranks = np.histogram(verify.pit(members, truth), np.linspace(0, 1, 11))[0]
    assert stats.chisquare(ranks).pvalue > 0.01


def test_skill_of_crps_is_one_minus_the_ratio():
    forecast, truth = gaussian(time=50), normal(time=50)
    climate = xr.Dataset({"t": 0 * truth, "t_std": xr.ones_like(truth)})
    climate["t"].attrs = climate["t_std"].attrs = truth.attrs
    found = verify.skill(forecast, truth, climate, score=verify.crps)
    assert found.item() == pytest.approx(1 - verify.crps(forecast, truth).item() / verify.crps(climate, truth).item())
    both = verify.skill(forecast, truth.to_dataset(), climate, score=verify.crps)
    assert both.t.item() == pytest.approx(found.item())
    assert verify.rmse(forecast, truth.to_dataset()).t.item() == verify.rmse(forecast.t, truth).item()


@pytest.mark.parametrize("chunks", [{"time": 7, "x": 2}])
def test_lazy_equals_eager_and_computes_nothing(chunks):
    forecast, truth = gaussian(time=12, x=3), normal(time=12, x=3)
    members = normal(3, member=6, time=12, x=3)
    quantiles = members.rename(member="quantile").assign_coords(quantile=np.arange(1, 7) / 7)
    quantiles = quantiles.copy(data=np.sort(quantiles.values, 0))

    def scores(f, m, q, t):
        return [
            verify.crps(f, t, "time"),
            verify.crps(m, t, "time"),
            verify.crps(q, t, "time"),
            verify.log_score(f, t),
            verify.coverage(f, t, level=[0.5, 0.9]),
            verify.coverage(m, t, "time", level=0.5),
            verify.pit(f, t),
            verify.pit(m, t),
            verify.pit(q, t),
        ]

    with dask.config.set(scheduler=raising_scheduler):
        lazy = scores(
            forecast.chunk(chunks),
            members.chunk(member=2, **chunks),
            quantiles.chunk(quantile=4, **chunks),
            truth.chunk(chunks),
        )
    assert all(s.chunks is not None for s in lazy)
    for a, b in zip(lazy, scores(forecast, members, quantiles, truth), strict=True):
        xr.testing.assert_allclose(a.compute(scheduler="synchronous"), b, rtol=1e-12)


TRUTH = normal(time=5)
REFUSED = {
    "no distribution": (lambda: verify.crps(TRUTH, TRUTH), r"is no distribution.*'member' or 'quantile'.*point=True"),
    "no spread": (
        lambda: verify.crps(TRUTH.to_dataset(), TRUTH),
        r"says of temperature no standard deviation.*'t' and 't_std'",
    ),
    "quantiles without levels": (
        lambda: verify.crps(TRUTH.expand_dims(quantile=2), TRUTH),
        "no levels in ascending order",
    ),
    "one member": (lambda: verify.crps(TRUTH.expand_dims(member=1), TRUTH), "2 or more along 'member'"),
    "a level that is no quantile": (
        lambda: verify.coverage(TRUTH.expand_dims(quantile=[0.1, 0.9]), TRUTH, level=0.9),
        r"no quantile 0.05.*0.1, 0.9",
    ),
    "a level in percent": (lambda: verify.coverage(TRUTH.expand_dims(member=3), TRUTH, level=90), "0 < level < 1"),
    "the density of members": (
        lambda: verify.log_score(TRUTH.expand_dims(member=3).to_dataset(), TRUTH),
        "standard deviation",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_distribution_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()
