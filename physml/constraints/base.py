"""A constraint answers two questions in tensors: how far are these fields from me, and which is the nearest that satisfies me."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe
from physml.layout import Layout

if TYPE_CHECKING:
    from physml.constraints.linear import LinearLaw
    from physml.constraints.nearby import Box, Chain

Fields = Mapping[str, Any]
"""Tensors ``[batch, *space, offset and level]`` by variable."""


@dataclass(frozen=True)
class SumLaw:
    """One weighted sum per group of cells: what :func:`physml.constraints.projection.project_sum` is asked to hold.

    Attributes
    ----------
    axes
        Space axes (0 for the first) that are summed; levels too if *over_levels*.
    weights
        ``[*space, level]`` float64, zero on masked cells.
    terms
        Input variables (at offset 0) whose weighted sums make up the total, with their factors.
    constant
        Added to the total.
    """

    axes: tuple[int, ...]
    over_levels: bool
    weights: np.ndarray
    terms: Mapping[str, float]
    constant: float


class Constraint:
    """One law on named outputs. Subclasses say what they need, and answer :meth:`residual` and :meth:`project`.

    The layer, the soft loss, the metric, :meth:`apply`, :meth:`check` and :meth:`report` follow from these two, in
    :class:`physml.Constraints`, for one law or several alike.
    """

    name: str
    """Name of the target variable it acts on."""
    _held: tuple[Layout, SumLaw | None] | None = None
    _held_laws: tuple[Layout, tuple[LinearLaw, ...]] | None = None
    passes = 1
    """Projections it takes: more than one for laws that are not linear."""
    relative = False
    """Whether its residual is relative, or in the units of the variable."""

    def mentions(self) -> tuple[str, ...]:
        """Return the names of the variables it speaks of that may be targets."""
        return (self.name,)

    def factors(self) -> tuple[str, ...]:
        """Return the names of the fields that weigh its terms."""
        return ()

    def given(self) -> dict[str, xr.DataArray]:
        """Return the fields that were passed as arrays, by the names they are kept under; none in a law that was loaded."""
        return {}

    def statics(self, layout: Layout) -> dict[str, xr.DataArray]:
        """Return the static fields to be kept with the layout."""
        return {}

    def needs(self) -> tuple[str, ...]:
        """Return the names of the inputs, at offset 0, that it follows from."""
        return ()

    def verify(self, layout: Layout) -> None:
        """Refuse a layout it cannot act on."""
        if self.name not in layout.spec.targets:
            raise KeyError(
                describe(
                    f"{type(self).__name__} acts on {self.name!r}, which is no target"
                    f"{closest(self.name, layout.spec.targets)}",
                    expected=f"one of the targets {tuple(layout.spec.targets)}",
                    received=repr(self.name),
                    remedy="correct the name, or add it to the targets of the FieldSpec",
                )
            )

    def residual(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return how far the outputs are from satisfying the law, zero where they do."""
        raise NotImplementedError

    def project(self, outputs: Fields, inputs: Fields, layout: Layout) -> dict[str, Any]:
        """Return the nearest outputs that satisfy this law alone."""
        return self._alone().project(outputs, inputs, layout)

    def loss(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return the mean squared residual; see :meth:`physml.Constraints.loss`."""
        return self._alone().loss(outputs, inputs, layout)

    def metric(self, outputs: Fields, inputs: Fields, layout: Layout) -> dict[str, Any]:
        """Return the greatest absolute residual; see :meth:`physml.Constraints.metric`."""
        return self._alone().metric(outputs, inputs, layout)

    def layer(self, layout: Layout, penalty: float | None = None) -> Any:
        """Return the law as a Keras layer; see :class:`physml.ConstraintLayer`."""
        return self._alone().layer(layout, penalty)

    def apply(self, outputs: xr.Dataset, inputs: xr.Dataset | None = None, **roles: Any) -> xr.Dataset:
        """Return a Dataset moved onto the law; see :func:`physml.constraints.labelled.apply`."""
        return self._alone().apply(outputs, inputs, **roles)

    def check(self, ds: xr.Dataset, spec: Any) -> xr.Dataset:
        """Return how well data obey the law; see :func:`physml.constraints.labelled.check`."""
        return self._alone().check(ds, spec)

    def report(self, outputs: xr.Dataset, inputs: xr.Dataset | None = None, **roles: Any) -> xr.Dataset:
        """Return residuals before and after, and what was moved; see :func:`physml.constraints.labelled.report`."""
        return self._alone().report(outputs, inputs, **roles)

    def _alone(self) -> Any:
        from physml.constraints.combine import Constraints

        return Constraints([self])

    def prepare(self, outputs: Fields, inputs: Fields, layout: Layout) -> dict[str, Any]:
        """Return what its linear laws and bounds need besides inputs: fields ``[batch, *space, level]`` that follow from outputs.

        Both arguments are at one offset, ``[batch, *space, level]`` by variable.
        """
        return {}

    def boxes(self, layout: Layout) -> dict[str, Box]:
        """Return the bounds it sets, by variable."""
        return {}

    def linear(self, layout: Layout) -> tuple[LinearLaw, ...]:
        """Return the linear laws it holds."""
        return ()

    def chains(self, layout: Layout) -> tuple[Chain, ...]:
        """Return the orders it holds."""
        return ()

    def holds(self, layout: Layout) -> dict[str, np.ndarray]:
        """Return the cells ``[*space, level]`` that must stay as they are, by variable."""
        return {}

    def local(self) -> bool:
        """Tell whether it holds cell by cell whatever the grid, and so on any window of it."""
        return False

    def sum_law(self, layout: Layout) -> SumLaw | None:
        """Return the weighted sum it holds, or None."""
        return None

    def held_sum(self, layout: Layout) -> SumLaw | None:
        """Return :meth:`sum_law`, its arrays made once for a layout and not anew for every block and batch."""
        known = self._held
        if (
            known is None or known[0] is not layout
        ):  # one assignment, so that threads with other layouts cannot mix theirs in
            known = self._held = (layout, self.sum_law(layout))
        return known[1]

    def held_linear(self, layout: Layout) -> tuple[LinearLaw, ...]:
        """Return :meth:`linear`, made once for a layout."""
        known = self._held_laws
        if known is None or known[0] is not layout:
            known = self._held_laws = (layout, self.linear(layout))
        return known[1]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same constraint."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or self.get_config() != other.get_config():
            return False
        mine, theirs = self.given(), other.given()
        return all(mine[n].equals(theirs[n]) for n in set(mine) & set(theirs))

    def __hash__(self) -> int:
        return hash(repr(self))
