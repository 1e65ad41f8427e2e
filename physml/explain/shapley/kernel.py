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
from physml.explain.shapley.coalitions import LISTED, kernel_mass, of_size, pairs_of_size, sizes_in_turn
from physml.explain.shapley.designs import Design, accept_draw, deal


@dataclass(frozen=True)
class PairedKernel:
    """Regression on random coalitions, each with its complement: with one baseline row, fewer rows than permutations.

    Sizes s come as often as ``P(s) ~ 1 / (s (G - s))`` says. With one baseline row no coalition comes twice: sizes whose
    coalitions are all used keep their weight and cost no more, and with all of them the values are exact. A pair says ``v(S) -
    v(N - S) = sum over i of (2 [i in S] - 1) phi_i``; that the values sum to ``v(N) - v()`` is substituted, so that they do.
    Plain least squares: no penalty, which would push small values to zero.

    The error is that of the sandwich over the pairs, size by size, each residual divided by one minus its leverage (HC3), for
    the share of each size that was not drawn. The values are consistent, with a bias that falls as 1 / pairs.

    Costs ``2 pairs`` model rows a sample. Several baseline rows are dealt evenly over the pairs, whose number is rounded up to
    a multiple of theirs; what the groups are worth against one row and another differs, which the regression takes for noise:
    permutations, which value every group against each row, then have several times less error for the same rows.

    Parameters
    ----------
    pairs
        Number of coalitions drawn; at least as many as groups. With a tolerance: before the first decision to stop.
    seed
        Seed of the draw.
    """

    pairs: int = 1000
    seed: int = 0
    name = "Shapley values by paired kernel regression"

    def __post_init__(self) -> None:
        accept_draw(self.pairs, self.seed, 1, 1000)

    def rows_each(self, n_groups: int, n_slots: int) -> int:
        """Return the rows of a coalition and its complement."""
        return 2 if n_groups > 1 else 0

    def row_bytes(self, n_groups: int) -> int:
        """Return the bytes of one row."""
        return 5 * n_groups

    def fewest(self, n_groups: int) -> int:
        """Return one more than there are unknowns."""
        return max(min(n_groups, int(_most(n_groups))), 1)

    def most(self, n_groups: int, n_slots: int) -> float:
        """Return the number of pairs of coalitions, where they are told apart."""
        return _most(n_groups) if n_slots == 1 else np.inf

    def design(
        self, n_groups: int, n_slots: int, sample: int = 0, *, pairs: int | None = None, start: int = 0
    ) -> Design:
        """Return random coalitions and their complements.

        Raises
        ------
        ValueError
            Where all pairs together are fewer than the groups.
        """
        pairs = self.pairs if pairs is None else pairs
        if not start and pairs < self.fewest(n_groups):
            refuse(
                f"{pairs} pairs are too few for the {n_groups} unknowns of the regression",
                f">= {self.fewest(n_groups)}",
                pairs,
                f"pass pairs={10 * n_groups}",
            )
        pairs = -(-pairs // n_slots) * n_slots
        if n_groups == 1:
            members, slots = np.ones((pairs, 1), bool), np.arange(pairs) % n_slots
        else:
            members, slots = self._draw(n_groups, n_slots, sample, start + pairs)
            members, slots = members[start:], slots[start:]
        each = self.rows_each(n_groups, n_slots)
        return Design(
            coalitions=np.stack([members, ~members], axis=1)[:, :each].reshape(-1, n_groups),
            slot=np.repeat(slots, each),
            weights=np.tile(np.array([[1], [-1]], "int8")[:each], (len(members), 1)),
            full=np.zeros((len(members), 1)),
            empty=np.zeros((len(members), 1)),
            slots=slots[:, None],
            regressors=np.where(members, 1.0, -1.0),
        )

    def _draw(self, n_groups: int, n_slots: int, sample: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first *pairs* coalitions of a sample ``[pair, group]`` and their baseline rows ``[pair]``."""
        once = n_slots == 1
        size = sizes_in_turn(n_groups, pairs, once)
        members, slots = np.zeros((len(size), n_groups), bool), np.zeros(len(size), int)
        for s in np.unique(size).tolist():
            n = int((size == s).sum())
            members[size == s] = of_size(n_groups, s, n, np.random.default_rng([self.seed, sample, s]), once)
            slots[size == s] = deal(np.random.default_rng([self.seed, sample, s, 1]), n, n_slots)
        return members, slots

    def gathering(self, n_groups: int, n_slots: int, n_out: int) -> Regression:
        """Return what takes the pairs."""
        return Regression(n_groups, n_slots)


def _most(n_groups: int) -> float:
    return 2.0 ** (n_groups - 1) - 1 if n_groups > 1 else 1


class Regression:
    """Least squares on the differences ``v(S) - v(N - S)`` of pairs, with the sum of the values given."""

    def __init__(self, n_groups: int, n_slots: int) -> None:
        self._once = n_slots == 1
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
        slots, n_groups = np.concatenate(self._slots), signs.shape[1]
        spans = full - empty
        span = spans.mean(0)
        if n_groups == 1:
            return span[None], np.zeros((1, span.size)), 0
        size = np.minimum(held := (signs > 0).sum(1), n_groups - held)
        weight, left_out = self._weights(size, n_groups)
        # Values are the equal split plus a combination of these, whose columns sum to zero.
        basis = np.linalg.svd(np.ones((1, n_groups)))[2][1:].T
        free = signs @ basis
        spread, axes = np.linalg.eigh(free.T @ (weight[:, None] * free))
        known = spread > 1e-9
        inverse = (axes[:, known] / spread[known]) @ axes[:, known].T @ (weight[:, None] * free).T
        share = differences - signs.mean(1, keepdims=True) * spans[slots]
        apart = inverse @ share
        phi = span / n_groups + basis @ apart
        dof = int((left_out > 0).sum()) - n_groups + 1
        if not left_out.any():
            return phi, np.zeros_like(phi), 0
        if dof < 1 or not known.all():
            return phi, np.full_like(phi, np.inf), max(dof, 1)
        leverage = (free * inverse.T).sum(1)
        left = (share - free @ apart) / np.maximum(1 - leverage, 1e-9)[:, None]
        strata = size * len(spans) + slots
        if np.unique(strata, return_counts=True)[1].min() < 2:
            strata = size
        return phi, np.sqrt(_squared_error(basis @ inverse, left, strata, left_out)), dof

    def _weights(self, size: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the weight of every pair, and which share of the pairs of its size was not drawn, ``[pair]``."""
        drawn = np.bincount(size, minlength=n_groups // 2 + 1)[1:]
        number = pairs_of_size(n_groups)
        left_out = np.where(self._once & (number <= LISTED), 1 - drawn / number, 1.0)
        weight = np.divide(kernel_mass(n_groups), drawn, out=np.zeros(len(drawn)), where=drawn > 0)
        return weight[size - 1], left_out[size - 1]


def _squared_error(influence: np.ndarray, left: np.ndarray, strata: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """Return the squared error ``[group, out]`` of ``influence @ left``; differences between strata are none."""
    found = np.zeros((len(influence), left.shape[1]))
    for stratum in np.unique(strata):
        here = strata == stratum
        n, share = int(here.sum()), left_out[here][0]
        if share <= 0:
            continue
        ours, theirs = influence[:, here], left[here]
        squares = ours**2 @ theirs**2
        found += share * (squares if n < 2 else (squares - (ours @ theirs) ** 2 / n) * n / (n - 1))
    return np.maximum(found, 0)
