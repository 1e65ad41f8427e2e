"""Intervals hold as often as they say, equal those of scores computed anew, and follow the memory of the errors."""

from __future__ import annotations

import functools

import dask
import numpy as np
import pytest
import xarray as xr

from physml import verify
from physml.verify.resampling import starts_of

TIME = xr.date_range("2000-01-01", periods=60, freq="MS")


def raising_scheduler(*args, **kwargs):
    raise AssertionError("computed too early")


def red_noise(rng, size: int, memory: float, *others: int) -> np.ndarray:
    """A stationary AR(1) series of variance one along the first axis."""
    e = rng.normal(size=(size + 200, *others))
    x = np.zeros_like(e)
    x[0] = e[0]
    for t in range(1, len(e)):
        x[t] = memory * x[t - 1] + np.sqrt(1 - memory**2) * e[t]
    return x[200:]


def pair(seed: int = 0) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Truth on time and space with land, a forecast with leads, and a worse one."""
    rng = np.random.default_rng(seed)
    coords = {"time": TIME, "lat": [-30.0, 0.0, 30.0], "lon": [0.0, 90.0]}
    truth = xr.DataArray(
        rng.normal(size=(60, 3, 2)), coords, ("time", "lat", "lon"), "sst", {"units": "K", "long_name": "SST"}
    )
    truth[:, 0, 0] = np.nan
    truth[3] = np.nan
    lead = xr.DataArray([0.5, 1.0], coords={"lead": [1, 2]}, dims="lead")
    noise = xr.DataArray(rng.normal(size=(60, 3, 2)), coords, ("time", "lat", "lon"))
    forecast = (truth + lead * noise + 0.2).assign_attrs(truth.attrs)
    worse = (truth + 2 * lead * xr.DataArray(rng.normal(size=(60, 3, 2)), coords, ("time", "lat", "lon"))).assign_attrs(
        truth.attrs
    )
    return forecast, truth, worse


WEIGHTS = xr.DataArray(np.cos(np.deg2rad([-30.0, 0.0, 30.0])), {"lat": [-30.0, 0.0, 30.0]}, ("lat",))
SPACE = ("time", "lat", "lon")


@pytest.mark.parametrize(
    ("score", "arguments"),
    [
        (verify.rmse, {}),
        (verify.mae, {}),
        (verify.bias, {}),
        (verify.acc, {"climatology": 0.1}),
        (verify.acc, {"climatology": 0.1, "centred": False}),
    ],
)
def test_scores_from_sums_by_time_are_those_computed_anew(score, arguments):
    forecast, truth, worse = pair()
    fast = verify.block_bootstrap(score, forecast, truth, SPACE, WEIGHTS, reference=worse, block=4, n=20, **arguments)

    def anew(f, t, dim, weights, **more):
        return score(f, t, dim, weights, **more)

    slow = verify.block_bootstrap(anew, forecast, truth, SPACE, WEIGHTS, reference=worse, block=4, n=20, **arguments)
    names = ["score", "low", "high", "reference"]
    if score is not verify.bias:  # whose difference is that of absolute values
        names += ["difference", "difference_low", "difference_high", "p_value", "significant"]
    for name in names:
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-10, err_msg=name)
    np.testing.assert_allclose(fast.score, score(forecast, truth, SPACE, WEIGHTS, **arguments), rtol=1e-13)


def test_samples_are_whole_blocks_that_go_round():
    rows = starts_of(10, 4, 50, seed=0)
    assert rows.shape == (50, 10)
    for first in (0, 4):
        np.testing.assert_array_equal(np.diff(rows[:, first : first + 4], axis=1) % 10, 1)
    assert set(rows.ravel()) == set(range(10))
    np.testing.assert_array_equal(rows, starts_of(10, 4, 50, seed=0))
    assert (rows != starts_of(10, 4, 50, seed=1)).any()


def test_the_interval_of_the_mean_of_independent_errors_is_students():
    from scipy import stats

    rng = np.random.default_rng(5)
    error = xr.DataArray(rng.normal(size=30), dims="time")
    found = verify.block_bootstrap(verify.bias, error, 0 * error, block=1, n=20000)
    half = stats.t.isf(0.025, 29) * error.std(ddof=1) / np.sqrt(30)
    np.testing.assert_allclose([found.low, found.high], [error.mean() - half, error.mean() + half], atol=0.02)
    truth = xr.DataArray(rng.normal(size=30), dims="time")
    same = verify.block_bootstrap(verify.bias, truth + 0.1, truth, reference=truth - 0.3, block=1, n=50)
    assert same.score.attrs["long_name"] == "mean error of the field"
    np.testing.assert_allclose(same.difference, -0.2)
    assert bool(same.significant)
    assert int(same.better) == 1


def test_the_p_value_and_the_interval_agree_on_what_is_significant():
    rng = np.random.default_rng(1)
    error = xr.DataArray(rng.normal(size=(60, 200)), dims=("time", "case"))
    other = xr.DataArray(rng.normal(1.0, size=(60, 200)), dims=("time", "case")) * 0.9
    found = verify.block_bootstrap(verify.mse, error, 0 * error, reference=other, block=3, n=4000)
    clear = abs(found.p_value - 0.05) > 0.01
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found.significant.where(clear, 0), (found.p_value < 0.05).where(clear, 0))
    assert 0 < int(found.significant.sum()) < 200


def test_forecast_and_reference_are_drawn_together():
    forecast, truth, _ = pair()
    found = verify.block_bootstrap(verify.mse, forecast, truth, SPACE, reference=forecast, n=30)
    np.testing.assert_array_equal(found.difference, 0.0)
    np.testing.assert_array_equal(found.difference_high, 0.0)
    assert not found.significant.any()
    np.testing.assert_array_equal(found.p_value, 1.0)


def test_blocks_grow_with_the_memory_of_the_errors():
    rng = np.random.default_rng(3)
    length = [
        float(verify.block_length(xr.DataArray(red_noise(rng, 1000, m, 40), dims=("time", "case"))).mean())
        for m in (0.0, 0.5, 0.9)
    ]
    assert length[0] < 4 < length[1] < 20 < length[2] < 95
    # For an AR(1) process the optimum is (6 phi^2 / (1 - phi^2)^2 ... n)^(1/3) = (2 G^2 / D n)^(1/3)
    phi = 0.5
    optimum = (1.5 * (2 * phi / (1 - phi**2)) ** 2 * 1000) ** (1 / 3)
    assert length[1] == pytest.approx(optimum, rel=0.2)
    constant = xr.DataArray(np.ones(50), dims="time")
    assert verify.block_length(constant).item() == 1.0


def test_the_default_block_is_that_of_three_quarters_of_the_entries():
    rng = np.random.default_rng(0)
    error = xr.DataArray(red_noise(rng, 500, 0.8, 8), dims=("time", "case"))
    found = verify.block_bootstrap(verify.bias, error, 0 * error, n=10)
    assert int(found.block) == int(np.ceil(np.quantile(verify.block_length(error), 0.75)))


def test_lazy_equals_eager_in_any_chunks_and_computes_nothing():
    forecast, truth, worse = pair()
    eager = verify.block_bootstrap(verify.rmse, forecast, truth, ("time", "lon"), reference=worse, block=3, n=20)
    for chunks in ({"time": 7}, {"lat": 1, "time": 60}):
        with dask.config.set(scheduler=raising_scheduler):
            lazy = verify.block_bootstrap(
                verify.rmse,
                forecast.chunk(chunks),
                truth.chunk(chunks),
                ("time", "lon"),
                reference=worse.chunk(chunks),
                block=3,
                n=20,
            )
        assert all(v.chunks is not None for v in lazy.data_vars.values())
        xr.testing.assert_allclose(lazy.compute(scheduler="synchronous"), eager)
        assert lazy.score.attrs == {"long_name": "root mean square error of SST", "units": "K"}


def test_missing_truth_is_left_out_and_a_missing_forecast_makes_everything_nan():
    forecast, truth, worse = pair()
    broken = forecast.copy(deep=True)
    broken[20, 2, 1, 0] = np.nan
    found = verify.block_bootstrap(verify.rmse, broken, truth, SPACE, reference=worse, block=3, n=20)
    assert np.isnan(found.score.sel(lead=1))
    assert np.isnan(found.low.sel(lead=1))
    assert np.isnan(found.p_value.sel(lead=1))
    assert not found.significant.sel(lead=1)
    assert np.isfinite(found.p_value.sel(lead=2))


def test_all_are_scored_at_the_times_they_share():
    forecast, truth, worse = pair()
    found = verify.block_bootstrap(
        verify.mse, forecast[:50], truth, SPACE, reference=worse.isel(time=slice(10, None)), block=2, n=5
    )
    both = truth.isel(time=slice(10, 50))
    np.testing.assert_allclose(found.score, verify.mse(forecast, both, SPACE))
    np.testing.assert_allclose(found.reference, verify.mse(worse, both, SPACE))


def test_datasets_lay_their_variables_along_one_dimension():
    forecast, truth, worse = pair()
    two = [xr.Dataset({"sst": d, "ssh": (2 * d).assign_attrs(units="m")}) for d in (forecast, truth, worse)]
    found = verify.block_bootstrap(verify.rmse, two[0], two[1], SPACE, reference=two[2], block=3, n=20)
    assert found.variable.values.tolist() == ["sst", "ssh"]
    assert found.units.values.tolist() == ["K", "m"]
    single = verify.block_bootstrap(verify.rmse, forecast, truth, SPACE, reference=worse, block=3, n=20)
    np.testing.assert_allclose(found.low.sel(variable="sst"), single.low)
    np.testing.assert_allclose(found.low.sel(variable="ssh"), 2 * single.low)


def test_a_score_may_be_a_partial_with_arguments():
    forecast, truth, _ = pair()
    held = functools.partial(verify.acc, climatology=0.0)
    a = verify.block_bootstrap(held, forecast, truth, SPACE, block=3, n=10)
    b = verify.block_bootstrap(verify.acc, forecast, truth, SPACE, block=3, n=10, climatology=0.0)
    xr.testing.assert_identical(a, b)


@pytest.mark.long
@pytest.mark.parametrize(("memory", "size"), [(0.0, 400), (0.6, 500), (0.8, 1000)])
def test_intervals_hold_the_true_score_and_the_true_difference_as_often_as_they_say(memory, size):
    rng = np.random.default_rng(11)
    error = red_noise(rng, size, memory, 1000)
    other = 0.6 * error + 0.8 * red_noise(rng, size, memory, 1000)
    a, b = (xr.DataArray(e, dims=("time", "case")) for e in (error, other))
    held = {"rmse": 0, "difference": 0, "bias": 0}
    own = {
        "rmse": verify.block_length(a**2),
        "difference": np.maximum(verify.block_length(a**2), verify.block_length(a**2 - b**2)),
        "bias": verify.block_length(a),
    }
    for name, lengths in own.items():  # each record with the block that it would get alone
        lengths = np.ceil(lengths.values - 1e-9).astype(int)
        for block in np.unique(lengths):
            x, y = a[:, lengths == block], b[:, lengths == block]
            score = verify.bias if name == "bias" else verify.rmse
            more = {"reference": y} if name == "difference" else {}
            found = verify.block_bootstrap(score, x, 0 * x, block=int(block), n=500, **more)
            low, high = (found.difference_low, found.difference_high) if more else (found.low, found.high)
            true = 1.0 if name == "rmse" else 0.0
            held[name] += int(((low < true) & (high > true)).sum())
    for name, inside in held.items():
        assert 0.90 <= inside / 1000 <= 0.97, name


FORECAST, TRUTH, WORSE = pair()
REFUSED = {
    "no time to resample": (
        lambda: verify.block_bootstrap(verify.rmse, FORECAST, TRUTH, ("lat", "lon")),
        r"no dimension 'time' of time to resample.*lat, lon.*along=",
    ),
    "a block as long as the record": (
        lambda: verify.block_bootstrap(verify.rmse, FORECAST, TRUTH, block=31),
        r"record of 60 steps does not hold two blocks. Expected: block <= 30. Received: 31",
    ),
    "a block of nothing": (
        lambda: verify.block_bootstrap(verify.rmse, FORECAST, TRUTH, block=0),
        "length of the blocks",
    ),
    "one sample": (lambda: verify.block_bootstrap(verify.rmse, FORECAST, TRUTH, n=1), "number of samples"),
    "a level in percent": (lambda: verify.block_bootstrap(verify.rmse, FORECAST, TRUTH, level=95), "0 < level < 1"),
    "an unknown direction": (
        lambda: verify.block_bootstrap(verify.rmse, FORECAST, TRUTH, better="lower"),
        "'smaller' or 'larger'",
    ),
    "a score that keeps time": (
        lambda: verify.block_bootstrap(lambda f, t, dim, w: abs(f - t), FORECAST, TRUTH, block=2, n=2),
        "keeps 'time'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_resampled_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_coverage_is_compared_by_how_far_it_is_from_its_level():
    rng = np.random.default_rng(0)
    truth = xr.DataArray(rng.normal(size=400), dims="time", name="t")
    narrow, right = (xr.Dataset({"t": 0 * truth, "t_std": 0 * truth + s}) for s in (0.5, 1.0))
    found = verify.block_bootstrap(verify.coverage, right, truth, reference=narrow, block=2, n=200, level=0.9)
    assert found.score.item() == pytest.approx(verify.coverage(right, truth).item())
    expected = abs(found.score - 0.9) - abs(found.reference - 0.9)
    assert found.difference.item() == pytest.approx(expected.item())
    assert int(found.better) == 1
