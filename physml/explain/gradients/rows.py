"""Rows through a compiled gradient in batches of one size: what every method that asks for gradients shares."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Rows = Callable[[np.ndarray], np.ndarray]
"""A function of rows ``[row, *space, channel]``, always called with the same number of them."""


def in_batches(
    function: Callable[[np.ndarray], Any], make: Callable[[np.ndarray], np.ndarray], total: int, batch_rows: int
) -> Iterator[Any]:
    """Yield ``(numbers, function(rows))`` for rows 0 to *total*, made when they are needed.

    Parameters
    ----------
    function
        Called with *batch_rows* rows each time: compiled once. Rows beyond the last repeat it and are thrown away. May return
        a tuple of arrays.
    make
        Rows ``[row, *space, channel]`` of their numbers ``[row]``.
    """
    for start in range(0, total, batch_rows):
        numbers = np.arange(start, min(start + batch_rows, total))
        rows = make(numbers)
        if len(rows) < batch_rows:
            rows = np.concatenate([rows, np.repeat(rows[-1:], batch_rows - len(rows), axis=0)])
        found = function(rows)
        n = len(numbers)
        yield numbers, tuple(a[:n] for a in found) if isinstance(found, tuple) else found[:n]


def spans(keys: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Yield each key of a sorted vector and the slice that holds it.

    Examples
    --------
    >>> list(spans(np.array([3, 3, 4])))
    [(3, slice(0, 2, None)), (4, slice(2, 3, None))]
    """
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
        yield int(keys[start]), slice(int(start), int(stop))


def input_gradient(
    tensors: Callable[[Any], Any],
    weights: np.ndarray,
    variables: list[Any],
    shape: tuple[int, ...],
    dtype: str,
    scale: float = 1.0,
) -> Rows:
    """Return the gradient, in the inputs of each row, of a linear functional of a model's output; compiled once.

    Parameters
    ----------
    tensors
        Differentiable function ``[row, *space, channel] -> [row, ...]``; a row does not depend on others.
    weights
        The functional ``[output element]``.
    variables
        Keras variables that *tensors* reads.
    shape, dtype
        Of the rows, with their number.
    scale
        What the functional is divided by on the way, so that half precision holds it.

    Returns
    -------
    callable
        Arrays *shape* to arrays *shape*.
    """
    from keras import ops

    from physml._backend import vjp

    column = np.asarray(weights / scale, dtype).reshape(-1, 1)

    def function(x: Any) -> tuple[Any]:
        def value(x: Any) -> Any:
            return ops.matmul(ops.cast(ops.reshape(tensors(x), (shape[0], -1)), dtype), column)

        _, pull = vjp(value, x)
        return (pull(ops.ones((shape[0], 1), dtype)),)

    run = compiled_rows(function, variables, shape, dtype)
    return lambda rows: run(rows)[0] * scale


def compiled_rows(
    function: Callable[[Any], tuple[Any, ...]], variables: list[Any], shape: tuple[int, ...], dtype: str
) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """Return a function of tensors as one of arrays of one *shape* and *dtype*, compiled once."""
    from physml._backend import fixed_signature, float64

    def run(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        # JAX would take float64 rows for float32 ones.
        with float64() if dtype == "float64" else contextlib.nullcontext():
            return compiled(np.ascontiguousarray(rows, dtype))

    compiled = fixed_signature(function, variables, [shape], [dtype])
    return run


class Late:
    """A function that is compiled when it is first called, in whatever process that is, and runs one caller at a time."""

    def __init__(self, make: Callable[[], Callable[[np.ndarray], Any]]) -> None:
        self.make, self._made, self._lock = make, None, threading.Lock()

    def __call__(self, rows: np.ndarray) -> Any:
        """Return what the function makes of *rows*."""
        with self._lock:
            if self._made is None:
                self._made = self.make()  # type: ignore[assignment]
            return self._made(rows)  # type: ignore[misc]

    def __reduce__(self) -> Any:
        return Late, (self.make,)


class Moments:
    """Mean and standard error of replicates that come one after another, in float64 (Welford 1962)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count, self.mean, self._squares = 0, np.zeros(shape), np.zeros(shape)

    def add(self, value: np.ndarray) -> None:
        """Take one replicate."""
        self.count += 1
        gap = value - self.mean
        self.mean += gap / self.count
        self._squares += gap * (value - self.mean)

    @property
    def stderr(self) -> np.ndarray:
        """Standard error of the mean; zero for one replicate."""
        return np.sqrt(self._squares / max(self.count - 1, 1) / self.count)
