"""Maximum likelihood of innovations: how probable B and R make them, and the B and R that make them most probable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
from keras import ops

from physml import _backend
from physml._errors import closest, refuse
from physml.assimilation.blue.observed import solve_innovation
from physml.assimilation.errors.covariance import PointCovariance
from physml.assimilation.observing.observations import PointObservations
from physml.assimilation.times import seconds


def innovation_likelihood(innovation: Any, hbh: Any, error_std: Any) -> Any:
    """Return minus the logarithm of the probability density of innovations, ``[...]``.

    1/2 ||L^-1 v||^2 + sum log diag L + 1/2 sum over valid of log(2 pi sigma_o^2): the least value of it, over sigma_b, length and
    sigma_o, is their maximum-likelihood estimate.

    Parameters
    ----------
    innovation
        d - H xf ``[..., m]``, NaN where missing.
    hbh
        H B H^T ``[..., m, m]``.
    error_std
        sigma_o ``[..., m]``.

    References
    ----------
    Dee, D. P. (1995), doi:10.1175/1520-0493(1995)123<1128:OLEOEC>2.0.CO;2.
    """
    with _backend.float64():
        d, hbh, r = (ops.cast(ops.convert_to_tensor(a), "float64") for a in (innovation, hbh, error_std))
        valid = ops.isfinite(d)
        r = ops.where(valid, r, 1.0)
        scale = ops.where(valid, 1.0 / r, 0.0)
        identity = ops.eye(ops.shape(hbh)[-1], dtype="float64")
        cholesky = ops.cholesky(identity + scale[..., :, None] * hbh * scale[..., None, :])
        v = ops.solve_triangular(cholesky, (scale * ops.where(valid, d, 0.0))[..., None], lower=True)
        logarithms = ops.log(ops.diagonal(cholesky, axis1=-2, axis2=-1)) + ops.where(
            valid, ops.log(r * np.sqrt(2 * np.pi)), 0.0
        )
        return 0.5 * ops.sum(ops.square(v), axis=(-2, -1)) + ops.sum(logarithms, axis=-1)


class Fit(NamedTuple):
    """The B and sigma_o that make innovations most likely, and minus the logarithm of their probability density."""

    background_error: PointCovariance
    error_std: Any
    likelihood: float


def fit_background_error(
    layer: Any, innovations: PointObservations, *, error_std: Any = None, fixed: Sequence[str] = ()
) -> Fit:
    """Return sigma_b, lengths and sigma_o of maximum likelihood, by L-BFGS with the exact gradient.

    Parameters
    ----------
    layer
        Grid, H, and the first guess of B. A std that is a field is multiplied by one number.
    innovations
        Observations minus forecasts, d - H xf. Rows of time are independent of each other, unless B has a time_length.
    error_std
        First guess of sigma_o; by default that of the innovations or of the layer.
    fixed
        What to leave as it is, among "std", "length", "time_length" and "error_std".

    References
    ----------
    Dee, D. P. (1995), doi:10.1175/1520-0493(1995)123<1128:OLEOEC>2.0.CO;2.
    """
    guess = layer.background_error
    names = ("std", *guess.log_derivatives(), "error_std")
    for name in fixed:
        if name not in names:
            refuse(f"{name!r} is no parameter{closest(name, names)}", names, name, "correct fixed=")
    free = [n for n in names if n not in fixed]
    start, parts = prepared_rows(layer, innovations, error_std)

    def put(log: np.ndarray) -> tuple[PointCovariance, float]:
        factor = {n: 1.0 for n in names} | {n: float(np.exp(x)) for n, x in zip(free, log, strict=True)}
        return replace(guess, **{n: getattr(guess, n) * factor[n] for n in names[:-1]}), factor["error_std"]

    def objective(log: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = 0.0, dict.fromkeys(names, 0.0)
        background, factor = put(log)
        for part in parts:
            with _backend.float64():
                observed, a = layer.seen({**part, "error_std": part["error_std"] * factor}, background)
                nothing = ops.zeros((len(part["values"]), len(layer.unit), 1), dtype="float64")
                solution = solve_innovation(observed, nothing, a["values"], a["error_std"])
                d = ops.where(solution.valid, a["values"], np.nan)
                value += float(ops.sum(innovation_likelihood(d, solution.hbh, a["error_std"])))
                # dl/dA for A = H B H^T + R, twice.
                w = solution.weights
                p = solution.solve(ops.eye(w.shape[1], dtype="float64")[None]) - ops.matmul(w, ops.swapaxes(w, -1, -2))
                r2 = ops.where(solution.valid, ops.square(a["error_std"]), 0.0)
                gradient["std"] += float(ops.sum(p * solution.hbh))
                gradient["error_std"] += float(ops.sum(ops.diagonal(p, axis1=-2, axis2=-1) * r2))
                for name, kernels in observed.background.log_derivatives().items():
                    if name in free:
                        gradient[name] += 0.5 * float(ops.sum(p * observed.at_observations(kernels)))
        return value, np.array([gradient[n] for n in free])

    bounds, options = [(-5.0, 5.0)] * len(free), {"ftol": 1e-7}
    found = scipy.optimize.minimize(
        objective, np.zeros(len(free)), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    background, factor = put(found.x)
    error = np.asarray(start) * factor
    return Fit(background, float(error.flat[0]) if np.ptp(error) == 0 else error, float(found.fun))


def prepared_rows(
    layer: Any, innovations: PointObservations, error_std: Any, size: int | None = None
) -> tuple[Any, list[dict[str, np.ndarray]]]:
    """Return sigma_o as given, and the prepared innovations in parts of *size* rows."""
    start = innovations.error_std if error_std is None else error_std
    if start is None and layer.observation_error is not None:
        start = layer.observation_error.std
    if start is None:
        refuse("the innovations have no error", "error_std, sigma_o", None, "pass error_std= as a first guess")
    in_time = getattr(layer.background_error, "in_time", False)
    given = layer.prepare(innovations.table() if in_time else innovations)
    given["error_std"] = np.broadcast_to(np.reshape(start, np.shape(start) or (1, 1)), given["values"].shape)
    if in_time:
        given["lag"] = seconds(innovations.table().time)[None]
    rows, m = given["values"].shape
    size = size or max(1, 2**21 // m**2)
    return start, [{k: v[i : i + size] for k, v in given.items()} for i in range(0, rows, size)]
