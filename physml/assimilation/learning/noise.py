"""Model error whose size is learned: Q = q^2 I, or a given Q times q^2."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from physml._errors import refuse
from physml.assimilation.errors.background import Background

WIDEST = 2.0
"""Largest factor by which q moves at a time."""


class Scaled(Background):
    """A covariance times the square of a factor that is a Keras variable, its logarithm trained.

    Parameters
    ----------
    size
        n.
    std
        First factor q: with no *background* the standard deviation itself.
    background
        What it multiplies; None: the identity.
    log_std
        A variable that holds the logarithm of the factor already, in place of *std*.
    """

    def __init__(self, size: int, std: float, background: Background | None = None, log_std: Any = None) -> None:
        if not std > 0:
            refuse("the standard deviation is not positive", "> 0", std, "begin with a small one, 0.1")
        self.background, self.size = background, int(size)
        self.rank = self.size if background is None else background.rank
        self.log_std = (
            keras.Variable(float(np.log(std)), dtype="float64", name="log_std") if log_std is None else log_std
        )

    @property
    def std(self) -> float:
        """Present value of the factor."""
        return float(np.exp(ops.convert_to_numpy(self.log_std.value)))

    def root(self, c: Any) -> Any:
        """Return U c."""
        own = c if self.background is None else self.background.root(c)
        return ops.exp(ops.convert_to_tensor(self.log_std)) * own

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T x."""
        own = x if self.background is None else self.background.root_adjoint(x)
        return ops.exp(ops.convert_to_tensor(self.log_std)) * own

    def follow(self, innovation: np.ndarray, expected: np.ndarray, error_std: np.ndarray) -> None:
        """Move the factor so that innovations become as large as they are expected to be, :data:`WIDEST` times at most.

        Parameters
        ----------
        innovation, expected, error_std
            Innovations, their expected standard deviations and sigma_o, alike in shape, NaN where missing.

        Notes
        -----
        mean d^2 = mean (H P H^T + R): the part of the forecast, what exceeds R, grows with q^2.
        """
        there = np.isfinite(innovation) & np.isfinite(expected)
        noise = np.mean(error_std[there] ** 2)
        found = np.mean(innovation[there] ** 2) - noise
        told = np.mean(expected[there] ** 2) - noise
        ratio = np.sqrt(max(found, 1e-3 * noise) / max(told, 1e-3 * noise))
        ratio = float(np.clip(ratio, 1 / WIDEST, WIDEST))
        self.log_std.assign(ops.convert_to_tensor(np.log(self.std * ratio)))
