"""Likeness of two sets of numbers along the last axis: correlations, signs, the greatest."""

from __future__ import annotations

import numpy as np


def pearson(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the weighted correlation of ``[..., n]`` and ``[..., n]``, of what is there in both; NaN without variance.

    Examples
    --------
    >>> float(pearson(np.array([1.0, 2.0, np.nan, 4.0]), np.array([2.0, 4.0, 0.0, 8.0]), np.ones(4)).round(12))
    1.0
    """
    a, b, w = _both(a, b, w)
    total = w.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (x - (w * x).sum(-1, keepdims=True) / total for x in (a, b))
        spread = np.sqrt((w * a * a).sum(-1) * (w * b * b).sum(-1))
        return np.where(spread > 0, (w * a * b).sum(-1) / spread, np.nan)[()]


def spearman(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the weighted correlation of the ranks of ``[..., n]`` and ``[..., n]``; equal numbers share their mean rank.

    Examples
    --------
    >>> float(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0, 100.0]), np.ones(3)).round(12))
    1.0
    """
    from scipy.stats import rankdata

    there = np.isfinite(a) & np.isfinite(b)
    a, b = (rankdata(np.where(there, x, np.nan), axis=-1, nan_policy="omit") for x in np.broadcast_arrays(a, b))
    return pearson(a, b, w)


def sign_agreement(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the weighted share of ``[..., n]`` and ``[..., n]`` whose signs are equal; zero is a sign of its own."""
    a, b, w = _both(a, b, w)
    total = w.sum(-1)
    same = (w * (np.sign(a) == np.sign(b))).sum(-1)
    return np.divide(same, total, out=np.full(np.shape(total), np.nan), where=total > 0)[()]


def top_overlap(a: np.ndarray, b: np.ndarray, top: int | float) -> np.ndarray:
    """Return the share of the *top* greatest in size (a number, or a share of those there are) that both name.

    Examples
    --------
    >>> float(top_overlap(np.array([5.0, -4.0, 1.0, 0.0]), np.array([-9.0, 1.0, 2.0, 0.0]), 2))
    0.5
    """
    a, b = np.broadcast_arrays(a, b)
    there = np.isfinite(a) & np.isfinite(b)
    n = there.sum(-1, keepdims=True)
    k = np.minimum(n, np.maximum(1, np.round(top * n)) if isinstance(top, float) else top)
    # The place among all by size, those that are missing last: earlier ones win ties in both alike.
    order = [np.argsort(np.where(there, -abs(x), np.inf), axis=-1, kind="stable") for x in (a, b)]
    place = [np.argsort(o, axis=-1, kind="stable") for o in order]
    both = ((place[0] < k) & (place[1] < k)).sum(-1)
    return np.divide(both, k[..., 0], out=np.full(both.shape, np.nan), where=n[..., 0] > 0)[()]


def _both(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the numbers with zero weight, and value, where one is missing."""
    there = np.isfinite(a) & np.isfinite(b) & np.isfinite(w)
    return np.where(there, a, 0.0), np.where(there, b, 0.0), np.where(there, w, 0.0)
