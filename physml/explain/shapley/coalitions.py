"""Coalitions drawn with the weights of the Shapley kernel, each for itself and its complement."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

LISTED = 2**14
"""Number of coalitions of one size up to which they are drawn without replacement."""


def kernel_mass(n_groups: int) -> np.ndarray:
    """Return the share of coalitions of size s and G - s, s = 1 ... G / 2, in the draw: ``P(s) ~ 1 / (s (G - s))``."""
    size = np.arange(1, n_groups // 2 + 1)
    mass = np.where(2 * size == n_groups, 1.0, 2.0) / (size * (n_groups - size))
    return mass / mass.sum()


def pairs_of_size(n_groups: int) -> np.ndarray:
    """Return how many different pairs of a coalition of size s and its complement there are, s = 1 ... G / 2."""
    return np.array(
        [math.comb(n_groups, s) // (1 + (2 * s == n_groups)) for s in range(1, n_groups // 2 + 1)], "float64"
    )


def sizes_in_turn(n_groups: int, pairs: int, once: bool) -> np.ndarray:
    """Return the sizes of the first *pairs* coalitions ``[pair]``, each size as often as its share, to the nearest whole.

    *once*: no pair comes twice, so that a size whose pairs are used up makes room for the others.
    """
    mass = kernel_mass(n_groups)
    most = np.minimum(pairs_of_size(n_groups), pairs).astype(int) if once else np.full(len(mass), pairs)
    # As seats are given to parties by Sainte-Lague: more pairs never mean fewer of one size.
    turns = [(m / (np.arange(n) + 0.5), np.full(n, s + 1)) for s, (m, n) in enumerate(zip(mass, most, strict=True))]
    quotient, size = (np.concatenate(t) for t in zip(*turns, strict=True))
    return size[np.argsort(-quotient, kind="stable")][:pairs]


def of_size(n_groups: int, size: int, n: int, rng: np.random.Generator, once: bool) -> np.ndarray:
    """Return *n* random coalitions of one size ``[n, group]``; the first of more are the same."""
    if once and pairs_of_size(n_groups)[size - 1] <= LISTED:
        listed = _listed(n_groups, size)
        return listed[rng.permutation(len(listed))[:n]]
    rank = rng.random((n, n_groups)).argsort(1).argsort(1)
    return rank < size


@functools.lru_cache(maxsize=64)
def _listed(n_groups: int, size: int) -> np.ndarray:
    index = np.array(list(itertools.combinations(range(n_groups), size)))
    if 2 * size == n_groups:  # the other half are their complements
        index = index[index[:, 0] == 0]
    members = np.zeros((len(index), n_groups), bool)
    np.put_along_axis(members, index, True, axis=1)
    return members
