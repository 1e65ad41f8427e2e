"""The state of a run after an epoch, in one file: what a killed run goes on from, as if nothing had happened.

Kept are all variables of the model (those of dropout too, which say what is drawn next) and of the optimizer, the counters of
early stopping and of the schedule with the best weights so far, and the history. Batches are a function of seed and epoch, so
they need no state of their own. Batches of an epoch that was not finished are seen again.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from physml._errors import describe, refuse
from physml.training.callbacks import Plateau, Stopping
from physml.training.history import History

_WRITING = ".partial"


class State(NamedTuple):
    """What a checkpoint holds."""

    settings: dict[str, Any]
    history: History
    stopped: bool
    """Whether the run stopped early: no epoch is left to be done."""
    variables: list[np.ndarray]
    optimizer: list[np.ndarray]
    counters: dict[str, dict[str, Any]]
    """By callback: stopping, plateau."""
    best: list[np.ndarray]


def variables_of(model: keras.Model) -> list[Any]:
    """Return the variables that say what a model does and draws next; those of metrics begin anew in every epoch."""
    metrics = {id(v) for v in model.metrics_variables}
    return [v for v in model.variables if id(v) not in metrics]


class Checkpoint(keras.callbacks.Callback):
    """Writes the state of a run after every *every* epochs and after the last one.

    Parameters
    ----------
    path
        The file. It is replaced at one stroke, so that there is always a whole one.
    every
        Epochs between two states.
    settings
        What the run is; :func:`read` refuses another.
    history
        Of all epochs so far.
    callbacks
        Whose state is kept, by name.
    last
        Number of the last epoch, from 0.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int,
        settings: Mapping[str, Any],
        history: History,
        callbacks: Mapping[str, Stopping | Plateau],
        last: int,
    ) -> None:
        super().__init__()
        self.path, self.every, self.settings = Path(path), every, dict(settings)
        self.history, self.kept, self.last = history, dict(callbacks), last

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write, where it is time to."""
        stopped = bool(self.model.stop_training)
        # What diverged is nothing to go on from.
        finite = all(np.isfinite(v) for k, v in (logs or {}).items() if k == "loss")
        if finite and (stopped or epoch == self.last or (epoch + 1) % self.every == 0):
            self.write(stopped)

    def write(self, stopped: bool) -> None:
        """Write the present state."""
        states = {name: callback.state() for name, callback in self.kept.items()}
        best = states.get("stopping", {}).pop("weights", None) or []
        parts = {
            "model": [_array(v) for v in variables_of(self.model)],
            "optimizer": [_array(v) for v in self.model.optimizer.variables],
            "best": [np.asarray(w) for w in best],
        }
        told = {"settings": self.settings, "history": self.history, "stopped": stopped, "counters": states}
        arrays = {f"{part}/{i}": a for part, values in parts.items() for i, a in enumerate(values)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        writing = self.path.with_name(self.path.name + _WRITING)
        with writing.open("wb") as file:
            np.savez(file, allow_pickle=False, told=np.array(json.dumps(told)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(writing, self.path)


def read(path: str | os.PathLike[str], settings: Mapping[str, Any]) -> State | None:
    """Return the state of a run, or None where there is none yet.

    Raises
    ------
    ValueError
        Where the file is of another run, or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            told = json.loads(str(file["told"]))
            parts: dict[str, list[np.ndarray]] = {"model": [], "optimizer": [], "best": []}
            for part, found in parts.items():
                found += [file[f"{part}/{i}"] for i in range(sum(n.startswith(f"{part}/") for n in file.files))]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            describe(
                f"the state of a run at {str(path)!r} cannot be read",
                expected="a file that fit(checkpoint=...) wrote",
                received=f"{type(error).__name__}: {error}",
                remedy="remove it, and begin again",
            )
        ) from error
    other = {k: (told["settings"].get(k), v) for k, v in settings.items() if told["settings"].get(k) != v}
    if other:
        refuse(
            f"the state at {str(path)!r} is of a run with other settings",
            "; ".join(f"{k} {was!r}" for k, (was, _) in other.items()),
            "; ".join(f"{k} {now!r}" for k, (_, now) in other.items()),
            "resume with the settings it was begun with, or remove the file",
        )
    return State(
        told["settings"],
        History(told["history"]),
        bool(told["stopped"]),
        parts["model"],
        parts["optimizer"],
        told["counters"],
        parts["best"],
    )


def put_back(model: keras.Model, state: State, callbacks: Mapping[str, Stopping | Plateau]) -> None:
    """Bring a compiled model and its callbacks into a state.

    Raises
    ------
    ValueError
        Where the state is of another model.
    """
    model.optimizer.build(model.trainable_variables)
    _assign(variables_of(model), state.variables, "model")
    _assign(model.optimizer.variables, state.optimizer, "optimizer")
    for name, callback in callbacks.items():
        counters = dict(state.counters[name])
        if isinstance(callback, Stopping):
            counters["weights"] = state.best or None
        callback.took = counters


def _assign(variables: Sequence[Any], values: Sequence[np.ndarray], what: str) -> None:
    shapes, given = ([tuple(v.shape) for v in some] for some in (variables, values))
    if shapes != given:
        at = next((i for i, (a, b) in enumerate(zip(shapes, given, strict=False)) if a != b), None)
        both = (len(shapes), len(given)) if at is None else (shapes[at], given[at])
        of = f"{{}} variables of the {what}" if at is None else f"shape {{}} of variable {at} of the {what}"
        refuse(
            "the state is of another model",
            of.format(both[0]),
            of.format(both[1]),
            "build the model as it was built before, or remove the file",
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _array(variable: Any) -> np.ndarray:
    """Return the values; NumPy has no bfloat16, and float32 holds each of its numbers."""
    value = keras.ops.convert_to_numpy(variable)
    return value.astype("float32") if "bfloat16" in str(variable.dtype) else np.asarray(value)
