"""Samples in blocks: read once, explained one block after another, or by dask where the data are lazy.

The number of a sample, by which it is seeded, is its place among all samples, so that nothing depends on the blocks.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml import _progress
from physml._sent import Sent
from physml.explain.players.baselines import Baseline, clean

if TYPE_CHECKING:
    from physml.layout import Layout

BLOCK_BYTES = 64 * 2**20
"""Inputs, or results, held at a time."""


_TOLD: contextvars.ContextVar[Callable[[int], None] | None] = contextvars.ContextVar("told", default=None)
"""Moves the progress bar, where one shows."""


@dataclass(frozen=True, eq=False)
class Block:
    """Some samples and what they are compared with.

    Attributes
    ----------
    inputs
        ``[sample, *space, channel]``, zero on masked cells.
    numbers
        Place of each sample among all, ``[sample]``.
    rows
        Baseline inputs ``[row, *space, channel]``.
    index
        Baseline rows of each sample, ``[sample, slot]``.
    """

    inputs: np.ndarray
    numbers: np.ndarray
    rows: np.ndarray
    index: np.ndarray


def samples_at_a_time(packed: xr.DataArray, sample: str, depth: int) -> int:
    """Return the number of samples in a block whose inputs, and *depth* float64 results of each, fit into a block's bytes."""
    each = max(packed[{d: 0 for d in packed.dims[: packed.get_axis_num(sample) + 1]}].nbytes, 8 * depth, 1)
    most = int(np.clip(BLOCK_BYTES // each, 1, 256))
    first = packed.chunksizes.get(sample, (1,))[0]
    # Whole chunks as long as they fit, so that few are held at once.
    return max(1, min(packed.sizes[sample], most // first * first if first <= most else most))


def over_samples(
    layout: Layout,
    packed: xr.DataArray,
    function: Callable[[Block], np.ndarray],
    depth: int,
    width: int,
    *,
    baseline: Baseline | None = None,
    beside: xr.DataArray | None = None,
    at_a_time: int | None = None,
    title: str = "explain",
    progress: bool = True,
) -> Any:
    """Run a function over all samples.

    Parameters
    ----------
    layout
        Layout of the inputs.
    packed
        Samples ``[*members, sample, *space, channel]``, from ``layout.pack(ds, "inputs")``.
    function
        Of a block; returns float64 ``[depth, sample, width]``. It must not depend on which samples share a block.
    depth, width
        Numbers of results of one sample.
    baseline
        What the samples are compared with, if anything.
    beside
        For a baseline with a row of its own for each sample: those rows, laid out as *packed*.
    at_a_time
        Samples in a block; default by size of inputs and results.
    title, progress
        Of the bar.

    Returns
    -------
    array
        ``[depth, *members, sample, width]``, a NumPy array, or a dask array where *packed* is lazy.
    """
    sample = layout.spec.sample_dim
    n_outer = packed.get_axis_num(sample) + 1
    outer = packed.shape[:n_outer]
    at_a_time = at_a_time or samples_at_a_time(packed, sample, depth * width)
    labels = {str(d): packed[d].values for d in packed.dims[:n_outer] if d in packed.coords}
    names = tuple(str(d) for d in packed.dims[:n_outer])
    run = functools.partial(_run, Task(function), layout, baseline, names, labels, outer)
    if packed.chunks is None and (beside is None or beside.chunks is None):
        out = np.empty((depth, *outer, width))
        with _progress.bar(title, math.prod(outer), show=progress) as done:
            for at in _blocks(outer, at_a_time):
                own = None if beside is None else beside.values[at]
                x = packed.values[at]
                with _telling(done, math.prod(x.shape[:n_outer])):
                    out[(slice(None), *at)] = run(x, own, tuple(s.start for s in at))
        return out
    import dask.array as da

    chunks = {d: -1 for d in packed.dims} | {d: 1 for d in packed.dims[: n_outer - 1]} | {sample: at_a_time}
    arrays = [a.chunk(chunks).data for a in (packed, beside) if a is not None]

    def block(x: np.ndarray, own: np.ndarray | None = None, block_info: Any = None) -> np.ndarray:
        where = block_info[0]["array-location"] if block_info else [(0, 0)] * x.ndim
        return run(x, own, tuple(int(a) for a, _ in where[:n_outer]))

    return da.map_blocks(
        block,
        *arrays,
        dtype="float64",
        chunks=((depth,), *arrays[0].chunks[:n_outer], (width,)),
        drop_axis=list(range(n_outer, packed.ndim)),
        new_axis=[0, n_outer + 1],
        meta=np.empty((0,) * (n_outer + 2)),
        name=f"{title}-{uuid.uuid4().hex}",
    )


def _run(
    task: Task,
    layout: Layout,
    baseline: Baseline | None,
    names: tuple[str, ...],
    labels: dict[str, np.ndarray],
    outer: tuple[int, ...],
    x: np.ndarray,
    own: np.ndarray | None,
    start: tuple[int, ...],
) -> np.ndarray:
    """Explain one block ``[*members, sample, *space, channel]`` that begins at *start*."""
    n_outer = len(outer)
    places = np.indices(x.shape[:n_outer]).reshape(n_outer, -1) + np.array(start)[:, None]
    numbers = np.ravel_multi_index(tuple(places), outer)

    def where(row: int) -> str:
        return sample_name(int(numbers[row]), outer, names, labels)

    inputs = clean(x.reshape(-1, *x.shape[n_outer:]), layout, where)
    if own is not None:
        rows = clean(own.reshape(inputs.shape), layout, lambda row: f"baseline of {where(row)}")
        index = np.arange(len(rows))[:, None]
    elif baseline is not None:
        sample = str(names[-1])
        dates = labels.get(sample, np.arange(outer[-1]))[places[-1]]
        rows, index = baseline.rows, baseline.pick(xr.DataArray(dates, dims=sample, name=sample))
    else:
        rows, index = inputs[:0], np.zeros((len(inputs), 0), int)
    found = task(Block(inputs, numbers, rows, index))
    return found.reshape(len(found), *x.shape[:n_outer], -1)


def sample_name(
    number: int, outer: tuple[int, ...], names: tuple[str, ...], labels: Mapping[str, np.ndarray | xr.DataArray]
) -> str:
    """Return how errors call a sample: by its labels, or its *number* among all.

    Parameters
    ----------
    number, outer
        Place of the sample among all, and the sizes of the dimensions of members and samples.
    names, labels
        Of these dimensions; one without labels is left out.
    """
    places = np.unravel_index(number, outer)
    at = [f"{d} {np.asarray(labels[d])[i]}" for d, i in zip(names, places, strict=True) if d in labels]
    return "ds at " + (", ".join(at) or f"sample {number}")


def _blocks(outer: tuple[int, ...], at_a_time: int) -> Iterator[tuple[slice, ...]]:
    *members, n = outer
    for at in np.ndindex(*members):
        for start in range(0, n, at_a_time):
            yield (*(slice(i, i + 1) for i in at), slice(start, min(start + at_a_time, n)))


def advance(samples: int = 1) -> None:
    """Let the progress bar know of samples that are finished; a function may say so as it goes, or leave it to its block."""
    told = _TOLD.get()
    if told is not None:
        told(samples)


@contextlib.contextmanager
def _telling(done: Callable[[int], None], samples: int) -> Iterator[None]:
    """Move the bar by *samples* within the context: as :func:`advance` says, and by the rest at its end."""
    left = samples

    def told(finished: int) -> None:
        nonlocal left
        left -= finished
        done(finished)

    token = _TOLD.set(told)
    try:
        yield
    finally:
        _TOLD.reset(token)
    done(left)


class Task:
    """A function that travels to other processes once: a model is loaded, and compiled, once in each."""

    def __init__(self, function: Callable[[Block], np.ndarray]) -> None:
        self.function, self.token, self._data = function, uuid.uuid4().hex, None

    def __call__(self, block: Block) -> np.ndarray:
        """Return the results of a block."""
        return self.function(block)

    def __dask_tokenize__(self) -> str:
        return self.token

    def __reduce__(self) -> Any:
        import cloudpickle

        if self._data is None:
            self._data = cloudpickle.dumps(self.function)
        return _restore, (self.token, self._data)


_SENT = Sent()


def _restore(token: str, data: bytes) -> Task:
    def make() -> Task:
        import cloudpickle

        task = Task(cloudpickle.loads(data))
        task.token, task._data = token, data  # type: ignore[assignment]
        return task

    return _SENT.once(token, make)
