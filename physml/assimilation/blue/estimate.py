"""The analysis as one differentiable function, whose gradient costs one more solve.

For a = dl/dxa and z = P H B a (:mod:`physml.assimilation.blue.forms`), whatever the form of the solution,

    dd = z,   dxf = a - H^T z,   dR = -sym(z w^T),   dp = a^T (dB/dp) H^T w - z^T H (dB/dp) H^T w

for a parameter p of B: no solver is differentiated and B is not inverted. Where all observations are of the time of the
analysis, dp = q^T (dB/dp) r with q = a - H^T z and r = H^T w; the two terms stay apart where observations of another time meet
B there at that time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from keras import ops

from physml import _backend
from physml.assimilation.blue.forms import Form
from physml.assimilation.errors.domain import is_constant


class Problem(Protocol):
    """B with its parameters, and how it is solved."""

    parameters: Mapping[str, Any]
    """Numbers, arrays or tensors; gradients go to tensors."""

    def solve(self, f: dict[str, Any], x: Any) -> Form:
        """Return the solution for the parameters and observations in *f*, all float64, and forecasts ``[o, n, k]``."""

    def slope(self, name: str, f: dict[str, Any], solved: Form, a: Any, z: Any) -> Any:
        """Return dl/dp of a parameter, of its shape."""


def fold(x: Any, shared: bool) -> Any:
    """Return states ``[batch, n]`` as ``[o, n, k]``: all meet one set of observations, or each its own."""
    return ops.transpose(x)[None] if shared else x[..., None]


def unfold(x: Any, shared: bool) -> Any:
    """Return ``[o, n, k]`` as ``[batch, n]``."""
    return ops.transpose(x[0]) if shared else x[..., 0]


def double(value: Any, name: str = "") -> Any:
    """Return a float64 tensor, or int32 of indices; within ``_backend.float64()``."""
    if name == "index":
        return ops.convert_to_tensor(value, "int32")
    return ops.cast(ops.convert_to_tensor(value), "float64")


def estimate(problem: Problem, forecast: Any, observations: Mapping[str, Any]) -> Any:
    """Return the analysis xa ``[batch, n]`` of the dtype of *forecast*, differentiable in whatever is a tensor.

    Parameters
    ----------
    problem
        B and the form of the solution.
    forecast
        xf, ``[batch, n]``.
    observations
        ``values`` with NaN where missing and ``error_std``, ``[o, m]``, where o is the size of the batch, or 1: the same for all;
        ``index`` and ``weights``, or ``matrix``, which get no gradient; ``lag``, times since the analysis [s].
    """
    # A list of names instead of one signature: constants stay exact, tensors go through the custom gradient.
    given = {"forecast": forecast, **observations, **problem.parameters}
    names = [k for k, v in given.items() if v is not None and not is_constant(v)]
    shared = given["values"].shape[0] == 1

    def function(*tensors: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        tensor = dict(zip(names, tensors, strict=True))
        f = {k: double(v, k) for k, v in {**given, **tensor}.items() if v is not None}
        x = fold(f["forecast"], shared)
        solved = problem.solve(f, x)
        analysis = unfold(x + solved.increment, shared)

        def vjp(upstream: Any) -> tuple[Any, ...]:
            a = fold(double(upstream), shared)
            z = solved.adjoint(a)
            d_values, d_error = solved.gradient(z)
            rules: dict[str, Callable[[], Any]] = {
                "forecast": lambda: unfold(a - solved.observed.spread(z, a), shared),
                "values": lambda: d_values,
                "error_std": lambda: _like(d_error, tensor["error_std"]),
            }
            for name in problem.parameters:
                rules[name] = lambda name=name: problem.slope(name, f, solved, a, z)  # type: ignore[misc]
            return tuple(ops.cast(rules[n](), tensor[n].dtype) if n in rules else None for n in names)

        return ops.cast(analysis, forecast.dtype), vjp

    if not names:
        with _backend.float64():
            return function()[0]
    return _backend.custom_gradient(function)(*[ops.convert_to_tensor(given[n]) for n in names])


def _like(gradient: Any, tensor: Any) -> Any:
    """Return a gradient ``[o, m]`` summed over the axes along which the tensor was one for all."""
    for axis, size in enumerate(tensor.shape):
        if size == 1 and gradient.shape[axis] != 1:
            gradient = ops.sum(gradient, axis=axis, keepdims=True)
    return gradient


def spread_std(std: Any, n: int) -> Any:
    """Return a standard deviation, one for all or one for each, as ``[n]``."""
    return np.broadcast_to(np.asarray(std, "float64"), (n,)) if is_constant(std) else ops.broadcast_to(std, (n,))
