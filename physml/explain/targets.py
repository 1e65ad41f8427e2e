"""Targets: the quantity of a model's output that is explained.

A target reduces the labelled output of a model to one number a sample, or to several: a field, a profile, all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe
from physml.explain.groups import box_cells, separation
from physml.explain.outputs import Fields, Given, Outputs, Table

if TYPE_CHECKING:
    from physml.layout import Layout

Forward = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A target of a given model: outputs ``[row, *shape]`` to values ``[row, valid cell]`` in float64.

    Attributes
    ----------
    reduce
        The reduction.
    dims, valid
        Dimensions of the result and its valid cells: none and True for one number, space for a field.
    label, units
        What is explained and its unit, or None.
    offset
        Steps from the sample to the time the target is valid at.
    coords
        Coordinates of *dims* that are not those of the inputs.
    weights
        Where the target is one number and linear in the output: its weights ``[value of the output]``, in the order of the
        flattened output. Else None.
    """

    reduce: Forward
    dims: tuple[str, ...]
    valid: np.ndarray
    label: str
    units: str | None
    offset: int = 0
    coords: Mapping[str, Any] = attribute(default_factory=dict)
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class Target:
    """A quantity of one output channel. Made by :func:`box_mean`, :func:`cell`, :func:`area_mean`, :func:`field`.

    Attributes
    ----------
    name
        Output variable; None: the only one.
    label
        How the target is called, with ``{}`` where the channel goes.
    where
        Coordinate ranges or points in space, an ``offset`` and labels of levels where there are several.
    weigh
        Weights over space from (layout, selection in space, valid cells, label); None: the field itself.
    """

    name: str | None
    label: str
    where: Mapping[str, Any]
    weigh: Callable[[Layout, dict[str, Any], np.ndarray, str], np.ndarray] | None

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
        label = self.label.format(chosen)
        valid = layout.valid("targets")[..., channel]
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
        share = weights[cells, None] / weights.sum()
        whole = np.zeros((weights.size, len(layout.targets)))
        whole[:, channel] = weights / weights.sum()
        return Measure(
            lambda out: _flat(out)[:, cells, channel].astype("float64") @ share,
            (),
            np.array(True),
            label,
            layout.units(chosen.name),
            chosen.offset,
            weights=whole.ravel(),
        )


def field(name: str | None = None, **where: Any) -> Target:
    """Explain every cell of an output variable: one attribution for each output cell and group.

    Parameters
    ----------
    name
        Output variable; None where there is one.
    **where
        ``offset=...`` [steps] and labels of levels, needed where the variable has several channels.
    """
    return Target(name, "{}", where, None)


def area_mean(name: str | None = None, **where: Any) -> Target:
    """Explain the mean of an output variable over all valid cells, weighted by area; see :func:`field`."""
    return Target(name, "area mean of {}", where, lambda layout, inside, valid, label: layout.weights)


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
    >>> box_mean("sst", lat=slice(-5, 5), lon=slice(190, 240)).label
    'mean of {} over lat -5 to 5, lon 190 to 240'
    """

    def weigh(layout: Layout, inside: dict[str, Any], valid: np.ndarray, label: str) -> np.ndarray:
        return layout.weights * box_cells(layout, inside, f"target {label!r}")

    ranges = ", ".join(f"{n} {s.start} to {s.stop}" for n, s in where.items() if isinstance(s, slice))
    return Target(name, f"mean of {{}} over {ranges or 'all cells'}", where, weigh)


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
        away = np.zeros(layout.shape)
        for name, value in inside.items():
            distance, step = separation(layout, name, float(value), f"target {label!r}")
            if distance.min() > max(step, 1e-6):
                raise ValueError(
                    describe(
                        f"target {label!r} lies outside the grid",
                        expected=f"{name} within {step:g} of a cell",
                        received=f"{name}={value}, {distance.min():g} from the nearest",
                        remedy="correct the point; mind the units and sign of the coordinates",
                    )
                )
            away += distance**2
        if not valid.ravel()[away.argmin()]:
            raise ValueError(
                describe(
                    f"target {label!r} lies on a masked cell",
                    expected="a point whose nearest cell is valid",
                    received=f"{dict(inside)}",
                    remedy="move the point, or use box_mean around it",
                )
            )
        return np.arange(away.size).reshape(away.shape) == away.argmin()

    point = ", ".join(f"{n}={v}" for n, v in where.items())
    return Target(name, f"{{}} at {point}", where, weigh)


def bind(target: Any, outputs: Outputs | Layout) -> Measure:
    """Return a target on what a model returns.

    Parameters
    ----------
    target
        A :class:`Target`; the name of an output; a function of the labelled output Dataset; None or "field": all there is.
    outputs
        How the output is labelled; a layout stands for its fields.

    Raises
    ------
    TypeError, KeyError, ValueError
        For what is no target, names no output, or holds no valid cell.
    """
    if not isinstance(outputs, Fields | Table | Given):
        outputs = Fields(outputs)
    if isinstance(target, Target) and isinstance(outputs, Fields):
        return target.bind(outputs.layout)
    if isinstance(outputs, Fields) and (target is None or target == "field"):
        return field().bind(outputs.layout)
    if isinstance(outputs, Fields) and isinstance(target, str):
        return field(target).bind(outputs.layout)
    if isinstance(outputs, Table) and (target is None or isinstance(target, str)):
        return _column(target, outputs)
    if isinstance(outputs, Given) and (target is None or isinstance(target, str)):
        return _variable(target, outputs)
    if callable(target) and not isinstance(target, Target):
        return _labelled(target, outputs)
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


def _column(name: str | None, outputs: Table) -> Measure:
    """Return one number of a table, or all of them along the dimension ``output``."""
    if name is None and len(outputs.names) > 1:
        units = set(outputs.units)
        return Measure(
            lambda out: out.astype("float64"),
            ("output",),
            np.ones(len(outputs.names), bool),
            "all outputs",
            units.pop() if len(units) == 1 else None,
            outputs.offsets[0] if len(set(outputs.offsets)) == 1 else 0,
            {"output": ("output", list(outputs.names), {"long_name": "output of the model"})},
        )
    name = outputs.names[0] if name is None else name
    if name not in outputs.names:
        raise KeyError(_unknown_output(name, outputs.names))
    i = outputs.names.index(name)
    return Measure(
        lambda out: out[:, i : i + 1].astype("float64"),
        (),
        np.array(True),
        name,
        outputs.units[i] if outputs.units else None,
        outputs.offsets[i] if outputs.offsets else 0,
        weights=np.eye(len(outputs.names))[i],
    )


def _variable(name: str | None, outputs: Given) -> Measure:
    """Return one variable of what a function of Datasets returns."""
    names = tuple(str(n) for n in outputs.template.data_vars)
    if name is not None and name not in names:
        raise KeyError(_unknown_output(name, names))
    if name is None and len(names) > 1:
        raise ValueError(
            describe(
                f"the model returns {len(names)} variables",
                expected="the one that is explained",
                received=", ".join(names),
                remedy=f"pass target={names[0]!r}, or a function of the Dataset",
            )
        )
    chosen = names[0] if name is None else name
    return _labelled(lambda ds: ds[chosen], outputs)


def _unknown_output(name: str, names: tuple[str, ...]) -> str:
    return describe(
        f"target names the unknown output {name!r}{closest(name, names)}",
        expected=", ".join(names),
        received=repr(name),
        remedy="correct the name",
    )


def _labelled(function: Callable[[xr.Dataset], xr.DataArray], outputs: Outputs) -> Measure:
    """Return a function of the labelled output as a measure; each row is a sample of that Dataset."""
    layout = outputs.layout if isinstance(outputs, Fields) else None
    sample = outputs.sample_dim if layout is None else layout.spec.sample_dim  # type: ignore[union-attr]

    def labelled(raw: np.ndarray) -> xr.DataArray:
        result = function(outputs.label(raw))
        if not isinstance(result, xr.DataArray) or sample not in result.dims:
            raise ValueError(
                describe(
                    "the target function returned another shape",
                    expected=f"a DataArray along {sample!r}, and any other dimensions",
                    received=getattr(result, "dims", type(result).__name__),
                    remedy=f"reduce over any dimensions but {sample!r}",
                )
            )
        return result

    # Unlike positive numbers, so that ratios and logarithms are defined and only what the function masks is missing.
    probe = labelled(np.random.default_rng(0).uniform(0.5, 1, (1, *outputs.shape)).astype("float32"))
    dims = tuple(str(d) for d in probe.dims if d != sample)
    there: np.ndarray = np.ones((), bool)
    if layout is not None and set(dims) == set(layout.space):
        dims = layout.space
        there = layout.valid("targets").any(-1)
    probe = probe.transpose(sample, *dims)
    valid = there & np.asarray(probe.notnull().values[0] if dims else True)
    cells = np.flatnonzero(valid)
    if not cells.size:
        raise ValueError(
            describe(
                "the target function returned no valid cell",
                expected="values on one or more cells",
                received="missing values on all",
                remedy="check its selection and mask",
            )
        )

    def reduce(raw: np.ndarray) -> np.ndarray:
        values = labelled(raw).transpose(sample, *dims).values
        return values.reshape(len(values), -1)[:, cells].astype("float64")

    label = str(probe.name or getattr(function, "__name__", "target"))
    offsets = {c.offset for c in layout.targets} if layout is not None else set(getattr(outputs, "offsets", ()))
    coords = {str(n): c.variable for n, c in probe.coords.items() if c.dims and set(c.dims) <= set(dims)}
    offset = offsets.pop() if len(offsets) == 1 else 0
    return Measure(reduce, dims, valid, label, probe.attrs.get("units"), offset, coords)


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
                remedy="name the variable, and give offset=... and the level where it has several",
            )
        )
    return fit[0], inside


def _flat(outputs: np.ndarray) -> np.ndarray:
    return outputs.reshape(len(outputs), -1, outputs.shape[-1])
