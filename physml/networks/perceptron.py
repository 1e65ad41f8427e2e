"""Perceptrons: on the channels of every cell (the column emulator when levels are channels), of a table, or of a whole map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from physml._errors import refuse
from physml.layout import Layout
from physml.networks.blocks import activation as known
from physml.networks.blocks import choice, counts, decay, outputs_of, share, start_of
from physml.networks.whole import Gather, Scatter


def mlp(
    layout: Layout,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "relu",
    flatten: bool = False,
    final_activation: str = "linear",
    norm: str | None = None,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    outputs: int | None = None,
    any_size: bool = False,
    boundary: Mapping[str, str] | None = None,
    seed: int = 0,
) -> keras.Model:
    """Return dense layers, in scaled units: applied to every cell (or row of a table) alike, or to the whole map at once.

    Parameters
    ----------
    layout
        Gives the channels and the grid.
    hidden
        Units of the hidden layers.
    activation, final_activation
        By name: linear, tanh, relu, sigmoid, leaky_relu, swish, gelu, elu, softmax (over channels), ...
    flatten
        The valid cells of all inputs are one vector, from which all valid cells of the targets come, or one row of targets
        without space dimensions. False: no cell sees another.
    norm
        None, ``"batch"`` or ``"layer"`` (channels), after each hidden layer.
    dropout
        Share of hidden units left out in training.
    weight_decay
        Weight of the L2 penalty on the kernels, not the decay of an optimizer; see :func:`physml.networks.blocks.decay`.
    outputs
        Output channels where they are not the targets, as under a head.
    any_size
        Take maps of any size, such as patches of the grid, and not those of the layout alone.
    boundary
        Not used: no stencil looks beyond the ends. Accepted so that networks can be exchanged in a configuration.
    seed
        Seed of the initial weights and the dropout.

    Returns
    -------
    keras.Model
        ``[batch, *space, input channel]`` to ``[batch, *space, outputs]``; with *flatten* and targets without space dimensions
        to ``[batch, outputs]``.

    Raises
    ------
    ValueError
        For unknown names, units that are no counts, and *flatten* without a map of one size.

    Examples
    --------
    >>> import xarray as xr
    >>> from physml import FieldSpec
    >>> ds = xr.Dataset({"t": (("time", "cell"), np.zeros((4, 5)))}, {"time": np.arange(4)})
    >>> layout = FieldSpec("t", "t", target_offsets=1).bind(ds)
    >>> mlp(layout, hidden=(8,)).count_params(), mlp(layout, hidden=(8,), flatten=True).count_params()
    (25, 93)
    """
    known(activation), known(final_activation, "final_activation")
    choice(str(norm), "norm of a perceptron", ("None", "batch", "layer"))
    start = start_of(layout, any_size)
    if flatten and (any_size or not layout.space):
        refuse("mlp: there is no map of one size to flatten", "space dimensions, and any_size=False", f"space {layout.space}, any_size={any_size}", "flatten=False")  # fmt: skip
    x = Gather(layout.valid("inputs"))(start) if flatten else start
    x = _hidden(x, counts(hidden, "hidden"), activation, norm, share(dropout), weight_decay, seed)
    channels = outputs_of(layout, outputs)
    last = {"kernel_initializer": "zeros", "kernel_regularizer": decay(weight_decay), "dtype": "float32"}
    act = None if final_activation == "linear" else final_activation
    if not flatten or layout.series:
        return keras.Model(start, keras.layers.Dense(channels, act, **last)(x), name="mlp")
    valid = layout.valid("targets")
    if channels != valid.shape[-1]:
        valid = np.repeat(valid.any(-1, keepdims=True), channels, axis=-1)
    out = Scatter(valid, dtype="float32")(keras.layers.Dense(int(valid.sum()), **last)(x))
    if act is not None:
        out = keras.layers.Activation(act, dtype="float32")(out)
    return keras.Model(start, out, name="mlp")


def _hidden(
    x: Any, hidden: Sequence[int], activation: str, norm: str | None, dropout: float, weight_decay: float, seed: int
) -> Any:
    drops = np.random.default_rng([seed, 1])
    for i, units in enumerate(hidden):
        first = keras.initializers.GlorotUniform(seed + i)
        inner = activation if norm is None else None
        x = keras.layers.Dense(units, inner, kernel_initializer=first, kernel_regularizer=decay(weight_decay))(x)
        if norm is not None:
            x = keras.layers.BatchNormalization()(x) if norm == "batch" else keras.layers.LayerNormalization()(x)
            x = keras.layers.Activation(activation)(x)
        if dropout:
            x = keras.layers.Dropout(dropout, seed=int(drops.integers(2**31)))(x)
    return x
