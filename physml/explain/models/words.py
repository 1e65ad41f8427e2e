"""Targets in plain words: regions in degrees, times in steps ahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from physml.layout import Channel
    from physml.timeaxis import TimeStep

_NORTH, _EAST = ("lat", "latitude", "nav_lat"), ("lon", "longitude", "nav_lon")
_UNITS = ((86400e9, "day"), (3600e9, "hour"), (60e9, "minute"), (1e9, "second"))


def ahead(offset: int, step: TimeStep | None = None) -> str:
    """Return how far a time lies from that of the sample, with a comma before; nothing for its own.

    Examples
    --------
    >>> from physml.timeaxis import TimeStep
    >>> ahead(3, TimeStep("month", 1)), ahead(-1), ahead(0)
    (', 3 months ahead', ', one step before', '')
    """
    if not offset:
        return ""
    size: float = abs(offset)
    unit = "step"
    if step is not None and step.kind == "month":
        size, unit = size * step.size, "month"
    elif step is not None and step.kind == "duration":
        length = size * step.size
        size, unit = next(((length / n, u) for n, u in _UNITS if length % n == 0), (size, unit))
    told = f"one {unit}" if size == 1 else f"{size:g} {unit}s"
    return f", {told} {'ahead' if offset > 0 else 'before'}"


def place(where: Mapping[str, Any]) -> str:
    """Return ranges and points of coordinates, in degrees where they are latitudes and longitudes.

    Examples
    --------
    >>> place({"lat": slice(-5, 5), "lon": slice(190, 240)}), place({"lat": 0.5, "x": 3})
    ('5°S to 5°N, 170°W to 120°W', '0.5°N, x 3')
    """
    return ", ".join(_range(n, v) if isinstance(v, slice) else _point(n, v) for n, v in where.items())


def channel(chosen: Channel) -> str:
    """Return a variable and its level."""
    at = ", ".join(f"{dim} {_number(label)}" for dim, label in chosen.level.items())
    return f"{chosen.name} at {at}" if at else chosen.name


def output(name: str, offset: int) -> str:
    """Return the name of an output, with the offset that stands at its end in words.

    Examples
    --------
    >>> output("nino34 +6", 6), output("class +", 0)
    ('nino34, 6 steps ahead', 'class +')
    """
    end = f" {offset:+d}"
    return name.removesuffix(end) + ahead(offset) if offset and name.endswith(end) else name


def _range(name: str, found: slice) -> str:
    low, high = found.start, found.stop
    if name in _EAST and low is not None and high is not None and high - low >= 360:
        return "all longitudes"
    low, high = (None if end is None else _value(name, end) for end in (low, high))
    if low is not None and high is not None:
        return f"{low} to {high}" if name in (*_NORTH, *_EAST) else f"{name} {low} to {high}"
    what = "latitudes" if name in _NORTH else "longitudes" if name in _EAST else name
    return f"{what} from {low}" if low is not None else f"{what} up to {high}" if high is not None else f"all {what}"


def _point(name: str, value: Any) -> str:
    told = _value(name, value)
    return told if name in (*_NORTH, *_EAST) else f"{name} {told}"


def _value(name: str, value: Any) -> str:
    if name in _NORTH:
        return _degrees(float(value), "N", "S")
    if name in _EAST:
        east = (float(value) + 180) % 360 - 180
        return "180°" if east == -180 else _degrees(east, "E", "W")
    return _number(value)


def _degrees(value: float, positive: str, negative: str) -> str:
    value = round(value, 2)
    return f"{abs(value):g}°{positive if value > 0 else negative if value < 0 else ''}"


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, int | float | np.number) else str(value)
