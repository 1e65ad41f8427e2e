"""Quantiles of every target that never cross."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from keras import ops

from physml import losses
from physml._errors import describe
from physml.data._scaling_graph import ScalingGraph
from physml.heads._answers import along_quantiles
from physml.heads.distribution import Distribution, each, folded, unfolded
from physml.layout import Layout


class Quantiles(Distribution):
    """Quantiles of every target along a dimension of their levels; a higher level never has the lower value.

    The network gives the middle quantile, and the steps from each to the next as positive numbers (softplus), in scaled units: under a
    scaling that transforms the target, such as a logarithm, they are the quantiles of the transformed target brought back.
    A network that gives zeros answers the quantiles of a Gaussian with mean and standard deviation of the training data.

    Losses: ``"pinball"`` (mean over the levels), ``"crps"`` (its integral over the level: levels stand for all those nearest to
    them). They are in scaled units. Metrics see the middle quantile.

    Parameters
    ----------
    levels
        Increasing, between 0 and 1.
    dim
        Name of the dimension of the levels.

    Raises
    ------
    ValueError
        For levels that do not increase from above 0 to below 1.

    References
    ----------
    Koenker and Bassett (1978), Regression quantiles, doi:10.2307/1913643.

    Examples
    --------
    >>> Quantiles((0.1, 0.5, 0.9)).loss().arguments
    {'levels': [0.1, 0.5, 0.9]}
    """

    losses: ClassVar[Mapping[str, Callable[..., Any]]] = {"pinball": losses.pinball, "crps": losses.quantile_crps}

    def __init__(self, levels: float | Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95), dim: str = "quantile") -> None:
        self.levels, self.dim = tuple(float(v) for v in np.atleast_1d(levels)), str(dim)
        ends = (0.0, *self.levels, 1.0)
        if not self.levels or not all(a < b for a, b in itertools.pairwise(ends)):
            raise ValueError(
                describe(
                    "Quantiles: the levels do not increase between 0 and 1",
                    expected="such as (.05, .5, .95)",
                    received=self.levels,
                    remedy="sort them, and leave 0 and 1 out",
                )
            )
        self.middle = int(np.argmin([abs(v - 0.5) for v in self.levels]))

    def channels(self, layout: Layout) -> int:
        """Return how many channels the network must give: one for every target channel and level."""
        return len(self.levels) * len(layout.targets)

    def answers(self, layout: Layout) -> Layout:
        """Return the layout of the quantiles."""
        return along_quantiles(layout, self.levels, self.dim)

    def units(self, unit: np.ndarray, layout: Layout) -> np.ndarray:
        """Return typical sizes of the quantiles."""
        return np.repeat(unit, len(self.levels))

    def physical(self, n: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the quantiles ``[..., target channel * level]`` in physical units."""
        return folded(each(scale.outputs, self._increasing(unfolded(n, len(self.levels))), x))

    def _increasing(self, z: Any) -> Any:
        """Return ``[..., level]`` that increases, of any numbers."""
        m = self.middle
        start = np.array([NormalDist().inv_cdf(v) for v in self.levels])
        gaps = np.log(np.expm1(np.diff(start)))
        middle = z[..., m : m + 1] + float(start[m])
        parts = [middle]
        if m + 1 < len(self.levels):
            up = ops.softplus(z[..., m + 1 :] + ops.cast(gaps[m:], z.dtype))
            parts.append(middle + ops.cumsum(up, axis=-1))
        if m:
            down = ops.softplus(z[..., :m] + ops.cast(gaps[:m], z.dtype))
            parts.insert(0, middle - ops.flip(ops.cumsum(ops.flip(down, -1), axis=-1), -1))
        return ops.concatenate(parts, axis=-1)

    def scaled(self, y: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the quantiles ``[..., target channel, level]`` in scaled units."""
        return each(scale.targets, unfolded(y, len(self.levels)), x)

    def point(self, parameters: Any) -> Any:
        """Return the middle quantile."""
        return parameters[..., self.middle : self.middle + 1]

    def states(self, layout: Layout) -> np.ndarray | None:
        """Return the channels of the medians: a forecast goes on from them."""
        if not math.isclose(self.levels[self.middle], 0.5):
            return None
        return np.arange(len(layout.targets)) * len(self.levels) + self.middle

    def forecast(self, fields: xr.Dataset) -> xr.Dataset:
        """Return the middle quantile."""
        return fields.isel({self.dim: self.middle}, drop=True)

    def loss_arguments(self) -> dict[str, Any]:
        """Return the levels."""
        return {"levels": list(self.levels)}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, as plain values."""
        return {"levels": list(self.levels), "dim": self.dim}
