"""An encoder and a decoder joined level by level: large scales are seen on coarse maps, and fine ones are not lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

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
from physml.networks.padding import Inside, Pad
from physml.networks.sampling import CropTo, PadTo, Upsample

DOWN = ("average", "max", "strides")
UP = ("linear", "nearest", "transposed")
TRANSPOSED = {1: keras.layers.Conv1DTranspose, 2: keras.layers.Conv2DTranspose, 3: keras.layers.Conv3DTranspose}
REPEATED = {1: keras.layers.UpSampling1D, 2: keras.layers.UpSampling2D, 3: keras.layers.UpSampling3D}


def unet(
    layout: Layout,
    *,
    boundary: Mapping[str, str],
    filters: int | Sequence[int] = 16,
    depth: int = 3,
    convolutions: int = 2,
    kernel_size: Any = 3,
    factor: Any = 2,
    downsampling: str = "average",
    upsampling: str = "linear",
    activation: str = "relu",
    final_activation: str = "linear",
    norm: str | None = None,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    coast: bool = False,
    partial: bool | str = False,
    outputs: int | None = None,
    any_size: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Return a U-Net in scaled units (Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28).

    Convolutions and coarser maps, *depth* times; and back, where each level sees the maps that were as fine before. A
    convolution of single cells that starts at zero makes the output: the untrained network predicts the mean, or no change.

    Any size of grid will do. Where it is no multiple of ``factor ** depth``, an open or closed end is continued by its boundary
    and cut off again. A periodic dimension, or one from pole to pole, is continued on either side by all that the network sees,
    so that no cell finds a seam; this costs time, and a *depth* or a *factor* that divides the grid saves it. (Round poles,
    longitudes are to be a multiple of twice that, since half of them lie opposite at every level.)

    Parameters
    ----------
    layout
        Gives the input channels, the grid, and the number of outputs.
    boundary
        ``"periodic"``, ``"closed"``, ``"open"`` or ``"pole"`` for every space dimension; see :class:`physml.networks.Pad`.
    filters
        Channels of the finest level, doubled at each coarser one; or those of every level, finest first.
    depth
        Times that the map is made coarser.
    convolutions
        Of each level, on the way down and on the way up.
    kernel_size
        Odd sizes of the stencils [cells]: of all dimensions, or ``{dim: size}``.
    factor
        Cells made one at each level: of all dimensions, or ``{dim: cells}``; 1 for a dimension that is left alone.
    downsampling
        ``"average"``, ``"max"``, or ``"strides"``: a convolution of each block of cells.
    upsampling
        ``"linear"`` (across seams and poles), ``"nearest"``, or ``"transposed"``: a transposed convolution to each block.
    activation, final_activation
        By name: linear, tanh, relu, sigmoid, leaky_relu, swish, gelu, elu, softmax (over channels), ...
    norm
        None, ``"batch"``, ``"layer"`` (channels of a cell) or ``"group"`` (sees the whole map), after each convolution.
        ``"batch"`` and ``"group"`` leave masked cells out with *partial*; without it they count as they come.
    dropout
        Share of channels left out in training, after each convolution.
    weight_decay
        Weight of the L2 penalty on the kernels, not the decay of an optimizer; see :func:`physml.networks.blocks.decay`.
    coast
        Add a channel of ones, which a closed boundary pads with zeros.
    partial
        Convolve, pool and interpolate valid cells alone (:class:`physml.networks.PartialConv`): True (the mask of the layout),
        ``"nan"``, or the name of an input that is positive on them.
    outputs
        Output channels where they are not the targets, as under a head.
    any_size
        Take maps of any size, such as patches of the grid, and not those of the layout alone. Periodic dimensions must then be
        multiples of ``factor ** depth``.
    seed
        Seed of the initial weights and the dropout.

    Returns
    -------
    keras.Model
        ``[batch, *space, input channel]`` to ``[batch, *space, outputs]``.

    Raises
    ------
    ValueError
        For boundaries and sizes that do not fit, even kernels, unknown names, and grids too small for the depth.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from physml import FieldSpec
    >>> sst = xr.DataArray(np.zeros((3, 9, 16)), dims=("time", "lat", "lon"))
    >>> layout = FieldSpec("sst", "sst", target_offsets=1).bind(xr.Dataset({"sst": sst}, {"time": np.arange(3)}))
    >>> unet(layout, boundary={"lat": "closed", "lon": "periodic"}, filters=4, depth=2).output_shape
    (None, 9, 16, 1)
    """
    ends = ends_on(layout, boundary, any_size, "unet")
    size = per_dimension(kernel_size, layout.space, "kernel_size", odd=True)
    step = per_dimension(factor, layout.space, "factor")
    depth, convolutions = count(depth, "depth"), count(convolutions, "convolutions")
    choice(downsampling, "downsampling", DOWN), choice(upsampling, "upsampling", UP)
    widths = counts(filters, "filters")
    widths = tuple(widths[0] * 2**level for level in range(depth + 1)) if isinstance(filters, int) else widths
    if len(widths) != depth + 1:
        refuse("unet: filters do not fit the depth", f"one number, or {depth + 1}", filters, "filters=16")
    margins = _margins(layout, ends, size, step, depth, convolutions, upsampling, any_size)
    inner = tuple("open" if any(m) else end for m, end in zip(margins, ends, strict=True))
    made = Blocks(inner, activation=activation, norm=norm, dropout=dropout, weight_decay=weight_decay, seed=seed)

    start = start_of(layout, any_size)
    x = masked(start, layout, partial, any_size)
    if coast:
        x = _both(x, Inside(), only_values=True)
    if any(any(m) for m in margins):
        x = _both(x, Pad(margins, ends))
    multiple = [f**depth for f in step]
    fits = all((n + sum(m)) % k == 0 for n, m, k in zip(layout.shape, margins, multiple, strict=True))
    if any_size or not fits:
        x = _both(x, PadTo(multiple, inner))
    kept = []
    for width in widths[:-1]:
        for _ in range(convolutions):
            x = made.block(x, width, size)
        kept.append(x)
        x = made.convolve(x, width, step, apart=True) if downsampling == "strides" else made.pool(x, step, downsampling)
    for _ in range(convolutions):
        x = made.block(x, widths[-1], size)
    for width, fine in zip(reversed(widths[:-1]), reversed(kept), strict=True):
        x = _joined(_finer(made, x, step, upsampling, width), fine)
        for _ in range(convolutions):
            x = made.block(x, width, size)
    out = made.answer(x, outputs_of(layout, outputs), final_activation)
    if any_size or not fits or any(any(m) for m in margins):
        out = CropTo([before for before, _ in margins], dtype="float32")(out, start)
    return keras.Model(start, out, name="unet")


def _margins(
    layout: Layout,
    ends: Sequence[str],
    size: Sequence[int],
    step: Sequence[int],
    depth: int,
    convolutions: int,
    upsampling: str,
    any_size: bool,
) -> list[tuple[int, int]]:
    """Return by how many cells each dimension whose ends meet is continued on either side, where its levels do not divide it."""
    shape = layout.shape
    for dim, n, f, k, end in zip(layout.space, shape, step, size, ends, strict=True):
        least = f**depth * max(1, k // 2 if end in ("periodic", "pole") and n % f**depth == 0 else 1)
        if n < least and f > 1:
            refuse(f"unet: the grid is too small for a depth of {depth}", f"at least {least} cells of {dim!r}", n, f"depth={depth - 1}, or factor={{{dim!r}: 1, ...}}")  # fmt: skip
    # Half of the longitudes lie opposite at every level.
    halves = 2 if "pole" in ends else 1
    whole = [f**depth * (halves if end == "periodic" else 1) for f, end in zip(step, ends, strict=True)]
    broken = {i for i, end in enumerate(ends) if end in ("periodic", "pole") and shape[i] % whole[i]}
    if broken and any_size:
        i = min(broken)
        refuse(f"unet: maps of any size cannot continue {layout.space[i]!r}", f"a multiple of {whole[i]} cells", shape[i], "any_size=False, or another depth")  # fmt: skip
    if "pole" in ends and broken:
        broken.add(list(ends).index("pole"))  # across a pole lies the far side of a whole circle
    margins = [(0, 0)] * len(shape)
    for i in broken:
        f, multiple = step[i], step[i] ** depth
        reach = convolutions * (size[i] // 2) * multiple + multiple
        for level in range(depth):
            reach += 2 * convolutions * (size[i] // 2) * f**level + (f ** (level + 1) if upsampling == "linear" else 0)
        before = -(-reach // multiple) * multiple
        after = reach + -(shape[i] + before + reach) % multiple
        if max(before, after) > shape[i]:
            refuse(f"unet: {layout.space[i]!r} is no multiple of {whole[i]} cells, and shorter than the network sees", f"a multiple of {whole[i]}, or at least {max(before, after)} cells", shape[i], "a smaller depth, or a factor that divides it")  # fmt: skip
        margins[i] = (before, after)
    return margins


def _both(x: Any, layer: Any, only_values: bool = False) -> Any:
    if not isinstance(x, Maps):
        return layer(x)
    return Maps(layer(x.values), x.valid if only_values else layer(x.valid))


def _finer(made: Blocks, x: Any, step: tuple[int, ...], upsampling: str, width: int) -> Any:
    space = len(step)
    repeat = REPEATED[space](step[0] if space == 1 else step)
    if upsampling == "nearest":
        return _both(x, repeat)
    if upsampling == "transposed":
        values = x.values if isinstance(x, Maps) else x
        layer = TRANSPOSED[space](
            width, step, step, kernel_initializer=made.initializer(), kernel_regularizer=made.regularizer
        )
        return Maps(layer(values), repeat(x.valid)) if isinstance(x, Maps) else layer(values)
    layer = Upsample(step, made.ends)
    if not isinstance(x, Maps):
        return layer(x)
    # Between a valid and a masked cell stands the valid one.
    values, weight = layer(keras.layers.multiply([x.values, x.valid])), layer(x.valid)
    return Maps(values / ops.maximum(weight, 1e-3), ops.cast(weight > 0, weight.dtype))


def _joined(x: Any, fine: Any) -> Any:
    if not isinstance(x, Maps):
        return keras.layers.Concatenate()([x, fine])
    valid = keras.layers.Maximum()([x.valid, fine.valid])
    return Maps(keras.layers.Concatenate()([x.values, fine.values]), valid)
