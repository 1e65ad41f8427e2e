"""What cells satisfy by themselves or along a chain: bounds and order, the nearest such fields, and how these move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from physml.constraints.isotonic import averaged, isotonic


@dataclass(frozen=True, eq=False)
class Box:
    """Bounds of one variable.

    Attributes
    ----------
    low, high
        ``[*space, level]`` float64, -inf and inf where there is none; None: nowhere.
    low_inputs, high_inputs
        Inputs at offset 0 that are bounds as well.
    """

    low: np.ndarray | None = None
    high: np.ndarray | None = None
    low_inputs: tuple[str, ...] = ()
    high_inputs: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Inputs among the bounds."""
        return (*self.low_inputs, *self.high_inputs)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that are there."""
        return {k: v for k, v in {"low": self.low, "high": self.high}.items() if v is not None}

    def ends(self, arrays: Mapping[str, Any], x: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the bounds as tensors ``[batch or 1, *space, level]``, or None."""
        low = None if "low" not in arrays else ops.convert_to_tensor(arrays["low"])[None]
        high = None if "high" not in arrays else ops.convert_to_tensor(arrays["high"])[None]
        for n in self.low_inputs:
            low = x[n] if low is None else ops.maximum(low, x[n])
        for n in self.high_inputs:
            high = x[n] if high is None else ops.minimum(high, x[n])
        return low, high


@dataclass(frozen=True)
class Chain:
    """Values that never decrease: variables one after the other, or one variable along a dimension.

    Attributes
    ----------
    names
        Variables in ascending order; a single one with *axis*.
    axis
        Axis of ``[*space, level...]`` along which the variable never decreases, counted in *shape*.
    shape
        Sizes of space and of the level dimensions.
    falling
        Whether it never increases instead.
    """

    names: tuple[str, ...]
    axis: int | None = None
    shape: tuple[int, ...] = ()
    falling: bool = False

    def gather(self, fields: Mapping[str, Any]) -> Any:
        """Return the values of the chain on the last axis."""
        if self.axis is None:
            return ops.stack([fields[n] for n in self.names], axis=-1)
        x = ops.reshape(fields[self.names[0]], (-1, *self.shape))
        x = ops.moveaxis(x, 1 + self.axis, -1)
        return ops.flip(x, axis=-1) if self.falling else x

    def scatter(self, values: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Undo :meth:`gather`."""
        if self.axis is None:
            return {n: values[..., i] for i, n in enumerate(self.names)}
        values = ops.flip(values, axis=-1) if self.falling else values
        x = ops.moveaxis(values, -1, 1 + self.axis)
        like = fields[self.names[0]]
        return {self.names[0]: ops.reshape(x, (-1, *like.shape[1:]))}


class Nearby:
    """The projection onto bounds and order, and its derivative.

    Parameters
    ----------
    chains, ends, mobility
        Orders, bounds (low, high) and ``1 / m`` by variable, as tensors.
    """

    def __init__(
        self, chains: tuple[Chain, ...], ends: Mapping[str, tuple[Any, Any]], mobility: Mapping[str, Any]
    ) -> None:
        self.chains, self.ends, self.mobility = chains, ends, mobility
        self.cost = {
            n: ops.where(d > 0, 1 / ops.where(d > 0, d, ops.ones_like(d)), ops.zeros_like(d))
            for n, d in mobility.items()
        }

    def point(self, u: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the nearest fields, and how they move: which cells are free, and the blocks of each chain."""
        y: dict[str, Any] = dict(u)
        moved: dict[str, Any] = {}
        for i, chain in enumerate(self.chains):
            values = chain.gather(y)
            weights = values * 0.0 + chain.gather(self.cost)
            low, high = (self._bounds(chain, side, values) for side in (0, 1))
            values, free, first, last = isotonic(values, weights, low, high)
            y |= chain.scatter(values, y)
            moved |= {f"free {n}": f for n, f in chain.scatter(free, y).items()}
            moved[f"first {i}"], moved[f"last {i}"] = first, last
        for n, (low, high) in self.ends.items():
            if f"free {n}" in moved:
                continue
            before, free = y[n], ops.ones_like(y[n])
            if low is not None:
                y[n], free = ops.maximum(y[n], low), free * ops.cast(before > low, "float64")
            if high is not None:
                y[n], free = ops.minimum(y[n], high), free * ops.cast(before < high, "float64")
            moved[f"free {n}"] = free
        for n in y:  # cells that are held stay as they are, whatever their bounds
            if f"free {n}" in moved:
                held = self.mobility[n] <= 0
                y[n] = ops.where(held, u[n], y[n])
                moved[f"free {n}"] = ops.where(held, ops.ones_like(y[n]), moved[f"free {n}"])
        return y, moved

    def _bounds(self, chain: Chain, side: int, values: Any) -> Any:
        """Return the lower (0) or upper (1) bounds along a chain, or None."""
        none = (-np.inf, np.inf)[side]
        found = {n: self.ends[n][side] for n in chain.names if n in self.ends and self.ends[n][side] is not None}
        if not found:
            return None
        like = chain.scatter(values, {n: self.cost[n] for n in chain.names})
        full = {n: ops.zeros_like(like[n]) + found.get(n, none) for n in chain.names}
        return chain.gather(full)

    def free(self, n: str, moved: Mapping[str, Any], leak: float = 0.0) -> Any:
        """Return how far each cell follows: 1 where it is free, *leak* at a bound."""
        free = moved.get(f"free {n}")
        return 1.0 if free is None else ops.maximum(free, leak) if leak else free

    def push(self, q: Mapping[str, Any], moved: Mapping[str, Any], leak: float = 0.0) -> dict[str, Any]:
        """Return ``T q = J M^-1 q``: how the fields follow a pull ``q``."""
        out = {n: q[n] * self.mobility[n] for n in q}
        return self._along(out, moved, leak)

    def pull(self, q: Mapping[str, Any], moved: Mapping[str, Any], leak: float = 0.0) -> dict[str, Any]:
        """Return ``J' q = M J M^-1 q``."""
        if not self.chains:
            return {n: q[n] * self.free(n, moved, leak) for n in q}
        chained = {n for c in self.chains for n in c.names}
        pushed = self.push(q, moved, leak)
        return {n: pushed[n] * self.cost[n] if n in chained else q[n] * self.free(n, moved, leak) for n in q}

    def _along(self, x: dict[str, Any], moved: Mapping[str, Any], leak: float) -> dict[str, Any]:
        for i, chain in enumerate(self.chains):
            values = chain.gather(x)
            weights = values * 0.0 + chain.gather(self.cost)
            x = x | chain.scatter(averaged(values, weights, moved[f"first {i}"], moved[f"last {i}"]), x)
        return {n: v * self.free(n, moved, leak) for n, v in x.items()}
