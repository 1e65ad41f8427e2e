"""Exact Shapley values of trees for any number of groups, without valuing coalitions.

For one sample x and one baseline row b, a leaf is reached by the coalitions that hold all groups of a set A and none of a set N:
A are the groups on its path whose splits x follows and b does not, N those that b follows and x does not. The Shapley values
of such a game, worth the value w of the leaf, are known: ``w (a-1)! n! / (a+n)!`` for each group in A and
``-w a! (n-1)! / (a+n)!`` for each in N, with a and n their numbers. They add up over leaves, trees and baseline rows. Groups
are the players: a group that owns several features of a path follows it with all of them or not at all.

References
----------
Lundberg, S. M. et al. (2020), From local explanations to global understanding with explainable AI for trees,
doi:10.1038/s42256-019-0138-9: the interventional game.
Laberge, G. and Pequignot, Y. (2022), Understanding interventional TreeSHAP, arXiv:2209.15123: coalitions as players.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from physml._errors import refuse

CHUNK = 2**18
"""Pairs of sample and leaf looked at together."""
MOST_ON_A_WAY = 63
"""Groups on the way to a leaf: one bit each."""


@dataclass(frozen=True, eq=False)
class Tree:
    """A binary tree: a row goes left where its feature is at most the threshold, in float32.

    Attributes
    ----------
    feature, threshold, left, right
        Of each node; ``left = -1`` marks a leaf.
    value
        What each leaf adds to each output, ``[node, output]``.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray


@dataclass(frozen=True, eq=False)
class Paths:
    """Ways through a tree to its leaves, for given groups of features. Made by :func:`paths_of`.

    Attributes
    ----------
    feature, threshold
        Of each node.
    steps
        For each level, downwards: nodes, their parents, the bit of the parent's group, whether it is the left way.
    leaves
        Nodes that are leaves, ``[leaf]``.
    groups
        Groups met on the way to each leaf, ``[leaf, bit]``; -1 beyond the last.
    full
        All bits of each leaf, ``[leaf]``.
    value
        What each leaf adds to the target, ``[leaf]``.
    """

    feature: np.ndarray
    threshold: np.ndarray
    steps: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    leaves: np.ndarray
    groups: np.ndarray
    full: np.ndarray
    value: np.ndarray


def trees_of(model: Any) -> list[Tree] | None:
    """Return the trees whose sum a fitted scikit-learn model returns, but for a constant; None for other models.

    Decision trees, random forests and extremely randomised trees, for regression and (probabilities of) classes; gradient
    boosting for regression.
    """
    sklearn = sys.modules.get("sklearn")
    if sklearn is None:
        return None
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        GradientBoostingRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    model = getattr(model, "best_estimator_", model)  # of a search for parameters
    if isinstance(getattr(model, "classes_", None), list):  # several classified outputs
        return None
    if isinstance(model, DecisionTreeClassifier | DecisionTreeRegressor):
        return [_tree(model.tree_, 1.0, hasattr(model, "classes_"))]
    forests = ExtraTreesClassifier | ExtraTreesRegressor | RandomForestClassifier | RandomForestRegressor
    if isinstance(model, forests):
        members = list(model.estimators_)
        return [_tree(m.tree_, 1 / len(members), hasattr(model, "classes_")) for m in members]
    if isinstance(model, GradientBoostingRegressor):
        initial = model.init_
        if initial != "zero" and type(initial).__name__ != "DummyRegressor":  # not a constant
            return None
        return [_tree(m.tree_, float(model.learning_rate), False) for m in model.estimators_[:, 0]]
    return None


def _tree(tree: Any, factor: float, classes: bool) -> Tree:
    value = np.asarray(tree.value, "float64")  # [node, output, class]
    value = value[:, 0] / value[:, 0].sum(-1, keepdims=True) if classes else value[:, :, 0]
    return Tree(tree.feature, tree.threshold, tree.children_left, tree.children_right, factor * value)


def paths_of(tree: Tree, group: np.ndarray, weights: np.ndarray) -> Paths:
    """Return the paths of a tree.

    Parameters
    ----------
    tree
        The tree.
    group
        Group of each feature.
    weights
        Weight of each output in the target.
    """
    width = min(len(np.unique(group)), MOST_ON_A_WAY) + 1
    seen = np.full((len(tree.left), width), -1)
    steps = []
    here = np.zeros(1, int)
    while len(here := here[tree.left[here] >= 0]):
        split = group[tree.feature[here]]
        place = ((seen[here] == split[:, None]) | (seen[here] < 0)).argmax(1)
        if place.max() >= MOST_ON_A_WAY:
            refuse(
                "a tree splits on too many groups on the way to one leaf",
                f"at most {MOST_ON_A_WAY}",
                "more",
                "merge groups, or method='permutations'",
            )
        seen[here, place] = split
        parent, bit = np.tile(here, 2), np.tile(place, 2)
        left = np.arange(len(parent)) < len(here)
        here = np.where(left, tree.left[parent], tree.right[parent])
        seen[here] = seen[parent]
        steps.append((here, parent, bit, left))
    leaves = np.flatnonzero(tree.left < 0)
    groups = seen[leaves]
    met = (groups >= 0).sum(1)
    groups = groups[:, : met.max()]
    kind = np.dtype(next(f"uint{n}" for n in (8, 16, 32, 64) if met.max() <= n))
    one = np.array(1, kind)
    steps = [(at, parent, one << bit.astype(kind), left) for at, parent, bit, left in steps]
    full = np.array([(1 << n) - 1 for n in met.tolist()], kind)
    return Paths(tree.feature, tree.threshold, steps, leaves, groups, full, tree.value[leaves] @ weights)


def follows(paths: Paths, rows: np.ndarray) -> np.ndarray:
    """Return which groups of the way to each leaf the rows ``[row, feature]`` follow, as bits ``[leaf, row]``."""
    with np.errstate(over="ignore"):
        columns = np.ascontiguousarray(rows.T, "float32")
    goes_left = columns[np.maximum(paths.feature, 0)] <= paths.threshold[:, None]
    strays = np.zeros(goes_left.shape, paths.full.dtype)
    for at, parent, bit, left in paths.steps:
        strays[at] = strays[parent] | np.where(goes_left[parent] == left[:, None], 0, bit[:, None])
    return paths.full[:, None] & ~strays[paths.leaves]


@functools.lru_cache(maxsize=1)
def _shares() -> tuple[np.ndarray, np.ndarray]:
    """Return what each group of A, and of N, gets of a leaf worth 1, for every a and n up to 63."""
    total = [[math.factorial(a + n) for n in range(64)] for a in range(64)]
    inside, outside = np.zeros((2, 64, 64))
    for a in range(64):
        for n in range(64):
            if a:
                inside[a, n] = math.factorial(a - 1) * math.factorial(n) / total[a][n]
            if n:
                outside[a, n] = -math.factorial(a) * math.factorial(n - 1) / total[a][n]
    return inside, outside


def tree_values(paths: Paths, n_groups: int, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the Shapley values of one tree, ``[sample, group]``, against all rows alike.

    Parameters
    ----------
    paths
        Its ways, from :func:`paths_of`.
    n_groups
        Number of groups.
    x
        Samples ``[sample, feature]``.
    rows
        Baseline rows ``[row, feature]``.
    """
    ours = follows(paths, x)
    leaf, pattern, times = _patterns(follows(paths, rows))
    phi = np.zeros((len(x), n_groups))
    for at, sample in _reached(ours, leaf, pattern, paths.full):
        here, theirs = leaf[at], pattern[at]
        follow = ours[here, sample]
        worth = paths.value[here] * times[at] / len(rows)
        _share(phi, sample, follow & ~theirs, theirs & ~follow, worth, paths.groups, here)
    return phi


def pair_values(paths: Paths, n_groups: int, x: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the Shapley values of a weighted sum of one tree's values, ``[group]``, each x against a row of its own.

    Parameters
    ----------
    paths, n_groups
        As for :func:`tree_values`.
    x, rows
        ``[pair, feature]``.
    weights
        Weight of each pair in the sum.
    """
    phi = np.zeros((1, n_groups))
    step = max(1, CHUNK // len(paths.leaves))
    for start in range(0, len(x), step):
        some = slice(start, start + step)
        ours, theirs = follows(paths, x[some]), follows(paths, rows[some])
        leaf, pair = np.divmod(np.flatnonzero(ours | theirs == paths.full[:, None]), ours.shape[1])
        mine, other = ours[leaf, pair], theirs[leaf, pair]
        worth = paths.value[leaf] * weights[some][pair]
        _share(phi, np.zeros(len(leaf), int), mine & ~other, other & ~mine, worth, paths.groups, leaf)
    return phi[0]


def _patterns(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return leaf, bits and number of the different bits ``[leaf, row]`` of each leaf: many rows are alike to it."""
    bits = np.sort(bits, axis=1)
    new = np.ones(bits.shape, bool)
    new[:, 1:] = bits[:, 1:] != bits[:, :-1]
    first = np.flatnonzero(new)
    return first // bits.shape[1], bits.ravel()[first], np.diff(first, append=bits.size).astype("float64")


def _reached(
    ours: np.ndarray, leaf: np.ndarray, pattern: np.ndarray, full: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pattern and sample of the leaves that some coalition reaches."""
    step = max(1, CHUNK // max(ours.shape[1], 1))
    for start in range(0, len(leaf), step):
        here = slice(start, start + step)
        hits = np.flatnonzero(ours[leaf[here]] | pattern[here, None] == full[leaf[here], None])
        at, s = np.divmod(hits, ours.shape[1])
        yield at + start, s


def _share(
    phi: np.ndarray,
    sample: np.ndarray,
    needed: np.ndarray,
    barred: np.ndarray,
    worth: np.ndarray,
    groups: np.ndarray,
    leaf: np.ndarray,
) -> None:
    """Add what each group gets of leaves reached with all groups *needed* and none *barred*; *groups* ``[leaf, bit]``."""
    inside, outside = _shares()
    width, n_groups = groups.shape[1], phi.shape[1]
    needed, barred = _apart(needed, width), _apart(barred, width)
    a, n = needed.sum(1), barred.sum(1)
    for who, part in ((needed, worth * inside[a, n]), (barred, worth * outside[a, n])):
        at, bit = np.divmod(np.flatnonzero(who), width)
        place = sample[at] * n_groups + groups[leaf[at], bit]
        phi += np.bincount(place, part[at], phi.size).reshape(phi.shape)


def _apart(bits: np.ndarray, width: int) -> np.ndarray:
    """Return bits one by one, ``[..., width]`` of 0 and 1."""
    parts = bits[:, None].astype(bits.dtype.newbyteorder("<"), copy=False).view("uint8")
    return np.unpackbits(parts, axis=1, count=width, bitorder="little")
