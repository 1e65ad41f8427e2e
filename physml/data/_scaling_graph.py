"""A Scaling as operations of a Keras graph: physical inputs to scaled ones, the network's output back, targets for the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from physml._errors import describe
from physml.data._methods import Method
from physml.data.scaling import Scaling
from physml.fields import Role

Part = tuple[slice, Method, np.ndarray]


class ScalingGraph:
    """The constants of a :class:`physml.Scaling` in one float type, and what is done with them.

    With *increment* the output of the network is the change of T(x) from offset 0, over its own scale: the change in physical
    units for methods without a transform T, growth for a logarithm.

    Parameters
    ----------
    scaling
        From ``Scaling.fit``.
    increment
        Whether the network predicts changes.
    dtype
        Float type of the graph.

    Attributes
    ----------
    unit
        What one unit of the network's output is, ``[target channel]``: in the units of the target, or of T(x); over all months.
    """

    def __init__(self, scaling: Scaling, increment: bool, dtype: str) -> None:
        layout = scaling.layout
        self.scaling, self.by, self.increment = scaling, scaling.by, increment
        change = "increment" if increment else "std"
        self.unit = scaling.vector(change, "targets").astype(dtype)
        constants: list[tuple[str, Role]] = [
            ("mean", "inputs"),
            ("std", "inputs"),
            ("mean", "targets"),
            (change, "targets"),
        ]
        get = scaling.vector if self.by is None else scaling.table
        self.mean_in, self.std_in, self.mean_out, self.unit_out = (
            get(what, role).astype(dtype) for what, role in constants
        )
        self.parts: dict[Role, list[Part]] = {
            "inputs": self._parts("inputs", dtype),
            "targets": self._parts("targets", dtype),
        }
        self.states: list[tuple[slice, int]] = []
        if increment:
            spec = layout.spec
            self.states = [(layout.where("inputs", n, 0), len(spec.offsets("targets", n))) for n in spec.targets]
        if self.by is not None:
            self.month = layout.where("inputs", f"{layout.spec.sample_dim}.month", 0).start

    def physical_unit(self) -> np.ndarray:
        """Return by how much each target changes from its mean, in its own units, when its scaled value changes by one."""
        layout, scaling = self.scaling.layout, self.scaling
        mean = scaling.vector("mean", "targets")
        std, unit = scaling.vector("std", "targets"), self.unit.astype("float64")
        found = unit.copy()
        for name in layout.spec.targets:
            method, at = scaling.method(name), layout.where("targets", name)
            if method.nonlinear:
                ends = [method.inverse(v[at], std[at], np) for v in (mean + unit, mean)]
                found[at] = ends[0] - ends[1]
        return found

    def _parts(self, role: Role, dtype: str) -> list[Part]:
        """Return the channels of each variable with its transform; nothing where no variable has one."""
        layout, std = self.scaling.layout, self.scaling.vector("std", role).astype(dtype)
        found = []
        for name in getattr(layout.spec, role):
            at = layout.where(role, name)
            found.append((at, self.scaling.method(name), std[at]))
        return found if any(m.nonlinear for _, m, _ in found) else []

    def _transform(self, x: Any, role: Role, *, back: bool = False) -> Any:
        """Return T(x) ``[..., channel]``, or the x of T(x). Channels are cut apart: a branch not taken must not overflow."""
        parts = [
            (m.inverse if back else m.forward)(x[..., at], scale, ops) if m.nonlinear else x[..., at]
            for at, m, scale in self.parts[role]
        ]
        return x if not parts else parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)

    def _rows(self, constants: np.ndarray, x: Any) -> Any:
        """Return the constants of the month of each sample, ``[batch, 1, ..., channel]``, or those of all."""
        if self.by is None:
            return constants
        if x is None:
            raise ValueError(
                describe(
                    "a scaling by month needs the inputs to know the month",
                    expected="compute_loss(x=inputs, y=..., y_pred=...)",
                    received="x=None",
                    remedy="pass the inputs too",
                )
            )
        month = x[..., self.month]
        space = tuple(range(1, len(month.shape)))
        month = ops.max(month, axis=space) if space else month  # masked cells hold 0
        index = ops.cast(ops.clip(ops.round(month), 1, 12), "int32") - 1
        rows = ops.take(ops.convert_to_tensor(constants), index, axis=0)
        return ops.reshape(rows, (-1, *(1 for _ in space), constants.shape[-1]))

    def inputs(self, x: Any) -> Any:
        """Return scaled inputs of physical ones ``[batch, *space, channel]``."""
        return (self._transform(x, "inputs") - self._rows(self.mean_in, x)) / self._rows(self.std_in, x)

    def centre(self, x: Any) -> Any:
        """Return the physical inputs whose scaled value is 0, in the shape of *x*, which tells the month."""
        mean = ops.zeros_like(x) + self._rows(self.mean_in, x)
        return self._transform(mean, "inputs", back=True)

    def outputs(self, n: Any, x: Any) -> Any:
        """Return physical targets of the network's output *n* and the physical inputs."""
        unit = self._rows(self.unit_out, x)
        if self.increment:
            start = self._transform(self._state(x), "targets")
        else:
            start = self._rows(self.mean_out, x)
        return self._transform(start + n * unit, "targets", back=True)

    def targets(self, y: Any, x: Any) -> Any:
        """Return physical targets in the units of the network's output, as losses compare them; *x* tells the month."""
        return (self._transform(y, "targets") - self._rows(self.mean_out, x)) / self._rows(self.unit_out, x)

    def unit_of(self, x: Any) -> Any:
        """Return what one unit of the network's output is, ``[target channel]`` or by the month of each sample."""
        return self._rows(self.unit_out, x)

    def _state(self, x: Any) -> Any:
        """Return every target's value at offset 0, repeated for its target offsets, ``[batch, *space, target channel]``."""
        parts = [x[..., where] for where, n in self.states for _ in range(n)]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
