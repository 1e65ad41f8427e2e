"""What a step of the optimizer sees: batches, single samples, or the whole training set."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from physml.data.batches import Batches


class WholeSet(Batches):
    """A training set in parts of equal size, whose mean gradient is the gradient of the whole set.

    The last part is filled up with samples of weight 0, and the weights of all others are raised by as much, so that the mean
    over the parts of their mean losses is the mean loss of the set. Made by :func:`whole_set`.
    """

    def __len__(self) -> int:
        return math.ceil(self.n_samples / self.batch_size)

    def batch(self, epoch: int, index: int) -> Any:
        """Return one part; every one has *batch_size* samples."""
        x, y, w = super().batch(epoch, index)
        lacking = self.batch_size - len(x)
        if lacking:
            x, y, w = (np.concatenate([t, np.repeat(t[-1:], lacking, axis=0)]) for t in (x, y, w))
            w[-lacking:] = 0
        return x, y, w * np.asarray(len(self) * self.batch_size / self.n_samples, w.dtype)


def whole_set(batches: Batches) -> WholeSet:
    """Return the same samples in as few equal parts as hold at most *batch_size* samples each."""
    parts = math.ceil(batches.n_samples / batches.batch_size)
    return _again(batches, WholeSet, math.ceil(batches.n_samples / parts), shuffle=False)


def single(batches: Batches) -> Batches:
    """Return the same samples one by one."""
    return batches if batches.batch_size == 1 else _again(batches, type(batches), 1, shuffle=batches.shuffle)


def _again(batches: Batches, kind: type, batch_size: int, *, shuffle: bool) -> Any:
    made = copy.copy(batches)
    made.__class__ = kind
    made.batch_size, made.shuffle, made.drop_remainder = batch_size, shuffle, False
    return made
