"""Which cells along one dimension a layer, or a network, sees: exact sets of offsets that repeat with its strides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reach:
    """Cell ``p q + r`` of the output sees the cells ``step q + d`` of the input, for every ``d`` in ``sees[r]``.

    Attributes
    ----------
    step
        Input cells after which the pattern repeats.
    sees
        Offsets for each of the ``p = len(sees)`` output cells of one period.
    wraps
        Whether the layer reads the other end of the dimension beyond its ends.
    clamps
        Whether it reads cells near an end in place of those beyond it.
    crosses
        Whether it reads the far side of the circle, across a pole: half of the cells away.

    Examples
    --------
    A pooling of two cells and the repetition that undoes it: every pair of cells sees itself.

    >>> repeated = Reach(1, (frozenset({0}), frozenset({0})))
    >>> repeated.after(Reach(2, (frozenset({0, 1}),))).sees == (frozenset({0, 1}),) * 2
    True
    """

    step: int
    sees: tuple[frozenset[int], ...]
    wraps: bool = False
    clamps: bool = False
    crosses: bool = False

    @classmethod
    def window(cls, before: int, after: int, *, wraps: bool = False) -> Reach:
        """Return the reach of a stencil that keeps the grid: *before* cells on one side, *after* on the other."""
        return cls(1, (frozenset(range(-before, after + 1)),), wraps)

    def at(self, cell: int) -> frozenset[int]:
        """Return the input cells that one output cell sees."""
        q, r = divmod(cell, len(self.sees))
        return frozenset(self.step * q + d for d in self.sees[r])

    def after(self, first: Reach) -> Reach:
        """Return the reach of this layer on the output of *first*, down to the input of *first*."""
        times = len(first.sees) // math.gcd(self.step, len(first.sees))
        cells = range(len(self.sees) * times)
        seen = tuple(frozenset().union(*(first.at(m) for m in self.at(j))) for j in cells)
        return _shortest(self.step * times // len(first.sees) * first.step, seen)

    def along(self, other: Reach) -> Reach | None:
        """Return the reach of two branches that are joined cell by cell; None where their grids differ."""
        if self.step * len(other.sees) != other.step * len(self.sees):
            return None
        period = math.lcm(len(self.sees), len(other.sees))
        step = self.step * period // len(self.sees)
        return _shortest(step, tuple(self.at(j) | other.at(j) for j in range(period)))

    def leaves(self, cells: int, out: int) -> bool:
        """Tell whether any of *out* output cells sees beyond the ends of *cells* input cells."""
        ends = {*range(min(out, len(self.sees))), *range(max(0, out - len(self.sees)), out)}
        return any(min(s) < 0 or max(s) >= cells for s in map(self.at, ends) if s)


def _shortest(step: int, sees: tuple[frozenset[int], ...]) -> Reach:
    period = len(sees)
    for p in range(1, period):
        if period % p or (step * p) % period:
            continue
        s = step * p // period
        if all(sees[j] == frozenset(d + s * (j // p) for d in sees[j % p]) for j in range(period)):
            return Reach(s, sees[:p])
    return Reach(step, sees)


SAME = Reach.window(0, 0)


def shifted(by: int, stride: int = 1, *, wraps: bool = False, clamps: bool = False) -> Reach:
    """Return the reach of a crop (*by* > 0) or a padding (*by* < 0) at the beginning, keeping every *stride*-th cell."""
    return Reach(stride, (frozenset({by}),), wraps, clamps)


def convolution(kernel: int, stride: int, dilation: int, padding: str, cells: int | None) -> Reach | None:
    """Return the reach of a convolution or pooling; None where it depends on a number of cells that is not known."""
    width = dilation * (kernel - 1) + 1
    left = 0
    if padding == "causal":
        left = width - 1
    elif padding == "same" and stride == 1:
        left = (width - 1) // 2
    elif padding == "same":
        if cells is None:
            return None
        left = max((math.ceil(cells / stride) - 1) * stride + width - cells, 0) // 2
    return Reach(stride, (frozenset(i * dilation - left for i in range(kernel)),))


def transposed(kernel: int, stride: int, dilation: int, padding: str, extra: int | None) -> Reach:
    """Return the reach of a transposed convolution, *extra* being its output padding."""
    width = dilation * (kernel - 1) + 1
    left = 0
    if padding == "same":
        total = stride + width - 2 if extra is None else width + width % 2 - 2 + extra
        left = width - 1 - min(total // 2 + total % 2, width - 1)
    cells = [[r + left - t * dilation for t in range(kernel)] for r in range(stride)]
    return Reach(1, tuple(frozenset(u // stride for u in row if u % stride == 0) for row in cells))


def repeated(factor: int, interpolation: str) -> Reach | None:
    """Return the reach of an upsampling; None for interpolations that are not known."""
    if interpolation == "nearest" or factor == 1:
        return Reach(1, (frozenset({0}),) * factor)
    if interpolation != "bilinear":
        return None
    # Centres of the fine cells in coarse ones: (r + 1/2) / factor - 1/2.
    ends = [(divmod(2 * r + 1 - factor, 2 * factor)) for r in range(factor)]
    return Reach(1, tuple(frozenset({q, q + (rest > 0)}) for q, rest in ends), clamps=True)


def joined(parts: Iterable[Sequence[Reach]]) -> list[Reach] | None:
    """Return the reach along every dimension of branches joined cell by cell; None where their grids differ."""
    first, *others = parts
    found: list[Reach] = list(first)
    for part in others:
        both = [a.along(b) for a, b in zip(found, part, strict=True)]
        if any(b is None for b in both):
            return None
        found = [b for b in both if b is not None]
    return found
