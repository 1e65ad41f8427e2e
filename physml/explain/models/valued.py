"""The target of a model as one function of packed inputs, and how many rows it is given at a time."""

from __future__ import annotations

import numpy as np

from physml._errors import describe, is_count, refuse
from physml.explain.models.adapting import Adapted, Forward
from physml.explain.models.targets import Measure

BATCH_BYTES = 3 * 2**19
"""Input bytes of one batch unless batch_rows is given: convolutions run fastest while their activations stay in the cache."""
FEW_ROWS = 8
"""Rows below which a batch is not cut for the sake of the cache alone."""


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


def accept_batch_rows(batch_rows: int | None) -> None:
    """Refuse a number of rows at a time that is none; None stands for the default of each method."""
    if batch_rows is not None and not is_count(batch_rows):
        refuse("batch_rows is not positive", "a whole number >= 1", repr(batch_rows), "leave it out")


def default_rows(row_bytes: int) -> int:
    """Return the number of rows in a batch for inputs of this size."""
    row_bytes = max(row_bytes, 1)
    return int(np.clip(max(BATCH_BYTES // row_bytes, min(FEW_ROWS, 16 * BATCH_BYTES // row_bytes)), 1, 1024))
