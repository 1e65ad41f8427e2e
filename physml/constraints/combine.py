"""Constraints: several laws as one joint feasible set, and all that is derived from them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr
from keras import ops

from physml import _backend
from physml._errors import closest, describe, misfits
from physml.constraints import _plan
from physml.constraints._arrange import arrange, at_start, disarrange, fold, group, unfold
from physml.constraints.balance import Budget
from physml.constraints.base import Constraint, Fields
from physml.constraints.bounds import Bounds, Monotone, NonNegative
from physml.constraints.budget import Conserve
from physml.constraints.closure import BlockMean, Closure, Simplex
from physml.constraints.completion import Completion
from physml.constraints.joint import project as project_jointly
from physml.constraints.linear import law_totals
from physml.constraints.nonlinear import KineticEnergy, Nonlinear, RelativeHumidity
from physml.constraints.projection import clip, project_sum
from physml.layout import Layout

__all__ = ["KINDS", "Constraints", "arrange", "at_start", "disarrange", "fold", "label", "labels", "unfold"]

KINDS: dict[str, type[Constraint]] = {
    kind.__name__: kind
    for kind in (
        *(NonNegative, Bounds, Simplex, Monotone, Conserve, Budget, Closure, BlockMean, Completion),
        *(Nonlinear, KineticEnergy, RelativeHumidity),
    )
}
"""Constraints by the name used in configurations and saved models."""
GRADIENTS = ("exact", "straight-through", "leaky")


class Constraints:
    """Laws that hold together: one feasible set, and the projection onto its nearest point.

    Parameters
    ----------
    laws
        Constraints in any order; the projection is onto their intersection, so the order does not matter.
    metric
        Cost of moving a variable, by name: a number, or a field without sample dimension. By default the area of the cell (its
        weight where a law sums the variable over space) over the variance of the variable, which a :class:`physml.FieldModel`
        takes from its scaling; without a scaling the variance counts 1.
    exclude
        Cells that are left as they are, by variable: the name of a boolean field, or labels of a level dimension, ``{"temp":
        {"depth": [5.0]}}``. They still count in the sums.
    gradient
        ``"exact"``: that of the projection, by implicit differentiation. ``"leaky"``: cells at a bound pass 5 % of it, so that they
        cannot stay there for good. ``"straight-through"``: that of the identity. The output obeys the laws in all three.
    settled
        Cells of a group, such as 64, on which the rounding of float32 is settled where a single sum and numbers as bounds act on a
        variable: its total is then exact to about 1e-15 in place of 1e-8.

    Examples
    --------
    >>> from physml.constraints import Conserve, Constraints, NonNegative
    >>> len(Constraints([NonNegative("tracer"), Conserve("tracer", ("lat", "lon"), "cell_volume")]))
    2
    """

    def __init__(
        self,
        laws: Iterable[Constraint] | Constraint = (),
        *,
        metric: Mapping[str, float | str | xr.DataArray] | None = None,
        exclude: Mapping[str, Any] | None = None,
        gradient: str = "exact",
        settled: int = 0,
    ) -> None:
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
        if gradient not in GRADIENTS:
            raise ValueError(
                describe(
                    f"Constraints: gradient is not understood{closest(str(gradient), GRADIENTS)}",
                    expected=f"one of {GRADIENTS}",
                    received=repr(gradient),
                    remedy="gradient='exact'",
                )
            )
        self._given = {f"metric_of_{n}": m for n, m in (metric or {}).items() if isinstance(m, xr.DataArray)}
        self.costs = {n: f"metric_of_{n}" if isinstance(m, xr.DataArray) else m for n, m in (metric or {}).items()}
        self.exclude = dict(exclude or {})
        self.gradient, self.settled = gradient, int(settled)
        self.variance: dict[str, np.ndarray] = {}
        self._planned: dict[bool, tuple[Layout, list[_plan.Part]]] = {}

    def __iter__(self) -> Iterator[Constraint]:
        return iter(self.laws)

    def __len__(self) -> int:
        return len(self.laws)

    def __repr__(self) -> str:
        options = {"metric": self.costs, "exclude": self.exclude}
        said = "".join(f", {k}={v!r}" for k, v in options.items() if v)
        said += f", gradient={self.gradient!r}" if self.gradient != "exact" else ""
        said += f", settled={self.settled}" if self.settled else ""
        return f"Constraints({list(self.laws)!r}{said})"

    def weighed(self, unit: np.ndarray, layout: Layout) -> Constraints:
        """Return the same laws with the squares of typical sizes ``[target channel]`` as variances in the default metric."""
        out = copy.copy(self)
        first = {n: layout.where("targets", n, layout.spec.offsets("targets", n)[0]) for n in layout.spec.targets}
        out.variance = {n: np.where(unit[at] > 0, unit[at], 1.0).astype("float64") ** 2 for n, at in first.items()}
        out._planned = {}
        return out

    def bind(self, layout: Layout) -> Layout:
        """Return the layout with every field the laws need kept in it; refuse one they cannot act on.

        Raises
        ------
        KeyError, ValueError
            For names, dimensions, weights or units that do not fit, for bounds that leave no value, and for laws that follow
            from others.
        """
        if layout.hollow:  # of a model that is being loaded: it was bound before it was saved
            return layout
        fields: dict[str, xr.DataArray] = {}
        for brought in (*(law.statics(layout) for law in self.laws), _plan.fields_of(self, layout)):
            for n, field in brought.items():
                other = fields.get(n, layout.statics[n] if n in layout.kept else None)
                if other is not None and not _same(field, other):
                    raise ValueError(
                        describe(
                            f"two laws bring different {n!r}",
                            expected="one field of that name in constraints and penalties",
                            received="two DataArrays that differ",
                            remedy="put both into the Dataset under names of their own, and pass weights='name'",
                        )
                    )
                fields[n] = field
        layout = layout.keep(fields) if fields else layout
        for law in self.laws:
            law.verify(layout)
        _plan.check(self, layout)
        return layout

    def plan(self, layout: Layout, *, carrying: bool = False) -> list[_plan.Part]:
        """Return what is done to which variables, made once for a layout."""
        known = self._planned.get(carrying)
        if (
            known is None or known[0] is not layout
        ):  # one assignment, so that threads with other layouts cannot mix theirs in
            known = self._planned[carrying] = (layout, _plan.parts(self, layout, carrying=carrying))
        return known[1]

    def residuals(self, outputs: Fields, inputs: Fields, layout: Layout) -> dict[str, Any]:
        """Return the residual of every law by its label."""
        return {k: law.residual(outputs, inputs, layout) for k, law in labels(self).items()}

    def project(
        self, outputs: Fields, inputs: Fields, layout: Layout, leftovers: Fields | None = None
    ) -> dict[str, Any]:
        """Return the nearest fields that satisfy all laws, ``[batch, *space, offset and level]`` by variable.

        With *leftovers*, from :meth:`leftovers` of the step before, totals of the state are those it ought to have had.
        """
        out = dict(outputs)
        for part in self.plan(layout, carrying=leftovers is not None):
            out |= self._project(part, out, inputs, layout, leftovers or {})
        return out

    def _project(
        self, part: _plan.Part, out: Fields, inputs: Fields, layout: Layout, leftovers: Fields
    ) -> dict[str, Any]:
        if part.simple:
            (name,) = part.problem.names
            box = part.problem.boxes[name]
            offsets = len(layout.spec.offsets("targets", name))
            low, high = (
                b if b is None or b.shape[-1] == 1 else np.concatenate([b] * offsets, axis=-1)
                for b in (box.low, box.high)
            )
            return {name: clip(out[name], low, high, self.gradient)}
        if part.total is not None:
            (name,), law = part.problem.names, part.total
            y, terms, weights = arrange(out[name], inputs, law, name, layout)
            factors = list(law.terms.values())
            if part.leftover is not None:
                terms, factors = [*terms, group(leftovers[part.leftover], law, 1, layout)], [*factors, 1.0]
            y = project_sum(
                y,
                terms,
                weights=weights,
                coefficients=factors,
                constant=law.constant,
                metric=part.metric,
                lower=part.low,
                upper=part.high,
                gradient=self.gradient,
                settled=self.settled,
            )
            return {name: disarrange(y, out[name], law, layout)}
        names, needs = part.problem.names, part.problem.inputs
        wanted = [*needs, *(n for source in part.sources for n in (*source.mentions(), *source.needs()))]
        known = at_start(inputs, [n for n in dict.fromkeys(wanted) if n in layout.spec.inputs], layout, names[0])
        known |= {n: leftovers[n] for n in needs if n in leftovers}
        moved = fold({n: out[n] for n in names}, layout)
        others = {n for source in part.sources for n in source.mentions()} & set(layout.spec.targets) - set(names)
        still = fold({n: out[n] for n in sorted(others)}, layout)
        for _ in range(max((source.passes for source in part.sources), default=1)):
            for source in part.sources:
                known |= source.prepare(still | moved, known, layout)
            moved = project_jointly(part.problem, moved, {n: known[n] for n in needs})
        return unfold(moved, out, layout)

    def carries(self, layout: Layout) -> dict[str, int]:
        """Return the leftovers that a roll-out carries, with their number of levels."""
        return {c.key: layout.variables[c.name].depth for c in _plan.carriers(self, layout).values()}

    def leftovers(self, outputs: Fields, inputs: Fields, layout: Layout, before: Fields) -> dict[str, Any]:
        """Return what totals of the state lack in float32 outputs, spread over the cells that make them up.

        Carried into the next step the totals stay those of the initial state and the sources, whatever the number of steps.

        Parameters
        ----------
        outputs
            As :meth:`project` returned them and as they are kept, at one offset.
        inputs, before
            The inputs and the leftovers of that step.

        Returns
        -------
        dict
            ``[batch, *space, level]`` by name, in the units of the variable.
        """
        found = {}
        for carrier in _plan.carriers(self, layout).values():
            law, kind = carrier.law, before[carrier.key].dtype
            with _backend.float64():
                known = at_start(inputs, [n for n in law.needs if n != carrier.key], layout) | {
                    carrier.key: before[carrier.key]
                }
                have, want = law_totals(law, {n: outputs[n] for n in law.outputs}, known)
                weight = law.outputs[carrier.name].fixed
                amount = np.broadcast_to(law.groups.share(law.groups.total(np.abs(weight))), weight.shape)
                share = np.divide(np.sign(weight), amount, out=np.zeros_like(weight), where=amount > 0)
                found[carrier.key] = ops.cast(law.groups.spread(want - have) * share, kind)
        return found

    def loss(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return the soft loss: the sum over laws of the mean squared residual."""
        total = ops.zeros((), "float32")
        for residual in self.residuals(outputs, inputs, layout).values():
            total = total + ops.mean(ops.square(ops.cast(residual, "float32")))
        return total

    def metric(self, outputs: Fields, inputs: Fields, layout: Layout) -> dict[str, Any]:
        """Return the greatest absolute residual of every law by its label."""
        return {k: ops.max(ops.abs(r)) for k, r in self.residuals(outputs, inputs, layout).items()}

    def layer(self, layout: Layout, penalty: Any = None) -> Any:
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

    def to_config(self) -> Any:
        """Return plain values from which :meth:`from_config` makes the same laws."""
        laws = [{"type": type(law).__name__, **law.get_config()} for law in self.laws]
        options: dict[str, Any] = {"metric": self.costs, "exclude": self.exclude} if self.costs or self.exclude else {}
        options |= {"gradient": self.gradient} if self.gradient != "exact" else {}
        options |= {"settled": self.settled} if self.settled else {}
        return {"laws": laws, **options} if options else laws

    @classmethod
    def from_config(cls, config: Any) -> Constraints:
        """Return the laws described by ``{"type": ..., **arguments}``, alone or as ``{"laws": [...], "gradient": ...}``."""
        options: dict[str, Any] = {}
        if isinstance(config, Mapping):
            options = {k: v for k, v in config.items() if k != "laws"}
            config = config.get("laws", ())
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
            arguments = {k: v for k, v in entry.items() if k != "type"}
            _check_arguments(kind, KINDS[kind], arguments)
            laws.append(KINDS[kind](**arguments))
        return cls(laws, **options)


def _check_arguments(kind: str, law: type[Constraint], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a law does not take, or lacks."""
    known, unknown, lacking = misfits(law, arguments)
    if unknown or lacking:
        raise ValueError(
            describe(
                f"{kind} takes no argument {unknown[0]!r}{closest(unknown[0], known)}"
                if unknown
                else f"{kind} lacks the argument {lacking[0]!r}",
                expected=f"arguments among {', '.join(known)}",
                received=dict(arguments),
                remedy="correct the arguments of the law",
            )
        )


def _same(a: xr.DataArray, b: xr.DataArray) -> bool:
    """Tell whether two fields hold the same values on the same dimensions, in any order."""
    if set(a.dims) != set(b.dims):
        return False
    return a.sizes == b.sizes and np.array_equal(a.values, b.transpose(*a.dims).values, equal_nan=a.dtype.kind == "f")


def label(law: Constraint) -> str:
    """Return a short name of a law for metrics and tables.

    Examples
    --------
    >>> label(NonNegative("tracer"))
    'nonnegative_tracer'
    """
    return f"{type(law).__name__.lower()}_{law.name}"


def labels(laws: Iterable[Constraint]) -> dict[str, Constraint]:
    """Return laws by their labels, numbered where several would have the same."""
    found: dict[str, Constraint] = {}
    for law in laws:
        name, n = label(law), 1
        while name in found:
            n += 1
            name = f"{label(law)}_{n}"
        found[name] = law
    return found
