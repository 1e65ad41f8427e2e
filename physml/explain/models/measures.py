"""Measures: targets on what a given model returns, as reductions of its raw output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe, refuse
from physml.explain.models import words
from physml.explain.models.outputs import Fields, Given, Outputs, Table
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


def linear(weights: np.ndarray, label: str, units: str | None, offset: int) -> Measure:
    """Return the sum of the outputs times *weights*, ``[value of the output]``."""
    cells = np.flatnonzero(weights)
    share = weights[cells, None]
    return Measure(
        lambda out: out.reshape(len(out), -1)[:, cells].astype("float64") @ share,
        (),
        np.array(True),
        label,
        units,
        offset,
        weights=weights,
    )


def combined(parts: Sequence[tuple[float, Measure]]) -> Measure:
    """Return a sum of measures, each times a factor.

    Raises
    ------
    ValueError
        Where one of them is not one number that is linear in the output.
    """
    total: Any = 0.0
    told = ""
    long = any(" " in part.label for _, part in parts)
    plus, minus = (", plus ", ", minus ") if long else (" + ", " - ")
    for factor, part in parts:
        if part.weights is None:
            refuse(
                f"target {part.label!r} cannot be added to others",
                "targets of one number: box_mean, area_mean, cell, the name of an output",
                f"values along {part.dims}",
                "pass a function of the output Dataset: target=lambda ds: ds['a'] - ds['b']",
            )
        total = total + factor * part.weights
        times = "" if abs(factor) == 1 else f"{abs(factor):g} x "
        sign = minus if factor < 0 else plus if told else ""
        told += (sign if told or long else sign.strip()) + times + part.label
    units, offsets = {p.units for _, p in parts}, {p.offset for _, p in parts}
    return linear(
        total, told.lstrip(", "), units.pop() if len(units) == 1 else None, offsets.pop() if len(offsets) == 1 else 0
    )


def column(name: str | None, outputs: Table) -> Measure:
    """Return one number of a table, or all of them along the dimension ``output``.

    Raises
    ------
    KeyError
        For an unknown name; the nearest is offered.
    """
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
        raise KeyError(_unknown(name, outputs.names))
    i = outputs.names.index(name)
    offset = outputs.offsets[i] if outputs.offsets else 0
    unit = outputs.units[i] if outputs.units else None
    return linear(np.eye(len(outputs.names))[i], words.output(name, offset), unit, offset)


def variable(name: str | None, outputs: Given) -> Measure:
    """Return one variable of what a function of Datasets returns, whatever its dimensions.

    Raises
    ------
    KeyError, ValueError
        For an unknown name, several variables without a name, and one that is missing everywhere.
    """
    name = chosen(name, outputs)
    like, at = outputs.template[name], outputs.where(name)
    units = like.attrs.get("units")
    if not like.ndim:
        weights = np.zeros(outputs.shape)
        weights[at] = 1
        return linear(weights, name, units, 0)
    valid = like.notnull().values
    cells = at.start + np.flatnonzero(valid)
    if not cells.size:
        _nothing_valid(f"the variable {name!r} of the model")
    dims = tuple(map(str, like.dims))
    coords = own_coordinates(like, dims, outputs.layout)
    return Measure(lambda out: out[:, cells].astype("float64"), dims, valid, name, units, 0, coords)


def of_function(function: Callable[[xr.Dataset], xr.DataArray], outputs: Outputs) -> Measure:
    """Return a function of the labelled output as a measure; each row is a sample of that Dataset.

    Raises
    ------
    ValueError
        Where it returns no DataArray along the sample dimension, or no valid cell.
    """
    layout = None if isinstance(outputs, Table) else outputs.layout
    sample = outputs.sample_dim if isinstance(outputs, Table) else outputs.layout.spec.sample_dim

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
    if isinstance(outputs, Fields) and set(dims) == set(outputs.layout.space):
        dims = outputs.layout.space
        if same_cells(probe, outputs.layout):  # what the function fills in on masked cells is nobody's output
            there = np.asarray(outputs.layout.valid("targets").any(-1))
    probe = probe.transpose(sample, *dims)
    valid = there & np.asarray(probe.notnull().values[0] if dims else True)
    cells = np.flatnonzero(valid)
    if not cells.size:
        _nothing_valid("the target function")

    def reduce(raw: np.ndarray) -> np.ndarray:
        values = labelled(raw).transpose(sample, *dims).values
        return values.reshape(len(values), -1)[:, cells].astype("float64")

    label = str(probe.name or getattr(function, "__name__", "target"))
    offsets = set(outputs.offsets) if isinstance(outputs, Table) else set()
    if isinstance(outputs, Fields):
        offsets = {c.offset for c in outputs.layout.targets}
    offset = offsets.pop() if len(offsets) == 1 else 0
    return Measure(reduce, dims, valid, label, probe.attrs.get("units"), offset, own_coordinates(probe, dims, layout))


def same_cells(da: xr.DataArray, layout: Layout) -> bool:
    """Whether an array lies on the cells of a layout, in their order, as far as sizes and labels tell."""
    for dim, size in zip(layout.space, layout.shape, strict=True):
        if da.sizes[dim] != size:
            return False
        known = layout.statics.coords.get(dim)
        if known is not None and dim in da.coords and not _alike(known.values, da[dim].values):
            return False
    return True


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    numbers = a.dtype.kind in "iuf" and b.dtype.kind in "iuf"
    return bool(np.allclose(a, b, rtol=1e-5, atol=1e-8)) if numbers else bool((a == b).all())


def own_coordinates(da: xr.DataArray, dims: tuple[str, ...], layout: Layout | None) -> dict[str, Any]:
    """Return coordinates of the dimensions of a target; numbers where one is called like one of space, but has other cells."""
    found: dict[str, Any] = {str(n): c.variable for n, c in da.coords.items() if c.dims and set(c.dims) <= set(dims)}
    if layout is not None:
        sizes = dict(zip(layout.space, layout.shape, strict=True))
        for dim in dims:
            if dim in sizes and dim not in found and da.sizes[dim] != sizes[dim]:
                found[dim] = xr.Variable(dim, np.arange(da.sizes[dim]))
    return found


def chosen(name: str | None, outputs: Given) -> str:
    """Return the name of the variable that is explained: the one named, or the only one."""
    names = tuple(str(n) for n in outputs.template.data_vars)
    if name is not None and name not in names:
        raise KeyError(_unknown(name, names))
    if name is None and len(names) > 1:
        raise ValueError(
            describe(
                f"the model returns {len(names)} variables",
                expected="the one that is explained",
                received=", ".join(names),
                remedy=f"pass target={names[0]!r}, or a function of the Dataset",
            )
        )
    return names[0] if name is None else name


def _unknown(name: str, names: tuple[str, ...]) -> str:
    return describe(
        f"target names the unknown output {name!r}{closest(name, names)}",
        expected=", ".join(names),
        received=repr(name),
        remedy="correct the name",
    )


def _nothing_valid(what: str) -> None:
    refuse(
        f"{what} returned no valid cell",
        "values on one or more cells",
        "missing values on all",
        "check its selection and mask",
    )
