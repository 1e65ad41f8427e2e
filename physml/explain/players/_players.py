"""The players of a game, what can be done with them, and with results that name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.explain.players import _painting
from physml.explain.players._product import joined, product, refuse_twins, side_by_side, splits
from physml.explain.players._selecting import few, known, layout_of, light
from physml.explain.players._splitting import as_names, refuse_gap, refuse_overlap

if TYPE_CHECKING:
    from physml.layout import Layout


@dataclass(frozen=True, eq=False)
class Groups:
    """Named players that partition the valid input cells. Made by :func:`groups` or :meth:`from_masks`.

    Attributes
    ----------
    names
        Names of the groups, in the order of the results.
    owner
        Index of the group that holds each cell, ``[*space, channel]``; -1 on masked cells.
    parts
        What each group was made of: for instance ``{"variable": ("u", "v"), "region": ("north", "north")}``.
    layout
        Layout of the inputs, with its mask, area and coordinates only.
    parents
        Unions of a nested game, the outermost level first: to which union each group belongs, one name for each group. Empty
        where the groups are not nested.
    """

    names: tuple[str, ...]
    owner: np.ndarray
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layout: Layout | None = None
    parents: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def from_masks(
        cls, masks: Mapping[str, np.ndarray], layout: Any, parts: Mapping[str, tuple[str, ...]] | None = None
    ) -> Groups:
        """Make groups of boolean masks ``[*space, channel]``; what they hold of masked cells is left out.

        Raises
        ------
        ValueError
            Where two groups share a valid cell, a valid cell lies in no group, or a group holds no valid cell.
        """
        layout = layout_of(layout)
        valid = layout.valid("inputs")
        names = tuple(masks)
        owner = np.full(valid.shape, -1, "int32")
        for i, (name, mask) in enumerate(masks.items()):
            inside = np.asarray(mask, dtype=bool) & valid
            if not inside.any():
                refuse(
                    f"group {name!r} is empty",
                    "one or more valid input cells",
                    "none",
                    "widen its region or drop the group",
                )
            shared = inside & (owner >= 0)
            if shared.any():
                refuse_overlap(layout, shared, int(shared.sum()), names[owner[shared][0]], name)
            owner[inside] = i
        refuse_gap(layout, valid & (owner < 0), names)
        return cls(names, owner, parts or {}, light(layout))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        held = [f"{n} ({k} cells)" for n, k in zip(self.names, self.cells, strict=True)]
        return f"Groups: {len(self)} players: {few(held)}"

    @property
    def masks(self) -> np.ndarray:
        """The groups as boolean masks ``[group, *space, channel]``."""
        return self.owner == np.arange(len(self)).reshape(-1, *[1] * self.owner.ndim)

    @property
    def cells(self) -> np.ndarray:
        """Number of input cells of each group."""
        return np.bincount(self.owner[self.owner >= 0], minlength=len(self))

    @property
    def coords(self) -> dict[str, tuple[str, Any, dict[str, str]]]:
        """Coordinates of the dimension ``group``: names, number of cells, what each was made of, and its union."""
        found = {
            "group": ("group", list(self.names), {"long_name": "group of inputs"}),
            "group_cells": ("group", self.cells, {"long_name": "input cells in the group", "units": "1"}),
        }
        for part, labels in self.parts.items():
            found[f"group_{part}"] = ("group", list(labels), {"long_name": f"{part} of the group"})
        for depth, labels in enumerate(self.parents, 1):
            name = "group_parent" if depth == 1 else f"group_parent_{depth}"
            found[name] = ("group", list(labels), {"long_name": f"union of the group, level {depth}"})
        return found

    def merge(self, into: Mapping[str, str | Sequence[str]]) -> Groups:
        """Return fewer groups: ``groups.merge({"currents": ["u", "v"]})``; groups that are not named stay.

        A name is that of a group, or a label that several share: ``"u"`` for ``"u, south"`` and ``"u, north"``.

        Raises
        ------
        KeyError
            For a name that is no group; the nearest is offered.
        ValueError
            Where one group goes to two places, groups of different unions come together, or a name is that of another group.
        """
        home = self._homes(into, "merged")
        names = tuple(dict.fromkeys(home))
        at = {n: i for i, n in enumerate(names)}
        index = np.array([at[h] for h in home] + [-1], "int32")
        parts = {kind: joined(labels, home, names, " + ") for kind, labels in self.parts.items()}
        parents = tuple(joined(labels, home, names, None) for labels in self.parents)
        return replace(self, names=names, owner=index[self.owner], parts=parts, parents=parents)

    def split(self, which: str | Sequence[str], *, nest: bool = False, **choices: Any) -> Groups:
        """Return more groups: those named are cut further, the others stay.

        Parameters
        ----------
        which
            Names of groups, or a label that several share.
        nest
            Whether what was one group becomes a union: the innermost level of a nested game.
        **choices
            As for :func:`groups`, where not given is not split: ``lag=True``, ``box={...}, rest="elsewhere"``.

        Examples
        --------
        >>> groups(layout).split("sst", box=BASINS).names  # doctest: +SKIP
        ('sst, Pacific', 'sst, Atlantic', 'wind stress')
        """
        layout = self._laid_out("split into")
        chosen = [i for name in as_names(which) for i in self._members(name)]
        inside = np.isin(self.owner, chosen)
        _, inner, fresh = product(layout, splits(layout, **{"variable": None, **choices}), inside)
        many = int(inner.max()) + 2  # the first stands for groups that stay whole
        used, dense = np.unique((self.owner * np.int64(many) + inner + 1)[self.owner >= 0], return_inverse=True)
        owner = self.owner.copy()
        owner[owner >= 0] = dense.ravel()
        old, new = (used // many).tolist(), (used % many - 1).tolist()
        added = {k: tuple("" if i < 0 else v[i] for i in new) for k, v in fresh.items()}
        names = side_by_side([self.names[o] for o in old], *added.values())
        refuse_twins(names)
        parts = {k: tuple(v[o] for o in old) for k, v in self.parts.items()}
        for kind, labels in added.items():
            parts[kind] = side_by_side(parts[kind], labels) if kind in parts else labels
        parents = tuple(tuple(labels[o] for o in old) for labels in self.parents)
        if nest:
            parents += (tuple(self.names[o] for o in old),)
        return replace(self, names=names, owner=owner, parts=parts, parents=parents)

    def nested(self, *kinds: str) -> Groups:
        """Return the same groups in unions by what they were made of: ``groups.nested("region", "variable")``.

        Parameters
        ----------
        *kinds
            Parts, the outermost level first. Groups without that part (no level, for instance) are a union together.

        Raises
        ------
        KeyError
            For what the groups were not made of.
        """
        levels: list[tuple[str, ...]] = []
        for kind in kinds:
            known(kind, tuple(self.parts), "part", "nested()")
            labels = [label or f"no {kind}" for label in self.parts[kind]]
            outer = levels[-1] if levels else ("",) * len(self)
            levels.append(side_by_side(outer, labels))
        return replace(self, parents=tuple(levels))

    def nest(self, *levels: Mapping[str, str | Sequence[str]]) -> Groups:
        """Return the same groups in named unions: ``groups.nest({"currents": ["u", "v"]})``.

        Parameters
        ----------
        *levels
            Names of groups by union, the outermost level first; a label that several groups share stands for all of them. A
            group that is not named is a union by itself.

        Raises
        ------
        KeyError
            For a name that is no group; the nearest is offered.
        ValueError
            Where a group lies in two unions of a level, or a union in two of the level above, or has the name of another group.
        """
        parents: list[tuple[str, ...]] = []
        for level in levels:
            found = self._homes(level, "put")
            for outer in parents[-1:]:
                above: dict[str, str] = {}
                for union, over in zip(found, outer, strict=True):
                    if above.setdefault(union, over) != over:
                        refuse(
                            f"union {union!r} lies in {above[union]!r} and in {over!r}",
                            "each union inside one union of the level above",
                            "groups of two",
                            "give the outermost level first, and split the union",
                        )
            parents.append(found)
        return replace(self, parents=tuple(parents))

    def sum(self, result: Any) -> Any:
        """Return cell-level attributions summed over the cells of each group.

        Parameters
        ----------
        result
            ``attribution`` on (channel, ..., *space) with the channels of the inputs in their order, or a Dataset with it, as
            ``Explainer.gradients`` returns it. Lazy stays lazy.

        Returns
        -------
        xarray.DataArray or xarray.Dataset
            The same on (group, ...). Of a Dataset, what has no channel stays; other variables by channel are dropped, since a
            sum of standard errors is none.

        Raises
        ------
        ValueError
            Where the channels or the grid are others.
        """
        return _painting.summed(self, self._laid_out("summed over"), result)

    def paint(self, result: Any, density: bool | Literal["area"] = False) -> xr.Dataset:
        """Return group-level attributions painted onto the input cells: a map for each input variable.

        Parameters
        ----------
        result
            ``attribution`` on (group, ...), another DataArray on group, or a Dataset with ``attribution``. Lazy stays lazy.
        density
            False: every cell holds the value of its group. True: its share, so that the cells of a group sum to its value.
            ``"area"``: the value over the area of the group's cells, in units per area (the layout needs one).

        Returns
        -------
        xarray.Dataset
            One variable for each input, on its levels and space, with a dimension ``offset`` [steps] where the inputs have
            several. Masked cells are NaN.

        Raises
        ------
        ValueError
            Where the groups are others, or the result is itself on the grid (a whole-field target).
        """
        return _painting.painted(self, self._laid_out("painted onto"), result, density)

    def _laid_out(self, what: str) -> Layout:
        if self.layout is None:
            refuse(
                f"groups without a layout cannot be {what} cells", "groups with .layout", "None", "use groups(layout)"
            )
        return self.layout

    def _members(self, name: str) -> tuple[int, ...]:
        """Return the positions of the groups that a name stands for: its own, or all with that label."""
        if name in self.names:
            return (self.names.index(name),)
        kinds = [k for k, labels in self.parts.items() if name in labels]
        if len(kinds) > 1:
            refuse(
                f"{name!r} is a {' and a '.join(kinds)}", "the name of a group", repr(name), "name the groups in full"
            )
        if not kinds:
            every = dict.fromkeys([*self.names, *(x for labels in self.parts.values() for x in labels if x)])
            known(name, tuple(every), "group")
        return tuple(i for i, label in enumerate(self.parts[kinds[0]]) if label == name)

    def _homes(self, into: Mapping[str, str | Sequence[str]], verb: str) -> tuple[str, ...]:
        """Return where each group goes: a name of *into*, or its own."""
        home: dict[int, str] = {}
        for new, olds in into.items():
            for i in (i for old in as_names(olds) for i in self._members(old)):
                if i in home:
                    refuse(
                        f"group {self.names[i]!r} is {verb} into {home[i]!r} and into {new!r}",
                        "each group once",
                        "twice",
                        "name it once",
                    )
                home[i] = new
        lost = [n for i, n in enumerate(self.names) if n in into and i not in home]
        if lost:
            refuse(
                f"{lost[0]!r} has the name of a group that it does not hold",
                "another name, or the group inside it",
                into[lost[0]],
                f"rename it, or add {lost[0]!r} to what it holds",
            )
        return tuple(home.get(i, n) for i, n in enumerate(self.names))
