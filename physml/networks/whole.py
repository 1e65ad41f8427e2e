"""The whole map as one vector: its valid cells and back, or their mean; and masks of a grid in a configuration."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from physml._errors import refuse


def encoded(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask as plain values, packed: it is then part of the configuration of a layer.

    Examples
    --------
    >>> decoded(encoded(np.array([[True, False]]))).tolist()
    [[True, False]]
    """
    mask = np.asarray(mask, bool)
    cells = base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode("ascii")
    return {"shape": list(mask.shape), "cells": cells}


def decoded(mask: Mapping[str, Any]) -> np.ndarray:
    """Return the mask that :func:`encoded` packed."""
    size = int(np.prod(mask["shape"], dtype=int))
    bits = np.frombuffer(zlib.decompress(base64.b64decode(mask["cells"])), "uint8")
    return np.unpackbits(bits, count=size).astype(bool).reshape(mask["shape"])


class _Masked(keras.layers.Layer):
    """A layer that holds the mask of the grid."""

    whole_map = "it holds the mask of the grid and joins all cells in one vector"

    def __init__(self, mask: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask = decoded(mask) if isinstance(mask, Mapping) else np.asarray(mask, bool)
        if not self.mask.any():
            refuse(
                f"{type(self).__name__}: no cell is valid", "a mask with valid cells", self.mask.shape, "check the mask"
            )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, the mask packed."""
        return {**super().get_config(), "mask": encoded(self.mask)}


@keras.saving.register_keras_serializable(package="physml")
class Gather(_Masked):
    """Return the valid cells of a map as one vector.

    Parameters
    ----------
    mask
        Valid cells ``[*space, channel]``.

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    ``[batch, valid cell]``.

    Examples
    --------
    >>> np.asarray(Gather([[True], [False]])(np.array([[[3.0], [9.0]]]))).tolist()
    [[3.0]]
    """

    def call(self, x: Any) -> Any:
        """Return the vector."""
        if tuple(x.shape[1:]) != self.mask.shape:
            refuse(
                "Gather: the map is not the grid of the mask",
                self.mask.shape,
                tuple(x.shape[1:]),
                "build it for this grid",
            )
        flat = ops.reshape(x, (-1, self.mask.size))
        return ops.take(flat, np.flatnonzero(self.mask).astype("int32"), axis=1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the vector."""
        return (input_shape[0], int(self.mask.sum()))


@keras.saving.register_keras_serializable(package="physml")
class Scatter(_Masked):
    """Put a vector back on the valid cells of a map; 0 elsewhere.

    Parameters
    ----------
    mask
        Valid cells ``[*space, channel]``.

    Input shape
    -----------
    ``[batch, valid cell]``.

    Output shape
    ------------
    ``[batch, *space, channel]``.

    Examples
    --------
    >>> np.asarray(Scatter([[True], [False]])(np.array([[3.0]]))).tolist()
    [[[3.0], [0.0]]]
    """

    def call(self, x: Any) -> Any:
        """Return the map."""
        places = np.where(self.mask.ravel(), np.cumsum(self.mask) - 1, self.mask.sum()).astype("int32")
        x = ops.concatenate([x, ops.zeros_like(x[:, :1])], axis=1)
        return ops.reshape(ops.take(x, places, axis=1), (-1, *self.mask.shape))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the map."""
        return (input_shape[0], *self.mask.shape)


@keras.saving.register_keras_serializable(package="physml")
class GlobalPool(keras.layers.Layer):
    """Return the mean or the greatest value of the valid cells of a map: ``GlobalPool("average")(values, valid)``.

    Parameters
    ----------
    kind
        ``"average"`` (weighted by validity) or ``"max"``. A map without a valid cell gives 0.

    Input shape
    -----------
    ``[batch, *space, channel]`` and the validity ``[batch, *space, 1]``.

    Output shape
    ------------
    ``[batch, channel]``.

    Examples
    --------
    >>> float(GlobalPool("average")(np.array([[[3.0], [9.0]]]), np.array([[[1.0], [0.0]]]))[0, 0])
    3.0
    """

    whole_map = "it joins all valid cells in one value"

    def __init__(self, kind: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        if kind not in ("average", "max"):
            refuse("GlobalPool: unknown kind", "'average' or 'max'", kind, "kind='average'")

    def call(self, x: Any, valid: Any) -> Any:
        """Return one value for each channel."""
        axes = tuple(range(1, len(x.shape) - 1))
        seen = valid > 0
        if self.kind == "max":
            y = ops.max(ops.where(seen, x, ops.cast(-6e4, x.dtype)), axis=axes)
            return ops.where(ops.any(seen, axis=axes), y, ops.zeros_like(y))
        # Sums over a map leave half precision.
        weight = ops.cast(valid, "float32")
        total = ops.sum(ops.where(seen, ops.cast(x, "float32") * weight, ops.zeros_like(x, dtype="float32")), axis=axes)
        mean = total / ops.maximum(ops.sum(weight, axis=axes), 1e-6)
        return ops.cast(mean, x.dtype)

    def compute_output_shape(self, x_shape: Any, valid_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the vector."""
        return (x_shape[0], x_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "kind": self.kind}


@keras.saving.register_keras_serializable(package="physml")
class ValidBatchNorm(keras.layers.BatchNormalization):
    """``keras.layers.BatchNormalization`` by the mean and variance of the valid cells: ``ValidBatchNorm()(values, valid)``.

    Parameters
    ----------
    **kwargs
        As for the layer of Keras, which has the same weights.

    Input shape
    -----------
    ``[batch, *space, channel]`` and the validity ``[batch, *space, 1]``, 0 on masked cells.

    Output shape
    ------------
    ``[batch, *space, channel]``.
    """

    receptive_field = 0

    def build(self, x_shape: Any, valid_shape: Any = None) -> None:
        """Make the weights."""
        super().build(x_shape)

    def call(self, x: Any, valid: Any, training: bool | None = None) -> Any:
        """Return the normalised values."""
        return super().call(x, training=training, mask=valid[..., 0] > 0)

    def compute_output_shape(self, x_shape: Any, valid_shape: Any = None) -> tuple[int | None, ...]:
        """Return the shape of the values."""
        return tuple(x_shape)


@keras.saving.register_keras_serializable(package="physml")
class ValidGroupNorm(keras.layers.Layer):
    """Normalise groups of channels by the mean and variance of their valid cells: ``ValidGroupNorm(groups)(values, valid)``.

    Where all cells are valid it is ``keras.layers.GroupNormalization`` (Wu and He 2018, doi:10.1007/978-3-030-01261-8_1), with the
    same weights.

    Parameters
    ----------
    groups
        Number of groups; it divides the channels.
    epsilon
        Added to the variance.

    Input shape
    -----------
    ``[batch, *space, channel]`` and the validity ``[batch, *space, 1]``, 0 on masked cells.

    Output shape
    ------------
    ``[batch, *space, channel]``.
    """

    whole_map = "it takes mean and variance over all valid cells"

    def __init__(self, groups: int, epsilon: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups, self.epsilon = int(groups), float(epsilon)

    def build(self, x_shape: Any, valid_shape: Any) -> None:
        """Make factor and shift of each channel."""
        channels = int(x_shape[-1])
        if self.groups < 1 or channels % self.groups:
            refuse(
                "ValidGroupNorm: groups do not divide the channels", f"a divisor of {channels}", self.groups, "groups=1"
            )
        self.gamma = self.add_weight(shape=(channels,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(channels,), initializer="zeros", name="beta")
        self.built = True

    def call(self, x: Any, valid: Any) -> Any:
        """Return the normalised values."""
        # Sums over a map leave half precision.
        values, seen = ops.cast(x, "float32"), ops.cast(valid > 0, "float32")
        channels, axes = int(x.shape[-1]), tuple(range(1, len(x.shape) - 1))
        spread = np.kron(np.eye(self.groups), np.full((channels // self.groups,) * 2, self.groups / channels)).astype(
            "float32"
        )
        cells = ops.maximum(ops.sum(seen, axis=axes, keepdims=True), 1.0)

        def mean(y: Any) -> Any:
            return ops.matmul(ops.sum(y * seen, axis=axes, keepdims=True) / cells, spread)

        values = values - mean(values)
        values = values / ops.sqrt(mean(ops.square(values)) + self.epsilon)
        return ops.cast(values * ops.cast(self.gamma, "float32") + ops.cast(self.beta, "float32"), x.dtype)

    def compute_output_shape(self, x_shape: Any, valid_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the values."""
        return tuple(x_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "groups": self.groups, "epsilon": self.epsilon}
