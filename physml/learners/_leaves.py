"""What the training values in the leaves of a forest tell of the spread of a prediction.

A row shares, in every tree, a leaf with some of the training rows: these, each counted by one over the number of rows in the leaf and
the number of trees, are its conditional distribution (Meinshausen 2006). Its mean and variance need no more than the first two
moments of every leaf; its quantiles are those of one training value from the leaf of every tree, drawn once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from physml._errors import refuse

_ROWS = 2**14
"""Rows whose values in all trees are held at a time."""


def moments(forest: Any, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return, for the nodes of all trees one after the other, mean and mean square of the training values in it.

    Returns
    -------
    dict
        ``leaf_mean`` and ``leaf_square`` ``[node, target]`` of departures from ``leaf_centre`` ``[target]``.
    """
    centre = y.mean(0)
    y = y - centre
    parts = []
    for tree in forest.estimators_:
        leaf, n = tree.tree_.apply(x), tree.tree_.node_count
        count = np.maximum(np.bincount(leaf, minlength=n), 1)
        parts.append(
            np.stack(
                [[np.bincount(leaf, v**k, minlength=n) / count for v in y.T] for k in (1, 2)],
            )
        )
    mean, square = np.concatenate(parts, axis=-1)
    return {"leaf_mean": mean.T.copy(), "leaf_square": square.T.copy(), "leaf_centre": centre}


def drawn(forest: Any, x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return one of the training values in each node of all trees, drawn at random: ``leaf_draw`` ``[node, target]``."""
    rng = np.random.default_rng(seed)
    parts = []
    for tree in forest.estimators_:
        order = rng.permutation(len(x))
        row = np.zeros(tree.tree_.node_count, int)
        row[tree.tree_.apply(x)[order]] = order  # the last of a leaf stays
        parts.append(y[row])
    return {"leaf_draw": np.concatenate(parts)}


def quantiles(forest: Any, state: Mapping[str, np.ndarray], x: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Return quantiles ``[row, target, level]`` of the values drawn from the leaves of rows ``[row, feature]``."""
    found = np.empty((len(x), len(levels), state["leaf_draw"].shape[1]))
    starts = np.cumsum([0, *(t.tree_.node_count for t in forest.estimators_)])
    for begin in range(0, len(x), _ROWS):
        rows = slice(begin, begin + _ROWS)
        leaf = [start + t.tree_.apply(x[rows]) for start, t in zip(starts, forest.estimators_, strict=False)]
        found[rows] = np.moveaxis(np.quantile(state["leaf_draw"][np.stack(leaf)], levels, axis=0), 0, 1)
    return np.moveaxis(found, 1, 2)


def spread(forest: Any, state: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return the standard deviation ``[row, target]`` of the conditional distribution of rows ``[row, feature]``."""
    mean = np.zeros((len(x), state["leaf_mean"].shape[1]))
    square, start = mean.copy(), 0
    for tree in forest.estimators_:
        leaf = start + tree.tree_.apply(x)
        mean += state["leaf_mean"][leaf]
        square += state["leaf_square"][leaf]
        start += tree.tree_.node_count
    n = len(forest.estimators_)
    return np.sqrt(np.maximum(square / n - (mean / n) ** 2, 0.0))


def check(forest: Any, state: Mapping[str, np.ndarray]) -> None:
    """Refuse moments that are not those of the trees."""
    nodes = sum(t.tree_.node_count for t in forest.estimators_)
    if any(len(v) != nodes for k, v in state.items() if k in ("leaf_mean", "leaf_square", "leaf_draw")):
        refuse("the moments of the leaves are not those of these trees", f"{nodes} nodes", "others", "save it again")
