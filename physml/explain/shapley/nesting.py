"""Unions of groups: the levels of a nested game."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from physml._errors import describe, refuse
from physml.explain.players._splitting import as_names

if TYPE_CHECKING:
    from physml.explain.players.groups import Groups

Unions = tuple[tuple[str, ...], ...]


def unions_of(players: Groups, nested: Any = None) -> Unions:
    """Return the levels of unions, the outermost first, each with the name of the union of every group.

    Parameters
    ----------
    players
        The groups.
    nested
        None: the ``parents`` that the groups were made with, if any. False: none. The name of a part, such as
        ``"variable"``, or several: :meth:`Groups.nested`. A mapping from unions to the names of their groups:
        :meth:`Groups.nest`.

    Raises
    ------
    KeyError
        For an unknown part or group; the nearest is offered.
    ValueError
        Where a group is in two unions.
    TypeError
        For anything else.
    """
    if nested is False:
        return ()
    if nested is None:
        return players.parents
    if isinstance(nested, Mapping):
        return players.nest(nested).parents
    if not isinstance(nested, Sequence):
        raise TypeError(
            describe(
                "nested is understood neither as parts nor as unions",
                expected="the name of a part, several, {'union': [group, ...]}, None or False",
                received=repr(nested),
                remedy="for instance nested='variable'",
            )
        )
    return players.nested(*as_names(nested)).parents


def branches(unions: Unions, n_groups: int) -> np.ndarray:
    """Return numbers of the unions of every group, ``[level, group]``; the last level are the groups themselves.

    Equal names in different outer unions are different unions.

    Examples
    --------
    >>> branches((("a", "a", "b"),), 3)
    array([[0, 0, 1],
           [0, 1, 2]])
    """
    for level in unions:
        if len(level) != n_groups:
            refuse(
                "a level of unions does not fit the groups",
                f"one name for each of {n_groups} groups",
                f"{len(level)} names",
                "name the union of every group",
            )
    found = []
    outer: list[tuple[Any, ...]] = [()] * n_groups
    levels: list[Sequence[Any]] = [*unions, range(n_groups)]
    for names in levels:
        outer = [(*o, name) for o, name in zip(outer, names, strict=True)]
        number = {path: i for i, path in enumerate(dict.fromkeys(outer))}
        found.append([number[path] for path in outer])
    return np.array(found)
