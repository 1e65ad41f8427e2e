"""Batches: labelled fields as the input of ``model.fit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import xarray as xr

from physml.data._assemble import fill_masked
from physml.data.loader import Loader, Tensors
from physml.fields import FieldSpec
from physml.layout import Layout

__all__ = ["Batches", "EpochOf", "fill_masked"]


class Batches(Loader, keras.utils.PyDataset):
    """The batches of a :class:`physml.data.Loader`, which says what they hold, as a Keras dataset.

    Parameters
    ----------
    ds, spec, batch_size
        Data, what to read of them, and samples in a batch.
    workers, use_multiprocessing, max_queue_size
        As in ``keras.utils.PyDataset``. The loader has threads of its own: one worker is enough.
    **options
        Those of :class:`physml.data.Loader`: ``shuffle``, ``seed``, ``drop_remainder``, ``dtype``, ``memory``, ``threads``,
        ``shard``, ``patches``, ``missing``, ``min_valid``, ``fill``, ``progress``.

    Notes
    -----
    ``FieldModel.fit`` takes them as they are. With another Keras model on TensorFlow, ``fit(batches.tf_data(), ...)`` is faster
    than ``fit(batches, shuffle=False)``.

    Raises
    ------
    ValueError
        For an empty selection; while iterating, for values missing on valid cells.
    OSError
        While iterating, for chunks that cannot be read.

    Examples
    --------
    >>> ds = xr.Dataset({"x": (("time", "i"), np.arange(12.0).reshape(4, 3))}, {"time": np.arange(4)})
    >>> batches = Batches(ds, FieldSpec("x", "x", target_offsets=1), batch_size=2)
    >>> [x.shape for x, y, w in (batches[i] for i in range(len(batches)))]
    [(2, 3, 1), (1, 3, 1)]
    """

    def __init__(
        self,
        ds: xr.Dataset,
        spec: FieldSpec | Layout,
        batch_size: int = 32,
        *,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
        **options: Any,
    ) -> None:
        keras.utils.PyDataset.__init__(self, workers, use_multiprocessing, max_queue_size)
        Loader.__init__(self, ds, spec, batch_size, **options)
        self.failure: Exception | None = None
        self.check: Callable[[Any, Any, Layout], None] | None = None

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return len(self)

    def batch(self, epoch: int, index: int) -> Tensors:
        """Return one batch of any epoch; an error is kept in ``failure``, since TensorFlow passes on its text alone."""
        try:
            found = super().batch(epoch, index)
            if self.check is not None:
                self.check(found[1], found[2], self.layout)
            return found
        except Exception as error:
            self.failure = error
            raise

    def tf_data(self, start: int = 0, *, weights: bool = True, epoch: int | None = None) -> Any:
        """Return the batches as a ``tf.data.Dataset``; every pass over it is the next epoch.

        Parameters
        ----------
        start
            Number of the batch that the first pass begins with.
        weights
            Whether weights come with inputs and targets.
        epoch
            Serve this epoch at every pass: validation data that do not change.
        """
        import tensorflow as tf

        tensors = self._assembling().empty(1)[: 3 if weights else 2]
        kinds = [t.dtype for t in tensors]
        begin = [start]

        def new_pass() -> np.ndarray:
            first, begin[0] = begin[0], 0
            return np.array([self.epoch if epoch is None else epoch, first])

        def one(number: np.ndarray, index: np.ndarray) -> list[np.ndarray]:
            found = list(self.batch(int(number), int(index))[: len(tensors)])
            if epoch is None and index == len(self) - 1:
                self.on_epoch_end()
            return found

        def read(number: Any, index: Any) -> tuple[Any, ...]:
            found = tf.numpy_function(one, (number, index), kinds)
            return tuple(tf.ensure_shape(f, (None, *t.shape[1:])) for f, t in zip(found, tensors, strict=True))

        def batches(_: Any) -> Any:
            this = tf.ensure_shape(tf.numpy_function(new_pass, (), np.int64), (2,))
            return tf.data.Dataset.range(this[1], len(self)).map(lambda index: read(this[0], index))

        # Not from_generator: it has the C library give back memory at once, and every tensor of the process then pays for
        # new pages.
        found = tf.data.Dataset.range(1).flat_map(batches)
        if start == 0:
            found = found.apply(tf.data.experimental.assert_cardinality(len(self)))
        options = tf.data.Options()
        # There is nothing to tune, and the tuner holds up the end of a pass by up to five seconds.
        options.autotune.enabled = False
        options.threading.private_threadpool_size = 1
        return found.prefetch(2).with_options(options)


class EpochOf(keras.callbacks.Callback):
    """Tells batches which epoch Keras is at: it also draws batches to build a model, and goes on after a resume."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the epoch of the batches."""
        self.batches.epoch = epoch
