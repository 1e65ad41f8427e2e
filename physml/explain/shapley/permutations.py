"""Shapley and Owen values by random orders of the groups, each with its reverse.

References
----------
Mitchell, R. et al. (2022), Sampling permutations for Shapley value estimation, arXiv:2104.12199.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from physml.explain.shapley.designs import DESIGN_BYTES, Design, accept_draw, deal
from physml.explain.shapley.gathering import Means
from physml.explain.shapley.nesting import Unions, branches


@dataclass(frozen=True)
class PairedPermutations:
    """Random orders of the groups, each with its reverse: unbiased, with a standard error, additive to round-off.

    The first G / 2 orders bring every group to different places. That lowers the error little, but makes the standard error of
    few pairs rather too wide than too short, as it would be for groups that matter at few places only. Where a group interacts
    with two or three others at most, a pair has few values to take, and 95 % intervals of 5 pairs may still hold the truth only
    nine times in ten: those of :class:`physml.explain.PairedKernel` do not suffer from it.

    Costs ``2 pairs (G - 1)`` model rows a sample. Each sample has its own orders. Several baseline rows are dealt evenly
    over the pairs, whose number is rounded up to a multiple of theirs. Where they are very unlike and each has few pairs (three,
    say), 95 % intervals may hold the truth only nine times in ten.

    Parameters
    ----------
    pairs
        Number of orders drawn, at least 2, for the standard error; with a tolerance, before the first decision to stop.
    seed
        Seed of the draw.
    unions
        For Owen values: levels of unions, the outermost first, each with the name of the union of every group. The groups of
        a union follow each other in every order.
    """

    pairs: int = 100
    seed: int = 0
    unions: Unions = ()

    def __post_init__(self) -> None:
        accept_draw(self.pairs, self.seed, 2, 100)

    @property
    def name(self) -> str:
        """What it estimates, and how."""
        return f"{'Owen' if self.unions else 'Shapley'} values by paired permutations"

    def rows_each(self, n_groups: int, n_slots: int) -> int:
        """Return the rows of an order and its reverse."""
        return 2 * (n_groups - 1)

    def row_bytes(self, n_groups: int) -> int:
        """Return the bytes of one row."""
        return 3 * n_groups

    def fewest(self, n_groups: int) -> int:
        """Return 2."""
        return 2

    def most(self, n_groups: int, n_slots: int) -> float:
        """Return no bound."""
        return math.inf

    def design(
        self, n_groups: int, n_slots: int, sample: int = 0, *, pairs: int | None = None, start: int = 0
    ) -> Design:
        """Return prefixes of random orders and of their reverses."""
        rng = np.random.default_rng([self.seed, sample, start])
        pairs = -(-(self.pairs if pairs is None else pairs) // n_slots) * n_slots
        rank = self._ranks(rng, pairs, n_groups, spread=not start)
        slots = deal(rng, pairs, n_slots)
        both = np.stack([rank, n_groups - 1 - rank], axis=1)[:, :, None, :]
        size = np.arange(1, n_groups)[:, None]
        weights = (both == size - 1).astype("int8") - (both == size)
        ends = 0.5 * (rank == 0) + 0.5 * (rank == n_groups - 1)
        return Design(
            coalitions=(both < size).reshape(-1, n_groups),
            slot=np.repeat(slots, 2 * (n_groups - 1)),
            weights=weights.reshape(-1, n_groups),
            full=ends,
            empty=-ends,
            slots=slots[:, None],
            scale=0.5,
        )

    def _ranks(self, rng: np.random.Generator, pairs: int, n_groups: int, spread: bool) -> np.ndarray:
        """Return the place of every group in each order, ``[pair, group]``."""
        keys = []
        for union in branches(self.unions, n_groups)[::-1]:
            n = union.max() + 1
            orders = spread_orders(rng, pairs, n) if spread else rng.random((pairs, n))
            keys.append(orders[:, union])
        return np.lexsort(keys, axis=-1).argsort(axis=-1)

    def gathering(self, n_groups: int, n_slots: int, n_out: int) -> Means:
        """Return what takes the pairs."""
        return Means(n_slots, (n_groups, n_out))


def spread_orders(rng: np.random.Generator, pairs: int, n: int) -> np.ndarray:
    """Return random orders of *n*, ``[pair, n]``, of which the first n / 2 bring everyone to different places.

    With their reverses, these bring everyone to every place once. Each order is still as likely as any other.
    """
    even = n + n % 2  # an odd number gets one more, which is left out in the end
    half = even // 2
    first, turned = rng.permutation(half), rng.random(half) < 0.5
    first = np.where(turned, even - 1 - first, first)
    place = np.concatenate([first, even - 1 - first])
    turns = rng.permutation(half)[:pairs, None]
    spread = place[(rng.permutation(even) + turns) % even][:, :n]
    return np.concatenate([spread, rng.random((pairs - len(turns), n)).argsort(1)])


def at_a_time(row_bytes: int, rows_each: int, n_slots: int) -> int:
    """Return the number of replicates that one design holds, all baseline rows equally often."""
    return max(DESIGN_BYTES // max(row_bytes * rows_each, 1) // n_slots, 1) * n_slots
