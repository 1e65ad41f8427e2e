"""FieldSpec: how named variables become the channels of a tensor, and come back as labelled arrays.

A *spec* is what the user says: names, offsets in steps along the sample dimension, levels that become channels, members
that become samples, mask and area. Bound to a Dataset it becomes a :class:`physml.layout.Layout`: the channels in their
order, the space dimensions, units and types. Packing and unpacking are exact inverses and stay lazy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.timeaxis import TimeStep, in_steps, usual_step

if TYPE_CHECKING:
    from physml.layout import Layout

Role = Literal["inputs", "targets"]
Offsets = tuple[int, ...]


def _names(value: str | Sequence[str] | None, what: str) -> tuple[str, ...]:
    names = () if value is None else (value,) if isinstance(value, str) else tuple(value)
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise ValueError(
            describe(
                f"{what} repeat a name",
                expected="each name once",
                received=repeated,
                remedy="remove one of them",
            )
        )
    return names


@dataclass(frozen=True)
class FieldSpec:
    """Named variables of a Dataset as the inputs and targets of a network.

    Parameters
    ----------
    inputs, targets
        Names of variables. Channels follow this order: variable, then offset, then level. A variable without
        *sample_dim* (bathymetry) is repeated for every sample. Inputs may be parts of the date by name, such as
        ``"time.month"`` or ``"time.dayofyear.sin"``: see :mod:`physml.calendar`.
    sample_dim
        Dimension along which samples are counted, usually time.
    input_offsets, target_offsets
        Steps along *sample_dim* relative to the sample: ``input_offsets=(-1, 0), target_offsets=(1,)`` maps yesterday
        and today to tomorrow. Input offsets may be given by variable. Lengths of time (``"6h"``, ``["1MS", "2MS"]``) become
        steps when the spec is bound to data.
    levels
        Dimensions that become channels: a name, names, or a mapping from the name to the labels wanted.
    members
        Further dimensions whose entries are samples too: ensemble members, runs.
    mask
        Name of a variable, true on valid cells, without *sample_dim*. None: every cell is valid.
    area
        Name of a variable with the weight of every cell in the loss [m2]. None: equal weights.

    Raises
    ------
    ValueError
        For repeated names, empty lists, and offsets that are neither integers nor lengths of time.

    Examples
    --------
    >>> FieldSpec(inputs=["tracer", "u", "v"], targets="tracer", target_offsets=1).targets
    ('tracer',)
    """

    inputs: Sequence[str] | str
    targets: Sequence[str] | str
    sample_dim: str = "time"
    input_offsets: int | str | Sequence[int] | Sequence[str] | Mapping[str, Any] = (0,)
    target_offsets: int | str | Sequence[int] | Sequence[str] = (0,)
    levels: str | Sequence[str] | Mapping[str, Sequence[Any] | None] | None = None
    members: str | Sequence[str] | None = None
    mask: str | None = None
    area: str | None = None

    def __post_init__(self) -> None:
        for what in ("inputs", "targets"):
            names = _names(getattr(self, what), what)
            if not names:
                raise ValueError(
                    describe(
                        f"FieldSpec has no {what}",
                        expected="one or more variable names",
                        received="none",
                        remedy=f"pass {what}=['name']",
                    )
                )
            object.__setattr__(self, what, names)
        object.__setattr__(self, "members", _names(self.members, "members"))
        if isinstance(self.levels, Mapping):
            levels = {d: None if v is None else tuple(np.asarray(v).tolist()) for d, v in self.levels.items()}
        else:
            levels = {d: None for d in _names(self.levels, "levels")}
        object.__setattr__(self, "levels", levels)
        if isinstance(self.input_offsets, Mapping):
            unknown = set(self.input_offsets) - set(self.inputs)
            if unknown:
                raise ValueError(
                    describe(
                        "input_offsets name a variable that is no input",
                        expected=f"keys among {self.inputs}",
                        received=sorted(unknown),
                        remedy="add it to inputs or drop the key",
                    )
                )
            object.__setattr__(
                self,
                "input_offsets",
                {n: _offsets(self.input_offsets.get(n, (0,)), "input_offsets") for n in self.inputs},
            )
        else:
            object.__setattr__(self, "input_offsets", _offsets(self.input_offsets, "input_offsets"))
        object.__setattr__(self, "target_offsets", _offsets(self.target_offsets, "target_offsets"))

    def offsets(self, role: Role, name: str) -> Offsets:
        """Return the offsets of one variable [steps]."""
        if role == "targets":
            return self.target_offsets  # type: ignore[return-value]
        return self.input_offsets[name] if isinstance(self.input_offsets, dict) else self.input_offsets  # type: ignore[return-value]

    def window(self, role: Role | None = None) -> tuple[int, int]:
        """Return the least and the greatest offset [steps] of one role, or of both."""
        roles: tuple[Role, ...] = ("inputs", "targets") if role is None else (role,)
        every = [o for r in roles for n in getattr(self, r) for o in self.offsets(r, n)]
        return min(every), max(every)

    def in_steps(self, step: TimeStep | None) -> FieldSpec:
        """Return the same spec with lengths of time as numbers of steps.

        Raises
        ------
        ValueError
            For lengths that are no whole number of steps.
        """

        def steps(offsets: Any, what: str) -> Any:
            if isinstance(offsets, Mapping):
                return {n: steps(o, what) for n, o in offsets.items()}
            return tuple(in_steps(o, step, what) if isinstance(o, str) else o for o in offsets)

        found = {w: steps(getattr(self, w), w) for w in ("input_offsets", "target_offsets")}
        same = all(found[w] == getattr(self, w) for w in found)
        return self if same else replace(self, **found)

    def on(self, ds: xr.Dataset) -> FieldSpec:
        """Return the same spec with lengths of time as steps of the sample dimension of *ds*."""
        return self.in_steps(usual_step(ds[self.sample_dim]) if self.sample_dim in ds.coords else None)

    def bind(self, ds: xr.Dataset) -> Layout:
        """Return the layout of this spec on *ds*; nothing is computed."""
        from physml.layout import Layout

        return Layout.of(self, ds)

    def to_config(self) -> dict[str, Any]:
        """Return a plain dictionary from which ``FieldSpec(**config)`` makes the same spec."""
        return asdict(self)


def _offsets(value: Any, what: str) -> Offsets:
    items = (value,) if isinstance(value, int | np.integer | str) else tuple(value)
    if items and all(isinstance(o, str) for o in items):
        return items
    whole = all(isinstance(o, int | np.integer) and not isinstance(o, bool) for o in items)
    if not whole or not items or list(items) != sorted(set(items)):
        raise ValueError(
            describe(
                f"{what} are not steps",
                expected="increasing integers, such as (-1, 0), or lengths of time, such as '6h'",
                received=value,
                remedy=f"pass {what}=(0,) or the steps wanted",
            )
        )
    return tuple(int(o) for o in items)
