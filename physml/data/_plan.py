"""In what order samples are read: stored chunks as units, groups of units in memory, samples shuffled inside a group.

Everything here is arithmetic on positions: nothing is read, and the order of an epoch is a function of seed and epoch alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Samples:
    """The samples of an epoch, before they are put in order.

    Attributes
    ----------
    members
        Sizes of the member dimensions.
    n_times
        Length of the sample dimension.
    windows
        Positions along the sample dimension, ``[window, offset]``, for every whole window.
    offsets
        The offsets, in the order of the columns.
    kept
        Numbers of the samples that are used; a number counts windows fastest, then members, last dimension first.
    """

    members: tuple[int, ...]
    n_times: int
    windows: np.ndarray
    offsets: tuple[int, ...]
    kept: np.ndarray

    @classmethod
    def all(cls, members: tuple[int, ...], n_times: int, windows: np.ndarray, offsets: tuple[int, ...]) -> Samples:
        """Return every whole window of every member."""
        n = int(np.prod(members, dtype=int)) * len(windows)
        return cls(members, n_times, windows, offsets, np.arange(n))

    def __len__(self) -> int:
        return len(self.kept)

    def split(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return member (flat) and window of samples."""
        return numbers // max(len(self.windows), 1), numbers % max(len(self.windows), 1)

    def shard(self, rank: int, world: int) -> Samples:
        """Return an equal share of the samples that follow each other; all shares together are the whole, once."""
        n = len(self.kept)
        part = self.kept[n * rank // world : n * (rank + 1) // world]
        return Samples(self.members, self.n_times, self.windows, self.offsets, part)


@dataclass(frozen=True)
class Units:
    """The grid of members and times cut into what is read at once.

    Attributes
    ----------
    member_bounds, time_bounds
        First positions of the cuts along every member dimension and along the sample dimension, and the sizes at the end.
    """

    member_bounds: tuple[np.ndarray, ...]
    time_bounds: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of units along every dimension."""
        return (*(len(b) - 1 for b in self.member_bounds), len(self.time_bounds) - 1)

    @property
    def count(self) -> int:
        """Number of units."""
        return int(np.prod(self.shape, dtype=int))

    def of(self, members: tuple[int, ...], member: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the unit that holds each (flat member, time)."""
        at = []
        if members:
            for bounds, i in zip(self.member_bounds, np.unravel_index(member, members), strict=True):
                at.append(np.searchsorted(bounds, i, side="right") - 1)
        at.append(np.searchsorted(self.time_bounds, time, side="right") - 1)
        return np.ravel_multi_index(tuple(at), self.shape)

    def ranges(self, unit: int) -> tuple[tuple[range, ...], range]:
        """Return the members along every dimension, and the times, of a unit."""
        *m, t = (int(i) for i in np.unravel_index(unit, self.shape))
        spans = tuple(range(int(b[i]), int(b[i + 1])) for b, i in zip(self.member_bounds, m, strict=True))
        return spans, range(int(self.time_bounds[t]), int(self.time_bounds[t + 1]))


def merged(bounds: np.ndarray, at_least: int, at_most: int) -> np.ndarray:
    """Return bounds with short pieces joined up to *at_least* and long ones cut to *at_most* [steps].

    Examples
    --------
    >>> merged(np.array([0, 1, 2, 3, 4, 5, 20]), 2, 8).tolist()
    [0, 2, 4, 12, 20]
    """
    out, size = [int(bounds[0])], int(bounds[-1])
    for cut in bounds[1:].tolist():
        while cut - out[-1] > at_most:
            pieces = -(-(cut - out[-1]) // at_most)
            out.append(out[-1] + (cut - out[-1]) // pieces)
        if cut - out[-1] >= at_least and cut != size:
            out.append(cut)
    if out[-1] != size:
        out.append(size)
    return np.array(out)


@dataclass(frozen=True)
class Group:
    """Samples served from memory together.

    Attributes
    ----------
    units
        Units whose rows are read for it.
    samples
        Numbers of its samples, in the order they are served; each as often as it is served.
    items
        Number of each item within the epoch, which tells the patches of a sample apart.
    keep_until
        ``[row, until]``: rows (see :meth:`Plan.row`) of its units that later groups need, and the last group that does.
    """

    units: np.ndarray
    samples: np.ndarray
    items: np.ndarray
    keep_until: np.ndarray


@dataclass(frozen=True)
class Plan:
    """The order of one epoch.

    Attributes
    ----------
    groups
        In the order they are read.
    starts
        Number of the first item of every group within the epoch, and the number of all items at the end.
    """

    groups: tuple[Group, ...]
    starts: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Items in the order they are served."""
        return np.concatenate([g.items for g in self.groups]) if self.groups else np.arange(0)


def plan(
    samples: Samples,
    units: Units,
    per_group: int,
    *,
    shuffle: bool,
    seed: int,
    epoch: int,
    keep: bool,
    repeat: int = 1,
) -> Plan:
    """Return the order of an epoch.

    Parameters
    ----------
    samples, units
        What is served, and what is read at once.
    per_group
        Units held in memory together.
    shuffle, seed, epoch
        With *shuffle* the order of units, and of samples inside a group, is drawn from seed and epoch.
    keep
        Rows at the edge of a unit wait in memory for the window's other unit; otherwise they are read again.
    repeat
        Items for every sample: patches.
    """
    rng = np.random.default_rng([seed, epoch])
    member, window = samples.split(samples.kept)
    times = samples.windows[window]
    touched = np.stack([units.of(samples.members, member, times[:, k]) for k in range(times.shape[1])], axis=1)
    used = np.unique(touched)
    n_groups = -(-len(used) // per_group)
    if n_groups == 1:
        numbers = np.arange(len(samples) * repeat)
        items = rng.permutation(len(numbers)) if shuffle else numbers
        group = Group(used, samples.kept[items // repeat], items, np.empty((0, 2), int))
        return Plan((group,), np.array([0, len(items)]))
    drawn = rng.permutation(len(used)) if shuffle else np.arange(len(used))
    group_of = np.empty(units.count, int)
    group_of[used[drawn]] = np.arange(len(used)) // per_group
    by_row = group_of[touched]
    home = by_row.max(1) if keep else by_row[:, int(np.argmin(np.abs(samples.offsets)))]
    by_group = np.argsort(home, kind="stable")
    ends = np.searchsorted(home[by_group], np.arange(n_groups + 1))
    waiting = _waiting(samples, member, times, by_row, home) if keep else np.empty((0, 3), int)
    groups, starts = [], [0]
    for g in range(n_groups):
        mine = by_group[ends[g] : ends[g + 1]]
        items = (mine[:, None] * repeat + np.arange(repeat)).reshape(-1)
        if shuffle:
            items = items[rng.permutation(len(items))]
        needed = np.sort(used[drawn[g * per_group : (g + 1) * per_group]])
        groups.append(Group(needed, samples.kept[items // repeat], items, waiting[waiting[:, 0] == g, 1:]))
        starts.append(starts[-1] + len(items))
    return Plan(tuple(groups), np.array(starts))


def _waiting(
    samples: Samples, member: np.ndarray, times: np.ndarray, by_row: np.ndarray, home: np.ndarray
) -> np.ndarray:
    """Return ``[group, row, last group that needs it]`` for rows that are read before their sample is served."""
    early = by_row < home[:, None]
    rows = member[:, None] * samples.n_times + times
    found = np.stack([by_row[early], rows[early], np.broadcast_to(home[:, None], early.shape)[early]], axis=1)
    if not len(found):
        return found
    order = np.lexsort((found[:, 2], found[:, 1]))
    found = found[order]
    last = np.append(found[1:, 1] != found[:-1, 1], True)
    return found[last]
