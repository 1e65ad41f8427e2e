"""Completion: one variable takes what the others leave, so that a budget closes; the peer of the projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe
from physml.constraints.balance import Budget
from physml.constraints.base import Constraint, Fields
from physml.constraints.linear import LinearLaw
from physml.layout import Layout


class Completion(Constraint):
    """A budget that is closed by one of its outputs: ``y_r = (b - sum C_i y_i) / C_r``, all others stay as they are.

    What the network says of that output is not used. All errors of the others gather in it, so that a projection, which moves
    every term by its variance, is usually the better choice; this one is here to compare, and for residuals by definition.

    Parameters
    ----------
    budget
        A :class:`physml.Budget` or :class:`physml.Closure`, or its configuration.
    variable
        The target among its terms that closes it.
    level
        Where the budget sums over a dimension that the variable has: the label, along that dimension, of the one value that
        closes it.

    Raises
    ------
    KeyError
        For a variable that is no target among the terms of the budget.
    ValueError
        For a level that is missing, unknown or too many; for sums over several dimensions of the variable; and where the
        coefficient ``C_r`` is zero in some sum. A coefficient that follows from inputs can be zero in single samples: the budget
        then stays open there, which :meth:`physml.Constraints.apply` refuses.

    References
    ----------
    Beucler et al. (2021), doi:10.1103/PhysRevLett.126.098302.

    Examples
    --------
    >>> from physml import Closure
    >>> Completion(Closure("net_heat", sources="net_radiation", sinks=("latent", "sensible")), "net_heat").name
    'net_heat_net_radiation_latent_sensible'
    """

    def __init__(self, budget: Budget | Mapping[str, Any], variable: str, level: Any = None) -> None:
        self.budget = budget if isinstance(budget, Budget) else _budget(budget)
        self.variable, self.level = variable, level
        self.name = self.budget.name

    @property
    def _who(self) -> str:
        return f"Completion of {self.budget.name!r}"

    def mentions(self) -> tuple[str, ...]:
        """Return the variables of the budget."""
        return self.budget.mentions()

    def factors(self) -> tuple[str, ...]:
        """Return the names in its coefficients and weights."""
        return self.budget.factors()

    def needs(self) -> tuple[str, ...]:
        """Return the inputs that it follows from."""
        return self.budget.needs()

    def statics(self, layout: Layout) -> dict[str, xr.DataArray]:
        """Return the fields that weigh its terms."""
        return self.budget.statics(layout)

    def residual(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return the residual of the budget in its units, ``[batch and offset, *group, level]``."""
        return self.budget.residual(outputs, inputs, layout)

    def linear(self, layout: Layout) -> tuple[LinearLaw, ...]:
        """Return the law of the budget."""
        return self.budget.held_linear(layout)

    def holds(self, layout: Layout) -> dict[str, np.ndarray]:
        """Return the cells that must stay: all but those of the variable (at its level)."""
        (law,) = self.linear(layout)
        out = {n: np.ones((*layout.shape, layout.variables[n].depth), bool) for n in law.outputs}
        out[self.variable] = ~self._closing(layout)
        return out

    def _closing(self, layout: Layout) -> np.ndarray:
        """Return the cells ``[*space, level]`` of the variable that close the budget."""
        known = layout.variables[self.variable]
        shape = (*layout.shape, known.depth)
        budget = self.budget
        summed = [d for d in budget.over or () if d in known.levels or (d in layout.space and d in known.dims)]
        summed += [*(budget.blocks or {}), *(layout.space if budget.groups is not None else ())]
        if len(summed) > 1 or (summed and not budget.over):
            raise ValueError(
                describe(
                    f"{self._who}: no single value of {self.variable!r} closes it",
                    expected="a budget in every cell, or one that sums over a single dimension of the variable",
                    received=f"over={budget.over}, blocks={budget.blocks}, groups={budget.groups!r}",
                    remedy="use the projection: pass the budget itself as a constraint",
                )
            )
        if not summed:
            if self.level is not None:
                raise ValueError(
                    describe(
                        f"{self._who} sums over no dimension of {self.variable!r}",
                        expected="level=None: every value closes the budget of its own cell",
                        received=f"level={self.level!r}",
                        remedy="leave level out",
                    )
                )
            return np.ones(shape, bool)
        (dim,) = summed
        along = known.levels.get(dim)
        if along is None:
            cells = dict(zip(layout.space, layout.shape, strict=True))
            along = tuple(
                np.asarray(layout.statics[dim].values if dim in layout.statics else range(cells[dim])).tolist()
            )
        if self.level not in along:
            raise ValueError(
                describe(
                    f"{self._who} does not know which value of {self.variable!r} along {dim!r} closes it",
                    expected=f"level=... among {list(along)}",
                    received=repr(self.level),
                    remedy=f"level={along[-1]!r}",
                )
            )
        hit = np.array([label == self.level for label in along])
        if dim in known.levels:
            sizes = [len(v) for v in known.levels.values()]
            axis = list(known.levels).index(dim)
            column = np.broadcast_to(np.expand_dims(hit, [i for i in range(len(sizes)) if i != axis]), sizes)
            return np.broadcast_to(column.reshape(-1), shape)
        axis = layout.space.index(dim)
        return np.broadcast_to(np.expand_dims(hit, [i for i in range(len(shape)) if i != axis]), shape)

    def verify(self, layout: Layout) -> None:
        """Refuse a layout in which the variable cannot close the budget."""
        self.budget.verify(layout)
        (law,) = self.linear(layout)
        if self.variable not in law.outputs:
            raise KeyError(
                describe(
                    f"{self._who}: {self.variable!r} is no output of it{closest(self.variable, law.outputs)}",
                    expected=f"one of {tuple(law.outputs)}",
                    received=repr(self.variable),
                    remedy="name a target among the terms",
                )
            )
        coefficient = np.abs(law.outputs[self.variable].fixed) * self._closing(layout)
        size = law.groups.total(np.broadcast_to(coefficient, (*layout.shape, max(law.depth, coefficient.shape[-1]))))
        open_ = law.here & ~np.broadcast_to(size > 0, law.here.shape)
        if open_.any():
            raise ValueError(
                describe(
                    f"{self._who}: {self.variable!r} cannot close it, its coefficient is zero",
                    expected="a coefficient that is not zero at the value that closes the budget",
                    received=f"0 in {int(open_.sum())} of {int(law.here.sum())} sums",
                    remedy="complete another variable or level, or correct the coefficient, the weights or the mask",
                )
            )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        budget = {"type": type(self.budget).__name__, **self.budget.get_config()}
        return {"budget": budget, "variable": self.variable, "level": self.level}


def _budget(config: Mapping[str, Any]) -> Budget:
    """Return the budget described by ``{"type": "Budget", **arguments}``."""
    from physml.constraints.closure import BlockMean, Closure, Simplex

    kinds: dict[str, type[Budget]] = {k.__name__: k for k in (Budget, Closure, Simplex, BlockMean)}
    arguments = dict(config)
    kind = arguments.pop("type", "Budget")
    if kind not in kinds:
        raise ValueError(
            describe(
                f"Completion: unknown budget {kind!r}{closest(str(kind), kinds)}",
                expected=f"one of {', '.join(kinds)}",
                received=repr(kind),
                remedy="correct budget.type",
            )
        )
    return kinds[kind](**arguments)
