"""Each loss is the formula of the paper it names, with the gradients that follow from it."""

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import scores.probability
import xarray as xr
from keras import ops

from physml import losses

RNG = np.random.default_rng(0)
TRUTH, MEAN = RNG.normal(size=(2, 50)).astype("float32")
STD = RNG.uniform(0.2, 3, 50).astype("float32")


def value(x):
    return ops.convert_to_numpy(x)


def gaussian():
    return np.stack([MEAN, STD], -1)


def test_the_gaussian_likelihood_is_that_of_scipy():
    expected = -scipy.stats.norm.logpdf(TRUTH, MEAN, STD)
    np.testing.assert_allclose(value(losses.gaussian_nll(TRUTH, gaussian())), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_weighs_the_likelihood_by_the_variance(beta):
    found = value(losses.beta_nll(TRUTH, gaussian(), beta))
    np.testing.assert_allclose(found, STD ** (2 * beta) * value(losses.gaussian_nll(TRUTH, gaussian())), rtol=1e-5)


def test_with_beta_one_the_mean_is_trained_as_by_half_the_squared_error():
    v = keras.Variable(gaussian())
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = ops.sum(losses.beta_nll(TRUTH, v + 0, beta=1.0))
        grad = tape.gradient(loss, v.value).numpy()
    else:
        import jax

        grad = np.asarray(jax.grad(lambda p: ops.sum(losses.beta_nll(TRUTH, p, beta=1.0)))(gaussian()))
    np.testing.assert_allclose(grad[:, 0], MEAN - TRUTH, rtol=1e-4, atol=1e-5)


def test_the_crps_of_a_gaussian_is_the_integral_of_its_definition():
    for y, m, s in zip(TRUTH[:4], MEAN[:4], STD[:4], strict=True):
        below = scipy.integrate.quad(lambda t, m=m, s=s: scipy.stats.norm.cdf(t, m, s) ** 2, -30, y, limit=200)[0]
        above = scipy.integrate.quad(lambda t, m=m, s=s: scipy.stats.norm.sf(t, m, s) ** 2, y, 30, limit=200)[0]
        assert float(losses.gaussian_crps(y, np.array([m, s]))) == pytest.approx(below + above, rel=1e-5)


def test_the_crps_of_many_quantiles_is_that_of_the_gaussian():
    levels = (np.arange(400) + 0.5) / 400
    q = MEAN[:, None] + STD[:, None] * scipy.stats.norm.ppf(levels).astype("float32")
    found = value(losses.quantile_crps(TRUTH, q, levels))
    np.testing.assert_allclose(found, value(losses.gaussian_crps(TRUTH, gaussian())), rtol=6e-3, atol=2e-3)


def test_quantiles_of_equal_shares_have_twice_the_mean_pinball_loss_as_crps():
    levels = [0.125, 0.375, 0.625, 0.875]
    q = np.sort(RNG.normal(size=(50, 4)).astype("float32"))
    twice = 2 * value(losses.pinball(TRUTH, q, levels))
    np.testing.assert_allclose(value(losses.quantile_crps(TRUTH, q, levels)), twice, rtol=1e-5)


def test_the_pinball_loss_is_least_at_the_quantile_of_the_sample():
    y = RNG.gamma(2.0, size=4000).astype("float32")
    tried = np.linspace(0, 8, 801).astype("float32")
    for level in (0.1, 0.5, 0.9):
        risk = ops.convert_to_numpy(ops.mean(losses.pinball(y[:, None], tried[None, :, None], [level]), axis=0))
        assert tried[int(np.argmin(risk))] == pytest.approx(np.quantile(y, level), abs=0.011)


@pytest.mark.parametrize(("loss", "method"), [(losses.fair_crps, "fair"), (losses.ensemble_crps, "ecdf")])
@pytest.mark.parametrize("n", [2, 7])
def test_the_crps_of_an_ensemble_is_that_of_scores(loss, method, n):
    members = RNG.normal(size=(50, n)).astype("float32")
    expected = scores.probability.crps_for_ensemble(
        xr.DataArray(members, dims=("x", "member")),
        xr.DataArray(TRUTH, dims="x"),
        "member",
        method=method,
        preserve_dims="x",
    )
    np.testing.assert_allclose(value(loss(TRUTH, members)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("loss", "slope"), [(losses.ensemble_crps, 0.0), (losses.fair_crps, -1 / 25)])
def test_fixed_members_at_equal_shares_are_best_for_one_score_and_pushed_outwards_by_the_fair_one(loss, slope):
    n, y = 5, scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    ends = []
    for step in (1e-3, -1e-3):
        members = scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)
        members[-1] += step
        ends.append(np.mean(value(loss(y, np.tile(members, (len(y), 1))))))
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(slope, abs=1e-3)


def test_cross_entropy_focal_and_brier_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], "float32")
    true = np.array([0.0, 1.0], "float32")
    np.testing.assert_allclose(value(losses.cross_entropy(true, p)), -np.log([0.7, 0.1]), rtol=1e-6)
    np.testing.assert_allclose(
        value(losses.focal(true, p, gamma=2)), -np.log([0.7, 0.1]) * np.array([0.3, 0.9]) ** 2, rtol=1e-5
    )
    np.testing.assert_allclose(value(losses.brier(true, p)), [0.09 + 0.04 + 0.01, 0.01 + 0.81 + 0.64], rtol=1e-6)
    weighted = losses.cross_entropy(true, p, class_weights=[2.0, 3.0, 5.0])
    np.testing.assert_allclose(value(weighted), -np.log([0.7, 0.1]) * [2, 3], rtol=1e-6)


def test_a_value_that_is_no_class_is_not_a_loss():
    assert np.isnan(value(losses.cross_entropy(np.float32([np.nan]), np.float32([[0.5, 0.5]])))).all()


def test_the_logarithm_of_a_vanishing_probability_is_finite():
    assert value(losses.cross_entropy(np.float32([1.0]), np.float32([[1.0, 0.0]])))[0] == pytest.approx(30 * np.log(10))


@pytest.mark.parametrize("loss", [losses.gaussian_nll, losses.gaussian_crps])
def test_gradients_vanish_on_average_at_the_true_distribution(loss):
    y = scipy.stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    p = np.array([0.0, 1.0])
    for i in (0, 1):
        ends = []
        for sign in (1, -1):
            q = p.copy()
            q[i] += sign * 1e-4
            ends.append(float(ops.mean(loss(y, np.tile(q, (len(y), 1))))))
        assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(0, abs=2e-3)
