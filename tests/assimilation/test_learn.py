"""Alternating learning: first states from observations alone, a model the better the longer it learns, and a restart to the bit."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr

from physml import networks
from physml.assimilation import (
    ETKF,
    RK4,
    AlternatingLearning,
    EnKS,
    GridObservations,
    OptimalInterpolation,
    PointObservations,
    Residual,
    interpolate_observations,
)
from physml.testbeds import lorenz96
from physml.testbeds.setups import brajard2020

SITES, TIMES = 12, 240


@pytest.fixture(scope="module")
def truth():
    return lorenz96.simulate(TIMES, n=SITES, seed=3)


@pytest.fixture(scope="module")
def observations(truth):
    """Half of the sites, drawn anew at each time, with errors of 0.5."""
    rng = np.random.default_rng(3)
    seen = rng.permuted(np.tile(np.arange(SITES), (TIMES, 1)), axis=1) < SITES // 2
    noisy = (truth.x + 0.5 * rng.standard_normal(truth.x.shape))[1:]
    return GridObservations(noisy.where(seen).rename("x").assign_attrs(truth.x.attrs), 0.5)


@pytest.fixture(scope="module")
def first(observations):
    return interpolate_observations(observations)


def rmse(a, b):
    return float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b)) ** 2)))


def test_optimal_interpolation_knows_its_error_and_cubic_has_that_of_the_paper(truth, first):
    error, expected = rmse(first.x, truth.x[1:]), float(np.sqrt((first.x_std**2).mean()))
    assert error < 1.0 and 0.5 < error / expected < 1.1
    twin = brajard2020.twin(seed=1, cycles=200, members=None)
    cubic = interpolate_observations(GridObservations(twin.observations, 1.0), method="cubic")
    assert rmse(cubic.x, twin.truth.x[1:]) == pytest.approx(2.35, abs=0.25)
    assert np.isfinite(cubic.x.values).all() and first.x.dims == cubic.x.dims == ("time", "site")


def test_optimal_interpolation_is_blue_with_the_sample_covariance_on_a_closed_grid():
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.standard_normal((30, 5, 4)), axis=0)
    values = np.where(rng.random(smooth.shape) < 0.6, smooth, np.nan)
    field = xr.DataArray(values, dims=("time", "y", "x"), coords={"time": np.arange(30.0)}, name="h")
    out = interpolate_observations(GridObservations(field, 0.05), window=2)
    seen = np.isfinite(values)
    # What is observed with little error is kept; what is not lies nearer to the truth than the mean does.
    assert rmse(out.h.values[seen], smooth[seen]) < 0.1
    assert rmse(out.h.values[~seen], smooth[~seen]) < 0.7 * rmse(np.nanmean(values), smooth[~seen])
    assert out.h_std.values[~seen].mean() > 3 * out.h_std.values[seen].mean()


def learner(method=None, **arguments):
    step = RK4(networks.bilinear_tendency([SITES], boundary=["periodic"], products=6), 0.05)
    options = {
        "members": 16,
        "leads": 2,
        "fused": False,
        "epochs": (40, 15),
        "learning_rate": (0.03, 0.01),
        "batch_size": 64,
    }
    method = ETKF(inflation=1.02) if method is None else method
    return AlternatingLearning(step, method, state_names=["x"], **{**options, **arguments}), step


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_analyses_get_better_round_by_round_and_a_stopped_learning_goes_on_to_the_bit(
    truth, observations, first, tmp_path
):
    learning, step = learner()
    learnt = learning.run(observations, first, cycles=2, truth=truth, burn_in=10)
    assert learnt.log.index.tolist() == [0, 1, 2]
    assert learnt.log.rmse[2] < learnt.log.rmse[0] and learnt.log.loss[2] < learnt.log.loss[0]
    # Innovations are about as large as the filter expects: the model error has been found.
    assert learnt.log.innovation[2] == pytest.approx(learnt.log.expected[2], rel=0.1)
    xr.testing.assert_equal(learnt.analysis.site, first.site)
    assert learnt.analysis.x.dims == ("time", "site") and learnt.analysis.x.attrs["long_name"] == "Lorenz-96 variable"
    assert rmse(learnt.analysis.x[10:], truth.x[11:]) < rmse(first.x[10:], truth.x[11:])
    stopped, _ = learner()
    stopped.run(observations, first, cycles=1, burn_in=10, directory=tmp_path)
    again, other = learner()
    resumed = again.run(observations, first, cycles=2, truth=truth, burn_in=10, directory=tmp_path)
    for a, b in zip(step.variables, other.variables, strict=True):
        assert np.array_equal(np.asarray(a.value), np.asarray(b.value))
    xr.testing.assert_equal(resumed.analysis, learnt.analysis)
    with pytest.raises(ValueError, match="written under other settings"):
        learner(seed=1)[0].run(observations, first, cycles=2, burn_in=10, directory=tmp_path)
    others = GridObservations(observations.values + 0.1, 0.5)
    with pytest.raises(ValueError, match="written under other settings"):
        learner()[0].run(others, first, cycles=2, burn_in=10, directory=tmp_path)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_smoother_gives_smoothed_analyses_at_their_own_times(truth, observations, first):
    learning, _ = learner(EnKS(smoothing_lag=3), epochs=(40, 1))
    learnt = learning.run(observations, first, cycles=1, truth=truth, burn_in=10)
    x, true = learnt.analysis.x.values, truth.x.values[1:]
    own = rmse(x[10:], true[10:])
    assert own == pytest.approx(learnt.log.rmse[1], rel=0.1)
    assert own < rmse(x[10:-1], true[11:]) and own < rmse(x[11:], true[10:-1])
    # Later observations have made it surer; the last analysis has none.
    assert float(learnt.analysis.x_std[10:-3].mean()) < 0.95 * float(learnt.analysis.x_std[-1].mean())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_step_that_blows_up_is_named(observations, first):
    step = Residual(keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(1e3)))
    learning = AlternatingLearning(step, ETKF(), state_names=["x"], time_step=0.05, epochs=1, learning_rate=1e-9)
    with pytest.raises(ValueError, match=r"the forecast is not finite after .* Remedy: train it longer"):
        learning.run(observations, first, cycles=1)


def test_what_does_not_fit_is_refused(observations, first):
    with pytest.raises(ValueError, match="the method knows no ensemble"):
        learner(OptimalInterpolation(background_error=1.0))
    points = PointObservations([1.0, 2.0], [0.0, 1.0], [0.0, 1.0], time=[0.05, 0.1], error_std=1.0)
    with pytest.raises(ValueError, match="there are no first states"):
        learner()[0].run(points)
    with pytest.raises(ValueError, match="first states do not fit the observations"):
        learner()[0].run(observations, first.isel(time=slice(0, 50)))
    with pytest.raises(ValueError, match="interpolate_observations: unknown method"):
        interpolate_observations(observations, method="linear")
    with pytest.raises(ValueError, match="too few observations"):
        interpolate_observations(GridObservations(observations.values.where(observations.values > 1e9), 1.0))
    with pytest.raises(ValueError, match="the step has no weights"):
        step = RK4(keras.saving.get_registered_object("tests>tenth") or (lambda x: 0.1 * x), 0.05)
        AlternatingLearning(step, ETKF(), state_names=["x"]).run(observations, first)
