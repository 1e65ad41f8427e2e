"""A perceptron on the channels of every cell: the column emulator when levels are channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from physml.layout import Layout


def mlp(
    layout: Layout,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "relu",
    outputs: int | None = None,
    any_size: bool = False,
    boundary: Mapping[str, str] | None = None,
    seed: int = 0,
) -> keras.Model:
    """Return dense layers applied to every cell alike, in scaled units.

    Parameters
    ----------
    layout
        Gives the channels and the grid.
    hidden
        Units of the hidden layers.
    activation
        Name of a Keras activation.
    outputs
        Output channels where they are not the targets, as under a head.
    any_size
        Take maps of any size, such as patches of the grid, and not those of the layout alone.
    boundary
        Not used: no cell sees another. Accepted so that networks can be exchanged in a configuration.
    seed
        Seed of the initial weights.

    Returns
    -------
    keras.Model
        ``[batch, *space, input channel]`` to ``[batch, *space, outputs]``.
    """
    start = keras.Input((*((None,) * len(layout.shape) if any_size else layout.shape), len(layout.inputs)))
    x = start
    for i, units in enumerate(hidden):
        x = keras.layers.Dense(units, activation, kernel_initializer=keras.initializers.GlorotUniform(seed + i))(x)
    out = keras.layers.Dense(outputs or len(layout.targets), kernel_initializer="zeros", dtype="float32")(x)
    return keras.Model(start, out, name="mlp")
