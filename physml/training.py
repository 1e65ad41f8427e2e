"""Training a model with a progress display, a learning-rate schedule and early stopping."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from physml._errors import closest, describe
from physml.data.batches import Batches

SCHEDULES = ("constant", "cosine")


class _Show(keras.callbacks.Callback):
    """Moves one line of a rich display along with the batches."""

    def __init__(self, progress: Progress, title: str, epochs: int, batches: int) -> None:
        super().__init__()
        self.progress = progress
        self.task = progress.add_task(title, total=epochs * batches, loss="")
        self.epochs, self.batches = epochs, batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.progress.advance(self.task)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        shown = {k: v for k, v in (logs or {}).items() if k in ("loss", "val_loss")}
        text = "  ".join(f"{k} {v:.3g}" for k, v in shown.items())
        self.progress.update(self.task, loss=f"epoch {epoch + 1}/{self.epochs}  {text}")

    def on_train_end(self, logs: Any = None) -> None:
        self.progress.update(self.task, completed=self.epochs * self.batches)


def display() -> Progress:
    """Return the progress display shared by training runs; silent where the output is no terminal."""
    return Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        console=Console(stderr=True),
        disable=not Console(stderr=True).is_terminal,
    )


def fit(
    model: keras.Model,
    batches: Batches,
    validation: Batches | None = None,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    schedule: str = "constant",
    optimizer: str = "adam",
    loss: str | None = None,
    patience: int | None = None,
    title: str = "training",
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """Compile and train a model.

    Parameters
    ----------
    model
        Usually a :class:`physml.FieldModel`.
    batches, validation
        Training and validation data.
    epochs, learning_rate, schedule, optimizer, loss
        ``schedule`` is ``"constant"`` or ``"cosine"`` (to zero over all epochs); optimizer and loss are Keras names. A
        loss of None is that of the model's head where it has one, else ``"mse"``.
    patience
        Stop when the validation loss has not improved for this many epochs, and restore the best weights.
    title, progress
        Line of the progress display; None makes a display for this run.

    Returns
    -------
    dict
        Losses by epoch.

    Raises
    ------
    ValueError
        For unknown schedules, patience without validation data, and a loss that is not finite.
    """
    if schedule not in SCHEDULES:
        raise ValueError(
            describe(
                f"unknown schedule {schedule!r}{closest(schedule, SCHEDULES)}",
                expected=f"one of {SCHEDULES}",
                received=repr(schedule),
                remedy="correct training.schedule",
            )
        )
    if patience is not None and validation is None:
        raise ValueError(
            describe(
                "early stopping has nothing to watch",
                expected="validation data",
                received="None",
                remedy="give a validation part in the split, or no early stopping",
            )
        )
    rate: Any = learning_rate
    if schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, max(1, epochs * len(batches)))
    chosen = keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": rate}})
    model.compile(optimizer=chosen, loss=loss or getattr(model, "default_loss", "mse"))
    callbacks: list[keras.callbacks.Callback] = [keras.callbacks.TerminateOnNaN()]
    if patience is not None:
        callbacks.append(keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True))
    own = progress is None
    shown = display() if progress is None else progress
    with shown if own else contextlib.nullcontext():
        callbacks.append(_Show(shown, title, epochs, len(batches)))
        history = model.fit(batches, validation_data=validation, epochs=epochs, callbacks=callbacks, verbose=0)
    losses = {k: [float(x) for x in v] for k, v in history.history.items()}
    if not losses.get("loss") or not all(math.isfinite(x) for x in losses["loss"]):
        raise ValueError(
            describe(
                f"training diverged in epoch {len(losses.get('loss', [])) or 1}",
                expected="a finite loss",
                received=losses.get("loss", ["none"])[-1:],
                remedy="a smaller training.learning_rate, or check the scaling of the inputs",
            )
        )
    return losses
