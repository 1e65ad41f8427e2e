"""Samples under way: the coalitions of many samples share batches, and each sample stops on its own.

A sample is planned, valued and finished before many others begin, so that memory does not grow with their number; a batch
that would run half empty is filled with the next samples.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from physml._errors import refuse
from physml.explain.blocks import Block
from physml.explain.shapley.designs import Design, Estimator
from physml.explain.shapley.game import Forward, Request, coalition_values
from physml.explain.shapley.gathering import Accumulator
from physml.explain.shapley.permutations import at_a_time

MAX_ROWS = 20_000
"""Model rows of one sample at which a search for a tolerance ends unless max_rows is given."""
GROWTH = 1.5
"""Factor by which the replicates grow from one decision to the next: few decisions, little waste."""


@dataclass(frozen=True)
class Stopping:
    """When a sample has enough replicates: at a tolerance, or else at their number; never beyond a number of model rows.

    Attributes
    ----------
    tol, rtol
        Half-width of the interval of every group and cell of the target that is small enough: in units of the target; as a
        fraction of the sample's largest attribution. None: not asked.
    max_rows
        Model rows of one sample.
    level
        Of the interval.
    """

    tol: float | None = None
    rtol: float | None = None
    max_rows: int | None = None
    level: float = 0.95

    def __post_init__(self) -> None:
        for name in ("tol", "rtol"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                refuse(f"{name} is not positive", "> 0", value, "leave it out for a fixed number of pairs")
        accept_level(self.level)

    @property
    def adaptive(self) -> bool:
        """Whether a tolerance is asked for."""
        return self.tol is not None or self.rtol is not None

    def first(self, estimator: Estimator, n_groups: int, n_slots: int) -> int:
        """Return the number of replicates before the first decision.

        Raises
        ------
        ValueError
            Where *max_rows* allow no estimate with an error.
        """
        each = estimator.rows_each(n_groups, n_slots)
        if estimator.pairs is None:
            if self.max_rows is not None and 1 + each > self.max_rows:
                refuse(
                    f"max_rows are too few for {estimator.name}",
                    f">= {1 + each} for {n_groups} groups and {n_slots} baseline rows",
                    self.max_rows,
                    "raise max_rows, merge groups, or method='permutations'",
                )
            return 1
        if not each:  # one group gets all there is, with each baseline row
            return 2 * n_slots
        least = math.ceil(estimator.fewest(n_groups) / n_slots) * n_slots
        if self.limit(estimator, n_groups, n_slots) < least:
            refuse(
                f"max_rows are too few for {estimator.name}",
                f">= {1 + least * each} for {n_groups} groups and {n_slots} baseline rows",
                self.max_rows,
                "raise max_rows, merge groups, or compare with fewer baseline rows",
            )
        wanted = math.ceil(max(estimator.pairs, least) / n_slots) * n_slots
        return int(min(wanted, self.limit(estimator, n_groups, n_slots)))

    def limit(self, estimator: Estimator, n_groups: int, n_slots: int) -> float:
        """Return the number of replicates that the model rows allow, all baseline rows equally often."""
        each, most = estimator.rows_each(n_groups, n_slots), min(estimator.most(n_groups, n_slots), 1e6)
        max_rows = MAX_ROWS if self.max_rows is None and self.adaptive else self.max_rows
        if max_rows is None or not each:
            return most
        return min(most, (max_rows - 1) // each // n_slots * n_slots)

    def met(self, phi: np.ndarray, stderr: np.ndarray, dof: int) -> bool:
        """Return whether the estimates of one sample are good enough."""
        if not dof:
            return True
        if not self.adaptive:
            return False
        half = stderr.max() * t_quantile(dof, self.level)
        return bool(half <= max(self.tol or 0, (self.rtol or 0) * abs(phi).max()))


def accept_level(level: float) -> None:
    """Refuse a confidence level that is no probability."""
    if not 0 < level < 1:
        refuse("level is no probability", "0 < level < 1", level, "pass level=0.95")


def t_quantile(dof: int | np.ndarray, level: float) -> np.ndarray:
    """Return half the width of a t interval, in standard errors."""
    from scipy.special import stdtrit

    return stdtrit(np.maximum(dof, 1), 0.5 + level / 2)


@dataclass(frozen=True, eq=False)
class Found:
    """What is known of one sample.

    Attributes
    ----------
    estimate, stderr
        ``[k, out]``.
    prediction, base
        Values of the full and of the empty coalition, ``[out]``.
    dof
        Degrees of freedom of the error; 0: there is none.
    rows
        Model rows that were valued for it.
    converged
        Whether it is exact or within the tolerance.
    """

    estimate: np.ndarray
    stderr: np.ndarray
    prediction: np.ndarray
    base: np.ndarray
    dof: int
    rows: int
    converged: bool


class Sampled:
    """One sample under way."""

    def __init__(self, estimator: Estimator, stopping: Stopping, n_groups: int, slots: np.ndarray, number: int) -> None:
        self._estimator, self._stopping, self._n_groups = estimator, stopping, n_groups
        self.slots, self._number = slots, number
        self._each = estimator.rows_each(n_groups, len(slots))
        self._target = stopping.first(estimator, n_groups, len(slots))
        self._most = stopping.limit(estimator, n_groups, len(slots))
        self._held = at_a_time(estimator.row_bytes(n_groups), self._each, len(slots))
        self._drawn = 0
        self.rows = 1
        self._design: Design | None = None
        self._accumulator: Accumulator | None = None
        self._full: np.ndarray | None = None

    def plan(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the next coalitions ``[row, group]``, the full one first of all, and the baseline row of each."""
        pairs = min(self._target - self._drawn, self._held)
        design = self._estimator.design(
            self._n_groups,
            len(self.slots),
            self._number,
            pairs=None if self._estimator.pairs is None else pairs,
            start=self._drawn,
        )
        self._drawn += design.replicates
        self.rows += len(design.coalitions)
        self._design = design
        coalitions, slots = design.coalitions, self.slots[design.slot]
        if self._full is None:
            coalitions = np.concatenate([np.ones((1, self._n_groups), bool), coalitions])
            slots = np.concatenate([self.slots[:1], slots])
        return coalitions, slots

    def add(self, values: np.ndarray, empty: list[np.ndarray]) -> Found | bool:
        """Take the values of the next rows; return what is found, or whether more coalitions are to be planned."""
        assert self._design is not None
        if self._full is None:
            self._full, values = values[0], values[1:]
            self._empty = np.stack([empty[i] for i in self.slots])
            self._gathering = self._estimator.gathering(self._n_groups, len(self.slots), self._full.size)
        if self._accumulator is None:
            self._accumulator = Accumulator(self._design, self._full, self._empty, self._gathering)
        self._accumulator.add(values)
        if not self._accumulator.complete:
            return False
        self._accumulator = None
        if self._drawn < self._target:
            return True
        found, stderr, dof = self._gathering.result(self._full, self._empty)
        met = self._stopping.met(found, stderr, dof)
        more = min(math.ceil(self._target * GROWTH / len(self.slots)) * len(self.slots), self._most)
        if not met and self._stopping.adaptive and more > self._target:
            self._target = int(more)
            return True
        return Found(found, stderr, self._full, self._empty.mean(0), dof, self.rows, met)


def sweep(
    estimator: Estimator,
    stopping: Stopping,
    block: Block,
    *,
    owner: np.ndarray,
    n_groups: int,
    value: Forward,
    dtype: str,
    batch_rows: int,
    fixed: bool,
) -> Iterator[tuple[int, Found]]:
    """Value the coalitions of every sample of a block, and hand each on as soon as it is found.

    Parameters
    ----------
    estimator, stopping
        What is asked of each sample.
    block
        The samples.
    owner, n_groups
        Group of each input cell, and their number.
    value
        The game: target of rows ``[row, cell]``.
    dtype
        Type of the rows.
    batch_rows, fixed
        Rows the model is given at a time, and whether it is always given as many.

    Yields
    ------
    tuple
        Place of the sample in the block and what is found; in no particular order.
    """
    used, index = np.unique(block.index, return_inverse=True)
    index = index.reshape(block.index.shape)
    background = block.rows[used].reshape(len(used), -1).astype(dtype)
    running: dict[int, Sampled] = {}
    ready: deque[int] = deque()
    asked: list[int] = []

    def ask(s: int) -> Request:
        asked.append(s)
        return Request(block.inputs[s].ravel().astype(dtype), *running[s].plan())

    def requests() -> Iterator[Request | None]:
        yield Request(background[0], np.zeros((len(background), n_groups), bool), np.arange(len(background)))
        for s, number in enumerate(block.numbers.tolist()):
            while ready:
                yield ask(ready.popleft())
            running[s] = Sampled(estimator, stopping, n_groups, index[s], number)
            yield ask(s)
        while running:
            yield ask(ready.popleft()) if ready else None

    stream = coalition_values(
        requests(), background=background, owner=owner, value=value, batch_rows=batch_rows, fixed=fixed
    )
    empty: list[np.ndarray] = []
    for number, values in stream:
        if number == 0:
            empty.extend(values)
            continue
        s = asked[number - 1]
        found = running[s].add(values, empty)
        if isinstance(found, Found):
            del running[s]
            yield s, found
        elif found:
            ready.append(s)
