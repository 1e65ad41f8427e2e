"""Which Keras layers and operations relevance can pass, and as what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
from keras import layers, ops

from physml._errors import describe
from physml.explain.gradients.relevance import Affine, Linear, Moved, Part, Pooled, Signal, Single
from physml.networks.padding import Inside, Pad
from physml.networks.sampling import CropTo, PadTo, Upsample
from physml.networks.whole import Gather, Scatter
from physml.receptive import replay

SUPPORTED = (
    "Dense, EinsumDense, Conv1D/2D/3D, their depthwise, separable and transposed forms, BatchNormalization, Normalization, "
    "Rescaling, activations of one cell (not softmax), max, average and global pooling, Add, Average, Subtract, Maximum, "
    "Concatenate, Flatten, Reshape, Permute, RepeatVector, ZeroPadding, Cropping, UpSampling (nearest, bilinear), Pad, PadTo, "
    "CropTo, Upsample, Inside, Gather and Scatter of physml, Dropout and noise, and sums, slices, joins and reshapes by keras.ops"
)


def _named(home: Any, names: str) -> tuple[Any, ...]:
    return tuple(getattr(home, name) for name in names.split() if hasattr(home, name))


CELLWISE = _named(
    keras.activations,
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear log_sigmoid mish relu relu6 "
    "selu sigmoid silu soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus tanh tanh_shrink threshold",
)
"""Activations of one cell."""

MOVED = (
    *_named(layers, "Flatten Reshape Permute RepeatVector Concatenate Maximum Identity ActivityRegularization Dropout"),
    *_named(layers, "SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout GaussianNoise GaussianDropout"),
    *_named(layers, "MaxPooling1D MaxPooling2D MaxPooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D"),
    *_named(layers, "ZeroPadding1D ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D Cropping3D"),
    *_named(layers, "UpSampling1D UpSampling3D"),
    Pad,
    PadTo,
    CropTo,
    Inside,
    Gather,
    Scatter,
)
POOLED = (
    *_named(layers, "AveragePooling1D AveragePooling2D AveragePooling3D Add Average"),
    *_named(layers, "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D"),
    Upsample,
)
SINGLE = (layers.ReLU, layers.LeakyReLU, layers.ELU, layers.PReLU)
DIVISIONS = ("Divide", "TrueDivide")
AFFINE = (layers.Rescaling, layers.Normalization, layers.BatchNormalization)
OPERATIONS: dict[str, Callable[[Callable[..., Any]], Part]] = {
    **dict.fromkeys("Reshape Transpose Concatenate GetItem Pad Squeeze ExpandDims Flip Roll".split(), Moved),
    **dict.fromkeys("Moveaxis Swapaxes Repeat Tile Stack Maximum Max".split(), Moved),
    **dict.fromkeys(("Add", "Mean", "Sum"), Pooled),
    **dict.fromkeys("Relu Relu6 LeakyRelu Elu Selu Gelu Silu Tanh Sigmoid Softplus".split(), Single),
    "Subtract": partial(Pooled, signs=(1, -1)),
}
"""Operations of ``keras.ops`` by the names of their classes, which Keras does not export."""


def parts_of(op: Any, *args: Any, **kwargs: Any) -> tuple[list[Part], list[Signal]]:
    """Return what an operation on signals is made of, and its inputs; see :func:`physml.explain.gradients.relevance.propagate`.

    Raises
    ------
    NotImplementedError
        For an operation that relevance cannot pass; :func:`check` says so in words, before anything is computed.
    """
    # What comes in twice, as in x + x, is one input.
    signals = list(dict.fromkeys(leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, Signal)))

    def again(*tensors: Any) -> Any:
        given = dict(zip(map(id, signals), tensors, strict=True))
        put = lambda leaf: given.get(id(leaf), leaf)  # noqa: E731
        new_args, new_kwargs = keras.tree.map_structure(put, (args, kwargs))
        return op(*new_args, **new_kwargs)

    maker = signals[0].maker
    if isinstance(op, layers.BatchNormalization) and maker is not None and isinstance(maker.part, Linear):
        factor, shift = _factor_and_shift(op)
        axis = op.axis % len(signals[0].tensor.shape)
        folded = maker.part.folded(factor, shift) if axis == len(signals[0].tensor.shape) - 1 else None
        if folded is not None:
            return [folded], maker.sources
    parts = _parts(op, again, len(signals), bool(args) and isinstance(args[0], Signal))
    if parts is None:
        raise NotImplementedError(type(op).__name__)
    return parts, signals


def check(network: Any, shape: Sequence[int | None], dtype: str) -> None:
    """Refuse a network with an operation that relevance cannot pass, before anything is computed.

    Parameters
    ----------
    network
        Functional, Sequential or one layer.
    shape
        Of its input, with the rows.

    Raises
    ------
    NotImplementedError
        Naming every such layer and its type, what is supported, and the remedy.
    """
    bad = {}
    for op, count, first, _ in operations(network, shape, dtype):
        if _parts(op, op, count, first) is None:
            why = getattr(getattr(op, "activation", None), "__name__", None)
            bad[op.name] = f"{op.name!r} ({type(op).__name__}{f', activation {why}' if why else ''})"
    if bad:
        raise NotImplementedError(
            describe(
                f"relevance cannot pass {len(bad)} of the layers of {getattr(network, 'name', 'the network')!r}",
                expected=SUPPORTED,
                received=", ".join(bad.values()),
                remedy="kind='integrated' or .shapley(...), which take any layer",
            )
        )


def operations(network: Any, shape: Sequence[int | None], dtype: str) -> list[tuple[Any, int, bool, Any]]:
    """Return the operations of a network in the order of its graph, those of nested models too.

    A model that is no graph of layers (a subclass with a ``call`` of its own) is one operation.

    Returns
    -------
    list of tuple
        Operation, how many tensors it takes, whether its first argument is one, and the shape and type of its output (a
        ``keras.KerasTensor``).
    """
    found: list[tuple[Any, int, bool, Any]] = []

    def visit(op: Any, *args: Any, **kwargs: Any) -> Any:
        count = sum(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten((args, kwargs)))
        first = bool(args) and isinstance(args[0], keras.KerasTensor)
        found.append((op, count, first, op.compute_output_spec(*args, **kwargs)))
        return found[-1][-1]

    replay(network, keras.KerasTensor(tuple(shape), dtype), visit)
    return found


def _parts(op: Any, again: Callable[..., Any], inputs: int, first: bool) -> list[Part] | None:
    """Return the parts of an operation on that many signals, its first argument one or not; None where relevance cannot pass it."""
    if (kernels := _with_kernels(op)) is not None:
        known, activation = _cellwise(op)
        if not known:
            return None
        *before, last = kernels
        return [*before, Linear(last.apply, last.kernel, last.bias, last.scaled, activation)]
    if isinstance(op, layers.Activation):
        known, activation = _cellwise(op)
        return [Single(activation or (lambda x: x))] if known else None
    if isinstance(op, layers.UpSampling2D):
        if op.interpolation == "nearest":
            return [Moved(again)]
        return [Pooled(again)] if op.interpolation == "bilinear" else None
    if isinstance(op, layers.Subtract):
        return [Pooled(again, (1, -1))]
    for kinds, part in ((MOVED, Moved), (POOLED, Pooled), (SINGLE, Single), (AFFINE, Affine)):
        if isinstance(op, kinds):
            return [part(again)]
    name = type(op).__name__
    if isinstance(op, layers.Layer) or not type(op).__module__.startswith("keras."):
        return None
    # The other one is a constant; a constant over a signal is no affine function of it.
    if inputs == 1 and (name in ("Add", "Subtract", "Multiply", "Negative") or (first and name in DIVISIONS)):
        return [Affine(again)]
    return [OPERATIONS[name](again)] if name in OPERATIONS else None


def _cellwise(op: Any) -> tuple[bool, Callable[[Any], Any] | None]:
    """Return whether the activation of a layer is known to be one of single cells, and the activation if it does anything."""
    activation = op.activation
    if activation is None or activation is keras.activations.linear:
        return True, None
    return activation in CELLWISE or isinstance(activation, SINGLE), activation


def _with_kernels(op: Any) -> list[Linear] | None:
    """Return a layer with weights as linear parts, without its activation."""
    if isinstance(op, layers.Dense):
        return [Linear(ops.matmul, _tensor(op.kernel), _tensor(op.bias), lambda k, f: k * f)]
    if isinstance(op, layers.EinsumDense):
        return [Linear(partial(ops.einsum, op.equation), _tensor(op.kernel), _tensor(op.bias))]
    if isinstance(op, layers.SeparableConv1D | layers.SeparableConv2D):
        deep = partial(ops.depthwise_conv, **_stencil(op))
        pointwise = partial(ops.conv, strides=1, padding="valid", data_format=op.data_format)
        first, second = Linear(deep, _tensor(op.depthwise_kernel)), _tensor(op.pointwise_kernel)
        return [first, Linear(pointwise, second, _bias(op), _last(op, lambda k, f: k * f))]
    if isinstance(op, layers.DepthwiseConv1D | layers.DepthwiseConv2D):
        by_channel = lambda k, f: k * ops.reshape(f, k.shape[-2:])  # noqa: E731
        return [
            Linear(partial(ops.depthwise_conv, **_stencil(op)), _tensor(op.kernel), _bias(op), _last(op, by_channel))
        ]
    if isinstance(op, layers.Conv1DTranspose | layers.Conv2DTranspose | layers.Conv3DTranspose):
        apply = partial(ops.conv_transpose, output_padding=op.output_padding, **_stencil(op))
        by_channel = lambda k, f: k * f[:, None]  # noqa: E731
        return [Linear(apply, _tensor(op.kernel), _bias(op), _last(op, by_channel))]
    if isinstance(op, layers.Conv1D | layers.Conv2D | layers.Conv3D):
        apply = partial(ops.conv, **_stencil(op))
        if op.padding == "causal":
            apply = partial(_causal, op, partial(ops.conv, **{**_stencil(op), "padding": "valid"}))
        return [Linear(apply, _tensor(op.kernel), _bias(op), _last(op, lambda k, f: k * f))]
    return None


def _stencil(op: Any) -> dict[str, Any]:
    return {
        "strides": tuple(op.strides),
        "padding": op.padding,
        "dilation_rate": op.dilation_rate,
        "data_format": op.data_format,
    }


def _causal(op: Any, conv: Callable[[Any, Any], Any], x: Any, kernel: Any) -> Any:
    return conv(ops.pad(x, op._compute_causal_padding()), kernel)


def _tensor(variable: Any) -> Any:
    return None if variable is None else ops.cast(ops.convert_to_tensor(variable), "float32")


def _bias(op: Any) -> Any:
    """Return the bias of a convolution in the shape it is added in."""
    if not op.use_bias:
        return None
    bias = _tensor(op.bias)
    return bias if op.data_format == "channels_last" else ops.reshape(bias, (-1, *(1 for _ in op.kernel_size)))


def _last(op: Any, scaled: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any] | None:
    return scaled if op.data_format == "channels_last" else None


def _factor_and_shift(op: Any) -> tuple[Any, Any]:
    """Return the factor and the shift of each channel that a batch normalisation is when it does not learn."""
    factor = 1 / ops.sqrt(_tensor(op.moving_variance) + op.epsilon)
    if op.scale:
        factor = factor * _tensor(op.gamma)
    shift = -_tensor(op.moving_mean) * factor
    return factor, shift + _tensor(op.beta) if op.center else shift
