"""The loader: labelled fields as batches of tensors, as fast as the store can be read; it needs no network library."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from physml import _packing, calendar
from physml._errors import describe
from physml.data._assemble import ROLES, Assembler
from physml.data._cutting import Cutting
from physml.data._plan import Plan, Samples, Units, plan
from physml.data._pool import Field, Pool
from physml.data._sources import Source
from physml.data._survey import complete, count_missing, valid_cells
from physml.data.patches import Patches
from physml.fields import FieldSpec
from physml.layout import Layout
from physml.timeaxis import windows

Tensors = tuple[np.ndarray, np.ndarray, np.ndarray]
MEMORY = "512MB"


class Loader:
    """Batches of inputs, targets and weights in physical units, as NumPy arrays.

    :class:`physml.Batches` is the same for ``model.fit``.

    Data on disk are read in the chunks they are stored in, by threads, a group of chunks at a time while the group before is
    served. A batch is a function of the data, the seed, the epoch and its number alone, whatever the number of threads; nothing
    is read before the first one is asked for. Masked cells hold 0 in the tensors and have weight 0, so they reach neither the
    network nor the loss.

    Parameters
    ----------
    ds
        Data with all inputs and targets, in memory or lazy. Steps may be missing along the sample dimension: no window reaches
        over a gap.
    spec
        What to read; a :class:`physml.FieldSpec` or its layout.
    batch_size
        Samples in a batch; the last batch may hold fewer.
    shuffle
        Draw samples in a new order every epoch: chunks in random order, and the samples of a group of chunks at random. The
        group is as large as *memory* allows; a whole data set that fits is shuffled as a whole. ``FieldModel.fit`` keeps the
        order; to another Keras model say ``fit(batches, shuffle=False)``.
    seed
        Seed of that order.
    drop_remainder
        Leave out the last batch when it is not full.
    dtype
        Type of the tensors.
    memory
        Bound on the rows held in memory, as ``"512MB"`` or bytes. More of it mixes more chunks when shuffling.
    threads
        Threads that read and decode; by default as many as there are cores, at most 4.
    shard
        ``(rank, world)``: serve one of *world* equal shares of the samples. All together are the whole, once.
    patches
        Serve parts of the maps, see :class:`physml.data.Patches`.
    missing
        What to do with values missing on valid cells: ``"raise"``; ``"drop"`` samples that lack any (needs a pass over the data,
        made when it is first needed); ``"mask"`` them: inputs hold *fill*, targets carry no weight.
    min_valid
        With ``missing="mask"``: leave out samples with less than this part (0 to 1) of their valid cells.
    fill
        What masked inputs hold: 0, or NaN for models that look for it.
    progress
        Show the passes over the data that come before training.

    Raises
    ------
    ValueError
        For an empty selection; while iterating, for values missing on valid cells.
    OSError
        While iterating, for chunks that cannot be read.

    Examples
    --------
    >>> ds = xr.Dataset({"x": (("time", "i"), np.arange(12.0).reshape(4, 3))}, {"time": np.arange(4)})
    >>> batches = Loader(ds, FieldSpec("x", "x", target_offsets=1), batch_size=2)
    >>> [x.shape for x, y, w in batches]
    [(2, 3, 1), (1, 3, 1)]
    """

    def __init__(
        self,
        ds: xr.Dataset,
        spec: FieldSpec | Layout,
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_remainder: bool = False,
        dtype: str = "float32",
        memory: str | int = MEMORY,
        threads: int | None = None,
        shard: tuple[int, int] = (0, 1),
        patches: Patches | None = None,
        missing: str = "raise",
        min_valid: float | None = None,
        fill: float = 0.0,
        progress: bool = False,
    ) -> None:
        self.batch_size, self.shuffle, self.seed, self.drop_remainder = batch_size, shuffle, seed, drop_remainder
        self.memory, self.threads = _bytes(memory), threads or min(4, os.cpu_count() or 1)
        self.dtype, self.fill, self.progress = dtype, fill, progress
        self.missing, self.min_valid, self.shard, self.patches = missing, min_valid, tuple(shard), patches
        self._check_arguments()
        names = spec.spec if isinstance(spec, Layout) else spec
        self.ds = ds = calendar.complete(ds, names.inputs, names.sample_dim)
        self.layout = spec if isinstance(spec, Layout) else spec.bind(ds)
        self.epoch = 0
        for role in ROLES:
            self.layout.check(ds, role, whole_window=True, gaps=True)
        self._lock = threading.RLock()
        self._samples = self._all_samples()
        self._surveyed = missing == "raise" or (missing == "mask" and not min_valid)
        self._refuse_empty(self._samples)
        self._origins = self._patch_origins()
        self._plans: dict[int, Plan] = {}
        self._draws: dict[int, np.ndarray] = {}
        self._fields: dict[str, Field] | None = None
        self._still: dict[str, tuple[np.ndarray, Field]] = {}
        self._pool: Pool | None = None
        self._assembler: Assembler | None = None

    # what there is ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        whole, rest = divmod(self.n_samples, self.batch_size)
        return whole + (rest > 0 and not self.drop_remainder)

    @property
    def n_samples(self) -> int:
        """Samples in an epoch; with patches, patches."""
        return len(self.samples) * self._repeat

    @property
    def samples(self) -> Samples:
        """The samples of this share, those left out by rule not among them."""
        with self._lock:
            if not self._surveyed:
                self._samples = self._survey()
                self._surveyed = True
                self._refuse_empty(self._samples)
            return self._samples

    @property
    def units(self) -> Units:
        """How the data are cut into what is read at once."""
        return self._reading().units

    def plan(self, epoch: int | None = None) -> Plan:
        """Return the order of an epoch (the present one by default)."""
        epoch = self.epoch if epoch is None else epoch
        key = epoch if self.shuffle else 0
        with self._lock:
            if key not in self._plans:
                cut = self._cut()
                while len(self._plans) > 1:
                    del self._plans[next(iter(self._plans))]
                self._plans[key] = plan(
                    self.samples,
                    cut.units,
                    cut.per_group,
                    shuffle=self.shuffle,
                    seed=self.seed,
                    epoch=key,
                    keep=cut.keep,
                    repeat=self._repeat,
                )
            return self._plans[key]

    def order(self, epoch: int | None = None) -> np.ndarray:
        """Return the order of the samples in an epoch (the present one by default)."""
        return self.plan(epoch).order

    def labels(self, index: int) -> xr.Dataset:
        """Return where the items of batch *index* come from: sample label, members, and the coordinates of patches.

        Returns
        -------
        xarray.Dataset
            On ``item``; a patch has the labels of its cells as ``[item, dimension]`` for every dimension that is cut.
        """
        items, numbers = self._items(index)
        member, window = self.samples.split(numbers)
        layout, dim = self.layout, self.layout.spec.sample_dim
        time = self._times(window)
        out: dict[str, Any] = {dim: ("item", self.ds[dim].values[time] if dim in self.ds.coords else time)}
        members = self._members()
        for m, at in zip(members, np.unravel_index(member, tuple(members.values())) if members else (), strict=True):
            out[m] = ("item", self.ds[m].values[at] if m in self.ds.coords else at)
        if self._origins is not None and self.patches is not None:
            size = self.patches.shape(layout.space, layout.shape)
            origins = self._origin_of(items, numbers)
            for k, d in enumerate(layout.space):
                if d in self.patches.size:
                    at = (origins[:, k, None] + np.arange(size[k])) % layout.shape[k]
                    known = d in layout.statics.coords
                    out[d] = (("item", f"{d}_in_patch"), layout.statics[d].values[at] if known else at)
        return xr.Dataset(out)

    # batches ----------------------------------------------------------------------------------------------------------

    def __getitem__(self, index: int) -> Tensors:
        """Return batch *index* of this epoch: inputs, targets ``[batch, *space, channel]`` and weights."""
        return self.batch(self.epoch, index)

    def batch(self, epoch: int, index: int) -> Tensors:
        """Return one batch of any epoch."""
        with self._lock:
            size = len(self)
            if not -size <= index < size:
                raise IndexError(f"batch {index} of {size}")
            order, assembler = self.plan(epoch), self._assembling()
            pool = self._reading()
        start = (index % size) * self.batch_size
        stop = min(start + self.batch_size, self.n_samples)
        tensors = assembler.empty(stop - start)
        g = int(np.searchsorted(order.starts, start, side="right")) - 1
        at = start
        while at < stop:
            group, first = order.groups[g], int(order.starts[g])
            end = min(stop, int(order.starts[g + 1]))
            if end > at:
                with pool.lease(epoch if self.shuffle else 0, g, order.groups) as loaded:
                    numbers, items = group.samples[at - first : end - first], group.items[at - first : end - first]
                    member, window = self.samples.split(numbers)
                    times = self.samples.windows[window]

                    def locate(
                        name: str, column: int, loaded: Any = loaded, member: Any = member, times: Any = times
                    ) -> Any:
                        if name in self._still:
                            array, still = self._still[name]
                            return array, still.own_member(member)
                        return loaded.locate(name, member, times[:, column])

                    x, y, w = (t[at - start : end - start] for t in tensors)
                    origins = None if self._origins is None else self._origin_of(items, numbers, epoch)
                    assembler.fill((x, y, w), locate, origins, self.fill, self._namer(window))
            at, g = end, g + 1
        return tensors

    def iterate(self, epoch: int | None = None, start: int = 0) -> Iterator[Tensors]:
        """Yield the batches of an epoch from number *start*: how an interrupted epoch goes on."""
        epoch = self.epoch if epoch is None else epoch
        for index in range(start, len(self)):
            yield self.batch(epoch, index)

    def __iter__(self) -> Iterator[Tensors]:
        return self.iterate()

    def on_epoch_end(self) -> None:
        """Begin the next epoch, with its own order."""
        self.epoch += 1

    def report(self, *, measure: bool = True) -> Any:
        """Return how the data will be read, before any training: what is read directly, how often, in what memory, how fast.

        Parameters
        ----------
        measure
            Read one group to tell the speed.
        """
        from physml.data._reading_report import ReadingReport

        return ReadingReport.of(self, measure=measure)

    def close(self) -> None:
        """Stop the threads and let go of the memory; the next batch starts them again."""
        with self._lock:
            if self._pool is not None:
                self._pool.close()
            if self._assembler is not None:
                self._assembler.buffers.clear()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        # Threads and memory stay here: another process reads for itself.
        gone: dict[str, Any] = {
            "_lock": None,
            "_pool": None,
            "_plans": {},
            "_draws": {},
            "_fields": None,
            "_still": {},
            "_assembler": None,
        }
        return {**self.__dict__, **gone}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    # how it is made ---------------------------------------------------------------------------------------------------

    def _check_arguments(self) -> None:
        rank, world = self.shard
        wrong: tuple[str, str, object, str] | None = None
        if self.batch_size < 1:
            wrong = "batch_size is not positive", ">= 1", self.batch_size, "batch_size=32"
        elif self.threads < 1:
            wrong = "threads is not positive", ">= 1", self.threads, "threads=2"
        elif not 0 <= rank < world:
            wrong = "shard is not understood", "(rank, world) with 0 <= rank < world", self.shard, "shard=(0, 1)"
        elif self.missing not in ("raise", "drop", "mask"):
            wrong = "missing is not understood", "'raise', 'drop' or 'mask'", repr(self.missing), "missing='raise'"
        elif self.min_valid is not None and (self.missing != "mask" or not 0 <= self.min_valid <= 1):
            wrong = "min_valid does not fit", "0 to 1, with missing='mask'", self.min_valid, "missing='mask'"
        if wrong:
            what, expected, received, remedy = wrong
            prefix = "" if what.startswith("batch_size") else "Batches: "
            raise ValueError(describe(prefix + what, expected=expected, received=received, remedy=remedy))

    def _members(self) -> dict[str, int]:
        return {m: self.ds.sizes[m] for m in self.layout.members if m in self.ds.dims}

    def _all_samples(self) -> Samples:
        spec = self.layout.spec
        dim = spec.sample_dim
        offsets = tuple(sorted({o for role in ROLES for n in getattr(spec, role) for o in spec.offsets(role, n)}))
        n = self.ds.sizes[dim]
        axis = self.ds[dim] if dim in self.ds.coords else None
        self._zero = offsets.index(0) if 0 in offsets else None
        found = windows(axis, n, (*offsets, *(() if self._zero is not None else (0,))), self.layout.step)
        samples = Samples.all(tuple(self._members().values()), n, found[:, : len(offsets)], offsets)
        self._sample_times = found[:, self._zero if self._zero is not None else len(offsets)]
        return samples.shard(*self.shard)

    def _times(self, window: np.ndarray) -> np.ndarray:
        """Return the positions of the samples themselves along the sample dimension."""
        return self._sample_times[window]

    def _refuse_empty(self, samples: Samples) -> None:
        n = len(samples)
        if n and not (self.drop_remainder and n * self._repeat_of(samples) < self.batch_size):
            return
        low, high = self.layout.spec.window()
        raise ValueError(
            describe(
                "Batches: the selection holds no batch",
                expected=f"windows of offsets {low} to {high} along {self.layout.spec.sample_dim!r}",
                received=f"{n} samples from {dict(self.ds.sizes)}",
                remedy="select a longer period, or drop_remainder=False",
            )
        )

    @property
    def _repeat(self) -> int:
        return self._repeat_of(self._samples)

    def _repeat_of(self, samples: Samples) -> int:
        if self.patches is None:
            return 1
        return self.patches.per_sample or len(self._patch_origins())  # type: ignore[arg-type]

    def _patch_origins(self) -> np.ndarray | None:
        if self.patches is None:
            return None
        if not hasattr(self, "_origins") or self._origins is None:
            valid = np.asarray(self.layout.valid("targets").any(-1))
            self._origins = self.patches.origins(self.layout.space, valid)
        return self._origins

    def _origin_of(self, items: np.ndarray, numbers: np.ndarray, epoch: int | None = None) -> np.ndarray:
        """Return the first cells of patches ``[item, dimension]``; those drawn are a function of seed, epoch and sample."""
        assert self.patches is not None and self._origins is not None
        which = items % self._repeat
        if not self.patches.random:
            return self._origins[which]
        epoch = self.epoch if epoch is None else epoch
        return self._origins[self._drawn(epoch)[numbers, which]]

    def _drawn(self, epoch: int) -> np.ndarray:
        """Return the patches of an epoch ``[sample, patch of the sample]``, drawn for all shares alike."""
        with self._lock:
            if epoch not in self._draws:
                while len(self._draws) > 1:
                    del self._draws[next(iter(self._draws))]
                assert self._origins is not None
                every = int(np.prod(self._samples.members, dtype=int)) * len(self._samples.windows)
                rng = np.random.default_rng([self.seed, epoch, 1])
                self._draws[epoch] = rng.integers(len(self._origins), size=(every, self._repeat), dtype="int32")
            return self._draws[epoch]

    def _items(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        start = (index % len(self)) * self.batch_size
        order = self.plan()
        items = order.order[start : start + self.batch_size]
        return items, self.samples.kept[items // self._repeat]

    def _namer(self, window: np.ndarray) -> Callable[[int], str]:
        """Return what names the sample of an item in messages."""

        def when(i: int) -> str:
            dim, at = self.layout.spec.sample_dim, int(self._sample_times[int(window[i])])
            return f"{dim} {self.ds[dim].values[at]}" if dim in self.ds.coords else f"{dim} {at}"

        return when

    def _open(self) -> dict[str, Field]:
        """Find where every variable lies; nothing of its values is read."""
        if self._fields is None:
            members, spec = self._members(), self.layout.spec
            found = {}
            for name in dict.fromkeys((*spec.inputs, *spec.targets)):
                da = self.ds[name]
                chosen = _packing.level_positions(self.layout, da, name)
                axis = da.dims.index(spec.sample_dim) if spec.sample_dim in da.dims else None
                source = Source(da.variable, name, axis)
                found[name] = Field(source, spec.sample_dim, members, chosen, np.dtype(self.dtype))
            self._fields = found
        return self._fields

    def _moving(self) -> dict[str, Field]:
        return {n: f for n, f in self._open().items() if not f.still}

    def _survey(self) -> Samples:
        spec, layout = self.layout.spec, self.layout
        found: dict[str, np.ndarray] = {}
        for name, known in self._moving().items():
            role = ROLES[0] if name in spec.inputs else ROLES[1]
            valid = valid_cells(layout, role, name, known.rest)
            found[name] = count_missing(known, valid, self.threads, self.progress)
        least = 1.0 if self.missing == "drop" else float(self.min_valid or 0)
        return complete(self._samples, layout, self._moving(), found, least)

    def _cut(self) -> Cutting:
        return Cutting.of(self._moving(), self.samples, self._members(), self.memory, self.shuffle)

    def _reading(self) -> Pool:
        with self._lock:
            if self._pool is None:
                fields = self._moving()
                self._pool = Pool(fields, self.samples, self._cut().units, self.threads)
            return self._pool

    def _assembling(self) -> Assembler:
        with self._lock:
            if self._assembler is None:
                fields = self._open()
                rest = {n: f.rest for n, f in fields.items()}
                made = Assembler(
                    self.layout, rest, self._samples.offsets, np.dtype(self.dtype), self.missing, self.patches
                )
                for name, known in fields.items():
                    if known.still:
                        self._still[name] = (known.values(), known)
                self._assembler = made
            return self._assembler


def _bytes(memory: str | int) -> int:
    from dask.utils import parse_bytes

    try:
        found = int(parse_bytes(memory))
    except (ValueError, TypeError) as error:
        raise ValueError(
            describe(
                "Batches: memory is not understood",
                expected="bytes, or text such as '512MB' or '2GB'",
                received=repr(memory),
                remedy=f"memory={MEMORY!r}",
            )
        ) from error
    return found
