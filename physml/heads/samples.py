"""An ensemble of every target from one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from keras import ops

from physml import losses
from physml._errors import is_count, refuse
from physml.data._scaling_graph import ScalingGraph
from physml.heads._answers import spread_along
from physml.heads.distribution import Distribution, each, folded, unfolded
from physml.layout import Layout


class Samples(Distribution):
    """An ensemble of every target, each member from channels of its own.

    A network that gives zeros answers members at equal shares of a Gaussian with mean and standard deviation of the training data.

    Losses, in scaled units: ``"crps"`` takes the members for the whole distribution, which suits a network that answers the same
    members each time; ``"fair_crps"`` takes them for draws from it (Ferro 2014), which suits one that draws them, as by dropout or
    noise that stays on. Trained with the latter, fixed members spread to the ends of all that is possible. Metrics see the mean.

    Parameters
    ----------
    n
        Number of members.
    dim
        Name of their dimension.

    Raises
    ------
    ValueError
        For fewer than two members.

    References
    ----------
    Ferro (2014), Fair scores for ensemble forecasts, doi:10.1002/qj.2270.

    Examples
    --------
    >>> Samples(10)
    Samples(n=10, dim='member')
    """

    losses: ClassVar[Mapping[str, Callable[..., Any]]] = {"crps": losses.ensemble_crps, "fair_crps": losses.fair_crps}

    def __init__(self, n: int, dim: str = "member") -> None:
        if not is_count(n) or n < 2:
            refuse("Samples: too few members", "a whole number n >= 2", repr(n), "Samples(10)")
        self.n, self.dim = int(n), str(dim)

    def channels(self, layout: Layout) -> int:
        """Return how many channels the network must give: one for every target channel and member."""
        return self.n * len(layout.targets)

    def answers(self, layout: Layout) -> Layout:
        """Return the layout of the members."""
        return spread_along(
            layout, self.dim, range(self.n), {"long_name": "ensemble member", "standard_name": "realization"}
        )

    def units(self, unit: np.ndarray, layout: Layout) -> np.ndarray:
        """Return typical sizes of the members."""
        return np.repeat(unit, self.n)

    def physical(self, n: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the members ``[..., target channel * member]`` in physical units."""
        start = np.array([NormalDist().inv_cdf((k + 0.5) / self.n) for k in range(self.n)])
        z = unfolded(n, self.n)
        return folded(each(scale.outputs, z + ops.cast(start, z.dtype), x))

    def scaled(self, y: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the members ``[..., target channel, member]`` in scaled units."""
        return each(scale.targets, unfolded(y, self.n), x)

    def point(self, parameters: Any) -> Any:
        """Return the mean of the members."""
        return ops.mean(parameters, axis=-1, keepdims=True)

    def forecast(self, fields: xr.Dataset) -> xr.Dataset:
        """Return the mean of the members."""
        return fields.mean(self.dim, keep_attrs=True)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, as plain values."""
        return {"n": self.n, "dim": self.dim}
