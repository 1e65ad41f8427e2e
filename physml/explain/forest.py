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
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.explain.blocks import Block, over_samples, samples_at_a_time
from physml.explain.estimators import Rows
from physml.explain.result import Part, label

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer

CHUNK = 2**22
"""Pairs of sample and leaf looked at together."""


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
    """Paths of a tree to its leaves, for given groups of features. Made by :func:`paths_of`.

    Attributes
    ----------
    groups
        Groups met on the way to each leaf, ``[leaf, bit]``; -1 beyond the last.
    full
        All bits of a leaf, ``[leaf]``.
    node, left
        The splits on the ways to all leaves, one after the other, and the side taken there.
    starts, bit, leaf
        Where the splits of one bit of one leaf begin, and which they are.
    value
        ``[leaf]``.
    """

    groups: np.ndarray
    full: np.ndarray
    node: np.ndarray
    left: np.ndarray
    starts: np.ndarray
    bit: np.ndarray
    leaf: np.ndarray
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
    splits: list[tuple[int, int, int, bool]] = []  # leaf, bit, node, left
    members: list[list[int]] = []
    leaves: list[int] = []
    waiting: list[tuple[int, list[int], list[tuple[int, int, bool]]]] = [(0, [], [])]
    while waiting:
        node, seen, way = waiting.pop()
        if tree.left[node] < 0:
            splits += [(len(leaves), bit, at, left) for bit, at, left in sorted(way)]
            members.append(seen)
            leaves.append(node)
            continue
        here = int(group[tree.feature[node]])
        seen = seen if here in seen else [*seen, here]
        bit = seen.index(here)
        waiting.append((int(tree.right[node]), seen, [*way, (bit, node, False)]))
        waiting.append((int(tree.left[node]), seen, [*way, (bit, node, True)]))
    width = max(map(len, members))
    if width > 63:
        refuse(
            "a tree splits on too many groups on the way to one leaf",
            "at most 63",
            width,
            "merge groups, or method='permutations'",
        )
    groups = np.full((len(leaves), width), -1)
    for i, seen in enumerate(members):
        groups[i, : len(seen)] = seen
    kind = np.dtype(next(f"uint{n}" for n in (8, 16, 32, 64) if width <= n))
    full = np.array([(1 << len(seen)) - 1 for seen in members], kind)
    leaf, bits, node, left = (np.array(c, int) for c in zip(*splits, strict=True)) if splits else [np.zeros(0, int)] * 4
    first = np.flatnonzero(np.diff(leaf * 64 + bits, prepend=-1))
    one = np.array(1, kind)
    return Paths(
        groups, full, node, left == 1, first, one << bits[first].astype(kind), leaf[first], tree.value[leaves] @ weights
    )


def follows(tree: Tree, paths: Paths, rows: np.ndarray) -> np.ndarray:
    """Return which groups of the way to each leaf the rows ``[row, feature]`` follow, as bits ``[row, leaf]``."""
    out = np.zeros((len(rows), len(paths.full)), paths.full.dtype)
    if not len(paths.node):
        return out
    with np.errstate(over="ignore"):
        goes_left = rows[:, np.maximum(tree.feature, 0)].astype("float32") <= tree.threshold
    good = np.logical_and.reduceat(goes_left[:, paths.node] == paths.left, paths.starts, axis=1)
    begins = np.flatnonzero(np.diff(paths.leaf, prepend=-1))
    out[:, paths.leaf[begins]] = np.add.reduceat(np.where(good, paths.bit, 0), begins, axis=1, dtype=out.dtype)
    return out


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


def tree_values(
    tree: Tree, group: np.ndarray, weights: np.ndarray, x: np.ndarray, rows: np.ndarray, index: np.ndarray
) -> np.ndarray:
    """Return the Shapley values of one tree, ``[sample, group]``, summed over groups to the last one of *group*.

    Parameters
    ----------
    tree, group, weights
        As in :func:`paths_of`.
    x
        Samples ``[sample, feature]``.
    rows
        Baseline rows ``[row, feature]``.
    index
        Baseline rows of each sample ``[sample, slot]``.
    """
    n_groups = int(group.max()) + 1
    paths = paths_of(tree, group, weights)
    theirs, ours = follows(tree, paths, rows), follows(tree, paths, x)
    phi = np.zeros((len(x), n_groups))
    sets, member = np.unique(index, axis=0, return_inverse=True)
    for i, some in enumerate(sets):
        samples = np.flatnonzero(member.ravel() == i)
        leaf, pattern, times = _patterns(theirs[some])
        for s, at in _reached(ours[samples], leaf, pattern, paths.full):
            worth = paths.value[leaf[at]] * times[at] / len(some)
            follow = ours[samples[s], leaf[at]]
            _share(phi, samples[s], follow & ~pattern[at], pattern[at] & ~follow, worth, paths.groups[leaf[at]])
    return phi


def _patterns(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return leaf, bits and number of the different bits ``[row, leaf]`` of each leaf."""
    leaf = np.broadcast_to(np.arange(bits.shape[1]), bits.shape)
    flat, leaf = bits.ravel(), leaf.ravel()
    order = np.lexsort((flat, leaf))
    flat, leaf = flat[order], leaf[order]
    first = np.flatnonzero(np.r_[True, (np.diff(leaf) != 0) | (flat[1:] != flat[:-1])])
    return leaf[first], flat[first], np.diff(first, append=len(flat)).astype("float64")


def _reached(
    ours: np.ndarray, leaf: np.ndarray, pattern: np.ndarray, full: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield sample and pattern of the leaves that some coalition reaches."""
    step = max(1, CHUNK // max(len(leaf), 1))
    for start in range(0, len(ours), step):
        s, at = np.nonzero(ours[start : start + step, leaf] | pattern == full[leaf])
        yield s + start, at


def _share(
    phi: np.ndarray,
    sample: np.ndarray,
    needed: np.ndarray,
    barred: np.ndarray,
    worth: np.ndarray,
    groups: np.ndarray,
) -> None:
    """Add what each group gets of leaves reached with all groups *needed* and none *barred*."""
    inside, outside = _shares()
    width, n_groups = groups.shape[1], phi.shape[1]
    bits = [np.array(1, needed.dtype) << np.array(j, needed.dtype) for j in range(width)]
    a = sum(((needed & b) != 0).astype(np.int8) for b in bits)
    n = sum(((barred & b) != 0).astype(np.int8) for b in bits)
    gain, loss = worth * inside[a, n], worth * outside[a, n]
    for j, b in enumerate(bits):
        for who, part in ((needed, gain), (barred, loss)):
            hit = np.flatnonzero(who & b)
            place = sample[hit] * n_groups + groups[hit, j]
            phi += np.bincount(place, part[hit], phi.size).reshape(phi.shape)


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees, the groups of their features, and the weights of their outputs in the target."""

    trees: list[Tree]
    columns: np.ndarray
    group: np.ndarray
    weights: np.ndarray

    def values(self, inputs: np.ndarray, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return Shapley values ``[sample, group]`` of inputs ``[sample, cell]`` against rows ``[row, cell]``."""
        x, rows = inputs[:, self.columns], rows[:, self.columns]
        return sum(tree_values(t, self.group, self.weights, x, rows, index) for t in self.trees)


def forest_of(explainer: Explainer) -> Forest | None:
    """Return the trees of an explainer's model where each sample is a row and the target is linear in what they return."""
    call, measure = explainer.adapted.call, explainer.measure
    if not isinstance(call, Rows) or call.cells is not None or measure.weights is None:
        return None
    trees = trees_of(call.estimator)
    if trees is None:
        return None
    weights = measure.weights
    if call.scatter is not None:
        weights = weights[call.scatter.ravel()]
    return Forest(trees, call.features, explainer.players.owner.ravel()[call.features].astype(int), weights)


def attribute(
    explainer: Explainer,
    forest: Forest,
    ds: xr.Dataset,
    packed: xr.DataArray,
    beside: xr.DataArray | None,
    progress: bool,
) -> xr.Dataset:
    """Return exact Shapley values of trees, labelled as those of any model; see :meth:`physml.explain.Explainer.shapley`."""
    players, measure, layout = explainer.players, explainer.measure, explainer.layout
    name, lead = measure.label, {"group": len(players)}
    parts = [
        Part("attribution", f"contribution to {name}", lead),
        Part("stderr", f"standard error of the contribution to {name}", lead),
        Part("residual", f"{name} left over by the contributions"),
        Part("prediction", name),
        Part("base_value", f"{name} for the baseline"),
        Part("rows", "model rows valued for the sample", units="1", each=False, dtype="int64"),
        Part("dof", "degrees of freedom of the standard error; 0: exact", units="1", each=False, dtype="int64"),
        Part("converged", "exact, or within the tolerance", units="1", each=False, dtype="bool"),
    ]
    depth = sum(p.depth for p in parts)
    values = over_samples(
        layout,
        packed,
        functools.partial(_explain, explainer, forest),
        depth,
        1,
        baseline=explainer.baseline,
        beside=beside,
        at_a_time=samples_at_a_time(packed, layout.spec.sample_dim, depth),
        title="Shapley values of trees",
        progress=progress,
    )
    method = "exact Shapley values of trees"
    settings = {
        "method": method,
        "seed": "none",
        "replicates": 1,
        "baseline": explainer.baseline.name,
        "target": name,
        "rows_per_sample": 1,
    }
    return label(
        values,
        parts,
        layout=layout,
        measure=measure,
        packed=packed,
        coords=players.coords,
        settings=settings,
        attrs=ds.attrs,
        what=f"explained {name} by {method}, baseline {explainer.baseline.name}",
    )


def _explain(explainer: Explainer, forest: Forest, block: Block) -> np.ndarray:
    """Return the parts of a result for a block, ``[depth, sample, 1]``."""
    dtype = explainer.adapted.dtype or block.inputs.dtype
    x = block.inputs.reshape(len(block.inputs), -1)
    rows = block.rows.reshape(len(block.rows), -1).astype(dtype)
    phi = np.zeros((len(explainer.players), len(x)))
    found = forest.values(x, rows, block.index)
    phi[: found.shape[1]] = found.T
    prediction = explainer.value(x)[:, 0]
    base = explainer.value(rows)[block.index, 0].mean(1)
    told = [
        prediction - base - phi.sum(0),
        prediction,
        base,
        np.ones_like(base),
        np.zeros_like(base),
        np.ones_like(base),
    ]
    return np.concatenate([phi, np.zeros_like(phi), np.stack(told)])[..., None]
