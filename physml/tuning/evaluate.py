"""One trial: on every fold the model is built, trained on what is for training, and scored on what is not."""

from __future__ import annotations

import gc
import math
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.data.folds import Fold
from physml.data.scaling import Scaling
from physml.layout import Layout
from physml.tuning.sampling import seed_of
from physml.tuning.scores import LOSS, Score, score_of, truth_of

RUNGS = 10
"""Reports of a fold to what prunes, at most."""

Report = Callable[[int, float], bool]
"""Takes the number of a report and a score so far; tells whether the trial should end."""


class Pruned(Exception):
    """A trial that is not worth its end."""


class Diverged(Exception):
    """A trial without a finite score."""


@dataclass
class Job:
    """All that a trial needs, in whatever process it runs."""

    build: Callable[..., Any]
    folds: list[Fold]
    layout: Layout
    score: str | Score
    seed: int
    epochs: int
    batch_size: int
    patience: int | None
    learning_rate: float
    scaling: Callable[[xr.Dataset, Any], Any] | None
    batches: Mapping[str, Any] = field(default_factory=dict)
    _scalings: dict[int, Any] = field(default_factory=dict, repr=False)

    @property
    def rungs(self) -> int:
        """Reports of a fold."""
        return min(RUNGS, self.epochs) if self.score == LOSS else 1

    def scaling_of(self, number: int) -> Any:
        """Return the scaling of a fold, fitted to its training part alone, once."""
        if number not in self._scalings:
            self._scalings[number] = scaling_of(self, self.folds[number].train)
        return self._scalings[number]


@dataclass
class Measured:
    """Scores and epochs of a trial by fold, and its seconds."""

    scores: list[float] = field(default_factory=list)
    epochs: list[int | None] = field(default_factory=list)
    seconds: float = 0.0


def scaling_of(job: Job, train: xr.Dataset) -> Any:
    """Return the scaling of a training part."""
    return (job.scaling or Scaling.fit)(train, job.layout)


def evaluate(job: Job, params: Mapping[str, Any], number: int, report: Report, measured: Measured) -> float:
    """Return the mean score over the folds; *measured* keeps those of each.

    Raises
    ------
    Pruned, Diverged
        Where *report* wants an end, and where a score is not finite.
    """
    before, begin = (random.getstate(), np.random.get_state()), time.perf_counter()
    try:
        for i in range(len(job.folds)):
            _one_fold(job, params, number, i, report, measured)
        return float(np.mean(measured.scores))
    finally:
        if any(e is not None for e in measured.epochs):
            gc.collect()  # networks hold themselves in circles
        measured.seconds = time.perf_counter() - begin
        random.setstate(before[0])
        np.random.set_state(before[1])


def _one_fold(job: Job, params: Mapping[str, Any], number: int, i: int, report: Report, measured: Measured) -> None:
    fold, done, first = job.folds[i], list(measured.scores), i * job.rungs

    def watch(rung: int, value: float) -> bool:
        return report(first + rung, float(np.mean([*done, value])))

    seed = seed_of(job.seed, number, i)
    model = built(job, params, job.scaling_of(i), fold.train, seed)
    epochs, loss, rung = None, None, 0
    if is_network(model):
        loss, epochs, rung = train(job, model, params, fold.train, fold.validation, seed, watch)
    else:
        model = model.fit(fold.train) or model
    if job.score == LOSS and loss is None:
        raise ValueError(
            describe(
                "search: only networks have a validation loss",
                expected="a score of forecasts",
                received=f"score={LOSS!r} and a {type(model).__name__}",
                remedy="score='rmse'",
            )
        )
    value = loss if job.score == LOSS and loss is not None else _forecast_score(job, model, fold)
    measured.scores.append(value)
    measured.epochs.append(epochs)
    if not math.isfinite(value):
        raise Diverged(f"the score of fold {i} is {value}")
    # One that stopped early is compared at every report all the same.
    ended = [watch(r, value) for r in range(rung, job.rungs)]
    if any(ended) and i + 1 < len(job.folds):
        raise Pruned


def built(job: Job, params: Mapping[str, Any], scaling: Any, train: xr.Dataset, seed: int) -> Any:
    """Return what *build* makes; a bare network becomes a FieldModel.

    Raises
    ------
    TypeError
        Where it makes nothing that fits and predicts.
    """
    known = seed_all(seed)
    arguments = (dict(params), scaling, train)[: positional(job.build)]
    model = job.build(*arguments)
    if not known and "keras" in sys.modules:  # its own seed could only be set now
        seed_all(seed)
        model = job.build(*arguments)
    if is_network(model):
        from physml.model import FieldModel

        return model if isinstance(model, FieldModel) else FieldModel(model, scaling=scaling)
    if not (hasattr(model, "fit") and hasattr(model, "predict")) or type(model).__module__.startswith("sklearn."):
        raise TypeError(
            describe(
                "search: build returned nothing that learns from labelled fields",
                expected="a FieldModel, a Keras network, or a learner with fit(train) and predict(ds)",
                received=type(model).__name__,
                remedy="return the model from build(params, scaling)",
            )
        )
    return model


def is_network(model: Any) -> bool:
    """Tell whether this is a Keras model, without loading Keras for one that is not."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def positional(build: Callable[..., Any]) -> int:
    """Return how many of parameters, scaling and training part *build* takes."""
    import inspect

    try:
        given = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return 2
    if any(p.kind is p.VAR_POSITIONAL for p in given):
        return 3
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(3, sum(p.kind in kinds and (p.default is p.empty or i < 2) for i, p in enumerate(given)))


def seed_all(seed: int) -> bool:
    """Set the seeds of Python, NumPy and, if it is loaded, Keras; tell whether it is."""
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.utils.set_random_seed(seed)
        return True
    random.seed(seed)
    np.random.seed(seed)
    return False


def train(
    job: Job,
    model: Any,
    params: Mapping[str, Any],
    part: xr.Dataset,
    judge: xr.Dataset | None,
    seed: int,
    watch: Callable[[int, float], bool],
    epochs: int | None = None,
) -> tuple[float, int, int]:
    """Train a FieldModel; return its validation loss, the epoch it belongs to, counted from 1, and the number of reports.

    Parameters
    ----------
    job, params
        How: parameters named ``epochs``, ``batch_size``, ``patience`` and ``learning_rate`` take the place of the job's.
    model
        A FieldModel; one that is not compiled is compiled with Adam, and the loss of its head or the mean square error.
    part, judge
        Data to train on, and data whose loss is watched.
    seed
        Of the order of the samples.
    watch
        Called with the number of the report and the least loss so far.
    epochs
        In place of those of job and parameters.
    """
    import keras

    from physml.data.batches import Batches
    from physml.heads.distribution import Distribution

    epochs = int(epochs or params.get("epochs", job.epochs))
    size, patience = int(params.get("batch_size", job.batch_size)), params.get("patience", job.patience)
    batches = Batches(part, model.layout, size, **{"shuffle": True, "seed": seed, **job.batches})
    quiet = {k: v for k, v in job.batches.items() if k not in ("shuffle", "drop_remainder")}
    held_out = None if judge is None else Batches(judge, model.layout, size, **quiet)
    if not model.compiled:
        rate = float(params.get("learning_rate", job.learning_rate))
        model.compile(keras.optimizers.Adam(rate), None if isinstance(model.head, Distribution) else "mse")
    watched = _watching(keras, watch, epochs, job.rungs)
    callbacks = [watched]
    if patience is not None and held_out is not None:
        callbacks.append(keras.callbacks.EarlyStopping("val_loss", patience=int(patience), restore_best_weights=True))
    try:
        history = model.fit(batches, validation_data=held_out, epochs=epochs, callbacks=callbacks, verbose=0).history
    finally:
        batches.close()
        if held_out is not None:
            held_out.close()
    if watched.pruned:
        raise Pruned
    if not all(math.isfinite(v) for v in history["loss"]):
        raise Diverged(f"the loss of epoch {len(history['loss'])} is {history['loss'][-1]}")
    if held_out is None:
        return history["loss"][-1], epochs, 0
    losses = history["val_loss"]
    best = int(np.nanargmin(losses)) if patience is not None and np.isfinite(losses).any() else len(losses) - 1
    return float(losses[best]), best + 1, watched.rung


def _watching(keras: Any, watch: Callable[[int, float], bool], epochs: int, rungs: int) -> Any:
    """Return a callback that stops what diverges, and reports the validation loss at even distances."""

    class Watch(keras.callbacks.Callback):
        best, rung, pruned = math.inf, 0, False

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            told = logs or {}
            if not math.isfinite(told.get("loss", 0.0)):
                self.model.stop_training = True
                return
            self.best = min(self.best, told.get("val_loss", math.inf))
            if rungs > 1 and epoch + 1 < epochs and epoch + 1 >= math.ceil((self.rung + 1) * epochs / rungs):
                self.rung += 1
                if watch(self.rung - 1, self.best):
                    self.pruned = self.model.stop_training = True

    return Watch()


def _forecast_score(job: Job, model: Any, fold: Fold) -> float:
    layout = getattr(model, "layout", job.layout)
    if is_network(model):
        from physml.forecast import predict

        forecast = predict(model, fold.validation)
    else:
        forecast = model.predict(fold.validation)
    return score_of(job.score, forecast, truth_of(layout, fold.validation), layout, fold.train)
