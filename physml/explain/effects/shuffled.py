"""The score of a model whose inputs are shuffled by groups, and of resamples of the same samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from physml._errors import refuse
from physml.explain.blocks import BLOCK_BYTES

if TYPE_CHECKING:
    from physml.explain.effects.rows import Answers, Rows
    from physml.explain.effects.scoring import Score
    from physml.explain.effects.truth import Truth
    from physml.explain.players.groups import Groups


class Shuffled:
    """Scores of a model with some of its groups of inputs shuffled.

    Parameters
    ----------
    rows, truth
        Inputs and truth by sample number.
    answers
        The model.
    weights
        Of the target's cells.
    score
        The rule.
    groups
        The groups.
    orders
        ``[permutation, group or 1, sample]``: the sample whose values each sample takes.
    counts
        Bootstrap counts ``[resample, sample]``.
    """

    def __init__(
        self,
        rows: Rows,
        truth: Truth,
        answers: Answers,
        weights: np.ndarray,
        score: Score,
        groups: Groups,
        orders: np.ndarray,
        counts: np.ndarray,
    ) -> None:
        self.rows, self.truth, self.answers, self.weights = rows, truth, answers, weights
        self.score, self.groups, self.orders = score, groups, orders
        self.counts = np.concatenate([np.ones((1, len(rows)), counts.dtype), counts])
        self._about = self._reference()
        self._plain = self._records(np.zeros((1, len(groups)), bool), orders[0])[0]

    def _reference(self) -> Any:
        """Return what is taken off truth and prediction, and refuse truth that is missing throughout."""
        total, there = np.zeros(self.weights.size), np.zeros(self.weights.size)
        for numbers in self.rows.blocks():
            values = self.truth(numbers)
            total += np.nansum(values, 0)
            there += np.isfinite(values).sum(0)
        if not there.any():
            refuse(
                "the truth is missing throughout", "values of the targets", "none", "check the targets and their mask"
            )
        if self.score.about == "all":
            return (self.weights * total).sum() / (self.weights * there).sum()
        return total / np.maximum(there, 1) if self.score.about == "cells" else 0.0

    def check_events(self, label: str) -> None:
        """Refuse truth other than 0 and 1, or that never changes."""
        seen: set[float] = set()
        for numbers in self.rows.blocks():
            values = self.truth(numbers)
            seen |= set(np.unique(values[np.isfinite(values)])[:3].tolist())
        if not seen <= {0.0, 1.0} or (self.score.name != "Brier score" and len(seen) < 2):
            received = ", ".join(f"{s:g}" for s in sorted(seen)[:3])
            refuse(f"{self.score.name} needs events as truth of {label!r}", "0 and 1", received, "make it (x > limit)")

    @property
    def original(self) -> np.ndarray:
        """Scores of the samples as they are, ``[1 + resample]``; the first of all samples."""
        return self._scored(self._plain[None], self.orders[0, :0], np.zeros((1, 0), bool))[0]

    def scores(self, shuffled: np.ndarray) -> np.ndarray:
        """Return the scores ``[state, permutation, 1 + resample]`` with some groups shuffled, ``[state, group]``."""
        out = np.empty((len(shuffled), len(self.orders), len(self.counts)))
        for r, order in enumerate(self.orders):
            used = np.asarray(shuffled.any(1))[:, None] if len(order) == 1 else shuffled
            out[:, r] = self._scored(self._records(shuffled, order), order, used)
        return out

    def _scored(self, records: np.ndarray, lenders: np.ndarray, used: np.ndarray) -> np.ndarray:
        out = np.empty((len(records), len(self.counts)))
        step = max(1, BLOCK_BYTES // (8 * self.counts.shape[1]))
        for start in range(0, len(self.counts), step):
            counts = self.counts[start : start + step].astype("float64")
            out[:, start : start + step] = self.score.of(records, self._plain, counts, lenders, used, self.weights)
        return out

    def _records(self, shuffled: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Return what the score keeps, ``[state, sample, number]``."""
        owner = self.groups.owner
        out: np.ndarray | None = None
        for numbers in self.rows.blocks(copies=4):
            own, truth = self.rows.take(numbers), self.truth(numbers)
            donors = [self.rows.take(o[numbers]) for o in order] if shuffled.any() else []
            step = max(1, BLOCK_BYTES // max(1, own.nbytes))
            for start in range(0, len(shuffled), step):
                states = shuffled[start : start + step]
                mixed = np.repeat(own[None], len(states), axis=0)
                for s, state in enumerate(states):
                    for g, donor in enumerate(donors):
                        taken = np.append(state, False)[owner] if len(donors) == 1 else state[g] & (owner == g)
                        np.copyto(mixed[s], donor, where=taken)
                values = self.answers(mixed.reshape(-1, *own.shape[1:])).reshape(len(states), len(own), -1)
                for s, prediction in enumerate(values, start):
                    kept = self.score.record(truth - self._about, prediction - self._about, self.weights)
                    if out is None:
                        out = np.empty((len(shuffled), len(self.rows), kept.shape[1]))
                    out[s, numbers] = kept
        assert out is not None
        return out
