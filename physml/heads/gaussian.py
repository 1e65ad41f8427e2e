"""A Gaussian likelihood: mean and standard deviation of every target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from keras import ops

from physml import losses
from physml._errors import describe
from physml.data._scaling_graph import ScalingGraph
from physml.heads.distribution import Distribution, answering
from physml.layout import Layout


class Gaussian(Distribution):
    """Mean and standard deviation of every target, two variables of the answer: ``sst`` and ``sst_std``.

    Parameters
    ----------
    least
        Least standard deviation, in scaled units.
    """

    losses: ClassVar[Mapping[str, Callable[..., Any]]] = {"beta_nll": losses.beta_nll, "nll": losses.gaussian_nll}

    def __init__(self, least: float = 1e-4) -> None:
        self.least = float(least)

    def channels(self, layout: Layout) -> int:
        """Return how many channels the network must give: two for every target channel."""
        return 2 * len(layout.targets)

    def answers(self, layout: Layout) -> Layout:
        """Return the layout of means and standard deviations."""
        found = {n: layout.variables[n] for n in layout.spec.targets}
        for n in layout.spec.targets:
            known = layout.variables[n]
            label = f"standard deviation of {known.attrs.get('long_name', n)}"
            attrs = {"long_name": label} | ({"units": u} if (u := known.attrs.get("units")) else {})
            found[f"{n}_std"] = replace(known, attrs=attrs)
        return answering(layout, found)

    def units(self, unit: np.ndarray, layout: Layout) -> np.ndarray:
        """Return typical sizes of means and standard deviations."""
        return np.concatenate([unit, unit])

    def bind(self, layout: Layout, unit: np.ndarray | None = None) -> None:
        """Let the network see every input; refuse transformed targets."""
        super().bind(layout, unit)
        self._n = len(layout.targets)

    def physical(self, n: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return means and standard deviations in physical units."""
        if scale.parts["targets"]:
            raise ValueError(
                describe(
                    "Gaussian: a target is transformed by its scaling, and is not Gaussian in its own units",
                    expected="scaling method 'standard', 'minmax' or 'robust' of the targets",
                    received=", ".join(f"{k}: {m.name}" for k, m in scale.scaling.methods.items() if m.nonlinear),
                    remedy="another method for the targets",
                )
            )
        mean = scale.outputs(n[..., : self._n], x)
        std = ops.softplus(n[..., self._n :]) + self.least
        return ops.concatenate([mean, std * scale._rows(scale.unit_out, x)], axis=-1)

    def scaled(self, y: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return mean and standard deviation ``[..., target channel, 2]`` in scaled units."""
        mean = scale.targets(y[..., : self._n], x)
        std = y[..., self._n :] / scale._rows(scale.unit_out, x)
        return ops.stack([mean, std], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, as plain values."""
        return {"least": self.least}
