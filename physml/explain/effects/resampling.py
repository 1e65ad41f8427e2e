"""Samples that belong together are moved together: permutations and bootstrap resamples by blocks of time.

References
----------
Künsch, H. R. (1989), The jackknife and the bootstrap for general stationary observations, doi:10.1214/aos/1176347265.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import xarray as xr

from physml._errors import is_count, refuse

Length = int | str | None


def block_numbers(packed: xr.DataArray, sample: str, block: Length) -> np.ndarray:
    """Return the number of the block that each sample lies in; members are counted one after the other.

    Parameters
    ----------
    packed
        Samples ``[*members, sample, ...]``.
    sample
        Name of the sample dimension.
    block
        Samples in a block, counted along the axis; or a length of time from its first date on, such as ``"90D"``, ``"3MS"``
        (calendar months) or ``"1YS"``; None: every sample by itself.

    Raises
    ------
    ValueError
        For a block that is not positive, or longer than half the axis; for lengths of time on an axis without dates.
    """
    outer = packed.shape[: packed.get_axis_num(sample) + 1]
    n = outer[-1]
    if block is None:
        along = np.arange(n)
    elif isinstance(block, str):
        along = _by_date(packed[sample] if sample in packed.coords else None, block)
    else:
        if not is_count(block):
            refuse(
                "block is not positive",
                "a whole number of samples >= 1, or a length of time",
                repr(block),
                "leave it out for single samples",
            )
        along = np.arange(n) // block
    along = np.unique(along, return_inverse=True)[1]
    if block is not None and along[-1] == 0 and math.prod(outer[:-1]) == 1:
        refuse(f"block={block!r} holds all samples", f"two or more blocks in {n} samples", 1, "give a shorter block")
    return (np.arange(math.prod(outer[:-1]))[:, None] * (along[-1] + 1) + along).ravel()


def _by_date(coordinate: xr.DataArray | None, block: str) -> np.ndarray:
    values = np.array([]) if coordinate is None else coordinate.values
    if values.dtype.kind not in "MO":
        refuse(
            f"block={block!r} needs dates", "a date coordinate", values.dtype, "give the number of samples in a block"
        )
    months = re.fullmatch(r"\s*(\d*)\s*(MS|ME|M|YS|YE|Y)\s*", block)
    if months is not None:
        dates = xr.DataArray(values, dims="t").dt
        each = int(months[1] or 1) * (12 if months[2].startswith("Y") else 1)
        since = dates.year.values * 12 + dates.month.values
        return (since - since[0]) // max(each, 1)
    try:
        length = pd.Timedelta(block)
    except ValueError:
        length = pd.Timedelta(0)
    if length <= pd.Timedelta(0):
        refuse(f"block={block!r} is no length of time", "such as '90D', '3MS' or '1YS'", repr(block), "correct it")
    return np.asarray(pd.to_timedelta(values - values[0]) // length)


def month_labels(packed: xr.DataArray, sample: str, within: str | None) -> np.ndarray | None:
    """Return the calendar month of every sample, where *within* is ``"month"``; None where it is None.

    Raises
    ------
    ValueError
        For another *within*, and an axis without dates.
    """
    if within is None:
        return None
    outer = packed.shape[: packed.get_axis_num(sample) + 1]
    if within != "month":
        refuse("within is unknown", "'month' or None", repr(within), "pass within='month'")
    if sample not in packed.coords or packed[sample].dtype.kind not in "MO":
        refuse(
            "within='month' needs dates", f"a date coordinate {sample!r}", "none", "decode the times: xr.decode_cf(ds)"
        )
    return np.tile(packed[sample].dt.month.values, math.prod(outer[:-1]))


def permutation(rng: np.random.Generator, blocks: np.ndarray, months: np.ndarray | None = None) -> np.ndarray:
    """Return a random order of the samples, ``[sample]``, in which the samples of a block still follow each other.

    No block stays where it is: each changes place along one random cycle through all, so that every other is as likely to
    come. A sample with its own values would make what is shuffled look less important than it is.

    Parameters
    ----------
    rng
        Source of randomness.
    blocks
        Block of each sample, from :func:`block_numbers`.
    months
        Calendar month of each sample: every sample is given one of its own month. A block of several months changes place
        only with blocks of the same sequence of months.

    Raises
    ------
    ValueError
        Where no block has another to change places with.

    Examples
    --------
    >>> permutation(np.random.default_rng(0), np.array([0, 0, 1, 1, 2, 2])).tolist()
    [4, 5, 0, 1, 2, 3]
    """
    n = len(blocks)
    pieces = np.split(np.arange(n), np.flatnonzero(np.diff(blocks)) + 1)
    if len(pieces) == 1:
        refuse("nothing can change places", "two or more samples, or blocks of them", 1, "pass more samples")
    if months is None:
        return np.concatenate([pieces[i] for i in _cycle(rng, len(pieces))])
    alike: dict[tuple[int, ...], list[np.ndarray]] = {}
    for piece in pieces:
        seen = months[piece]
        key = (int(seen[0]),) if (seen == seen[0]).all() else tuple(seen.tolist())
        alike.setdefault(key, []).append(piece)
    if all(len(same) == 1 for same in alike.values()):
        refuse(
            "no block can change places with another within its months",
            "two or more blocks of the same months",
            f"{len(pieces)} blocks, all different",
            "pass block='1MS', '1YS' or a block of whole years, or more years",
        )
    order = np.arange(n)
    for same in alike.values():
        order[np.concatenate(same)] = np.concatenate([same[i] for i in _cycle(rng, len(same))])
    return order


def _cycle(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return a random permutation of one cycle: what comes to each place."""
    stops = rng.permutation(n)
    order = np.empty(n, int)
    order[stops] = np.roll(stops, 1)
    return order


def bootstrap_counts(rng: np.random.Generator, blocks: np.ndarray, n_bootstrap: int) -> np.ndarray:
    """Return how often each sample occurs in each resample of whole blocks, ``[resample, sample]`` int16."""
    if not is_count(n_bootstrap, 0):
        refuse(
            "n_bootstrap is out of range",
            "a whole number >= 0",
            repr(n_bootstrap),
            "leave it out, or 0 for no interval",
        )
    _, which = np.unique(blocks, return_inverse=True)
    n = int(which.max()) + 1
    found = np.empty((n_bootstrap, n), "int16")
    for row in found:
        row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return found[:, which]


def percentiles(replicates: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the percentile interval over the first axis; NaN where there are no replicates."""
    if not 0 < level < 1:
        refuse("level is no probability", "between 0 and 1", level, "pass level=0.95")
    if not len(replicates):
        return np.full(replicates.shape[1:], np.nan), np.full(replicates.shape[1:], np.nan)
    low, high = np.nanquantile(replicates, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return low, high
