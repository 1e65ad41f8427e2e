"""How far two inputs lie apart, in units of what the data themselves vary by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.explain.players.baselines import clean

if TYPE_CHECKING:
    from physml.layout import Layout


@dataclass(frozen=True, eq=False)
class Metric:
    """Standard deviations of the channels, and the leading patterns of the departures in these units.

    Attributes
    ----------
    spread
        Standard deviation of each channel ``[channel]``, 0 where it does not vary.
    cells
        Cells that may change ``[*space, channel]``, n in all.
    patterns
        E, orthonormal patterns ``[n, mode]``.
    deviations
        Square root of the variance of each pattern, and of each other direction ``[mode]`` and a number.
    """

    spread: np.ndarray
    cells: np.ndarray
    patterns: np.ndarray
    deviations: np.ndarray
    other: float

    @classmethod
    def of(cls, layout: Layout, background: xr.Dataset, cells: np.ndarray, modes: int = 0) -> Metric:
        """Return the metric of the departures of *background* from the mean of each cell.

        Raises
        ------
        ValueError
            Where the background has fewer than two samples, or not enough for that many modes; for missing values; and where
            what may change does not vary in it.
        """
        packed = layout.pack(background, "inputs")
        outer = [d for d in packed.dims if d not in (*layout.space, "channel")]
        n = int(np.prod([packed.sizes[d] for d in outer]))
        if not cells.any():
            refuse("no input may change", "one valid cell or more", "none", "name inputs in vary, or leave it out")
        if n < 2:
            refuse("the background is too short", "2 samples or more", n, "pass the training data")
        if not 0 <= modes < min(n, cells.sum()):
            refuse(
                f"the background is too short for {modes} modes",
                f"0 <= modes < {min(n, int(cells.sum()))}",
                f"{n} samples, modes={modes}",
                "pass more samples, or fewer modes",
            )
        spread = spread_of(packed, layout)
        cells = cells & (spread > 0)
        if not cells.any():
            refuse(
                "nothing that may change varies in the background",
                "inputs that vary",
                "constant ones",
                "pass other samples",
            )
        none = np.zeros((int(cells.sum()), 0))
        plain = cls(spread, cells, none, none[0], 1.0)
        if not modes:
            return plain
        x = packed.transpose(*outer, *layout.space, "channel").values.reshape(n, *cells.shape).astype("float64")
        z = (x - x.mean(0))[:, cells] / np.broadcast_to(spread, cells.shape)[cells]
        _, size, patterns = np.linalg.svd(z, full_matrices=False)
        power = size**2 / n
        rest = max(power[modes:].sum() / (z.shape[1] - modes), 1e-6 * power[0])
        return cls(spread, cells, patterns[:modes].T, np.sqrt(power[:modes]), float(np.sqrt(rest)))

    @property
    def size(self) -> int:
        """Number of cells that may change."""
        return int(self.cells.sum())

    def distance(self, v: np.ndarray) -> np.ndarray:
        """Return the rms of control vectors ``[row, n]``."""
        return np.sqrt((v**2).mean(1))

    def inputs(self, v: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return the inputs ``[row, *space, channel]`` of control vectors ``[row, n]``."""
        x = start.copy()
        x[:, self.cells] += self._sd * self._times(v, self.deviations, self.other)
        return x

    def control(self, x: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return the control vectors of inputs."""
        return self._times((x - start)[:, self.cells] / self._sd, 1 / self.deviations, 1 / self.other)

    def pull(self, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient in the control vector from that in the inputs."""
        return self._times(self._sd * gradient[:, self.cells], self.deviations, self.other)

    @property
    def _sd(self) -> np.ndarray:
        return np.broadcast_to(self.spread, self.cells.shape)[self.cells]

    def _times(self, v: np.ndarray, deviations: np.ndarray, other: float) -> np.ndarray:
        return other * v + ((v @ self.patterns) * (deviations - other)) @ self.patterns.T


def spread_of(packed: xr.DataArray, layout: Layout) -> np.ndarray:
    """Return the standard deviation of each channel about the mean of each cell ``[channel]``, in one pass over lazy data.

    Raises
    ------
    ValueError
        Where a valid cell is missing.
    """
    outer = [d for d in packed.dims if d not in (*layout.space, "channel")]
    variance = packed.var(outer, dtype="float64", skipna=False).transpose(*layout.space, "channel").values
    variance = clean(variance[None], layout, lambda row: "variance of the samples")[0]
    there = layout.valid("inputs")
    each = zip(np.moveaxis(variance, -1, 0), np.moveaxis(there, -1, 0), strict=True)
    return np.sqrt([v[t].mean() if t.any() else 0.0 for v, t in each])
