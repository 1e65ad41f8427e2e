"""Batches: labelled fields as the input of ``model.fit``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
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

    Raises
    ------
    ValueError
        For an empty selection; while iterating, for values missing on valid cells.
    OSError
        While iterating, for chunks that cannot be read.

    Examples
    --------
    >>> import numpy as np
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

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return len(self)

    def tf_data(self, start: int = 0) -> Any:
        """Return the batches as a ``tf.data.Dataset``; every pass over it is the next epoch.

        Parameters
        ----------
        start
            Number of the batch that the first pass begins with.
        """
        import tensorflow as tf

        x, y, w = self._assembling().empty(1)
        shapes = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in (x, y, w)]
        begin = [start]

        def epoch() -> Iterator[Tensors]:
            first, begin[0] = begin[0], 0
            yield from self.iterate(start=first)
            self.on_epoch_end()

        found = tf.data.Dataset.from_generator(epoch, output_signature=tuple(shapes))
        if start == 0:
            found = found.apply(tf.data.experimental.assert_cardinality(len(self)))
        return found.prefetch(2)


class EpochOf(keras.callbacks.Callback):
    """Tells batches which epoch Keras is at: it also draws batches to build a model, and goes on after a resume."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the epoch of the batches."""
        self.batches.epoch = epoch
