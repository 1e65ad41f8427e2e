"""A FieldModel as a function of arrays: one model in each process, one compiled signature, whatever thread calls it."""

from __future__ import annotations

import math
import os
import tempfile
import threading
import uuid
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from physml import _backend
from physml._errors import describe
from physml._sent import Sent
from physml.data.batches import fill_masked
from physml.model import FieldModel, load
from physml.receptive import replay


class Predictor:
    """A FieldModel as a function of arrays ``[row, *space, channel]``, in batches of one fixed size.

    Batches are padded, so that a single signature is compiled. One thread at a time runs a network, which uses all
    cores itself, while others read. Sent to another process it travels as a ``.keras`` file and is loaded there once.

    Parameters
    ----------
    model
        Used as it is when it is called.
    batch_size
        Rows given to the network at a time.
    window
        Sizes of the windows it will be given; None for the whole grid.
    carrying
        Inputs and outputs have further channels for what earlier steps could not store of conserved totals.
    """

    _one_at_a_time = threading.Lock()

    def __init__(
        self,
        model: FieldModel,
        batch_size: int = 32,
        window: tuple[int, ...] | None = None,
        carrying: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(
                describe("batch_size is not positive", expected=">= 1", received=batch_size, remedy="batch_size=32")
            )
        self.model, self.batch_size, self.window, self.carrying = model, batch_size, window, carrying
        self.carried = model.constraints.carries(model.layout) if carrying else {}
        # Windows are cheap beside the maps they save, so that these always have a row to spare.
        self._spare = _backend.spare_rows(batch_size if window is None else max(batch_size, 8))
        self.token = uuid.uuid4().hex
        self._file: bytes | None = None
        self._run: Any = None
        self._rows: Any = None

    def __call__(self, x: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """Return the outputs of all rows; refuse inputs missing on valid cells.

        Parameters
        ----------
        x
            ``[row, *space, input channel]``; anything may stand on masked cells.
        valid
            Valid cells ``[*window, input channel]``, by default those of the layout.
        """
        layout, kind, size = self.model.layout, self.model.compute_dtype, self.batch_size
        if valid is None:
            valid = self._valid
        out = np.empty((*x.shape[:-1], len(self.model.answers.targets) + sum(self.carried.values())), kind)
        with self._one_at_a_time:
            if self._run is None:
                self._run = self._compile(x.shape[1:])
                self._rows = np.empty((size + self._spare, *x.shape[1:]), kind)
            rows = self._rows
            for start in range(0, len(x), size):
                n = min(size, len(x) - start)
                rows[:n] = x[start : start + n]
                rows[n:] = rows[n - 1]
                y, bad = self._run(rows, valid)
                if bad:
                    fill_masked(rows[:n, ..., : len(layout.inputs)].copy(), valid, layout, "inputs")
                out[start : start + n] = y[:n]
        return out

    @property
    def _valid(self) -> np.ndarray:
        if getattr(self, "_whole", None) is None:
            self._whole = self.model.layout.valid("inputs")
        return self._whole

    def _compile(self, shape: tuple[int, ...]) -> Any:
        model, kind = self.model, self.model.compute_dtype
        network = model.network if self.window is None else partial(_any_size, model.network)

        n = len(model.layout.inputs)

        def function(x: Any, valid: Any) -> tuple[Any, Any]:
            carried: dict[str, Any] | None = {} if self.carrying else None
            at = n
            for name, depth in self.carried.items():
                carried[name], at = x[..., at : at + depth], at + depth  # type: ignore[index]
            x = x[..., :n]
            bad = ops.any(ops.logical_and(valid, ops.logical_not(ops.isfinite(x))))
            if model.missing == "mean":
                bad = ops.zeros_like(bad)
            # The whole grid keeps its masks as constants of the graph.
            window = None if self.window is None else valid
            y = model.through(x, network, window, training=False, penalties=False, leftovers=carried)
            if carried is not None:
                y = ops.concatenate([y[0], *(y[1][name] for name in self.carried)], axis=-1)
            return y, bad

        try:
            return _backend.fixed_signature(
                function,
                list(model.variables),
                [(self.batch_size + self._spare, *shape), (*shape[:-1], n)],
                [kind, "bool"],
            )
        except (ValueError, TypeError) as error:
            if self.window is None:
                raise
            raise ValueError(
                describe(
                    f"the network {model.network.name!r} cannot be run on a window of the map",
                    expected=f"layers that take {self.window} in place of {model.layout.shape} cells",
                    received=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}",
                    remedy="predict whole maps (tiles=None), or build the network on keras.Input((None, ..., channels))",
                )
            ) from error

    def __dask_tokenize__(self) -> str:
        return self.token

    def __reduce__(self) -> Any:
        if self._file is None:
            self._file = packed(self.model)
        return _restore, (self._file, self.batch_size, self.token, self.window, self.carrying)


def rows_at_a_time(block: int, batch_size: int) -> int:
    """Return the batch size, at most *batch_size*, that leaves the last batch of a block of rows fullest.

    Examples
    --------
    >>> rows_at_a_time(50, 32), rows_at_a_time(8, 32), rows_at_a_time(97, 32)
    (25, 8, 25)
    """
    return math.ceil(block / math.ceil(block / batch_size)) if batch_size >= 1 and block else batch_size


def _any_size(network: Any, x: Any, training: bool = False) -> Any:
    """Apply the layers of a network built for one size of map to another."""

    def call(op: Any, *args: Any, **kwargs: Any) -> Any:
        return op(*args, **kwargs)

    del training  # layers take no training argument for False
    x = ops.cast(x, network.compute_dtype) if isinstance(network, keras.Model) else x
    return replay(network, x, call)


def packed(model: keras.Model) -> bytes:
    """Return a model as the bytes of a ``.keras`` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        with open(path, "rb") as file:
            return file.read()


def unpacked(data: bytes) -> FieldModel:
    """Return the model of the bytes that :func:`packed` returned."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        with open(path, "wb") as file:
            file.write(data)
        return load(path)


_SENT = Sent()


def _restore(
    data: bytes, batch_size: int, token: str, window: tuple[int, ...] | None = None, carrying: bool = False
) -> Predictor:
    def make() -> Predictor:
        restored = Predictor(unpacked(data), batch_size, window, carrying)
        restored.token, restored._file = token, data
        return restored

    return _SENT.once(token, make)
