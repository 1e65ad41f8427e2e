"""Steps that hold a network: what they add up to, whose weights they train, and the loss they are trained by."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from physml import _backend, networks
from physml.assimilation import RK4, Corrected, CorrectedTendency, MultistepLoss, NetworkStep, Residual, multistep_loss
from physml.assimilation.learning.training import Windows, trainer
from physml.testbeds import lorenz96

RNG = np.random.default_rng(5)


@keras.saving.register_keras_serializable(package="tests")
def halved(x):
    """A step known."""
    return 0.5 * x


@keras.saving.register_keras_serializable(package="tests")
def tenth(x):
    """An increment."""
    return 0.1 * x


@keras.saving.register_keras_serializable(package="tests")
def driven(x, forcing):
    """An increment by the forcing."""
    return forcing - x


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


@pytest.mark.parametrize(
    ("step", "forcing", "expected"),
    [
        (NetworkStep(halved, state_names=["x"]), None, 1.0),
        (Residual(tenth, time_step="1D"), None, 2.2),
        (Residual(driven), 5.0, 5.0),
        (Corrected(halved, tenth), None, 1.2),
        (RK4(CorrectedTendency(tenth, tenth), 1.0), None, 2.0 * (1 + 0.2 + 0.02 + 0.2**3 / 6 + 0.2**4 / 24)),
    ],
)
def test_a_step_is_what_it_says_and_survives_serialisation(step, forcing, expected):
    x = np.full((1, 3, 1), 2.0, "float32")
    held = () if forcing is None else (np.full((1, 3, 1), forcing, "float32"),)
    assert numpy(step(x, *held)) == pytest.approx(expected, rel=1e-6)
    again = type(step).from_config(step.get_config())
    assert np.array_equal(numpy(again(x, *held)), numpy(step(x, *held)))
    assert again.compute_output_shape((None, 3, 1)) == (None, 3, 1)
    assert getattr(again, "state_names", None) == getattr(step, "state_names", None)


def test_a_correction_is_in_units_per_time_and_leaves_the_known_model_alone():
    known = RK4(networks.bilinear_tendency([8], boundary=["periodic"], products=1), 0.25)
    step = Corrected(known, tenth)
    x = RNG.normal(size=(2, 8, 1)).astype("float32")
    np.testing.assert_allclose(numpy(step(x)), numpy(known(x)) + 0.25 * 0.1 * x, rtol=1e-5, atol=1e-6)
    assert step.trainable_variables == []
    assert step.time_step == 0.25


def test_missing_targets_weigh_nothing_even_in_the_gradient():
    target = RNG.normal(size=(3, 2, 4, 1))
    weights = RNG.uniform(1, 2, (3, 2, 4, 1))
    target[RNG.random(target.shape) < 0.3] = np.nan
    there = np.isfinite(target)
    x = RNG.normal(size=target.shape)
    expected = np.sum((weights * (x - target) ** 2)[there]) / weights[there].sum()
    value, slope = _backend.value_and_gradient(lambda p: multistep_loss(p, target, weights), x)
    assert value == pytest.approx(expected, rel=1e-12)
    analytic = np.where(there, 2 * weights * (x - np.nan_to_num(target)) / weights[there].sum(), 0.0)
    np.testing.assert_allclose(slope, analytic, rtol=1e-12, atol=1e-15)


def test_the_loss_takes_weights_by_lead_and_beside_the_target():
    y, x = RNG.normal(size=(2, 2, 3, 4, 1))
    own = RNG.uniform(1, 2, y.shape)
    leads = (1.0, 3.0, 2.0)
    w = own * np.reshape(leads, (1, 3, 1, 1))
    loss = MultistepLoss(leads, dtype="float64")
    with _backend.float64():
        value = float(loss(ops.convert_to_tensor(np.concatenate([y, own], -1)), ops.convert_to_tensor(x)))
    assert value == pytest.approx(np.sum(w * (x - y) ** 2) / w.sum(), rel=1e-6)
    assert MultistepLoss.from_config(loss.get_config()).lead_weights == list(leads)


def test_windows_are_cut_from_whole_states_and_drawn_anew_by_epoch():
    states = np.arange(30.0)[:, None, None] * np.ones((1, 2, 1))
    states[7, 0] = np.nan
    data = Windows(states, 3, variance=np.ones_like(states), batch_size=6, seed=(1, 2))
    starts = [numpy(data[i][0])[:, 0, 0] for i in range(len(data))]
    x, y = data[0]
    assert y.shape == (6, 3, 2, 2) and len(data) == 4
    assert np.array_equal(y[:, 2, 1, 0], x[:, 1, 0] + 3)
    assert 7 not in np.concatenate(starts) and np.isnan(states[7, 0]).all()
    before = np.concatenate(starts)
    data.on_epoch_end()
    assert not np.array_equal(before, np.concatenate([data[i][0][:, 0, 0] for i in range(len(data))]))
    again = Windows(states, 3, variance=np.ones_like(states), batch_size=6, seed=(1, 2))
    assert np.array_equal(before, np.concatenate([again[i][0][:, 0, 0] for i in range(len(again))]))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_tendency_of_lorenz_1996_is_learned_from_its_trajectory():
    truth = lorenz96.simulate(300, n=12, seed=2).x.values[..., None].astype("float32")
    step = RK4(networks.bilinear_tendency([12], boundary=["periodic"], products=6), 0.05)
    model = trainer(step, (12, 1), leads=2, learning_rate=0.03)
    model.fit(Windows(truth, 2, batch_size=64), epochs=60, shuffle=False, verbose=0)
    error = numpy(step(truth[:-1])) - truth[1:]
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.sqrt(np.mean(np.diff(truth, axis=0) ** 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Residual("network"), "Residual: network cannot be called"),
        (lambda: trainer(RK4(tenth, 1.0), (3, 1), leads=2), "the step has no weights to train"),
        (lambda: trainer(tenth, (3, 1), leads=2), "the step has no weights"),
        (lambda: Windows(np.zeros((3, 2, 1)), 3), "the trajectory is too short"),
        (lambda: Windows(np.full((9, 2, 1), np.nan), 3), "no state is whole"),
        (lambda: Windows(np.zeros((9, 2, 1)), 3, variance=np.ones((9, 2))), "the variances do not fit the states"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_in_double_precision_is_corrected_in_single():
    with _backend.float64():
        known = RK4(lambda x: -x, 0.1, dtype="float64")
        state = keras.ops.ones((1, 3, 1))
        assert float(Corrected(known, lambda x: 0.5 * x)(state)[0, 0, 0]) == pytest.approx(
            np.exp(-0.1) + 0.05, rel=1e-6
        )
        twice = CorrectedTendency(NetworkStep(lambda x: -x, dtype="float64"), lambda x: 0.5 * x)
        assert float(twice(state)[0, 0, 0]) == -0.5
