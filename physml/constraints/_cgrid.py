"""Cells and faces of a C-grid: which faces are open, which cells hang together, and sizes read from static fields.

A face carries the index of the cell on its side of *smaller* index: ``face[j, i]`` along the last dimension lies between
the cells ``(j, i)`` and ``(j, i + 1)``, so that fields on faces have the shape of the grid. What flows through a face is
positive towards larger index. Arrays are ``[*space, column]``, a column being one channel: an offset and a level.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix, csgraph

from physml._errors import closest, describe
from physml.layout import Layout

CLOSED, PERIODIC = "closed", "periodic"


def periodic_dims(who: str, boundary: Mapping[str, str], layout: Layout) -> tuple[bool, ...]:
    """Return for every space dimension whether it is periodic.

    Raises
    ------
    ValueError
        Where a boundary is missing or unknown.
    """
    missing = [d for d in layout.space if d not in boundary]
    unknown = [d for d in boundary if d not in layout.space]
    bad = {d: b for d, b in boundary.items() if b not in (CLOSED, PERIODIC)}
    if missing or unknown or bad:
        hint = closest(unknown[0], layout.space) if unknown else ""
        raise ValueError(
            describe(
                f"{who}: the boundary does not fit the grid{hint}",
                expected=f"'{PERIODIC}' or '{CLOSED}' for each of {layout.space}",
                received=dict(boundary),
                remedy="say for every space dimension what lies beyond its ends",
            )
        )
    return tuple(boundary[d] == PERIODIC for d in layout.space)


def states(who: str, layout: Layout) -> list[slice]:
    """Return where each target stands among the inputs at offset 0.

    Raises
    ------
    KeyError, ValueError
        For targets that are no inputs, and for several target offsets.
    """
    for name in layout.spec.targets:
        layout.where("inputs", name, 0)
        if len(layout.spec.offsets("targets", name)) > 1:
            raise ValueError(
                describe(
                    f"{who} moves {name!r} over one step",
                    expected="one target offset",
                    received=layout.spec.offsets("targets", name),
                    remedy="roll the one-step model out",
                )
            )
    return [layout.where("inputs", n, 0) for n in layout.spec.targets]


def measure(who: str, what: str, source: str | float, layout: Layout, target: str, where: np.ndarray) -> np.ndarray:
    """Return a size, such as the length of a face, as ``[*space, column]`` float64; 1 where it does not matter.

    Parameters
    ----------
    who, what
        For the error: the head, and what is measured.
    source
        Name of a static field, or one number for all.
    target
        The variable whose columns are meant.
    where
        ``[*space, column]``, true where the size must be positive.

    Raises
    ------
    ValueError
        Where it is not.
    """
    if isinstance(source, str):
        field = layout.static(source, target)
        field = np.tile(field, where.shape[-1] // field.shape[-1])  # the same at every offset
    else:
        field = np.full(where.shape, float(source))
    bad = where & ~((field > 0) & np.isfinite(field))
    if bad.any():
        raise ValueError(
            describe(
                f"{who}: {what} {source!r} is not positive where it is needed",
                expected="> 0 and finite",
                received=f"{int(bad.sum())} of {int(where.sum())} values zero, negative or missing",
                remedy="correct the field, or mask those cells",
            )
        )
    return np.where(where, field, 1.0)


def open_faces(valid: np.ndarray, axis: int, periodic: bool) -> np.ndarray:
    """Return which faces towards larger index along *axis* lie between two valid cells, ``[*space, column]``.

    Examples
    --------
    >>> open_faces(np.array([[True], [True], [False], [True]]), 0, periodic=True)[:, 0]
    array([ True, False, False,  True])
    """
    found = valid & np.roll(valid, -1, axis)
    if not periodic:
        last: list[Any] = [slice(None)] * valid.ndim
        last[axis] = -1
        found[tuple(last)] = False
    return found


def components(member: np.ndarray, periodic: Sequence[bool], *, diagonal: bool = False) -> np.ndarray:
    """Label the connected cells of a mask ``[*space]`` with 1, 2, ...; 0 elsewhere.

    Parameters
    ----------
    member
        The mask.
    periodic
        For every dimension, whether its ends touch.
    diagonal
        Whether cells that share a corner alone are connected: coasts are, water is not.

    Examples
    --------
    >>> components(np.array([[1, 0, 0, 1], [0, 0, 1, 0]], bool), (False, True)).tolist()
    [[1, 0, 0, 1], [0, 0, 2, 0]]
    """
    index = np.arange(member.size).reshape(member.shape)
    axes = tuple(range(member.ndim))
    ones, others = [], []
    for step in itertools.product((-1, 0, 1), repeat=member.ndim):
        if step <= (0,) * member.ndim or (not diagonal and sum(map(abs, step)) > 1):
            continue  # each pair once
        back = tuple(-s for s in step)
        touch = member & np.roll(member, back, axes)
        for axis, s in enumerate(step):
            if s and not periodic[axis]:
                edge: list[Any] = [slice(None)] * member.ndim
                edge[axis] = -1 if s > 0 else 0
                touch[tuple(edge)] = False
        ones.append(index[touch])
        others.append(np.roll(index, back, axes)[touch])
    a, b = np.concatenate(ones), np.concatenate(others)
    graph = coo_matrix((np.ones(a.size, "int8"), (a, b)), shape=(member.size, member.size))
    found = csgraph.connected_components(graph, directed=False)[1].reshape(member.shape)
    labels = np.zeros(member.shape, "int64")
    labels[member] = np.unique(found[member], return_inverse=True)[1].reshape(-1) + 1
    return labels
