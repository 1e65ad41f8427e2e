"""What happens between the epochs of a run: display, record, stopping, a falling rate; each can be put back where it was."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from physml.training.history import History


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


class Finite(keras.callbacks.Callback):
    """Stops a run whose loss is not finite: at once, and with JAX, whose batches run ahead of their losses, after the epoch."""

    async_safe = True
    """Keras need not wait for the loss of every batch before it begins the next."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop within the epoch."""
        if keras.backend.backend() != "jax":
            self.on_epoch_end(0, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop after it."""
        if not math.isfinite(float((logs or {}).get("loss", 0.0))):
            self.model.stop_training = True


class Show(keras.callbacks.Callback):
    """Moves one line of a rich display along with the batches."""

    async_safe = True
    """As in :class:`Finite`; the display may be moved from any thread."""

    def __init__(self, progress: Progress, title: str, epochs: int, batches: int, done: int = 0) -> None:
        super().__init__()
        self.progress = progress
        self.task = progress.add_task(title, total=epochs * batches, completed=done * batches, loss="")
        self.epochs, self.batches, self.before = epochs, batches, done * batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count from the first batch."""
        self.before = epoch * self.batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move to this batch: Keras may run several at once."""
        self.progress.update(self.task, completed=self.before + batch + 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tell the losses."""
        shown = {k: v for k, v in (logs or {}).items() if k in ("loss", "val_loss")}
        text = "  ".join(f"{k} {v:.3g}" for k, v in shown.items())
        self.progress.update(self.task, loss=f"epoch {epoch + 1}/{self.epochs}  {text}")

    def on_train_end(self, logs: Any = None) -> None:
        """Fill the bar."""
        self.progress.update(self.task, completed=self.epochs * self.batches)


class Record(keras.callbacks.Callback):
    """Writes losses, metrics and the learning rate into a :class:`History`, after what an earlier process recorded."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self.history, self.rate = history, math.nan

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Read the learning rate of the first step."""
        self.rate = rate_now(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add one value to every list."""
        for name, value in {**(logs or {}), "learning_rate": self.rate}.items():
            self.history.setdefault(name, []).append(float(value))


class Stopping(keras.callbacks.EarlyStopping):
    """Early stopping that tells its state, and takes it back."""

    took: dict[str, Any] | None = None
    """State that the next run begins with."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin anew, or where an earlier process was."""
        super().on_train_begin(logs)
        if self.took is not None:
            self.wait, self.best, self.best_epoch = (self.took[k] for k in ("wait", "best", "best_epoch"))
            self.best_weights = self.took["weights"]

    def state(self) -> dict[str, Any]:
        """Return the counters and, under ``weights``, the best weights so far."""
        best = None if self.best is None else float(self.best)
        return {"wait": self.wait, "best": best, "best_epoch": self.best_epoch, "weights": self.best_weights}


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """A learning rate that falls when the validation loss rests; it tells its state, and takes it back."""

    took: dict[str, Any] | None = None
    """State that the next run begins with; the rate itself is among the variables of the optimizer."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin anew, or where an earlier process was."""
        super().on_train_begin(logs)
        if self.took is not None:
            self.wait, self.best, self.cooldown_counter = (self.took[k] for k in ("wait", "best", "cooldown"))

    def state(self) -> dict[str, Any]:
        """Return the counters."""
        best = None if self.best is None else float(self.best)
        return {"wait": self.wait, "best": best, "cooldown": self.cooldown_counter}


class Rise(keras.callbacks.Callback):
    """Lets a learning rate rise over the first steps where no schedule moves it."""

    def __init__(self, rate: float, steps: int, passes: int) -> None:
        super().__init__()
        self.rate, self.steps, self.passes = rate, steps, passes

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the rate of the first step."""
        self.on_train_batch_begin(0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the rate of this step."""
        if self.steps <= 0:
            return
        sync = getattr(self.model, "jax_state_sync", None)
        if sync is not None and getattr(self.model, "_jax_state", None) is not None:
            sync()  # on JAX the variables of a running epoch are elsewhere
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        if step <= self.steps:
            self.model.optimizer.learning_rate = self.rate * min(1.0, (step + 1) / self.steps)
        else:
            self.steps = 0


def rate_now(model: keras.Model) -> float:
    """Return the learning rate of the next step."""
    return float(np.asarray(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
