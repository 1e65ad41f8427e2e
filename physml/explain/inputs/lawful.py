"""Inputs moved onto the laws of :mod:`physml.constraints`, as its layers move outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from physml import _backend
from physml._errors import describe, refuse
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
    ValueError
        Where its inputs share no offset.
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
        spec = layout.spec
        one = start.isel({m: 0 for m in layout.members if m in start.dims}).isel({spec.sample_dim: slice(0, 2)})
        every: Any = spec.levels or {}  # a mapping, whatever was given
        self.parts: list[tuple[dict[str, slice], Constraints, Layout]] = []
        left = list(known)
        for offset in sorted({o for n in said for o in spec.offsets("inputs", n)}):
            there = [n for n in said if offset in spec.offsets("inputs", n)]
            mine = [law for law in known if {*law.mentions(), *law.needs()} <= {*there}]
            if not mine:
                continue
            left = [law for law in left if law not in mine]
            names = list(dict.fromkeys(n for law in mine for n in (*law.mentions(), *law.needs())))
            if isinstance(laws, Constraints):
                held = copy.copy(laws)
                held.laws, held._planned = tuple(mine), {}
            else:
                held = Constraints(mine, metric={n: costs[n] for n in names if n in costs})
            levels = {d: labels for d, labels in every.items() if any(d in one[n].dims for n in names)}
            plain = FieldSpec(names, names, spec.sample_dim, 0, 1, levels=levels, mask=spec.mask, area=spec.area)
            bound = held.bind(plain.bind(one).load())
            self.parts.append(({n: layout.where("inputs", n, offset) for n in names}, held, bound))
        if left:
            refuse(
                f"{left[0]!r} binds inputs that never come together",
                "inputs that share an offset",
                ", ".join(f"{n} at {spec.offsets('inputs', n)}" for n in (*left[0].mentions(), *left[0].needs())),
                "give them the same input_offsets, or leave the law out",
            )

    def __call__(self, x: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return inputs ``[row, *space, channel]`` on the laws; sums that follow from inputs are those of *start*."""
        from keras import ops

        out = x.copy()
        for at, constraints, layout in self.parts:
            with _backend.float64():
                now, before = ({n: ops.convert_to_tensor(a[..., i]) for n, i in at.items()} for a in (x, start))
                for name, moved in constraints.project(now, before, layout).items():
                    out[..., at[name]] = ops.convert_to_numpy(moved)
        return out
