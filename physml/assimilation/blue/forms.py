"""The forms in which the analysis can be solved; all give the same, each costs least somewhere.

With P = M (M H B H^T M + R)^-1 M and d the innovation, every form gives

    w = P d,   B H^T w (the increment),   z = P H B a (the gradient of the observations for a = dl/dxa),
    diag A = diag B - diag B H^T P H B,   diag H K = 1 - sigma_o^2 diag P,

and nothing else is needed: neither B^-1 nor a derivative through a solver.

===================  =============================================================================================  ==========
form                 w, with v = M R^-1/2 d and Q = M R^-1/2 H U, B = U U^T                                         cost
===================  =============================================================================================  ==========
observation space    R^-1/2 M S^-1 v by Cholesky, S = I + M R^-1/2 H B H^T R^-1/2 M                                 m^3
state space          R^-1/2 M (v - Q (I + Q^T Q)^-1 Q^T v); the increment is U (I + Q^T Q)^-1 Q^T v                 m r^2
ensemble             the same with U the anomalies of N members over sqrt(N - 1): the Woodbury identity             m N^2
conjugate gradients  S^-1 v by iteration, B applied as an operator                                                  products
precision            R^-1 (d - H x), x = (B^-1 + H^T R^-1 H)^-1 H^T R^-1 d with B^-1 sparse and factorised          sparse
===================  =============================================================================================  ==========

References
----------
Kalnay, E. (2003), doi:10.1017/CBO9780511802270, chapter 5. Saad, Y. (2003), doi:10.1137/1.9780898718003, chapter 6.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from keras import ops

from physml.assimilation.blue.products import blocks, last


class Form:
    """Base: the innovation, whitened; subclasses solve.

    Parameters
    ----------
    observed
        B seen by H, an :class:`ObservedBackground` or an :class:`ObservedCovariance`.
    x
        Forecasts ``[o, n, k]``.
    values, error_std
        d with NaN where missing, and sigma_o, ``[o, m]``.
    rtol
        Of iterations: the residual over the right-hand side at which they stop.
    samples
        Number of random samples where the posterior is estimated.
    """

    name: ClassVar[str]

    def __init__(
        self, observed: Any, x: Any, values: Any, error_std: Any, *, rtol: float = 1e-10, samples: int = 64
    ) -> None:
        self.observed, self.rtol, self.samples, self.seed = observed, rtol, samples, 0
        error_std = ops.broadcast_to(error_std, ops.shape(values))
        values, error_std = self.met(values), self.met(error_std)
        self.valid = ops.logical_and(ops.isfinite(values), observed.valid)
        self.error_std = ops.where(self.valid, error_std, 1.0)
        # NaN must go before any arithmetic: NaN times zero is NaN, in the gradient too.
        self.scale = ops.where(self.valid, 1.0 / self.error_std, 0.0)
        self.innovation = ops.where(self.valid, values, 0.0)[..., None] - observed.sample(x)
        self.v = self.whiten(self.innovation)
        self.factorise()

    def met(self, values: Any) -> Any:
        """Return what belongs to the observations, ``[o, m]``, in the order in which they are solved for."""
        return values

    def told(self, values: Any) -> Any:
        """Return what was found for the observations, in the order in which they came, ``[o, m]``."""
        return values

    def factorise(self) -> None:
        """Prepare what all right-hand sides share."""

    def whiten(self, c: Any) -> Any:
        """Return R^-1/2 M c."""
        return self.scale[..., None] * c

    @property
    def weights(self) -> Any:
        """Weights of the representers w, ``[o, m, k]``."""
        raise NotImplementedError

    @property
    def increment(self) -> Any:
        """The analysis minus the forecast, ``[o, n, k]``."""
        raise NotImplementedError

    def adjoint(self, a: Any) -> Any:
        """Return z = P H B a, ``[o, m, k]``, from ``[o, n, k]``: the one solve that the gradient costs."""
        raise NotImplementedError

    def gradient(self, z: Any) -> tuple[Any, Any]:
        """Return dl/dd and dl/dsigma_o, ``[o, m]``."""
        return ops.sum(z, axis=-1), -2 * self.error_std * ops.sum(z * self.weights, axis=-1)

    def variance(self) -> tuple[Any, Any]:
        """Return the posterior variances ``[p, n]``, and their standard errors where they are estimated, else None."""
        raise NotImplementedError

    @cached_property
    def posterior(self) -> tuple[Any, Any]:
        """What :meth:`variance` returned."""
        return self.variance()

    def observed_variance(self) -> Any:
        """Return the variances of the forecast at the observations, diag H B H^T ``[p, m]``."""
        raise NotImplementedError

    def influence(self) -> Any:
        """Return the influence of each observation on the analysis there, diag H K ``[o, m]``, 0 where missing."""
        raise NotImplementedError

    @property
    def mahalanobis(self) -> Any:
        """What each observation adds to v^T S^-1 v = d^T w, ``[o, m, k]``."""
        return ops.where(self.valid[..., None], self.innovation, 0.0) * self.weights


class ByRepresenters(Form):
    """Forms that solve with S, whatever the solver; a subclass gives :meth:`solve`."""

    def solve(self, c: Any) -> Any:
        """Return P c, ``[o, m, k]``."""
        raise NotImplementedError

    @cached_property
    def weights(self) -> Any:
        """Weights of the representers."""
        return self.solve(self.innovation)

    @cached_property
    def increment(self) -> Any:
        """B H^T w."""
        return self.observed.gain(self.weights)

    def adjoint(self, a: Any) -> Any:
        """Return z."""
        return self.solve(self.observed.gain_adjoint(a))


class ObservationSpace(ByRepresenters):
    """By Cholesky factors of S ``[m, m]``."""

    name = "observation space"

    def factorise(self) -> None:
        """Factorise S."""
        self.hbh = self.observed.at_observations()
        identity = ops.eye(ops.shape(self.hbh)[-1], dtype="float64")
        self.cholesky = ops.cholesky(identity + self.scale[..., :, None] * self.hbh * self.scale[..., None, :])

    def solve(self, c: Any) -> Any:
        """Return P c, ``[o, m, k]``."""
        half = ops.solve_triangular(self.cholesky, self.whiten(c), lower=True)
        return self.whiten(ops.solve_triangular(last(self.cholesky), half, lower=False))

    def variance(self) -> tuple[Any, Any]:
        """Return diag B - colsum((L^-1 M R^-1/2 H B)^2), block by block."""
        p, m = self.scale.shape
        parts = []
        for cells in blocks(self.observed.size, (p or 1) * (m or 1)):
            rows = self.scale[..., None] * last(self.observed.at_cells(cells))
            parts.append(ops.sum(ops.square(ops.solve_triangular(self.cholesky, rows, lower=True)), axis=-2))
        return ops.maximum(self.observed.variances - ops.concatenate(parts, axis=-1), 0.0), None

    def observed_variance(self) -> Any:
        """Return the diagonal of H B H^T."""
        return ops.diagonal(self.hbh, axis1=-2, axis2=-1)

    def influence(self) -> Any:
        """Return 1 - diag S^-1."""
        identity = ops.broadcast_to(ops.eye(ops.shape(self.cholesky)[-1], dtype="float64"), ops.shape(self.cholesky))
        half = ops.solve_triangular(self.cholesky, identity, lower=True)
        return 1.0 - ops.sum(ops.square(half), axis=-2)


class StateSpace(Form):
    """By Cholesky factors of I + Q^T Q ``[r, r]``, the posterior precision of the control variable c, x = xf + U c."""

    name = "state space"

    def factorise(self) -> None:
        """Factorise I + Q^T Q."""
        self.q = self.scale[..., None] * self.observed.sampled_root
        identity = ops.eye(ops.shape(self.q)[-1], dtype="float64")
        self.cholesky = ops.cholesky(identity + ops.matmul(last(self.q), self.q))

    def control(self, c: Any) -> Any:
        """Return (I + Q^T Q)^-1 c, ``[o, r, k]``."""
        half = ops.solve_triangular(self.cholesky, c, lower=True)
        return ops.solve_triangular(last(self.cholesky), half, lower=False)

    @cached_property
    def found(self) -> Any:
        """The control variable of the analysis, ``[o, r, k]``."""
        return self.control(ops.matmul(last(self.q), self.v))

    @cached_property
    def weights(self) -> Any:
        """R^-1/2 M (v - Q c)."""
        return self.whiten(self.v - ops.matmul(self.q, self.found))

    @cached_property
    def increment(self) -> Any:
        """U c: it does not cancel however precise the observations are."""
        return ops.matmul(self.observed.root, self.found)

    def adjoint(self, a: Any) -> Any:
        """Return R^-1/2 M Q (I + Q^T Q)^-1 U^T a."""
        return self.whiten(ops.matmul(self.q, self.control(ops.matmul(last(self.observed.root), a))))

    def variance(self) -> tuple[Any, Any]:
        """Return colsum((L^-1 U^T)^2), a sum of squares."""
        parts = []
        for cells in blocks(self.observed.size, int(self.observed.root.shape[-1])):
            rows = ops.broadcast_to(
                last(self.observed.root[cells]),
                (*ops.shape(self.cholesky)[:2], cells.stop - cells.start),
            )
            parts.append(ops.sum(ops.square(ops.solve_triangular(self.cholesky, rows, lower=True)), axis=-2))
        return ops.concatenate(parts, axis=-1), None

    def observed_variance(self) -> Any:
        """Return rowsum((H U)^2)."""
        return ops.sum(ops.square(self.observed.sampled_root), axis=-1)

    def influence(self) -> Any:
        """Return rowsum((Q L^-T)^2)."""
        return ops.sum(ops.square(ops.solve_triangular(self.cholesky, last(self.q), lower=True)), axis=-2)


class Ensemble(StateSpace):
    """The same with the anomalies of an ensemble as U."""

    name = "ensemble"
