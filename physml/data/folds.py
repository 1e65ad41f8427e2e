"""Cross-validation along time: contiguous blocks left out in turn, an embargo between them and what is trained on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import closest, is_count, refuse
from physml.data.split import Split, mark, window_and_gap
from physml.fields import FieldSpec
from physml.timeaxis import check_axis, usual_step

SCHEMES = ("blocked", "expanding")
"""Ways to choose the blocks."""


class Fold(NamedTuple):
    """Two parts of a Dataset: what to learn from, and what judges it."""

    train: xr.Dataset
    validation: xr.Dataset


def fold_time(
    ds: xr.Dataset,
    spec: FieldSpec,
    validation: str | int | Iterable[Sequence[xr.Dataset]] = "blocked",
    *,
    n_folds: int = 5,
    embargo: str | int = "window",
) -> list[Fold]:
    """Return the parts for training and validation, fold by fold, lazily.

    Parameters
    ----------
    ds
        Data with a sorted sample coordinate.
    spec
        Names the sample dimension and the window.
    validation
        ``"blocked"``: see :func:`blocked`; a number k is the same with k folds. ``"expanding"``: see :func:`expanding`. Or
        pairs of Datasets of one's own, such as the ``train`` and ``validation`` of a :class:`physml.Split`.
    n_folds
        Number of folds of ``"blocked"`` and ``"expanding"``.
    embargo
        Steps left out of the training part beside each block: ``"window"`` (the length of the window), or a number.

    Raises
    ------
    ValueError
        For unknown schemes, folds without a whole window, and axes on which a hole cannot be told from a step.

    Examples
    --------
    >>> ds = xr.Dataset({"x": ("time", np.arange(12.0))}, {"time": np.arange(12)})
    >>> [f.validation.time.values.tolist() for f in fold_time(ds, FieldSpec("x", "x", target_offsets=1), 3)]
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    """
    if isinstance(validation, str):
        if validation not in SCHEMES:
            refuse(
                f"fold_time: unknown validation {validation!r}{closest(validation, SCHEMES)}",
                "'blocked', 'expanding', a number of blocks, or pairs of Datasets",
                repr(validation),
                "validation='blocked'",
            )
        return (blocked if validation == "blocked" else expanding)(ds, spec, n_folds, embargo=embargo)
    if isinstance(validation, int | np.integer):
        return blocked(ds, spec, validation, embargo=embargo)
    if isinstance(validation, Split):
        return [Fold(validation.train, validation.validation)]
    return [_own(i, pair) for i, pair in enumerate(validation)]


def blocked(ds: xr.Dataset, spec: FieldSpec, k: int, *, embargo: str | int = "window") -> list[Fold]:
    """Return *k* contiguous blocks, each judged once by what is learned from all others.

    Before and behind the block *embargo* steps belong to neither part. The training part has a hole where the block was, and no
    window of :class:`physml.Loader` or :class:`physml.Batches` reaches over it.

    Parameters
    ----------
    ds, spec, embargo
        As in :func:`fold_time`.
    k
        Number of blocks, at least 2.

    Raises
    ------
    ValueError
        As :func:`fold_time`.

    Examples
    --------
    >>> ds = xr.Dataset({"x": ("time", np.arange(12.0))}, {"time": np.arange(12)})
    >>> blocked(ds, FieldSpec("x", "x", target_offsets=1), 3)[1].train.time.values.tolist()
    [0, 1, 2, 9, 10, 11]
    """
    length, gap, edges = _edges(ds, spec, k, k, embargo)
    dim, step = spec.sample_dim, usual_step(ds[spec.sample_dim])
    found = []
    for i, (start, stop) in enumerate(itertools.pairwise(edges)):
        pieces = [range(0, max(start - gap, 0)), range(min(stop + gap, edges[-1]), edges[-1])]
        _check_length(f"fold {i}", "train", max(len(p) for p in pieces), length, k)
        _check_length(f"fold {i}", "validation", stop - start, length, k)
        train = ds.isel({dim: np.r_[tuple(slice(p.start, p.stop) for p in pieces)]})
        if length and all(pieces) and (step is None or usual_step(train[dim]) != step):
            refuse(
                f"blocked validation leaves a hole in {dim!r}, which cannot be told from a step of the axis",
                "a constant step, in durations or in calendar months, where a window spans several steps",
                f"labels {ds[dim].values[0]} to {ds[dim].values[-1]} "
                + ("without a constant step" if step is None else f"with {train.sizes[dim]} of them left for training"),
                "validation='expanding', whose training parts have no hole, or resample the data",
            )
        found.append(Fold(mark(train, "train"), mark(ds.isel({dim: slice(start, stop)}), "validation")))
    return found


def expanding(ds: xr.Dataset, spec: FieldSpec, k: int, *, embargo: str | int = "window") -> list[Fold]:
    """Return *k* blocks, each judged by what is learned from all times before it but the last *embargo* steps.

    The data are cut into k + 1 equal blocks; the first one is for training alone.

    Parameters
    ----------
    ds, spec, embargo
        As in :func:`fold_time`.
    k
        Number of folds, at least 1.

    Raises
    ------
    ValueError
        As :func:`fold_time`.

    Examples
    --------
    >>> ds = xr.Dataset({"x": ("time", np.arange(12.0))}, {"time": np.arange(12)})
    >>> [f.train.time.values[-1] for f in expanding(ds, FieldSpec("x", "x", target_offsets=1), 2)]
    [np.int64(2), np.int64(6)]
    """
    length, gap, edges = _edges(ds, spec, k, k + 1, embargo, least=1)
    dim, found = spec.sample_dim, []
    for i, (start, stop) in enumerate(itertools.pairwise(edges[1:])):
        _check_length(f"fold {i}", "train", start - gap, length, k)
        _check_length(f"fold {i}", "validation", stop - start, length, k)
        train, held_out = ds.isel({dim: slice(0, start - gap)}), ds.isel({dim: slice(start, stop)})
        found.append(Fold(mark(train, "train"), mark(held_out, "validation")))
    return found


def _edges(
    ds: xr.Dataset, spec: FieldSpec, k: Any, blocks: Any, embargo: str | int, least: int = 2
) -> tuple[int, int, list[int]]:
    """Return the length of a window, the embargo, and where the blocks begin and end."""
    if not is_count(k, least):
        refuse("fold_time: the number of folds is none", f"a whole number >= {least}", repr(k), "n_folds=5")
    check_axis(grid.variable(ds, spec.sample_dim, "sample coordinate"), "fold_time")
    length, gap = window_and_gap(spec.on(ds), embargo)
    size = ds.sizes[spec.sample_dim]
    return length, gap, [round(i * size / int(blocks)) for i in range(int(blocks) + 1)]


def _check_length(fold: str, part: str, steps: int, length: int, k: int) -> None:
    if steps < length + 1:
        refuse(
            f"fold_time: the {part} part of {fold} holds no whole window",
            f"at least {length + 1} steps after the embargo",
            f"{max(steps, 0)} steps",
            f"fewer folds than {k}, or longer data",
        )


def _own(i: int, pair: Any) -> Fold:
    if isinstance(pair, Split):
        return Fold(pair.train, pair.validation)
    parts = tuple(pair) if isinstance(pair, tuple | list) else ()
    if len(parts) != 2 or not all(isinstance(p, xr.Dataset) for p in parts):
        refuse(
            f"fold_time: fold {i} is no pair of Datasets",
            "(train, validation)",
            type(pair).__name__,
            "validation=[(train, validation), ...], or 'blocked'",
        )
    return Fold(mark(parts[0], "train"), mark(parts[1], "validation"))
