"""What a set of laws does to which variables: laws that share variables are solved together, the others apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import describe
from physml.constraints.base import Constraint, SumLaw
from physml.constraints.groups import Groups
from physml.constraints.joint import Problem
from physml.constraints.linear import Coefficient, LinearLaw
from physml.constraints.nearby import Box, Chain
from physml.layout import Layout

if TYPE_CHECKING:
    from physml.constraints.combine import Constraints


@dataclass(frozen=True, eq=False)
class Part:
    """Variables that are moved together.

    Attributes
    ----------
    problem
        Their laws.
    total
        The one weighted sum, where there is nothing else but bounds that are numbers: :func:`project_sum` is faster then.
    leftover
        Name of the leftover that belongs to this sum.
    sources
        Constraints whose laws follow from the outputs.
    simple
        Whether there are only bounds that are known beforehand.
    low, high, metric
        For :func:`project_sum`.
    """

    problem: Problem
    total: SumLaw | None = None
    leftover: str | None = None
    sources: tuple[Constraint, ...] = ()
    simple: bool = False
    low: float | None = None
    high: float | None = None
    metric: np.ndarray | None = None


def parts(constraints: Constraints, layout: Layout, *, carrying: bool = False) -> list[Part]:
    """Return what the laws do on a layout; *carrying*: with the leftovers of earlier steps."""
    carried = carriers(constraints, layout) if carrying else {}
    linear = [
        (law, carried[k, i].law if (k, i) in carried else found)
        for k, law in enumerate(constraints)
        for i, found in enumerate(linear_laws(law, layout))
    ]
    boxes = _boxes(constraints, layout)
    chains = [c for law in constraints for c in law.chains(layout)]
    sets = [set(found.outputs) for _, found in linear] + [set(c.names) for c in chains] + [{n} for n in boxes]
    out = []
    for names in _components(sets, layout.spec.targets):
        mine = [(law, found) for law, found in linear if set(found.outputs) & set(names)]
        own = {n: boxes[n] for n in names if n in boxes}
        kin = tuple(c for c in chains if set(c.names) & set(names))
        held = {n: excluded(constraints, layout, n) for n in names}
        for law in constraints:
            held |= {n: held[n] | cells for n, cells in law.holds(layout).items() if n in held}
        mobility = {n: np.where(held[n], 0.0, 1 / cost(constraints, layout, n)) for n in names}
        for c in kin:  # a masked cell gives way to the others in its chain
            mobility |= {n: np.where(_valid(layout, n), mobility[n], 0.0) for n in c.names}
        problem = Problem(names, tuple(f for _, f in mine), own, kin, mobility, constraints.gradient)
        alone = len(names) == 1 and not kin and not any(h.any() for h in held.values())
        if alone and not mine and not problem.inputs:
            out.append(Part(problem, simple=True))
            continue
        sums = mine[0][0].held_sum(layout) if len(mine) == 1 else None
        ends = _numbers(own.get(names[0], Box())) if alone and sums is not None else None
        if sums is not None and ends is not None:
            metric = _sum_metric(constraints, layout, names[0], sums)
            last = mine[0][1].known[-1][0] if mine[0][1].known else ""
            out.append(
                Part(problem, sums, last if last.startswith("leftover of ") else None, (), False, *ends, metric=metric)
            )
        else:
            moved = tuple(law for law in constraints if law.passes > 1 and set(law.mentions()) & set(names))
            out.append(Part(problem, sources=moved))
    return out


@dataclass(frozen=True)
class Carrier:
    """A law from whose total, which follows from the state, a roll-out carries what float32 could not store.

    Attributes
    ----------
    label
        Of the law.
    law
        In arrays, with the leftover among what is known.
    name
        The variable whose state makes up the total.
    """

    label: str
    law: LinearLaw
    name: str

    @property
    def key(self) -> str:
        """Name of the leftover among the inputs."""
        return f"leftover of {self.label}"


def carriers(constraints: Constraints, layout: Layout) -> dict[tuple[int, int], Carrier]:
    """Return the laws that keep a total of the state, by their places among the constraints and the laws of each."""
    from physml.constraints.combine import labels

    found = {}
    for k, (label, law) in enumerate(labels(constraints).items()):
        for i, one in enumerate(linear_laws(law, layout)):
            names = [n for n in one.outputs if n in dict(one.known) and not one.outputs[n].inputs]
            if names:
                carrier = Carrier(f"{label}_{i + 1}" if i else label, one, names[0])
                known = (*one.known, (carrier.key, one.outputs[names[0]]))
                found[k, i] = replace(carrier, law=replace(one, known=known))
    return found


def linear_laws(law: Constraint, layout: Layout) -> tuple[LinearLaw, ...]:
    """Return the linear laws of a constraint; a :class:`Conserve` is one too."""
    total = law.held_sum(layout)
    if total is None:
        return law.held_linear(layout)
    groups = Groups(layout.shape, total.axes, total.over_levels)
    depth = total.weights.shape[-1]
    known = tuple((n, Coefficient(total.weights * f)) for n, f in total.terms.items())
    keep = tuple(1 + a for a in total.axes) + ((1 + len(layout.shape),) if total.over_levels else ())
    here = (total.weights[None].sum(axis=keep, keepdims=True) > 0)[0]
    depth = 1 if total.over_levels else depth
    return (LinearLaw(repr(law), groups, {law.name: Coefficient(total.weights)}, known, total.constant, depth, here),)


def _components(sets: Iterable[set[str]], order: Iterable[str]) -> list[tuple[str, ...]]:
    groups: list[set[str]] = []
    for names in sets:
        touched = [g for g in groups if g & names]
        groups = [g for g in groups if not g & names] + [names.union(*touched)]
    return [tuple(n for n in order if n in g) for g in groups]


def _boxes(laws: Iterable[Constraint], layout: Layout) -> dict[str, Box]:
    out: dict[str, Box] = {}
    for law in laws:
        for n, box in law.boxes(layout).items():
            known = out.get(n, Box())
            low = known.low if box.low is None else box.low if known.low is None else np.maximum(known.low, box.low)
            high = (
                known.high if box.high is None else box.high if known.high is None else np.minimum(known.high, box.high)
            )
            out[n] = Box(low, high, known.low_inputs + box.low_inputs, known.high_inputs + box.high_inputs)
    return out


def _numbers(box: Box) -> tuple[float | None, float | None] | None:
    """Return bounds that are the same everywhere, or None."""
    ends = [None if b is None else float(b.ravel()[0]) for b in (box.low, box.high)]
    one = all(b is None or b.size == 1 for b in (box.low, box.high)) and not box.inputs
    return (ends[0], ends[1]) if one else None


def _valid(layout: Layout, name: str) -> np.ndarray:
    return layout.valid("targets")[..., layout.where("targets", name, layout.spec.offsets("targets", name)[0])]


def measure(laws: Iterable[Constraint], layout: Layout, name: str) -> np.ndarray:
    """Return how much each cell ``[*space, level]`` counts: its weight in a sum over space, else its area, else one."""
    shape = (*layout.shape, layout.variables[name].depth)
    valid = _valid(layout, name)
    for law in laws:
        total = law.held_sum(layout)
        if law.name == name and total is not None:
            weights = total.weights
            break
    else:
        weights = np.broadcast_to(layout.weights[..., None], shape)
    weights = np.where(valid, weights, 0.0)
    mean = weights[weights > 0].mean() if (weights > 0).any() else 1.0
    return np.where(weights > 0, weights / mean, 1.0)


def cost(constraints: Constraints, layout: Layout, name: str) -> np.ndarray:
    """Return the cost of moving each cell, ``[*space, level]``, > 0."""
    shape = (*layout.shape, layout.variables[name].depth)
    given = constraints.costs.get(name)
    if isinstance(given, str):
        field = np.broadcast_to(layout.static(given, name), shape)
        valid = _valid(layout, name)
        if not (np.isfinite(field) & (field > 0))[valid].all():
            raise ValueError(
                describe(
                    f"metric {given!r} of {name!r} is no cost",
                    expected="finite and > 0 on every valid cell",
                    received=f"{int((~(field[valid] > 0)).sum())} of {int(valid.sum())} cells zero, negative or missing",
                    remedy="exclude cells that must not move: exclude={name: mask}",
                )
            )
        return np.where(valid, field, 1.0)
    if given is not None:
        if not given > 0:
            raise ValueError(
                describe(
                    f"metric of {name!r} is no cost", expected="a number > 0", received=given, remedy="1 / variance"
                )
            )
        return np.full(shape, float(given))
    variance = np.broadcast_to(constraints.variance.get(name, np.ones(1)), shape)
    return measure(constraints, layout, name) / variance


def _sum_metric(constraints: Constraints, layout: Layout, name: str, total: SumLaw) -> np.ndarray | None:
    """Return the metric of a single sum as groups of cells, or None where it is the weights."""
    variance = constraints.variance.get(name)
    if name not in constraints.costs and (variance is None or np.ptp(variance) == 0):
        return None
    from physml.constraints._arrange import group_array

    return group_array(cost(constraints, layout, name)[None], total, len(layout.space))[0]


def excluded(constraints: Constraints, layout: Layout, name: str) -> np.ndarray:
    """Return the cells of a variable that are left as they are."""
    shape = (*layout.shape, layout.variables[name].depth)
    given = constraints.exclude.get(name)
    if given is None:
        return np.zeros(shape, bool)
    if isinstance(given, str):
        return np.broadcast_to(np.nan_to_num(layout.static(given, name)) != 0, shape)
    levels = layout.variables[name].levels
    out = np.ones(tuple(len(v) for v in levels.values()), bool)
    for dim, labels in given.items():
        if dim not in levels or set(labels) - set(levels[dim]):
            raise ValueError(
                describe(
                    f"exclude: {name!r} has no such levels along {dim!r}",
                    expected={d: list(v) for d, v in levels.items()},
                    received=given,
                    remedy="use the labels of the layout, or the name of a boolean field",
                )
            )
        hit = np.isin(np.array(levels[dim]), list(labels))
        out &= np.expand_dims(hit, tuple(i for i, d in enumerate(levels) if d != dim))
    return np.broadcast_to(out.reshape(-1), shape)


def fields_of(constraints: Constraints, layout: Layout) -> dict[str, xr.DataArray]:
    """Return the fields that metric and exclude name."""
    names = [m for m in [*constraints.costs.values(), *constraints.exclude.values()] if isinstance(m, str)]
    given = constraints._given
    return given | {n: grid.variable(layout.statics, n, "field") for n in names if n not in given}


def check(constraints: Constraints, layout: Layout) -> None:
    """Refuse names that are no targets, bounds without a value between them, and laws that follow from others."""
    for what, names in (("metric", constraints.costs), ("exclude", constraints.exclude)):
        for n in names:
            if n not in layout.spec.targets:
                raise KeyError(
                    describe(
                        f"{what} of {n!r}, which is no target",
                        expected=f"among {tuple(layout.spec.targets)}",
                        received=repr(n),
                        remedy="correct the name",
                    )
                )
            excluded(constraints, layout, n)
            cost(constraints, layout, n)
    for n, box in _boxes(constraints, layout).items():
        if box.low is not None and box.high is not None and (box.low > box.high).any():
            raise ValueError(
                describe(
                    f"the bounds of {n!r} leave no value",
                    expected="lower <= upper in every cell",
                    received=f"lower > upper in {int((box.low > box.high).sum())} cells",
                    remedy="correct the bounds",
                )
            )
    _check_chains(constraints, layout)
    _check_held(constraints, layout)
    _check_redundant([f for law in constraints for f in linear_laws(law, layout)])


def _check_chains(constraints: Constraints, layout: Layout) -> None:
    seen: dict[str, Chain] = {}
    for chain in (c for law in constraints for c in law.chains(layout)):
        for n in chain.names:
            if n in seen or n in constraints.exclude:
                raise ValueError(
                    describe(
                        f"{n!r} stands in two orders"
                        if n in seen
                        else f"{n!r} stands in an order and is excluded in part",
                        expected="each variable in one order, and free to move",
                        received=[seen[n].names, chain.names] if n in seen else constraints.exclude[n],
                        remedy="name the whole chain in one law: Bounds('b', lower='a', upper='c')",
                    )
                )
            seen[n] = chain


def _check_held(constraints: Constraints, layout: Layout) -> None:
    """Refuse bounds and orders on variables that another law leaves as they are."""
    chained = {n: law for law in constraints for c in law.chains(layout) for n in c.names}
    boxed = {n: law for law in constraints for n in law.boxes(layout)}
    for law in constraints:
        for n, cells in law.holds(layout).items():
            other = chained.get(n) or (boxed.get(n) if cells.all() else None)
            if other is not None and other is not law:
                raise ValueError(
                    describe(
                        f"{other!r} cannot move {n!r}, which {type(law).__name__} {law.name!r} leaves as it is",
                        expected="bounds on the variable that closes the budget alone",
                        received=f"a bound or an order on {n!r}",
                        remedy="use the projection: pass the budget itself in place of its completion",
                    )
                )


def _check_redundant(laws: list[LinearLaw]) -> None:
    """Refuse a law that follows from others with the same groups, wherever it holds."""
    fixed = [law for law in laws if not any(c.inputs for c in law.outputs.values())]
    for i, law in enumerate(fixed):
        kin = [k for k in fixed[:i] if k.groups == law.groups and k.depth == law.depth]
        if not kin:
            continue
        rows = [*kin, law]
        shape = law.here.shape
        gram = np.zeros((*shape, len(rows), len(rows)))
        for a, one in enumerate(rows):
            for b, two in enumerate(rows):
                for n in set(one.outputs) & set(two.outputs):
                    product = one.outputs[n].fixed * two.outputs[n].fixed
                    gram[..., a, b] += np.broadcast_to(law.groups.total(product), shape)
        scale = np.sqrt(np.einsum("...ii->...i", gram))
        scale = np.where(scale > 0, scale, 1.0)
        gram = gram / scale[..., None] / scale[..., None, :]
        least = np.linalg.eigvalsh(gram)[..., 0]
        here = np.logical_and.reduce([r.here for r in rows])
        if here.any() and (least[here] < 1e-10).all():
            raise ValueError(
                describe(
                    f"the law {law.label!r} follows from {[k.label for k in kin]}",
                    expected="laws of which none is a combination of the others",
                    received=f"linearly dependent coefficients in all {int(here.sum())} groups",
                    remedy="drop one of them",
                )
            )
