"""Losses of distributions: functions of the truth ``[...]`` and of parameters ``[..., parameter]`` that return ``[...]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

LEAST_PROBABILITY = 1e-30
"""Below this a probability counts as this: the logarithm stays finite in float32."""


def gaussian_nll(truth: Any, parameters: Any) -> Any:
    """Return the negative logarithm of a Gaussian likelihood.

    Parameters
    ----------
    truth
        ``[...]``.
    parameters
        ``[..., 2]``: mean and standard deviation.
    """
    mean, std = parameters[..., 0], parameters[..., 1]
    return ops.log(std) + 0.5 * ops.square((truth - mean) / std) + 0.5 * math.log(2 * math.pi)


def beta_nll(truth: Any, parameters: Any, beta: float = 0.5) -> Any:
    """Return the negative logarithm of a Gaussian likelihood, weighted by the variance to the power *beta*.

    The weight carries no gradient. With 0 it is the likelihood, whose gradient for the mean fades where the variance is large;
    with 1 the mean is trained as by the squared error.

    References
    ----------
    Seitzer et al. (2022), On the pitfalls of heteroscedastic uncertainty estimation, ICLR, doi:10.48550/arXiv.2203.09168.
    """
    weight = ops.stop_gradient(parameters[..., 1]) ** (2 * beta)
    return weight * gaussian_nll(truth, parameters)


def gaussian_crps(truth: Any, parameters: Any) -> Any:
    """Return the continuous ranked probability score of a Gaussian, in the units of the truth.

    Parameters
    ----------
    truth
        ``[...]``.
    parameters
        ``[..., 2]``: mean and standard deviation.

    References
    ----------
    Gneiting and Raftery (2007), Strictly proper scoring rules, doi:10.1198/016214506000001437.
    """
    mean, std = parameters[..., 0], parameters[..., 1]
    z = (truth - mean) / std
    density = ops.exp(-0.5 * ops.square(z)) / math.sqrt(2 * math.pi)
    return std * (z * ops.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def pinball(truth: Any, parameters: Any, levels: Sequence[float]) -> Any:
    """Return the mean over levels of the pinball loss, which the quantile of each level makes least.

    Parameters
    ----------
    truth
        ``[...]``.
    parameters
        ``[..., level]``: quantiles.
    levels
        Their levels, between 0 and 1.

    References
    ----------
    Koenker and Bassett (1978), Regression quantiles, doi:10.2307/1913643.
    """
    return ops.mean(_pinballs(truth, parameters, levels), axis=-1)


def quantile_crps(truth: Any, parameters: Any, levels: Sequence[float]) -> Any:
    """Return the continuous ranked probability score of quantiles: twice the pinball loss integrated over the level.

    Each quantile stands for the levels that are nearer to it than to another. The more levels, the nearer to the score itself.

    References
    ----------
    Gneiting and Ranjan (2011), Comparing density forecasts, doi:10.1198/jbes.2010.08110.
    """
    edges = np.concatenate([[0.0], (np.asarray(levels[1:]) + np.asarray(levels[:-1])) / 2, [1.0]])
    losses = _pinballs(truth, parameters, levels)
    return 2 * ops.sum(losses * ops.cast(np.diff(edges), losses.dtype), axis=-1)


def _pinballs(truth: Any, parameters: Any, levels: Sequence[float]) -> Any:
    error = ops.expand_dims(truth, -1) - parameters
    level = ops.cast(np.asarray(levels), error.dtype)
    return ops.maximum(level * error, (level - 1) * error)


def ensemble_crps(truth: Any, members: Any) -> Any:
    """Return the continuous ranked probability score of members ``[..., member]`` taken as the whole distribution.

    Least where the members stand in the middle of equal shares of probability.

    References
    ----------
    Gneiting and Raftery (2007), Strictly proper scoring rules, doi:10.1198/016214506000001437.
    """
    return _ensemble(truth, members, int(members.shape[-1]))


def fair_crps(truth: Any, members: Any) -> Any:
    """Return the score of members ``[..., member]`` taken as draws from the distribution: that of infinitely many, on average.

    Members that a network gives without chance are no draws: this score then drives the outermost to the ends of all that is
    possible. Train them with :func:`ensemble_crps`.

    References
    ----------
    Ferro (2014), Fair scores for ensemble forecasts, doi:10.1002/qj.2270.
    """
    return _ensemble(truth, members, int(members.shape[-1]) - 1)


def _ensemble(truth: Any, members: Any, others: int) -> Any:
    n = int(members.shape[-1])
    error = ops.mean(ops.abs(members - ops.expand_dims(truth, -1)), axis=-1)
    # The differences of all pairs, from the members in order: n log n in place of n squared.
    rank = ops.cast(2 * np.arange(n) - n + 1, error.dtype)
    return error - ops.sum(ops.sort(members, axis=-1) * rank, axis=-1) / (n * others)


def cross_entropy(truth: Any, parameters: Any, class_weights: Sequence[float] | None = None) -> Any:
    """Return the negative logarithm of the probability of the true class.

    Parameters
    ----------
    truth
        ``[...]``: the number of the class, from 0; NaN where it is none.
    parameters
        ``[..., class]``: probabilities.
    class_weights
        Factors ``[class]`` by true class; None: 1.
    """
    return focal(truth, parameters, gamma=0.0, class_weights=class_weights)


def focal(truth: Any, parameters: Any, gamma: float = 2.0, class_weights: Sequence[float] | None = None) -> Any:
    """Return the cross-entropy times (1 - p)**gamma, p the probability of the true class: what is sure counts less.

    References
    ----------
    Lin et al. (2017), Focal loss for dense object detection, doi:10.1109/ICCV.2017.324.
    """
    hot = _one_hot(truth, parameters)
    p = ops.sum(hot * parameters, axis=-1)
    loss = -ops.log(ops.maximum(p, LEAST_PROBABILITY))
    if gamma:
        loss = loss * ops.maximum(1 - p, 1e-7) ** gamma
    return _class_weighted(loss, hot, class_weights)


def brier(truth: Any, parameters: Any, class_weights: Sequence[float] | None = None) -> Any:
    """Return the sum over classes of the squared error of the probability; for two classes twice that of the one.

    References
    ----------
    Brier (1950), Verification of forecasts expressed in terms of probability, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    hot = _one_hot(truth, parameters)
    return _class_weighted(ops.sum(ops.square(parameters - hot), axis=-1), hot, class_weights)


def weighed(y: Any, weights: Any) -> Any:
    """Return targets or outputs with 0 where they carry no weight, whatever stands there."""
    weights = ops.convert_to_tensor(weights)
    while len(weights.shape) < len(y.shape):
        weights = ops.expand_dims(weights, -1)
    return ops.where(weights > 0, y, ops.zeros_like(y))


def _one_hot(truth: Any, parameters: Any) -> Any:
    classes = ops.cast(np.arange(parameters.shape[-1]), truth.dtype)
    number = ops.expand_dims(truth, -1)
    hot = ops.cast(ops.equal(number, classes), parameters.dtype)
    return ops.where(ops.isnan(number), ops.full_like(hot, float("nan")), hot)


def _class_weighted(loss: Any, hot: Any, class_weights: Sequence[float] | None) -> Any:
    return loss if class_weights is None else loss * ops.sum(hot * ops.cast(np.asarray(class_weights), hot.dtype), -1)
