"""Paths cut where the model is not smooth: the kinks, and integrated gradients piece by piece between them.

A path crosses a kink of input i at ``t = (kink - b_i) / (x_i - b_i)``, if that lies between 0 and 1. Between the crossings of all
inputs the gradient is smooth, so that few Gauss points on each piece do: one where f is linear between its kinks. A path costs as
many points as it crosses kinks, and one more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import xarray as xr

from physml._errors import closest, describe, refuse
from physml.explain.gradients.paths import nodes
from physml.explain.gradients.rows import Rows, spans

if TYPE_CHECKING:
    from physml.layout import Layout

Kinks = tuple[np.ndarray, np.ndarray]
"""Places among the inputs ``[*space, channel]``, flattened, and the values there; one entry for each kink of each valid cell."""

Points = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Sample, baseline row, position and weight of points on paths, each ``[point]``."""


def located(kinks: Mapping[str, Any], layout: Layout) -> Kinks:
    """Return the kinks of every valid cell.

    Parameters
    ----------
    kinks
        By input variable, in its units: numbers, an array that broadcasts to ``[*space, kink]``, or a DataArray on dimensions of
        space and levels and at most one other. NaN: no kink there. They hold at all offsets, and at all levels not told apart.

    Raises
    ------
    ValueError, TypeError
        For what is no mapping, no input, no number, or lies on another grid.
    """
    names = list(layout.spec.inputs)
    if not isinstance(kinks, Mapping):
        raise TypeError(
            describe(
                "integrated: kinks are not told by variable",
                expected="a mapping from input variables to values in their units",
                received=type(kinks).__name__,
                remedy=f"pass kinks={{{names[0]!r}: [0.0]}}",
            )
        )
    valid = layout.valid("inputs")
    own = np.arange(valid.size).reshape(valid.shape)
    places, values = [np.zeros(0, int)], [np.zeros(0)]
    for name, given in kinks.items():
        if name not in names:
            refuse(
                f"integrated: kinks name {name!r}, which is no input{closest(str(name), names)}",
                ", ".join(names),
                repr(name),
                "correct the name",
            )
        channels = layout.where("inputs", name)
        for kink in _fields(name, given, layout):
            levels = np.broadcast_to(kink, (*layout.shape, layout.variables[name].depth))
            here = np.tile(levels, len(layout.spec.offsets("inputs", name)))
            counts = valid[..., channels] & np.isfinite(here)
            places.append(own[..., channels][counts])
            values.append(here[counts])
    return np.concatenate(places), np.concatenate(values)


def _fields(name: str, given: Any, layout: Layout) -> Iterator[np.ndarray]:
    """Yield one kink after another, ``[*space, level]``."""
    if isinstance(given, xr.DataArray):
        levels = layout.variables[name].levels
        others = [d for d in given.dims if d not in layout.space and d not in levels]
        for dim in (d for d in layout.space if d in given.indexes and d in layout.statics.indexes):
            if not given.indexes[dim].equals(layout.statics.indexes[dim]):
                _misfit(name, f"the labels of the inputs along {dim!r}", "other labels")
        if len(others) > 1:
            _misfit(name, f"dimensions {layout.space}, levels, and one of the kinks", given.dims)
        each = [given.isel({d: k}) for d in others for k in range(given.sizes[d])] if others else [given]
        yield from (layout.static(kink.rename(name), name) for kink in each)
        return
    try:
        values = np.asarray(given, "float64")
        values = np.broadcast_to(values, (*layout.shape, *values.shape[-1:])) if values.ndim else values[None]
    except (TypeError, ValueError):
        _misfit(name, f"numbers that broadcast to [*space, kink] = {(*layout.shape, 'kink')}", _told(given))
    yield from (values[..., k, None] for k in range(values.shape[-1]))


def _told(given: Any) -> str:
    shape = getattr(given, "shape", None)
    return repr(given) if shape is None else f"shape {shape}"


def _misfit(name: str, expected: object, received: object) -> NoReturn:
    refuse(
        f"integrated: kinks of {name!r} do not fit the inputs",
        expected,
        received,
        f"pass kinks={{{name!r}: [0.0]}}, or a field on the grid of the inputs",
    )


def cuts(sample: np.ndarray, row: np.ndarray, kinks: Kinks) -> np.ndarray:
    """Return where a path is cut, with its ends: ``[piece + 1]`` from 0 to 1.

    Examples
    --------
    >>> cuts(np.array([4.0, 1.0]), np.array([0.0, 1.0]), (np.array([0, 0, 1]), np.array([1.0, 9.0, 1.0])))
    array([0.  , 0.25, 1.  ])
    """
    place, value = kinks
    start = row.reshape(-1)[place]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        at = (value - start) / (sample.reshape(-1)[place] - start)
    return np.unique(np.concatenate([[0.0, 1.0], at[(at > 0) & (at < 1)]]))


def piecewise(
    gradient: Rows,
    inputs: np.ndarray,
    rows: np.ndarray,
    index: np.ndarray,
    kinks: Kinks,
    steps: int,
    batch_rows: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return integrated gradients by paths cut at kinks, ``[sample, *space, channel]``, and the points of each sample.

    One path is held at a time, and *batch_rows* rows.

    Parameters
    ----------
    gradient
        Gradient of rows ``[batch_rows, *space, channel]``.
    inputs, rows, index
        Samples, baseline rows, and the baseline rows of each sample ``[sample, slot]``.
    kinks
        From :func:`located`.
    steps
        Gauss points on each piece.
    batch_rows
        Rows in a batch.
    """
    inputs, rows = inputs.astype("float64"), rows.astype("float64")
    phi, used = np.zeros(inputs.shape), np.zeros(len(inputs))
    column = (-1, *(1 for _ in inputs.shape[1:]))
    at_nodes, weights = nodes("gauss", steps)

    def paths() -> Iterator[Points]:
        for s, own in enumerate(index):
            for row in own:
                ends = cuts(inputs[s], rows[row], kinks)
                length = np.diff(ends)[:, None]
                at = (ends[:-1, None] + length * at_nodes).reshape(-1)
                weight = (length * weights / len(own)).reshape(-1)
                yield np.full(at.size, s), np.full(at.size, row), at, weight

    for owner, row, at, weight in filled(paths(), batch_rows):
        start = rows[row]
        way = inputs[owner] - start
        made = start + at.reshape(column) * way
        if len(made) < batch_rows:
            made = np.concatenate([made, np.repeat(made[-1:], batch_rows - len(made), axis=0)])
        slopes, way = gradient(made), way * weight.reshape(column)
        for key, here in spans(owner):
            phi[key] += np.einsum("r...,r...->...", way[here], slopes[here])
            used[key] += here.stop - here.start
    return phi, used


def filled(paths: Iterator[Points], size: int) -> Iterator[Points]:
    """Yield the points of paths, one path after another, *size* at a time; fewer at the end."""
    held: list[Points] = []
    count = 0
    for path in paths:
        held.append(path)
        count += len(path[0])
        if count < size:
            continue
        whole = tuple(np.concatenate(parts) for parts in zip(*held, strict=True))
        full = count // size * size
        for start in range(0, full, size):
            yield tuple(a[start : start + size] for a in whole)  # type: ignore[misc]
        held, count = [tuple(a[full:] for a in whole)], count - full  # type: ignore[list-item]
    if count:
        yield tuple(np.concatenate(parts) for parts in zip(*held, strict=True))  # type: ignore[misc]
