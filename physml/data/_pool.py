"""Rows of fields in memory, a group of units at a time: read by threads, the next group while the present one is served."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np

from physml.data._plan import Group, Samples, Units
from physml.data._sources import Source, slab

Located = tuple[np.ndarray, ...]


class Field:
    """A variable that varies from sample to sample, as rows ``[*members it has, time, *rest]``.

    Parameters
    ----------
    source
        Where it lies.
    sample_dim, members
        Names of the sample dimension and of the member dimensions, with their sizes.
    chosen
        Positions along other dimensions, where not all are needed: levels.
    dtype
        Type of the tensors; rows are kept in it, or in the type of the data where that is smaller.
    """

    def __init__(
        self,
        source: Source,
        sample_dim: str,
        members: Mapping[str, int],
        chosen: Mapping[str, np.ndarray],
        dtype: np.dtype,
    ) -> None:
        self.source, self.name, self.sample_dim = source, source.name, sample_dim
        self.all_members = tuple(members.values())
        self.has = tuple(i for i, m in enumerate(members) if m in source.dims)
        self.members = tuple(m for m in members if m in source.dims)
        self.chosen = {d: at for d, at in chosen.items() if d in source.dims}
        self.still = sample_dim not in source.dims
        self.lead = self.members if self.still else (*self.members, sample_dim)
        self.rest = tuple(d for d in source.dims if d not in self.lead)
        sizes = dict(zip(source.dims, source.shape, strict=True)) | {d: len(a) for d, a in self.chosen.items()}
        self.shape = tuple(sizes[d] for d in self.rest)
        self.n_times = sizes.get(sample_dim, 1)
        self.dtype = source.dtype if source.dtype.itemsize <= dtype.itemsize else dtype
        self.row_bytes = int(np.prod(self.shape, dtype=int)) * self.dtype.itemsize
        self.order = tuple((*self.lead, *self.rest).index(d) for d in source.dims)
        self.memory: np.ndarray | None = None
        if source.memory is not None:
            array = source.memory
            for d, at in self.chosen.items():
                array = np.take(array, at, axis=source.dims.index(d))
            self.memory = self.turned(array)

    def turned(self, array: np.ndarray) -> np.ndarray:
        """Return an array in the order of the source's dimensions as ``[*lead, *rest]``."""
        return np.transpose(array, [self.source.dims.index(d) for d in (*self.lead, *self.rest)])

    def values(self) -> np.ndarray:
        """Return all of it, read in this thread."""
        return self.turned(slab(self.source, self.chosen, self.dtype)) if self.memory is None else self.memory

    def own_member(self, member: np.ndarray) -> Located:
        """Return positions along the member dimensions it has, of flat positions along all."""
        if not self.has:
            return ()
        every = np.unravel_index(member, self.all_members)
        return tuple(every[i] for i in self.has)

    def key(self, member: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return one number for each row of its own."""
        own = self.own_member(member)
        flat = np.ravel_multi_index(own, [self.all_members[i] for i in self.has]) if own else np.zeros_like(member)
        return flat * self.n_times + time

    def unkey(self, key: int) -> tuple[tuple[int, ...], int]:
        """Return positions along its member dimensions, and the time, of a row."""
        flat, time = divmod(int(key), self.n_times)
        sizes = [self.all_members[i] for i in self.has]
        return tuple(int(i) for i in np.unravel_index(flat, sizes)) if sizes else (), time


@dataclass
class Rows:
    """Rows of one field in memory: ``array[row]``, found by their keys."""

    array: np.ndarray
    keys: np.ndarray
    place: np.ndarray


@dataclass
class Loaded:
    """The rows of a group."""

    rows: dict[str, Rows]
    fields: Mapping[str, Field]

    def locate(self, name: str, member: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, Located]:
        """Return an array and where in it the rows lie."""
        known = self.fields[name]
        if known.memory is not None:
            return known.memory, (*known.own_member(member), time)
        rows = self.rows[name]
        at = np.searchsorted(rows.keys, known.key(member, time))
        return rows.array, (rows.place[at],)


class _Crew:
    """Threads that read, and one that leads them, until they are dismissed."""

    def __init__(self, threads: int) -> None:
        self.gone = threading.Event()
        self.readers = ThreadPoolExecutor(threads, thread_name_prefix="physml-read")
        self.leader = ThreadPoolExecutor(1, thread_name_prefix="physml-lead")

    def dismiss(self) -> None:
        """Let the threads end; what they were to read is not read any more."""
        self.gone.set()
        self.leader.shutdown(wait=False, cancel_futures=True)
        # Cancelled, the leader would wait for them for ever; uncancelled they see that they are dismissed.
        self.readers.shutdown(wait=False)

    def read(self, tasks: Sequence[tuple[Any, np.ndarray]]) -> None:
        """Read pieces into memory.

        Raises
        ------
        Exception
            The first error of a reader; the others end before it is raised.
        """

        def one(piece: Any, source: Source, out: np.ndarray) -> None:
            if not self.gone.is_set():
                source.read(piece, out)

        if self.gone.is_set():
            raise RuntimeError("the batches were closed while they were read")
        futures = [self.readers.submit(one, piece, source, out) for (source, piece), out in tasks]
        done, rest = wait(futures, return_when="FIRST_EXCEPTION")
        failed = next((f for f in done if f.exception() is not None), None)
        if failed is not None:
            for f in rest:
                f.cancel()
            wait(rest)
            raise failed.exception()  # type: ignore[misc]
        if self.gone.is_set():
            raise RuntimeError("the batches were closed while they were read")


class Pool:
    """Groups of rows, read when asked for and one ahead.

    Parameters
    ----------
    fields
        By name.
    samples, units
        The samples, and how they are cut.
    threads
        Threads that read and decode.
    """

    def __init__(self, fields: Mapping[str, Field], samples: Samples, units: Units, threads: int) -> None:
        self.fields, self.samples, self.units, self.threads = dict(fields), samples, units, threads
        self.used = np.zeros(samples.n_times, bool)
        if len(samples):
            _, window = samples.split(samples.kept)
            self.used[samples.windows[np.unique(window)].reshape(-1)] = True
        self._groups: dict[tuple[int, int], Future[Loaded]] = {}
        self._claims: Counter[tuple[int, int]] = Counter()
        self._spare: dict[str, list[np.ndarray]] = {}
        self._kept: dict[str, dict[int, tuple[int, np.ndarray]]] = {}
        self._kept_epoch = -1
        self._lock = threading.RLock()
        self._crew: _Crew | None = None

    @contextlib.contextmanager
    def lease(self, epoch: int, g: int, groups: Sequence[Group]) -> Iterator[Loaded]:
        """Hold the rows of group *g* while they are used; the next group is read meanwhile."""
        only = len(groups) == 1
        key = (0 if only else epoch, g)
        following = None if g + 1 >= len(groups) else (key[0], g + 1)
        with self._lock:
            if self._crew is None:
                self._crew = _Crew(self.threads)
                weakref.finalize(self, self._crew.dismiss)
            future = self._ask(key, groups)
            self._claims[key] += 1
        try:
            try:
                loaded = future.result()
            except BaseException:
                with self._lock:
                    self._groups.pop(key, None)
                raise
            with self._lock:
                self._evict({key, following})
                if following is not None:
                    self._ask(following, groups)
            yield loaded
        finally:
            with self._lock:
                self._claims[key] -= 1

    def close(self) -> None:
        """Stop the threads and let go of the rows."""
        with self._lock:
            if self._crew is not None:
                self._crew.dismiss()
                self._crew = None
            self._groups.clear()
            self._spare.clear()

    # one group ------------------------------------------------------------------------------------------------------

    def _ask(self, key: tuple[int, int], groups: Sequence[Group]) -> Future[Loaded]:
        if key not in self._groups:
            assert self._crew is not None
            self._groups[key] = self._crew.leader.submit(self._load, self._crew, key, groups[key[1]])
        return self._groups[key]

    def _evict(self, needed: set[tuple[int, int] | None]) -> None:
        for key in [k for k in self._groups if k not in needed and not self._claims[k]]:
            future = self._groups[key]
            if future.cancel():
                del self._groups[key]
            elif future.done():
                del self._groups[key]
                if future.exception() is None:
                    for name, rows in future.result().rows.items():
                        self._spare.setdefault(name, []).append(rows.array)

    def _load(self, crew: _Crew, key: tuple[int, int], group: Group) -> Loaded:
        """Read the rows of one group, in the thread that leads."""
        epoch, g = key
        if epoch != self._kept_epoch:
            self._kept, self._kept_epoch = {}, epoch
        member, window = self.samples.split(group.samples)
        times = self.samples.windows[window]
        loaded, tasks = Loaded({}, self.fields), []
        for known in self.fields.values():
            if known.memory is None:
                tasks += self._prepare(known, group, member, times, loaded)
        crew.read(tasks)
        self._keep_edges(g, group, loaded)
        return loaded

    def _prepare(
        self, known: Field, group: Group, member: np.ndarray, times: np.ndarray, loaded: Loaded
    ) -> list[tuple[Any, np.ndarray]]:
        """Give a field its memory and return the pieces to read into it."""
        blocks = self._blocks(known, group)
        keys = [_keys(known, own, at) for own, at in blocks]
        inside = np.concatenate(keys) if keys else np.empty(0, int)
        needed = np.unique(np.concatenate([known.key(member, times[:, k]) for k in range(times.shape[1])]))
        outside = needed[~np.isin(needed, inside)]
        every = np.concatenate([inside, outside])
        array = self._memory(known, len(every))
        order = np.argsort(every, kind="stable")
        loaded.rows[known.name] = Rows(array, every[order], order)
        tasks: list[tuple[Any, np.ndarray]] = []
        start = 0
        for (own, at), own_keys in zip(blocks, keys, strict=True):
            tasks += _pieces(known, own, at, array[start : start + len(own_keys)])
            start += len(own_keys)
        kept, missing = self._kept.get(known.name, {}), []
        for i, key in enumerate(outside.tolist(), start):
            if key in kept:
                array[i] = kept[key][1]
            else:
                missing.append((i, key))
        for first, count in _runs(missing, known.n_times):
            own_at, time = known.unkey(missing[first][1])
            spans = tuple(range(m, m + 1) for m in own_at)
            row = missing[first][0]
            tasks += _pieces(known, spans, np.arange(time, time + count), array[row : row + count])
        return tasks

    def _blocks(self, known: Field, group: Group) -> list[tuple[tuple[range, ...], np.ndarray]]:
        """Return the members and times of the units of a group, each once for a field that lacks some members."""
        blocks: dict[Any, tuple[tuple[range, ...], np.ndarray]] = {}
        for unit in group.units.tolist():
            spans, along = self.units.ranges(unit)
            own = tuple(spans[i] for i in known.has)
            at = np.arange(along.start, along.stop)
            blocks[(*own, along)] = (own, at[self.used[at]])
        return list(blocks.values())

    def reads(self, group: Group) -> tuple[int, int]:
        """Return the bytes that are decoded for a group, and those of the rows that come from its own units."""
        decoded = wanted = 0
        for known in self.fields.values():
            if known.memory is None:
                for own, at in self._blocks(known, group):
                    n = int(np.prod([len(r) for r in own], dtype=int)) * len(at)
                    rows = np.broadcast_to(np.zeros((), known.dtype), (n, *known.shape))
                    decoded += sum(piece.nbytes for (_, piece), _ in _pieces(known, own, at, rows))
                    raw = known.source.stored_itemsize
                    wanted += n * known.row_bytes // known.dtype.itemsize * raw
        return decoded, wanted

    def _memory(self, known: Field, n: int) -> np.ndarray:
        with self._lock:
            for i, spare in enumerate(self._spare.get(known.name, [])):
                base = spare if spare.base is None else spare.base
                if len(base) >= n:  # memory that was used before needs no new pages
                    del self._spare[known.name][i]
                    return base[:n]
            self._spare.pop(known.name, None)
        return np.empty((n, *known.shape), known.dtype)

    def _keep_edges(self, g: int, group: Group, loaded: Loaded) -> None:
        """Keep the rows that later groups need, and let go of those that no later group does."""
        for name, known in self.fields.items():
            if known.memory is not None:
                continue
            kept = {k: v for k, v in self._kept.get(name, {}).items() if v[0] > g}
            if len(group.keep_until):
                rows = group.keep_until[:, 0]
                member, time = rows // self.samples.n_times, rows % self.samples.n_times
                array, (at,) = loaded.locate(name, member, time)
                for key, until, i in zip(
                    known.key(member, time).tolist(), group.keep_until[:, 1].tolist(), at.tolist(), strict=True
                ):
                    if key not in kept:
                        kept[key] = (until, array[i].copy())
                    elif kept[key][0] < until:
                        kept[key] = (until, kept[key][1])
            self._kept[name] = kept


def _keys(known: Field, own: tuple[range, ...], at: np.ndarray) -> np.ndarray:
    """Return the keys of a block of rows, times fastest."""
    if not own:
        return at
    sizes = [known.all_members[i] for i in known.has]
    grid = np.meshgrid(*(np.arange(r.start, r.stop) for r in own), indexing="ij")
    flat = np.ravel_multi_index(tuple(x.reshape(-1) for x in grid), sizes)
    return (flat[:, None] * known.n_times + at).reshape(-1)


def _pieces(known: Field, own: tuple[range, ...], at: np.ndarray, rows: np.ndarray) -> list[tuple[Any, np.ndarray]]:
    """Return what has to be read for a block of rows, each with the view it goes into."""
    if not at.size:
        return []
    wanted = {m: np.arange(r.start, r.stop) for m, r in zip(known.members, own, strict=True)}
    wanted |= {known.sample_dim: at, **known.chosen}
    block = rows.reshape(*(len(r) for r in own), len(at), *known.shape)
    out = np.transpose(block, known.order)
    return [((known.source, piece), out) for piece in known.source.pieces(wanted)]


def _runs(missing: Sequence[tuple[int, int]], n_times: int) -> Iterator[tuple[int, int]]:
    """Yield first and length of the stretches in which rows and times of one member follow each other."""
    first = 0
    for i in range(1, len(missing) + 1):
        apart = i == len(missing) or missing[i][0] != missing[i - 1][0] + 1 or missing[i][1] != missing[i - 1][1] + 1
        if apart or missing[i][1] % n_times == 0:
            yield first, i - first
            first = i
