"""What each layer of Keras sees along every space dimension; layers that see the whole map are refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from physml._errors import describe
from physml.reach import SAME, Reach, convolution, joined, repeated, shifted, transposed

POINTWISE = frozenset(
    "Activation ReLU LeakyReLU ELU Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianNoise "
    "GaussianDropout AlphaDropout Identity Rescaling ActivityRegularization Dense Masking InputLayer".split()
)
"""Layers that see the channels of one cell."""
ALONG_AXIS = frozenset(
    "BatchNormalization LayerNormalization RMSNormalization UnitNormalization Softmax Normalization".split()
)
"""Layers that see the axes they name."""
MERGES = frozenset("Add Subtract Multiply Average Maximum Minimum Concatenate".split())
OPERATIONS = frozenset(
    "Absolute Fabs Add Subtract Multiply Divide DivideNoNan TrueDivide FloorDivide Power Maximum Minimum Fmax Fmin Mod Negative Square Sqrt "
    "Reciprocal Rsqrt Exp Exp2 Expm1 Log Log10 Log1p Log2 Logaddexp Sin Cos Tan Arcsin Arccos Arctan Arctan2 Sinh Cosh Tanh "
    "Arcsinh Arccosh Arctanh Erf Erfc Clip Sign Round Floor Ceil Trunc Where Hypot Equal NotEqual Greater GreaterEqual Less LessEqual "
    "LogicalAnd LogicalNot LogicalOr LogicalXor Isfinite Isnan Isinf NanToNum OnesLike ZerosLike Copy Cast SaturateCast StopGradient "
    "Relu Relu6 Sigmoid Softplus Softsign SoftShrink Silu Squareplus LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu "
    "TanhShrink HardTanh HardShrink Threshold".split()
)
"""Elementwise operations of ``keras.ops``."""
GLOBAL = {
    "Flatten": "it joins all cells in one vector",
    "Reshape": "it reshapes the map",
    "Permute": "it exchanges axes of the map",
    "RepeatVector": "it repeats one vector",
    "GroupNormalization": "it takes mean and variance over the whole map",
    "MultiHeadAttention": "every cell attends to all others",
    "GroupQueryAttention": "every cell attends to all others",
    "Attention": "every cell attends to all others",
    "AdditiveAttention": "every cell attends to all others",
    **{n: "it passes along the map, so that the last cell sees the first" for n in ("LSTM", "GRU", "SimpleRNN", "RNN")},
    "Bidirectional": "it passes along the map in both directions",
    "Resizing": "its interpolation depends on the sizes of the map",
}
"""Layers that see the whole map, and why."""


def refusal(name: str, reason: str) -> str:
    """Return the message for a layer whose receptive field is the whole map."""
    return describe(
        f"the receptive field of {name!r} is the whole map",
        expected="layers that see a neighbourhood of each cell",
        received=reason,
        remedy="predict whole maps (tiles=None), or approximate it: tiles=..., halo=..., blend=True",
    )


def _unknown(op: Any, what: str) -> str:
    return describe(
        f"the receptive field of {op.name!r} ({type(op).__name__}) is not known",
        expected="layers of Keras and physml, or a layer that says what it sees",
        received=what,
        remedy="give the layer an attribute receptive_field = ((before, after), ...) [cells], one pair for each space "
        "dimension, or pass halo={dim: cells}",
    )


def of(op: Any, signals: Sequence[Any], args: Any, kwargs: Any) -> list[Reach] | None:
    """Return the reach of a layer along every space dimension, or None where it joins its inputs cell by cell.

    Raises
    ------
    ValueError
        For layers that see the whole map, hold constants of its shape, or are not known.
    """
    kind, space = type(op).__name__, len(signals[0].reaches)
    if (reason := getattr(op, "whole_map", None)) is not None:
        raise ValueError(refusal(op.name, reason))
    said = getattr(op, "receptive_field", None)
    if said is not None:
        return _said(op, said() if callable(said) else said, space)
    if not type(op).__module__.startswith("keras."):
        raise ValueError(_unknown(op, f"a {type(op).__name__} from {type(op).__module__}"))
    if getattr(op, "data_format", "channels_last") not in ("channels_last", None):
        raise ValueError(_unknown(op, f"data_format {op.data_format!r}, where channels come last"))
    if ".ops." in type(op).__module__:
        return _operation(op, kind, signals, args, kwargs)
    if kind in GLOBAL or kind.startswith("Global") or kind.startswith("ConvLSTM"):
        raise ValueError(refusal(op.name, f"{kind}: {GLOBAL.get(kind, 'it sees all cells')}"))
    if kind == "SpectralNormalization":
        return of(op.layer, signals, args, kwargs)
    if kind in MERGES:
        _merge(op, kind, signals)
        return None
    if kind in POINTWISE:
        return [SAME] * space
    if kind in ALONG_AXIS:
        _only_channels(op, kind, op.axis, space)
        return [SAME] * space
    if kind == "PReLU":
        if space and not {*range(1, space + 1)} <= set(op.shared_axes or ()):
            raise ValueError(refusal(op.name, "PReLU: one slope for every cell of the map (see shared_axes)"))
        return [SAME] * space
    if kind == "EinsumDense":
        _check_einsum(op, space)
        return [SAME] * space
    return _stencil(op, kind, signals[0].shape[1:-1])


def _stencil(op: Any, kind: str, cells: Sequence[int | None]) -> list[Reach]:
    space = len(cells)
    if "Conv" in kind and "Transpose" in kind and hasattr(op, "kernel_size"):
        extra = op.output_padding if isinstance(op.output_padding, tuple | list) else (op.output_padding,) * space
        sizes = zip(op.kernel_size, op.strides, op.dilation_rate, extra, strict=True)
        return [transposed(k, s, d, op.padding, e) for k, s, d, e in sizes]
    if kind.startswith(("Conv", "DepthwiseConv", "SeparableConv")) and hasattr(op, "kernel_size"):
        steps: Sequence[tuple[int, int, int]] = list(zip(op.kernel_size, op.strides, op.dilation_rate, strict=True))
    elif kind.startswith(("MaxPooling", "AveragePooling")):
        steps = [(k, s, 1) for k, s in zip(op.pool_size, op.strides, strict=True)]
    elif kind.startswith("UpSampling"):
        factors = (op.size,) if isinstance(op.size, int) else tuple(op.size)
        found = [repeated(f, getattr(op, "interpolation", "nearest")) for f in factors]
        if any(f is None for f in found):
            raise ValueError(_unknown(op, f"interpolation {op.interpolation!r}, where nearest and bilinear are known"))
        return [f for f in found if f is not None]
    elif kind.startswith(("Cropping", "ZeroPadding")):
        ends = getattr(op, "cropping", None) or op.padding
        first = [ends[0]] if space == 1 else [e[0] for e in ends]
        return [shifted(n if kind.startswith("Cropping") else -n) for n in first]
    else:
        raise ValueError(_unknown(op, kind))
    out = [convolution(k, s, d, op.padding, n) for (k, s, d), n in zip(steps, cells, strict=True)]
    if any(r is None for r in out):
        raise ValueError(
            describe(
                f"the receptive field of {op.name!r} depends on the size of the map",
                expected="a size for every dimension: it is strided and pads ('same')",
                received=f"sizes {tuple(cells)}",
                remedy="receptive_field(network, shape=(cells, ...))",
            )
        )
    return [r for r in out if r is not None]


def _said(op: Any, said: Any, space: int) -> list[Reach]:
    pairs = [said] * space if isinstance(said, int | Reach) else list(said)
    if len(pairs) != space:
        raise ValueError(
            describe(
                f"{op.name!r} says its receptive field for other dimensions",
                expected=f"{space} pairs (before, after)",
                received=said,
                remedy="give one pair for each space dimension",
            )
        )
    both = [(p, p) if isinstance(p, int) else p for p in pairs]
    return [p if isinstance(p, Reach) else Reach.window(*map(int, p)) for p in both]


def _merge(op: Any, kind: str, signals: Sequence[Any]) -> None:
    last = len(signals[0].shape) - 1
    if kind == "Concatenate" and op.axis not in (-1, last):
        raise ValueError(refusal(op.name, f"it joins maps along axis {op.axis}; physml.networks.Pad pads by boundary"))


def join(op: Any, parts: Sequence[Sequence[Reach]]) -> tuple[Reach, ...]:
    """Return the reach of branches joined cell by cell."""
    found = joined(parts)
    if found is None:
        raise ValueError(_unknown(op, "branches of different resolution"))
    return tuple(found)


def _only_channels(op: Any, kind: str, axis: Any, space: int) -> None:
    axes = [axis] if isinstance(axis, int) else list(axis)
    over = [a for a in axes if a not in (-1, space + 1)]
    if over:
        raise ValueError(refusal(op.name, f"{kind} over axis {over[0]}, a dimension of the map"))


def _check_einsum(op: Any, space: int) -> None:
    left, out = op.equation.replace(" ", "").replace("...", "").split("->")
    given, kernel = left.split(",")
    dims = given[-1 - space : -1] if "..." not in op.equation else ""
    if any(d in kernel for d in dims) or dims not in out:
        raise ValueError(refusal(op.name, f"EinsumDense {op.equation!r} acts on a dimension of the map"))


def _operation(op: Any, kind: str, signals: Sequence[Any], args: Any, kwargs: Any) -> list[Reach] | None:
    space = len(signals[0].reaches)
    if kind in OPERATIONS:
        import keras

        for constant in keras.tree.flatten([args, kwargs]):
            shape = getattr(constant, "shape", ())
            if not any(constant is s for s in signals) and any(n != 1 for n in tuple(shape)[-1 - space : -1]):
                raise ValueError(refusal(op.name, f"a constant of shape {tuple(shape)}, one value for every cell"))
        return None
    if kind == "Concatenate":
        _merge(op, kind, signals)
        return None
    if kind == "GetItem":
        return _slices(op, kwargs.get("key", args[-1]), space)
    if kind == "Pad" and op.mode in ("constant", "edge", "reflect", "symmetric"):
        width = op.pad_width
        pairs = [tuple(np.broadcast_to(w, 2)) for w in np.broadcast_to(np.asarray(width), (space + 2, 2))]
        return [shifted(-int(a), clamps=op.mode != "constant") for a, _ in pairs[1:-1]]
    if kind in ("Softmax", "LogSoftmax"):
        _only_channels(op, kind, op.axis, space)
        return [SAME] * space
    raise ValueError(_unknown(op, f"keras.ops: {kind}"))


def _slices(op: Any, key: Any, space: int) -> list[Reach]:
    parts = list(key) if isinstance(key, tuple | list) else [key]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (space + 3 - len(parts))
    parts += [slice(None)] * (space + 2 - len(parts))
    out = []
    for part in parts[1:-1]:
        start, stop, step = (part.start, part.stop, part.step) if isinstance(part, slice) else (-1, 0, 1)
        if (start or 0) < 0 or (stop is not None and stop >= 0) or (step or 1) < 1:
            raise ValueError(refusal(op.name, f"it takes {part} of the map; a crop counts from both ends, x[:, 2:-2]"))
        out.append(shifted(start or 0, step or 1))
    if len(parts) != space + 2 or not isinstance(parts[-1], slice):
        raise ValueError(_unknown(op, f"an index {key} that drops an axis"))
    return out
