"""Diagnostics tell a sound ensemble, and sound error statistics, from unsound ones, by known answers."""

import numpy as np
import pytest
import xarray as xr

from physml.assimilation import (
    chi_square,
    crps,
    desroziers,
    dfs,
    forecast_skill_horizon,
    influence,
    power_spectrum,
    rank_histogram,
    spread_skill,
)


def normal(seed=0, **sizes) -> xr.DataArray:
    values = np.random.default_rng(seed).standard_normal(tuple(sizes.values()))
    return xr.DataArray(values, dims=tuple(sizes), attrs={"units": "K"})


@pytest.fixture(scope="module")
def sound():
    """Return forty members and a truth from one distribution, whose width differs from case to case."""
    width = xr.DataArray(np.linspace(0.5, 3.0, 20_000), dims="case")
    return (width * normal(1, member=40, case=20_000)).assign_attrs(units="K"), (
        width * normal(2, case=20_000)
    ).assign_attrs(units="K")


def test_the_spread_of_a_sound_ensemble_is_its_error_in_every_bin(sound):
    found = spread_skill(*sound, bins=5)
    assert float(found.ratio) == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(found.spread / found.rmse, 1.0, atol=0.06)
    assert float(found.spread[-1]) > 3 * float(found.spread[0])
    assert int(found["count"].sum()) == 20_000 and found.spread.attrs["units"] == found.rmse.attrs["units"] == "K"


def test_half_the_spread_gives_half_the_ratio_to_the_error_that_remains(sound):
    members, truth = sound
    mean = members.mean("member")
    found = spread_skill((mean + 0.5 * (members - mean)).assign_attrs(units="K"), truth)
    assert float(found.ratio) == pytest.approx(0.5, abs=0.01)


def test_observations_for_truth_need_their_errors(sound):
    members, truth = sound
    observed = (truth + 2.0 * normal(3, case=20_000)).assign_attrs(units="K")
    assert float(spread_skill(members, observed).ratio) < 0.8
    assert float(spread_skill(members, observed, error_std=2.0).ratio) == pytest.approx(1.0, abs=0.02)
    assert float(rank_histogram(members, observed).convexity) > 20
    assert float(rank_histogram(members, observed, error_std=2.0).p_value) > 1e-3


def test_the_ranks_of_a_sound_ensemble_are_flat_and_those_of_others_are_not(sound):
    members, truth = sound
    flat = rank_histogram(members, truth)
    assert flat["count"].sizes["rank"] == 41 and int(flat["count"].sum()) == 20_000
    assert float(flat.p_value) > 1e-3 and abs(float(flat.slope)) < 4 and abs(float(flat.convexity)) < 4
    assert float(rank_histogram(0.7 * members, truth).convexity) > 20
    assert float(rank_histogram(1.5 * members, truth).convexity) < -20
    assert float(rank_histogram(members - 0.5, truth).slope) > 20
    parts = flat.slope**2 + flat.convexity**2
    assert float(parts) <= float(flat.chi2)


def test_ties_are_broken_evenly_and_missing_cases_do_not_count():
    dry = xr.zeros_like(normal(member=4, case=50_000))
    truth = xr.zeros_like(dry.isel(member=0)).where(np.arange(50_000) % 5 > 0)
    found = rank_histogram(dry, truth)
    assert int(found["count"].sum()) == 40_000 and float(found.p_value) > 1e-3


def test_ranks_and_crps_stay_lazy_and_do_not_depend_on_chunks(sound, no_compute):
    members, truth = sound[0].isel(case=slice(3000), member=slice(8)), sound[1].isel(case=slice(3000))
    chunked = members.chunk(case=700, member=6), truth.chunk(case=700)
    with no_compute():
        ranks, score = rank_histogram(*chunked, error_std=1.0), crps(*chunked)
    xr.testing.assert_allclose(ranks, rank_histogram(members, truth, error_std=1.0))
    assert float(score) == pytest.approx(float(crps(members, truth)), rel=1e-12)


def test_the_fair_crps_of_a_sound_ensemble_is_that_of_its_distribution(sound):
    members, truth = sound
    # E |X - Y| / 2 for two normal numbers of standard deviation s is s / sqrt(pi).
    expected = 1.75 / np.sqrt(np.pi)
    score = crps(members, truth)
    assert float(score) == pytest.approx(expected, rel=0.02) and score.attrs["units"] == "K"
    # Few members stand in for the distribution at a cost of one part in their number.
    few = crps(members.isel(member=slice(4)), truth, fair=False)
    assert float(few) == pytest.approx(1.25 * expected, rel=0.02)


def test_a_single_forecast_has_its_absolute_error_for_crps():
    error = crps(normal(member=1, case=50), 0 * normal(case=50), fair=False, dim=[])
    np.testing.assert_allclose(error, abs(normal(member=1, case=50)[0]), rtol=1e-12)


def test_chi_square_is_one_and_its_interval_holds_as_often_as_it_says():
    innovation = 3.0 * normal(time=2000, site=15)
    found = chi_square(innovation, 3.0, dim="site")
    inside = ((found.chi2 > found.low) & (found.chi2 < found.high)).mean()
    assert float(inside) == pytest.approx(0.95, abs=0.02)
    assert float(chi_square(innovation, 1.5).chi2) == pytest.approx(4.0, rel=0.03)
    gaps = chi_square(innovation.where(innovation.site > 20), 3.0, dim="site")
    assert gaps["count"].max() == 0 and gaps.chi2.isnull().all() and gaps.low.isnull().all()


@pytest.fixture(scope="module")
def linear():
    """Return B, R, and innovations and residuals of 40 000 analyses of three sites that know both."""
    b = 2.0 * np.exp(-abs(np.subtract.outer(np.arange(3), np.arange(3))) / 2.0)
    r = np.diag([0.5, 1.0, 1.5]) + 0.2
    rng = np.random.default_rng(4)
    innovation = rng.multivariate_normal(np.zeros(3), b + r, 40_000)
    kalman = b @ np.linalg.inv(b + r)
    residual = innovation - innovation @ kalman.T
    return b, r, kalman, *(xr.DataArray(a, dims=("time", "site"), attrs={"units": "m"}) for a in (innovation, residual))


def test_desroziers_finds_both_covariances_of_an_analysis_that_knows_them(linear):
    b, r, kalman, innovation, residual = linear
    found = desroziers(innovation, residual, dim="time", between="site")
    # Sampling: a covariance of n products of standard normal numbers is known to some sqrt(2 / n).
    tolerance = 5 * np.sqrt(2 / 40_000) * np.diag(b + r).max()
    np.testing.assert_allclose(found.R, r, atol=tolerance)
    np.testing.assert_allclose(found.B, b, atol=tolerance)
    np.testing.assert_allclose(found.analysis_error_std**2, np.diag(b - kalman @ b), atol=tolerance)
    np.testing.assert_allclose(found.innovation_std**2, np.diag(b + r), atol=tolerance)
    assert found.R.dims == ("site", "site_2") and found.observation_error_std.attrs["units"] == "m"


def test_desroziers_says_by_what_factor_the_errors_used_are_wrong(linear):
    b, r, _, innovation, residual = linear
    sigma_o, expected = (xr.DataArray(np.sqrt(np.diag(m)), dims="site") for m in (r, b + r))
    found = desroziers(innovation, residual, error_std=sigma_o, innovation_std=expected)
    assert float(found.observation_error_factor) == pytest.approx(1.0, abs=0.03)
    assert float(found.background_error_factor) == pytest.approx(1.0, abs=0.03)
    # One number, gain 1/2 used, innovation variance 8: both variances come out as half of it.
    d = 2.0 * np.sqrt(2.0) * xr.DataArray([1.0, -1.0], dims="time")
    one = desroziers(d, 0.5 * d, error_std=1.0, innovation_std=np.sqrt(2.0))
    assert float(one.observation_error_factor) == pytest.approx(2.0, rel=1e-12)
    assert float(one.background_error_factor) == pytest.approx(2.0, rel=1e-12)


def test_desroziers_leaves_out_what_either_lacks_and_says_nan_below_zero():
    d = xr.DataArray([2.0, np.nan, -2.0], dims="time")
    found = desroziers(d, xr.DataArray([-1.0, 7.0, 1.0], dims="time"))
    assert int(found["count"]) == 2 and np.isnan(found.observation_error_std)
    assert float(found.background_error_std) ** 2 == pytest.approx(6.0)


def test_the_estimated_influences_add_up_to_the_trace_of_the_gain():
    b, r = 2.0, xr.DataArray([0.5, 1.0, 4.0], dims="site")
    innovation = np.sqrt(b + r) * normal(time=40_000, site=3)
    gain = b / (b + r)
    found = influence(innovation, (1 - gain) * innovation, np.sqrt(r)).assign_coords(kind=("site", list("aba")))
    np.testing.assert_allclose(dfs(found, dim="time").per_observation, gain, atol=0.02)
    by = dfs(found, by="kind")
    assert by["count"].values.tolist() == [80_000, 40_000]
    np.testing.assert_allclose(by.dfs / 40_000, [float(gain[0] + gain[2]), float(gain[1])], rtol=0.03)
    assert float(dfs(found).dfs) == pytest.approx(float(by.dfs.sum()), rel=1e-12)


@pytest.mark.parametrize("n", [16, 17])
def test_the_spectrum_of_a_periodic_field_adds_up_to_its_variance(n):
    x = normal(time=3, site=n).assign_coords(site=("site", 30.0 * np.arange(n), {"units": "m"}))
    power = power_spectrum(x, "site", periodic=True)
    np.testing.assert_allclose(power.sum("wavenumber"), x.var("site"), rtol=1e-12)
    assert power.sizes["wavenumber"] == n // 2 and power.attrs["units"] == "K2"
    np.testing.assert_allclose(power.frequency, power.wavenumber / (30.0 * n), rtol=1e-12)
    assert power.frequency.attrs["units"] == "1/(m)"


def test_the_spectrum_of_a_series_sees_no_trend_and_keeps_the_variance_of_noise(no_compute):
    x = normal(run=400, time=64)
    trend = xr.DataArray(5.0 * np.arange(64.0), dims="time")
    power = power_spectrum(x, "time", periodic=False).mean("run")
    assert float(power.sum()) == pytest.approx(1.0, abs=0.05)
    # Half as much at the shortest wave, which has no partner of opposite sign.
    np.testing.assert_allclose(power[2:-1], 2 / 64, rtol=0.25)
    xr.testing.assert_allclose(power_spectrum(x + trend, "time", periodic=False).mean("run"), power, atol=1e-9)
    with no_compute():
        lazy = power_spectrum(x.chunk(run=100, time=10), "time", periodic=False).mean("run")
    xr.testing.assert_allclose(lazy, power)


def test_the_horizon_of_growing_errors_is_where_they_cross():
    lead = xr.Variable("lead", np.arange(0, 8, 0.05), {"units": "d"})
    rate = xr.DataArray([0.5, 1.0, 2.0, 0.0], dims="start")
    error = (0.01 * np.exp(rate * xr.DataArray(lead, {"lead": lead}))).assign_coords(lead=lead)
    found = forecast_skill_horizon(error, 2.0, threshold=0.25)
    np.testing.assert_allclose(found[:3], np.log(50) / rate[:3], atol=1e-3)
    assert found.reached.values.tolist() == [True, True, True, False] and found.attrs["units"] == "d"
    assert float(found[3]) == pytest.approx(7.95)


def test_a_forecast_that_blows_up_has_a_horizon_and_one_with_gaps_has_none():
    error = xr.DataArray([[0.0, 0.1, np.inf], [0.9, 0.1, 0.2]], {"lead": [1.0, 2.0, 3.0]}, ("start", "lead"))
    assert forecast_skill_horizon(error, 1.0).values.tolist() == [2.0, 1.0]
    with pytest.raises(ValueError, match="an error is missing before the threshold is passed"):
        forecast_skill_horizon(error.where(error < 1), 1.0)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: spread_skill(normal(member=1, x=3), normal(x=3)), "2 or more along 'member'"),
        (lambda: spread_skill(normal(member=2, x=3), normal(x=3), bins=4), "1 to 3, the number of cases"),
        (lambda: crps(normal(member=2, x=3), normal(x=3).assign_attrs(units="m")), "units"),
        (lambda: rank_histogram(normal(ens=2, x=3), normal(x=3)), "pass one variable, and member="),
        (lambda: chi_square(normal(x=3), 1.0, dim="y"), "no dimension 'y'"),
        (lambda: desroziers(normal(x=3), normal(x=3).assign_attrs(units="m")), "different units"),
        (lambda: desroziers(normal(x=3, y=2), normal(x=3, y=2), between="z"), "no dimension 'z'"),
        (lambda: desroziers(normal(time=3, obs=4), normal(time=3, site=4)), "not of the same observations"),
        (lambda: influence(normal(time=3), normal(time=3, site=4), 1.0), "not of the same observations"),
        (
            lambda: desroziers(normal(x=2).assign_coords(x=[1, 2]), normal(x=2).assign_coords(x=[2, 3])),
            "different labels",
        ),
        (lambda: dfs(normal(x=3), by="kind"), "cannot sum by 'kind'"),
        (lambda: power_spectrum(normal(x=3), "y", periodic=True), "no spectrum along 'y'"),
        (lambda: power_spectrum(normal(x=3).assign_coords(x=[1, 2, 4]), "x", periodic=True), "not evenly spaced"),
        (lambda: power_spectrum(normal(x=3).where([True, False, True]), "x", periodic=True), "needs all values"),
        (lambda: forecast_skill_horizon(normal(x=3), 1.0), "the errors have no lead time"),
        (lambda: forecast_skill_horizon(normal(lead=2).assign_coords(lead=[2, 1]), 1.0), "sortby"),
    ],
)
def test_bad_arguments_are_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()
