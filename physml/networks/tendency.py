"""Networks for the change of a state on a grid: tendencies that sit inside a numerical scheme, and increments of one step.

A scheme of Runge and Kutta around a tendency network makes the known part of a model (how to step in time) its architecture,
so that little is left to learn: Lorenz 1996 is 21 numbers at one site, whatever the number of sites.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from physml._errors import refuse
from physml.networks.convolutional import CONVOLUTIONS
from physml.networks.padding import KINDS, Pad


@keras.saving.register_keras_serializable(package="physml")
class Bilinear(keras.layers.Layer):
    """A constant, the linear and the quadratic terms of the cells of a stencil, with the same weights at every cell.

    With z = (1, all channels of the cells of the stencil), of length q, every output is z^T W z. Either W is a triangle of
    q (q + 1) / 2 free weights, the coefficients of the monomials; or it is a sum of *products* of two affine forms each,
    W = sum_k a_k b_k^T, of 2 q weights a product.

    Parameters
    ----------
    outputs
        Number of output channels.
    width
        Odd number of cells of the stencil along each dimension.
    boundary
        ``"periodic"``, ``"closed"`` (zero beyond the end) or ``"open"`` (the last cell repeated) for each dimension.
    products
        Number of products; None: all monomials.
    seed
        Of the first weights, of products alone; monomials begin at zero.

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    ``[batch, *space, outputs]``.

    Examples
    --------
    >>> layer = Bilinear(1, width=5, boundary=("periodic",))
    >>> layer(np.ones((1, 40, 1), "float32")).shape == (1, 40, 1), layer.count_params()
    (True, 21)
    """

    def __init__(
        self,
        outputs: int,
        *,
        width: int,
        boundary: Sequence[str],
        products: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check(width, boundary)
        if products is not None and products < 1:
            refuse("Bilinear: products is no count", "a whole number >= 1, or None", products, "pass products=6")
        self.outputs, self.width, self.boundary = int(outputs), int(width), tuple(boundary)
        self.products, self.seed = products, int(seed)
        self.pad = Pad(self.width // 2, self.boundary, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        q = 1 + self.width ** len(self.boundary) * int(input_shape[-1])
        if self.products is None:
            self.triangle = np.triu_indices(q)
            shape = (len(self.triangle[0]), self.outputs)
            self.coefficients = self.add_weight(shape=shape, initializer="zeros", name="coefficients")
        else:
            start = keras.initializers.RandomNormal(stddev=0.1, seed=self.seed)
            self.factors = self.add_weight(shape=(2, q, self.products, self.outputs), initializer=start, name="factors")
        self.built = True

    def matrix(self) -> Any:
        """Return W ``[q, q, output]``."""
        if self.products is not None:
            a, b = self.factors[0], self.factors[1]
            return ops.sum(a[:, None] * b[None], axis=2)
        row, column = self.triangle
        q = int(row[-1]) + 1
        place = np.zeros((q * q, len(row)))
        place[row * q + column, np.arange(len(row))] = 1.0
        return ops.reshape(ops.matmul(ops.cast(place, self.compute_dtype), self.coefficients), (q, q, self.outputs))

    def stencil(self, x: Any) -> Any:
        """Return z ``[batch, *space, q]``: 1, then the cells in the order of the dimensions, each with its channels."""
        padded, sizes = self.pad(x), ops.shape(x)[1:-1]
        cells = [ops.ones_like(x[..., :1])]
        for offset in itertools.product(range(self.width), repeat=len(sizes)):
            at = tuple(slice(o, o + n) for o, n in zip(offset, sizes, strict=True))
            cells.append(padded[(slice(None), *at)])
        return ops.concatenate(cells, axis=-1)

    def call(self, x: Any) -> Any:
        """Return z^T W z at every cell."""
        z, w = self.stencil(x), self.matrix()
        return ops.stack([ops.sum(z * ops.matmul(z, w[..., k]), axis=-1) for k in range(self.outputs)], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the input with the output channels."""
        return (*input_shape[:-1], self.outputs)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        own = {k: getattr(self, k) for k in ("outputs", "width", "boundary", "products", "seed")}
        return {**super().get_config(), **own}


def bilinear_tendency(
    shape: Sequence[int],
    *,
    boundary: Sequence[str],
    channels: int = 1,
    width: int = 5,
    products: int | None = None,
    seed: int = 0,
    dtype: str | None = None,
) -> keras.Model:
    """Return a tendency of at most quadratic, local terms, the same at every cell: advection, damping, forcing.

    In one dimension with a stencil of 5 cells and one channel it has 21 weights, one for each monomial of degree at most 2;
    or, with ``products=6``, the 72 weights 2 x 6 x (1 + 5) of six products of two affine forms, which span the same terms with
    weights to spare. Both hold Lorenz 1996 exactly.

    Parameters
    ----------
    shape
        Cells along each dimension of space, None where it may vary.
    boundary
        For each dimension ``"periodic"``, ``"closed"`` or ``"open"``.
    channels
        Variables of the state.
    width, products, seed
        As for :class:`Bilinear`.
    dtype
        Of weights and results, by default that of Keras.

    Returns
    -------
    keras.Model
        ``[batch, *space, channel]`` to the same, in units of the state per unit of time.

    References
    ----------
    Fablet, R., Ouala, S. and Herzet, C. (2018), Bilinear residual neural network for the identification and forecasting of
    geophysical dynamics, doi:10.23919/EUSIPCO.2018.8553492. Bocquet, M., Brajard, J., Carrassi, A. and Bertino, L. (2019),
    doi:10.5194/npg-26-143-2019.

    Examples
    --------
    >>> bilinear_tendency([40], boundary=["periodic"]).count_params()
    21
    >>> bilinear_tendency([40], boundary=["periodic"], products=6).count_params()
    72
    """
    _fits(shape, boundary)
    start = keras.Input((*shape, channels), dtype=dtype)
    layer = Bilinear(channels, width=width, boundary=boundary, products=products, seed=seed, dtype=dtype)
    return keras.Model(start, layer(start), name="bilinear_tendency")


def brajard_cnn(
    shape: Sequence[int],
    *,
    boundary: Sequence[str],
    channels: int = 1,
    filters: Sequence[int] = (24, 37),
    kernel_size: int = 5,
    activation: str = "relu",
    seed: int = 0,
    dtype: str | None = None,
) -> keras.Model:
    """Return the convolutional network of Brajard et al. (2020) for the increment of one step.

    Batch normalisation; three convolutions side by side of which two are multiplied; the product and the third, stacked, into
    one more convolution; and one of a single cell. ``Residual(brajard_cnn(...))`` is the surrogate of the paper: with the
    arguments left alone and one channel in one dimension it has 9389 trainable weights.

    Parameters
    ----------
    shape, boundary, channels, dtype
        As for :func:`bilinear_tendency`.
    filters
        Of the three convolutions, and of the one after them.
    kernel_size
        Odd size of the stencils.
    activation
        Of the third convolution and of the one after them.
    seed
        Of the first weights.

    References
    ----------
    Brajard, J., Carrassi, A., Bocquet, M. and Bertino, L. (2020), doi:10.1016/j.jocs.2020.101171, table 1.

    Examples
    --------
    >>> network = brajard_cnn([40], boundary=["periodic"])
    >>> sum(int(np.prod(w.shape)) for w in network.trainable_variables)
    9389
    """
    _fits(shape, boundary)
    _check(kernel_size, boundary)
    convolution = CONVOLUTIONS[len(shape)]
    seeds = iter(np.random.default_rng(seed).integers(2**31, size=5).tolist())

    def conv(x: Any, count: int, size: int, act: str | None) -> Any:
        x = Pad(size // 2, tuple(boundary), dtype=dtype)(x)
        first = keras.initializers.GlorotUniform(next(seeds))
        return convolution(count, size, activation=act, kernel_initializer=first, dtype=dtype)(x)

    start = keras.Input((*shape, channels), dtype=dtype)
    x = keras.layers.BatchNormalization(dtype=dtype)(start)
    a, b = (conv(x, filters[0], kernel_size, None) for _ in range(2))
    c = conv(x, filters[0], kernel_size, activation)
    y = keras.layers.Concatenate(dtype=dtype)([c, keras.layers.Multiply(dtype=dtype)([a, b])])
    y = conv(y, filters[1], kernel_size, activation)
    return keras.Model(start, conv(y, channels, 1, None), name="brajard_cnn")


def _check(width: int, boundary: Sequence[str]) -> None:
    if width < 1 or width % 2 == 0:
        refuse("the stencil has no centre", "an odd number of cells", width, "use 3, 5, 7, ...")
    bad = [b for b in boundary if b not in KINDS]
    if bad or isinstance(boundary, str):
        refuse("unknown boundary", f"one of {KINDS} for each dimension", boundary, "boundary=['periodic']")


def _fits(shape: Sequence[int], boundary: Sequence[str]) -> None:
    if not 1 <= len(shape) <= 3 or len(shape) != len(boundary) or isinstance(boundary, str):
        expected = "one to three dimensions of space, each with its boundary"
        refuse("the boundary does not fit the grid", expected, f"{shape}, {boundary}", "boundary=['periodic'] for [40]")
