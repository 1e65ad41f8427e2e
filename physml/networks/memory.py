"""Convolutional long short-term memory over the input offsets, padded by boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from physml._errors import is_count, refuse
from physml.layout import Layout
from physml.networks.blocks import counts, ends_on, outputs_of, share
from physml.networks.padding import Pad
from physml.networks.sequences import MapSequences, check_norm, free_sizes, sequence


@keras.saving.register_keras_serializable(package="physml")
class ConvLSTM(keras.layers.Layer):
    """Long short-term memory whose gates are convolutions, over the steps of a map.

    With input x, output h and memory c of each step, and * for the convolution:

        i, f, o = sigmoid(W x + U h + b),  g = tanh(W * x + U * h + b),  c = f c + i g,  h = o tanh(c).

    Inputs and outputs are padded by boundary before they are convolved. Where all boundaries are closed it is
    ``keras.layers.ConvLSTM2D(padding="same")``, with the same weights in the same order.

    Parameters
    ----------
    filters
        Channels of output and memory.
    kernel_size
        Odd size of the stencils [cells].
    boundary
        For each dimension of space, as for :class:`physml.networks.Pad`.
    return_sequences
        Return the outputs of all steps, or that of the last.
    seed
        Of the initial weights.

    Input shape
    -----------
    ``[batch, step, *space, feature]``, the number of steps known.

    Output shape
    ------------
    ``[batch, *space, filters]``, or ``[batch, step, *space, filters]``.

    References
    ----------
    Shi, X. et al. (2015), doi:10.48550/arXiv.1506.04214; without the weights from memory to gates.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        boundary: Sequence[str],
        *,
        return_sequences: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not is_count(kernel_size) or kernel_size % 2 == 0:
            refuse("ConvLSTM: the stencil has no centre", "an odd number of cells", kernel_size, "kernel_size=3")
        self.filters, self.kernel_size, self.boundary = int(filters), int(kernel_size), tuple(boundary)
        self.return_sequences, self.seed = bool(return_sequences), int(seed)
        self.pad = Pad(self.kernel_size // 2, self.boundary, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Make the weights: kernels of the input and of the output, biases that remember at first."""
        stencil, n = (self.kernel_size,) * len(self.boundary), self.filters
        glorot, orthogonal = keras.initializers.GlorotUniform(self.seed), keras.initializers.Orthogonal(seed=self.seed)
        self.kernel = self.add_weight(shape=(*stencil, int(input_shape[-1]), 4 * n), initializer=glorot, name="kernel")
        self.recurrent_kernel = self.add_weight(
            shape=(*stencil, n, 4 * n), initializer=orthogonal, name="recurrent_kernel"
        )

        def first(shape: Any, dtype: Any = None) -> Any:
            return ops.convert_to_tensor(np.repeat([0.0, 1.0, 0.0, 0.0], n), dtype)

        self.bias = self.add_weight(shape=(4 * n,), initializer=first, name="bias")
        self.built = True

    def call(self, x: Any) -> Any:
        """Return the outputs."""
        steps, sizes = x.shape[1], ops.shape(x)[2:-1]
        every = ops.reshape(x, (-1, *sizes, x.shape[-1]))
        given = ops.conv(self.pad(every), self.kernel, padding="valid") + self.bias
        given = ops.reshape(given, (-1, steps, *sizes, 4 * self.filters))
        h: Any = None
        c: Any = None
        outs = []
        for k in range(steps):
            gates = given[:, k]
            if h is not None:
                gates = gates + ops.conv(self.pad(h), self.recurrent_kernel, padding="valid")
            i, f, g, o = ops.split(gates, 4, axis=-1)
            new = ops.sigmoid(i) * ops.tanh(g)
            c = new if c is None else ops.sigmoid(f) * c + new
            h = ops.sigmoid(o) * ops.tanh(c)
            outs.append(h)
        return ops.stack(outs, axis=1) if self.return_sequences else h

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the outputs."""
        lead = input_shape[:2] if self.return_sequences else input_shape[:1]
        return (*lead, *input_shape[2:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        own = {k: getattr(self, k) for k in ("filters", "kernel_size", "boundary", "return_sequences", "seed")}
        return {**super().get_config(), **own}


def convlstm(
    layout: Layout,
    *,
    boundary: Mapping[str, str],
    filters: int | Sequence[int] = 16,
    kernel_size: int = 3,
    dropout: float = 0.0,
    norm: str | None = None,
    outputs: int | None = None,
    any_size: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Return a network of convolutional long short-term memory over the input offsets, in scaled units.

    The channels are sorted into a sequence of maps as by :func:`physml.networks.lstm`; what the last step leaves passes a 1 x 1
    convolution that begins at zero.

    Parameters
    ----------
    layout
        Gives the channels, their offsets and the grid. All inputs that vary in time share their offsets.
    boundary
        As for :func:`physml.networks.cnn`, for every space dimension.
    filters
        Channels of the recurrent layer, or of each of several.
    kernel_size
        Odd size of the stencils [cells].
    dropout
        Share of the channels dropped after each recurrent layer in training.
    norm
        None, or ``"layer"``: normalise the channels of every cell after each recurrent layer.
    outputs
        Output channels where they are not the targets, as under a head.
    any_size
        Take maps of any size, such as patches of the grid.
    seed
        Of the initial weights and of dropout.

    Returns
    -------
    keras.Model
        ``[batch, *space, input channel]`` to ``[batch, *space, outputs]``. A cell sees ``kernel_size // 2`` cells for each step and
        for each layer after the first.

    Raises
    ------
    ValueError
        For boundaries that do not fit, even kernels, inputs with different offsets, and more than three dimensions.

    References
    ----------
    Shi, X. et al. (2015), doi:10.48550/arXiv.1506.04214.
    """
    ends = ends_on(layout, boundary, any_size, "convlstm")
    check_norm(norm, "convlstm")
    order = sequence(layout)
    sizes = free_sizes(layout, any_size)[:-1]
    widths, dropout = counts(filters, "filters"), share(dropout)
    seeds = iter(np.random.default_rng(seed).integers(2**31, size=2 * len(widths)).tolist())
    inner = x = keras.Input((order.shape[0], *sizes, order.shape[1]))
    for i, n in enumerate(widths):
        x = ConvLSTM(n, kernel_size, ends, return_sequences=i + 1 < len(widths), seed=next(seeds))(x)
        x = keras.layers.LayerNormalization()(x) if norm else x
        if dropout:
            x = keras.layers.Dropout(dropout, seed=next(seeds))(x)
    sees = kernel_size // 2 * (order.shape[0] + len(widths) - 1)
    start = keras.Input(free_sizes(layout, any_size))
    y = MapSequences(order, keras.Model(inner, x, name="memory"), sees, ends)(start)
    out = keras.layers.Dense(outputs_of(layout, outputs), kernel_initializer="zeros", dtype="float32")(y)
    return keras.Model(start, out, name="convlstm")
