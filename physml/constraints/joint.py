"""The nearest fields that satisfy several laws at once: linear laws, bounds and order, in one projection.

For the fields ``z`` of one sample, with the cost ``m`` of moving each cell::

    min 1/2 sum m (y - z)^2   subject to   C y = b   and   y in K

where ``K`` holds what cells satisfy by themselves or along a chain: bounds and order. With one multiplier for every sum,
``y(v) = P_K(z - M^-1 C' v)``, and ``C y(v) - b`` is the gradient of a concave function of ``v``. A semismooth Newton iteration with
line search climbs it: each step solves ``(C T C') d = C y - b`` with ``T`` the derivative of ``y(v)``, which is diagonal on the
cells that are free. Laws that share their groups make small dense systems, solved at once for all groups; laws with different
groups are coupled by conjugate gradients, preconditioned by those systems.

The gradient never unrolls the iteration. With ``J`` the derivative of ``P_K`` at the solution, ``T = J M^-1``, ``(C T C') s = C T g``
and ``q = g - C' s``: ``dz = J' q``, ``db = s``, ``dC = - s y' - v (T q)'``.

References
----------
Qi and Sun (1993), doi:10.1007/BF01581275; Zhao, Sun and Toh (2010), doi:10.1137/080718206; Amos and Kolter (2017),
arXiv:1703.00443, for the gradient.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml.constraints._dual import Dual
from physml.constraints.linear import LinearLaw
from physml.constraints.nearby import Box, Chain
from physml.constraints.projection import LEAK


@dataclass(frozen=True, eq=False)
class Problem:
    """The laws that act on some variables together, as arrays on a layout.

    Attributes
    ----------
    names
        Target variables that are moved.
    laws
        Linear laws.
    boxes
        Bounds by variable.
    chains
        Orders.
    mobility
        ``1 / m`` by variable, ``[*space, level]`` float64; 0 on cells that are held.
    gradient
        ``"exact"``, ``"straight-through"`` or ``"leaky"``.
    """

    names: tuple[str, ...]
    laws: tuple[LinearLaw, ...]
    boxes: Mapping[str, Box]
    chains: tuple[Chain, ...]
    mobility: Mapping[str, np.ndarray]
    gradient: str = "exact"
    _cache: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Inputs at offset 0 that the laws follow from."""
        found = [n for law in self.laws for n in law.needs] + [n for b in self.boxes.values() for n in b.inputs]
        return tuple(dict.fromkeys(found))

    def arrays(self) -> dict[str, Any]:
        """Return all arrays, to be passed to compiled functions as arguments."""
        if "arrays" not in self._cache:
            self._cache["arrays"] = {
                "laws": [law.arrays() for law in self.laws],
                "boxes": {n: b.arrays() for n, b in self.boxes.items()},
                "mobility": dict(self.mobility),
            }
        return self._cache["arrays"]

    def function(self, what: str) -> Any:
        """Return a step of the projection, compiled once."""
        if what not in self._cache:
            steps: dict[str, Callable[..., Any]] = {"solve": self._solve, "pull": self._pull}
            self._cache[what] = _backend.compiled(steps[what])
        return self._cache[what]

    def _solve(self, arrays: Any, z: Any, x: Any) -> Any:
        return Dual(self, arrays, z, x).solve()

    def _pull(self, arrays: Any, z: Any, x: Any, y: Any, v: Any, moved: Any, g: Any) -> Any:
        return Dual(self, arrays, z, x).pull(y, v, moved, g, LEAK if self.gradient == "leaky" else 0.0)


def project(problem: Problem, z: Mapping[str, Any], x: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nearest fields that satisfy all laws of a problem.

    Parameters
    ----------
    problem
        The laws.
    z
        Fields ``[batch, *space, level]`` by variable.
    x
        Inputs at offset 0, alike.

    Returns
    -------
    dict
        The moved fields, in the type of *z*, differentiable in *z* and *x*. Computed in float64 and rounded once. Where no
        field satisfies all laws, bounds and order hold and the sums are as near as they come.
    """
    names, needs = problem.names, problem.inputs
    kinds = [z[n].dtype for n in names]
    depths = [z[n].shape[-1] for n in names]

    def forward_and_vjp(*args: Any) -> tuple[Any, Any]:
        wide = [ops.cast(a, "float64") for a in args]
        z64, x64 = dict(zip(names, wide, strict=False)), dict(zip(needs, wide[len(names) :], strict=True))
        arrays = problem.arrays()
        y, v, moved = problem.function("solve")(arrays, z64, x64)
        out = ops.cast(ops.concatenate([y[n] for n in names], axis=-1), kinds[0])

        def vjp(upstream: Any) -> tuple[Any, ...]:
            if problem.gradient == "straight-through":
                dz, dx = (
                    dict(zip(names, _parts(upstream, depths), strict=True)),
                    {n: ops.zeros_like(x64[n]) for n in needs},
                )
            else:
                g = dict(zip(names, _parts(ops.cast(upstream, "float64"), depths), strict=True))
                dz, dx = problem.function("pull")(arrays, z64, x64, y, v, moved, g)
            found = [*(dz[n] for n in names), *(dx[n] for n in needs)]
            return tuple(ops.cast(d, a.dtype) for d, a in zip(found, args, strict=True))

        return out, vjp

    moved = _backend.custom_gradient(forward_and_vjp)(*(z[n] for n in names), *(x[n] for n in needs))
    return {n: ops.cast(p, k) for n, p, k in zip(names, _parts(moved, depths), kinds, strict=True)}


def _parts(packed: Any, depths: list[int]) -> list[Any]:
    ends = np.cumsum([0, *depths])
    return [packed[..., a:b] for a, b in itertools.pairwise(ends)]
