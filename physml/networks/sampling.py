"""Coarser and finer maps by boundary and mask: sizes brought to a multiple and back, pooling of valid cells, interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from physml._errors import is_count, refuse
from physml.networks.padding import Pad, circle_of
from physml.reach import SAME, Reach, convolution, repeated, shifted


@keras.saving.register_keras_serializable(package="physml")
class PadTo(keras.layers.Layer):
    """Pad the far end of every dimension to the next multiple of a number, by its boundary.

    Parameters
    ----------
    multiple
        For each space dimension.
    boundary
        As for :class:`physml.networks.Pad`.

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    The same with sizes that are multiples; :class:`CropTo` undoes it.

    Examples
    --------
    >>> PadTo((4, 2), ("open", "closed"))(ops.ones((1, 5, 4, 1))).shape == (1, 8, 4, 1)
    True
    """

    def __init__(self, multiple: Sequence[int], boundary: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.multiple, self.boundary = tuple(multiple), tuple(boundary)
        _counts("PadTo: multiple", self.multiple, len(self.boundary))
        self.most = Pad([(0, m - 1) for m in self.multiple], self.boundary, dtype=self.dtype_policy)

    def build(self, *shapes: Any) -> None:
        """Make no weights."""
        self.built = True

    def call(self, x: Any) -> Any:
        """Return the padded tensor."""
        sizes = tuple(x.shape[1:-1])
        if None not in sizes:
            return Pad(
                [(0, -n % m) for n, m in zip(sizes, self.multiple, strict=True)], self.boundary, dtype=self.dtype_policy
            )(x)
        total = [-(-n // m) * m for n, m in zip(ops.shape(x)[1:-1], self.multiple, strict=True)]
        return self.most(x)[(slice(None), *(slice(0, n) for n in total))]

    def receptive_field(self) -> list[Reach]:
        """Return what the cells see: themselves, and past the far end what the boundary says."""
        return [replace(r, step=1, sees=SAME.sees) for r in self.most.receptive_field()]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape with sizes that are multiples."""
        sizes = zip(input_shape[1:-1], self.multiple, strict=True)
        return (input_shape[0], *(None if n is None else -(-n // m) * m for n, m in sizes), input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "multiple": self.multiple, "boundary": self.boundary}


@keras.saving.register_keras_serializable(package="physml")
class CropTo(keras.layers.Layer):
    """Cut the far ends of a map down to the sizes of another one: ``CropTo()(x, like)``.

    Parameters
    ----------
    before
        Cells cut off the near end, for each space dimension.

    Input shape
    -----------
    ``[batch, *space, channel]``, twice.

    Output shape
    ------------
    ``[batch, *space of the second, channel of the first]``.
    """

    def __init__(self, before: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.before = tuple(before)

    def call(self, x: Any, like: Any) -> Any:
        """Return the first map on the cells of the second."""
        sizes = [n if n is not None else ops.shape(like)[i] for i, n in enumerate(like.shape[1:-1], start=1)]
        return x[(slice(None), *(slice(b, b + n) for b, n in zip(self.before, sizes, strict=True)))]

    def receptive_field(self) -> list[Reach]:
        """Return that every cell sees one."""
        return [shifted(b) for b in self.before]

    def compute_output_shape(self, x_shape: Any, like_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the second with the channels of the first."""
        return (*like_shape[:-1], x_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "before": self.before}


@keras.saving.register_keras_serializable(package="physml")
class Upsample(keras.layers.Layer):
    """Interpolate linearly between the centres of coarse cells, across a seam or a pole where the boundary says so.

    Parameters
    ----------
    factor
        Fine cells in a coarse one, for each space dimension.
    boundary
        As for :class:`physml.networks.Pad`; at closed and open ends the last cell goes on.

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    The same with sizes multiplied by *factor*.

    Examples
    --------
    >>> Upsample((2,), ("periodic",))(ops.convert_to_tensor([[[0.0], [4.0]]])).shape == (1, 4, 1)
    True
    """

    def __init__(self, factor: Sequence[int], boundary: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor, self.boundary = tuple(factor), tuple(boundary)
        _counts("Upsample: factor", self.factor, len(self.boundary))
        ends = tuple("open" if k == "closed" else k for k in self.boundary)
        self.pad = Pad([int(f > 1) for f in self.factor], ends, dtype=self.dtype_policy)

    def build(self, *shapes: Any) -> None:
        """Make no weights."""
        self.built = True

    def call(self, x: Any) -> Any:
        """Return the finer map."""
        x = self.pad(x)
        for axis, factor in enumerate(self.factor, start=1):
            if factor > 1:
                x = self._along(x, axis, factor)
        return x

    @staticmethod
    def _along(x: Any, axis: int, factor: int) -> Any:
        def cells(start: int, stop: int | None) -> Any:
            return x[(slice(None),) * axis + (slice(start, stop),)]

        left, here, right = cells(0, -2), cells(1, -1), cells(2, None)
        parts = []
        for r in range(factor):
            # Centre of fine cell r from that of its coarse cell.
            off = (2 * r + 1 - factor) / (2 * factor)
            parts.append((1 - abs(off)) * here + abs(off) * (left if off < 0 else right) if off else here)
        shape = list(ops.shape(here))
        shape[axis] = shape[axis] * factor
        return ops.reshape(ops.stack(parts, axis=axis + 1), shape)

    def receptive_field(self) -> list[Reach]:
        """Return the two coarse cells between which every fine one lies."""
        found = []
        for factor, kind in zip(self.factor, self.boundary, strict=True):
            reach = repeated(factor, "bilinear")
            assert reach is not None
            found.append(
                replace(reach, wraps=factor > 1 and kind == "periodic", clamps=factor > 1 and kind != "periodic")
            )
        circle = circle_of(self.boundary)
        if circle is not None and self.factor[self.boundary.index("pole")] > 1:
            found[circle] = replace(found[circle], crosses=True)
        return found

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the finer shape."""
        inner = [None if n is None else n * f for n, f in zip(input_shape[1:-1], self.factor, strict=True)]
        return (input_shape[0], *inner, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "factor": self.factor, "boundary": self.boundary}


@keras.saving.register_keras_serializable(package="physml")
class Pool(keras.layers.Layer):
    """Pool the valid cells of each block: ``values, valid = Pool((2, 2))(values, valid)``.

    Parameters
    ----------
    size
        Cells of a block along each space dimension; they divide the map.
    kind
        ``"average"`` (weighted by the validity of the cells) or ``"max"``. A block without a valid cell holds 0.

    Input shape
    -----------
    ``[batch, *space, channel]`` and the validity ``[batch, *space, 1]``, 0 on masked cells.

    Output shape
    ------------
    ``[batch, *blocks, channel]`` and ``[batch, *blocks, 1]``.

    Examples
    --------
    >>> values, valid = Pool((2,))(ops.convert_to_tensor([[[3.0], [9.0]]]), ops.convert_to_tensor([[[1.0], [0.0]]]))
    >>> float(values[0, 0, 0]), float(valid[0, 0, 0])
    (3.0, 1.0)
    """

    def __init__(self, size: Sequence[int], kind: str = "average", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, self.kind = tuple(size), kind
        _counts("Pool: size", self.size, len(self.size))
        if kind not in ("average", "max"):
            refuse("Pool: unknown kind", "'average' or 'max'", kind, "kind='average'")

    def call(self, x: Any, valid: Any) -> tuple[Any, Any]:
        """Return the pooled values, and where there are any."""
        valid = ops.cast(valid, x.dtype)
        found = ops.max_pool(valid, self.size, self.size, "valid", "channels_last")
        if self.kind == "max":
            low = ops.cast(-6e4, x.dtype)  # the least of half precision
            y = ops.max_pool(ops.where(valid > 0, x, low), self.size, self.size, "valid", "channels_last")
        else:
            total = ops.average_pool(
                ops.where(valid > 0, x * valid, ops.zeros_like(x)), self.size, self.size, "valid", "channels_last"
            )
            weight = ops.average_pool(valid, self.size, self.size, "valid", "channels_last")
            y = total / ops.where(weight > 0, weight, ops.ones_like(weight))
        return ops.where(found > 0, y, ops.zeros_like(y)), ops.cast(found > 0, x.dtype)

    def receptive_field(self) -> list[Reach]:
        """Return the cells of the block."""
        found = [convolution(n, n, 1, "valid", None) for n in self.size]
        return [r for r in found if r is not None]

    def compute_output_shape(self, x_shape: Any, valid_shape: Any) -> Any:
        """Return the shapes of values and validity."""
        inner = [None if n is None else n // s for n, s in zip(x_shape[1:-1], self.size, strict=True)]
        return (x_shape[0], *inner, x_shape[-1]), (valid_shape[0], *inner, 1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "size": self.size, "kind": self.kind}


def _counts(what: str, numbers: Sequence[int], space: int) -> None:
    if len(numbers) != space or not all(is_count(n) for n in numbers):
        refuse(f"{what} does not fit", f"a whole number >= 1 for each of {space} dimensions", tuple(numbers), "(2, 2)")
