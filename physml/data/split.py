"""Splits along time that leave no window across a boundary, and an embargo behind each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from physml import grid
from physml._errors import describe
from physml.fields import FieldSpec
from physml.timeaxis import as_label, check_axis

PART = "physml_split"
"""Attribute of a Dataset that names its part."""


class Split(NamedTuple):
    """The parts of a Dataset in order of time; with two boundaries ``train, validation, test``."""

    train: xr.Dataset
    validation: xr.Dataset
    test: xr.Dataset | None = None


def split_time(
    ds: xr.Dataset,
    boundaries: Sequence[Any],
    spec: FieldSpec,
    embargo: str | int = "window",
) -> Split:
    """Split a Dataset along its sample dimension, lazily.

    Fields close in time resemble each other, so a random split lets the network see the answers. Here every part is one
    period, and behind each boundary *embargo* steps are left out.

    Parameters
    ----------
    ds
        Data with a sorted sample coordinate.
    boundaries
        One or two labels, each the last of its part: ``["1989-12-31", "1995-12-31"]``, or ``["1989", "1995"]``.
    spec
        Names the sample dimension and the window.
    embargo
        Steps left out after each boundary: ``"window"`` (the length of the window, so that no part holds a step within one
        window of another's), or a number.

    Returns
    -------
    Split
        ``train, validation[, test]``; windows are later drawn inside each part only. Each carries its name as attribute
        ``physml_split``, so that nothing is fitted to the others by mistake.

    Raises
    ------
    ValueError
        For unsorted boundaries, and parts too short for one window.

    Examples
    --------
    >>> ds = xr.Dataset({"x": ("time", np.arange(10.0))}, {"time": np.arange(10)})
    >>> train, test, _ = split_time(ds, [5], FieldSpec("x", "x", target_offsets=1))
    >>> train.time.values[-1], test.time.values[0]
    (np.int64(5), np.int64(7))
    """
    dim = spec.sample_dim
    axis = grid.variable(ds, dim, "sample coordinate")
    check_axis(axis, "split_time")
    if not 1 <= len(boundaries) <= 2:
        raise ValueError(
            describe(
                "split_time: wrong number of boundaries",
                expected="one (train, validation) or two (train, validation, test)",
                received=list(boundaries),
                remedy="give the last label of each part but the final one",
            )
        )
    length, gap = window_and_gap(spec.on(ds), embargo)
    index = ds.indexes[dim]
    ends = [_end(index, label) for label in boundaries]
    stops = [*ends, index.size]
    starts = [0, *(e + gap for e in ends)]
    parts = []
    for name, start, stop in zip(Split._fields, starts, stops, strict=False):
        if stop - start < length + 1:
            raise ValueError(
                describe(
                    f"split_time: the {name} part holds no whole window",
                    expected=f"at least {length + 1} steps along {dim!r} after an embargo of {gap}",
                    received=f"{max(stop - start, 0)} steps",
                    remedy=f"move the boundaries {list(boundaries)}; the data run from {axis.values[0]} to {axis.values[-1]}",
                )
            )
        parts.append(mark(ds.isel({dim: slice(start, stop)}), name))
    return Split(*parts)


def mark(ds: xr.Dataset, part: str) -> xr.Dataset:
    """Return *ds* with the name of its part as an attribute, which selecting, computing and writing to disk keep."""
    return ds.assign_attrs({PART: part})


def refuse_judges(ds: xr.Dataset) -> None:
    """Refuse to learn anything from a part that is there to judge what was learned.

    Raises
    ------
    ValueError
        For what :func:`split_time` marked as validation or test.
    """
    part = ds.attrs.get(PART)
    if part in Split._fields[1:]:
        raise ValueError(
            describe(
                f"these data are the {part} part of a split, and nothing may be fitted to them",
                expected="the train part",
                received=f"attribute {PART}={part!r}",
                remedy=f"fit to split.train; for data put to another use, del ds.attrs[{PART!r}]",
            )
        )


def window_and_gap(spec: FieldSpec, embargo: str | int) -> tuple[int, int]:
    """Return how far a window reaches, and how many steps to leave out after a boundary [steps]."""
    low, high = spec.window()
    if embargo == "window":
        return high - low, high - low
    if isinstance(embargo, int) and embargo >= 0:
        return high - low, embargo
    raise ValueError(
        describe(
            "split_time: embargo is not understood",
            expected="'window' or a number of steps >= 0",
            received=repr(embargo),
            remedy="pass embargo='window'",
        )
    )


def _end(index: pd.Index, label: Any) -> int:
    """Position behind the last label of a part; a partial date such as "1989" means all of it."""
    try:
        return int(index.slice_indexer(None, as_label(index, label)).stop or 0)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            describe(
                f"split_time: boundary {label!r} does not fit the axis",
                expected=f"a label of type {np.asarray(index[:1]).dtype}",
                received=repr(label),
                remedy="give dates as '1989-12-31', numbers as numbers",
            )
        ) from error
