"""Targets: the quantity of a model's output that is explained.

A target reduces the labelled output of a model to one number a sample, or to several: a field, a profile, all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from physml._errors import closest, describe
from physml.explain.models import words
from physml.explain.models.measures import Measure as Measure
from physml.explain.models.measures import column, combined, linear, of_function, variable
from physml.explain.models.outputs import Fields, Given, Outputs, Table
from physml.explain.models.own_grids import on_its_grid
from physml.explain.players.groups import box_cells, nearest_cell

if TYPE_CHECKING:
    from physml.layout import Channel, Layout


class Linear:
    """Targets that are one number can be added, subtracted and multiplied by numbers."""

    def terms(self) -> tuple[tuple[float, Target], ...]:
        """Return the targets and their factors."""
        raise NotImplementedError

    def __add__(self, other: Any) -> Combination:
        if isinstance(other, int) and other == 0:  # where sum() begins
            return Combination(self.terms())
        return Combination((*self.terms(), *other.terms())) if isinstance(other, Linear) else NotImplemented

    __radd__ = __add__

    def __mul__(self, factor: Any) -> Combination:
        if not isinstance(factor, Real):
            return NotImplemented
        return Combination(tuple((float(factor) * c, t) for c, t in self.terms()))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Combination:
        return self * (1 / divisor) if isinstance(divisor, Real) else NotImplemented

    def __neg__(self) -> Combination:
        return self * -1.0

    def __sub__(self, other: Any) -> Combination:
        return self + -other if isinstance(other, Linear) else NotImplemented


@dataclass(frozen=True)
class Combination(Linear):
    """A sum of targets, each times a factor: ``box_mean("sst", ...) - box_mean("sst", ...)``."""

    parts: tuple[tuple[float, Target], ...]

    def terms(self) -> tuple[tuple[float, Target], ...]:
        """Return the targets and their factors."""
        return self.parts


@dataclass(frozen=True)
class Target(Linear):
    """A quantity of one output channel. Made by :func:`box_mean`, :func:`cell`, :func:`area_mean`, :func:`field`.

    Several make one: ``box_mean("sst", **east) - box_mean("sst", **west)``, or over levels
    ``sum(dz * area_mean("t", lev=z) for z, dz in thickness.items())``.

    Attributes
    ----------
    name
        Output variable; None: the only one.
    pattern
        How the target is called: ``{what}`` is the output, ``{where}`` the place.
    where
        Coordinate ranges or points in space, an ``offset`` and labels of levels where there are several.
    weigh
        Weights over space from (layout, selection in space, valid cells, label); None: the field itself.
    area
        Whether the weights are areas.
    """

    name: str | None
    pattern: str
    where: Mapping[str, Any]
    weigh: Callable[[Layout, dict[str, Any], np.ndarray, str], np.ndarray] | None
    area: bool = False

    def __str__(self) -> str:
        """Return the target in words."""
        return self._told(self.name or "the output", {n: v for n, v in self.where.items() if n != "offset"})

    def _told(self, what: str, where: Mapping[str, Any]) -> str:
        return self.pattern.format(what=what, where=words.place(where) or "all cells")

    def terms(self) -> tuple[tuple[float, Target], ...]:
        """Return the target itself."""
        return ((1.0, self),)

    def bind(self, layout: Layout) -> Measure:
        """Return the target on the outputs of *layout*.

        Raises
        ------
        KeyError
            For an unknown variable or coordinate; the nearest is offered.
        ValueError
            Where several channels fit, or no valid cell is selected.
        """
        channel, inside = _channel(layout, self.name, self.where)
        chosen = layout.targets[channel]
        label = self._told(words.channel(chosen), inside) + words.ahead(chosen.offset, layout.step)
        valid = layout.valid("targets")[..., channel]
        if self.weigh is None and not layout.space:
            one = np.eye(len(layout.targets))[channel]
            return linear(one, label, layout.units(chosen.name), chosen.offset)
        if self.weigh is None:
            cells = np.flatnonzero(valid)
            return Measure(
                lambda out: _flat(out)[:, cells, channel].astype("float64"),
                layout.space,
                valid,
                label,
                layout.units(chosen.name),
                chosen.offset,
            )
        weights = np.where(valid, self.weigh(layout, inside, valid, label), 0.0).ravel()
        cells = np.flatnonzero(weights)
        if not cells.size:
            raise ValueError(
                describe(
                    f"target {label!r} holds no valid cell",
                    expected="one or more valid cells of positive area",
                    received="none",
                    remedy="widen the selection",
                )
            )
        whole = np.zeros((weights.size, len(layout.targets)))
        whole[:, channel] = weights / weights.sum()
        return linear(whole.ravel(), label, layout.units(chosen.name), chosen.offset)


def field(name: str | None = None, **where: Any) -> Target:
    """Explain every cell of an output variable: one attribution for each output cell and group.

    Parameters
    ----------
    name
        Output variable; None where there is one.
    **where
        ``offset=...`` [steps] and labels of levels, needed where the variable has several channels.
    """
    return Target(name, "{what}", where, None)


def area_mean(name: str | None = None, **where: Any) -> Target:
    """Explain the mean of an output variable over all valid cells, weighted by area; see :func:`field`."""
    return Target(name, "area mean of {what}", where, lambda layout, inside, valid, label: layout.weights, True)


def box_mean(name: str | None = None, **where: Any) -> Target:
    """Explain the mean of an output variable over a box, weighted by area.

    Parameters
    ----------
    name
        Output variable; None where there is one.
    **where
        Coordinate ranges, both ends included: ``lat=slice(-5, 5), lon=slice(190, 240)``. A range of longitudes may cross
        the date line or Greenwich. ``offset`` and levels as in :func:`field`.

    Examples
    --------
    >>> print(box_mean("sst", lat=slice(-5, 5), lon=slice(190, 240)))
    mean of sst over 5°S to 5°N, 170°W to 120°W
    """

    def weigh(layout: Layout, inside: dict[str, Any], valid: np.ndarray, label: str) -> np.ndarray:
        return layout.weights * box_cells(layout, inside, f"target {label!r}")

    return Target(name, "mean of {what} over {where}", where, weigh, True)


def cell(name: str | None = None, **where: Any) -> Target:
    """Explain an output variable in the cell nearest to a point.

    Parameters
    ----------
    name
        Output variable; None where there is one.
    **where
        The point: ``lat=0.5, lon=-30.0``. ``offset`` and levels as in :func:`field`.
    """

    def weigh(layout: Layout, inside: dict[str, Any], valid: np.ndarray, label: str) -> np.ndarray:
        nearest = nearest_cell(layout, inside, f"target {label!r}")
        if not valid.ravel()[nearest]:
            raise ValueError(
                describe(
                    f"target {label!r} lies on a masked cell",
                    expected="a point whose nearest cell is valid",
                    received=f"{dict(inside)}",
                    remedy="move the point, or use box_mean around it",
                )
            )
        return np.arange(valid.size).reshape(valid.shape) == nearest

    return Target(name, "{what} at {where}", where, weigh)


def bind(target: Any, outputs: Outputs | Layout) -> Measure:
    """Return a target on what a model returns.

    Parameters
    ----------
    target
        A :class:`Target`, or a sum of several; the name of an output; a function of the labelled output Dataset; None or
        "field": all there is.
    outputs
        How the output is labelled; a layout stands for its fields.

    Raises
    ------
    TypeError, KeyError, ValueError
        For what is no target, names no output, or holds no valid cell.
    """
    if not isinstance(outputs, Fields | Table | Given):
        outputs = Fields(outputs)
    if isinstance(target, Combination):
        return combined([(factor, bind(part, outputs)) for factor, part in target.parts])
    if isinstance(outputs, Fields) and (target is None or target == "field"):
        target = field()
    elif isinstance(outputs, Fields) and isinstance(target, str):
        target = field(target)
    if isinstance(target, Target):
        return _in_space(target, outputs)
    if isinstance(outputs, Table) and (target is None or isinstance(target, str)):
        return column(target, outputs)
    if isinstance(outputs, Given) and (target is None or isinstance(target, str)):
        return variable(target, outputs)
    if callable(target):
        return of_function(target, outputs)
    raise TypeError(
        describe(
            "target is no target",
            expected="the name of an output, a function of the output Dataset, or None for all of it"
            if not isinstance(outputs, Fields)
            else "field, area_mean, box_mean, cell, a function of the output Dataset, or None for the field",
            received=repr(target),
            remedy="for instance target=box_mean('tracer', lat=slice(10, 40))"
            if isinstance(outputs, Fields)
            else "for instance target=lambda ds: ds['name']",
        )
    )


def _in_space(target: Target, outputs: Outputs) -> Measure:
    """Return a target of :func:`field`, :func:`box_mean` and the like on what a model returns."""
    if isinstance(outputs, Fields):
        return target.bind(outputs.layout)
    if isinstance(outputs, Given):
        one_number = target.weigh is None and not target.where and target.name in outputs.template.data_vars
        if one_number and not outputs.template[target.name].ndim:
            return variable(target.name, outputs)
        return on_its_grid(target.bind, target.name, target.area, outputs)
    if target.weigh is None and not target.where:
        return column(target.name, outputs)
    raise TypeError(
        describe(
            f"target {str(target)!r} needs fields",
            expected=f"the name of one of the numbers the model returns: {', '.join(outputs.names)}",
            received="a selection in space",
            remedy=f"for instance target={outputs.names[0]!r}",
        )
    )


def _channel(layout: Layout, name: str | None, where: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the output channel that a target names, and the rest of its selection, which is in space."""
    names = tuple(dict.fromkeys(c.name for c in layout.targets))
    if name is not None and name not in names:
        raise KeyError(
            describe(
                f"target names the unknown output {name!r}{closest(name, names)}",
                expected=", ".join(names),
                received=repr(name),
                remedy="correct the name, or add it to the targets of the FieldSpec",
            )
        )
    fit = [i for i, c in enumerate(layout.targets) if name in (None, c.name)]
    levels = {d for i in fit for d in layout.targets[i].level}
    inside = dict(where)
    for key in [k for k in where if k == "offset" or k in levels]:
        wanted = inside.pop(key)
        fit = [
            i
            for i in fit
            if (layout.targets[i].offset if key == "offset" else layout.targets[i].level.get(key)) == wanted
        ]
    if len(fit) != 1:
        raise ValueError(
            describe(
                f"target fits {len(fit)} output channels",
                expected="one of " + ", ".join(repr(str(c)) for c in layout.targets),
                received=", ".join(repr(str(layout.targets[i])) for i in fit) or f"{name or ''} {dict(where)}",
                remedy=_narrower([layout.targets[i] for i in fit]),
            )
        )
    return fit[0], inside


def _narrower(fit: list[Channel]) -> str:
    """Return what would tell apart the channels that a target fits."""
    if not fit:
        return "correct offset and level"
    apart: list[str] = []
    if len({c.name for c in fit}) > 1:
        apart.append(f"name the variable, such as {fit[0].name!r}")
    offsets = [str(o) for o in dict.fromkeys(c.offset for c in fit)]
    if len(offsets) > 1:
        apart.append(f"add offset={', '.join(offsets[:-1])} or {offsets[-1]} [steps]")
    for dim in dict.fromkeys(d for c in fit for d in c.level):
        labels = list(dict.fromkeys(c.level[dim] for c in fit if dim in c.level))
        if len(labels) > 1:
            one, two = (f"box_mean({fit[0].name!r}, {dim}={label!r})" for label in labels[:2])
            apart.append(f"give {dim}=...; targets of several levels can be added: {one} + {two}")
    return "; ".join(apart)


def _flat(outputs: np.ndarray) -> np.ndarray:
    return outputs.reshape(len(outputs), -1, outputs.shape[-1])
