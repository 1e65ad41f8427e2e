"""Scores of predictions over samples, kept as sums of each sample so that any resample is scored without the model.

A score counts the cells where the truth is finite, weighted by their area.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from physml._errors import closest, refuse
from physml.provenance import parse_units

Better = Literal["smaller", "larger"]
Units = Callable[[str | None], str | None]


@dataclass(frozen=True)
class Summed:
    """A score that is a function of sums over samples.

    Attributes
    ----------
    name, better, units
        What it is called; which scores are better; its units, of those of the target.
    terms
        Of (truth, prediction), zero where there is no truth, their weights: the numbers summed, each ``[sample, cell]``.
    finish
        Of the sums ``[..., number]``.
    about
        What is taken off truth and prediction first: nothing, the mean truth of each cell over all samples, or that of all cells.
    """

    name: str
    better: Better
    units: Units
    terms: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, ...]]
    finish: Callable[[np.ndarray], np.ndarray]
    about: Literal["zero", "cells", "all"] = "zero"

    def record(self, truth: np.ndarray, prediction: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return what is kept of each sample, ``[sample, number]``, of values ``[sample, cell]`` and weights ``[cell]``."""
        there = np.isfinite(truth)
        w = there * weights
        parts = self.terms(np.where(there, truth, 0), np.where(there, prediction, 0), w)
        return np.stack([p.sum(1) for p in parts], axis=1)

    def of(
        self,
        records: np.ndarray,
        plain: np.ndarray,
        counts: np.ndarray,
        lenders: np.ndarray,
        used: np.ndarray,
        weights: np.ndarray,
    ) -> np.ndarray:
        """Return the scores of resamples, ``[state, resample]``.

        A lender counts by what it changed: where nothing changed, the interval has no width.

        Parameters
        ----------
        records, plain
            What is kept of the samples: with shuffled inputs, ``[state, sample, number]``, and as they are.
        counts
            How often each sample occurs in each resample, ``[resample, sample]``.
        lenders, used
            Whose values a sample took, ``[order, sample]``, and which of these orders each state uses, ``[state, order]``.
        weights
            Of the cells.
        """
        own, taken = records.copy(), np.zeros((len(records), records.shape[2]))
        for lender, here in zip(lenders, used.T, strict=True):
            change = records[here] - plain
            given = np.zeros_like(change)
            np.add.at(given.transpose(1, 0, 2), lender, change.transpose(1, 0, 2))
            own[here] += given
            taken[here] += change.sum(1)
        sums = counts @ own.transpose(1, 0, 2).reshape(own.shape[1], -1)
        sums = sums.reshape(len(counts), *taken.shape).transpose(1, 0, 2) - taken[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.finish(sums)


@dataclass(frozen=True)
class Whole:
    """A score of all values together; truth and prediction are kept as they are.

    Attributes
    ----------
    function
        Of truth ``[sample, cell]``, prediction, weights ``[cell]`` and counts ``[sample]``.
    signed
        Whether samples may count negatively.
    """

    name: str
    better: Better
    units: Units
    function: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float]
    signed: bool
    about: Literal["zero"] = "zero"

    def record(self, truth: np.ndarray, prediction: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See :class:`Summed`."""
        return np.concatenate([truth, prediction], axis=1)

    def of(
        self,
        records: np.ndarray,
        plain: np.ndarray,
        counts: np.ndarray,
        lenders: np.ndarray,
        used: np.ndarray,
        weights: np.ndarray,
    ) -> np.ndarray:
        """See :class:`Summed`."""
        found = np.empty((len(records), len(counts)))
        for s, record in enumerate(records):
            truth, prediction = np.split(record, 2, axis=1)
            changed = (prediction != plain[:, truth.shape[1] :]).any(1)
            often = counts
            for lender in lenders[used[s]]:
                lent = np.where(changed, counts[:, lender], 1)
                often = often + lent - 1 if self.signed else often * lent
            found[s] = [self.function(truth, prediction, weights, c) for c in often]
        return found


Score = Summed | Whole
"""A rule: what is kept of each sample, and how it makes the score of any resample of them."""


def _squares(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    return w * (p - y) ** 2, w


def _absolutes(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    return w * abs(p - y), w


def _variances(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    return w * (p - y) ** 2, w * y**2, w * y, w


def _moments(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    return w * y * p, w * y**2, w * p**2, w * y, w * p, w


def _root(s: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(s[..., 0], 0) / s[..., 1])


def _explained(s: np.ndarray) -> np.ndarray:
    return 1 - s[..., 0] / (s[..., 1] - s[..., 2] ** 2 / s[..., 3])


def _uncentred(s: np.ndarray) -> np.ndarray:
    return s[..., 0] / np.sqrt(s[..., 1] * s[..., 2])


def _centred(s: np.ndarray) -> np.ndarray:
    yp, yy, pp, y, p, w = np.moveaxis(s, -1, 0)
    return (yp - y * p / w) / np.sqrt((yy - y**2 / w) * (pp - p**2 / w))


def auc(truth: np.ndarray, prediction: np.ndarray, weights: np.ndarray, counts: np.ndarray) -> float:
    """Return the probability that a case where the event occurred is predicted above one where it did not."""
    there = np.isfinite(truth)
    w = (counts[:, None] * np.broadcast_to(weights, truth.shape))[there]
    event = truth[there] == 1
    _, at = np.unique(prediction[there], return_inverse=True)
    yes, no = (np.bincount(at, np.where(e, w, 0)) for e in (event, ~event))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float((yes * (np.cumsum(no) - no / 2)).sum() / (yes.sum() * no.sum()))


def _same(units: str | None) -> str | None:
    return units


def _one(units: str | None) -> str | None:
    return "1"


def _squared(units: str | None) -> str | None:
    if not units:
        return None
    product = f"{parse_units(units) ** 2:cf}"
    return product if product.isascii() else f"({units})2"


SCORES: Mapping[str, Score] = {
    "rmse": Summed("root mean square error", "smaller", _same, _squares, _root),
    "mse": Summed("mean square error", "smaller", _squared, _squares, lambda s: s[..., 0] / s[..., 1]),
    "mae": Summed("mean absolute error", "smaller", _same, _absolutes, lambda s: s[..., 0] / s[..., 1]),
    "brier": Summed("Brier score", "smaller", _one, _squares, lambda s: s[..., 0] / s[..., 1]),
    "r2": Summed("explained variance (R2)", "larger", _one, _variances, _explained, about="cells"),
    "acc": Summed("anomaly correlation", "larger", _one, _moments, _uncentred, about="cells"),
    "correlation": Summed("correlation", "larger", _one, _moments, _centred, about="all"),
    "auc": Whole("area under the ROC curve", "larger", _one, auc, signed=True),
}
EVENTS = ("brier", "auc")
"""Scores whose truth is 1 where an event occurred, else 0."""


def score_of(score: str | Callable[[Any, Any], float], better: Better | None = None) -> Score:
    """Return a score by name, or of a function.

    Parameters
    ----------
    score
        ``"rmse"``, ``"mse"``, ``"mae"``, ``"r2"`` and ``"acc"`` (about the mean truth of each cell), ``"correlation"``
        (about the mean of all), ``"brier"``, ``"auc"``; or a function of truth and prediction, arrays ``[sample]`` for one
        number, samples without truth left out, else ``[sample, cell]``.
    better
        For a function: whether smaller or larger values are better.

    Raises
    ------
    ValueError
        For an unknown name, and a function without *better*.
    """
    if isinstance(score, str):
        if score not in SCORES:
            expected = f"{', '.join(map(repr, SCORES))}, or a function (truth, prediction) -> number"
            refuse(f"score {score!r} is unknown{closest(score, SCORES)}", expected, repr(score), "correct the name")
        return SCORES[score]
    if better not in ("smaller", "larger"):
        refuse("it is not said which scores are better", "better='smaller' or 'larger'", repr(better), "pass it")

    def repeated(truth: np.ndarray, prediction: np.ndarray, weights: np.ndarray, counts: np.ndarray) -> float:
        often = np.where(np.isfinite(truth[:, 0]), counts, 0) if truth.shape[1] == 1 else counts
        truth, prediction = (np.repeat(a, often.astype(int), axis=0) for a in (truth, prediction))
        return float(score(truth[:, 0], prediction[:, 0]) if truth.shape[1] == 1 else score(truth, prediction))

    name = getattr(score, "__name__", "score")
    return Whole(name, better, lambda units: None, repeated, signed=False)
