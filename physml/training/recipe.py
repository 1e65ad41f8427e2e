"""The recipe: a model, batches and a few names; a trained model and its history come back."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.progress import Progress

from physml._errors import closest, describe, is_count, refuse
from physml.data.batches import Batches, EpochOf
from physml.heads.distribution import Distribution
from physml.training.callbacks import Finite, Plateau, Record, Rise, Show, Stopping, display
from physml.training.checkpoint import Checkpoint, put_back, read
from physml.training.descent import single, whole_set
from physml.training.history import History
from physml.training.optimizers import optimizer_of, rate_of
from physml.training.options import DESCENTS, OPTIMIZERS, SCHEDULES, Choice, choose


def fit(
    model: keras.Model,
    batches: Batches,
    validation: Batches | None = None,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    schedule: str | Mapping[str, Any] = "constant",
    warmup: float = 0.0,
    optimizer: str | Mapping[str, Any] = "adam",
    loss: Any = None,
    metrics: Iterable[Any] = (),
    clip_norm: float | None = None,
    clip_value: float | None = None,
    descent: str = "mini-batch",
    patience: int | None = None,
    min_delta: float = 0.0,
    restore_best: bool = True,
    seed: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    resume: bool = False,
    jit: bool | str = "auto",
    steps_per_execution: int = 1,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    title: str = "training",
    progress: Progress | None = None,
) -> History:
    """Compile and train a model.

    Parameters
    ----------
    model
        Usually a :class:`physml.FieldModel`; or any Keras model from ``[batch, *space, input channel]`` to targets.
    batches, validation
        Training and validation data.
    epochs
        Passes over the training data.
    learning_rate, schedule, warmup
        The first rate; its course by epochs, a name of :data:`physml.training.SCHEDULES` or ``{"type": name, ...}`` with
        arguments; and epochs before that, over which it rises in a straight line.
    optimizer
        A name of :data:`physml.training.OPTIMIZERS`, or ``{"type": name, ...}`` with arguments.
    loss, metrics
        As for ``compile``. No loss: that of the head where it answers a distribution, else the mean squared error. Metrics are
        weighted as the loss is.
    clip_norm, clip_value
        Bound on the norm of the whole gradient; on each of its numbers.
    descent
        What one step of the optimizer sees. ``"mini-batch"``: a batch. ``"stochastic"``: one sample. ``"batch"``: the whole
        training set, one step an epoch; what does not fit into a batch goes through the model in equal parts, whose gradients
        are gathered.
    patience, min_delta
        Stop when the validation loss has not fallen by *min_delta* for this many epochs. None: never.
    restore_best
        With *patience*: end with the weights of the epoch of least validation loss.
    seed
        Of everything random that Keras does in training, dropout above all: the same seed, data and initial weights give the
        same history. None: go on with what Keras would draw next.
    checkpoint, checkpoint_every
        File that keeps the state of the run, and epochs between two states. A state takes some hundredths of a second, most of it
        until the disk has it: where an epoch is not much longer, let several pass.
    resume
        Go on from that file where it is there; the same numbers come out as without the interruption.
    jit, steps_per_execution
        As ``jit_compile`` and ``steps_per_execution`` of ``compile``. Half precision is the network's own: with float16 the loss
        is scaled here.
    callbacks
        Further Keras callbacks. Their own state is not kept by *checkpoint*.
    title, progress
        Line of the progress display; None makes a display for this run.

    Returns
    -------
    History
        Losses, metrics and learning rate by epoch.

    Raises
    ------
    ValueError
        For names and values that are not known, early stopping or a plateau without validation data, a state of another run,
        and a loss that is not finite.
    FileExistsError
        Where *checkpoint* is there and *resume* is false.

    Notes
    -----
    With ``descent="batch"`` the last part is filled up to the size of the others with copies of weight zero. They are not in the
    loss, but soft laws of the model count them, and batch normalisation sees each part by itself.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from physml import Batches, FieldModel, FieldSpec, Scaling, networks
    >>> x = np.random.default_rng(0).normal(size=(40, 3))
    >>> ds = xr.Dataset({"a": (("time", "i"), x), "b": (("time", "i"), 2 * x)}, {"time": np.arange(40)})
    >>> scaling = Scaling.fit(ds, FieldSpec("a", "b"))
    >>> model = FieldModel(networks.mlp(scaling.layout, hidden=()), scaling=scaling)
    >>> sgd, halved = {"type": "sgd", "momentum": 0.9}, {"type": "step", "every": 2, "factor": 0.5}
    >>> history = fit(model, Batches(ds, scaling.layout, 8), epochs=4, learning_rate=0.1, optimizer=sgd, schedule=halved)
    >>> [round(rate, 3) for rate in history["learning_rate"]]
    [0.1, 0.1, 0.05, 0.05]
    """
    course = choose(schedule, SCHEDULES, "schedule")
    rule = choose(optimizer, OPTIMIZERS, "optimizer")
    _check(descent, epochs, learning_rate, warmup, clip_norm, clip_value, checkpoint_every)
    if validation is None and (patience is not None or course.type == "plateau"):
        what = "early stopping" if patience is not None else "a rate that falls on a plateau"
        raise ValueError(
            describe(
                f"{what} has nothing to watch",
                expected="validation data",
                received="None",
                remedy="give a validation part in the split, or "
                + ("no early stopping" if patience is not None else "another schedule"),
            )
        )
    if resume and checkpoint is None:
        refuse("there is nothing to resume from", "the path of a checkpoint", "None", "checkpoint='run.npz'")
    if descent == "batch":
        batches = whole_set(batches)
    elif descent == "stochastic":
        batches = single(batches)
    passes = len(batches) if descent == "batch" else 1
    steps = len(batches) // passes
    if seed is not None:
        sow(model, seed)
    half = any(layer.compute_dtype == "float16" for layer in model._flatten_layers())
    rate = rate_of(course, learning_rate, steps=steps, epochs=epochs, warmup=warmup, passes=passes)
    chosen = optimizer_of(rule, rate, passes=passes, clip_norm=clip_norm, clip_value=clip_value, half=half)
    if loss is None and not isinstance(getattr(model, "head", None), Distribution):
        loss = "mse"
    model.compile(
        chosen, loss, weighted_metrics=list(metrics) or None, jit_compile=jit, steps_per_execution=steps_per_execution
    )

    watching: dict[str, Stopping | Plateau] = {}
    if patience is not None:
        watching["stopping"] = Stopping(
            "val_loss", min_delta=min_delta, patience=patience, mode="min", restore_best_weights=restore_best
        )
    if course.type == "plateau":
        has = dict(course.arguments)
        watching["plateau"] = Plateau("val_loss", mode="min", min_lr=has.pop("least"), **has)
    history, first = History(), 0
    kept: list[keras.callbacks.Callback] = []
    if checkpoint is not None:
        settings = _settings(
            model, batches, validation, epochs, learning_rate, course, warmup, rule, loss, descent=descent,
            patience=patience, min_delta=min_delta, restore_best=restore_best, seed=seed, clip_norm=clip_norm,
            clip_value=clip_value,
        )  # fmt: skip
        if not resume and Path(checkpoint).exists():
            raise FileExistsError(
                describe(
                    f"checkpoint {os.fspath(checkpoint)!r} holds the state of an earlier run",
                    expected="no such file, or resume=True",
                    received="resume=False",
                    remedy="resume=True to go on, or remove the file to begin again",
                )
            )
        state = read(checkpoint, settings)
        if state is not None:
            put_back(model, state, watching)
            history, first = state.history, state.history.epochs
            if state.stopped or first >= epochs:
                if restore_best and state.best:
                    model.set_weights(state.best)
                return history
        kept = [Checkpoint(checkpoint, checkpoint_every, settings, history, watching, epochs - 1)]

    own = progress is None
    shown = display() if progress is None else progress
    with shown if own else contextlib.nullcontext():
        rise = [Rise(learning_rate, round(warmup * steps), passes)] if course.type == "plateau" and warmup else []
        model.fit(
            batches,
            validation_data=validation,
            epochs=epochs,
            initial_epoch=first,
            shuffle=False,
            verbose=0,
            callbacks=[
                EpochOf(batches),
                Finite(),
                *rise,
                Record(history),
                *watching.values(),
                *callbacks,
                *kept,
                Show(shown, title, epochs, len(batches), first),
            ],
        )
    _refuse_divergence(history, checkpoint)
    return history


def sow(model: keras.Model, seed: int) -> None:
    """Seed Python, NumPy and Keras, and every layer of a model that draws random numbers, whatever was drawn before."""
    keras.utils.set_random_seed(seed)
    drawing = [v for v in model.variables if v.name == "seed_generator_state"]
    for i, variable in enumerate(drawing):
        variable.assign(np.array([np.random.SeedSequence([seed, i]).generate_state(1)[0], 0], "uint32"))


def _check(
    descent: str,
    epochs: int,
    learning_rate: float,
    warmup: float,
    clip_norm: float | None,
    clip_value: float | None,
    checkpoint_every: int,
) -> None:
    if descent not in DESCENTS:
        refuse(
            f"descent {descent!r} is not known{closest(descent, DESCENTS)}",
            f"one of {', '.join(DESCENTS)}",
            repr(descent),
            "correct descent",
        )
    for name, value in (("epochs", epochs), ("checkpoint_every", checkpoint_every)):
        if not is_count(value):
            refuse(f"{name} is no number of epochs", "a whole number of at least 1", repr(value), f"correct {name}")
    for name, number, least in (
        ("learning_rate", learning_rate, False),
        ("warmup", warmup, True),
        ("clip_norm", clip_norm, False),
        ("clip_value", clip_value, False),
    ):
        if number is not None and not (math.isfinite(number) and (number > 0 or (least and number == 0))):
            refuse(f"{name} is out of range", "at least 0" if least else "above 0", number, f"correct {name}")
    if clip_norm is not None and clip_value is not None:
        refuse("the gradient is clipped twice", "clip_norm or clip_value", "both", "choose one of the two")
    if warmup >= epochs:
        refuse("warmup leaves no epoch", f"less than the {epochs} epochs", warmup, "a shorter warmup")


def _settings(
    model: keras.Model,
    batches: Batches,
    validation: Batches | None,
    epochs: int,
    learning_rate: float,
    course: Choice,
    warmup: float,
    rule: Choice,
    loss: Any,
    **more: Any,
) -> dict[str, Any]:
    """Return what must be the same when a run goes on."""
    serial = loss if isinstance(loss, str) or loss is None else getattr(loss, "name", type(loss).__name__)
    return {
        "backend": keras.backend.backend(),
        "parameters": int(model.count_params()),
        "samples": batches.n_samples,
        "validation samples": 0 if validation is None else validation.n_samples,
        "batch_size": batches.batch_size,
        "shuffle": batches.shuffle,
        "seed of the batches": batches.seed,
        "learning_rate": float(learning_rate),
        "schedule": {"type": course.type, **course.arguments},
        "warmup": float(warmup),
        "optimizer": {"type": rule.type, **rule.arguments},
        "loss": serial,
        # A rate that falls over all epochs knows how many there are; with any other, more may follow.
        **({"epochs": epochs} if course.type == "cosine" else {}),
        **more,
    }


def _refuse_divergence(history: History, checkpoint: str | os.PathLike[str] | None) -> None:
    losses = history.get("loss", [])
    if losses and all(math.isfinite(x) for x in losses):
        return
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)  # it would diverge again
    raise ValueError(
        describe(
            f"training diverged in epoch {len(losses) or 1}",
            expected="a finite loss",
            received=losses[-1:] or ["none"],
            remedy="a smaller training.learning_rate, training.clip_norm, or check the scaling of the inputs",
        )
    )
