"""Padding by boundary: what a stencil sees beyond the ends of each dimension is said, never assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from physml._errors import closest, describe
from physml.reach import Reach, shifted

KINDS = ("periodic", "closed", "open")


def boundaries(boundary: Mapping[str, str], space: Sequence[str]) -> tuple[str, ...]:
    """Return the boundary of every space dimension, in order.

    Raises
    ------
    ValueError
        Where one is missing or unknown.

    Examples
    --------
    >>> boundaries({"lon": "periodic", "lat": "closed"}, ("lat", "lon"))
    ('closed', 'periodic')
    """
    unknown = [d for d in boundary if d not in space]
    bad = [b for b in boundary.values() if b not in KINDS]
    if unknown or bad or set(boundary) != set(space):
        hint = closest(unknown[0], space) if unknown else closest(str(bad[0]), KINDS) if bad else ""
        raise ValueError(
            describe(
                f"the boundary does not fit the grid{hint}",
                expected=f"one of {KINDS} for each of {tuple(space)}",
                received=dict(boundary),
                remedy="say for every space dimension what lies beyond its ends",
            )
        )
    return tuple(boundary[d] for d in space)


@keras.saving.register_keras_serializable(package="physml")
class Pad(keras.layers.Layer):
    """Pad the space dimensions by their boundaries.

    Parameters
    ----------
    width
        Cells added at both ends of every dimension.
    boundary
        For each space dimension: ``"periodic"`` (the other end), ``"closed"`` (zero: in scaled units the mean, as on masked
        cells) or ``"open"`` (the nearest cell repeated).

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    The same with ``2 * width`` more cells along every space dimension. Sizes may be unknown until the layer runs.
    """

    def __init__(self, width: int, boundary: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.boundary = width, tuple(boundary)

    def call(self, x: Any) -> Any:
        """Return the padded tensor."""
        n = self.width
        if n == 0:
            return x
        for axis, kind in enumerate(self.boundary, start=1):
            if kind == "closed":
                pads = [[0, 0] for _ in x.shape]
                pads[axis] = [n, n]
                x = ops.pad(x, pads)
                continue
            at: list[Any] = [slice(None)] * len(x.shape)
            size = x.shape[axis]
            if kind == "periodic" and size is not None and n > size:
                raise ValueError(
                    describe(
                        f"Pad: a periodic dimension of {size} cells is shorter than the stencil reaches",
                        expected=f"at least {n} cells",
                        received=size,
                        remedy="use a smaller kernel",
                    )
                )
            first, last = list(at), list(at)
            # Counted from the end, so that maps of any size pass.
            if kind == "periodic":
                first[axis], last[axis] = slice(-n, None), slice(0, n)
                parts = [x[tuple(first)], x, x[tuple(last)]]
            else:
                first[axis], last[axis] = slice(0, 1), slice(-1, None)
                parts = [x[tuple(first)]] * n + [x] + [x[tuple(last)]] * n
            x = ops.concatenate(parts, axis=axis)
        return x

    def receptive_field(self) -> list[Reach]:
        """Return what the padded cells see: those of the other end where the boundary is periodic."""
        n = self.width
        return [shifted(-n, wraps=n > 0 and k == "periodic", clamps=n > 0 and k == "open") for k in self.boundary]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the padded shape."""
        inner = [None if s is None else s + 2 * self.width for s in input_shape[1:-1]]
        return (input_shape[0], *inner, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "width": self.width, "boundary": self.boundary}


@keras.saving.register_keras_serializable(package="physml")
class Inside(keras.layers.Layer):
    """Append a channel of ones.

    Padded with zeros, it lets a stencil tell a closed end from a cell whose fields are at their mean.

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    ``[batch, *space, channel + 1]``.
    """

    receptive_field = 0

    def call(self, x: Any) -> Any:
        """Return the tensor with one more channel."""
        return ops.concatenate([x, ops.ones_like(x[..., :1])], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape with one more channel."""
        return (*input_shape[:-1], input_shape[-1] + 1)
