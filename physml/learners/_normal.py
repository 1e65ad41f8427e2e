"""Least squares from sums alone: means and centred products of features and targets, of parts that are merged exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
import scipy.linalg


@dataclass(frozen=True)
class Sums:
    """What least squares needs to know of weighted rows of features and targets.

    Attributes
    ----------
    n
        Number of rows, or sum of their weights.
    x, y
        Means ``[feature]`` and ``[target]``.
    xx, xy, yy
        Sums of products of departures from them: ``[feature, feature]``, ``[feature, target]``, ``[target]``.
    """

    n: float
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> Sums:
        """Return the sums of rows ``[row, feature]`` and ``[row, target]``."""
        if weights is None:
            mx, my = x.mean(0), y.mean(0)
            x, y = x - mx, y - my
            return cls(float(len(x)), mx, my, x.T @ x, x.T @ y, np.square(y).sum(0))
        n = float(weights.sum())
        mx, my = weights @ x / n, weights @ y / n
        root = np.sqrt(weights)[:, None]
        x, y = (x - mx) * root, (y - my) * root
        return cls(n, mx, my, x.T @ x, x.T @ y, np.square(y).sum(0))

    def __add__(self, other: Sums) -> Sums:
        """Return the sums of both parts together (Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""
        n = self.n + other.n
        if not n:
            return self
        dx, dy = other.x - self.x, other.y - self.y
        share = other.n / n
        inner = share * self.n
        return Sums(
            n,
            self.x + share * dx,
            self.y + share * dy,
            self.xx + other.xx + inner * np.outer(dx, dx),
            self.xy + other.xy + inner * np.outer(dx, dy),
            self.yy + other.yy + inner * dy**2,
        )

    def scale(self, standardise: bool) -> np.ndarray:
        """Return the standard deviation of each feature, or 1; 1 for features that do not vary."""
        if not standardise:
            return np.ones(len(self.x))
        std = np.sqrt(np.diag(self.xx) / max(self.n, 1))
        return np.where(std > 1e-12 * np.maximum(np.abs(self.x), np.finfo(float).tiny), std, 1.0)


@dataclass(frozen=True)
class Line:
    """A fitted regression: ``y + (x - mean) @ coef``, with coefficients ``[feature, target]``."""

    coef: np.ndarray
    mean: np.ndarray
    y: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the targets ``[row, target]`` of features ``[row, feature]``."""
        return self.y + (x - self.mean) @ self.coef

    def missed(self, sums: Sums) -> np.ndarray:
        """Return the sum of squared errors ``[target]`` on the rows behind some sums."""
        gap = sums.y - self.y - (sums.x - self.mean) @ self.coef
        within = sums.yy - 2 * (self.coef * sums.xy).sum(0) + ((sums.xx @ self.coef) * self.coef).sum(0)
        return np.maximum(sums.n * gap**2 + within, 0.0)


def solve(sums: Sums, alphas: Sequence[float], standardise: bool) -> list[Line]:
    """Return the ridge regression for each penalty; 0 is least squares, of least norm where features depend on each other.

    The penalty is that of scikit-learn: ``sum of squared errors + alpha * sum of squared coefficients``, the latter of features
    divided by their standard deviation where *standardise* says so.
    """
    scale = sums.scale(standardise)
    a = sums.xx / np.outer(scale, scale)
    b = sums.xy / scale[:, None]
    if len(alphas) == 1 and alphas[0] > 0:
        found = [scipy.linalg.solve(a + alphas[0] * np.eye(len(a)), b, assume_a="pos")]
    else:
        values, vectors = np.linalg.eigh(a)
        inner = vectors.T @ b
        least = values.max(initial=0.0) * len(a) * np.finfo(float).eps
        found = []
        for alpha in alphas:
            with np.errstate(divide="ignore"):
                inverse = np.where(values > least, 1 / (values + alpha), 0.0) if alpha == 0 else 1 / (values + alpha)
            found.append(vectors @ (inverse[:, None] * inner))
    return [Line(w / scale[:, None], sums.x, sums.y) for w in found]


@dataclass(frozen=True)
class Folds:
    """Contiguous parts of the samples, each left out in turn, with a gap on both sides.

    Attributes
    ----------
    ends
        Ends of the segments into which the samples are cut, so that every part and every gap is a union of segments.
    tests, trains
        The segments of each part, and those it is judged by.
    """

    ends: np.ndarray
    tests: list[list[int]]
    trains: list[list[int]]

    @classmethod
    def of(cls, n: int, folds: int, gap: int) -> Folds:
        """Cut *n* samples into *folds* parts.

        Examples
        --------
        >>> f = Folds.of(9, 3, 1)
        >>> f.ends, f.tests, f.trains
        (array([2, 3, 4, 5, 6, 7, 9]), [[0, 1], [2, 3, 4], [5, 6]], [[3, 4, 5, 6], [0, 6], [0, 1, 2, 3]])
        """
        cuts = np.linspace(0, n, folds + 1).round().astype(int)
        edges = np.unique(np.clip([*cuts, *(cuts[:-1] - gap), *(cuts[1:] + gap)], 0, n))
        starts, ends = edges[:-1], edges[1:]
        tests, trains = [], []
        for a, b in pairwise(cuts.tolist()):
            tests.append(np.flatnonzero((starts >= a) & (ends <= b)).tolist())
            trains.append(np.flatnonzero((ends <= a - gap) | (starts >= b + gap)).tolist())
        return cls(ends, tests, trains)

    def segment(self, sample: np.ndarray) -> np.ndarray:
        """Return the segment of each sample."""
        return np.searchsorted(self.ends, sample, side="right")

    def fold(self, sample: np.ndarray) -> np.ndarray:
        """Return the part that each sample belongs to."""
        of = np.empty(len(self.ends), int)
        for i, segments in enumerate(self.tests):
            of[segments] = i
        return of[self.segment(sample)]


def together(parts: Iterable[Sums]) -> Sums:
    """Return the sums of all parts."""
    return reduce(Sums.__add__, parts)
