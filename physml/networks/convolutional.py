"""Convolutional networks on the grid of a layout: residual from maps to maps, or with pooling from maps to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from physml._errors import refuse
from physml.layout import Layout
from physml.networks.blocks import (
    CONVOLUTIONS,
    Blocks,
    Maps,
    count,
    counts,
    ends_on,
    masked,
    outputs_of,
    per_dimension,
    start_of,
)
from physml.networks.padding import Inside
from physml.networks.pooled import pooled
from physml.networks.residual import residual_block

__all__ = ["CONVOLUTIONS", "cnn"]


def cnn(
    layout: Layout,
    *,
    boundary: Mapping[str, str],
    filters: int | Sequence[int] = 32,
    blocks: int | None = None,
    kernel_size: Any = 3,
    first_kernel_size: Any = 5,
    activation: str = "relu",
    coast: bool = False,
    pooling: Any = None,
    pool: str = "max",
    gather: str = "flatten",
    dense: Sequence[int] = (),
    final_activation: str = "linear",
    norm: str | None = None,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    partial: bool | str = False,
    outputs: int | None = None,
    any_size: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Return a convolutional network in scaled units: residual from maps to maps, or with *pooling* from maps to numbers.

    From maps to maps: one wide convolution, *blocks* residual blocks of two convolutions each (He et al. 2016,
    doi:10.1109/CVPR.2016.90), and a 1 x 1 convolution that starts at zero, so that the untrained network predicts the mean, or
    no change. With *pooling*, for targets without space dimensions (an index, the regime of a day): convolutions and pooling,
    level after level, then dense layers (Krizhevsky et al. 2012, doi:10.1145/3065386).

    Parameters
    ----------
    layout
        Gives the input channels, the grid, and the number of outputs.
    boundary
        ``"periodic"``, ``"closed"``, ``"open"`` or ``"pole"`` for every space dimension; see :class:`physml.networks.Pad`.
    filters
        Channels; with *pooling* those of every level.
    blocks
        Residual blocks, by default 3; with *pooling* the convolutions of each level, by default 1.
    kernel_size, first_kernel_size
        Odd sizes of the stencils [cells]: of all dimensions, or ``{dim: size}``.
    activation, final_activation
        By name: linear, tanh, relu, sigmoid, leaky_relu, swish, gelu, elu, softmax (over channels), ...
    coast
        Add a channel of ones, which a closed boundary pads with zeros: it lets the network tell a coast from the mean.
    pooling
        Cells pooled to one after each level: one number, or one for each level. Dimensions whose ends meet must be multiples.
    pool
        ``"max"`` or ``"average"``.
    gather
        ``"flatten"``, ``"average"`` or ``"max"``: how the last maps become one vector.
    dense
        Units of the dense layers after it.
    norm
        None, ``"batch"``, ``"layer"`` (channels of a cell) or ``"group"`` (sees the whole map), after each convolution.
        ``"batch"`` and ``"group"`` leave masked cells out with *partial*; without it they count as they come.
    dropout
        Share of channels (of units in dense layers) left out in training.
    weight_decay
        Weight of the L2 penalty on the kernels, not the decay of an optimizer; see :func:`physml.networks.blocks.decay`.
    partial
        Convolve and pool valid cells alone (:class:`physml.networks.PartialConv`): True (the mask of the layout), ``"nan"``, or
        the name of an input that is positive on them.
    outputs
        Output channels where they are not the targets, as under a head.
    any_size
        Take maps of any size, such as patches of the grid, and not those of the layout alone.
    seed
        Seed of the initial weights and the dropout.

    Returns
    -------
    keras.Model
        ``[batch, *space, input channel]`` to ``[batch, *space, outputs]``, or with *pooling* to ``[batch, outputs]``.

    Raises
    ------
    ValueError
        For boundaries and sizes that do not fit, even kernels, unknown names, grids of more than three dimensions, and pooling
        where the targets lie on the grid.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from physml import FieldSpec
    >>> sst = xr.DataArray(np.zeros((3, 8, 16)), dims=("time", "lat", "lon"))
    >>> ds = xr.Dataset({"sst": sst, "nino": sst.mean(("lat", "lon"))}, {"time": np.arange(3)})
    >>> globe = {"lat": "closed", "lon": "periodic"}
    >>> cnn(FieldSpec("sst", "sst", target_offsets=1).bind(ds), boundary=globe).output_shape
    (None, 8, 16, 1)
    >>> layout = FieldSpec("sst", "nino", target_offsets=1).bind(ds)
    >>> cnn(layout, boundary=globe, filters=(8, 16), pooling=2, dense=(32,)).output_shape
    (None, 1)
    """
    ends = ends_on(layout, boundary, any_size, "cnn")
    named = (("first_kernel_size", first_kernel_size), ("kernel_size", kernel_size))
    first, size = (per_dimension(k, layout.space, name, odd=True) for name, k in named)
    made = Blocks(ends, activation=activation, norm=norm, dropout=dropout, weight_decay=weight_decay, seed=seed)
    widths, channels = counts(filters, "filters"), outputs_of(layout, outputs)
    start = start_of(layout, any_size)
    x = masked(start, layout, partial, any_size)
    if coast:
        x = Maps(Inside()(x.values), x.valid) if isinstance(x, Maps) else Inside()(x)
    if pooling is not None:
        return pooled(
            start, x, made, layout, filters=widths, blocks=count(1 if blocks is None else blocks, "blocks"),
            sizes=(first, size), pooling=pooling, pool=pool, gather=gather, dense=dense, channels=channels,
            final=final_activation, any_size=any_size,
        )  # fmt: skip
    if len(widths) != 1 or tuple(dense):
        refuse("cnn: levels and dense layers belong to pooling", "filters=32 and dense=(), or pooling=2", f"filters={filters}, dense={dense}", "pooling=2; or networks.resnet for stages")  # fmt: skip
    x = made.activate(made.normalise(made.convolve(x, widths[0], first)))
    for _ in range(count(3 if blocks is None else blocks, "blocks", 0)):
        x = residual_block(made, x, widths[0], size)
    return keras.Model(start, made.answer(x, channels, final_activation), name="cnn")
