"""A residual convolutional network on the grid of a layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from physml._errors import describe
from physml.layout import Layout
from physml.networks.padding import Inside, Pad, boundaries

CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}


def cnn(
    layout: Layout,
    *,
    boundary: Mapping[str, str],
    filters: int = 32,
    blocks: int = 3,
    kernel_size: int = 3,
    first_kernel_size: int = 5,
    activation: str = "relu",
    coast: bool = False,
    outputs: int | None = None,
    any_size: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Return a fully convolutional residual network in scaled units.

    One wide convolution, *blocks* residual blocks of two convolutions each (He et al. 2016, doi:10.1109/CVPR.2016.90), and a
    1 x 1 convolution that starts at zero, so that the untrained network predicts the mean, or no change.

    Parameters
    ----------
    layout
        Gives the input channels, the grid, and the number of outputs.
    boundary
        ``"periodic"``, ``"closed"`` or ``"open"`` for every space dimension.
    filters, blocks, kernel_size, first_kernel_size
        Width, depth and odd sizes of the stencils [cells].
    activation
        Name of a Keras activation.
    coast
        Add a channel of ones, which a closed boundary pads with zeros: it lets the network tell a coast from the mean.
    outputs
        Output channels where they are not the targets, as under a head.
    any_size
        Take maps of any size, such as patches of the grid, and not those of the layout alone.
    seed
        Seed of the initial weights.

    Returns
    -------
    keras.Model
        ``[batch, *space, input channel]`` to ``[batch, *space, outputs]``.

    Raises
    ------
    ValueError
        For boundaries that do not fit, even kernels, and grids of more than three dimensions.
    """
    ends = boundaries(boundary, layout.space)
    if len(layout.space) not in CONVOLUTIONS or kernel_size % 2 == 0 or first_kernel_size % 2 == 0:
        raise ValueError(
            describe(
                "cnn cannot be built",
                expected="one to three space dimensions and odd kernels",
                received=f"space {layout.space}, kernels {first_kernel_size} and {kernel_size}",
                remedy="name further dimensions in levels or members, and use 3, 5, 7, ...",
            )
        )
    convolution = CONVOLUTIONS[len(layout.space)]
    seeds = iter(np.random.default_rng(seed).integers(2**31, size=2 * blocks + 1).tolist())

    def conv(x: Any, size: int) -> Any:
        x = Pad(size // 2, ends)(x)
        return convolution(filters, size, kernel_initializer=keras.initializers.HeNormal(next(seeds)))(x)

    start = keras.Input((*((None,) * len(layout.shape) if any_size else layout.shape), len(layout.inputs)))
    seen = Inside()(start) if coast else start
    x = keras.layers.Activation(activation)(conv(seen, first_kernel_size))
    for _ in range(blocks):
        y = keras.layers.Activation(activation)(conv(x, kernel_size))
        x = keras.layers.Activation(activation)(keras.layers.add([x, conv(y, kernel_size)]))
    out = convolution(outputs or len(layout.targets), 1, kernel_initializer="zeros", dtype="float32")(x)
    return keras.Model(start, out, name="cnn")
