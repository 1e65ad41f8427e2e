"""Training a time step on a trajectory: the loss over several steps, with weights by lead and by error, and gaps.

    loss = sum_k w_k sum_i p_i(t + k) (x_i(t + k) - M^k(x(t))_i)^2 / sum_k w_k sum_i p_i(t + k),   k = 1 ... leads,

where what is missing weighs nothing, and p may be the inverse of the variance of what is fitted: of an analysis that of its
errors at both ends, 1 / (var x_i(t) + var x_i(t + k)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from physml._errors import refuse
from physml.assimilation.steps import Unrolled


def multistep_loss(predicted: Any, target: Any, weights: Any = None) -> Any:
    """Return the weighted mean of the squared error, missing targets left out, as a scalar.

    Parameters
    ----------
    predicted
        ``[batch, lead, *space, channel]``.
    target
        The same, NaN where missing.
    weights
        Broadcast to it from the left: ``[batch, lead]``, ``[1, lead]``, or its own shape. None: all alike.

    Examples
    --------
    >>> x = ops.convert_to_tensor(np.array([[[1.0], [5.0]]]))
    >>> float(multistep_loss(x, np.array([[[0.0], [np.nan]]])))
    1.0
    """
    target = ops.cast(target, predicted.dtype)
    there = ops.isfinite(target)
    p = ops.cast(there, predicted.dtype)
    if weights is not None:
        weights = ops.cast(weights, predicted.dtype)
        for _ in range(len(target.shape) - len(weights.shape)):
            weights = ops.expand_dims(weights, -1)
        p = p * weights
    # NaN must go before any arithmetic: NaN times zero is NaN, in the gradient too.
    square = ops.square(predicted - ops.where(there, target, 0.0))
    total = ops.sum(p)
    return ops.sum(p * square) / ops.where(total > 0, total, 1.0)


@keras.saving.register_keras_serializable(package="physml")
class MultistepLoss(keras.losses.Loss):
    """:func:`multistep_loss` for ``compile``: of a model that ends in :class:`Unrolled`, on targets with gaps.

    Parameters
    ----------
    lead_weights
        One for each lead; None: all alike.

    Notes
    -----
    ``fit(..., sample_weight=...)`` would average the weights away. Give each target its weight beside it instead, as a second
    half of the last axis: ``[batch, lead, *space, 2 channel]``.
    """

    def __init__(
        self, lead_weights: Sequence[float] | None = None, name: str = "multistep_loss", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.lead_weights = None if lead_weights is None else [float(w) for w in lead_weights]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the scalar loss."""
        channels = y_pred.shape[-1]
        weights = None
        if self.lead_weights is not None:
            weights = np.reshape(self.lead_weights, (1, -1, *[1] * (len(y_pred.shape) - 2))).astype("float32")
        if y_true.shape[-1] == 2 * channels:
            own = y_true[..., channels:]
            weights = own if weights is None else own * weights
            y_true = y_true[..., :channels]
        return multistep_loss(y_pred, y_true, weights)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"name": self.name, "reduction": self.reduction, "lead_weights": self.lead_weights}


class Windows(keras.utils.PyDataset):
    """Starts and targets of several steps, cut from a trajectory batch by batch, in an order drawn anew for each epoch.

    Parameters
    ----------
    states
        ``[time, *space, channel]``, NaN where missing. A start with gaps is left out.
    leads
        Number of steps of a target.
    variance
        Of the errors of *states*, the same shape; None: every state weighs the same.
    forcing
        ``[time, *space, forcing channel]`` acting from each time to the next; None: none.
    batch_size
        Starts in a batch; the last of an epoch, if smaller, waits for the next.
    seed
        Of the order, a number or several: that of epoch e is drawn from (seed, e).
    """

    def __init__(
        self,
        states: np.ndarray,
        leads: int,
        *,
        variance: np.ndarray | None = None,
        forcing: np.ndarray | None = None,
        batch_size: int = 256,
        seed: Any = 0,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        if variance is not None and variance.shape != states.shape:
            refuse("the variances do not fit the states", states.shape, variance.shape, "give one for each value")
        if states.shape[0] <= leads:
            refuse("the trajectory is too short", f"more than {leads} times", states.shape[0], "fewer leads")
        self.states, self.leads, self.forcing = states.astype(dtype), int(leads), forcing
        self.variance = None if variance is None else variance.astype(dtype)
        # The mean weight is 1, so that the loss has the same size whatever the units of the variance.
        self.scale = 1.0 if variance is None else 2.0 * float(np.nanmean(variance))
        whole = np.isfinite(states).reshape(len(states), -1).all(axis=1)
        self.starts = np.flatnonzero(whole[: len(states) - leads])
        if not len(self.starts):
            refuse("no state is whole", "states without gaps to start from", "none", "interpolate them first")
        self.batch = min(int(batch_size), len(self.starts))
        self.seed, self.epoch = seed, 0
        self._draw()

    def _draw(self) -> None:
        self.order = np.random.default_rng((*np.atleast_1d(self.seed).tolist(), self.epoch)).permutation(self.starts)

    def __len__(self) -> int:
        return len(self.starts) // self.batch

    def __getitem__(self, number: int) -> tuple[Any, np.ndarray]:
        start = self.order[number * self.batch : (number + 1) * self.batch]
        later = start[:, None] + np.arange(1, self.leads + 1)
        target = self.states[later]
        if self.variance is not None:
            both = self.variance[start][:, None] + self.variance[later]
            target = np.concatenate([target, self.scale / both], axis=-1)
        x = self.states[start]
        return (x if self.forcing is None else (x, self.forcing[later - 1])), target

    def on_epoch_end(self) -> None:
        """Draw the order of the next epoch."""
        self.epoch += 1
        self._draw()


def trainer(
    step: Callable[..., Any],
    shape: Sequence[int | None],
    *,
    leads: int,
    forcing_shape: Sequence[int | None] | None = None,
    lead_weights: Sequence[float] | None = None,
    optimizer: Any = "adam",
    learning_rate: float = 1e-3,
    clip: float | None = 1.0,
) -> keras.Model:
    """Return a compiled model of *leads* steps, to be fitted on :class:`Windows`; *step* is trained in it.

    Parameters
    ----------
    step
        A time step that is a layer or a model.
    shape
        ``[*space, channel]`` of the state.
    leads, lead_weights
        Number of steps, and the weight of each in the loss.
    forcing_shape
        ``[*space, channel]`` of the forcing; None: none.
    optimizer, learning_rate
        Name or Keras optimizer.
    clip
        Longest gradient, by its norm; None: any.
    """
    if not getattr(step, "trainable_variables", None) and not isinstance(step, keras.layers.Layer):
        refuse("the step has no weights", "a Keras layer or model", type(step).__name__, "RK4(network, dt)")
    if lead_weights is not None and len(lead_weights) != leads:
        refuse("lead_weights do not fit", f"{leads}, one for each lead", len(lead_weights), "pass as many")
    dtype = getattr(step, "compute_dtype", None) or "float32"
    state = keras.Input(tuple(shape), dtype=dtype)
    inputs: list[Any] = [state]
    if forcing_shape is not None:
        inputs.append(keras.Input((leads, *forcing_shape), dtype=dtype))
    model = keras.Model(inputs if len(inputs) > 1 else state, Unrolled(step, leads, dtype=dtype)(*inputs))
    if not model.trainable_variables:
        refuse("the step has no weights to train", "trainable weights", "none", "RK4(network, dt)")
    if isinstance(optimizer, str):
        config = {"learning_rate": learning_rate, "global_clipnorm": clip}
        optimizer = keras.optimizers.get({"class_name": optimizer, "config": config})
    model.compile(optimizer=optimizer, loss=MultistepLoss(lead_weights, dtype=dtype))
    return model
