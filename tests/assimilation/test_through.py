"""Gradients through several cycles are those of finite differences, and a wrong parameter is found from noisy observations."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr
from keras import ops

from physml import _backend
from physml.assimilation import ETKF, RK4, Cycle, GridObservations, OptimalInterpolation, train_through
from physml.assimilation.learning.through import Through, tensors
from physml.testbeds import lorenz96

SITES, TIMES = 8, 96


@keras.saving.register_keras_serializable(package="tests")
class Forced(keras.layers.Layer):
    """Lorenz 1996 with a forcing that is to be learned."""

    def __init__(self, first, **kwargs):
        super().__init__(dtype="float64", **kwargs)
        self.forcing = self.add_weight(shape=(), initializer=keras.initializers.Constant(first), name="forcing")

    def call(self, x):
        return lorenz96.tendency(x, ops.convert_to_tensor(self.forcing))


@pytest.fixture(scope="module")
def twin():
    """Every other site seen with errors of 0.5, and 10 members about the truth."""
    rng = np.random.default_rng(1)
    truth = lorenz96.simulate(TIMES, n=SITES, seed=4)
    seen = (np.arange(1, TIMES + 1)[:, None] + np.arange(SITES)) % 2 == 0
    values = (truth.x + 0.5 * rng.standard_normal(truth.x.shape))[1:].where(seen)
    noise = xr.DataArray(rng.standard_normal((10, SITES)), dims=("member", "site"))
    initial = xr.Dataset({"x": truth.x[0] + noise}).assign_coords(time=truth.time[0])
    return truth, GridObservations(values.rename("x"), 0.5), initial


def course(method, first, twin, **arguments):
    with _backend.float64():
        step = RK4(Forced(first), 0.05, dtype="float64")
        return step, Cycle(step, method, state_names=["x"], **arguments).course(twin[2], twin[1])


@pytest.mark.parametrize(
    ("method", "parameters", "loss"),
    [
        (ETKF(), {"inflation": 1.1, "model_error": 0.2}, "innovation"),
        (ETKF(rotate=False), {"inflation": 1.1}, "truth"),
        (OptimalInterpolation(background_error=1.5), {"background_error": 1.2}, "innovation"),
    ],
)
def test_the_gradient_through_cycles_is_that_of_finite_differences(twin, method, parameters, loss):
    with _backend.float64():
        _, run = course(method, 7.0, twin)
        through = Through(run, span=3, parameters=parameters, loss=loss, truth=twin[0])
        arguments = (run.start(), *through.arguments(through.spans()[0]))
        arguments = tuple(tensors(a) for a in arguments)
        _, _, slopes = through.gradient(*arguments)
        for variable, slope in zip(through.variables, slopes, strict=True):
            here, sides = float(ops.convert_to_numpy(variable.value)), []
            for step in (-2e-4, -1e-4, 1e-4, 2e-4):
                variable.assign(here + step)
                sides.append(float(through.gradient(*arguments)[0]))
            variable.assign(here)
            numeric = (sides[0] - 8 * sides[1] + 8 * sides[2] - sides[3]) / 12e-4
            assert float(slope) == pytest.approx(numeric, rel=1e-6, abs=1e-9)
            assert abs(numeric) > 1e-6


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_wrong_forcing_is_found_from_noisy_observations_and_training_goes_on_where_it_stopped(twin, tmp_path):
    def train(passes, directory):
        with _backend.float64():
            step = RK4(Forced(7.0), 0.05, dtype="float64")
            cycle = Cycle(step, ETKF(), state_names=["x"])
        rates = [0.1, 0.1, 0.05]
        found = train_through(
            cycle,
            twin[1],
            twin[2],
            span=4,
            passes=passes,
            learning_rate=rates,
            parameters={"inflation": 1.05},
            truth=twin[0],
            directory=directory,
        )
        return float(ops.convert_to_numpy(step.tendency.forcing.value)), found

    forcing, found = train(3, None)
    assert abs(forcing - 8.0) < 0.15
    assert found.log.rmse.iloc[-1] < found.log.rmse.iloc[0]
    assert found.method.inflation == found.parameters["inflation"] != 1.05
    train(1, tmp_path)
    assert train(3, tmp_path)[0] == forcing
    with _backend.float64():
        cycle = Cycle(RK4(Forced(7.0), 0.05, dtype="float64"), ETKF(), state_names=["x"])
    with pytest.raises(ValueError, match="written under other settings"):
        train_through(cycle, twin[1], twin[2], span=5, directory=tmp_path)
    others = GridObservations(twin[1].values + 0.1, 0.5)
    options = {"span": 4, "learning_rate": [0.1, 0.1, 0.05], "parameters": {"inflation": 1.05}}
    with pytest.raises(ValueError, match="written under other settings"):
        train_through(cycle, others, twin[2], directory=tmp_path, **options)


@pytest.mark.parametrize(
    "method",
    [pytest.param(ETKF(rotate=False), marks=pytest.mark.long), OptimalInterpolation(background_error=0.5)],
)
def test_gross_errors_do_not_enter_the_likelihood(twin, method):
    _, seen, members = twin
    start = members if method.ensemble else members.isel(member=0)
    wrong, missing = seen.values.copy(), seen.values.copy()
    wrong[1, 1], missing[1, 1] = 300.0, np.nan
    wrong[1, 0], missing[1, 0] = 300.0, np.nan

    def loss(values):
        with _backend.float64():
            cycle = Cycle(RK4(Forced(8.0), 0.05, dtype="float64"), method, state_names=["x"], gross_error=8.0)
            through = Through(cycle.course(start, GridObservations(values, 0.5)), span=3, parameters={})
            state = through.course.runner.start(through.course.ensemble)
            return float(through.gradient(tensors(state), *map(tensors, through.arguments([0, 1, 2])))[0])

    assert loss(wrong) == pytest.approx(loss(missing), rel=1e-12)


def test_a_cycle_that_blows_up_is_named(twin):
    cycle = Cycle(RK4(lorenz96.tendency, 0.4, dtype="float64"), ETKF(), state_names=["x"])
    with pytest.raises(ValueError, match=r"the loss is not finite about 0\.05"):
        train_through(cycle, twin[1], 20 * twin[2], time_step=0.05, span=4, parameters={"inflation": 1.1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parameters": {"inflatoin": 1.0}}, "unknown parameter 'inflatoin'. Expected: "),
        ({"parameters": {"inflation": 0.0}}, "inflation is not positive"),
        ({"loss": "truth"}, "the loss is not known, or has no truth"),
        ({"parameters": {"background_error": 1.0}}, "ETKF has no background error"),
        ({}, "there is nothing to train"),
        ({"parameters": {"inflation": 1.05}, "burn_in": 1000}, "nothing is left to train on. Expected: at most"),
    ],
)
def test_what_does_not_fit_is_refused(twin, arguments, message):
    cycle = Cycle(RK4(lorenz96.tendency, 0.05, dtype="float64"), ETKF(), state_names=["x"])
    with pytest.raises(ValueError, match=message):
        train_through(cycle, twin[1], twin[2], **arguments)
