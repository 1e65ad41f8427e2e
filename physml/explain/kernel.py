"""Shapley values by least squares over coalitions that come in pairs with their complements.

References
----------
Lundberg, S. M. and Lee, S.-I. (2017), A unified approach to interpreting model predictions, arXiv:1705.07874.
Covert, I. and Lee, S.-I. (2021), Improving KernelSHAP, arXiv:2012.01536.
MacKinnon, J. G. and White, H. (1985), Some heteroskedasticity-consistent covariance matrix estimators with improved finite
sample properties, doi:10.1016/0304-4076(85)90158-7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physml._errors import refuse
from physml.explain.designs import Design, deal


@dataclass(frozen=True)
class PairedKernel:
    """Regression on random coalitions, each with its complement: fewer rows than permutations for the same error.

    Sizes s are drawn with ``P(s) ~ 1 / (s (G - s))``, spread evenly. A pair says ``v(S) - v(N - S) = sum over i of (2 [i in S]
    - 1) phi_i``, weighted alike by that draw; that the values sum to ``v(N) - v()`` is substituted, so that they do. Plain
    least squares: no penalty, which would push small values to zero. The error is that of the sandwich over pairs, each residual
    divided by one minus its leverage (HC3). Consistent, with a bias that falls as 1 / pairs.

    Costs ``2 pairs`` model rows a sample. Several baseline rows are dealt evenly over the pairs, whose number is rounded up to
    a multiple of theirs.

    Parameters
    ----------
    pairs
        Number of coalitions drawn; more than there are groups. With a tolerance: before the first decision to stop.
    seed
        Seed of the draw.
    """

    pairs: int = 1000
    seed: int = 0
    name = "Shapley values by paired kernel regression"

    def rows_each(self, n_groups: int, n_slots: int) -> int:
        """Return the rows of a coalition and its complement."""
        return 2 if n_groups > 1 else 0

    def fewest(self, n_groups: int) -> int:
        """Return one more than there are unknowns, and 2 where there is none."""
        return max(n_groups, 2)

    def design(
        self, n_groups: int, n_slots: int, sample: int = 0, *, pairs: int | None = None, draw: int = 0
    ) -> Design:
        """Return random coalitions and their complements.

        Raises
        ------
        ValueError
            Where all pairs together are no more than the groups.
        """
        pairs = self.pairs if pairs is None else pairs
        if not draw and pairs < self.fewest(n_groups):
            refuse(
                f"{pairs} pairs are too few for the {n_groups} unknowns of the regression",
                f">= {self.fewest(n_groups)}",
                pairs,
                f"pass pairs={10 * n_groups}",
            )
        pairs = -(-pairs // n_slots) * n_slots
        rng = np.random.default_rng([self.seed, sample, draw])
        members = np.ones((pairs, 1), bool) if n_groups == 1 else _draw(rng, pairs, n_groups)
        slots = deal(rng, pairs, n_slots)
        each = self.rows_each(n_groups, n_slots)
        return Design(
            coalitions=np.stack([members, ~members], axis=1)[:, :each].reshape(-1, n_groups),
            slot=np.repeat(slots, each),
            weights=np.tile(np.array([[1], [-1]], "int8")[:each], (pairs, 1)),
            full=np.zeros((pairs, 1)),
            empty=np.zeros((pairs, 1)),
            slots=slots[:, None],
            regressors=np.where(members, 1.0, -1.0),
        )

    def gathering(self, n_groups: int, n_slots: int, n_out: int) -> Regression:
        """Return what takes the pairs."""
        return Regression(n_groups)


def _draw(rng: np.random.Generator, pairs: int, n_groups: int) -> np.ndarray:
    """Return coalitions ``[pair, group]``, as many of each size as the draw of sizes expects, but for rounding."""
    sizes = np.arange(1, n_groups)
    below = np.cumsum(1 / (sizes * (n_groups - sizes)))
    place = (np.arange(pairs) + rng.random()) / pairs
    size = 1 + np.searchsorted(below / below[-1], rng.permutation(place))
    rank = rng.random((pairs, n_groups)).argsort(1).argsort(1)
    return rank < np.minimum(size, n_groups - 1)[:, None]


class Regression:
    """Least squares on the differences ``v(S) - v(N - S)`` of pairs, with the sum of the values given."""

    def __init__(self, n_groups: int) -> None:
        self._signs = [np.zeros((0, n_groups))]
        self._differences: list[np.ndarray] = []
        self._slots: list[np.ndarray] = []

    def add(self, found: np.ndarray, design: Design, first: int) -> None:
        """Take differences ``[pair, 1, out]``; see :class:`physml.explain.designs.Gathering`."""
        assert design.regressors is not None
        chosen = slice(first, first + len(found))
        self._signs.append(design.regressors[chosen])
        self._differences.append(found[:, 0].copy())
        self._slots.append(design.slots[chosen, 0])

    def result(self, full: np.ndarray, empty: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Return values and standard errors ``[group, out]`` and degrees of freedom; infinite errors where pairs are alike."""
        signs, differences = np.concatenate(self._signs), np.concatenate(self._differences)
        n, n_groups = signs.shape
        span = full - empty.mean(0)
        if n_groups == 1:
            return span[None], np.zeros((1, span.size)), n
        # Values are the equal split plus a combination of these, whose columns sum to zero.
        basis = np.linalg.svd(np.ones((1, n_groups)))[2][1:].T
        free = signs @ basis
        size, axes = np.linalg.eigh(free.T @ free)
        known = size > 1e-9 * n
        inverse = (axes[:, known] / size[known]) @ axes[:, known].T @ free.T
        share = differences - signs.mean(1, keepdims=True) * span
        apart = inverse @ share
        phi = span / n_groups + basis @ apart
        dof = n - n_groups + 1
        if dof < 1 or not known.all():
            return phi, np.full_like(phi, np.inf), max(dof, 1)
        leverage = (free * inverse.T).sum(1)
        left = (share - free @ apart) / np.maximum(1 - leverage, 1e-9)[:, None]
        return phi, np.sqrt(self._meat(basis @ inverse, left)), dof

    def _meat(self, influence: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Return the squared error ``[group, out]`` of ``influence @ left``; differences between baseline rows are none."""
        slots = np.concatenate(self._slots)
        found = influence**2 @ left**2
        names, row, count = np.unique(slots, return_inverse=True, return_counts=True)
        if len(names) == 1 or count.min() < 2:
            return found
        found = np.zeros_like(found)
        for k, n in enumerate(count):
            own = influence[:, row == k], left[row == k]
            found += (own[0] ** 2 @ own[1] ** 2 - (own[0] @ own[1]) ** 2 / n) * n / (n - 1)
        return np.maximum(found, 0)
