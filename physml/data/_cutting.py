"""How data are cut into units that are read at once, and how many of them are held in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from physml._errors import describe
from physml.data._plan import Samples, Units, merged
from physml.data._pool import Field


@dataclass(frozen=True)
class Cutting:
    """How data are cut.

    Attributes
    ----------
    units, per_group
        What is read at once, and how many are held in memory together.
    keep
        Whether rows at the edge of a unit wait in memory for the other unit of their window, instead of being read again.
    in_memory
        Whether there is nothing to read.
    held
        Rows in memory at most [bytes].
    """

    units: Units
    per_group: int
    keep: bool
    in_memory: bool
    held: int

    @classmethod
    def of(
        cls, fields: Mapping[str, Field], samples: Samples, members: Mapping[str, int], memory: int, shuffle: bool
    ) -> Cutting:
        """Return the cutting that fits into *memory* [bytes].

        Raises
        ------
        ValueError
            Where not even one window fits.
        """
        lazy = [f for f in fields.values() if f.memory is None]
        n, sizes = samples.n_times, tuple(members.values())
        one = Units(tuple(np.array([0, m]) for m in sizes), np.array([0, n]))
        whole = sum(f.row_bytes * n * int(np.prod([sizes[i] for i in f.has], dtype=int)) for f in lazy)
        if whole <= memory:
            return cls(one, 1, True, not lazy, whole)
        row = sum(f.row_bytes for f in lazy)
        _require_memory(2 * row * samples.windows.shape[1], memory)
        # The variable with the largest chunks says where to cut: reading one of them twice would cost most.
        leader = max(lazy, key=lambda f: int(np.diff(f.source.bounds(f.sample_dim)).max()) * f.row_bytes)
        bounds = leader.source.bounds(leader.sample_dim)
        cuts = []
        for m, size in members.items():
            whole_chunks = shuffle and m in leader.source.dims
            cuts.append(leader.source.bounds(m) if whole_chunks else np.arange(size + 1))
        together = int(np.prod([int(np.diff(c).max()) for c in cuts], dtype=int))
        span = max(samples.offsets) - min(samples.offsets)
        edges = span * (len(bounds) - 1) * int(np.prod(sizes, dtype=int)) * row
        keep = not shuffle or edges <= memory // 4
        waiting = edges if keep and shuffle else 0
        budget = (memory - waiting) // 2
        if together * row > budget:  # a chunk over many members is read again for each of them
            cuts, together = [np.arange(size + 1) for size in sizes], 1
        fits = max(1, budget // (row * together))
        # Where edges are read again, longer stretches of chunks keep that cheap.
        unit = merged(bounds, 1 if keep else min(fits, 16 * span), fits)
        unit_bytes = row * together * int(np.diff(unit).max())
        per_group = max(1, int(budget // unit_bytes))
        return cls(Units(tuple(cuts), unit), per_group, keep, False, 2 * per_group * unit_bytes + waiting)


def _require_memory(needed: int, memory: int) -> None:
    if needed > memory:
        raise ValueError(
            describe(
                "memory is too small for one window of the data",
                expected=f"at least {needed / 1e6:.3g} MB",
                received=f"{memory / 1e6:.3g} MB",
                remedy="give more memory, or fewer offsets, levels and variables",
            )
        )
