"""A baseline: rows of reference inputs, and which of them a sample is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.explain.players._selecting import locate
from physml.timeaxis import positions, shift, step_of

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
    keys
        Month (or season, ...) of each row, where a sample is compared with its own; None: with all rows.
    by
        Which part of the date *keys* are.
    lag
        Where every sample has a row of its own, its inputs so many steps before [steps]; *rows* is then an example.
    """

    name: str
    rows: np.ndarray
    keys: tuple[Any, ...] | None = None
    by: str = "month"
    lag: int | None = None

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
        if self.keys is None:
            return np.tile(np.arange(len(self.rows)), (sample.size, 1))
        wanted = dated(sample, self.by, f"baseline {self.name!r}")
        missing = sorted(set(wanted) - set(self.keys))
        if missing:
            refuse(
                f"baseline {self.name!r} lacks {self.by}s of the samples",
                f"{self.by}s {missing}",
                f"{self.by}s {list(self.keys)}",
                "make it of data that cover the year, or pass by=None",
            )
        at = {key: i for i, key in enumerate(self.keys)}
        return np.array([[at[key]] for key in wanted], int).reshape(-1, 1)

    def beside(self, ds: xr.Dataset, layout: Layout) -> xr.DataArray | None:
        """Return a baseline row for each sample of *ds*, packed as its inputs, where each has its own; else None.

        Parameters
        ----------
        ds
            The samples, and the steps before the first one; lazy stays lazy.
        layout
            Layout of the inputs.

        Returns
        -------
        xarray.DataArray or None
            ``[*members, sample, *space, channel]`` at the samples whose past lies in *ds*.

        Raises
        ------
        ValueError
            Where no sample has a past, and where the samples have no labels.
        """
        if self.lag is None:
            return None
        packed = layout.pack(ds, "inputs")
        dim = layout.spec.sample_dim
        if dim not in packed.coords:
            refuse(
                f"baseline {self.name!r} cannot tell which sample lies before which",
                f"a coordinate {dim!r}",
                "no labels",
                f"ds.assign_coords({dim}=...)",
            )
        axis, step = packed[dim], step_of(packed[dim], layout.step)
        at = np.arange(axis.size)
        if step is None:
            past = np.where(at < self.lag, -1, at - self.lag)
        else:  # by date, so that nothing reaches over a gap
            past = positions(axis.values, shift(axis.values, step, -self.lag), step)
        have = np.flatnonzero(past >= 0)
        if not have.size:
            refuse(
                f"no sample has the past that baseline {self.name!r} needs",
                f"samples {self.lag} steps apart",
                f"{axis.size} along {dim!r}",
                "pass the steps before the first sample too",
            )
        back = past[have]
        straight = bool((np.diff(back) == 1).all())
        before = packed.isel({dim: slice(int(back[0]), int(back[-1]) + 1) if straight else back})
        return before.drop_vars([n for n, c in packed.coords.items() if dim in c.dims]).assign_coords(
            {n: c.isel({dim: have}) for n, c in packed.coords.items() if dim in c.dims}
        )


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
        refuse(
            f"{where(row)}: {int(bad[row].sum())} valid input values are missing, first at {locate(layout, bad[row])}",
            "finite values on every valid cell",
            values[row][bad[row]][0],
            "fill them, select complete samples, or mask the cells in FieldSpec(mask=...)",
        )
    return np.where(valid, values, 0).astype(values.dtype)


def dated(sample: xr.DataArray, by: str, what: str) -> list[Any]:
    """Return the part of the date of each sample."""
    if not (np.issubdtype(sample.dtype, np.datetime64) or sample.dtype == object):
        refuse(
            f"{what} needs dates",
            f"a date coordinate {sample.name!r}",
            sample.dtype,
            "pass by=None, or decode the times: xr.decode_cf(ds)",
        )
    return getattr(sample.dt, by).values.tolist()
