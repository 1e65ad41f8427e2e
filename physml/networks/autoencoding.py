"""Autoencoders of maps: a few numbers for each, and the map that they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from physml._errors import closest, is_count, refuse
from physml.layout import Layout
from physml.networks.blocks import CONVOLUTIONS, counts, ends_on, outputs_of
from physml.networks.blocks import activation as known
from physml.networks.padding import Pad
from physml.networks.pooled import check_circles
from physml.networks.sequences import free_sizes
from physml.networks.variational import InputNoise, LatentNormal

AUTOENCODERS = ("plain", "denoising", "variational")
POOLING = {1: keras.layers.AveragePooling1D, 2: keras.layers.AveragePooling2D, 3: keras.layers.AveragePooling3D}
REPEATING = {1: keras.layers.UpSampling1D, 2: keras.layers.UpSampling2D, 3: keras.layers.UpSampling3D}
CROPPING = {1: keras.layers.Cropping1D, 2: keras.layers.Cropping2D, 3: keras.layers.Cropping3D}


def autoencoder(
    layout: Layout,
    *,
    kind: str,
    latent: int,
    hidden: Sequence[int] = (),
    filters: Sequence[int] = (),
    kernel_size: int = 3,
    boundary: Mapping[str, str] | None = None,
    activation: str = "relu",
    noise: float | None = None,
    beta: float = 1.0,
    warmup: int = 0,
    outputs: int | None = None,
    any_size: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Return a network that squeezes every map through *latent* numbers, in scaled units.

    Usually of a layout whose targets are its inputs. The model holds its parts as layers ``"encoder"`` and ``"decoder"``;
    :func:`physml.learners.encode` and :func:`physml.learners.decode` apply them to labelled fields. The last layer begins at zero,
    so that the untrained network answers the mean.

    Parameters
    ----------
    layout
        Gives the channels and the grid.
    kind
        ``"plain"``; ``"denoising"``, whose inputs carry noise in training (Vincent et al. 2008, doi:10.1145/1390156.1390294); or
        ``"variational"``, whose latent vectors are drawn from a normal distribution in training, that is kept near N(0, 1).
    latent
        Numbers that stand for a map.
    hidden
        Units of dense layers on the whole map, those of the decoder in reverse. Without *filters* and *hidden*, and with the
        ``"linear"`` *activation*, a plain autoencoder finds the space of the leading EOFs.
    filters
        Filters of convolutions, each followed by averages over pairs of cells along every dimension, before the dense layers.
    kernel_size
        Odd size of the stencils [cells].
    boundary
        As for :func:`physml.networks.cnn`, for every space dimension; needed with *filters*. Dimensions whose ends meet are to be
        multiples of ``2 ** len(filters)``.
    activation
        Name of a Keras activation.
    noise
        Standard deviation of the noise in scaled units, for ``"denoising"``.
    beta
        Weight of the divergence, for ``"variational"``: the variance of the decoder's error in scaled units. With the loss
        ``"mse"`` and ``beta=1``, the loss is twice the negative evidence bound for an error of unit variance, by target value.
    warmup
        Training steps over which *beta* grows from 0.
    outputs
        Output channels where they are not the targets, as under a head.
    any_size
        Refused: one vector stands for the whole map.
    seed
        Of the initial weights and of all noise.

    Returns
    -------
    keras.Model
        ``[batch, *space, input channel]`` to ``[batch, *space, outputs]``.

    Raises
    ------
    ValueError
        For unknown kinds, boundaries that do not fit, even kernels, and noise where there is none or none where it is needed.

    References
    ----------
    Hinton, G. E. and Salakhutdinov, R. R. (2006), doi:10.1126/science.1127647. Kingma, D. P. and Welling, M. (2014),
    doi:10.48550/arXiv.1312.6114. Higgins, I. et al. (2017), beta-VAE, https://openreview.net/forum?id=Sy2fzU9gl.

    Examples
    --------
    >>> layout = physml.FieldSpec("sst", "sst").bind(ds)  # doctest: +SKIP
    >>> autoencoder(layout, kind="variational", latent=8, hidden=(64,))  # doctest: +SKIP
    """
    _check(layout, kind, latent, filters, kernel_size, noise)
    activation = known(activation)
    filters, hidden = counts(tuple(filters), "filters"), counts(tuple(hidden), "hidden")
    ends: tuple[str, ...] = ()
    if filters:
        ends = ends_on(layout, boundary or {}, False, "autoencoder")
        check_circles("autoencoder", layout, ends, [2] * len(filters), [kernel_size] * len(ends))
    count = outputs_of(layout, outputs)
    seeds = iter(np.random.default_rng(seed).integers(2**31, size=2 * len((*hidden, *filters)) + 6).tolist())
    shape = free_sizes(layout, any_size, "one vector stands for the whole map")
    width = 2 * latent if kind == "variational" else latent
    encoder, small = _encoder(shape, width, hidden, filters, kernel_size, ends, activation, seeds)
    decoder = _decoder(layout.shape, count, latent, small, hidden, filters, kernel_size, ends, activation, seeds)
    start = x = keras.Input(shape)
    if kind == "denoising":
        assert noise is not None
        x = InputNoise(noise, seed=next(seeds))(x)
    x = encoder(x)
    if kind == "variational":
        values = max(1, int(layout.valid("targets").sum()))
        x = LatentNormal(2.0 * beta / values, warmup, seed=next(seeds), name="draw")(x)
    return keras.Model(start, decoder(x), name=f"{kind}_autoencoder")


def _encoder(
    shape: Sequence[int | None],
    width: int,
    hidden: Sequence[int],
    filters: Sequence[int],
    kernel_size: int,
    ends: Sequence[str],
    activation: str,
    seeds: Iterator[int],
) -> tuple[keras.Model, tuple[int, ...]]:
    """Return the encoder, and the sizes of the smallest maps."""
    start = x = keras.Input(tuple(shape))
    for n in filters:
        first = keras.initializers.HeNormal(next(seeds))
        x = Pad(kernel_size // 2, ends)(x)
        x = CONVOLUTIONS[len(ends)](n, kernel_size, activation=activation, kernel_initializer=first)(x)
        x = POOLING[len(ends)](2, padding="same")(x)
    small = tuple(x.shape[1:-1])
    x = keras.layers.Flatten()(x)
    for n in hidden:
        x = keras.layers.Dense(n, activation, kernel_initializer=keras.initializers.GlorotUniform(next(seeds)))(x)
    out = keras.layers.Dense(width, kernel_initializer=keras.initializers.GlorotUniform(next(seeds)))(x)
    return keras.Model(start, out, name="encoder"), small


def _decoder(
    shape: Sequence[int],
    count: int,
    latent: int,
    small: Sequence[int],
    hidden: Sequence[int],
    filters: Sequence[int],
    kernel_size: int,
    ends: Sequence[str],
    activation: str,
    seeds: Iterator[int],
) -> keras.Model:
    start = x = keras.Input((latent,))
    for n in reversed(hidden):
        x = keras.layers.Dense(n, activation, kernel_initializer=keras.initializers.GlorotUniform(next(seeds)))(x)
    if not filters:
        x = keras.layers.Dense(count * math.prod(shape), kernel_initializer="zeros", dtype="float32")(x)
        return keras.Model(start, keras.layers.Reshape((*shape, count), dtype="float32")(x), name="decoder")
    first = keras.initializers.GlorotUniform(next(seeds))
    x = keras.layers.Dense(filters[-1] * math.prod(small), activation, kernel_initializer=first)(x)
    x = keras.layers.Reshape((*small, filters[-1]))(x)
    space = len(ends)
    for k, n in reversed(list(enumerate(filters))):
        x = REPEATING[space](2)(x)
        over = [have - -(-want // 2**k) for have, want in zip(x.shape[1:-1], shape, strict=True)]
        if any(over):  # pooling rounds up
            x = CROPPING[space]((0, over[0]) if space == 1 else tuple((0, o) for o in over))(x)
        first = keras.initializers.HeNormal(next(seeds))
        x = Pad(kernel_size // 2, ends)(x)
        x = CONVOLUTIONS[space](n, kernel_size, activation=activation, kernel_initializer=first)(x)
    out = keras.layers.Dense(count, kernel_initializer="zeros", dtype="float32")(x)
    return keras.Model(start, out, name="decoder")


def _check(
    layout: Layout, kind: str, latent: int, filters: Sequence[int], kernel_size: int, noise: float | None
) -> None:
    if kind not in AUTOENCODERS:
        refuse(
            f"unknown kind of autoencoder {kind!r}{closest(kind, AUTOENCODERS)}",
            f"one of {AUTOENCODERS}",
            repr(kind),
            "kind='plain'",
        )
    if not is_count(latent):
        refuse("autoencoder: latent is no count", "a whole number >= 1", latent, "latent=8")
    if layout.series and layout.space:
        refuse(
            "autoencoder: the targets lie nowhere on the grid",
            "maps as targets, usually the inputs themselves",
            ", ".join(layout.spec.targets),
            "FieldSpec('sst', 'sst')",
        )
    if filters and (len(layout.space) not in CONVOLUTIONS or kernel_size % 2 == 0):
        refuse(
            "autoencoder: the convolutions cannot be built",
            "one to three space dimensions and an odd kernel",
            f"space {layout.space}, kernel {kernel_size}",
            "pass hidden=... in place of filters",
        )
    if (noise is not None) != (kind == "denoising"):
        refuse(
            f"autoencoder: noise does not fit the kind {kind!r}",
            "a standard deviation in scaled units for 'denoising', none otherwise",
            noise,
            "noise=0.3 with kind='denoising'",
        )
