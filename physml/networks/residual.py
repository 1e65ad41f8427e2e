"""Residual networks: what a block adds to its input is learned, and every block begins near doing nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from physml._errors import refuse
from physml.layout import Layout
from physml.networks.blocks import (
    Blocks,
    Maps,
    choice,
    count,
    counts,
    ends_on,
    masked,
    outputs_of,
    per_dimension,
    start_of,
)
from physml.networks.padding import Inside
from physml.networks.pooled import GATHERS, check_circles, dense_end


def residual_block(blocks: Blocks, x: Any, filters: int, size: Sequence[int], *, preactivation: bool = False) -> Any:
    """Return the input plus two convolutions of it.

    Parameters
    ----------
    blocks
        What the layers share.
    x
        ``[batch, *space, channel]``, or :class:`physml.networks.blocks.Maps`.
    filters
        Output channels; where the input has others, it joins through a convolution of single cells.
    size
        Odd sizes of the stencils.
    preactivation
        Norm and activation stand before each convolution, and the sum is left alone (He et al. 2016,
        doi:10.1007/978-3-319-46493-0_38); else after it, and the sum is activated (doi:10.1109/CVPR.2016.90).
    """
    kept = x
    if preactivation:
        y = blocks.convolve(blocks.activate(blocks.normalise(x)), filters, size)
        y = blocks.convolve(blocks.drop(blocks.activate(blocks.normalise(y))), filters, size)
    else:
        y = blocks.block(x, filters, size)
        y = blocks.normalise(blocks.convolve(y, filters, size))
    if int((x.values if isinstance(x, Maps) else x).shape[-1]) != filters:
        kept = blocks.convolve(x, filters, (1,) * len(size))
    out = blocks.add(kept, y)
    return out if preactivation else blocks.activate(out)


def resnet(
    layout: Layout,
    *,
    boundary: Mapping[str, str],
    filters: Sequence[int] = (32, 64),
    blocks: int = 2,
    kernel_size: Any = 3,
    first_kernel_size: Any = 5,
    preactivation: bool = True,
    pooling: Any = 1,
    gather: str = "average",
    dense: Sequence[int] = (),
    activation: str = "relu",
    final_activation: str = "linear",
    norm: str | None = "batch",
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    coast: bool = False,
    partial: bool | str = False,
    outputs: int | None = None,
    any_size: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Return a residual network of several stages, in scaled units.

    One wide convolution, stages of residual blocks, and for fields a convolution of single cells that starts at zero. Targets
    without space dimensions (an index, the regime of a day) come from the average over the last maps, through dense layers.

    Parameters
    ----------
    layout
        Gives the input channels, the grid, and the outputs.
    boundary
        ``"periodic"``, ``"closed"``, ``"open"`` or ``"pole"`` for every space dimension; see :class:`physml.networks.Pad`.
    filters
        Channels of each stage.
    blocks
        Residual blocks of each stage.
    kernel_size, first_kernel_size
        Odd sizes of the stencils [cells]: of all dimensions, or ``{dim: size}``.
    preactivation
        As for :func:`residual_block`.
    pooling
        Cells averaged to one before each stage but the first: one number, or one for each of those stages. It respects masks
        and poles where strides would not. Targets on the grid need 1.
    gather
        ``"average"``, ``"max"`` or ``"flatten"``: how the last maps become one vector, for targets without space dimensions.
    dense
        Units of the dense layers after it.
    activation, final_activation
        By name: linear, tanh, relu, sigmoid, leaky_relu, swish, gelu, elu, softmax (over channels), ...
    norm
        None, ``"batch"``, ``"layer"`` (channels of a cell) or ``"group"`` (sees the whole map).
        ``"batch"`` and ``"group"`` leave masked cells out with *partial*; without it they count as they come.
    dropout
        Share of channels left out between the convolutions of a block in training.
    weight_decay
        Weight of the L2 penalty on the kernels, not the decay of an optimizer; see :func:`physml.networks.blocks.decay`.
    coast
        Add a channel of ones, which a closed boundary pads with zeros.
    partial
        Convolve valid cells alone: True (the mask of the layout), ``"nan"``, or the name of an input that is positive on them.
    outputs
        Output channels where they are not the targets, as under a head.
    any_size
        Take maps of any size, such as patches of the grid, and not those of the layout alone.
    seed
        Seed of the initial weights and the dropout.

    Returns
    -------
    keras.Model
        ``[batch, *space, input channel]`` to ``[batch, *space, outputs]``, or ``[batch, outputs]``.

    Raises
    ------
    ValueError
        For boundaries and sizes that do not fit, even kernels, unknown names, and pooling where the targets lie on the grid.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from physml import FieldSpec
    >>> sst = xr.DataArray(np.zeros((3, 8, 16)), dims=("time", "lat", "lon"))
    >>> ds = xr.Dataset({"sst": sst, "nino": sst.mean(("lat", "lon"))}, {"time": np.arange(3)})
    >>> layout = FieldSpec("sst", "nino", target_offsets=1).bind(ds)
    >>> resnet(layout, boundary={"lat": "closed", "lon": "periodic"}, pooling=2).output_shape
    (None, 1)
    """
    ends = ends_on(layout, boundary, any_size, "resnet")
    space = layout.space
    widths = counts(filters, "filters")
    size, first = (per_dimension(k, space, n, odd=True) for n, k in (("kernel_size", kernel_size), ("first_kernel_size", first_kernel_size)))  # fmt: skip
    steps = counts(pooling, "pooling")
    steps = steps * (len(widths) - 1) if len(steps) == 1 else steps
    if len(steps) != len(widths) - 1:
        refuse("resnet: pooling does not fit the stages", f"{len(widths) - 1} numbers, one before each stage but the first", pooling, "pooling=2")  # fmt: skip
    series = layout.series
    if not series and max(steps, default=1) > 1:
        refuse(
            "resnet: pooling leaves the grid of the targets",
            "pooling=1",
            pooling,
            "networks.unet comes back to the grid",
        )
    choice(gather, "gather", GATHERS)
    check_circles("resnet", layout, ends, steps, size)
    if series and gather == "flatten" and any_size:
        refuse(
            "resnet: maps of any size have no fixed number of cells",
            "gather='average' or 'max'",
            gather,
            "gather='average'",
        )
    made = Blocks(ends, activation=activation, norm=norm, dropout=dropout, weight_decay=weight_decay, seed=seed)
    start = start_of(layout, any_size)
    x = masked(start, layout, partial, any_size)
    if coast:
        x = Maps(Inside()(x.values), x.valid) if isinstance(x, Maps) else Inside()(x)
    x = made.convolve(x, widths[0], first)
    if not preactivation:
        x = made.activate(made.normalise(x))
    for stage, width in enumerate(widths):
        if stage:
            x = made.pool(x, (steps[stage - 1],) * len(ends), "average")
        for _ in range(count(blocks, "blocks")):
            x = residual_block(made, x, width, size, preactivation=preactivation)
    if preactivation:
        x = made.activate(made.normalise(x))
    channels = outputs_of(layout, outputs)
    if series:
        return keras.Model(start, dense_end(made, x, gather, dense, channels, final_activation), name="resnet")
    return keras.Model(start, made.answer(x, channels, final_activation), name="resnet")
