"""Bounds of single cells: amounts that cannot be negative, fractions, and variables that limit each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from physml._errors import describe
from physml.constraints.base import Constraint, Fields
from physml.constraints.nearby import Box, Chain
from physml.layout import Layout
from physml.provenance import same_units


class NonNegative(Constraint):
    """A variable is >= 0 in its physical units.

    Alone its projection is a clip. Together with :class:`Conserve` or others all hold at once, at the nearest field.

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

    def boxes(self, layout: Layout) -> dict[str, Box]:
        """Return the bound 0."""
        return {self.name: Box(low=np.zeros((1,) * (len(layout.shape) + 1)))}

    def local(self) -> bool:
        """Return True."""
        return True

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"name": self.name}


class Bounds(Constraint):
    """A variable lies between a lower and an upper bound, in its physical units.

    Parameters
    ----------
    name
        Target variable.
    lower, upper
        A number; or the name of an input (at offset 0), of a field without sample dimension, or of another target: snow that is
        no more than all precipitation. Two targets that bound each other move together, to the nearest pair.

    Raises
    ------
    ValueError
        Without any bound, for a lower bound above the upper one, and for bounds in other units or of other levels.

    Examples
    --------
    >>> Bounds("humidity", 0.0, 1.0)
    Bounds(name='humidity', lower=0.0, upper=1.0)
    >>> Bounds("snow", upper="precipitation")
    Bounds(name='snow', lower=None, upper='precipitation')
    """

    def __init__(self, name: str, lower: float | str | None = None, upper: float | str | None = None) -> None:
        self.name = name
        self.lower, self.upper = (b if b is None or isinstance(b, str) else float(b) for b in (lower, upper))
        numbers = [b for b in (self.lower, self.upper) if isinstance(b, float)]
        if (self.lower is None and self.upper is None) or (len(numbers) == 2 and numbers[0] > numbers[1]):
            raise ValueError(
                describe(
                    f"Bounds({name!r}) bounds nothing" if not numbers else f"Bounds({name!r}) leaves no value",
                    expected="a lower bound, an upper bound, or both with lower <= upper",
                    received=f"lower={lower!r}, upper={upper!r}",
                    remedy="Bounds(name, lower=0, upper=1)",
                )
            )

    @property
    def _named(self) -> tuple[str, ...]:
        return tuple(b for b in (self.lower, self.upper) if isinstance(b, str))

    def mentions(self) -> tuple[str, ...]:
        """Return the variable and those that bound it."""
        return (self.name, *self._named)

    def _role(self, bound: str, layout: Layout) -> str:
        if bound in layout.spec.targets:
            return "target"
        return "static" if bound in layout.statics.variables else "input"

    def statics(self, layout: Layout) -> dict[str, Any]:
        """Return the fields that are bounds."""
        return {b: layout.statics[b] for b in self._named if self._role(b, layout) == "static"}

    def verify(self, layout: Layout) -> None:
        """Refuse a layout without the variable or its bounds, or with bounds in other units."""
        super().verify(layout)
        mine = layout.variables[self.name]
        for bound in self._named:
            role = self._role(bound, layout)
            if role == "input":
                layout.where("inputs", bound, 0)
            units = (layout.statics[bound].attrs.get("units") if role == "static" else layout.units(bound)) or ""
            want = layout.units(self.name) or ""
            if (units or want) and not (units and want and same_units(units, want)):
                raise ValueError(
                    describe(
                        f"Bounds({self.name!r}): {bound!r} is in other units",
                        expected=f"{want!r}, as {self.name!r} has",
                        received=repr(units),
                        remedy="convert one of them, for example with pint-xarray",
                    )
                )
            if role != "static" and layout.variables[bound].depth not in {
                mine.depth,
                1 if role == "input" else mine.depth,
            }:
                raise ValueError(
                    describe(
                        f"Bounds({self.name!r}): {bound!r} has other levels",
                        expected=f"{mine.depth} levels",
                        received=layout.variables[bound].depth,
                        remedy="select the same levels of both",
                    )
                )

    def boxes(self, layout: Layout) -> dict[str, Box]:
        """Return the bounds that are known before the outputs."""
        parts: dict[str, Any] = {}
        for side, bound in (("low", self.lower), ("high", self.upper)):
            if isinstance(bound, float):
                parts[side] = np.full((1,) * (len(layout.shape) + 1), bound)
            elif isinstance(bound, str) and self._role(bound, layout) == "static":
                field = layout.static(bound, self.name)
                parts[side] = np.where(np.isfinite(field), field, -np.inf if side == "low" else np.inf)
            elif isinstance(bound, str) and self._role(bound, layout) == "input":
                parts[f"{side}_inputs"] = (bound,)
        return {self.name: Box(**parts)} if parts else {}

    def chains(self, layout: Layout) -> tuple[Chain, ...]:
        """Return the order of the targets that bound each other."""
        names = [
            b if isinstance(b, str) and self._role(b, layout) == "target" else None for b in (self.lower, self.upper)
        ]
        chain = tuple(n for n in (names[0], self.name, names[1]) if n is not None)
        return (Chain(chain),) if len(chain) > 1 else ()

    def residual(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return how far the variable lies below (negative) or above its bounds, ``[batch, *space, offset and level]``."""
        y = outputs[self.name]
        out = ops.zeros_like(y)
        for bound, sign in ((self.lower, -1), (self.upper, 1)):
            if bound is None:
                continue
            beyond = y - self._bound(bound, sign * np.inf, outputs, inputs, layout, y)
            out = out + (ops.minimum if sign < 0 else ops.maximum)(beyond, ops.zeros_like(beyond))
        if layout.spec.mask is None or tuple(out.shape[1:-1]) != layout.shape:
            return out
        valid = layout.valid("targets")[..., layout.where("targets", self.name)]  # masked cells hold 0
        return ops.where(valid, out, ops.zeros_like(out))

    def _bound(self, bound: float | str, none: float, outputs: Fields, inputs: Fields, layout: Layout, y: Any) -> Any:
        if isinstance(bound, float):
            return ops.cast(bound, y.dtype)
        offsets = len(layout.spec.offsets("targets", self.name))
        role = self._role(bound, layout)
        if role == "target":
            return outputs[bound]
        if role == "static":
            field = np.broadcast_to(layout.static(bound, self.name), (*layout.shape, layout.variables[self.name].depth))
            return ops.cast(np.tile(np.where(np.isfinite(field), field, none), offsets), y.dtype)
        from physml.constraints._arrange import at_start

        x = at_start({bound: inputs[bound]}, [bound], layout)[bound]
        depth = layout.variables[self.name].depth
        x = x if x.shape[-1] == depth else ops.repeat(x, depth, axis=-1)
        return ops.cast(ops.concatenate([x] * offsets, axis=-1), y.dtype)

    def local(self) -> bool:
        """Tell whether all bounds are numbers."""
        return not self._named

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"name": self.name, "lower": self.lower, "upper": self.upper}


class Monotone(Constraint):
    """A variable never decreases (or never increases) along a dimension, such as density with depth in a stable column.

    The projection pools what violates the order into weighted means (isotonic regression).

    Parameters
    ----------
    name
        Target variable.
    over
        A space or level dimension.
    increasing
        Whether values grow along the dimension, in the order of its labels in the data.

    Raises
    ------
    ValueError
        For a dimension that the field lacks.

    References
    ----------
    Barlow, Bartholomew, Bremner and Brunk (1972), ISBN 0-471-04970-0.

    Examples
    --------
    >>> Monotone("density", "depth")
    Monotone(name='density', over='depth', increasing=True)
    """

    def __init__(self, name: str, over: str, increasing: bool = True) -> None:
        self.name, self.over, self.increasing = name, over, bool(increasing)

    def _dims(self, layout: Layout) -> dict[str, int]:
        levels = {d: len(v) for d, v in layout.variables[self.name].levels.items()}
        return dict(zip(layout.space, layout.shape, strict=True)) | levels

    def verify(self, layout: Layout) -> None:
        """Refuse a layout without the variable or the dimension."""
        super().verify(layout)
        if self.over not in self._dims(layout):
            raise ValueError(
                describe(
                    f"Monotone({self.name!r}) runs along {self.over!r}, which the field does not have",
                    expected=f"one of {tuple(self._dims(layout))}",
                    received=repr(self.over),
                    remedy="correct over=..., or name the dimension in the levels of the FieldSpec",
                )
            )

    def chains(self, layout: Layout) -> tuple[Chain, ...]:
        """Return the order."""
        dims = self._dims(layout)
        return (Chain((self.name,), list(dims).index(self.over), tuple(dims.values()), not self.increasing),)

    def residual(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return by how much each value falls below the greatest valid one before it, in the shape of the variable, <= 0."""
        from physml.constraints._arrange import fold, unfold
        from physml.constraints.isotonic import carried_maximum

        (chain,) = self.chains(layout)
        y = fold({self.name: outputs[self.name]}, layout)[self.name]
        at = layout.spec.offsets("targets", self.name)[0]
        valid = layout.valid("targets")[..., layout.where("targets", self.name, at)]
        values, there = (chain.gather({self.name: v}) for v in (y, ops.cast(valid[None], "int32")))
        fall = ops.minimum(values - carried_maximum(values, there), ops.zeros_like(values))
        fall = ops.where(there > 0, fall, ops.zeros_like(fall))
        return unfold(chain.scatter(fall, {self.name: y}), outputs, layout)[self.name]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"name": self.name, "over": self.over, "increasing": self.increasing}
