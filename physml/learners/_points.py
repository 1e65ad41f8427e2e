"""Where values stand in a tensor: a number that lies nowhere on the grid is read at one valid cell."""

from __future__ import annotations

import numpy as np

from physml._errors import describe
from physml.fields import Role
from physml.layout import Layout


def first_cells(layout: Layout, role: Role) -> np.ndarray:
    """Return, for each channel, the first valid cell of the flattened grid."""
    valid = layout.valid(role)
    return valid.reshape(-1, valid.shape[-1]).argmax(0)


def numbers(layout: Layout, role: Role, x: np.ndarray, channels: slice | np.ndarray) -> np.ndarray:
    """Return channels of ``[row, *space, channel]`` at their first valid cells, ``[row, channel]``."""
    flat = x.reshape(len(x), -1, x.shape[-1])
    at = np.arange(x.shape[-1])[channels]
    return flat[:, first_cells(layout, role)[at], at]


def targets(layout: Layout, y: np.ndarray) -> np.ndarray:
    """Return ``[row, *space, channel]`` with 0 on masked cells, or ``[row, channel]`` for targets that lie nowhere; float64."""
    if layout.series:
        return numbers(layout, "targets", y, slice(None)).astype("float64")
    return np.where(layout.valid("targets"), y, 0.0).astype("float64")


def cells_of(layout: Layout, name: str) -> np.ndarray:
    """Return the cells that are rows, ``[*space]`` booleans: those with all inputs and all targets.

    Raises
    ------
    ValueError
        Where targets lie on cells that lack an input, or not all on the same cells.
    """
    inputs, targets = layout.valid("inputs").all(-1), layout.valid("targets")
    lacking = targets.any(-1) & ~inputs
    if lacking.any() or (targets.any(-1) != targets.all(-1)).any():
        n = int(lacking.sum()) or int((targets.any(-1) != targets.all(-1)).sum())
        raise ValueError(
            describe(
                f"{name} takes cells one by one, but {n} cells have not all channels",
                expected="all inputs and all targets valid wherever a target is",
                received=f"{n} cells that lack {'an input' if lacking.any() else 'a target'}",
                remedy="mask those cells, leave out the channels that are not everywhere, or make one learner for each level",
            )
        )
    return np.asarray(inputs & targets.all(-1))
