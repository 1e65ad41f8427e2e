"""Owen values: groups that come in unions, as the regions of each variable or the lags of each region.

A union is played as a whole by all others: a group's value is the mean of what it adds over the orders in which the groups of
a union follow each other. The values of a union's groups sum to the Shapley value of the union in the game of unions.

References
----------
Owen, G. (1977), Values of games with a priori unions, doi:10.1007/978-3-642-45494-3_7.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from physml._errors import refuse
from physml.explain.shapley.designs import Design, Whole, every_slot
from physml.explain.shapley.gathering import Means
from physml.explain.shapley.nesting import Unions, branches

EXACT_MARGINS = 2**18
"""Contributions to coalitions up to which exact Owen values are worked out."""


@dataclass(frozen=True)
class ExactOwen(Whole):
    """All coalitions that orders of nested unions pass through: the Owen values themselves.

    ``phi_i`` is the mean over sets R of other unions and T of groups of its own union of ``v(R + T + i) - v(R + T)``, with the
    Shapley weights of R among the unions and of T within the union; so on for more levels.

    Parameters
    ----------
    unions
        Levels of unions, the outermost first, each with the name of the union of every group.
    """

    unions: Unions
    name = "exact Owen values"

    def rows_each(self, n_groups: int, n_slots: int) -> int:
        """Return the rows of all coalitions."""
        return len(self.design(n_groups, n_slots).coalitions)

    def design(
        self, n_groups: int, n_slots: int, sample: int = 0, *, pairs: int | None = None, start: int = 0
    ) -> Design:
        """Return the coalitions with every baseline row.

        Raises
        ------
        ValueError
            Where there are too many.
        """
        many = margins(self.unions, n_groups)
        if many > EXACT_MARGINS:
            refuse(
                f"{n_groups} groups in these unions make {many} contributions for each sample",
                f"at most {EXACT_MARGINS} for exact Owen values",
                many,
                "method='permutations', or smaller unions",
            )
        return _design(self.unions, n_groups, n_slots)

    def gathering(self, n_groups: int, n_slots: int, n_out: int) -> Means:
        """Return what takes the one replicate."""
        return Means(1, (n_groups, n_out))


def margins(unions: Unions, n_groups: int) -> int:
    """Return the number of contributions that exact Owen values are means of."""
    tree = branches(unions, n_groups)
    return sum(2 ** sum(len(siblings) for siblings in _siblings(tree, i)) for i in range(n_groups))


def _siblings(tree: np.ndarray, i: int) -> list[list[int]]:
    """Return, level by level, the other unions within the union of group *i*."""
    inside = np.ones(tree.shape[1], bool)
    found = []
    for level in tree:
        found.append([u for u in np.unique(level[inside]).tolist() if u != level[i]])
        inside = level == level[i]
    return found


@functools.lru_cache(maxsize=4)
def _design(unions: Unions, n_groups: int, n_slots: int) -> Design:
    tree = branches(unions, n_groups)
    held, owed, share = [], [], []
    for i in range(n_groups):
        sets, weights = np.zeros((1, n_groups), bool), np.ones(1)
        for level, siblings in zip(tree, _siblings(tree, i), strict=True):
            n = len(siblings)
            chosen = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1
            cells = chosen @ (np.array(siblings, int)[:, None] == level) if n else np.zeros((1, n_groups), bool)
            each = np.array([1 / ((n + 1) * math.comb(n, k)) for k in range(n + 1)])[chosen.sum(1)]
            sets = (sets[:, None] | cells).reshape(-1, n_groups)
            weights = (weights[:, None] * each).ravel()
        joined = sets.copy()
        joined[:, i] = True
        held += [joined, sets]
        share += [weights, -weights]
        owed += [np.full(2 * len(sets), i)]
    coalitions, row = unique_rows(np.concatenate(held))
    table = np.zeros((len(coalitions), n_groups))
    np.add.at(table, (row, np.concatenate(owed)), np.concatenate(share))
    return every_slot(coalitions, table, n_slots)


def unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different rows of booleans, and which of them each row is."""
    packed = np.packbits(rows, axis=1)
    _, first, row = np.unique(packed.view(f"V{packed.shape[1]}").ravel(), return_index=True, return_inverse=True)
    return rows[first], row
