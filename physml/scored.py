"""How a FieldModel is trained, and what its losses and metrics see: scaled units, masked cells left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from physml.data.batches import Batches, EpochOf
from physml.heads.distribution import Distribution
from physml.losses import weighed
from physml.sizes import on_grid, valid_cells

if TYPE_CHECKING:
    from physml.data._scaling_graph import ScalingGraph
    from physml.heads.base import Head


class Scored(keras.Model):
    """The part of a :class:`physml.FieldModel` that compiles and trains it, and compares its answers with the truth."""

    head: Head | None
    loss_units: str
    missing: str
    free_size: bool
    _scale: ScalingGraph
    _valid_out: np.ndarray | None
    _valid_targets: np.ndarray | None

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any) -> None:
        """Compile as ``keras.Model.compile`` does.

        A head that answers a distribution brings its loss, or has others by name; metrics of its point forecast are weighted as
        the loss is.
        """
        if isinstance(self.head, Distribution):
            loss = self.head.loss(loss)
            metrics = [*_listed(kwargs.pop("metrics", None)), *_listed(kwargs.pop("weighted_metrics", None))]
            kwargs["weighted_metrics"] = metrics or None
        super().compile(optimizer, loss=loss, **kwargs)

    def compile_from_config(self, config: Any) -> None:
        """Compile as the model was when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if getattr(self, "optimizer", None) is not None:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as ``keras.Model.fit`` does; :class:`physml.Batches` keep their own order, that of their seed and the epoch."""
        given = [b for b in (x, kwargs.get("validation_data")) if isinstance(b, Batches)]
        for batches in given:
            batches.failure = None
            batches.check = self.head.check if isinstance(self.head, Distribution) else None
            if self.free_size or self.missing == "mean":
                batches.fill = float("nan")  # this model tells masked and missing cells by NaN
        data = x
        if isinstance(x, Batches):
            kwargs["shuffle"] = False  # Keras would reorder whole batches by the global random state
            kwargs["callbacks"] = [EpochOf(x), *keras.tree.flatten(kwargs.get("callbacks") or [])]
            own = type(x).__getitem__ is not Batches.__getitem__  # a subclass that changes what Keras asks for
            if keras.backend.backend() == "tensorflow" and not kwargs.get("steps_per_epoch") and not own:
                data = x.tf_data()
        held_out = kwargs.get("validation_data")
        if (
            isinstance(held_out, Batches)
            and keras.backend.backend() == "tensorflow"
            and type(held_out).__getitem__ is Batches.__getitem__
        ):
            kwargs["validation_data"] = held_out.tf_data(epoch=held_out.epoch)  # the same at every epoch
        try:
            return super().fit(data, *args, **kwargs)
        except Exception as error:  # TensorFlow wraps what a reader raises, trace and all
            cause = next((b.failure for b in given if b.failure is not None), None)
            if cause is not None and cause is not error:
                raise cause from error
            raise

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the compiled loss of scaled targets, plus penalties."""
        if y is not None and y_pred is not None:
            y, y_pred, sample_weight = self._compared(x, y, y_pred, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training=training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the compiled metrics of scaled targets; of a distribution, of its point forecast."""
        if y is not None and y_pred is not None:
            y, y_pred, sample_weight = self._compared(x, y, y_pred, sample_weight)
            if isinstance(self.head, Distribution):
                y_pred = self.head.point(y_pred)
                by_channel = sample_weight is not None and len(sample_weight.shape) == len(y.shape) - 1
                if y_pred.shape[-1] == 1 and not by_channel:
                    y, y_pred = y[..., 0], y_pred[..., 0]
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _compared(self, x: Any, y: Any, y_pred: Any, weights: Any) -> tuple[Any, Any, Any]:
        """Return targets, answers and weights in the units of the loss.

        Without a distribution ``[batch, *space, target channel]``, with a last axis of 1 where weights differ by channel; else truth
        ``[batch, *space, truth channel, 1]`` and parameters ``[batch, *space, truth channel, parameter]``. Where nothing counts
        both are harmless numbers.
        """
        y, y_pred = (ops.cast(v, self.compute_dtype) for v in (y, y_pred))
        head = self.head if isinstance(self.head, Distribution) else None
        dated = None if x is None or (self._scale.by is None and head is None) else self._physical(x)
        if head is None:
            return (*(self._plain(v, weights, dated) for v in (y, y_pred)), weights)
        if weights is None and self._valid_targets is not None and not self.free_size:
            weights = np.broadcast_to(self._valid_targets / self._valid_targets.mean(), (1, *self._valid_targets.shape))
        if weights is not None:
            weights = ops.cast(weights, self.compute_dtype)
            if len(weights.shape) == len(y.shape):
                weights = head.per_truth(weights)
        truth = head.truth(y, dated, self._scale)
        parameters = head.scaled(y_pred, dated, self._scale)
        if weights is not None:  # a density of width 0 is none, and what is masked may be no class
            there = weights > 0
            there = there if len(there.shape) == len(truth.shape) else ops.expand_dims(there, -1)
            truth = ops.where(there, truth, ops.zeros_like(truth))
            parameters = ops.where(ops.expand_dims(there, -1), parameters, ops.ones_like(parameters))
        return ops.expand_dims(truth, -1), parameters, weights

    def _plain(self, y: Any, weights: Any, dated: Any) -> Any:
        """Return targets or answers in the units of the loss, masked cells 0."""
        y = self._masked(y)
        if self.free_size and weights is not None:  # on a patch the weights are the mask
            y = weighed(y, weights)
        if self.loss_units == "scaled":
            y = self._masked(self._scale.targets(y, dated))
        by_channel = weights is not None and len(weights.shape) == len(y.shape) and y.shape[-1] > 1
        return ops.expand_dims(y, -1) if by_channel else y

    def _physical(self, inputs: Any) -> Any:
        """Return the inputs in the type of the graph, masked cells 0."""
        x = ops.cast(inputs, self.compute_dtype)
        present = valid_cells(self, x)
        return x if present is None else ops.where(present, x, ops.zeros_like(x))

    def _masked(self, y: Any) -> Any:
        valid = self._valid_out
        return y if valid is None else on_grid(self, y, lambda v: ops.where(valid, v, ops.zeros_like(v)))


def _listed(metrics: Any) -> list[Any]:
    return [] if metrics is None else list(metrics) if isinstance(metrics, list | tuple) else [metrics]
