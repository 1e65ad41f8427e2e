"""From the values of coalitions, as they come, to estimates with standard errors."""

from __future__ import annotations

import numpy as np

from physml.explain.shapley.designs import Design, Gathering


class Accumulator:
    """Replicates of a design, closed one after the other as the values of its rows come in any portions.

    Parameters
    ----------
    design
        The plan.
    full
        Value of all groups together ``[out]``.
    empty
        Values of the baseline rows ``[slot, out]``.
    into
        Takes the replicates.
    """

    def __init__(self, design: Design, full: np.ndarray, empty: np.ndarray, into: Gathering) -> None:
        self.design, self.full, self.empty, self.into = design, full, empty, into
        self._partial = np.zeros((design.weights.shape[1], full.size))
        self._row = 0
        if not design.size:
            self._close(np.zeros((design.replicates, *self._partial.shape)), 0)

    def add(self, values: np.ndarray) -> None:
        """Take the values of the next rows of the design, ``[row, out]``."""
        size = self.design.size
        while len(values):
            first, inside = divmod(self._row, size)
            whole = 0 if inside else len(values) // size
            take = whole * size or min(size - inside, len(values))
            weights = self.design.weights[self._row : self._row + take].astype("float64", copy=False)
            self._row += take
            if whole:
                shaped = values[:take].reshape(whole, size, -1)
                self._close(weights.reshape(whole, size, -1).transpose(0, 2, 1) @ shaped, first)
            else:
                self._partial += weights.T @ values[:take]
                if inside + take == size:
                    self._close(self._partial[None], first)
                    self._partial[:] = 0
            values = values[take:]

    def _close(self, found: np.ndarray, first: int) -> None:
        design, chosen = self.design, slice(first, first + len(found))
        found = found * design.scale + design.full[chosen, :, None] * self.full
        # Many replicates use few baseline rows: their values are not repeated.
        if design.empty[chosen].any():
            found += design.empty[chosen, :, None] * self.empty[design.slots[chosen]].mean(1)[:, None]
        self.into.add(found, design, first)

    @property
    def complete(self) -> bool:
        """Whether all rows of the design have come."""
        return self._row == len(self.design.coalitions)


class Means:
    """The mean of the replicates and its standard error.

    Where several baseline rows are dealt evenly, the differences between them are no error of the mean over them: the spread
    is that among the replicates of each row, as soon as each has two; until then it is that of all, which is too wide.

    Parameters
    ----------
    n_slots
        Number of baseline rows.
    shape
        Of one replicate: ``(k, out)``.
    """

    def __init__(self, n_slots: int, shape: tuple[int, int]) -> None:
        self.count = np.zeros(n_slots, int)
        self.mean, self.squares = np.zeros((2, n_slots, *shape))

    def add(self, found: np.ndarray, design: Design, first: int) -> None:
        """Take replicates; see :class:`physml.explain.designs.Gathering`."""
        slots = design.slots[first : first + len(found), 0]
        if design.slots.shape[1] > 1:  # one replicate with all rows
            slots = np.zeros_like(slots)
        for slot in np.unique(slots):
            these = found[slots == slot]
            mean, n = these.mean(0), len(these)
            self.squares[slot] += ((these - mean) ** 2).sum(0)
            gap, before = mean - self.mean[slot], self.count[slot]
            self.count[slot] += n
            self.mean[slot] += gap * n / self.count[slot]
            self.squares[slot] += gap**2 * before * n / self.count[slot]

    def result(self, full: np.ndarray, empty: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Return mean and standard error ``[k, out]`` and degrees of freedom; 0 for one replicate, which has no error."""
        held = self.count > 0
        count, means = self.count[held][:, None, None], self.mean[held]
        n = int(count.sum())
        share = count / n
        mean = (share * means).sum(0)
        if n == 1:
            return mean, np.zeros_like(mean), 0
        if (count > 1).all():
            dof = n - len(count)
            return mean, np.sqrt(self.squares[held].sum(0) / dof / n), dof
        squares = self.squares[held].sum(0) + (count * (means - mean) ** 2).sum(0)
        return mean, np.sqrt(squares / (n - 1) / n), n - 1
