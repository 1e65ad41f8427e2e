"""The game: the value of a target of a model for any coalition of groups.

``v(S) = mean over baselines b of f(x on the groups in S, b elsewhere)``

Rows of all samples and coalitions stream through the model in batches of one size, so that it is compiled once and memory
stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from physml._errors import describe
from physml.explain.models.adapting import Adapted
from physml.explain.models.targets import Measure

Forward = Callable[[np.ndarray], np.ndarray]

BATCH_BYTES = 3 * 2**19
"""Input bytes of one batch unless batch_rows is given: convolutions run fastest while their activations stay in the cache."""
FEW_ROWS = 8
"""Rows below which a batch is not cut for the sake of the cache alone."""


@dataclass(frozen=True)
class Request:
    """Coalitions of one sample: inputs ``[cell]``, members ``[row, group]``, baseline row of each ``[row]``."""

    inputs: np.ndarray
    coalitions: np.ndarray
    slots: np.ndarray


def valued(adapted: Adapted, measure: Measure) -> Forward:
    """Return the target of model inputs ``[row, cell]`` as ``[row, valid cell]``.

    Raises
    ------
    ValueError
        Where the model returns values that are not finite.
    """
    shape = (*adapted.layout.shape, len(adapted.layout.inputs))

    def value(rows: np.ndarray) -> np.ndarray:
        values = measure.reduce(adapted(rows.reshape(len(rows), *shape)))
        if not np.isfinite(values).all():
            raise ValueError(
                describe(
                    f"the model's {measure.label!r} is not finite",
                    expected="finite predictions for every mixture of sample and baseline",
                    received=f"{int((~np.isfinite(values)).sum())} of {values.size} values missing or infinite",
                    remedy="check the range of the baseline against the training data",
                )
            )
        return values

    return value


def default_rows(row_bytes: int) -> int:
    """Return the number of rows in a batch for inputs of this size."""
    row_bytes = max(row_bytes, 1)
    return int(np.clip(max(BATCH_BYTES // row_bytes, min(FEW_ROWS, 16 * BATCH_BYTES // row_bytes)), 1, 1024))


def coalition_values(
    requests: Iterable[Request | None],
    *,
    background: np.ndarray,
    owner: np.ndarray,
    value: Forward,
    batch_rows: int,
    fixed: bool = True,
) -> Iterator[tuple[int, np.ndarray]]:
    """Stream coalitions of many samples through one function in batches of one size.

    Parameters
    ----------
    requests
        What is asked, in order. None: nothing can be asked until more values are known, so that the rows gathered are valued
        at once.
    background
        Baseline inputs ``[slot, cell]``; their type is the one the function is given.
    owner
        Group of each cell ``[cell]``, -1 for none.
    value
        Function of rows ``[row, cell]`` with values ``[row, ...]``.
    batch_rows
        Rows in a batch.
    fixed
        Whether the function is always called with *batch_rows* rows, as one that is compiled should be: a batch that is not
        full holds baseline rows, or others that came before, which are thrown away.

    Yields
    ------
    tuple
        Number of the request and the values of its next rows, in order.
    """
    owner = owner.astype(np.intp)
    # Not zeros, of which a model may have no logarithm.
    buffer = np.repeat(background[:1], batch_rows, axis=0)
    pending: list[tuple[int, int]] = []
    filled = 0

    def flush() -> Iterator[tuple[int, np.ndarray]]:
        values, start = value(buffer if fixed else buffer[:filled]), 0
        for number, n in pending:
            yield number, values[start : start + n]
            start += n
        pending.clear()

    number = -1
    for request in requests:
        if request is None:
            if not filled:
                raise RuntimeError("requests wait for values that nobody has asked for")
            yield from flush()
            filled = 0
            continue
        number += 1
        # A column that is always absent is where masked cells (owner -1) point.
        present = np.pad(request.coalitions, ((0, 0), (0, 1)))
        done = 0
        while done < len(present):
            n = min(batch_rows - filled, len(present) - done)
            slots = request.slots[done : done + n]
            absent = background[slots[0]] if (slots == slots[0]).all() else background[slots]
            here = present[done : done + n].take(owner, axis=1)
            buffer[filled : filled + n] = np.where(here, request.inputs, absent)
            pending.append((number, n))
            done, filled = done + n, filled + n
            if filled == batch_rows:
                yield from flush()
                filled = 0
    if filled:
        yield from flush()
