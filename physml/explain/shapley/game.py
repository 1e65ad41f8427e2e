"""The game: the value of a target of a model for any coalition of groups.

``v(S) = mean over baselines b of f(x on the groups in S, b elsewhere)``

Rows of all samples and coalitions stream through the model in batches of one size, so that it is compiled once and memory
stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from physml.explain.models.adapting import Forward


@dataclass(frozen=True)
class Request:
    """Coalitions of one sample: inputs ``[cell]``, members ``[row, group]``, baseline row of each ``[row]``."""

    inputs: np.ndarray
    coalitions: np.ndarray
    slots: np.ndarray


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
