"""The product of splits: one group for each combination of parts that holds a valid cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from physml._errors import refuse
from physml.explain.players._regions import by_region
from physml.explain.players._selecting import few
from physml.explain.players._splitting import (
    Choice,
    Edges,
    Split,
    by_coordinate,
    by_lag,
    by_level,
    by_patch,
    by_variable,
    refuse_gap,
)

if TYPE_CHECKING:
    from physml.layout import Layout


def splits(
    layout: Layout,
    variable: Choice = None,
    lag: Choice = None,
    level: Choice = None,
    region: Any = None,
    box: Mapping[str, Mapping[str, slice]] | None = None,
    rest: str | None = None,
    coordinates: Mapping[str, Edges] | None = None,
    patches: Mapping[str, int] | None = None,
    cells: bool = False,
) -> list[Split]:
    """Return one split for each choice, in the order of their names; see :func:`physml.explain.groups`."""
    return [
        *by_variable(layout, variable),
        *by_lag(layout, lag),
        *by_level(layout, level),
        *by_region(layout, region, box, rest),
        *by_coordinate(layout, coordinates),
        *by_patch(layout, patches, cells),
    ]


def product(
    layout: Layout, splits: Sequence[Split], where: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, dict[str, tuple[str, ...]]]:
    """Return names, owner ``[*space, channel]`` and parts of the product of splits over the cells *where*.

    Raises
    ------
    ValueError
        Where a cell lies in no part of a split, or two groups have one name.
    """
    number, inside = np.zeros(where.shape, "int64"), where.copy()
    for split in splits:
        number = number * len(split.labels) + np.maximum(split.owner, 0)
        inside &= split.owner >= 0
    used, dense = np.unique(number[inside], return_inverse=True)
    at = np.unravel_index(used, [len(s.labels) for s in splits]) if splits else ()
    parts = {s.kind: tuple(s.labels[k] for k in i) for s, i in zip(splits, at, strict=True)}
    names = tuple(", ".join(x for x in labels if x) or "other inputs" for labels in zip(*parts.values(), strict=True))
    names = names if splits else ("all inputs",)
    refuse_gap(layout, where & ~inside, names)
    refuse_twins(names)
    owner = np.full(where.shape, -1, "int32")
    owner[inside] = dense.ravel()
    return names, owner, parts


def refuse_twins(names: Sequence[str]) -> None:
    """Refuse two groups of one name."""
    if len(set(names)) < len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        refuse(f"two groups are called {twice!r}", "names that differ", few(names), "rename the parts of one choice")


def joined(labels: Sequence[str], home: Sequence[str], names: Sequence[str], by: str | None) -> tuple[str, ...]:
    """Return the labels of merged groups: the one they share, or all of them joined; *by* None: they must share one."""
    found: dict[str, dict[str, None]] = {n: {} for n in names}
    for label, h in zip(labels, home, strict=True):
        found[h][label] = None
    for name, several in found.items():
        if by is None and len(several) > 1:
            refuse(
                f"group {name!r} would lie in the unions {few([repr(x) for x in several])}",
                "groups of one union",
                "groups of several",
                "merge first, then nest",
            )
    return tuple((by or "").join(x for x in several if x or len(several) == 1) for several in found.values())


def side_by_side(*labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of each group in one, without the empty ones."""
    return tuple(", ".join(x for x in each if x) for each in zip(*labels, strict=True))
