"""Unions of groups: the levels of a nested game."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from physml._errors import closest, describe, refuse

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
        ``"variable"``: groups that share it are a union; several names: levels, the outermost first. A mapping from
        unions to the names of their groups: those that are not named stand alone.

    Raises
    ------
    KeyError
        For an unknown part or group; the nearest is offered.
    ValueError
        Where a group is in two unions.
    """
    if nested is False:
        return ()
    if nested is None:
        return tuple(getattr(players, "parents", ()))
    if isinstance(nested, Mapping):
        return (_mapped(nested, players.names),)
    levels = []
    for part in (nested,) if isinstance(nested, str) else tuple(nested):
        if part not in players.parts:
            raise KeyError(
                describe(
                    f"nested names the unknown part {part!r}{closest(str(part), players.parts)}",
                    expected=", ".join(players.parts) or "a mapping: groups that have no parts",
                    received=repr(part),
                    remedy="correct the name, or pass {'union': [group, ...]}",
                )
            )
        levels.append(tuple(str(label) for label in players.parts[part]))
    return tuple(levels)


def _mapped(nested: Mapping[str, Sequence[str]], names: tuple[str, ...]) -> tuple[str, ...]:
    home = {name: name for name in names}
    taken: dict[str, str] = {}
    for union, groups in nested.items():
        for group in (groups,) if isinstance(groups, str) else groups:
            if group not in home:
                raise KeyError(
                    describe(
                        f"nested names the unknown group {group!r}{closest(group, names)}",
                        expected=", ".join(names),
                        received=repr(group),
                        remedy="correct the name",
                    )
                )
            if taken.setdefault(group, union) != union:
                refuse(
                    f"group {group!r} is in the unions {taken[group]!r} and {union!r}",
                    "every group in one union",
                    "two",
                    "cut it from one of them",
                )
            home[group] = union
    return tuple(home.values())


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
