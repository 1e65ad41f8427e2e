"""Exact Shapley values: all 2^G coalitions, and one matrix product.

References
----------
Shapley, L. S. (1953), A value for n-person games, doi:10.1515/9781400881970-018.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from physml._errors import refuse
from physml.explain.shapley.designs import Design, Whole, all_coalitions, every_slot
from physml.explain.shapley.gathering import Means

EXACT_LIMIT = 12
"""Number of groups up to which all 2^G coalitions are valued by default."""


@dataclass(frozen=True)
class Exact(Whole):
    """All 2^G coalitions: the Shapley values themselves.

    Parameters
    ----------
    limit
        Largest number of groups that is accepted.
    """

    limit: int = EXACT_LIMIT
    name = "exact Shapley values"

    def rows_each(self, n_groups: int, n_slots: int) -> int:
        """Return the number of coalitions but the full and the empty one, times that of baseline rows."""
        return n_slots * (2**n_groups - 2)

    def design(
        self, n_groups: int, n_slots: int, sample: int = 0, *, pairs: int | None = None, start: int = 0
    ) -> Design:
        """Return all coalitions with every baseline row.

        Raises
        ------
        ValueError
            For more groups than *limit*.
        """
        accept(n_groups, self.limit)
        return _design(n_groups, n_slots)

    def gathering(self, n_groups: int, n_slots: int, n_out: int) -> Means:
        """Return what takes the one replicate."""
        return Means(1, (n_groups, n_out))


def accept(n_groups: int, limit: int) -> None:
    """Refuse more groups than *limit* for an exact method."""
    if n_groups > limit:
        refuse(
            f"{n_groups} groups make {2**n_groups} coalitions for each sample and baseline row",
            f"at most {limit} groups for exact Shapley values",
            n_groups,
            "merge groups (groups.merge({'new': [names]})), or method='permutations'",
        )


@functools.lru_cache(maxsize=4)
def _design(n_groups: int, n_slots: int) -> Design:
    return every_slot(all_coalitions(n_groups), shapley_matrix(n_groups).T, n_slots)


def shapley_matrix(n_groups: int) -> np.ndarray:
    """Return M with ``phi = M v``, ``[group, 2^G]``, for coalitions in the order of :func:`all_coalitions`.

    ``M_iT = (|T|-1)! (G-|T|)! / G!`` where T holds i, and ``-|T|! (G-|T|-1)! / G!`` where not.

    Examples
    --------
    >>> shapley_matrix(2) @ [0.0, 1.0, 2.0, 5.0]
    array([2., 3.])
    """
    members = all_coalitions(n_groups)
    share = np.array([1 / (n_groups * math.comb(n_groups - 1, k)) for k in range(n_groups)])
    size = members.sum(1, keepdims=True)
    return np.where(members, share[np.maximum(size - 1, 0)], -share[np.minimum(size, n_groups - 1)]).T
