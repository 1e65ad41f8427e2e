"""How inputs are cut into groups: one split by each choice (variable, lag, level, region, coordinate, patch), and their product.

A split tells each cell which of its parts holds it, an index that is broadcast to ``[*space, channel]``: the product of
splits is then arithmetic on indices, and as cheap for thousands of groups as for two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from physml._errors import refuse
from physml.explain.players._selecting import (
    box_cells,
    ends_of,
    few,
    is_longitude,
    known,
    locate,
    space_coordinate,
)

if TYPE_CHECKING:
    from physml.layout import Layout

Choice = bool | Mapping[str, Any] | None
Edges = bool | Sequence[float] | Mapping[str, Any]


@dataclass(frozen=True)
class Split:
    """One way to cut the inputs.

    Attributes
    ----------
    kind
        What it cuts by: ``"variable"``, ``"lag"``, ``"region"``, the name of a coordinate.
    labels
        Names of its parts; an empty one is left out of the names of groups.
    owner
        Which part holds each cell, broadcastable to ``[*space, channel]``; -1: none.
    """

    kind: str
    labels: tuple[str, ...]
    owner: np.ndarray


def refuse_gap(layout: Layout, left: np.ndarray, names: Sequence[str]) -> None:
    """Refuse cells ``[*space, channel]`` that lie in no group."""
    if left.any():
        refuse(
            f"{int(left.sum())} valid input cells lie in no group, first at {locate(layout, left)}",
            "every valid input cell in exactly one group",
            f"groups {few(names) or 'none'}",
            "add a group for them; rest='elsewhere' takes the space outside all regions",
        )


def refuse_overlap(layout: Layout, shared: np.ndarray, count: int, one: str, other: str) -> None:
    """Refuse cells ``[*space, channel]`` that lie in two groups."""
    refuse(
        f"groups {one!r} and {other!r} overlap in {count} cells, first at {locate(layout, shared)}",
        "every valid input cell in exactly one group",
        "cells in two groups",
        "cut the shared cells from one of them",
    )


def by_variable(layout: Layout, choice: Choice) -> list[Split]:
    """Return the split by input variable."""
    names = tuple(dict.fromkeys(c.name for c in layout.inputs))
    if choice is True:
        choice = {n: n for n in names}
    found = {}
    for group, members in (choice or {}).items():
        for name in (wanted := as_names(members)):
            known(name, names, "input variable", f"group {group!r}")
        found[group] = np.array([c.name in wanted for c in layout.inputs])
    return _of_channels(layout, "variable", found)


def by_lag(layout: Layout, choice: Choice) -> list[Split]:
    """Return the split by input offset."""
    offsets = tuple(sorted({c.offset for c in layout.inputs}))
    if choice is True:
        choice = {f"t{o:+d}" if o else "t": o for o in offsets}
    found = {}
    for group, members in (choice or {}).items():
        wanted = np.atleast_1d(members).tolist()
        for offset in wanted:
            known(offset, offsets, "input offset", f"group {group!r}")
        found[group] = np.array([c.offset in wanted for c in layout.inputs])
    return _of_channels(layout, "lag", found)


def by_level(layout: Layout, choice: Choice, dim: str | None = None) -> list[Split]:
    """Return the split by level, along one dimension or over all; variables without it stay apart."""
    if not choice:
        return []
    levels = [{d: v for d, v in c.level.items() if dim in (None, d)} for c in layout.inputs]
    flat = np.array([not level for level in levels])
    found = {"": flat} if flat.any() else {}
    if choice is True:
        for at in dict.fromkeys(tuple(level.items()) for level in levels if level):
            label = " ".join(f"{d}={value}" for d, value in at)
            found[label] = np.array([tuple(level.items()) == at for level in levels])
        return _of_channels(layout, dim or "level", found)
    labels = tuple(dict.fromkeys(x for level in levels for x in level.values()))
    for group, members in choice.items():
        if isinstance(members, slice):
            low, high = ends_of(members, f"level of group {group!r}")
            wanted = [x for x in labels if low <= x <= high]
        else:
            wanted = np.atleast_1d(members).tolist()
            for label in wanted:
                known(label, labels, "level", f"group {group!r}")
        found[group] = np.array([any(x in wanted for x in level.values()) for level in levels])
    return _of_channels(layout, dim or "level", found)


def _of_channels(layout: Layout, kind: str, masks: Mapping[str, np.ndarray]) -> list[Split]:
    """Return a split by masks over channels, refusing those that share one."""
    if not masks:
        return []
    owner, names, valid = np.full(len(layout.inputs), -1), tuple(masks), layout.valid("inputs")
    for i, (name, mask) in enumerate(masks.items()):
        shared = valid & mask & (owner >= 0)
        if shared.any():
            refuse_overlap(layout, shared, int(shared.sum()), names[owner[np.argwhere(shared)[0][-1]]], name)
        owner[mask] = i
    return [Split(kind, names, owner)]


def by_coordinate(layout: Layout, coordinates: Mapping[str, Edges] | None) -> list[Split]:
    """Return a split by each coordinate of space, or dimension of levels: edges, slices by name, or every value."""
    found: list[Split] = []
    for name, choice in (coordinates or {}).items():
        what = f"coordinates {name!r}"
        if any(name in c.level for c in layout.inputs):
            found += by_level(layout, _levels_between(layout, name, choice, what), name)
        elif isinstance(choice, Mapping):
            found.append(
                _of_space(layout, name, {k: box_cells(layout, {name: v}, f"{what}: {k!r}") for k, v in choice.items()})
            )
        else:
            found.append(_between(layout, name, choice, what))
    return found


def _between(layout: Layout, name: str, choice: Any, what: str) -> Split:
    """Return a split of space between edges: the lower one belongs to a part, the last edge to the last."""
    coordinate, values = space_coordinate(layout, name, what)
    if choice is True:
        every, index = np.unique(values, return_inverse=True)
        return Split(name, tuple(f"{name}={x}" for x in texts(every)), index.reshape(values.shape)[..., None])
    edges = _edges(choice, what)
    start = edges[0] if np.isfinite(edges).all() else 0.0
    round_the_globe = is_longitude(coordinate) and np.isfinite(edges).all()
    along = (values - start) % 360 if round_the_globe else values - start
    if round_the_globe and edges[-1] - edges[0] > 360:
        refuse(f"{what} go round the globe more than once", "edges within 360 degrees", edges.tolist(), "drop the last")
    steps = edges - start
    owner = np.searchsorted(steps, along, side="right") - 1
    owner = np.where(along == steps[-1], len(edges) - 2, owner)
    owner = np.where((owner < 0) | (owner > len(edges) - 2), -1, owner)
    return Split(name, _intervals(name, edges, coordinate.attrs.get("units")), owner[..., None])


def _levels_between(layout: Layout, name: str, choice: Any, what: str) -> Choice:
    """Return the labels of a level dimension between edges, as :func:`by_level` takes them."""
    if choice is True or isinstance(choice, Mapping):
        return choice
    edges = _edges(choice, what)
    labels = np.array(list(dict.fromkeys(c.level[name] for c in layout.inputs if name in c.level)))
    owner = np.where(labels == edges[-1], len(edges) - 2, np.searchsorted(edges, labels, side="right") - 1)
    units = layout.statics[name].attrs.get("units") if name in layout.statics.coords else None
    names = _intervals(name, edges, units)
    return {n: labels[owner == i].tolist() for i, n in enumerate(names) if (owner == i).any()}


def _edges(choice: Any, what: str) -> np.ndarray:
    edges = np.asarray(choice, "float64") if isinstance(choice, Sequence | np.ndarray) else np.zeros(0)
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
        refuse(
            f"{what} are no edges",
            "increasing numbers, {'name': slice(low, high), ...}, or True for every value",
            choice,
            "for instance {'lat': [-90, -30, 30, 90]}",
        )
    return edges


def _intervals(name: str, edges: np.ndarray, units: str | None) -> tuple[str, ...]:
    """Return the names of the parts between edges, with units: degrees of any kind as the sign."""
    unit = "" if units in (None, "1") else "°" if str(units).startswith("degree") else f" {units}"
    said = texts(edges)
    ends = zip(edges[:-1], edges[1:], said[:-1], said[1:], strict=True)
    return tuple(
        f"{name} below {b}{unit}"
        if low == -np.inf
        else f"{name} above {a}{unit}"
        if high == np.inf
        else f"{name} {a} to {b}{unit}"
        for low, high, a, b in ends
    )


def by_patch(layout: Layout, patches: Mapping[str, int] | None, cells: bool = False) -> list[Split]:
    """Return the split of space into patches of so many cells along each dimension; *cells*: of one cell."""
    if cells and patches:
        refuse("cells=True and patches= are both given", "one of them", patches, "drop cells=True")
    if cells:
        patches = dict.fromkeys(layout.space, 1)
    if not patches:
        return []
    size = {}
    for name, n in patches.items():
        dim = name
        if name not in layout.space:
            dims = space_coordinate(layout, name, "patches")[0].dims
            dim = str(dims[0]) if len(dims) == 1 else name
        known(dim, layout.space, "dimension of space", "patches")
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            refuse(f"patches along {name!r} have no size", "a number of cells, 1 or more", repr(n), f"{{{name!r}: 3}}")
        size[dim] = int(n)
    owner, labels = np.zeros(layout.shape, "int64"), []
    for i, dim in enumerate(layout.space):
        if dim not in size:
            continue
        n, step = layout.shape[i], size[dim]
        shape = [1] * len(layout.shape)
        shape[i] = n
        owner = owner * -(-n // step) + (np.arange(n) // step).reshape(shape)
        labels.append(_blocks(layout, dim, n, step))
    return [Split("patch", tuple(", ".join(at) for at in itertools.product(*labels)), owner[..., None])]


def _blocks(layout: Layout, dim: str, n: int, step: int) -> list[str]:
    coordinate = layout.statics.coords.get(dim)
    said = texts(np.arange(n) if coordinate is None else coordinate.values)
    ends = [(said[k], said[min(k + step, n) - 1]) for k in range(0, n, step)]
    return [f"{dim}={a}" if step == 1 else f"{dim} {a} to {b}" for a, b in ends]


def _of_space(layout: Layout, kind: str, masks: Mapping[str, np.ndarray]) -> Split:
    """Return a split by masks ``[*space]``, refusing those that share a valid cell."""
    labels: list[str] = []
    owner = np.full(layout.shape, -1)
    for name, mask in masks.items():
        lay(layout, labels, owner, [name], np.where(mask, 0, -1))
    return Split(kind, tuple(labels), owner[..., None])


def lay(layout: Layout, labels: list[str], owner: np.ndarray, theirs: Sequence[str], parts: np.ndarray) -> None:
    """Add *parts* of space, an index ``[*space]`` into *theirs*, to *labels* and *owner*, in place.

    Raises
    ------
    ValueError
        Where they share a valid cell with those that are there.
    """
    shared = layout.valid("inputs") & ((parts >= 0) & (owner >= 0))[..., None]
    if shared.any():
        first = tuple(np.argwhere(shared)[0][:-1])
        refuse_overlap(layout, shared, int(shared.any(-1).sum()), labels[owner[first]], theirs[parts[first]])
    owner[...] = np.where(parts >= 0, parts + len(labels), owner)
    labels += theirs


def texts(values: np.ndarray) -> list[str]:
    """Return numbers in few digits, in more where they would read the same.

    Examples
    --------
    >>> texts(np.array([-45.0, 0.25])), texts(np.array([1234567.0, 1234568.0]))
    (['-45', '0.25'], ['1234567.0', '1234568.0'])
    """
    if values.dtype.kind not in "iuf":
        return [str(v) for v in values]
    short = [f"{v:g}" for v in values]
    return short if len(set(short)) == len(short) else [str(v) for v in values.tolist()]


def as_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return one name, or several, as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)
