"""Baselines: what stands in for the groups that are absent, named and in physical units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.explain.groups import locate

if TYPE_CHECKING:
    from physml.layout import Layout


@dataclass(frozen=True, eq=False)
class Baseline:
    """Reference inputs: rows ``[row, *space, channel]`` in physical units, zero on masked cells.

    Attributes
    ----------
    name
        How it was made; recorded with every result.
    rows
        The inputs themselves.
    months
        Calendar month of each row, where a sample is compared with its own month; None: with all rows.
    """

    name: str
    rows: np.ndarray
    months: tuple[int, ...] | None = None

    def beside(self, ds: xr.Dataset, layout: Layout) -> xr.DataArray | None:
        """Return a baseline row for each sample of *ds*, packed as its inputs, where each has its own; else None."""
        return None

    def pick(self, sample: xr.DataArray) -> np.ndarray:
        """Return the rows each sample is compared with, indices ``[sample, row]``.

        Parameters
        ----------
        sample
            Coordinate of the sample dimension.

        Raises
        ------
        ValueError
            Where a sample falls in a month the baseline does not hold.
        """
        if self.months is None:
            return np.tile(np.arange(len(self.rows)), (sample.size, 1))
        wanted = _months(sample, f"baseline {self.name!r}").values
        missing = sorted(set(wanted.tolist()) - set(self.months))
        if missing:
            raise ValueError(
                describe(
                    f"baseline {self.name!r} lacks months of the samples",
                    expected=f"months {missing}",
                    received=f"months {list(self.months)}",
                    remedy="make it of data that cover the year, or pass by=None",
                )
            )
        return np.array([[self.months.index(m)] for m in wanted.tolist()], int)


def climatology(ds: xr.Dataset, layout: Layout, by: Literal["month"] | None = None) -> Baseline:
    """Return the mean input over time and members, or one mean for each calendar month.

    Sums run in float64, in one pass over lazy data. A sample is compared with the climatology of its own month.

    Parameters
    ----------
    ds
        Data to average, usually the training period.
    layout
        Layout of the inputs.
    by
        ``"month"``: by calendar month of the sample (offset 0). None: one mean.

    Raises
    ------
    ValueError
        For another *by*, and where valid cells are missing in *ds*.

    Examples
    --------
    >>> from physml.fields import FieldSpec
    >>> ds = xr.Dataset({"sst": (("time", "x"), [[1.0, 5.0], [3.0, 5.0]])}, {"time": [0, 1]})
    >>> climatology(ds, FieldSpec("sst", "sst").bind(ds)).rows[..., 0]
    array([[2., 5.]])
    """
    if by not in (None, "month"):
        raise ValueError(
            describe("by is unknown", expected="None or 'month'", received=repr(by), remedy="pass by='month'")
        )
    packed = layout.pack(ds, "inputs")
    sample = layout.spec.sample_dim
    over = [d for d in packed.dims if d not in (*layout.space, "channel")]
    if by is None:
        name, months, parts = "climatology", None, [packed.mean(over, dtype="float64", skipna=False)]
    else:
        month = _months(packed[sample], "climatology by month").values
        months = tuple(int(m) for m in np.unique(month))
        parts = [
            packed.isel({sample: np.flatnonzero(month == m)}).mean(over, dtype="float64", skipna=False) for m in months
        ]
        name = "climatology by month"
    rows = xr.concat(parts, "row", coords="minimal", compat="override").transpose("row", ...).values
    return Baseline(name, clean(rows, layout, lambda row: name), months)


def zero(layout: Layout) -> Baseline:
    """Return inputs of zero, in physical units: meaningful for anomalies, rarely for anything else."""
    return Baseline("zero", np.zeros((1, *layout.shape, len(layout.inputs))))


def samples(ds: xr.Dataset, layout: Layout, n: int, seed: int) -> Baseline:
    """Return *n* different samples of *ds*; the value of a coalition is the mean over them.

    Raises
    ------
    ValueError
        Where *ds* holds fewer than *n* samples, or *n* is not positive.
    """
    packed = layout.pack(ds, "inputs")
    outer = packed.dims[: packed.get_axis_num(layout.spec.sample_dim) + 1]
    sizes = [packed.sizes[d] for d in outer]
    if not 1 <= n <= np.prod(sizes):
        raise ValueError(
            describe(
                "n samples cannot be drawn",
                expected=f"1 to {np.prod(sizes)}",
                received=n,
                remedy="pass fewer, or data with more samples",
            )
        )
    drawn = np.sort(np.random.default_rng(seed).choice(np.prod(sizes), n, replace=False))
    where = {d: xr.DataArray(i, dims="row") for d, i in zip(outer, np.unravel_index(drawn, sizes), strict=True)}
    name = f"{n} samples (seed {seed})"
    rows = packed.drop_vars(list(packed.coords)).isel(where).transpose("row", ...).values
    return Baseline(name, clean(rows, layout, lambda row: name))


def clean(values: np.ndarray, layout: Layout, where: Callable[[int], str]) -> np.ndarray:
    """Return inputs ``[row, *space, channel]`` with zero on masked cells; *where* names a row in errors.

    Raises
    ------
    ValueError
        Where a valid cell is missing or infinite.
    """
    valid = layout.valid("inputs")
    bad = valid & ~np.isfinite(values)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        missing = int(bad[row].sum())
        raise ValueError(
            describe(
                f"{where(row)}: {missing} valid input values are missing, first at {locate(layout, bad[row])}",
                expected="finite values on every valid cell",
                received=values[row][bad[row]][0],
                remedy="fill them, select complete samples, or mask the cells in FieldSpec(mask=...)",
            )
        )
    return np.where(valid, values, 0).astype(values.dtype)


def _months(sample: xr.DataArray, what: str) -> xr.DataArray:
    if not (np.issubdtype(sample.dtype, np.datetime64) or sample.dtype == object):
        raise ValueError(
            describe(
                f"{what} needs dates",
                expected=f"a date coordinate {sample.name!r}",
                received=sample.dtype,
                remedy="pass by=None, or decode the times: xr.decode_cf(ds)",
            )
        )
    return sample.dt.month
