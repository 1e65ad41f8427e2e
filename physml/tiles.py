"""Maps predicted tile by tile: windows with the halo of the network, read across the seam of a periodic dimension."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe
from physml.model import FieldModel
from physml.predictor import Predictor, rows_at_a_time
from physml.receptive import Extent, receptive_field


@dataclass(frozen=True)
class Axis:
    """The tiles of one dimension: tile ``i`` is ``[bounds[i], bounds[i + 1])``, seen from ``size`` cells at ``starts[i]``."""

    cells: int
    size: int
    bounds: tuple[int, ...]
    starts: tuple[int, ...]
    halo: tuple[int, int]
    periodic: bool

    def pieces(self, i: int) -> list[slice]:
        """Return the slices of the dimension that make up a window, two where it crosses the seam."""
        start = self.starts[i] % self.cells if self.periodic else self.starts[i]
        if start + self.size <= self.cells:
            return [slice(start, start + self.size)]
        return [slice(start, self.cells), slice(0, start + self.size - self.cells)]

    def inside(self, i: int) -> slice:
        """Return where a tile lies in its window."""
        return slice(self.bounds[i] - self.starts[i], self.bounds[i + 1] - self.starts[i])


@dataclass(frozen=True)
class Plan:
    """Tiles of a map, for every space dimension in order."""

    axes: tuple[Axis, ...]
    tiles: Mapping[str, int]
    attrs: Mapping[str, str]
    blend: bool = False

    @property
    def window(self) -> tuple[int, ...]:
        """Sizes of all windows."""
        return tuple(a.size for a in self.axes)


def plan(
    model: FieldModel,
    tiles: Mapping[str, int],
    halo: Mapping[str, int] | None = None,
    periodic: Iterable[str] = (),
    *,
    blend: bool = False,
) -> Plan:
    """Return windows from which every tile is predicted as on the whole map; see :func:`physml.predict`.

    Raises
    ------
    ValueError
        For unknown dimensions, boundaries that contradict the network's, and networks that see the whole map.
    """
    layout = model.layout
    periodic = (periodic,) if isinstance(periodic, str) else tuple(periodic)
    halo = dict(halo or {})
    for what, names in (("tiles", tiles), ("halo", halo), ("periodic", periodic)):
        for name in names:
            if name not in layout.space:
                raise ValueError(
                    describe(
                        f"{what} name {name!r}, which is no space dimension{closest(name, layout.space)}",
                        expected=f"among {layout.space}",
                        received=repr(name),
                        remedy=f"correct {what}",
                    )
                )
    bad = {k: v for k, v in {**tiles, **{f"halo of {k}": v + 1 for k, v in halo.items()}}.items() if v < 1}
    if bad:
        raise ValueError(
            describe("tiles hold no cell", expected="sizes >= 1, halo >= 0", received=bad, remedy="tiles={'lat': 128}")
        )
    if blend and not halo:
        raise ValueError(
            describe(
                "blend needs the cells by which windows overlap",
                expected="halo={dim: cells}, for example an eighth of the tile",
                received="halo=None",
                remedy=f"halo={ {d: max(1, n // 8) for d, n in tiles.items()} }",
            )
        )
    extents = _extents(model, tiles, halo, blend)
    axes = []
    for dim, cells, extent in zip(layout.space, layout.shape, extents, strict=True):
        wraps = _wraps(dim, extent, dim in periodic, dim in tiles and not blend)
        if dim not in tiles or (tiles[dim] >= cells):
            axes.append(Axis(cells, cells, (0, cells), (0,), (0, 0), wraps))
            continue
        ends = (extent.before, extent.after) if extent is not None else (0, 0)
        if blend or (dim in halo and extent is None):
            ends = (halo.get(dim, 0),) * 2
        elif dim in halo:
            short = halo[dim] < max(ends)
            if short:
                raise ValueError(
                    describe(
                        f"the halo along {dim!r} is shorter than the network sees",
                        expected=f">= {max(ends)} cells",
                        received=halo[dim],
                        remedy="leave halo out: it is read off the network; or blend=True for an approximation",
                    )
                )
            ends = (halo[dim],) * 2
        axes.append(axis(cells, tiles[dim], ends, 1 if extent is None else extent.stride, wraps))
    told = {d: list(a.halo) for d, a in zip(layout.space, axes, strict=True) if d in tiles}
    attrs = {
        "physml_tiles": ", ".join(f"{d}={n}" for d, n in tiles.items()),
        "physml_halo": ", ".join(f"{d}={a}+{b}" for d, (a, b) in told.items()),
    }
    if blend:
        attrs["physml_tiles_blended"] = "overlapping windows averaged with smooth weights: not the whole-map prediction"
    return Plan(tuple(axes), dict(tiles), attrs, blend)


def _extents(model: FieldModel, tiles: Mapping[str, int], halo: Mapping[str, int], blend: bool) -> list[Extent | None]:
    reason = model.whole_grid_reason()
    if reason is None:
        try:
            return list(receptive_field(model))
        except ValueError:
            if not (blend or all(d in halo for d in tiles)):
                raise
            return [None] * len(model.layout.space)
    raise ValueError(
        describe(
            "this model cannot be applied tile by tile",
            expected="laws that hold cell by cell, and no head",
            received=reason,
            remedy="predict whole maps (tiles=None); or make the model without it, and apply it to the whole result: "
            "Constraints(...).apply(fields, ds)",
        )
    )


def _wraps(dim: str, extent: Extent | None, said: bool, tiled: bool) -> bool:
    """Return whether windows are read across the seam; refuse contradictions."""
    if extent is None or extent.edge == "none":
        return said
    if said and extent.edge == "own":
        raise ValueError(
            describe(
                f"{dim!r} is said to be periodic, but the network closes it",
                expected="layers that read the other end: physml.networks.Pad(width, ('periodic', ...))",
                received="layers that pad it by themselves",
                remedy=f"leave {dim!r} out of periodic: the tiles then equal what the network gives for whole maps",
            )
        )
    if extent.edge == "mixed" and tiled:
        raise ValueError(
            describe(
                f"the network cannot be applied in tiles of {dim!r}",
                expected="all layers to treat its ends alike",
                received=extent.why,
                remedy=f"leave {dim!r} out of tiles",
            )
        )
    return extent.edge == "periodic"


def axis(cells: int, tile: int, halo: tuple[int, int], stride: int, periodic: bool) -> Axis:
    """Return the tiles of a dimension and the windows to see them from.

    All windows have one size. They begin at multiples of *stride*, and where the dimension has ends none reaches beyond them,
    so that the network's own padding acts there as it does on the whole map.

    Examples
    --------
    >>> axis(10, 4, (1, 1), 1, False).starts, axis(10, 4, (1, 1), 1, True).starts
    ((0, 3, 4), (-1, 3, 7))
    """
    bounds = (*range(0, cells, tile), cells)
    size = math.ceil((tile + sum(halo) + stride - 1) / stride) * stride
    size += cells % stride if not periodic else 0
    if size >= cells:  # the map itself is the window
        return Axis(cells, cells, bounds, (0,) * (len(bounds) - 1), halo, periodic)
    starts = []
    for first in bounds[:-1]:
        start = math.floor((first - halo[0]) / stride) * stride
        if not periodic:
            start = min(max(start, 0), cells - size)
        starts.append(start)
    return Axis(cells, size, bounds, tuple(starts), halo, periodic)


def map_tiles(model: FieldModel, packed: xr.DataArray, planned: Plan, batch_size: int) -> xr.DataArray:
    """Return the outputs ``[*leading, *space, channel]`` for packed inputs, a block for every tile; lazy where they are.

    Parameters
    ----------
    model
        Its network is run on windows of one size.
    packed
        ``[*leading, *space, channel]``.
    planned
        From :func:`plan`.
    batch_size
        Rows of windows at a time, at most.
    """
    import dask.array as dsa

    layout, core = model.layout, len(model.layout.space) + 1
    data: Any = packed.data
    lazy = not isinstance(data, np.ndarray)
    if not lazy:
        rows = [min(n, batch_size) if i == packed.ndim - core - 1 else 1 for i, n in enumerate(packed.shape[:-core])]
        data = dsa.from_array(data, chunks=(*rows, *packed.shape[-core:]), name=False)
    # Rows that were split in space are gathered few at a time.
    lengths: Any = "auto" if any(len(c) > 1 for c in data.chunks[-core:]) else None
    block = math.prod(max(c) for c in data.chunks[:-core])
    whole = planned.window == layout.shape
    predictor = Predictor(model, rows_at_a_time(block, batch_size), None if whole else planned.window)
    valid = layout.valid("inputs")
    outputs = len(model.answers.targets)

    def window(index: tuple[int, ...]) -> Any:
        x, mask = data, valid
        for at, (a, i) in enumerate(zip(planned.axes, index, strict=True)):
            x = _taken(x, a.pieces(i), x.ndim - core + at, dsa.concatenate)
            mask = _taken(mask, a.pieces(i), at, np.concatenate)
        x = x.rechunk({d: -1 if d >= x.ndim - core else lengths for d in range(x.ndim)})
        kept = planned.window if planned.blend else tuple(a.inside(i) for a, i in zip(planned.axes, index, strict=True))
        sizes = [k if isinstance(k, int) else k.stop - k.start for k in kept]
        crop = None if planned.blend else kept
        chunks = (*x.chunks[:-core], *((n,) for n in sizes), (outputs,))
        return x.map_blocks(
            _predict_block, predictor, mask, crop, core=core, chunks=chunks, dtype=np.dtype(model.compute_dtype), meta=np.empty((0,) * x.ndim, model.compute_dtype)
        )  # fmt: skip

    grid = [range(len(a.starts)) for a in planned.axes]
    outs = {index: window(index) for index in itertools.product(*grid)}
    if planned.blend:
        outs = {index: _blended(outs, planned, index, core) for index in outs}
    whole_map = _assembled(outs, grid, core)
    if not lazy:
        whole_map = whole_map.compute()
    coords = {n: c for n, c in packed.coords.items() if "channel" not in c.dims}
    return xr.DataArray(whole_map, dims=packed.dims, coords=coords)


def _taken(x: Any, pieces: list[slice], axis: int, join: Any) -> Any:
    parts = [x[(slice(None),) * axis + (p,)] for p in pieces]
    return parts[0] if len(parts) == 1 else join(parts, axis=axis)


def _predict_block(x: np.ndarray, predictor: Predictor, valid: np.ndarray, crop: Any, *, core: int) -> np.ndarray:
    leading = x.shape[:-core]
    out = predictor(x.reshape(-1, *x.shape[-core:]), valid)
    if crop is not None:
        out = out[(slice(None), *crop)]
    return np.ascontiguousarray(out).reshape(*leading, *out.shape[1:])


def _assembled(outs: Mapping[tuple[int, ...], Any], grid: list[range], core: int) -> Any:
    import dask.array as dsa

    def along(prefix: tuple[int, ...], axis: int) -> Any:
        if axis == len(grid):
            return outs[prefix]
        parts = [along((*prefix, i), axis + 1) for i in grid[axis]]
        return parts[0] if len(parts) == 1 else dsa.concatenate(parts, axis=parts[0].ndim - core + axis)

    return along((), 0)


def _blended(outs: Mapping[tuple[int, ...], Any], planned: Plan, index: tuple[int, ...], core: int) -> Any:
    """Return a tile as the weighted mean of all windows that hold cells of it."""
    import dask.array as dsa

    overlaps = [_overlaps(a, i) for a, i in zip(planned.axes, index, strict=True)]
    total: Any = 0
    for parts in itertools.product(*overlaps):
        which = tuple(p[0] for p in parts)
        weight = np.ones((), "float64")
        for at, (_, _, _, w) in enumerate(parts):
            weight = weight[..., None] * w if at else w
        x = outs[which]
        block = x[(Ellipsis, *(p[1] for p in parts), slice(None))]
        pads = [(0, 0)] * (x.ndim - core) + [p[2] for p in parts] + [(0, 0)]
        piece = block * weight[..., None].astype(x.dtype)
        total = total + dsa.pad(piece, pads).rechunk({d: -1 for d in range(x.ndim - core, x.ndim)})
    return total


def _overlaps(a: Axis, tile: int) -> list[tuple[int, slice, tuple[int, int], np.ndarray]]:
    """Return, for every window with cells of a tile: its number, those cells in it, the padding to the tile, their weights."""
    first, last = a.bounds[tile], a.bounds[tile + 1]
    cells = np.arange(first, last)
    found, total = [], np.zeros(last - first)
    for i, start in enumerate(a.starts):
        ramp = _weights(a, i)
        # On a circle a window may hold the tile one turn further.
        turns = (-a.cells, 0, a.cells) if a.periodic and a.size < a.cells else (0,)
        for turn in turns:
            at = cells - start + turn
            here = (at >= 0) & (at < a.size)
            w = np.where(here, ramp[np.clip(at, 0, a.size - 1)], 0.0)
            if w.any():
                on = np.flatnonzero(w > 0)
                lo, hi = int(on[0]), int(on[-1]) + 1
                found.append((i, slice(int(at[lo]), int(at[hi - 1]) + 1), (lo, len(cells) - hi), w[lo:hi]))
                total += w
    return [(i, s, p, w / total[p[0] : len(cells) - p[1]]) for i, s, p, w in found]


def _weights(a: Axis, i: int) -> np.ndarray:
    """Return weights of a window: 1 within its tile, falling smoothly to 0 over twice the halo across its ends."""
    at = np.arange(a.size) + a.starts[i] + 0.5
    first, last = a.bounds[i], a.bounds[i + 1]
    before, after = max(a.halo[0], 1e-9), max(a.halo[1], 1e-9)
    rise = np.clip((at - first) / before, -1, 1)
    fall = np.clip((last - at) / after, -1, 1)
    return np.clip(0.5 + 0.5 * np.sin(0.5 * np.pi * rise), 0, 1) * np.clip(0.5 + 0.5 * np.sin(0.5 * np.pi * fall), 0, 1)
