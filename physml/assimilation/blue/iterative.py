"""The analysis where B is an operator: conjugate gradients in observation space, and the posterior from random samples.

References
----------
Saad, Y. (2003), doi:10.1137/1.9780898718003, chapter 6; Rue, H. and Held, L. (2005), doi:10.1201/9780203492024, chapter 2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import describe
from physml.assimilation.blue.forms import ByRepresenters, Form
from physml.assimilation.blue.products import BLOCK


class Drawn(NamedTuple):
    """Mean squares over random samples of the errors x of the forecast and y of the observations."""

    gained: Any
    """Of K y, ``[o, n]``."""
    left: Any
    """Of x - K y, ``[o, n]``."""
    left_observed: Any
    """Of H (x - K y), ``[o, m]``."""
    observed: Any
    """Of H x over H x^2, ``[o, m]``: how much less than the cells around it a point between them varies."""


class Sampled(Form):
    """Base of forms whose posterior is too large for closed formulae: random samples tell it, and its standard error.

    Errors x = U c of the forecast and y = H x + sigma_o e of the observations are drawn and analysed: the increment K y has the
    variance diag K H B, what is left, x - K y, has that of the posterior, and the two are independent. The estimates from
    both are weighted by their precision, so that the result is exact where no observation is near, and where B vanishes.
    """

    def gains(self, y: Any) -> Any:
        """Return K y, ``[o, n, k]``, from ``[o, m, k]``."""
        raise NotImplementedError

    @cached_property
    def drawn(self) -> Drawn:
        """What the samples tell, a few at a time."""
        o, m = ops.shape(self.scale)
        rank, n = self.observed.rank, self.observed.size
        rng = np.random.default_rng(self.seed)
        step, sums = max(1, min(self.samples, BLOCK // n)), [0.0] * 5
        for start in range(0, self.samples, step):
            k = min(step, self.samples - start)
            draw = [ops.convert_to_tensor(rng.standard_normal((1, size, k))) for size in (rank, int(m))]
            x = ops.broadcast_to(self.observed.draw(draw[0]), (o, n, k))
            seen = self.observed.sample(x)
            increment = self.gains(seen + self.error_std[..., None] * draw[1])
            rest = x - increment
            parts = (
                ops.square(increment),
                ops.square(rest),
                ops.square(self.observed.sample(rest)),
                ops.square(seen),
                self.observed.sample(ops.square(x)),
            )
            sums = [total + ops.sum(part, axis=-1) for total, part in zip(sums, parts, strict=True)]
        gained, left, left_observed, seen, around = (total / self.samples for total in sums)
        return Drawn(gained, left, left_observed, seen / ops.where(around > 0, around, 1.0))

    def variance(self) -> tuple[Any, Any]:
        """Return the posterior variances and their standard errors, ``[o, n]``."""
        total, (gained, left, *_) = self.observed.variances, self.drawn
        a, b = ops.square(left), ops.square(gained)
        share = b / ops.maximum(a + b, 1e-300)
        variance = ops.clip(share * left + (1 - share) * (total - gained), 0.0, total)
        rest = total - variance
        size = ops.maximum(ops.sqrt(ops.square(variance) + ops.square(rest)), 1e-300)
        return variance, (2.0 / self.samples) ** 0.5 * variance * rest / size

    def observed_variance(self) -> Any:
        """Return diag H B H^T, exact at the cells and nearly so between them."""
        return self.drawn.observed * self.observed.sample(self.observed.variances[None, :, None])[..., 0]

    def influence(self) -> Any:
        """Return diag H K = diag H A H^T R^-1, A the posterior covariance."""
        return ops.square(self.scale) * self.drawn.left_observed


class ConjugateGradients(Sampled, ByRepresenters):
    """By conjugate gradients on S with a matrix-free B; all right-hand sides go together."""

    name = "conjugate gradients"

    def factorise(self) -> None:
        """Prepare the products with S."""
        self.observed.ready()

    def solve(self, c: Any) -> Any:
        """Return P c, ``[o, m, k]``."""
        return self.whiten(conjugate_gradients(self._innovation, self.whiten(c), self.rtol))

    def _innovation(self, u: Any) -> Any:
        """Return S u."""
        return u + self.whiten(self.observed.product(self.whiten(u)))

    def gains(self, y: Any) -> Any:
        """Return K y."""
        return self.observed.gain(self.solve(y))


def conjugate_gradients(times: Callable[[Any], Any], b: Any, rtol: float, most: int = 2000) -> Any:
    """Return the solutions u ``[o, m, k]`` of ``times(u) = b`` for a symmetric positive definite operator.

    Parameters
    ----------
    times
        The operator, on ``[o, m, k]``.
    b
        Right-hand sides.
    rtol
        It stops when the residual of each is smaller than this times its norm.
    most
        Largest number of iterations. Where they are not enough a warning tells the residual that was reached, outside
        compiled functions.
    """

    def dot(x: Any, y: Any) -> Any:
        return ops.sum(x * y, axis=1, keepdims=True)

    target = (rtol**2) * dot(b, b)

    def go_on(u: Any, r: Any, p: Any, rr: Any, count: Any) -> Any:
        return ops.logical_and(ops.any(rr > target), count < most)

    def step(u: Any, r: Any, p: Any, rr: Any, count: Any) -> tuple[Any, ...]:
        sp = times(p)
        curvature = dot(p, sp)
        # A column that is solved exactly has no direction left.
        along = ops.where(curvature > 0, rr / ops.where(curvature > 0, curvature, 1.0), 0.0)
        u, r = u + along * p, r - along * sp
        new = dot(r, r)
        turn = ops.where(rr > 0, new / ops.where(rr > 0, rr, 1.0), 0.0)
        return u, r, r + turn * p, new, count + 1

    start = (ops.zeros_like(b), b, b, dot(b, b), ops.zeros((), dtype="int32"))
    u, _, _, rr, _ = ops.while_loop(go_on, step, start)
    left, norm = _backend.concrete(rr), _backend.concrete(dot(b, b))
    if left is not None and norm is not None and (left > rtol**2 * norm).any():
        reached = float(np.sqrt(np.max(left / np.where(norm > 0, norm, 1.0))))
        text = describe(
            f"conjugate gradients did not converge in {most} iterations",
            expected=f"a relative residual of {rtol:g}",
            received=f"{reached:.1e}",
            remedy="method='observation' or 'state', a larger rtol, or a larger error of the observations",
        )
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return u
