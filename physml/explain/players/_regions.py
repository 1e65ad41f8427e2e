"""Regions as players: named masks, basins by flag, text, stacks of masks, and outlines of the library regionmask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from physml import grid
from physml._errors import describe, refuse
from physml.explain.players._selecting import box_cells, few, on_grid, region_cells
from physml.explain.players._splitting import Split, lay, texts

if TYPE_CHECKING:
    from physml.layout import Layout

Parts = tuple[list[str], np.ndarray]
"""Names, and which of them holds each cell ``[*space]``; -1: none."""


def by_region(
    layout: Layout,
    region: Any = None,
    box: Mapping[str, Mapping[str, slice]] | None = None,
    rest: str | None = None,
) -> list[Split]:
    """Return the split of space by regions, boxes, and what is outside them all."""
    labels: list[str] = []
    owner = np.full(layout.shape, -1)
    asked = [*(region if isinstance(region, Mapping) else ()), *(box or {})]
    if isinstance(region, Mapping):
        for name, mask in region.items():
            lay(layout, labels, owner, [name], np.where(region_cells(layout, mask, f"region {name!r}"), 0, -1))
    elif region is not None:
        for theirs, parts in parts_of(layout, region):
            lay(layout, labels, owner, theirs, parts)
    for name, ranges in (box or {}).items():
        lay(layout, labels, owner, [name], np.where(box_cells(layout, ranges, f"box {name!r}"), 0, -1))
    if rest is not None:
        asked.append(rest)
        lay(layout, labels, owner, [rest], np.where(owner < 0, 0, -1))
    twice = [n for i, n in enumerate(labels) if n in labels[:i]]
    if twice:
        refuse(
            f"region {twice[0]!r} is named twice",
            "one name for each of region, box and rest",
            few(labels),
            "rename one of them",
        )
    used = set(np.unique(owner[layout.valid("inputs").any(-1)]))
    for i, name in enumerate(labels):
        if name in asked and i not in used:
            refuse(
                f"region {name!r} holds no valid cell",
                "one or more valid cells",
                f"{int((owner == i).sum())} cells, all masked",
                "widen it or leave it out",
            )
    return [Split("region", tuple(labels), owner[..., None])] if labels else []


def parts_of(layout: Layout, region: Any) -> list[Parts]:
    """Return the regions that a labelled mask, or an object with ``mask_3D``, tells apart.

    Raises
    ------
    TypeError
        For anything else.
    """
    if hasattr(region, "mask_3D"):
        region = _outlines(layout, region)
    if not isinstance(region, xr.DataArray) or region.dtype.kind not in "biufUO":
        raise TypeError(
            describe(
                "region is no mask",
                expected="{name: boolean DataArray}, a DataArray of booleans, integers or names, or regionmask.Regions",
                received=getattr(region, "dtype", type(region).__name__),
                remedy="for instance region={'tropics': abs(ds.lat) < 20}",
            )
        )
    if region.dtype == bool:
        return _stack(layout, region)
    if "flag_values" in region.attrs or "flag_masks" in region.attrs:
        return [_flags(layout, region)]
    return [_values(layout, region)]


def _outlines(layout: Layout, regions: Any) -> xr.DataArray:
    """Return the masks of outlines on the grid of the layout."""
    lat, lon = grid.latitude_longitude(layout.statics)
    try:
        return regions.mask_3D(lon, lat)
    except ImportError as error:
        raise ImportError(
            describe(
                "regions given as outlines need a library that is not there",
                expected="regionmask",
                received=str(error),
                remedy="pip install regionmask, or give masks: region={'name': boolean DataArray}",
            )
        ) from error


def _stack(layout: Layout, masks: xr.DataArray) -> list[Parts]:
    """Return regions of boolean masks along a dimension of their own, named by its ``names`` or labels."""
    along = [d for d in masks.dims if d not in layout.space]
    if not along and masks.name:
        return [([str(masks.name)], np.where(region_cells(layout, masks, f"region {masks.name!r}"), 0, -1))]
    if len(along) != 1:
        refuse(
            "region holds masks without names",
            f"a boolean DataArray on {layout.space} and one more dimension, of the regions",
            masks.dims,
            "give names: region={'name': mask}",
        )
    dim = along[0]
    said = next((masks[n] for n in ("names", dim) if n in masks.coords and masks[n].dims == (dim,)), None)
    names = [str(i) for i in range(masks.sizes[dim])] if said is None else texts(said.values)
    plain = masks.reset_coords(drop=True)
    found: list[Parts] = []
    for i, name in enumerate(names):
        mask = plain.isel({dim: i}, drop=True)
        found.append(([name], np.where(region_cells(layout, mask, f"region {name!r}"), 0, -1)))
    return found


def _flags(layout: Layout, mask: xr.DataArray) -> Parts:
    """Return one region for each flag value, named by its meaning; other values lie in none."""
    values = np.atleast_1d(mask.attrs.get("flag_values", []))
    names = str(mask.attrs.get("flag_meanings", "")).split()
    if "flag_masks" in mask.attrs or len(values) != len(names) or len(set(values.tolist())) != len(values):
        refuse(
            f"the flags of region {mask.name!r} do not name its values",
            "flag_values that differ, and as many words in flag_meanings",
            {k: v for k, v in mask.attrs.items() if str(k).startswith("flag_")},
            "correct the attributes, or drop them: one group for each value",
        )
    cells = on_grid(layout, mask, f"region {mask.name!r}")
    order = np.argsort(values, kind="stable")
    at = np.clip(np.searchsorted(values[order], cells), 0, len(values) - 1)
    return names, np.where(values[order][at] == cells, order[at], -1)


def _values(layout: Layout, mask: xr.DataArray) -> Parts:
    """Return one region for each integer or text; what is missing or empty lies in none."""
    codes, every = pd.factorize(mask.values.ravel(), sort=True)
    fractions = mask.dtype.kind == "f" and (every != np.rint(every)).any()
    if fractions or not len(every):
        raise TypeError(
            describe(
                f"region {mask.name!r} is no mask",
                expected="whole numbers, names or booleans" if fractions else "one or more values",
                received=few([f"{v:g}" for v in every], 5) if fractions else "missing values only",
                remedy="compare first: region={'wet': ds.fraction > 0.5}",
            )
        )
    index = mask.copy(data=codes.reshape(mask.shape).astype("float64"))
    cells = on_grid(layout, index, f"region {mask.name!r}").astype("int64")
    names = texts(np.asarray(every))
    if "" in names:
        cells = np.where(cells == names.index(""), -1, cells)
    return names, cells
