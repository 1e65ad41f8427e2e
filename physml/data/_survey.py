"""One pass over the data that counts what is missing, so that samples can be left out by rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr

from physml._progress import track
from physml.data._plan import Samples, merged
from physml.data._pool import Field
from physml.data._sources import slab
from physml.fields import Role
from physml.layout import Layout


def valid_cells(layout: Layout, role: Role, name: str, rest: tuple[str, ...]) -> np.ndarray:
    """Return the cells on which a variable must have values, in the order of its own dimensions *rest*."""
    known = layout.variables[name]
    where = layout.where(role, name, layout.spec.offsets(role, name)[0])
    levels = {d: len(v) for d, v in known.levels.items()}
    data = layout.valid(role)[..., where].reshape(*layout.shape, *levels.values())
    valid = xr.DataArray(data, dims=(*layout.space, *levels))
    # A variable without some space dimension is needed where any cell along it is.
    return valid.any([d for d in layout.space if d not in rest]).transpose(*rest).values


def count_missing(known: Field, valid: np.ndarray, threads: int, show: bool = False) -> np.ndarray:
    """Return how many valid cells are missing in every row of a field, ``[*members it has, time]``.

    Parameters
    ----------
    known, valid
        The field, and its valid cells in the order of its rest dimensions.
    threads
        Threads that read.
    show
        Show progress.
    """
    lead = len(known.lead)

    def count(rows: np.ndarray) -> np.ndarray:
        bad = ~np.isfinite(rows) & valid
        return bad.reshape(*rows.shape[:lead], -1).sum(-1)

    if known.memory is not None:
        return count(known.memory)
    at_most = max(1, (1 << 26) // max(1, known.row_bytes))
    bounds = merged(known.source.bounds(known.sample_dim), 1, at_most)

    def block(span: tuple[int, int]) -> np.ndarray:
        out = slab(known.source, {known.sample_dim: np.arange(*span), **known.chosen}, known.dtype)
        return count(known.turned(out))

    spans = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(
            list(
                track(_few(pool, block, spans, 2 * threads), f"looking for gaps in {known.name}", len(spans), show=show)
            ),
            axis=-1,
        )


def _few(pool: ThreadPoolExecutor, work: Any, items: list[Any], ahead: int) -> Iterable[Any]:
    """Yield results in order, with only a few of them in memory."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def complete(
    samples: Samples, layout: Layout, fields: Mapping[str, Field], missing: Mapping[str, np.ndarray], least: float
) -> Samples:
    """Return the samples of which every role has at least the part *least* of its valid cells.

    Parameters
    ----------
    missing
        From :func:`count_missing`, by variable.
    least
        0 to 1; 1 keeps samples without a gap only.
    """
    member, window = samples.split(samples.kept)
    times = samples.windows[window]
    good = np.ones(len(samples), bool)
    roles: tuple[Role, ...] = ("inputs", "targets")
    for role in roles:
        gone, total = np.zeros(len(samples)), 0
        for name in getattr(layout.spec, role):
            offsets = layout.spec.offsets(role, name)
            if name not in fields:
                continue
            cells = int(valid_cells(layout, role, name, fields[name].rest).sum())
            for offset in offsets:
                time = times[:, samples.offsets.index(offset)]
                gone += missing[name][(*fields[name].own_member(member), time)]
                total += cells
        good &= gone <= (1 - least) * total + 1e-9
    return Samples(samples.members, samples.n_times, samples.windows, samples.offsets, samples.kept[good])
