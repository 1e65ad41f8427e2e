"""B, its parameters and its form of solution, as :func:`physml.assimilation.blue.estimate.estimate` asks for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml.assimilation.blue.estimate import double, spread_std
from physml.assimilation.blue.forms import Form
from physml.assimilation.blue.local import LocalKernel, Tiles
from physml.assimilation.blue.pointwise import ObservedKernel
from physml.assimilation.blue.products import Matrix, ObservedBackground, Rows
from physml.assimilation.errors.covariance import PointCovariance
from physml.assimilation.errors.domain import is_constant


class KernelProblem:
    """B a function of position; its parameters are std, a number or ``[n]``, and the lengths.

    Parameters
    ----------
    background_error
        Its parameters may be tensors.
    unit
        Unit vectors of the cells, ``[n, 3]``.
    form
        Of the solution, with *options*.
    tiles
        Of local analyses.
    """

    def __init__(
        self,
        background_error: PointCovariance,
        unit: np.ndarray,
        form: type[Form],
        tiles: Tiles | None = None,
        **options: Any,
    ) -> None:
        self.background_error, self.unit = background_error, unit
        self.form, self.tiles, self.options = form, tiles, options
        names = background_error.log_derivatives()
        self.parameters = {
            "std": spread_std(background_error.std, len(unit)),
            **{name: getattr(background_error, name) for name in names},
        }

    def observed(self, f: dict[str, Any]) -> ObservedKernel:
        """Return B seen by the observations."""
        background = replace(self.background_error, **{k: f[k] for k in self.parameters if k != "std"})
        unit, index, weights = double(self.unit), f["index"], f["weights"]
        if self.tiles is None:
            return ObservedKernel(background, unit, f["std"], index, weights, f.get("lag"))
        near = self.tiles.near
        index = ops.take(index[0], np.maximum(near, 0), axis=0)
        weights = ops.where(near[..., None] >= 0, ops.take(weights[0], np.maximum(near, 0), axis=0), 0.0)
        return LocalKernel(background, unit, f["std"], index, weights, None, self.tiles)

    def solve(self, f: dict[str, Any], x: Any) -> Form:
        """Return the solution."""
        return self.form(self.observed(f), x, f["values"], f["error_std"], **self.options)

    def slope(self, name: str, f: dict[str, Any], solved: Form, a: Any, z: Any) -> Any:
        """Return dl/dp by the kernel dC / d log p."""
        observed, w = solved.observed, solved.weights
        if name == "std":
            return observed.std_gradient(observed.columns, w, z, a)
        kernels = observed.background.log_derivatives()[name]
        a = a if self.tiles is None else observed.of_cells(a[0])
        at_cells = ops.sum(a * ops.matmul(observed.at_cells(kernels=kernels), w))
        return (at_cells - ops.sum(z * ops.matmul(observed.at_observations(kernels), w))) / f[name]


class BackgroundProblem:
    """B on a state vector, whatever applies it.

    Parameters
    ----------
    bound
        ``parameters -> Background``: what binds B to the state.
    parameters
        By name; tensors are differentiated.
    form
        Of the solution, with *options*.
    """

    def __init__(
        self, bound: Callable[[dict[str, Any]], Any], parameters: dict[str, Any], form: type[Form], **options: Any
    ) -> None:
        self.bound, self.form, self.options = bound, form, options
        self.parameters = {k: v for k, v in parameters.items() if not is_constant(v)}

    def observed(self, f: dict[str, Any]) -> ObservedBackground:
        """Return B seen by the observations."""
        background = self.bound({k: f[k] for k in self.parameters})
        operator = Matrix(f["matrix"]) if "matrix" in f else Rows(f["index"], f["weights"], background.size)
        return ObservedBackground(background, operator)

    def solve(self, f: dict[str, Any], x: Any) -> Form:
        """Return the solution."""
        return self.form(self.observed(f), x, f["values"], f["error_std"], **self.options)

    def slope(self, name: str, f: dict[str, Any], solved: Form, a: Any, z: Any) -> Any:
        """Return dl/dp = q^T (dB/dp) r, the derivative of the number q^T B(p) r with q = a - H^T z and r = H^T w held."""
        q, r = a - solved.observed.spread(z), solved.observed.spread(solved.weights)

        def form(p: Any) -> Any:
            background = self.bound({k: f[k] for k in self.parameters} | {name: p})
            return ops.sum(q * ops.swapaxes(background.times(ops.swapaxes(r, -1, -2)), -1, -2))

        return _backend.slopes(form, [f[name]])[1][0]
