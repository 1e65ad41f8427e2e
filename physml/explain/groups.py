"""Groups: the players of the game, named sets of input cells that together are every valid input.

A group is a choice of channels (variable, lag, level) times a choice of cells (region, box). Groups are true players:
all cells of a group are present, or absent, together, so that an interaction inside a group is the group's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import closest, describe

if TYPE_CHECKING:
    from physml.layout import Layout

Choice = bool | Mapping[str, Any] | None


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
    """

    names: tuple[str, ...]
    owner: np.ndarray
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_masks(
        cls, masks: Mapping[str, np.ndarray], layout: Layout, parts: Mapping[str, tuple[str, ...]] | None = None
    ) -> Groups:
        """Make groups of boolean masks ``[*space, channel]``; what they hold of masked cells is left out.

        Raises
        ------
        ValueError
            Where two groups share a valid cell, a valid cell lies in no group, or a group holds no valid cell.
        """
        valid = layout.valid("inputs")
        names = tuple(masks)
        owner = np.full(valid.shape, -1, "int32")
        for i, (name, mask) in enumerate(masks.items()):
            inside = np.asarray(mask, dtype=bool) & valid
            if not inside.any():
                raise ValueError(
                    describe(
                        f"group {name!r} is empty",
                        expected="one or more valid input cells",
                        received="none",
                        remedy="widen its region or drop the group",
                    )
                )
            shared = inside & (owner >= 0)
            if shared.any():
                other = names[owner[shared][0]]
                raise ValueError(
                    describe(
                        f"groups {other!r} and {name!r} overlap in {int(shared.sum())} cells, "
                        f"first at {locate(layout, shared)}",
                        expected="every valid input cell in exactly one group",
                        received="cells in two groups",
                        remedy="cut the shared cells from one of them",
                    )
                )
            owner[inside] = i
        left = valid & (owner < 0)
        if left.any():
            raise ValueError(
                describe(
                    f"{int(left.sum())} valid input cells lie in no group, first at {locate(layout, left)}",
                    expected="every valid input cell in exactly one group",
                    received=f"groups {', '.join(names) or 'none'}",
                    remedy="add a group for them; rest='elsewhere' takes the space outside all regions",
                )
            )
        return cls(names, owner, parts or {})

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        held = ", ".join(f"{n} ({k} cells)" for n, k in zip(self.names, self.cells, strict=True))
        return f"Groups: {len(self)} players: {held}"

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
        """Coordinates of the dimension ``group``: names, number of cells, and what each was made of."""
        found = {
            "group": ("group", list(self.names), {"long_name": "group of inputs"}),
            "group_cells": ("group", self.cells, {"long_name": "input cells in the group", "units": "1"}),
        }
        for part, labels in self.parts.items():
            found[f"group_{part}"] = ("group", list(labels), {"long_name": f"{part} of the group"})
        return found

    def merge(self, into: Mapping[str, Sequence[str]]) -> Groups:
        """Return fewer groups: ``groups.merge({"currents": ["u", "v"]})``; groups that are not named stay.

        Raises
        ------
        KeyError
            For a name that is no group; the nearest is offered.
        ValueError
            Where one group goes to two places.
        """
        home: dict[str, str] = {}
        for new, olds in into.items():
            for old in _as_names(olds):
                _known(old, self.names, "group")
                if old in home:
                    raise ValueError(
                        describe(
                            f"group {old!r} is merged into {home[old]!r} and into {new!r}",
                            expected="each group once",
                            received="twice",
                            remedy="name it once",
                        )
                    )
                home[old] = new
        names = tuple(dict.fromkeys(home.get(n, n) for n in self.names))
        index = np.array([names.index(home.get(n, n)) for n in self.names] + [-1], "int32")
        return Groups(names, index[self.owner])


def groups(
    layout: Layout,
    variable: Choice = True,
    lag: Choice = None,
    level: Choice = None,
    region: Mapping[str, xr.DataArray] | None = None,
    box: Mapping[str, Mapping[str, slice]] | None = None,
    rest: str | None = None,
) -> Groups:
    """Return the product of the choices given, as players of a game.

    Parameters
    ----------
    layout
        Layout of the inputs: ``model.layout`` or ``spec.bind(ds)``.
    variable
        True: one group for each input variable. ``{"currents": ["u", "v"], ...}``: these. None: not split by variable.
    lag
        True: one group for each input offset. ``{"today": [0], "before": [-2, -1]}``: these offsets [steps].
    level
        True: one group for each level. ``{"upper": slice(0, 100), "deep": [500.0, 1000.0]}``: these labels. Variables
        without levels stay apart.
    region
        Boolean fields over space by name.
    box
        Coordinate ranges by name, both ends included: ``{"tropics": dict(lat=slice(-20, 20))}``. A range of longitudes
        may cross the date line or Greenwich.
    rest
        Name of the region outside all of *region* and *box*.

    Returns
    -------
    Groups
        Named ``"variable, lag, level, region"``, as far as these are split; combinations without a valid cell are left out.

    Raises
    ------
    KeyError
        For unknown variables and coordinates; the nearest name is offered.
    ValueError
        Where groups overlap, leave a valid cell out, or select nothing.

    Examples
    --------
    >>> from physml.fields import FieldSpec
    >>> ds = xr.Dataset({n: (("time", "lat"), np.ones((3, 4))) for n in "uv"}, {"lat": [-30.0, -10.0, 10.0, 30.0]})
    >>> layout = FieldSpec(inputs=["u", "v"], targets="u").bind(ds)
    >>> groups(layout, box={"south": {"lat": slice(-90, 0)}, "north": {"lat": slice(0, 90)}}).names
    ('u, south', 'u, north', 'v, south', 'v, north')
    """
    factors = {
        kind: chosen
        for kind, chosen in (
            ("variable", _by_variable(layout, variable)),
            ("lag", _by_lag(layout, lag)),
            ("level", _by_level(layout, level)),
            ("region", _by_region(layout, region, box, rest)),
        )
        if chosen
    }
    valid = layout.valid("inputs")
    masks: dict[str, np.ndarray] = {}
    labels: list[tuple[str, ...]] = []
    for combination in itertools.product(*(chosen.items() for chosen in factors.values())):
        mask = valid.copy()
        for _, selected in combination:
            mask &= selected
        if mask.any():
            labels.append(tuple(label for label, _ in combination))
            masks[", ".join(x for x in labels[-1] if x) or "all inputs"] = mask
    parts = {kind: tuple(label[i] for label in labels) for i, kind in enumerate(factors)}
    return Groups.from_masks(masks, layout, parts)


def _by_variable(layout: Layout, choice: Choice) -> dict[str, np.ndarray]:
    names = tuple(dict.fromkeys(c.name for c in layout.inputs))
    if choice is True:
        choice = {n: n for n in names}
    found = {}
    for group, members in (choice or {}).items():
        for name in (wanted := _as_names(members)):
            _known(name, names, "input variable", f"group {group!r}")
        found[group] = np.array([c.name in wanted for c in layout.inputs])
    return found


def _by_lag(layout: Layout, choice: Choice) -> dict[str, np.ndarray]:
    offsets = tuple(sorted({c.offset for c in layout.inputs}))
    if choice is True:
        choice = {f"t{o:+d}" if o else "t": o for o in offsets}
    found = {}
    for group, members in (choice or {}).items():
        wanted = np.atleast_1d(members).tolist()
        for offset in wanted:
            _known(offset, offsets, "input offset", f"group {group!r}")
        found[group] = np.array([c.offset in wanted for c in layout.inputs])
    return found


def _by_level(layout: Layout, choice: Choice) -> dict[str, np.ndarray]:
    if not choice:
        return {}
    flat = np.array([not c.level for c in layout.inputs])
    found = {"": flat} if flat.any() else {}
    if choice is True:
        every = dict.fromkeys(tuple(c.level.items()) for c in layout.inputs if c.level)
        for at in every:
            label = " ".join(f"{dim}={value}" for dim, value in at)
            found[label] = np.array([tuple(c.level.items()) == at for c in layout.inputs])
        return found
    labels = tuple(dict.fromkeys(x for c in layout.inputs for x in c.level.values()))
    for group, members in choice.items():
        if isinstance(members, slice):
            low, high = _ends(members, f"level of group {group!r}")
            wanted = [x for x in labels if low <= x <= high]
        else:
            wanted = np.atleast_1d(members).tolist()
            for label in wanted:
                _known(label, labels, "level", f"group {group!r}")
        found[group] = np.array([any(x in wanted for x in c.level.values()) for c in layout.inputs])
    return found


def _by_region(
    layout: Layout,
    region: Mapping[str, xr.DataArray] | None,
    box: Mapping[str, Mapping[str, slice]] | None,
    rest: str | None,
) -> dict[str, np.ndarray]:
    found = {name: region_cells(layout, mask, f"region {name!r}") for name, mask in (region or {}).items()}
    twice = [n for n in (box or {}) if n in found] + ([rest] if rest in {*found, *(box or {})} else [])
    if twice:
        raise ValueError(
            describe(
                f"region {twice[0]!r} is named twice",
                expected="one name for each of region, box and rest",
                received=[*found, *(box or {}), rest],
                remedy="rename one of them",
            )
        )
    found |= {name: box_cells(layout, ranges, f"box {name!r}") for name, ranges in (box or {}).items()}
    if rest is not None:
        found[rest] = ~np.any([np.zeros(layout.shape, bool), *found.values()], axis=0)
    valid = layout.valid("inputs").any(-1)
    for name, cells in found.items():
        if not (cells & valid).any():
            raise ValueError(
                describe(
                    f"region {name!r} holds no valid cell",
                    expected="one or more valid cells",
                    received=f"{int(cells.sum())} cells, all masked",
                    remedy="widen it or leave it out",
                )
            )
    return {name: cells[..., None] for name, cells in found.items()}


def region_cells(layout: Layout, mask: xr.DataArray, what: str) -> np.ndarray:
    """Return a labelled boolean field as ``[*space]``, refusing another grid.

    Raises
    ------
    TypeError, ValueError
        Where it is no boolean field on the space dimensions and labels of the layout.
    """
    if not isinstance(mask, xr.DataArray) or mask.dtype != bool:
        raise TypeError(
            describe(
                f"{what} is no boolean field",
                expected=f"a boolean DataArray on {layout.space}",
                received=getattr(mask, "dtype", type(mask).__name__),
                remedy="compare first: ds.basin == 3",
            )
        )
    for dim in mask.dims:
        ours = layout.statics.coords.get(dim)
        if dim in mask.coords and ours is not None and not _same_labels(ours.values, mask[dim].values):
            raise ValueError(
                describe(
                    f"{what} lies on another grid along {dim!r}",
                    expected=f"{ours.size} labels {ours.values[0]} ... {ours.values[-1]}",
                    received=f"{mask.sizes[dim]} labels {mask[dim].values[0]} ... {mask[dim].values[-1]}",
                    remedy="interpolate it to the grid of the inputs (method='nearest')",
                )
            )
    return layout.static(mask.rename(what))[..., 0] != 0


def box_cells(layout: Layout, ranges: Mapping[str, slice], what: str) -> np.ndarray:
    """Return the cells inside coordinate ranges as booleans ``[*space]``, both ends included.

    Raises
    ------
    KeyError, TypeError, ValueError
        For an unknown coordinate, a range that is no slice, and a box without a cell.
    """
    inside = np.ones(layout.shape, bool)
    seen = []
    for name, wanted in ranges.items():
        coordinate, values = space_coordinate(layout, name, what)
        low, high = _ends(wanted, f"{what}: {name}")
        if _is_longitude(coordinate) and np.isfinite([low, high]).all():
            inside &= True if high - low >= 360 else (values - low) % 360 <= (high - low) % 360
        else:
            inside &= (values >= min(low, high)) & (values <= max(low, high))
        seen.append(f"{name} from {np.nanmin(values):g} to {np.nanmax(values):g}")
    if not inside.any():
        raise ValueError(
            describe(
                f"{what} selects no cell",
                expected=f"ranges within {', '.join(seen)}",
                received=", ".join(f"{n} {s.start} to {s.stop}" for n, s in ranges.items()),
                remedy="correct the range; mind the units and sign of the coordinates",
            )
        )
    return inside


def space_coordinate(layout: Layout, name: str, what: str) -> tuple[xr.DataArray, np.ndarray]:
    """Return a coordinate of space by name (or "lat", "lon" by its CF metadata) and its values over ``[*space]``."""
    coords = layout.statics.coords
    usable = [str(n) for n, c in coords.items() if c.dims and set(c.dims) <= set(layout.space)]
    if name not in usable and name in ("lat", "latitude", "lon", "longitude"):
        try:
            lat, lon = grid.latitude_longitude(layout.statics)
        except ValueError:
            pass
        else:
            name = str((lat if name.startswith("lat") else lon).name)
    _known(name, usable, "space coordinate", what)
    return coords[name], layout.static(coords[name].reset_coords(drop=True))[..., 0]


def separation(layout: Layout, name: str, value: float, what: str) -> tuple[np.ndarray, float]:
    """Return the distance of every cell from *value* along one coordinate, ``[*space]``, and the widest grid step."""
    coordinate, values = space_coordinate(layout, name, what)
    away = values - value
    if _is_longitude(coordinate):
        away = (away + 180) % 360 - 180
    steps = [np.abs(np.diff(coordinate.values, axis=i)) for i in range(coordinate.ndim)]
    if _is_longitude(coordinate):
        steps = [np.minimum(s % 360, -s % 360) for s in steps]
    return np.abs(away), max((float(np.nanmax(s, initial=0)) for s in steps), default=0.0)


def locate(layout: Layout, where: np.ndarray) -> str:
    """Return the first true cell of ``[*space, channel]`` in words: coordinates and channel."""
    first = tuple(np.argwhere(where)[0])
    words = []
    for dim, i in zip(layout.space, first, strict=False):
        labels = layout.statics.coords.get(dim)
        words.append(f"{dim}={i}" if labels is None else f"{dim}={labels.values[i]}")
    return ", ".join([*words, f"channel {str(layout.inputs[first[-1]])!r}"])


def _as_names(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _known(name: Any, names: Sequence[Any], kind: str, where: str = "groups") -> None:
    if name not in names:
        raise KeyError(
            describe(
                f"{where} names the unknown {kind} {name!r}{closest(str(name), names)}",
                expected=", ".join(map(str, names)) or f"no {kind}: there is none",
                received=repr(name),
                remedy="correct the name",
            )
        )


def _ends(wanted: slice, what: str) -> tuple[float, float]:
    if not isinstance(wanted, slice) or wanted.step is not None:
        raise TypeError(
            describe(
                f"{what} is no range",
                expected="slice(low, high) without a step",
                received=repr(wanted),
                remedy="write slice(10, 40)",
            )
        )
    low = -np.inf if wanted.start is None else float(wanted.start)
    high = np.inf if wanted.stop is None else float(wanted.stop)
    return low, high


def _is_longitude(coordinate: xr.DataArray) -> bool:
    attrs = coordinate.attrs
    east = ("degrees_east", "degree_east", "degree_E", "degrees_E", "degreeE", "degreesE")
    named = str(coordinate.name).lower() in ("lon", "longitude", "nav_lon") and attrs.get("units") in (None, "degrees")
    return attrs.get("standard_name") == "longitude" or attrs.get("units") in east or named


def _same_labels(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    return bool(np.allclose(a, b)) if a.dtype.kind in "iuf" and b.dtype.kind in "iuf" else bool((a == b).all())
