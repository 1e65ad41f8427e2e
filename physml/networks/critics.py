"""Critics, which tell generated fields from real ones, and what they are trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from physml._errors import closest, refuse
from physml.layout import Layout
from physml.networks.blocks import CONVOLUTIONS
from physml.networks.blocks import activation as known
from physml.networks.padding import Pad, boundaries
from physml.networks.sequences import free_sizes

NOISE = "noise"
"""Name of the input that holds the noise."""


def gradient_penalty(slope: Any) -> Any:
    """Return ``(|slope| - 1)^2`` for each sample, the norm over all that belongs to it.

    Parameters
    ----------
    slope
        Gradient of the critic ``[batch, *space, channel]``.

    References
    ----------
    Gulrajani, I. et al. (2017), doi:10.48550/arXiv.1704.00028.

    Examples
    --------
    >>> float(gradient_penalty(ops.array([[3.0, 4.0]]))[0])
    16.0
    """
    square = ops.sum(ops.square(slope), axis=tuple(range(1, len(slope.shape))))
    # The square root has no slope at 0.
    return ops.square(ops.sqrt(square + 1e-12) - 1.0)


def condition(layout: Layout, noise: str = NOISE) -> np.ndarray:
    """Return the positions of the input channels that are no noise.

    Raises
    ------
    ValueError
        Where the inputs hold no such noise.
    """
    if noise not in layout.spec.inputs:
        refuse(
            f"the generator reads no noise{closest(noise, layout.spec.inputs)}",
            f"an input {noise!r} that holds noise",
            ", ".join(layout.spec.inputs),
            "spec = physml.learners.with_noise_inputs(spec, channels=4)",
        )
    return np.array([i for i, c in enumerate(layout.inputs) if c.name != noise], dtype="int32")


def critic(
    layout: Layout,
    *,
    boundary: Mapping[str, str] | None = None,
    filters: Sequence[int] = (32, 64),
    kernel_size: int = 3,
    hidden: Sequence[int] = (64,),
    activation: str = "leaky_relu",
    noise: str = NOISE,
    any_size: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Return a critic: one number for a condition and a field, real or generated, in scaled units.

    Convolutions, each of which halves the map, the mean over the map, and dense layers; on targets without space dense layers
    alone. Without batch normalisation: the gradient penalty is one of each sample.

    Parameters
    ----------
    layout
        Layout of the generator.
    boundary
        As for :func:`physml.networks.cnn`, for every space dimension.
    filters, kernel_size
        Of the convolutions; odd sizes.
    hidden
        Units of the dense layers.
    activation
        Name of a Keras activation.
    noise
        Name of the input that holds the noise: the critic does not see it.
    any_size
        Take maps of any size.
    seed
        Of the initial weights.

    Returns
    -------
    keras.Model
        ``[batch, *space, condition and target channel]`` to ``[batch, 1]``.

    Raises
    ------
    ValueError
        For boundaries that do not fit, even kernels, and layouts without noise.
    """
    activation = known(activation)
    ends = boundaries(boundary or {}, layout.space)
    if len(ends) > 3 or kernel_size % 2 == 0:
        refuse(
            "the critic cannot be built", "at most three space dimensions, odd kernels", f"{ends}, {kernel_size}", "3"
        )
    channels = len(condition(layout, noise)) + len(layout.targets)
    seeds = iter(np.random.default_rng(seed).integers(2**31, size=len(filters) + len(hidden) + 1).tolist())
    start = x = keras.Input((*free_sizes(layout, any_size)[:-1], channels))
    for n in filters if ends else ():
        first = keras.initializers.HeNormal(next(seeds))
        x = Pad(kernel_size // 2, ends)(x)
        x = CONVOLUTIONS[len(ends)](n, kernel_size, strides=2, activation=activation, kernel_initializer=first)(x)
    if ends:
        x = ops.mean(x, axis=tuple(range(1, len(ends) + 1)))
    for n in hidden:
        x = keras.layers.Dense(n, activation, kernel_initializer=keras.initializers.HeNormal(next(seeds)))(x)
    first = keras.initializers.GlorotUniform(next(seeds))
    return keras.Model(start, keras.layers.Dense(1, kernel_initializer=first, dtype="float32")(x), name="critic")
