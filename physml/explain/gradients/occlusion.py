"""Occlusion: what a prediction loses when a part of the inputs is replaced by the baseline.

``phi = v(all) - v(all without the part)``, the mean over the baseline rows of a sample. No gradient is needed: any model. Parts
that only matter together each get the whole of what they do together, so that the values need not add up.

References
----------
Zeiler, M. D. and R. Fergus, 2014: Visualizing and understanding convolutional networks. ECCV. doi:10.1007/978-3-319-10590-1_53
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from physml._errors import closest, describe, is_count
from physml.explain.blocks import Block
from physml.explain.gradients.kinds import Found, Kind
from physml.explain.gradients.rows import Rows, in_batches
from physml.explain.gradients.work import Work

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer

Part = Any
"""Index of cells in ``[*space, channel]``: slices, or booleans."""


@dataclass(frozen=True)
class Occlusion(Kind):
    """What a prediction loses without each group, or without each window of cells.

    Attributes
    ----------
    patches
        Cells of a window along each space dimension; dimensions that are not named are covered whole. None: the groups.
    strides
        Cells from one window to the next; by default windows do not overlap.
    together
        Hide all channels of a window at once rather than one after another.
    """

    patches: Mapping[str, int] | None = None
    strides: Mapping[str, int] | None = None
    together: bool = False
    method: ClassVar[str] = "occlusion"
    derivative: ClassVar[bool] = False

    @property
    def cells(self) -> dict[str, str]:
        """The loss, by cell."""
        return {"attribution": "loss of {} without the cells"}

    def rows(self, explainer: Explainer, slots: int) -> int:
        """Return the windows of a sample with every baseline row."""
        return slots * len(self.parts(explainer))

    def prepare(self, explainer: Explainer, shape: tuple[int | None, ...], dtype: str) -> dict[str, Any]:
        """Check the windows."""
        parts = self.parts(explainer)
        told = lambda sizes: ", ".join(f"{d} {n}" for d, n in (sizes or {}).items()) or "none"  # noqa: E731
        return {"patches": told(self.patches), "strides": told(self.strides), "windows": len(parts)}

    def parts(self, explainer: Explainer) -> list[Part]:
        """Return the windows that hold a valid cell, as indices of ``[*space, channel]``."""
        layout, valid = explainer.layout, explainer.layout.valid("inputs")
        over = windows(layout.space, layout.shape, self.patches or {}, self.strides)
        channels = [slice(None)] if self.together else [slice(i, i + 1) for i in range(valid.shape[-1])]
        return [part for w in over for c in channels if valid[part := (*w, c)].any()]

    def explain(self, work: Work, block: Block) -> Found:
        """Return the losses as cells."""
        parts, full = self.parts(work.explainer), work.full(block)
        inputs, rows = (a.astype(work.dtype, copy=False) for a in (block.inputs, block.rows))
        lost = losses(work.value, inputs, rows, block.index, parts, full, work.batch_rows)[..., 0]
        base = work.base(block)[:, 0]
        phi = spread_over(parts, lost, work.valid)
        left = full[:, 0] - base - phi.reshape(len(phi), -1).sum(1)
        return {"attribution": phi, "prediction": full[:, 0], "base_value": base, "residual": left}


def by_groups(work: Work, block: Block) -> np.ndarray:
    """Return what a prediction loses without each group, then residual, prediction and base value, ``[depth, sample, width]``."""
    explainer = work.explainer
    measure, full, base = explainer.measure, work.full(block), work.base(block)
    inputs, rows = (a.astype(work.dtype, copy=False) for a in (block.inputs, block.rows))
    lost = losses(work.value, inputs, rows, block.index, list(explainer.players.masks), full, work.batch_rows)
    found = np.concatenate([lost, np.stack([full - base - lost.sum(0), full, base])])
    out = np.full((*found.shape[:2], measure.valid.size), np.nan)
    out[..., np.flatnonzero(measure.valid)] = found
    return out


def losses(
    value: Rows,
    inputs: np.ndarray,
    rows: np.ndarray,
    index: np.ndarray,
    parts: Sequence[Part],
    full: np.ndarray,
    batch_rows: int,
) -> np.ndarray:
    """Return what each sample loses without each part, ``[part, sample, out]`` in float64.

    Parameters
    ----------
    value
        Target of rows ``[batch_rows, *space, channel]``, ``[batch_rows, out]``.
    inputs, rows, index
        Samples, baseline rows, and the baseline rows of each sample ``[sample, slot]``.
    parts
        What is replaced, one after another.
    full
        Target of the samples as they are ``[sample, out]``.
    batch_rows
        Rows in a batch.
    """
    n, slots = index.shape

    def make(numbers: np.ndarray) -> np.ndarray:
        made = inputs[numbers // (len(parts) * slots)]
        for row, number in zip(made, numbers, strict=True):
            sample, rest = divmod(int(number), len(parts) * slots)
            part, slot = divmod(rest, slots)
            row[parts[part]] = rows[index[sample, slot]][parts[part]]
        return made

    left = np.zeros((len(parts), n, full.shape[1]))
    for numbers, values in in_batches(value, make, n * len(parts) * slots, batch_rows):
        sample, part = numbers // (len(parts) * slots), numbers // slots % len(parts)
        np.add.at(left, (part, sample), values / slots)
    return full - left


def windows(
    layout_space: Sequence[str], shape: Sequence[int], sizes: Mapping[str, int], strides: Mapping[str, int] | None
) -> list[tuple[slice, ...]]:
    """Return windows that cover the grid, as slices over space.

    Parameters
    ----------
    layout_space, shape
        Names and sizes of the space dimensions.
    sizes
        Cells of a window along each dimension; dimensions that are not named are covered whole.
    strides
        Cells from one window to the next, at most their size; by default the size, so that windows do not overlap. The last one
        along a dimension is cut, or moved back where windows overlap.

    Raises
    ------
    ValueError
        For unknown dimensions and sizes or strides that leave cells out.

    Examples
    --------
    >>> windows(("x",), (5,), {"x": 2}, None)
    [(slice(0, 2, None),), (slice(2, 4, None),), (slice(4, 5, None),)]
    """
    strides = strides or {}
    for what, given in (("patches", sizes), ("strides", strides)):
        if not isinstance(given, Mapping):
            raise TypeError(
                describe(
                    f"occlusion: {what} do not name their dimensions",
                    expected=f"cells along each of {tuple(layout_space)}",
                    received=repr(given),
                    remedy=f"pass {what}={{{layout_space[0]!r}: 2}}" if layout_space else f"leave {what} out",
                )
            )
        if unknown := [d for d in given if d not in layout_space]:
            raise ValueError(
                describe(
                    f"occlusion: {what} name the unknown dimension {unknown[0]!r}{closest(unknown[0], layout_space)}",
                    expected=f"space dimensions {tuple(layout_space)}",
                    received=dict(given),
                    remedy="correct the name",
                )
            )
    along = []
    for dim, cells in zip(layout_space, shape, strict=True):
        size = sizes.get(dim, cells)
        stride = strides.get(dim, size)
        if not (is_count(size) and is_count(stride) and stride <= size):
            raise ValueError(
                describe(
                    f"occlusion: windows along {dim!r} leave cells out",
                    expected="whole numbers, 1 <= stride <= size",
                    received=f"size {size!r}, stride {stride!r}",
                    remedy="leave strides out"
                    + (f", or pass at most {size}" if is_count(size) else f", and pass patches={{{dim!r}: 2}}"),
                )
            )
        starts = list(range(0, max(cells - size, 0) + 1, stride))
        if starts[-1] + size < cells:
            starts.append(starts[-1] + stride if stride == size else cells - size)
        along.append([slice(a, min(a + size, cells)) for a in starts])
    return list(itertools.product(*along))


def spread_over(parts: Sequence[Part], lost: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return what windows lose as cells: each loss in equal shares over its valid cells, and the mean where windows overlap.

    Parameters
    ----------
    parts
        Windows of ``[*space, channel]``.
    lost
        Their losses ``[part, sample]``.
    valid
        Valid cells ``[*space, channel]``.

    Returns
    -------
    numpy.ndarray
        ``[sample, *space, channel]``; without overlap the sum over cells is that over windows.
    """
    total = np.zeros((lost.shape[1], *valid.shape))
    cover = np.zeros(valid.shape)
    for part, loss in zip(parts, lost, strict=True):
        here = valid[part]
        total[(slice(None), *part)] += here * (loss / here.sum()).reshape(-1, *[1] * here.ndim)
        cover[part] += here
    return total / np.maximum(cover, 1)
