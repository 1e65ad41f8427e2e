"""Bounds: concentrations and amounts that cannot be negative."""

from __future__ import annotations

from typing import Any

from keras import ops

from physml.constraints.base import Constraint, Fields
from physml.layout import Layout


class NonNegative(Constraint):
    """A variable is >= 0 in its physical units.

    Alone its projection is a clip. Together with :class:`Conserve` both hold at once, at the nearest field.

    Parameters
    ----------
    name
        Target variable.

    Examples
    --------
    >>> NonNegative("tracer")
    NonNegative(name='tracer')
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def residual(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return ``min(y, 0)`` in the units of the variable, ``[batch, *space, offset and level]``."""
        y = outputs[self.name]
        return ops.minimum(y, ops.zeros_like(y))

    def bounds(self, layout: Layout) -> tuple[float | None, float | None]:
        """Return 0 and None."""
        return 0.0, None

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"name": self.name}
