"""Maximum likelihood for the parameters of any background error, by the gradient through products with B.

References
----------
Dee, D. P. (1995), doi:10.1175/1520-0493(1995)123<1128:OLEOEC>2.0.CO;2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.optimize
from keras import ops

from physml import _backend
from physml._errors import closest, refuse
from physml.assimilation.blue.estimate import double
from physml.assimilation.blue.likelihood import Fit, fit_background_error, innovation_likelihood
from physml.assimilation.blue.products import BLOCK, ObservedBackground, Rows
from physml.assimilation.observing.observations import PointObservations

LOSSES = ("innovation",)


def fitted(
    layer: Any, innovations: PointObservations, loss: str, error_std: Any = None, fixed: Sequence[str] = ()
) -> Fit:
    """Return the B and sigma_o that make innovations most likely; *layer* gives grid, H and the first guess."""
    if loss not in LOSSES:
        refuse(f"loss {loss!r} is unknown{closest(loss, LOSSES)}", LOSSES, loss, "loss='innovation'")
    if not innovations.count:
        what = "fit: every innovation is missing"
        refuse(what, "finite innovations", f"{innovations.values.size} missing", "pass observations minus forecasts")
    by = fit_background_error if hasattr(layer.background_error, "log_derivatives") else fit_operator
    found = by(layer, innovations, error_std=error_std, fixed=fixed)
    if np.ndim(found.error_std):
        # One number where all observations have one error, whatever stands where they are missing.
        used = np.broadcast_to(found.error_std, innovations.values.shape)[np.isfinite(innovations.values)]
        found = found if np.ptp(used) else found._replace(error_std=float(used[0]))
    return found


def fit_operator(
    layer: Any, innovations: PointObservations, *, error_std: Any = None, fixed: Sequence[str] = ()
) -> Fit:
    """Return the like for a B that is not a function of position; each of its parameters is multiplied by one number."""
    guess = layer.background_error
    known = getattr(guess, "parameters", {})
    names = (*known, "error_std")
    for name in fixed:
        if name not in names:
            refuse(f"{name!r} is no parameter{closest(name, names)}", names, name, "correct fixed=")
    free = [n for n in names if n not in fixed]

    def scaled(factor: Any) -> Any:
        own = {n: known[n] * factor[n] for n in free if n != "error_std"}
        return guess.with_parameters(own) if own else guess

    start = innovations.error_std if error_std is None else error_std
    if start is None and layer.observation_error is not None:
        start = layer.observation_error.std
    if start is None:
        refuse("the innovations have no error", "error_std, sigma_o", None, "pass error_std= as a first guess")
    given = layer.prepare(innovations)
    rows, m = given["values"].shape
    given["error_std"] = np.broadcast_to(np.reshape(start, np.shape(start) or (1, 1)), (rows, m))
    # Rows that are all padding tell nothing; the others are packed to the left, so that fewer products are made.
    there = np.isfinite(given["values"]) & given["weights"].any(axis=-1)
    order = np.argsort(~there, axis=1, kind="stable")[:, : max(1, there.sum(axis=1).max())]
    given = {k: np.take_along_axis(v, order.reshape(*order.shape, *[1] * (v.ndim - 2)), 1) for k, v in given.items()}
    used = np.flatnonzero(there.any(axis=1))
    step = max(1, 4 * BLOCK // (layer.size * order.shape[1]))
    parts = [{k: v[used[i : i + step]] for k, v in given.items()} for i in range(0, used.size, step)]

    def likelihood(log: Any, part: dict[str, np.ndarray]) -> Any:
        factor = dict(zip(free, [ops.exp(log[i]) for i in range(len(free))], strict=True))
        background = layer.bind(scaled(factor))
        a = {k: double(v, k) for k, v in part.items()}
        observed = ObservedBackground(background, Rows(layer.of_wet(part["index"]), a["weights"], layer.size))
        valid = ops.logical_and(ops.isfinite(a["values"]), observed.valid)
        error = a["error_std"] * factor.get("error_std", 1.0)
        d = ops.where(valid, a["values"], np.nan)
        return ops.sum(innovation_likelihood(d, observed.at_observations(), error))

    def objective(log: np.ndarray) -> tuple[float, np.ndarray]:
        found = [_backend.value_and_gradient(partial(likelihood, part=part), log) for part in parts]
        return float(sum(v for v, _ in found)), np.sum([g for _, g in found], axis=0)

    best = scipy.optimize.minimize(
        objective,
        np.zeros(len(free)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-5.0, 5.0)] * len(free),
        options={"ftol": 1e-7},
    )
    factor = dict(zip(free, np.exp(best.x), strict=True))
    background = scaled({n: float(x) for n, x in factor.items()})
    error = np.asarray(start) * factor.get("error_std", 1.0)
    return Fit(background, float(error.flat[0]) if np.ptp(error) == 0 else error, float(best.fun))
