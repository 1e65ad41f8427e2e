"""The dual iteration behind :mod:`physml.constraints.joint`: multipliers, line search, small dense systems, conjugate gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras import ops

from physml.constraints.linear import like, through
from physml.constraints.nearby import Nearby

if TYPE_CHECKING:
    from physml.constraints.joint import Problem

MAX_STEPS = 60
"""Steps of the Newton iteration after which it stops; it needs about five."""
MAX_CG = 200
"""Steps of the conjugate gradients inside one of them."""
DAMPING = 1e-3
"""Share of the diagonal that is added while the laws are missed by their own size; less as they are met."""
DEPENDENT = 1e-11
"""A law whose remaining pivot is this small beside its diagonal follows from the others."""

Fields = Mapping[str, Any]
Sums = list[Any]


class Dual:
    """The tensors of one call: coefficients, totals, and the steps of the iteration on them."""

    def __init__(self, problem: Problem, arrays: Any, z: Fields, x: Fields) -> None:
        self.problem, self.arrays, self.z, self.x = problem, arrays, dict(z), dict(x)
        self.laws = problem.laws
        self.c = [law.coefficients(x, a) for law, a in zip(self.laws, arrays["laws"], strict=True)]
        found = [law.total(x, a) for law, a in zip(self.laws, arrays["laws"], strict=True)]
        # sums of the outputs alone, so that every sample has a total of its own
        flat = [0.0 * law.sum(c, z) for law, c in zip(self.laws, self.c, strict=True)]
        self.b: Sums = [b + f for (b, _), f in zip(found, flat, strict=True)]
        self.size: Sums = [s + f for (_, s), f in zip(found, flat, strict=True)]
        ends = {n: problem.boxes[n].ends(arrays["boxes"][n], x) for n in problem.boxes}
        mobility = {n: ops.convert_to_tensor(arrays["mobility"][n])[None] for n in problem.names}
        self.nearby = Nearby(problem.chains, ends, mobility)
        self.mobility = mobility
        self.free_set = bool(problem.boxes or problem.chains)
        self.alike = all(law.groups == self.laws[0].groups and law.depth == self.laws[0].depth for law in self.laws)
        self.diagonal = [self._gram(k, k, mobility) for k in range(len(self.laws))]
        self.direct = self.alike and not problem.chains and self._separable()

    def _separable(self) -> bool:
        """Tell whether no cell belongs to two groups: then the small systems are the whole system."""
        depth = self.laws[0].depth if self.laws else 1
        summed = bool(self.laws) and self.laws[0].groups.levels
        return summed or all(self.z[n].shape[-1] == depth for n in self.z)

    # the linear maps --------------------------------------------------------------------------------------------------

    def forward(self, y: Fields) -> Sums:
        """Return ``C y``."""
        return [law.sum(c, y) for law, c in zip(self.laws, self.c, strict=True)]

    def adjoint(self, v: Sums) -> dict[str, Any]:
        """Return ``C' v`` by variable."""
        out = {n: ops.zeros_like(f) for n, f in self.z.items()}
        for law, c, multiplier in zip(self.laws, self.c, v, strict=True):
            spread = law.groups.spread(multiplier)
            for n, coefficient in c.items():
                out[n] = out[n] + like(coefficient * spread, self.z[n])
        return out

    def at(self, v: Sums) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return ``y(v)`` and how it moves."""
        pull = self.adjoint(v)
        return self.nearby.point({n: self.z[n] - self.mobility[n] * pull[n] for n in self.z})

    def excess(self, y: Fields) -> Sums:
        """Return ``C y - b``."""
        return [s - b for s, b in zip(self.forward(y), self.b, strict=True)]

    # small systems and conjugate gradients ----------------------------------------------------------------------------

    def _gram(self, k: int, j: int, weight: Fields) -> Any:
        terms = [
            self.laws[k].groups.sum(_wide(c * self.c[j][n] * weight[n], self.laws[k].depth, self.laws[k].groups.levels))
            for n, c in self.c[k].items()
            if n in self.c[j]
        ]
        return sum(terms[1:], terms[0]) if terms else None

    def small(self, weight: Fields, damping: Sums | None) -> Any:
        """Return a function that solves the systems of laws with the same groups, given the share of each cell that moves.

        With *damping* (of each diagonal) every step is finite; without, a law that follows from the others gets none.
        """
        m = len(self.laws)
        kin = [[_kin(self.laws[i], self.laws[j]) for j in range(m)] for i in range(m)]
        gram = {(i, j): self._gram(i, j, weight) for i in range(m) for j in range(i + 1) if kin[i][j]}
        lower: dict[tuple[int, int], Any] = {}
        inverse: list[Any] = []
        pivots: list[Any] = []
        for j in range(m):
            full = self.diagonal[j]
            own = gram[j, j] if damping is None else gram[j, j] + damping[j]
            pivot = own
            for k in range(j):
                if kin[j][k] and (j, k) in lower:
                    pivot = pivot - lower[j, k] ** 2 * pivots[k]
            nothing = full <= 0 if damping is not None else pivot <= DEPENDENT * full
            pivot = ops.where(nothing, ops.ones_like(pivot), pivot)
            inverse.append(ops.where(nothing, ops.zeros_like(pivot), 1 / pivot))
            pivots.append(ops.where(nothing, ops.zeros_like(pivot), pivot))
            for i in range(j + 1, m):
                if not kin[i][j]:
                    continue
                entry = gram[i, j]
                for k in range(j):
                    if (i, k) in lower and (j, k) in lower:
                        part = lower[i, k] * lower[j, k] * pivots[k]
                        entry = -part if entry is None else entry - part
                if entry is not None:
                    lower[i, j] = entry * inverse[j]

        def solve(r: Sums) -> Sums:
            out = list(r)
            for i in range(m):
                for k in range(i):
                    if (i, k) in lower:
                        out[i] = out[i] - lower[i, k] * out[k]
            out = [o * i for o, i in zip(out, inverse, strict=True)]
            for i in reversed(range(m)):
                for k in range(i + 1, m):
                    if (k, i) in lower:
                        out[i] = out[i] - lower[k, i] * out[k]
            return out

        return solve

    def solve_for(self, r: Sums, moved: Fields, leak: float = 0.0, damping: Sums | None = None) -> Sums:
        """Return ``d`` with ``(C T C') d = r``, damped by parts of its diagonal."""
        weight = {n: self.mobility[n] * self.nearby.free(n, moved, leak) for n in self.z}
        if damping is not None:  # of what can move now; of all there is where nothing can
            own = [self._gram(k, k, weight) for k in range(len(self.laws))]
            scale = [ops.where(o > DEPENDENT * f, o, f + 0.0 * o) for o, f in zip(own, self.diagonal, strict=True)]
            damping = [d * s for d, s in zip(damping, scale, strict=True)]
        small = self.small(weight, damping)
        if self.direct:
            return small(r)

        def apply(d: Sums) -> Sums:
            out = self.forward(self.nearby.push(self.adjoint(d), moved, leak))
            if damping is None:
                return out
            return [o + m * p for o, m, p in zip(out, damping, d, strict=True)]

        def dot(a: Sums, b: Sums) -> Any:
            parts = [ops.sum(p * q, axis=tuple(range(1, len(p.shape)))) for p, q in zip(a, b, strict=True)]
            return sum(parts[1:], parts[0])

        def times(a: Any, b: Sums) -> Sums:
            return [ops.reshape(a, (-1, *(1 for _ in p.shape[1:]))) * p for p in b]

        def plus(a: Sums, b: Sums) -> Sums:
            return [p + q for p, q in zip(a, b, strict=True)]

        scale = dot(small(r), r)

        def unfinished(i: Any, d: Any, r: Any, p: Any, rho: Any) -> Any:
            return ops.logical_and(i < MAX_CG, ops.any(rho > 1e-25 * scale))

        def body(i: Any, d: Any, r: Any, p: Any, rho: Any) -> Any:
            d, r, p = list(d), list(r), list(p)
            q = apply(p)
            curvature = dot(p, q)
            going = ops.logical_and(rho > 1e-25 * scale, curvature > 0)
            step = ops.where(going, rho / ops.where(going, curvature, ops.ones_like(rho)), ops.zeros_like(rho))
            d, r = plus(d, times(step, p)), plus(r, times(-step, q))
            s = small(r)
            new = ops.where(going, dot(s, r), ops.zeros_like(rho))
            turn = ops.where(going, new / ops.where(going, rho, ops.ones_like(rho)), ops.zeros_like(rho))
            return i + 1, tuple(d), tuple(r), tuple(plus(s, times(turn, p))), new

        start = small(r)
        zero = tuple(ops.zeros_like(p) for p in r)
        out = ops.while_loop(unfinished, body, (ops.zeros((), "int32"), zero, tuple(r), tuple(start), scale))
        return list(out[1])

    # the iteration ----------------------------------------------------------------------------------------------------

    def solve(self) -> tuple[dict[str, Any], Any, dict[str, Any]]:
        """Return the projection, the multipliers, and how the solution moves."""
        v = tuple(ops.zeros_like(b) for b in self.b)
        if not self.laws:
            y, moved = self.at(list(v))
            return y, v, moved
        if self.free_set:
            v = self._climb(v)
        y, moved = self.at(list(v))
        left = tuple(self.excess(y))

        def polish(i: Any, y: Any, left: Any, v: Any) -> tuple[Any, ...]:
            d = self.solve_for(list(left), moved)
            step = self.nearby.push(self.adjoint(d), moved)
            trial = self._within({n: y[n] - step[n] for n in y})
            rest = self.excess(trial)
            before = self._miss(y, list(left))
            better = self._miss(trial, rest) <= before
            if self.free_set:  # where the laws cannot be met there is no such set, and the nearest miss stays
                better = ops.logical_and(better, before < 1e-6)
            return (
                i + 1,
                {n: self._choose(better, trial[n], y[n], cells=True) for n in y},
                tuple(self._choose(better, p, q) for p, q in zip(rest, left, strict=True)),
                tuple(self._choose(better, p + q, p) for p, q in zip(v, d, strict=True)),
            )

        # On the free set the laws are linear: what is left of the sums is round-off.
        start = (ops.zeros((), "int32"), y, left, v)
        _, y, _, v = ops.while_loop(lambda i, y, left, v: i < 2, polish, start)
        return y, v, moved

    def _within(self, y: dict[str, Any]) -> dict[str, Any]:
        for n, (low, high) in self.nearby.ends.items():
            held = self.mobility[n] <= 0
            if low is not None:
                y[n] = ops.where(held, y[n], ops.maximum(y[n], low))
            if high is not None:
                y[n] = ops.where(held, y[n], ops.minimum(y[n], high))
        return y

    def _climb(self, v: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the multipliers at which the laws are met, or no step brings them nearer."""
        everywhere = {f"free {n}": ops.ones_like(f) for n, f in self.z.items()}
        if (
            not self.problem.chains
        ):  # from far beyond the bounds the plane of the laws is a better start than the fields
            v = tuple(self.solve_for(self.excess(self.z), everywhere, damping=[DAMPING + 0.0 * b for b in self.b]))
        y, moved = self.at(list(v))
        r = self.excess(y)
        miss = self._miss(y, r)
        size = self._amounts(self.z)
        ratio = [p / ops.where(a > 0, a, ops.ones_like(a)) for p, a in zip(size, self._amounts(y), strict=True)]
        good = 1e-13 + 1e-15 * self._worst(ratio)  # multipliers hold no more digits than the fields they start from

        def going(miss: Any, t: Any) -> Any:
            return ops.logical_and(miss > good, t > 1e-9)

        def unfinished(i: Any, v: Any, y: Any, moved: Any, r: Any, miss: Any, t: Any) -> Any:
            return ops.logical_and(i < MAX_STEPS, ops.any(going(miss, t)))

        def body(i: Any, v: Any, y: Any, moved: Any, r: Any, miss: Any, t: Any) -> Any:
            mu = DAMPING * ops.minimum(miss, ops.ones_like(miss))
            d = self.solve_for(list(r), moved, damping=[self._back(mu, p) for p in r])
            active = going(miss, t)
            step = ops.where(active, t, ops.zeros_like(t))
            trial = tuple(p + self._back(step, p) * q for p, q in zip(v, d, strict=True))
            y1, moved1 = self.at(list(trial))
            r1 = self.excess(y1)
            # Along d the function is concave: as long as its slope is not negative it has grown.
            before, after = (self._pooled([p * q for p, q in zip(f, d, strict=True)]) for f in (r, r1))
            better = ops.logical_and(active, after >= -0.01 * before)

            fall = before / ops.where(before > after, before - after, ops.ones_like(before))
            shorter = t * ops.clip(fall, 0.1, 0.7)
            return (
                i + 1,
                tuple(self._choose(better, p, q) for p, q in zip(trial, v, strict=True)),
                {n: self._choose(better, y1[n], y[n], cells=True) for n in y},
                {n: self._choose(better, moved1[n], moved[n], cells=True) for n in moved},
                tuple(self._choose(better, p, q) for p, q in zip(r1, r, strict=True)),
                ops.where(better, self._miss(y1, r1), miss),
                ops.where(better, ops.ones_like(t), ops.where(active, shorter, t)),
            )

        start = (ops.zeros((), "int32"), v, y, moved, tuple(r), miss, ops.ones_like(miss))
        return ops.while_loop(unfinished, body, start)[1]

    # What is solved together has one number ``[batch]``, or ``[batch, *group, level]`` where groups are independent.

    def _pooled(self, parts: Sums) -> Any:
        parts = parts if self.direct else [ops.sum(p, axis=tuple(range(1, len(p.shape)))) for p in parts]
        return sum(parts[1:], parts[0])

    def _worst(self, parts: Sums) -> Any:
        parts = parts if self.direct else [ops.max(p, axis=tuple(range(1, len(p.shape)))) for p in parts]
        out = parts[0]
        for p in parts[1:]:
            out = ops.maximum(out, p)
        return out

    def _back(self, number: Any, like: Any) -> Any:
        return number if self.direct else ops.reshape(number, (-1, *(1 for _ in like.shape[1:])))

    def _choose(self, flag: Any, new: Any, old: Any, *, cells: bool = False) -> Any:
        """Return *new* where the flag of what is solved together says so; sums, or with *cells* fields."""
        if cells and self.direct:
            return ops.where(self.laws[0].groups.spread(ops.cast(flag, "float64")) > 0.5, new, old)
        return ops.where(self._back(flag, new), new, old)

    def _amounts(self, y: Fields) -> Sums:
        """Return the size of what each law compares: the sum of the absolute terms."""
        out = []
        for law, c, known in zip(self.laws, self.c, self.size, strict=True):
            parts = [law.groups.sum(ops.abs(c[n] * y[n])) for n in c]
            out.append(ops.maximum(known, sum(parts[1:], parts[0])))
        return out

    def _miss(self, y: Fields, r: Sums) -> Any:
        """Return by how much the worst law is missed beside that."""
        amounts = self._amounts(y)
        return self._worst(
            [ops.abs(p) / ops.where(a > 0, a, ops.ones_like(a)) for p, a in zip(r, amounts, strict=True)]
        )

    # the gradient -----------------------------------------------------------------------------------------------------

    def pull(self, y: Fields, v: Any, moved: Fields, g: Fields, leak: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the gradients of the fields and of the inputs for an upstream gradient ``g``."""
        dx = {n: ops.zeros_like(self.x[n]) for n in self.problem.inputs}
        if not self.laws:
            q, s = dict(g), []
        else:
            s = self.solve_for(self.forward(self.nearby.push(g, moved, leak)), moved, leak)
            back = self.adjoint(s)
            q = {n: g[n] - back[n] for n in g}
        dz = self.nearby.pull(q, moved, leak)
        for n, (low, high) in self.nearby.ends.items():
            box = self.problem.boxes[n]
            kin = next((c.names for c in self.problem.chains if n in c.names and c.axis is None), (n,))
            for end, bounds in ((low, box.low_inputs), (high, box.high_inputs)):
                for name in bounds:
                    mine = ops.cast(self.x[name] == end, "float64")
                    for other in kin:  # a bound of one variable in an order may be where others lie too
                        held = 1.0 - self.nearby.free(other, moved)
                        dx[name] = dx[name] + like(
                            q[other] * held * mine * ops.cast(y[other] == end, "float64"), self.x[name]
                        )
        if self.laws:
            t_q = self.nearby.push(q, moved, leak)
            for k, (law, c) in enumerate(zip(self.laws, self.c, strict=True)):
                spread, multiplier = law.groups.spread(s[k] * self.arrays["laws"][k]["here"]), law.groups.spread(v[k])
                for n, coefficient in law.outputs.items():
                    change = -spread * y[n] - multiplier * t_q[n]
                    through(dx, self.x, coefficient, c[n], change)
                fixed = self.arrays["laws"][k]["known"]
                for (n, coefficient), array in zip(law.known, fixed, strict=True):
                    weight = coefficient.tensor(self.x, array)
                    dx[n] = dx[n] + like(spread * weight, self.x[n])
                    through(dx, self.x, coefficient, weight, spread * self.x[n])
        return dz, dx


def _kin(a: Any, b: Any) -> bool:
    """Tell whether two laws share their groups."""
    return bool(a.groups == b.groups and (a.groups.levels or a.depth == b.depth))


def _wide(x: Any, depth: int, levels: bool) -> Any:
    """Return a product of coefficients with the levels of the law, where these are kept."""
    return x if levels or x.shape[-1] == depth else ops.repeat(x, depth, axis=-1)
