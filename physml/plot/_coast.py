"""Coastlines of Natural Earth, read through cartopy; never fetched unless asked for."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physml._errors import describe
from physml.plot import _style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCALES = ("110m", "50m", "10m")
"""Scales of Natural Earth, from coarse to fine: 1:110 million and so on."""
WIDE = 70.0
"""Width of a map [degrees] from which the coarsest coastline is fine enough."""


def stored(width: float) -> Path | None:
    """Return the coastline on this machine that suits a map of this width [degrees], or None; nothing is fetched."""
    try:
        found = {scale: path for scale in SCALES if (path := _place(scale)[0]) is not None}
    except ImportError:
        return None
    wanted = SCALES if width >= WIDE else ("50m", "10m", "110m")
    return next((found[scale] for scale in wanted if scale in found), None)


def fetched(width: float) -> Path:
    """Return the coastline that suits a map of this width, through cartopy, which fetches it once.

    Raises
    ------
    ImportError
        Where cartopy is not installed.
    OSError
        Where the coastline is not on this machine and cannot be fetched.
    """
    try:
        path, downloader, details = _place("110m" if width >= WIDE else "50m")
    except ImportError as error:
        raise ImportError(
            describe(
                "coastlines are drawn by cartopy",
                expected="an installed cartopy",
                received="none",
                remedy="pip install cartopy, or pass coastlines=False",
            )
        ) from error
    try:
        return path or Path(downloader.path(details))
    except OSError as error:
        raise OSError(
            describe(
                "coastlines are not on this machine and cannot be fetched",
                expected="the Natural Earth coastline, from the network or in cartopy.config['pre_existing_data_dir']",
                received=str(error),
                remedy="pass coastlines=None, which draws them only where they are",
            )
        ) from error


def draw(ax: Axes, path: Path) -> None:
    """Draw a coastline over a map whose horizontal axis is longitude in any range [degrees]; the view stays."""
    from matplotlib.collections import LineCollection

    (west, east), frame = ax.get_xlim(), ax.axis()
    turns = [360.0 * k for k in range(-2, 3)]
    moved = [line + np.array([turn, 0.0]) for line in _lines(str(path)) for turn in turns]
    seen = [line for line in moved if line[:, 0].max() >= west and line[:, 0].min() <= east]
    ax.add_collection(LineCollection(seen, colors=style.INK, linewidths=0.8, zorder=4), autolim=False)
    ax.axis(frame)


@functools.lru_cache(maxsize=3)
def _lines(path: str) -> tuple[np.ndarray, ...]:
    """Return the pieces of a coastline, ``[point, (longitude, latitude)]`` each [degrees]."""
    from cartopy.io import shapereader

    pieces: list[np.ndarray] = []
    for shape in shapereader.Reader(path).geometries():
        pieces += [np.asarray(part.coords)[:, :2] for part in getattr(shape, "geoms", [shape])]
    return tuple(pieces)


def _place(scale: str) -> tuple[Path | None, Any, dict[str, Any]]:
    """Return where cartopy has a coastline, or None, and how it would get it."""
    import cartopy
    from cartopy.io import Downloader

    specification = ("shapefiles", "natural_earth", scale, "physical", "coastline")
    downloader = Downloader.from_config(specification)
    details = {"config": cartopy.config, "category": "physical", "name": "coastline", "resolution": scale}
    places = (downloader.pre_downloaded_path(details), downloader.target_path(details))
    return next((p for p in places if p is not None and p.exists()), None), downloader, details
