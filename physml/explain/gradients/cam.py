"""Grad-CAM: where the features of one layer speak for the target.

``CAM = max(0, sum_k a_k A_k)`` with A_k the k-th feature of the layer and a_k the mean over space of the target's gradient in it

A field of where, on the grid of the layer and interpolated to that of the inputs. It does not add up to the prediction, does not
tell the inputs apart, and leaves out what speaks against the target.

References
----------
Selvaraju, R. R. et al., 2020: Grad-CAM: visual explanations from deep networks via gradient-based localization. International
Journal of Computer Vision 128, 336-359. doi:10.1007/s11263-019-01228-7
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from physml._backend import vjp
from physml._errors import closest, describe
from physml.explain.gradients.layers import operations
from physml.explain.gradients.rows import Rows, compiled_rows
from physml.receptive import replay

CONVOLUTIONS = tuple(
    getattr(layers, kind + form)
    for kind in (
        "Conv1D",
        "Conv2D",
        "Conv3D",
        "DepthwiseConv1D",
        "DepthwiseConv2D",
        "SeparableConv1D",
        "SeparableConv2D",
    )
    for form in ("", "Transpose")
    if hasattr(layers, kind + form)
)

Through = Callable[[Any, Callable[[Any], Any]], Any]
"""``(inputs, network) -> outputs``: a model around its network, which is handed in."""


def activation_map(
    network: Any,
    through: Through,
    weights: np.ndarray,
    layer: str | None,
    variables: list[Any],
    shape: tuple[int, ...],
    dtype: str,
    scale: float = 1.0,
) -> Rows:
    """Return a function from inputs ``[row, *space, channel]`` to maps ``[row, *space]``, compiled once.

    Parameters
    ----------
    network
        Functional or Sequential, nested models included.
    through
        The model with its network handed in.
    weights
        The target, a linear functional of the model's outputs ``[output element]``.
    layer
        Name of the layer; None: the last convolution.
    variables
        Keras variables that are read.
    shape, dtype
        Of the inputs, with the number of rows.
    scale
        What the target is divided by on the way, so that half precision holds it.

    Raises
    ------
    ValueError
        Where there is no such layer, or its output lies on other dimensions than the inputs.
    """
    chosen, turn = choose(network, shape, dtype, layer)
    column = np.asarray(weights / scale, dtype).reshape(-1, 1)

    def run(x: Any, shift: Any | None) -> tuple[Any, Any]:
        seen, calls = [], [0]

        def call(op: Any, *args: Any, **kwargs: Any) -> Any:
            out = op(*args, **kwargs)
            if op is not chosen:
                return out
            calls[0] += 1
            if calls[0] - 1 != turn:
                return out
            seen.append(out)
            return out if shift is None else out + ops.cast(shift, out.dtype)

        y = through(x, lambda z: replay(network, z, call))
        return ops.matmul(ops.cast(ops.reshape(y, (shape[0], -1)), dtype), column), seen[0]

    def function(x: Any) -> tuple[Any, Any]:
        features = run(x, None)[1]
        # The derivative in a shift of the features by zero is the one in the features themselves.
        _, pull = vjp(lambda shift: run(x, shift)[0], ops.zeros_like(features))
        return features, pull(ops.ones((shape[0], 1), dtype))

    compiled = compiled_rows(function, variables, shape, dtype)

    def maps(rows: np.ndarray) -> np.ndarray:
        features, slopes = (a.astype("float64") for a in compiled(rows))
        share = scale * slopes.mean(tuple(range(1, slopes.ndim - 1)), keepdims=True)
        return resized(np.maximum((share * features).sum(-1), 0), shape[1:-1])

    return maps


def resized(field: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return fields ``[row, *space]`` interpolated linearly to another number of cells on the same extent.

    Examples
    --------
    >>> resized(np.array([[0.0, 4.0]]), (4,))
    array([[0., 1., 3., 4.]])
    """
    for axis, cells in enumerate(shape, start=1):
        have = field.shape[axis]
        at = np.clip((np.arange(cells) + 0.5) * have / cells - 0.5, 0, have - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape(-1, *[1] * (field.ndim - axis - 1))
        field = field.take(low, axis) * (1 - share) + field.take(np.minimum(low + 1, have - 1), axis) * share
    return field


def choose(network: Any, shape: Sequence[int | None], dtype: str, name: str | None) -> tuple[Any, int]:
    """Return a layer and which of its calls is meant (the last), counted from 0."""
    found = [(op, out) for op, _, _, out in operations(network, shape, dtype) if hasattr(out, "shape")]
    fits = [op for op, out in found if len(out.shape) == len(shape) and isinstance(op, keras.layers.Layer)]
    wanted = (
        [op for op in fits if isinstance(op, CONVOLUTIONS)] if name is None else [op for op in fits if op.name == name]
    )
    if not wanted:
        names = list(dict.fromkeys(op.name for op in fits))
        what = (
            "no convolution"
            if name is None
            else f"no layer {name!r} on the dimensions of the inputs{closest(name, names)}"
        )
        raise ValueError(
            describe(
                f"Grad-CAM finds {what} in {getattr(network, 'name', type(network).__name__)!r}",
                expected="a Functional or Sequential model with a layer [batch, *space, feature]",
                received=", ".join(names) or ", ".join(type(op).__name__ for op, _ in found),
                remedy="layer='name' of one of these, or kind='integrated'",
            )
        )
    return wanted[-1], sum(op is wanted[-1] for op, _ in found) - 1
