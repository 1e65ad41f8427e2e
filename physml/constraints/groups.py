"""Groups: which cells of a field share one sum: whole dimensions, blocks of cells, or basins given by labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops


@dataclass(frozen=True, eq=False)
class Groups:
    """How the cells ``[batch, *space, level]`` of a field fall into the groups of a law.

    Attributes
    ----------
    shape
        Sizes of the space dimensions.
    axes
        Space axes (0 for the first) that are summed whole.
    levels
        Whether levels are summed too.
    blocks
        Space axes that are summed in blocks, with the cells of a block.
    labels
        ``[*space]`` integers from 0: the group of every cell, -1 for none; then all space axes are summed, group by group.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()
    levels: bool = False
    blocks: Mapping[int, int] = field(default_factory=dict)
    labels: np.ndarray | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Groups) or (self.labels is None) != (other.labels is None):
            return False
        same = self.shape == other.shape and self.axes == other.axes and self.levels == other.levels
        alike = self.labels is None or np.array_equal(self.labels, other.labels)  # type: ignore[arg-type]
        return same and dict(self.blocks) == dict(other.blocks) and alike

    def __hash__(self) -> int:
        return hash((self.shape, self.axes, self.levels, tuple(sorted(self.blocks.items()))))

    @property
    def count(self) -> int:
        """Number of labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def sizes(self, depth: int) -> tuple[int, ...]:
        """Return the shape of the sums without batch, for a law of so many levels."""
        if self.labels is not None:
            space = (self.count, *(1 for _ in self.shape[1:]))
        else:
            space = tuple(1 if a in self.axes else n // self.blocks.get(a, 1) for a, n in enumerate(self.shape))
        return (*space, 1 if self.levels else depth)

    def sum(self, x: Any) -> Any:
        """Return the sums ``[batch, *group, level]`` of ``x [batch, *space, level]``, summed dimensions of length 1."""
        return self._reduced(x, ops.sum, ops.segment_sum)

    def max(self, x: Any) -> Any:
        """Return the greatest values, in the shape of :meth:`sum`."""
        return self._reduced(x, ops.max, ops.segment_max)

    def _reduced(self, x: Any, reduce: Any, by_segment: Any) -> Any:
        n = len(self.shape)
        if self.labels is not None:
            x = reduce(x, axis=-1, keepdims=True) if self.levels else x
            flat = ops.reshape(x, (-1, int(np.prod(self.shape)), x.shape[-1]))
            rows = ops.transpose(flat, (1, 0, 2))
            known = np.where(self.labels.ravel() < 0, self.count, self.labels.ravel())
            sums = by_segment(rows, known.astype("int32"), num_segments=self.count + 1)[: self.count]
            return ops.reshape(
                ops.transpose(sums, (1, 0, 2)), (-1, self.count, *(1 for _ in range(n - 1)), x.shape[-1])
            )
        depth = x.shape[-1]
        if self.blocks:
            parts: list[int] = []
            folded = []
            for axis, size in enumerate(self.shape):
                if axis in self.blocks:
                    folded.append(1 + len(parts) + 1)
                    parts += [size // self.blocks[axis], self.blocks[axis]]
                else:
                    parts.append(size)
            x = reduce(ops.reshape(x, (-1, *parts, depth)), axis=tuple(folded))
        summed = [1 + a for a in self.axes] + ([1 + n] if self.levels else [])
        return reduce(x, axis=tuple(summed), keepdims=True) if summed else x

    def spread(self, sums: Any) -> Any:
        """Return a tensor that broadcasts to ``[batch, *space, level]`` and holds at every cell the number of its group."""
        if self.labels is not None:
            depth = sums.shape[-1]
            rows = ops.reshape(sums, (-1, self.count, depth))
            rows = ops.concatenate([rows, ops.zeros_like(rows[:, :1])], axis=1)
            known = np.where(self.labels.ravel() < 0, self.count, self.labels.ravel()).astype("int32")
            return ops.reshape(ops.take(rows, known, axis=1), (-1, *self.shape, depth))
        for axis, size in self.blocks.items():
            sums = ops.repeat(sums, size, axis=1 + axis)
        return sums

    def total(self, x: np.ndarray) -> np.ndarray:
        """Return :meth:`sum` of one field ``[*space, level]``, in NumPy."""
        n = len(self.shape)
        if self.labels is not None:
            x = x.sum(-1, keepdims=True) if self.levels else x
            out = np.zeros((self.count, x.shape[-1]))
            known = self.labels.ravel() >= 0
            np.add.at(out, self.labels.ravel()[known], x.reshape(-1, x.shape[-1])[known])
            return out.reshape(self.count, *(1 for _ in range(n - 1)), x.shape[-1])
        for axis, size in self.blocks.items():
            x = np.add.reduceat(x, np.arange(0, x.shape[axis], size), axis=axis)
        summed = [*self.axes, *([n] if self.levels else [])]
        return x.sum(axis=tuple(summed), keepdims=True) if summed else x

    def share(self, sums: np.ndarray) -> np.ndarray:
        """Return :meth:`spread` of the sums of one field, in NumPy."""
        if self.labels is not None:
            rows = np.concatenate([sums.reshape(self.count, -1), np.zeros((1, sums.shape[-1]))])
            return rows[self.labels.ravel()].reshape(*self.shape, -1)
        for axis, size in self.blocks.items():
            sums = np.repeat(sums, size, axis=axis)
        return sums
