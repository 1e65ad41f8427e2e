"""A Gaussian likelihood: mean and standard deviation of every target."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from physml import losses
from physml._errors import closest, describe
from physml.data._scaling_graph import ScalingGraph
from physml.heads._answers import answering, refuse_taken
from physml.heads.distribution import Distribution
from physml.layout import Layout

SIGMAS = ("learned", "constant")
ONE = math.log(math.e - 1)
"""What the softplus turns into 1."""
TEMPERATURES = ("degc", "celsius", "degree_celsius", "degrees_celsius", "deg_c", "k", "kelvin", "degf", "fahrenheit")


class Gaussian(Distribution):
    """Mean and standard deviation of every target, two variables of the answer: ``sst`` and ``sst_std``.

    Losses: ``"beta_nll"`` (likelihood weighted by the variance to the power ``beta``, .5), ``"nll"`` (likelihood), ``"crps"``
    (continuous ranked probability score). They are in scaled units. A network that gives zeros answers mean and standard
    deviation of the training data.

    Parameters
    ----------
    sigma
        ``"learned"``: the network gives a standard deviation for every sample and cell. ``"constant"``: it is one trainable
        number for each target channel, and the network gives the means alone.
    least
        Least standard deviation, in scaled units.

    Raises
    ------
    ValueError
        For another *sigma*, a *least* that is not above zero, and targets with a transform.

    Examples
    --------
    >>> Gaussian("constant")
    Gaussian(sigma='constant', least=0.0001)
    """

    losses: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "beta_nll": losses.beta_nll,
        "nll": losses.gaussian_nll,
        "crps": losses.gaussian_crps,
    }

    def __init__(self, sigma: str = "learned", least: float = 1e-4) -> None:
        if sigma not in SIGMAS:
            raise ValueError(
                describe(
                    f"Gaussian: sigma is not understood{closest(str(sigma), SIGMAS)}",
                    expected="'learned' or 'constant'",
                    received=repr(sigma),
                    remedy="sigma='learned'",
                )
            )
        if not 0 < float(least) < math.inf:
            raise ValueError(
                describe(
                    "Gaussian: the least standard deviation is not above zero",
                    expected="least > 0, in scaled units",
                    received=least,
                    remedy="least=1e-4",
                )
            )
        self.sigma, self.least = sigma, float(least)

    def channels(self, layout: Layout) -> int:
        """Return how many channels the network must give: two for every target channel, or one."""
        return (2 if self.sigma == "learned" else 1) * len(layout.targets)

    def layer(self, layout: Layout) -> Any:
        """Return the layer that holds constant standard deviations, or None."""
        return TrainableChannels(len(layout.targets), name="sigma") if self.sigma == "constant" else None

    def answers(self, layout: Layout) -> Layout:
        """Return the layout of means and standard deviations."""
        refuse_taken(layout, [f"{n}_std" for n in layout.spec.targets])
        found = {}
        for n in layout.spec.targets:
            known = layout.variables[n]
            found[n] = replace(known, attrs={**known.attrs, "ancillary_variables": f"{n}_std"})
        for n in layout.spec.targets:
            known = layout.variables[n]
            attrs = {"long_name": f"standard deviation of {known.attrs.get('long_name', n)}"}
            if units := known.attrs.get("units"):
                attrs["units"] = units
                if str(units).lower() in TEMPERATURES:
                    attrs["units_metadata"] = "temperature: difference"
            found[f"{n}_std"] = replace(known, attrs=attrs)
        return answering(layout, found)

    def units(self, unit: np.ndarray, layout: Layout) -> np.ndarray:
        """Return typical sizes of means and standard deviations."""
        return np.concatenate([unit, unit])

    def bind(self, layout: Layout, unit: np.ndarray | None = None) -> None:
        """Let the network see every input."""
        super().bind(layout, unit)
        self._n = len(layout.targets)

    def physical(self, n: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return means and standard deviations in physical units; refuse transformed targets."""
        if scale.parts["targets"]:
            raise ValueError(
                describe(
                    "Gaussian: a target is transformed by its scaling, and is not Gaussian in its own units",
                    expected="scaling method 'standard', 'minmax' or 'robust' of the targets",
                    received=", ".join(f"{k}: {m.name}" for k, m in scale.scaling.methods.items() if m.nonlinear),
                    remedy="another method for the targets, or the head Quantiles, which follows any transform",
                )
            )
        mean = scale.outputs(n[..., : self._n], x)
        std = ops.softplus(n[..., self._n :] + ONE) + self.least
        return ops.concatenate([mean, std * scale.unit_of(x)], axis=-1)

    def scaled(self, y: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return mean and standard deviation ``[..., target channel, 2]`` in scaled units."""
        mean = scale.targets(y[..., : self._n], x)
        return ops.stack([mean, y[..., self._n :] / scale.unit_of(x)], axis=-1)

    def states(self, layout: Layout) -> np.ndarray:
        """Return the channels of the means: a forecast goes on from them."""
        return np.arange(len(layout.targets))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, as plain values."""
        return {"sigma": self.sigma, "least": self.least}


@keras.saving.register_keras_serializable(package="physml")
class TrainableChannels(keras.layers.Layer):
    """Adds channels that are the same trainable numbers in every sample and cell.

    Parameters
    ----------
    channels
        How many; they start at 0.

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    ``[batch, *space, channel + channels]``.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = int(channels)

    def build(self, input_shape: Any) -> None:
        """Make the numbers."""
        self.numbers = self.add_weight(shape=(self.channels,), initializer="zeros", name="numbers")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the inputs and the numbers beside them."""
        more = ops.zeros_like(inputs[..., :1]) + ops.cast(self.numbers, inputs.dtype)
        return ops.concatenate([inputs, more], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Return the shape with the added channels."""
        return (*input_shape[:-1], input_shape[-1] + self.channels)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "channels": self.channels}
