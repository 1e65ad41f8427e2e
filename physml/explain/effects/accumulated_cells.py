"""Local effects of models that work cell by cell: every cell of every sample is a case of its own, with the value it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from physml._errors import refuse

if TYPE_CHECKING:
    from physml.explain.effects.varied import Case

TOLERANCE = 1e-4
"""Difference, of the greatest response, at which a model is taken to look beyond the cell."""


class Cells:
    """The cells of a :class:`Case` as cases of their own.

    Parameters
    ----------
    case
        Its target is a field; what is varied is one channel, or two.

    Raises
    ------
    ValueError
        For another target, or several channels at once.
    """

    def __init__(self, case: Case) -> None:
        self.case, layout, measure = case, case.layout, case.measure
        if not layout.space or measure.dims != layout.space:
            refuse(
                "by='cell' needs a field",
                f"a target on {layout.space}",
                f"{measure.label!r} on {measure.dims}",
                "by='sample'",
            )
        self.own = []
        for c in case.chosen:
            if (channels := int(c.mask.any(tuple(range(c.mask.ndim - 1))).sum())) != 1:
                refuse(
                    f"{c.name!r} holds several channels", "one value in each cell", channels, "name one, as 'sst -1'"
                )
            self.own.append(c.mask.any(-1))
        self.shared = np.all([measure.valid, *self.own], axis=0)
        self._among = self.shared[measure.valid]
        if not self.shared.any():
            refuse("no cell has both inputs and target", "one or more", 0, "choose inputs on the cells of the target")
        area = np.ones(layout.shape) if layout.spec.area is None else layout.static(layout.spec.area)[..., 0]
        self.weights = area[self.shared] / area[self.shared].mean()

    def values(self) -> np.ndarray:
        """Return what the cells hold, ``[chosen, sample, cell]``."""
        found: list[list[np.ndarray]] = [[] for _ in self.case.chosen]
        for numbers in self.case.rows.blocks():
            rows = self.case.rows.take(numbers)
            for part, c, own in zip(found, self.case.chosen, self.own, strict=True):
                part.append(rows[:, c.mask][:, self.shared[own]].astype("float64"))
        return np.stack([np.concatenate(part) for part in found])

    def differences(self, edges: Sequence[np.ndarray], where: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the sums of the differences across each bin, of second order for two channels, ``[1 + resample, bin, 1]``.

        Raises
        ------
        ValueError
            Where the model looks at other cells too.
        """
        case, (number, _, inside) = self.case, where
        shape = tuple(e.size - 1 for e in edges)
        sums = np.zeros((len(case.counts), int(np.prod(shape)), 1))
        corners = [(0,), (1,)] if len(edges) == 1 else [(0, 0), (0, 1), (1, 0), (1, 1)]
        for numbers, rows in case.blocks(2 * len(corners)):
            k, here = number[:, numbers], inside[numbers]
            moved = [self._moved(rows, edges, k, corner, here) for corner in corners]
            answers = self._answers(np.concatenate(moved)).reshape(len(corners), len(rows), -1)
            if not numbers[0]:
                self._check(rows[:8], edges, k[:, :8], here[:8], answers[[0, -1], :8], corners[-1])
            change = answers[1] - answers[0]
            if len(corners) == 4:
                change = (answers[3] - answers[2]) - change
            sums[..., 0] += case.counts[:, numbers].astype("float64") @ self._in_bins(change * here, k, shape)
        return sums

    def sums(self, where: tuple[np.ndarray, np.ndarray, np.ndarray], shape: tuple[int, ...]) -> list[np.ndarray]:
        """Return the weight of each bin, and the weighted sums of places in it, ``[1 + resample, bin]``."""
        number, place, inside = where
        counts = self.case.counts.astype("float64")
        terms = [np.ones(inside.shape), *place] + ([place[0] * place[1]] if len(shape) == 2 else [])
        return [counts @ self._in_bins(term * inside, number, shape) for term in terms]

    def alone(self) -> None:
        """Let the case describe results that are one number for all cells."""
        self.case.measure = replace(self.case.measure, dims=(), valid=np.array(True), coords={})

    def _in_bins(self, values: np.ndarray, number: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return the sums over the cells of each sample, weighted by area, ``[sample, bin]``."""
        bins, n = np.ravel_multi_index(tuple(number), shape), int(np.prod(shape))
        place = bins + n * np.arange(len(values))[:, None]
        return np.bincount(place.ravel(), (values * self.weights).ravel(), n * len(values)).reshape(len(values), n)

    def _moved(
        self, rows: np.ndarray, edges: Sequence[np.ndarray], number: np.ndarray, corner: Sequence[int], here: np.ndarray
    ) -> np.ndarray:
        out = rows.copy()
        for c, own, e, k, up in zip(self.case.chosen, self.own, edges, number, corner, strict=True):
            held = out[:, c.mask]
            kept = held[:, self.shared[own]]
            held[:, self.shared[own]] = np.where(here, e[k + up], kept)
            out[:, c.mask] = held
        return out

    def _answers(self, rows: np.ndarray) -> np.ndarray:
        """Return the target of the cells, ``[row, cell]``."""
        return self.case.answers(rows)[:, self._among]

    def _check(
        self,
        rows: np.ndarray,
        edges: Sequence[np.ndarray],
        number: np.ndarray,
        here: np.ndarray,
        ends: np.ndarray,
        corner: Sequence[int],
    ) -> None:
        """Move half of the cells alone: they must answer as when all are moved."""
        half = np.arange(here.shape[1]) % 2 == 0
        low = self._moved(rows, edges, number, [0] * len(corner), here)
        some = self._moved(low, edges, number, corner, here & half)
        off = abs(self._answers(some) - np.where(half & here, ends[1], ends[0])).max()
        if off > TOLERANCE * max(abs(ends[1] - ends[0]).max(), 1e-6 * abs(ends).max()):
            refuse(
                "the model looks at other cells too",
                "by='cell' for models whose output in a cell depends on its own inputs",
                f"a response of {off:g} to other cells",
                "pass by='sample': cells are then moved together",
            )
