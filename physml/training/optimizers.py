"""Keras optimizers and learning rates of the names in :mod:`physml.training.options`."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from physml.training.options import Choice

CLASSES = {
    "sgd": "SGD",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "Nadam",
    "adamax": "Adamax",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "lion": "Lion",
}


@keras.saving.register_keras_serializable(package="physml")
class Course(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises in a straight line over the first steps, and then is that of another schedule.

    Parameters
    ----------
    after
        A Keras schedule, whose steps are counted from the end of the rise, or a constant rate.
    rise
        Steps of the rise: the k-th of them, from 0, is taken at ``(k + 1) / rise`` of the first rate.
    passes
        Batches whose gradients are gathered for one step.

    Notes
    -----
    Keras asks for the rate by the number of batches; where the gradients of several are gathered, the steps are fewer.
    """

    def __init__(self, after: Any, rise: int = 0, passes: int = 1) -> None:
        super().__init__()
        if isinstance(after, dict):
            after = keras.saving.deserialize_keras_object(after)
        self.after, self.rise, self.passes = after, int(rise), int(passes)

    def __call__(self, step: Any) -> Any:
        """Return the rate at a step."""
        step = ops.cast(step, "float32")
        if self.passes > 1:
            step = ops.floor(step / self.passes)
        later = ops.maximum(step - self.rise, 0.0)
        rate = self.after(later) if callable(self.after) else ops.cast(self.after, "float32")
        if not self.rise:
            return rate
        return ops.where(step < self.rise, rate * (step + 1.0) / self.rise, rate)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        after = keras.saving.serialize_keras_object(self.after) if callable(self.after) else self.after
        return {"after": after, "rise": self.rise, "passes": self.passes}


def rate_of(schedule: Choice, rate: float, *, steps: int, epochs: int, warmup: float = 0.0, passes: int = 1) -> Any:
    """Return the learning rate as Keras takes it: a number, or a schedule by steps.

    Parameters
    ----------
    schedule
        From :func:`physml.training.options.choose`.
    rate
        The first rate, after the warm-up.
    steps, epochs
        Steps of the optimizer in an epoch, and epochs in all.
    warmup
        Epochs over which the rate rises to *rate*; those of the schedule follow.
    passes
        Batches whose gradients are gathered for one step.

    Examples
    --------
    >>> from physml.training.options import SCHEDULES, choose
    >>> course = rate_of(choose("cosine", SCHEDULES, "schedule"), 0.1, steps=10, epochs=6, warmup=2)
    >>> [round(float(course(k)), 3) for k in (0, 19, 20, 40, 60)]
    [0.005, 0.1, 0.1, 0.05, 0.0]
    """
    made, has = keras.optimizers.schedules, schedule.arguments
    rise = round(warmup * steps)
    after: Any = rate
    if schedule.type == "step":
        after = made.ExponentialDecay(rate, max(1, round(has["every"] * steps)), has["factor"], staircase=True)
    elif schedule.type == "exponential":
        after = made.ExponentialDecay(rate, steps, has["factor"])
    elif schedule.type == "cosine":
        after = made.CosineDecay(rate, max(1, epochs * steps - rise), has["to"])
    elif schedule.type == "cosine_restarts":
        first = max(1, round(has["first"] * steps))
        after = made.CosineDecayRestarts(rate, first, has["longer"], has["lower"], has["to"])
    if not rise and (passes == 1 or not callable(after)):
        return after
    # On a plateau a callback moves the rate, so it must be a number.
    return rate if schedule.type == "plateau" else Course(after, rise, passes)


def optimizer_of(
    choice: Choice,
    rate: Any,
    *,
    passes: int = 1,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    half: bool = False,
) -> keras.optimizers.Optimizer:
    """Return a Keras optimizer.

    Parameters
    ----------
    choice
        From :func:`physml.training.options.choose`.
    rate
        From :func:`rate_of`.
    passes
        Batches whose gradients are gathered for one step.
    clip_norm, clip_value
        Bound on the norm of the whole gradient; on each of its numbers.
    half
        Whether layers compute in float16, whose gradients vanish unless the loss is scaled.
    """
    arguments = {k: v for k, v in choice.arguments.items() if not (k == "weight_decay" and v == 0.0)}
    made = getattr(keras.optimizers, CLASSES[choice.type])(
        rate,
        global_clipnorm=clip_norm,
        clipvalue=clip_value,
        gradient_accumulation_steps=passes if passes > 1 else None,
        **arguments,
    )
    return keras.optimizers.LossScaleOptimizer(made) if half else made
