"""Constraints: several laws as one joint feasible set, and all that is derived from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from keras import ops

from physml._errors import describe
from physml.constraints.base import Constraint, Fields, SumLaw
from physml.constraints.bounds import NonNegative
from physml.constraints.budget import Conserve
from physml.constraints.projection import project_sum
from physml.layout import Layout

KINDS: dict[str, type[Constraint]] = {"NonNegative": NonNegative, "Conserve": Conserve}
"""Constraints by the name used in configurations and saved models."""


class Constraints:
    """Laws that hold together: bounds, and one weighted sum for each variable.

    Parameters
    ----------
    laws
        Constraints in any order; the projection is onto their intersection, so the order does not matter.

    Examples
    --------
    >>> from physml.constraints import Conserve, Constraints, NonNegative
    >>> len(Constraints([NonNegative("tracer"), Conserve("tracer", ("lat", "lon"), "cell_volume")]))
    2
    """

    def __init__(self, laws: Iterable[Constraint] | Constraint = ()) -> None:
        self.laws = (laws,) if isinstance(laws, Constraint) else tuple(laws)
        strangers = [law for law in self.laws if not isinstance(law, Constraint)]
        if strangers:
            raise TypeError(
                describe(
                    "Constraints holds something that is no constraint",
                    expected=f"instances of {', '.join(KINDS)}",
                    received=type(strangers[0]).__name__,
                    remedy="pass constraints, such as NonNegative('tracer')",
                )
            )

    def __iter__(self) -> Iterator[Constraint]:
        return iter(self.laws)

    def __len__(self) -> int:
        return len(self.laws)

    def __repr__(self) -> str:
        return f"Constraints({list(self.laws)!r})"

    def bind(self, layout: Layout) -> Layout:
        """Return the layout with every field the laws need kept in it; refuse one they cannot act on.

        Raises
        ------
        KeyError, ValueError
            For names, dimensions, weights or units that do not fit, and for two weighted sums on one variable.
        """
        fields = {n: f for law in self.laws for n, f in law.statics(layout).items()}
        before, layout = layout, layout.keep(fields) if fields else layout
        for n in set(fields) & set(before.kept):
            if not np.array_equal(before.statics[n].values, layout.statics[n].values, equal_nan=True):
                raise ValueError(
                    describe(
                        f"two laws bring different {n!r}",
                        expected="one field of that name in constraints and penalties",
                        received="two DataArrays that differ",
                        remedy="put both into the Dataset under names of their own, and pass weights='name'",
                    )
                )
        sums: dict[str, Constraint] = {}
        for law in self.laws:
            law.verify(layout)
            if law.held_sum(layout) is None:
                continue
            if law.name in sums:
                raise ValueError(
                    describe(
                        f"two weighted sums act on {law.name!r}",
                        expected="at most one Conserve for each variable",
                        received=[sums[law.name], law],
                        remedy="merge them, or drop the one that follows from the other",
                    )
                )
            sums[law.name] = law
        return layout

    def residuals(self, outputs: Fields, inputs: Fields, layout: Layout) -> dict[str, Any]:
        """Return the residual of every law by its label."""
        return {label(law): law.residual(outputs, inputs, layout) for law in self.laws}

    def project(self, outputs: Fields, inputs: Fields, layout: Layout) -> dict[str, Any]:
        """Return the nearest fields that satisfy all laws, ``[batch, *space, offset and level]`` by variable."""
        out = dict(outputs)
        for name in dict.fromkeys(law.name for law in self.laws):
            mine = [law for law in self.laws if law.name == name]
            lows = [b for b in (law.bounds(layout)[0] for law in mine) if b is not None]
            highs = [b for b in (law.bounds(layout)[1] for law in mine) if b is not None]
            low, high = max(lows, default=None), min(highs, default=None)
            sums = [s for s in (law.held_sum(layout) for law in mine) if s is not None]
            if sums:
                y, terms, weights = arrange(out[name], inputs, sums[0], name, layout)
                y = project_sum(
                    y,
                    terms,
                    weights=weights,
                    coefficients=list(sums[0].terms.values()),
                    constant=sums[0].constant,
                    lower=low,
                    upper=high,
                )
                out[name] = disarrange(y, out[name], sums[0], layout)
            else:
                y = out[name]
                y = y if low is None else ops.maximum(y, ops.cast(low, y.dtype))
                out[name] = y if high is None else ops.minimum(y, ops.cast(high, y.dtype))
        return out

    def loss(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return the soft loss: the sum over laws of the mean squared residual."""
        total = ops.zeros((), "float32")
        for residual in self.residuals(outputs, inputs, layout).values():
            total = total + ops.mean(ops.square(ops.cast(residual, "float32")))
        return total

    def metric(self, outputs: Fields, inputs: Fields, layout: Layout) -> dict[str, Any]:
        """Return the greatest absolute residual of every law by its label."""
        return {k: ops.max(ops.abs(r)) for k, r in self.residuals(outputs, inputs, layout).items()}

    def layer(self, layout: Layout, penalty: float | None = None) -> Any:
        """Return a Keras layer of physical outputs and inputs: see :class:`physml.constraints.ConstraintLayer`."""
        from physml.constraints.layer import ConstraintLayer

        return ConstraintLayer(self, layout, penalty=penalty)

    def apply(self, outputs: Any, inputs: Any = None, **roles: Any) -> Any:
        """Return a Dataset corrected onto the laws: see :func:`physml.constraints.labelled.apply`."""
        from physml.constraints.labelled import apply

        return apply(self, outputs, inputs, **roles)

    def check(self, ds: Any, spec: Any) -> Any:
        """Return how well the data themselves obey the laws: see :func:`physml.constraints.labelled.check`."""
        from physml.constraints.labelled import check

        return check(self, ds, spec)

    def report(self, outputs: Any, inputs: Any = None, **roles: Any) -> Any:
        """Return residuals before and after, and what was moved: see :func:`physml.constraints.labelled.report`."""
        from physml.constraints.labelled import report

        return report(self, outputs, inputs, **roles)

    def to_config(self) -> list[dict[str, Any]]:
        """Return plain values from which :meth:`from_config` makes the same laws."""
        return [{"type": type(law).__name__, **law.get_config()} for law in self.laws]

    @classmethod
    def from_config(cls, config: Iterable[Mapping[str, Any]]) -> Constraints:
        """Return the laws described by ``{"type": ..., **arguments}``."""
        from physml._errors import closest

        laws = []
        for entry in config:
            kind = entry.get("type")
            if kind not in KINDS:
                raise ValueError(
                    describe(
                        f"unknown constraint {kind!r}{closest(str(kind), KINDS)}",
                        expected=f"one of {', '.join(KINDS)}",
                        received=repr(kind),
                        remedy="correct the type",
                    )
                )
            laws.append(KINDS[kind](**{k: v for k, v in entry.items() if k != "type"}))
        return cls(laws)


def label(law: Constraint) -> str:
    """Return a short name of a law for metrics and tables.

    Examples
    --------
    >>> label(NonNegative("tracer"))
    'nonnegative_tracer'
    """
    return f"{type(law).__name__.lower()}_{law.name}"


def arrange(y: Any, inputs: Fields, law: SumLaw, name: str, layout: Layout) -> tuple[Any, list[Any], np.ndarray]:
    """Bring fields ``[batch, *space, offset and level]`` into ``[batch and offset, group, cell]`` for a weighted sum.

    Returns
    -------
    y, terms
        The outputs, and the input terms at offset 0 repeated for every target offset.
    weights
        ``[group, cell]``.
    """
    n_offsets = len(layout.spec.offsets("targets", name))
    terms = []
    for source in law.terms:
        inner = layout.where("inputs", source, 0)
        start = inner.start - layout.where("inputs", source).start
        x = inputs[source][..., start : start + layout.variables[source].depth]
        if layout.variables[source].depth != layout.variables[name].depth:
            x = ops.broadcast_to(x, (*ops.shape(x)[:-1], layout.variables[name].depth))
        terms.append(_group(x, law, 1, layout))
    terms = [ops.repeat(t, n_offsets, axis=0) for t in terms] if n_offsets > 1 else terms
    weights = _group_array(law.weights[None], law, len(layout.space))[0]
    return _group(y, law, n_offsets, layout), terms, weights


def _axes(law: SumLaw, n_space: int) -> tuple[list[int], list[int]]:
    """Axes of ``[batch, *space, level]`` that stay and that are summed."""
    summed = [1 + a for a in law.axes] + ([1 + n_space] if law.over_levels else [])
    return [a for a in range(1, n_space + 2) if a not in summed], summed


def _group_array(x: np.ndarray, law: SumLaw, n_space: int) -> np.ndarray:
    stay, summed = _axes(law, n_space)
    moved = np.transpose(x, (0, *stay, *summed))
    return moved.reshape(x.shape[0], int(np.prod([x.shape[a] for a in stay], dtype=int)), -1)


def _group(x: Any, law: SumLaw, n_offsets: int, layout: Layout) -> Any:
    n_space = len(layout.space)
    depth = x.shape[-1] // n_offsets
    if n_offsets > 1:
        x = ops.reshape(x, (-1, *layout.shape, n_offsets, depth))
        x = ops.reshape(ops.moveaxis(x, -2, 1), (-1, *layout.shape, depth))
    stay, summed = _axes(law, n_space)
    sizes = (None, *layout.shape, depth)
    groups = int(np.prod([sizes[a] for a in stay], dtype=int))
    cells = int(np.prod([sizes[a] for a in summed], dtype=int))
    if [*stay, *summed] != list(range(1, n_space + 2)):
        x = ops.transpose(x, (0, *stay, *summed))
    return ops.reshape(x, (-1, groups, cells))


def disarrange(y: Any, like: Any, law: SumLaw, layout: Layout) -> Any:
    """Undo :func:`arrange` for the outputs."""
    n_space = len(layout.space)
    stay, summed = _axes(law, n_space)
    depth = law.weights.shape[-1]
    n_offsets = like.shape[-1] // depth
    sizes = (None, *layout.shape, depth)
    y = ops.reshape(y, (-1, *(sizes[a] for a in stay), *(sizes[a] for a in summed)))
    back = np.argsort([*stay, *summed])
    if list(back) != list(range(n_space + 1)):
        y = ops.transpose(y, (0, *(int(b) + 1 for b in back)))
    if n_offsets > 1:
        y = ops.reshape(y, (-1, n_offsets, *layout.shape, depth))
        y = ops.moveaxis(y, 1, -2)
    return ops.reshape(y, (-1, *layout.shape, n_offsets * depth))
