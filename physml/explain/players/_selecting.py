"""Where in space: cells by labelled masks, coordinate ranges and points, and words for what is found there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import closest, describe

if TYPE_CHECKING:
    from physml.fields import FieldSpec
    from physml.layout import Layout


def layout_of(source: Any, spec: FieldSpec | None = None, what: str = "groups") -> Layout:
    """Return the layout meant: a Layout, that of anything with ``.layout``, or *spec* bound to a Dataset.

    Raises
    ------
    TypeError
        Where there is none.
    """
    from physml.layout import Layout

    if isinstance(source, xr.Dataset) and spec is not None:
        return spec.bind(source)
    found = source if isinstance(source, Layout) else getattr(source, "layout", None)
    if spec is not None or not isinstance(found, Layout):
        alone = isinstance(source, xr.Dataset)
        raise TypeError(
            describe(
                f"{what} cannot tell which variables of the Dataset are inputs"
                if alone
                else f"{what} need the layout of the inputs"
                + (": spec= goes with a Dataset" if spec is not None else ""),
                expected="a Layout, a FieldModel, or a Dataset with spec=FieldSpec(...)",
                received=("a Dataset alone" if alone else type(source).__name__),
                remedy="pass spec=FieldSpec(inputs=..., targets=...)"
                if alone
                else "pass model.layout or spec.bind(ds)",
            )
        )
    return found


def light(layout: Layout) -> Layout:
    """Return a layout with its mask, area and coordinates in memory and no other field: cheap to pickle."""
    needed = {layout.spec.mask, layout.spec.area, *layout.kept}
    return replace(layout, statics=layout.statics.drop_vars([n for n in layout.statics if n not in needed])).load()


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
    return on_grid(layout, mask, what) != 0


def on_grid(layout: Layout, values: xr.DataArray, what: str) -> np.ndarray:
    """Return a labelled field of numbers as ``[*space]``, refusing another grid.

    Raises
    ------
    ValueError
        Where its dimensions, sizes or labels are not those of the layout.
    """
    for dim in values.dims:
        ours = layout.statics.coords.get(dim)
        if dim in values.coords and ours is not None and not same_labels(ours.values, values[dim].values):
            raise ValueError(
                describe(
                    f"{what} lies on another grid along {dim!r}",
                    expected=f"{ours.size} labels {ours.values[0]} ... {ours.values[-1]}",
                    received=f"{values.sizes[dim]} labels {values[dim].values[0]} ... {values[dim].values[-1]}",
                    remedy="interpolate it to the grid of the inputs (method='nearest')",
                )
            )
    return layout.static(values.rename(what))[..., 0]


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
        low, high = ends_of(wanted, f"{what}: {name}")
        if is_longitude(coordinate) and np.isfinite([low, high]).all():
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
    known(name, usable, "space coordinate", what)
    if coords[name].dtype.kind not in "biuf":
        raise TypeError(
            describe(
                f"{what}: the coordinate {name!r} holds no numbers, which have ranges and distances",
                expected="numbers",
                received=", ".join(map(repr, coords[name].values.ravel()[:3].tolist())),
                remedy=f"name cells by masks, ds[{name!r}] == ..., or take each for itself, patches={{{name!r}: 1}}",
            )
        )
    return coords[name], layout.static(coords[name].reset_coords(drop=True))[..., 0]


def nearest_cell(layout: Layout, point: Mapping[str, Any], what: str) -> int:
    """Return which cell of the flattened ``[*space]`` lies nearest to a point; cells without coordinates lie nowhere.

    Parameters
    ----------
    layout
        The grid.
    point
        Values of coordinates that together tell one cell: ``{"lat": 0.5, "lon": -30.0}``.
    what
        Named in errors.

    Raises
    ------
    KeyError, TypeError, ValueError
        For an unknown coordinate, one that holds no numbers, a point outside the grid, and one that leaves a dimension open.
    """
    away = np.zeros(layout.shape)
    told: set[Any] = set()
    for name, value in point.items():
        coordinate, values = space_coordinate(layout, name, what)
        distance = _apart(coordinate, values, float(value))
        steps = [_apart(coordinate, np.diff(coordinate.values, axis=i), 0.0) for i in range(coordinate.ndim)]
        step = max((float(s[np.isfinite(s)].max(initial=0)) for s in steps), default=0.0)
        if distance.min() > max(step, 1e-6):
            raise ValueError(
                describe(
                    f"{what} lies outside the grid",
                    expected=f"{name} within {step:g} of a cell",
                    received=f"{name}={value}, {distance.min():g} from the nearest",
                    remedy="correct the point; mind the units and sign of the coordinates",
                )
            )
        told |= set(coordinate.dims)
        away += (distance * _shrinking(layout, coordinate, point)) ** 2
    left = [d for d, n in zip(layout.space, layout.shape, strict=True) if n > 1 and d not in told]
    if left:
        raise ValueError(
            describe(
                f"{what} is no point: it may lie anywhere along {', '.join(map(repr, left))}",
                expected=f"coordinates along {', '.join(map(repr, layout.space))}",
                received=", ".join(f"{n}={v}" for n, v in point.items()) or "none",
                remedy="give the others too, or take a mean over them: box_mean",
            )
        )
    return int(away.argmin())


def _apart(coordinate: xr.DataArray, values: np.ndarray, value: float) -> np.ndarray:
    """Return the distance of *values* from *value* along a coordinate; infinite where they are missing."""
    away = np.asarray(values, "float64") - value
    if is_longitude(coordinate):
        away = (away + 180) % 360 - 180
    return np.where(np.isnan(away), np.inf, np.abs(away))


def _shrinking(layout: Layout, coordinate: xr.DataArray, point: Mapping[str, Any]) -> float:
    """Return the length of a degree of longitude at the latitude of a point, in degrees of latitude; 1 for all else."""
    if not is_longitude(coordinate):
        return 1.0
    try:
        names = {"lat", "latitude", str(grid.latitude_longitude(layout.statics)[0].name)}
    except ValueError:
        return 1.0
    return next((max(float(np.cos(np.deg2rad(float(v)))), 1e-3) for n, v in point.items() if n in names), 1.0)


def locate(layout: Layout, where: np.ndarray) -> str:
    """Return the first true cell of ``[*space, channel]`` in words: coordinates and channel."""
    first = tuple(np.argwhere(where)[0])
    words = []
    for dim, i in zip(layout.space, first, strict=False):
        labels = layout.statics.coords.get(dim)
        words.append(f"{dim}={i}" if labels is None else f"{dim}={labels.values[i]}")
    return ", ".join([*words, f"channel {str(layout.inputs[first[-1]])!r}"])


def known(name: Any, names: Sequence[Any], kind: str, where: str = "groups") -> None:
    """Refuse a name that is not among *names*; the nearest is offered."""
    if name not in names:
        raise KeyError(
            describe(
                f"{where} names the unknown {kind} {name!r}{closest(str(name), names)}",
                expected=few(names) or f"no {kind}: there is none",
                received=repr(name),
                remedy="correct the name",
            )
        )


def few(names: Sequence[Any], most: int = 20) -> str:
    """Return names in a line, the first *most* of them.

    Examples
    --------
    >>> few(range(9), 3)
    '0, 1, 2 and 6 more'
    """
    listed = ", ".join(str(n) for n in names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def ends_of(wanted: slice, what: str) -> tuple[float, float]:
    """Return the ends of a range, infinite where open."""
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


def is_longitude(coordinate: xr.DataArray) -> bool:
    """Whether a coordinate goes round the globe, by its CF metadata or its usual name."""
    attrs = coordinate.attrs
    east = ("degrees_east", "degree_east", "degree_E", "degrees_E", "degreeE", "degreesE")
    named = str(coordinate.name).lower() in ("lon", "longitude", "nav_lon") and attrs.get("units") in (None, "degrees")
    return attrs.get("standard_name") == "longitude" or attrs.get("units") in east or named


def same_labels(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two coordinates are the same, numbers to round-off."""
    if a.shape != b.shape:
        return False
    return bool(np.allclose(a, b)) if a.dtype.kind in "iuf" and b.dtype.kind in "iuf" else bool((a == b).all())
