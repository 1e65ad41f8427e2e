"""Convolutions that see valid cells alone: what stands on land is no water, and changes nothing at sea."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from physml._errors import closest, is_count, refuse
from physml.networks.whole import decoded, encoded
from physml.reach import Reach, convolution


@keras.saving.register_keras_serializable(package="physml")
class Valid(keras.layers.Layer):
    """Tell which cells are valid: ``values, valid = Valid(mask)(x)``; invalid cells of the values hold 0.

    Parameters
    ----------
    mask
        Valid cells of the grid ``[*space]`` or ``[*space, channel]``, kept with the layer; ``"nan"``: those that are not NaN.
    channel
        In place of *mask*, the channel of the input that is positive on valid cells, such as a scaled mask of 0 and 1.

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    The same, and ``[batch, *space, 1]``; or one for each channel where their masks differ.

    Examples
    --------
    >>> values, valid = Valid("nan")(ops.convert_to_tensor([[[3.0], [float("nan")]]]))
    >>> np.asarray(values)[0, :, 0].tolist(), np.asarray(valid)[0, :, 0].tolist()
    ([3.0, 0.0], [1.0, 0.0])
    """

    def __init__(self, mask: Any = None, channel: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if (mask is None) == (channel is None) or (isinstance(mask, str) and mask != "nan"):
            hint = closest(mask, ["nan"]) if isinstance(mask, str) else ""
            expected = "a mask of the grid, mask='nan', or channel=k"
            refuse(
                f"Valid does not know which cells are valid{hint}",
                expected,
                f"mask={mask}, channel={channel}",
                "Valid('nan')",
            )
        self.channel = channel
        self.mask: Any = mask if mask is None or isinstance(mask, str) else decoded(mask) if isinstance(mask, dict) else np.asarray(mask, bool)  # fmt: skip

    @property
    def reads_gaps(self) -> bool:
        """Whether it tells masked cells by NaN: a :class:`physml.FieldModel` then leaves them there."""
        return isinstance(self.mask, str)

    @property
    def whole_map(self) -> str | None:
        """Why it sees the whole map, or None."""
        return "it holds the mask of the grid" if isinstance(self.mask, np.ndarray) else None

    receptive_field = 0

    def call(self, x: Any) -> tuple[Any, Any]:
        """Return the values, 0 where they are not valid, and where they are."""
        if self.channel is not None:
            valid = x[..., self.channel : self.channel + 1] > 0
        elif isinstance(self.mask, str):
            valid = ops.isfinite(x)
        else:
            valid = ops.convert_to_tensor(self._of(x))
        values = ops.where(valid, x, ops.zeros_like(x))
        if isinstance(self.mask, np.ndarray):  # one for every row
            valid = ops.logical_and(valid, ops.ones_like(x[..., : valid.shape[-1]], dtype="bool"))
        return values, ops.cast(valid, x.dtype)

    def _of(self, x: Any) -> np.ndarray:
        mask = self.mask if self.mask.ndim == len(x.shape) - 1 else self.mask[..., None]
        if mask.shape[:-1] != tuple(x.shape[1:-1]):
            refuse(
                "Valid: the map is not the grid of the mask",
                mask.shape[:-1],
                tuple(x.shape[1:-1]),
                "Valid('nan') takes any map",
            )
        return mask

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shapes of values and validity."""
        depth = 1
        if isinstance(self.mask, str):
            depth = input_shape[-1]
        elif self.mask is not None and self.mask.ndim == len(input_shape) - 1:
            depth = self.mask.shape[-1]
        return tuple(input_shape), (*input_shape[:-1], depth)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; a mask of the grid packed."""
        mask = encoded(self.mask) if isinstance(self.mask, np.ndarray) else self.mask
        return {**super().get_config(), "mask": mask, "channel": self.channel}


@keras.saving.register_keras_serializable(package="physml")
class PartialConv(keras.layers.Layer):
    """Convolve valid cells alone, scaled up for those that are missing: ``values, valid = PartialConv(32, 3)(values, valid)``.

    With the kernel W, the values X and the validity M of the n cells of a stencil, ``y = W . (X M) n / sum(M) + b`` where any
    cell is valid, and 0 elsewhere; the result is valid where any cell was. It pads nothing: :class:`physml.networks.Pad` pads
    values and validity alike, and what lies beyond a closed end is not valid. Where all cells are, it is the plain convolution.
    A field that is the same in all valid cells stays so up to the coast under a kernel of equal weights.

    Parameters
    ----------
    filters
        Output channels.
    kernel_size
        Odd or even number of cells along each dimension, or of all.
    strides
        Cells between the stencils, of all dimensions or of each.
    use_bias, kernel_initializer, kernel_regularizer
        As for the convolutions of Keras.

    Call arguments
    --------------
    values
        ``[batch, *space, channel]``; anything may stand on invalid cells, NaN too.
    valid
        ``[batch, *space, 1]`` or one for each channel: 0 on masked cells, 1 on valid ones, a fraction on cells that are partly sea.
    area
        ``[batch or 1, *space, 1]``, positive: cells count by it, M times the area in place of M. Equal areas change nothing.

    Output shape
    ------------
    ``[batch, *space, filters]`` and ``[batch, *space, 1]``.

    Raises
    ------
    ValueError
        For sizes that are no counts, and maps of other than one to three dimensions.

    References
    ----------
    Liu, G. et al. (2018), Image inpainting for irregular holes using partial convolutions, doi:10.1007/978-3-030-01252-6_6.

    Examples
    --------
    >>> layer = PartialConv(1, 3, kernel_initializer=keras.initializers.Constant(1 / 3))
    >>> field, wet = np.array([[[2.0], [2.0], [9e9]]], "float32"), np.array([[[1.0], [1.0], [0.0]]], "float32")
    >>> values, valid = layer(field, wet)
    >>> round(float(values[0, 0, 0]), 6), float(valid[0, 0, 0])
    (2.0, 1.0)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        *,
        use_bias: bool = True,
        kernel_initializer: Any = "he_normal",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters, self.use_bias = filters, bool(use_bias)
        self.kernel_size, self.strides = _sizes(kernel_size), _sizes(strides)
        counts = {"filters": (filters,), "kernel_size": self.kernel_size, "strides": self.strides}
        for what, numbers in counts.items():
            if not all(is_count(n) for n in numbers):
                refuse(f"PartialConv: {what} is no count", "whole numbers >= 1", getattr(self, what), f"{what}=3")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, values_shape: Any, valid_shape: Any, area_shape: Any = None) -> None:
        """Make the weights."""
        space = len(values_shape) - 2
        if not 1 <= space <= 3 or any(len(s) not in (1, space) for s in (self.kernel_size, self.strides)):
            refuse(
                "PartialConv does not fit the map",
                "one to three space dimensions, sizes for all or each",
                values_shape,
                "[batch, lat, lon, channel]",
            )
        if valid_shape[-1] not in (1, values_shape[-1]):
            refuse(
                "PartialConv: the validity has other channels",
                f"1 or {values_shape[-1]}",
                valid_shape[-1],
                "Valid(mask)(x)",
            )
        self._kernel = self.kernel_size * space if len(self.kernel_size) == 1 else self.kernel_size
        self._strides = self.strides * space if len(self.strides) == 1 else self.strides
        shape = (*self._kernel, int(values_shape[-1]), self.filters)
        self.kernel = self.add_weight(
            shape=shape, initializer=self.kernel_initializer, regularizer=self.kernel_regularizer, name="kernel"
        )
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias") if self.use_bias else None
        self.built = True

    def call(self, values: Any, valid: Any, area: Any = None) -> tuple[Any, Any]:
        """Return the convolved values and where they are valid."""
        valid = ops.cast(valid, values.dtype)
        seen = valid > 0
        x = ops.where(seen, values * valid, ops.zeros_like(values))
        # Counts and areas in single precision: their quotient scales every output.
        part = ops.cast(valid, "float32")
        if area is not None:
            measure = ops.cast(area, "float32")
            x, part = x * ops.cast(measure, x.dtype), part * measure
        y = ops.conv(x, ops.cast(self.kernel, x.dtype), self._strides, "valid", "channels_last")
        ones = ops.ones((*self._kernel, int(part.shape[-1]), 1), "float32")
        part = ops.conv(part, ones, self._strides, "valid", "channels_last")
        found = part > 0
        scale = float(np.prod(ones.shape)) / ops.where(found, part, ops.ones_like(part))
        y = y * ops.cast(scale, y.dtype)
        if self.bias is not None:
            y = y + ops.cast(self.bias, y.dtype)
        return ops.where(found, y, ops.zeros_like(y)), ops.cast(found, y.dtype)

    def receptive_field(self) -> list[Reach]:
        """Return the cells of the stencil."""
        found = [convolution(k, s, 1, "valid", None) for k, s in zip(self._kernel, self._strides, strict=True)]
        return [r for r in found if r is not None]

    def compute_output_shape(self, values_shape: Any, valid_shape: Any, area_shape: Any = None) -> Any:
        """Return the shapes of values and validity."""
        sizes = zip(values_shape[1:-1], self._kernel, self._strides, strict=True)
        inner = [None if n is None else (n - k) // s + 1 for n, k, s in sizes]
        return (values_shape[0], *inner, self.filters), (valid_shape[0], *inner, 1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


def _sizes(numbers: int | Sequence[int]) -> tuple[int, ...]:
    return (numbers,) if isinstance(numbers, int | float) else tuple(numbers)
