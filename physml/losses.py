"""Losses of distributions: functions of the truth ``[...]`` and of parameters ``[..., parameter]`` that return ``[...]``."""

from __future__ import annotations

import math
from typing import Any

from keras import ops


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
