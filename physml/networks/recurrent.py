"""Recurrent networks: the input offsets of a layout as a sequence, per cell or of the whole map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from physml._errors import closest, refuse
from physml.layout import Layout
from physml.networks.blocks import CONVOLUTIONS, count, counts, ends_on, outputs_of, share
from physml.networks.blocks import activation as known
from physml.networks.padding import Pad
from physml.networks.pooled import check_circles
from physml.networks.sequences import CellSequences, EachStep, Steps, check_norm, free_sizes, sequence

ENCODERS = ("dense", "convolutional")


def lstm(
    layout: Layout,
    *,
    units: int | Sequence[int] = 32,
    flatten: bool = False,
    encoder: str | None = None,
    encoder_units: int = 32,
    bidirectional: bool = False,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    norm: str | None = None,
    hidden: Sequence[int] = (),
    activation: str = "relu",
    boundary: Mapping[str, str] | None = None,
    outputs: int | None = None,
    any_size: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Return a network of long short-term memory over the input offsets, in scaled units.

    The channels are sorted into steps, from the earliest offset to the latest: inputs that vary in time at their offset,
    others at every step. What the last step leaves in memory passes dense layers; the last of them begins at zero.

    Parameters
    ----------
    layout
        Gives the channels, their offsets and the grid. All inputs that vary in time share their offsets.
    units
        Units of the recurrent layer, or of each of several.
    flatten
        False: every cell has its own memory, all with the same weights. True: the whole map of a step is one vector, needed for
        targets that lie nowhere on the grid.
    encoder
        With *flatten*, what makes a vector of the map of each step: None (its values), ``"dense"`` or ``"convolutional"`` (two
        convolutions of 3 cells, each averaged over pairs of cells, and a dense layer; needs *boundary*).
    encoder_units
        Length of that vector; the convolutions have a quarter and a half as many filters.
    bidirectional
        Pass along the steps in both directions.
    dropout, recurrent_dropout
        Share of the inputs and of the memory dropped at each step in training.
    norm
        None, or ``"layer"``: normalise the channels after each recurrent layer (Ba et al. 2016, doi:10.48550/arXiv.1607.06450).
    hidden
        Units of dense layers before the last.
    activation
        Of the encoder and of the hidden dense layers, the name of a Keras activation.
    boundary
        Of every space dimension, as for :func:`physml.networks.cnn`. Seen by the convolutional encoder alone, for which dimensions
        whose ends meet are to be multiples of 4.
    outputs
        Output channels where they are not the targets, as under a head.
    any_size
        Take maps of any size, such as patches of the grid; not with *flatten*.
    seed
        Of the initial weights and of dropout.

    Returns
    -------
    keras.Model
        ``[batch, *space, input channel]`` to ``[batch, *space, outputs]``, or to ``[batch, outputs]`` for targets without space.

    Raises
    ------
    ValueError
        For inputs with different offsets, unknown encoders, and targets without space where *flatten* is not said.

    References
    ----------
    Hochreiter, S. and Schmidhuber, J. (1997), doi:10.1162/neco.1997.9.8.1735.

    Examples
    --------
    >>> network = lstm(spec.bind(ds), units=(32, 16), flatten=True)  # doctest: +SKIP
    """
    return _recurrent(keras.layers.LSTM, **locals())


def gru(
    layout: Layout,
    *,
    units: int | Sequence[int] = 32,
    flatten: bool = False,
    encoder: str | None = None,
    encoder_units: int = 32,
    bidirectional: bool = False,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    norm: str | None = None,
    hidden: Sequence[int] = (),
    activation: str = "relu",
    boundary: Mapping[str, str] | None = None,
    outputs: int | None = None,
    any_size: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Return a network of gated recurrent units over the input offsets, in scaled units.

    As :func:`lstm`, with fewer weights: there is one gate less, and the memory is the output.

    Parameters
    ----------
    layout, units, flatten, encoder, encoder_units, bidirectional, dropout, recurrent_dropout, norm, hidden, activation
        As for :func:`lstm`.
    boundary, outputs, any_size, seed
        As for :func:`lstm`.

    Returns
    -------
    keras.Model
        ``[batch, *space, input channel]`` to ``[batch, *space, outputs]``, or to ``[batch, outputs]`` for targets without space.

    References
    ----------
    Cho, K. et al. (2014), doi:10.3115/v1/D14-1179.
    """
    return _recurrent(keras.layers.GRU, **locals())


def _recurrent(
    kind: Any,
    layout: Layout,
    units: int | Sequence[int],
    flatten: bool,
    encoder: str | None,
    encoder_units: int,
    bidirectional: bool,
    dropout: float,
    recurrent_dropout: float,
    norm: str | None,
    hidden: Sequence[int],
    activation: str,
    boundary: Mapping[str, str] | None,
    outputs: int | None,
    any_size: bool,
    seed: int,
) -> keras.Model:
    name = kind.__name__.lower()
    _check(name, layout, flatten, encoder)
    check_norm(norm, name)
    activation = known(activation)
    widths, hidden = counts(units, "units"), counts(tuple(hidden), "hidden")
    share(dropout), share(recurrent_dropout, "recurrent_dropout")
    encoder_units = count(encoder_units, "encoder_units")
    order = sequence(layout)
    seeds = iter(np.random.default_rng(seed).integers(2**31, size=64).tolist())

    def dense(n: int, act: str | None = activation) -> keras.layers.Dense:
        return keras.layers.Dense(n, act, kernel_initializer=keras.initializers.GlorotUniform(next(seeds)))

    def memory(x: Any) -> Any:
        for i, n in enumerate(widths):
            ways = [
                kind(
                    n,
                    return_sequences=i + 1 < len(widths),
                    go_backwards=backwards,
                    dropout=dropout,
                    recurrent_dropout=recurrent_dropout,
                    kernel_initializer=keras.initializers.GlorotUniform(next(seeds)),
                    recurrent_initializer=keras.initializers.Orthogonal(seed=next(seeds)),
                    seed=next(seeds),
                )
                for backwards in ((False, True) if bidirectional else (False,))
            ]
            x = keras.layers.Bidirectional(ways[0], backward_layer=ways[1])(x) if bidirectional else ways[0](x)
            x = keras.layers.LayerNormalization()(x) if norm else x
        return x

    whole = "it makes one vector of the whole map (flatten)" if flatten and layout.space else None
    start = keras.Input(free_sizes(layout, any_size, whole))
    channels = outputs_of(layout, outputs)
    if flatten:
        x = Steps(order)(start)
        if encoder == "convolutional":
            convolved = _encoder(layout, order.shape[1], encoder_units, activation, boundary, seeds)
            x = EachStep(convolved)(x)
        else:
            x = keras.layers.Reshape((order.shape[0], -1))(x)
            x = dense(encoder_units)(x) if encoder == "dense" else x
        x = memory(x)
    else:
        sequences = keras.Input(order.shape)
        x = CellSequences(order, keras.Model(sequences, memory(sequences), name="memory"))(start)
    for n in hidden:
        x = dense(n)(x)
    mapped = flatten and layout.space and not layout.series
    out = keras.layers.Dense(
        channels * math.prod(layout.shape) if mapped else channels, kernel_initializer="zeros", dtype="float32"
    )(x)
    if mapped:
        out = keras.layers.Reshape((*layout.shape, channels), dtype="float32")(out)
    return keras.Model(start, out, name=name)


def _encoder(
    layout: Layout, features: int, units: int, activation: str, boundary: Mapping[str, str] | None, seeds: Any
) -> keras.Model:
    """Return what makes a vector of a map."""
    ends = ends_on(layout, boundary or {}, False, "the encoder")
    check_circles("the encoder", layout, ends, (2, 2), (3,) * len(ends))
    pooling = {1: keras.layers.AveragePooling1D, 2: keras.layers.AveragePooling2D, 3: keras.layers.AveragePooling3D}
    space = len(layout.space)
    start = x = keras.Input((*layout.shape, features))
    for filters in (max(1, units // 4), max(1, units // 2)):
        first = keras.initializers.HeNormal(next(seeds))
        x = CONVOLUTIONS[space](filters, 3, activation=activation, kernel_initializer=first)(Pad(1, ends)(x))
        x = pooling[space](2, padding="same")(x)
    x = keras.layers.Flatten()(x)
    first = keras.initializers.GlorotUniform(next(seeds))
    return keras.Model(start, keras.layers.Dense(units, activation, kernel_initializer=first)(x), name="encoder")


def _check(name: str, layout: Layout, flatten: bool, encoder: str | None) -> None:
    if layout.series and layout.space and not flatten:
        refuse(
            f"{name}: the targets lie nowhere on the grid",
            "flatten=True, which makes one vector of the map",
            "flatten=False",
            "pass flatten=True, with an encoder where the map is large",
        )
    if encoder is not None and encoder not in ENCODERS:
        refuse(
            f"{name}: unknown encoder {encoder!r}{closest(encoder, ENCODERS)}",
            f"None or one of {ENCODERS}",
            repr(encoder),
            "encoder='dense'",
        )
    if encoder is not None and not flatten:
        refuse(f"{name}: an encoder needs the whole map", "flatten=True", "flatten=False", "leave the encoder out")
    if encoder == "convolutional" and len(layout.space) not in CONVOLUTIONS:
        refuse(
            f"{name}: nothing to convolve",
            "one to three space dimensions",
            f"space {layout.space}",
            "encoder='dense'",
        )
