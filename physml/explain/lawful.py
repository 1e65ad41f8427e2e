"""Inputs moved onto the laws of :mod:`physml.constraints`, as its layers move outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from physml import _backend
from physml._errors import describe
from physml.constraints import Constraints
from physml.fields import FieldSpec
from physml.layout import Layout


class Lawful:
    """The nearest lawful inputs, offset by offset.

    Parameters
    ----------
    laws
        One constraint, several, or a :class:`physml.constraints.Constraints`, on inputs by name.
    layout
        Layout of the model.
    start
        Data like the inputs, with the fields that the laws name as weights.
    costs
        Cost of moving each input, by name, where *laws* bring none.

    Raises
    ------
    KeyError
        Where a law speaks of what is no input.
    """

    def __init__(self, laws: Any, layout: Layout, start: xr.Dataset, costs: Mapping[str, float]) -> None:
        inputs = layout.spec.inputs
        known = Constraints(laws) if not isinstance(laws, Constraints) else laws
        said = list(dict.fromkeys(n for law in known for n in (*law.mentions(), *law.needs())))
        for name in said:
            if name not in inputs:
                raise KeyError(
                    describe(
                        f"a law speaks of {name!r}, which is no input",
                        expected=f"among {tuple(inputs)}",
                        received=repr(name),
                        remedy="laws on inputs name them as the FieldSpec does",
                    )
                )
        metric = {n: costs[n] for n in said if n in costs}
        self.constraints = known if isinstance(laws, Constraints) else Constraints(laws, metric=metric)
        spec = layout.spec
        one = start.isel({m: 0 for m in layout.members if m in start.dims})
        every: Any = spec.levels or {}  # a mapping, whatever was given
        levels = {d: labels for d, labels in every.items() if any(d in one[n].dims for n in said)}
        plain = FieldSpec(said, said, spec.sample_dim, 0, 1, levels=levels, mask=spec.mask, area=spec.area)
        self.layout = self.constraints.bind(plain.bind(one.isel({spec.sample_dim: slice(0, 2)})).load())
        self.slices = [
            {n: layout.where("inputs", n, offset) for n in said}
            for offset in sorted({o for n in said for o in spec.offsets("inputs", n)})
        ]

    def __call__(self, x: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return inputs ``[row, *space, channel]`` on the laws; sums that follow from inputs are those of *start*."""
        from keras import ops

        out = x.copy()
        for at in self.slices:
            with _backend.float64():
                now, before = ({n: ops.convert_to_tensor(a[..., i]) for n, i in at.items()} for a in (x, start))
                for name, moved in self.constraints.project(now, before, self.layout).items():
                    out[..., at[name]] = ops.convert_to_numpy(moved)
        return out
