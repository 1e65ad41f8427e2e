"""What ensemble methods share: the forecast with its model error, the observed anomalies, inflation, rotation, statistics."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.errors.localisation import gaspari_cohn
from physml.assimilation.method import Geometry, Output, Problem, Seen


class Observed(NamedTuple):
    """An ensemble at the time of its analysis and what it says of the observations."""

    ensemble: Any
    """E ``[N, n]``."""
    mean: Any
    """mu ``[1, n]``."""
    anomalies: Any
    """A ``[N, n]``."""
    s: Any
    """S = Y R^-1/2 M / sqrt(N - 1) ``[N, m]``."""
    v: Any
    """R^-1/2 M (d - mean H(E)) ``[m]``."""
    scale: Any
    """R^-1/2 M as a row ``[m]``."""
    seen: Seen
    """Observations without gross errors."""
    innovation: Any
    """NaN where there is no observation, ``[m]``."""
    innovation_std: Any
    """``[m]``."""
    rejected: Any
    """Number of gross errors, ``[]``."""


def forecast(problem: Problem, ensemble: Any, draws: dict[str, Any], k: int) -> Any:
    """Return the members propagated to the k-th time of the call, with their model error."""
    x = problem.propagate(ensemble, k)
    if problem.model_error is None:
        return x
    return x + problem.model_error.root(draws["model_error"][k])


def model_noise(rng: np.random.Generator, members: int, noise: int, count: int) -> dict[str, np.ndarray]:
    """Return what :func:`forecast` draws: *noise* normal numbers for each member and time, none for 0."""
    return {"model_error": rng.standard_normal((count, members, noise))} if noise else {}


def observe(problem: Problem, ensemble: Any, seen: Seen) -> Observed:
    """Return an ensemble beside the observations of one time, these screened."""
    members = ensemble.shape[0]
    mean = _backend.mean(ensemble, axis=0, keepdims=True)
    observed = problem.observe(ensemble, seen)
    center = _backend.mean(observed, axis=0)
    y = observed - center
    innovation = seen.values - center
    variance = ops.sum(y * y, axis=0) / (members - 1)
    innovation_std = expected_std(seen, variance)
    screened, rejected = problem.screen(seen, innovation, innovation_std)
    scale, v = screened.whitened(innovation)
    s = y * (scale / np.sqrt(members - 1))
    return Observed(ensemble, mean, ensemble - mean, s, v, scale, screened, innovation, innovation_std, rejected)


def expected_std(seen: Seen, variance: Any) -> Any:
    """Return the expected standard deviation of the innovation, sqrt(diag(H P H^T) + sigma_o^2), NaN where missing."""
    error = ops.where(seen.valid, seen.error_std, 1.0)
    return ops.where(seen.valid, ops.sqrt(variance + error * error), np.nan)


def told(observed: Observed, analysis: Any, square: Any, **more: Any) -> Output:
    """Return the output of a call of one time; *square* is v^T (I + S^T S)^-1 v."""
    used = ops.sum(ops.cast(observed.seen.valid, "float64"))
    innovation = ops.where(ops.isfinite(observed.innovation_std), observed.innovation, np.nan)
    chi2 = square / ops.where(used > 0, used, np.nan)
    parts = (observed.ensemble, analysis, innovation, observed.innovation_std, chi2, used, observed.rejected)
    return Output(*[part[None] for part in parts], **{name: part[None] for name, part in more.items()})


def relax(anomalies: Any, before: Any, relaxation: float) -> Any:
    """Return anomalies relaxed to the spread before the analysis: sigma_a becomes (1 - a) sigma_a + a sigma_f.

    Whitaker, J. S. and Hamill, T. M. (2012), doi:10.1175/MWR-D-11-00276.1, equation 2.
    """
    if not relaxation:
        return anomalies
    prior, posterior = (ops.sum(a * a, axis=0) for a in (before, anomalies))
    there = ops.logical_and(posterior > 0, prior > 0)
    ratio = ops.sqrt(ops.where(there, prior, 1.0) / ops.where(there, posterior, 1.0))
    return anomalies * (1.0 + relaxation * (ratio - 1.0))


def positions(problem: Problem, seen: Seen) -> tuple[Geometry, Any]:
    """Return where the state and the observations lie, both of which localisation needs.

    Raises
    ------
    ValueError
        Where one of them is not known.
    """
    if problem.geometry is None or seen.positions is None:
        received = "no geometry of the state" if problem.geometry is None else "no positions of the observations"
        refuse("localisation needs distances", "geometry and positions", received, "give both, or radius=None")
    # A missing observation may lie anywhere, NaN included: NaN times its weight of zero would be NaN.
    return problem.geometry, ops.where(seen.valid[..., None], seen.positions, 0.0)


def taper(distance: Any, radius: float) -> Any:
    """Return the Gaspari-Cohn function of the curvature at zero of a Gaussian of std *radius*; 1 for an infinite one."""
    if not np.isfinite(radius):
        return ops.ones_like(distance)
    return gaspari_cohn(distance, radius * np.sqrt(10.0 / 3.0))


def rotation(rng: np.random.Generator, members: int) -> np.ndarray:
    """Return a random orthogonal matrix ``[N, N]`` that keeps the mean: uniform among those with O 1 = 1 (Haar).

    Sakov, P. and Oke, P. R. (2008), doi:10.1175/2007MWR2021.1.
    """
    basis = _centred(members)
    q, r = np.linalg.qr(rng.standard_normal((members - 1, members - 1)))
    return 1.0 / members + basis @ (q * np.sign(np.diag(r))) @ basis.T


@functools.lru_cache(maxsize=8)
def _centred(members: int) -> np.ndarray:
    """Return an orthonormal basis ``[N, N - 1]`` of the vectors whose sum is zero (Helmert)."""
    k = np.arange(1, members)
    basis = np.where(np.arange(members)[:, None] < k, 1.0, 0.0)
    basis[k, k - 1] = -k
    return basis / np.sqrt(k * (k + 1.0))
