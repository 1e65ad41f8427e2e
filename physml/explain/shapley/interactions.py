"""Interactions of pairs of groups: what two groups add together beyond what each adds alone.

``I_ij = sum over S without i and j of |S|! (G-|S|-2)! / (G-1)! (v(S+i+j) - v(S+i) - v(S+j) + v(S))``

is split evenly between the two; the diagonal is what is left of the Shapley value, so that rows sum to it.

References
----------
Grabisch, M. and Roubens, M. (1999), An axiomatic approach to the concept of interaction among players in cooperative games,
doi:10.1007/s001820050125.
Lundberg, S. M. et al. (2020), From local explanations to global understanding with explainable AI for trees,
doi:10.1038/s42256-019-0138-9.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from physml.explain.result import Part
from physml.explain.shapley.designs import (
    Design,
    Estimator,
    Whole,
    accept_draw,
    all_coalitions,
    deal,
    every_slot,
    refuse_method,
)
from physml.explain.shapley.exact import EXACT_LIMIT, accept, shapley_matrix
from physml.explain.shapley.gathering import Means
from physml.explain.shapley.sweep import Stopping

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer

PAIRS = 16
"""Replicates drawn by default."""


def pair_index(n_groups: int) -> np.ndarray:
    """Return which of the G (G + 1) / 2 quantities, rows of the upper triangle, stands where in the matrix ``[G, G]``."""
    index = np.zeros((n_groups, n_groups), int)
    upper = np.triu_indices(n_groups)
    index[upper] = np.arange(len(upper[0]))
    return np.maximum(index, index.T)


@dataclass(frozen=True)
class ExactInteractions(Whole):
    """All 2^G coalitions: the interactions themselves.

    Parameters
    ----------
    limit
        Largest number of groups that is accepted.
    """

    limit: int = EXACT_LIMIT
    name = "exact Shapley interactions"

    def rows_each(self, n_groups: int, n_slots: int) -> int:
        """Return the number of coalitions but the full and the empty one, times that of baseline rows."""
        return n_slots * (2**n_groups - 2)

    def row_bytes(self, n_groups: int) -> int:
        """Return the bytes of one row."""
        return n_groups + 4 * n_groups * (n_groups + 1)

    def design(
        self, n_groups: int, n_slots: int, sample: int = 0, *, pairs: int | None = None, start: int = 0
    ) -> Design:
        """Return all coalitions with every baseline row."""
        accept(n_groups, self.limit)
        return _exact(n_groups, n_slots)

    def gathering(self, n_groups: int, n_slots: int, n_out: int) -> Means:
        """Return what takes the one replicate."""
        return Means(1, (n_groups * (n_groups + 1) // 2, n_out))


@functools.lru_cache(maxsize=4)
def _exact(n_groups: int, n_slots: int) -> Design:
    members = all_coalitions(n_groups)
    size, index = members.sum(1), pair_index(n_groups)
    share = np.array([1 / ((n_groups - 1) * math.comb(n_groups - 2, k)) for k in range(n_groups - 1)] or [0.0])
    weights = np.zeros((len(members), index.max() + 1))
    weights[:, np.diag(index)] = shapley_matrix(n_groups).T
    for i in range(n_groups):
        for j in range(i):
            held = members[:, i].astype(int) + members[:, j]
            half = np.where(held == 1, -0.5, 0.5) * share[size - held]
            weights[:, index[i, j]] = half
            weights[:, index[i, i]] -= half
            weights[:, index[j, j]] -= half
    return every_slot(members, weights, n_slots)


@dataclass(frozen=True)
class PairedPaths:
    """Random sets of orders in which every two groups are neighbours once: unbiased, with standard errors.

    The complete graph of the groups falls into G / 2 paths through all of them, each edge in one path. With the groups
    renamed at random each path is a random order, and the two neighbours after a set S give
    ``v(S+i+j) - v(S+i) - v(S+j) + v(S)``, with every size of S equally likely: one set of paths values every pair once. Each
    path comes with its reverse. An odd number of groups gets one more that does nothing.

    Costs about ``2 pairs G^2`` model rows a sample. Several baseline rows are dealt evenly over the replicates, whose number
    is rounded up to a multiple of theirs.

    Parameters
    ----------
    pairs
        Sets of paths drawn, at least 2.
    seed
        Seed of the draw.
    """

    pairs: int = PAIRS
    seed: int = 0
    name = "Shapley interactions by paired paths"

    def __post_init__(self) -> None:
        accept_draw(self.pairs, self.seed, 2, PAIRS)

    def rows_each(self, n_groups: int, n_slots: int) -> int:
        """Return the rows of all paths and their reverses."""
        return len(_paths(n_groups)[0])

    def row_bytes(self, n_groups: int) -> int:
        """Return the bytes of one row."""
        return n_groups + 4 * n_groups * (n_groups + 1)

    def fewest(self, n_groups: int) -> int:
        """Return 2."""
        return 2

    def most(self, n_groups: int, n_slots: int) -> float:
        """Return no bound."""
        return math.inf

    def design(
        self, n_groups: int, n_slots: int, sample: int = 0, *, pairs: int | None = None, start: int = 0
    ) -> Design:
        """Return the paths with the groups renamed at random."""
        coalitions, weights, full, empty = _paths(n_groups)
        index = pair_index(n_groups)
        rng = np.random.default_rng([self.seed, sample, start])
        pairs = -(-(self.pairs if pairs is None else pairs) // n_slots) * n_slots
        slots = deal(rng, pairs, n_slots)
        names = rng.permuted(np.tile(np.arange(n_groups), (pairs, 1)), axis=1)
        upper = np.triu_indices(n_groups)
        moved = np.stack([index[np.ix_(name, name)][upper].argsort() for name in names])
        return Design(
            coalitions=np.concatenate([coalitions[:, name.argsort()] for name in names]),
            slot=np.repeat(slots, len(coalitions)),
            weights=np.concatenate([weights[:, m] for m in moved]),
            full=full[moved],
            empty=empty[moved],
            slots=slots[:, None],
        )

    def gathering(self, n_groups: int, n_slots: int, n_out: int) -> Means:
        """Return what takes the replicates."""
        return Means(n_slots, (n_groups * (n_groups + 1) // 2, n_out))


@functools.lru_cache(maxsize=4)
def _paths(n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return coalitions ``[row, group]``, weights ``[row, k]``, and those of the full and the empty coalition ``[k]``."""
    n = n_groups + n_groups % 2
    zigzag = np.array([(k + 1) // 2 * (-1) ** (k + 1) for k in range(n)])
    paths = [((zigzag + turn) % n).tolist() for turn in range(n // 2)]
    index = pair_index(n_groups)
    rows: dict[bytes, int] = {}
    held: list[np.ndarray] = []
    entries: list[tuple[int, int, float]] = []

    def count(members: list[int], quantity: int, weight: float) -> None:
        row = np.zeros(n_groups, bool)
        row[[m for m in members if m < n_groups]] = True
        at = rows.setdefault(row.tobytes(), len(rows))
        if at == len(held):
            held.append(row)
        entries.append((at, quantity, weight))

    orders = [p[::step] for p in paths for step in (1, -1)]
    for order in orders:
        for k, i in enumerate(order):
            if i < n_groups:
                count(order[: k + 1], index[i, i], 1 / len(orders))
                count(order[:k], index[i, i], -1 / len(orders))
            for j in order[k + 1 : k + 2]:
                if i < n_groups and j < n_groups:
                    before = order[:k]
                    for members, sign in (([*before, i, j], 1), ([*before, i], -1), ([*before, j], -1), (before, 1)):
                        # Half of the interaction, by the path and by its reverse.
                        for quantity, factor in ((index[i, j], 1), (index[i, i], -1), (index[j, j], -1)):
                            count(members, quantity, factor * sign / 4)
    coalitions = np.array(held)
    weights = np.zeros((len(held), index.max() + 1))
    np.add.at(weights, tuple(np.array([e[:2] for e in entries]).T), np.array([e[2] for e in entries]))
    size = coalitions.sum(1)
    inner = (size > 0) & (size < n_groups)
    return coalitions[inner], weights[inner], weights[size == n_groups].sum(0), weights[size == 0].sum(0)


def interact(
    explainer: Explainer,
    ds: xr.Dataset,
    method: str | Estimator = "auto",
    *,
    pairs: int | None = None,
    tol: float | None = None,
    rtol: float | None = None,
    max_rows: int | None = None,
    batch_rows: int | None = None,
    seed: int = 0,
    level: float = 0.95,
    progress: bool = True,
) -> xr.Dataset:
    """Return interactions of pairs of groups; see :meth:`physml.explain.Explainer.interactions`."""
    from physml.explain.shapley.attribution import estimated
    from physml.explain.shapley.values import MOST_EXACT, affordable

    players, name = explainer.players, explainer.measure.label
    n_groups, stopping = len(players), Stopping(tol, rtol, max_rows, level)
    packed, beside = explainer.read(ds)
    if isinstance(method, str):
        if method == "auto":
            method = "exact" if affordable(n_groups, explainer.slots(packed), stopping, ()) else "paths"
        known = ("auto", "exact", "paths")
        if method not in known:
            refuse_method(method, known, "PairedPaths(pairs=100)")
        if method == "exact":
            method = ExactInteractions(EXACT_LIMIT if max_rows is None else MOST_EXACT)
        else:
            usual = PAIRS if max_rows is None or stopping.adaptive else max_rows
            method = PairedPaths(usual if pairs is None else pairs, seed)
    lead = {"group": n_groups, "group_other": n_groups}
    other = {
        n.replace("group", "group_other", 1): ("group_other", values, about)
        for n, (_, values, about) in players.coords.items()
        if n == "group"
    }
    return estimated(
        explainer,
        ds,
        packed,
        beside,
        method,
        stopping,
        parts=[
            Part("attribution", f"contribution of pairs of groups to {name}; alone on the diagonal", lead),
            Part("stderr", f"standard error of the contribution of pairs of groups to {name}", lead),
        ],
        index=pair_index(n_groups).ravel(),
        coords={**players.coords, **other},
        title="Shapley interactions",
        batch_rows=batch_rows,
        progress=progress,
    )
