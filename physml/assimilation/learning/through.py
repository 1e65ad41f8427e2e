"""Training through the cycle: gradients of the likelihood of the observations flow through forecasts and analyses alike.

The observations d_1 ... d_K have the density prod_k p(d_k | d_1 ... d_{k-1}), and each factor is what a filter knows before it
sees d_k: Gaussian, about H xf with the covariance H P H^T + R. Minus its logarithm, the innovation likelihood, is a function of
all that the cycle is made of: the weights of the step, the inflation, the size of the model error, the standard deviation of B.
Its gradient through *span* cycles is exact; the ensemble before them is taken as given, and is carried on from there.

A step trained on analyses alone inherits their errors. Here there are none to inherit: a model is the better, the better it
forecasts what is observed next, whatever the filter makes of it.

References
----------
Chen, Y., Sanz-Alonso, D. and Willett, R. (2022), Autodifferentiable ensemble Kalman filters, doi:10.1137/21M1434477.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import xarray as xr
from keras import ops

from physml import _backend, _progress
from physml._errors import describe, refuse
from physml.assimilation.blue.likelihood import innovation_likelihood
from physml.assimilation.cycling.course import Course
from physml.assimilation.cycling.cycle import Cycle
from physml.assimilation.cycling.identity import digest
from physml.assimilation.errors.background import bind
from physml.assimilation.learning._resume import Checkpoint, assign, values
from physml.assimilation.learning.noise import Scaled
from physml.assimilation.method import Method, Output, Problem, Seen, State
from physml.assimilation.observing.rows import Observations


class Trained(NamedTuple):
    """What :func:`train_through` returns; the step of the cycle has been trained in place."""

    parameters: dict[str, float]
    """Learned parameters of the method by name."""
    method: Method
    """The method with them, as far as they are its own."""
    log: pd.DataFrame
    """One row a pass: loss, seconds, spans without a finite gradient, parameters; rmse where there is a truth."""


def train_through(
    cycle: Cycle,
    observations: Observations,
    initial: xr.Dataset,
    *,
    span: int = 10,
    passes: int = 1,
    learning_rate: float | Sequence[float] = 1e-3,
    parameters: Mapping[str, float] | None = None,
    parameter_rate: float = 0.01,
    truth: xr.Dataset | None = None,
    loss: str = "innovation",
    forcing: xr.Dataset | None = None,
    time_step: Any = None,
    optimizer: Any = "adam",
    clip: float | None = 1.0,
    burn_in: int = 0,
    seed: int = 0,
    directory: str | os.PathLike[str] | None = None,
    show: bool = True,
) -> Trained:
    """Train the step of a cycle, and parameters of its method, end to end on observations.

    Parameters
    ----------
    cycle
        With a :class:`Method` and a step whose trainable weights, if any, are trained in place.
    observations, initial, forcing, time_step
        As for :meth:`Cycle.run`.
    span
        Number of calls of the method, mostly one analysis each, that a gradient goes through.
    passes
        Number of passes over the observations.
    learning_rate
        A number, or one for each pass; it falls within each by a cosine to a tenth.
    parameters
        First values of positive parameters to be learned, through their logarithms: any number of the method by its name
        (``"inflation"``), ``"model_error"`` the standard deviation of a white model error (or a factor on that of the cycle),
        ``"background_error"`` a factor on the standard deviation of the method's B.
    parameter_rate
        Learning rate of the logarithms of the parameters.
    truth
        The true state at the analysis times; compared, and needed for ``loss="truth"``.
    loss
        ``"innovation"``: the innovation likelihood for each observation; of an ensemble with all covariances, else of each
        observation alone. ``"truth"``: the mean square error of the mean analysis.
    optimizer
        Name, or Keras optimizer.
    clip
        Longest gradient, by its norm: chaos makes some very long. None: any.
    burn_in
        Number of analyses at the beginning of a pass that are run but not trained on.
    seed
        Of the random numbers of the method.
    directory
        Where weights, optimizer and log are kept after each pass; training with the same arguments, and as many passes or
        more, goes on from there. None: nowhere.
    show
        Whether to draw a progress bar on a terminal.

    Raises
    ------
    ValueError
        For unknown parameters and losses, where there is nothing to train, or where forecasts are not finite.

    Examples
    --------
    >>> cycle = Cycle(RK4(network, 0.05), ETKF(), state_names=["x"])  # doctest: +SKIP
    >>> trained = train_through(cycle, observations, members, parameters={"inflation": 1.02})  # doctest: +SKIP
    """
    rates = list(learning_rate) if isinstance(learning_rate, Sequence) else [learning_rate]
    with _backend.float64():
        course = cycle.course(initial, observations, forcing, time_step=time_step, seed=seed)
        through = Through(course, span=span, parameters=parameters or {}, loss=loss, truth=truth)
        trainer = _Trainer(through, optimizer, clip, parameter_rate / rates[0])
        settings = {
            "span": span,
            "loss": loss,
            "seed": seed,
            "rates": rates,
            "burn_in": burn_in,
            "parameters": dict(parameters or {}),
            "method": digest(course.method),
            **course.identity(),
        }
        checkpoint = Checkpoint(directory, settings, "through")
        log = trainer.resume(checkpoint)
        with _progress.bar("training through cycles", passes, show=show) as done:
            for number in range(passes):
                if number >= len(log):
                    log.append(trainer.once(number, rates[min(number, len(rates) - 1)], burn_in))
                    trainer.keep(checkpoint, log)
                done(1)
        table = pd.DataFrame(log)
        table.index.name = "pass"
        found = {name: float(np.exp(values([v])[0])) for name, v in through.logs.items()}
        own = {name: value for name, value in found.items() if name not in (*SPECIAL, "model_error")}
        return Trained(found, replace(course.method, **own), table)


SPECIAL = ("background_error",)


class Through:
    """The loss of a span of calls as a function of weights and parameters.

    Parameters
    ----------
    course
        From :meth:`Cycle.course`.
    span, parameters, loss, truth
        As for :func:`train_through`.
    """

    def __init__(
        self,
        course: Course,
        *,
        span: int,
        parameters: Mapping[str, float],
        loss: str = "innovation",
        truth: xr.Dataset | None = None,
    ) -> None:
        self.course, self.span, self.loss, self.seed = course, int(span), loss, int(np.ravel(course.runner.seed)[0])
        if loss not in ("innovation", "truth") or (loss == "truth" and truth is None):
            what = "train_through: the loss is not known, or has no truth"
            refuse(what, "'innovation', or 'truth' with truth=", loss, "pass one of these")
        self.logs: dict[str, Any] = {}
        numbers = {f.name for f in fields(course.method) if isinstance(getattr(course.method, f.name), int | float)}
        for name, value in parameters.items():
            if name not in numbers and name not in (*SPECIAL, "model_error"):
                known = sorted({*numbers, *SPECIAL, "model_error"})
                refuse(f"train_through: unknown parameter {name!r}", known, name, "name one of these")
            if not value > 0:
                refuse(f"train_through: {name} is not positive", "> 0", value, "parameters={'inflation': 1.02}")
            self.logs[name] = keras.Variable(float(np.log(value)), dtype="float64", name=name)
        self.weights = list(getattr(course.step, "trainable_variables", None) or [])
        self.variables = [*self.weights, *self.logs.values()]
        if not self.variables:
            remedy = "a step with weights, or parameters={...}"
            refuse("train_through: there is nothing to train", "weights or parameters", "none", remedy)
        self.rank = course.vector.size if "model_error" in self.logs else 0
        inner = course.problem().model_error
        self.rank = inner.rank if inner is not None else self.rank
        self.truth: np.ndarray | None = None
        if truth is not None:
            labels, vector = course.labels, course.vector
            there = [truth[n].sel({labels.time: labels.times}, method="nearest") for n in vector.names]
            stacked = np.stack([t.transpose(..., *vector.space).values for t in there], axis=-1)
            self.truth = vector.vector(stacked.astype("float64"))
        self.windows = course.windows
        self.background: Scaled | None = None
        if "background_error" in self.logs:
            size, given = course.vector.size, getattr(course.method, "background_error", None)
            if given is None:
                what = f"{type(course.method).__name__} has no background error"
                refuse(what, "a method with background_error", None, "drop the parameter")
            b = bind(given, size, geometry=course.vector.geometry)
            self.background = Scaled(size, 1.0, b, self.logs["background_error"])
        others = [v for v in getattr(course.step, "variables", None) or [] if not any(v is w for w in self.weights)]
        self.gradient = _backend.gradients(self.value, self.variables, others)

    def method(self) -> Method:
        """Return the method with the present parameters, as tensors."""
        own = {n: ops.exp(ops.convert_to_tensor(v)) for n, v in self.logs.items() if n not in (*SPECIAL, "model_error")}
        if self.background is not None:
            own["background_error"] = self.background
        return replace(self.course.method, **own) if own else self.course.method

    def problem(self, inputs: Any, forward: Callable[[Any, Any], Any]) -> Problem:
        """Return the problem with the present model error; *forward* takes states and forcing one analysis time further."""

        def propagate(x: Any, k: int) -> Any:
            return forward(x, None if inputs is None else inputs[k])

        problem = replace(self.course.problem(inputs), propagate=propagate)
        if "model_error" not in self.logs:
            return problem
        noise = Scaled(self.course.vector.size, 1.0, problem.model_error, self.logs["model_error"])
        return replace(problem, model_error=noise)

    def value(self, state: State, seen: Any, draws: Any, inputs: Any, target: Any) -> tuple[Any, Any]:
        """Return the loss of a span, and its last state with the mean analyses."""
        total, means, method = 0.0, [], self.method()
        # One function for all calls, or it would be compiled for each.
        forward = _backend.fused(self.course.propagate) if self.course.runner.fused else self.course.propagate
        for k in range(len(seen)):
            problem = self.problem(None if inputs is None else inputs[k], forward)
            state, output = method(problem, state, seen[k], draws[k])
            mean = _backend.mean(output.analysis, axis=1)
            means.append(mean)
            if self.loss == "truth":
                total = total + ops.sum(ops.square(mean - target[k])) / float(np.prod(mean.shape))
            else:
                total = total + _likelihood(method, problem, seen[k], output)
        return total / len(seen), (state, ops.concatenate(means))

    def spans(self) -> list[list[int]]:
        """Return the numbers of the calls of each whole span after the first call, which may be of another length."""
        rest = range(1 if self.course.method.first != self.course.method.count else 0, len(self.windows))
        last = len(rest) - len(rest) % self.span
        return [list(rest[i : i + self.span]) for i in range(0, last, self.span)]

    def arguments(self, calls: list[int]) -> tuple[Any, Any, Any, Any]:
        """Return observations, random numbers, forcing and truth of calls."""
        course, (members, size) = self.course, self.course.ensemble.shape
        seen, draws, inputs, target = [], [], [], []
        for number in calls:
            start, stop, count = self.windows[number]
            seen.append(course.seen(start, stop))
            rng = np.random.default_rng((self.seed, number))
            draws.append(course.method.draws(rng, members, size, course.rows.values.shape[1], count, self.rank))
            inputs.append(course.inputs(start, stop))
            if self.truth is not None:
                target.append(self.truth[stop - count : stop])
        held = None if inputs[0] is None else tuple(inputs)
        return tuple(seen), tuple(draws), held, tuple(target) if self.loss == "truth" else None


def _likelihood(method: Method, problem: Problem, seen: Seen, output: Output) -> Any:
    """Return minus the logarithm of the density of the innovations of a call, for each observation."""
    new, innovation = output.innovation.shape[0], output.innovation
    at = [seen.at(seen.values.shape[0] - new + k) for k in range(new)]
    # Observations set aside as gross errors say nothing of the model either.
    there = ops.stack([problem.screen(at[k], innovation[k], output.innovation_std[k])[0].valid for k in range(new)])
    there = ops.logical_and(there, ops.isfinite(innovation))
    used = ops.maximum(ops.sum(ops.cast(there, "float64")), 1.0)
    if not method.ensemble or output.forecast_std is not None:
        std = ops.where(there, output.innovation_std, 1.0)
        z = ops.where(there, innovation, 0.0) / std
        return ops.sum(0.5 * ops.square(z) + ops.where(there, ops.log(std * np.sqrt(2 * np.pi)), 0.0)) / used
    total: Any = 0.0
    for k in range(new):
        observed = problem.observe(output.forecast[k], at[k])
        y = observed - _backend.mean(observed, axis=0)
        hph = ops.matmul(ops.transpose(y), y) / (observed.shape[0] - 1)
        total = total + innovation_likelihood(ops.where(there[k], innovation[k], np.nan), hph, at[k].error_std)
    return total / used


class _Trainer:
    """Passes over the spans."""

    def __init__(self, through: Through, optimizer: Any, clip: float | None, ratio: float) -> None:
        self.through, self.clip = through, clip
        first = keras.optimizers.get(optimizer)
        # Weights and logarithms of parameters differ in scale: each group has a rate of its own.
        groups = (through.weights, list(through.logs.values()))
        both = (first, type(first).from_config(first.get_config()))
        self.groups = [(o, g, r) for o, g, r in zip(both, groups, (1.0, ratio), strict=True) if g]
        for optimizer, group, _ in self.groups:
            optimizer.build(group)

    @property
    def moments(self) -> list[Any]:
        """Variables of the optimizers."""
        return [v for optimizer, _, _ in self.groups for v in optimizer.variables]

    def resume(self, checkpoint: Checkpoint) -> list[dict[str, float]]:
        """Return the log of what was done before, and take up its weights."""
        kept = checkpoint.load()
        if kept is None:
            return []
        assign(self.through.variables, kept["weights"])
        assign(self.moments, kept["optimizer"])
        return list(kept["log"])

    def keep(self, checkpoint: Checkpoint, log: list[dict[str, float]]) -> None:
        """Write a checkpoint."""
        checkpoint.save({"log": log}, weights=values(self.through.variables), optimizer=values(self.moments))

    def once(self, number: int, rate: float, burn_in: int) -> dict[str, float]:
        """Return the log of one pass."""
        clock, through, course = time.perf_counter(), self.through, self.through.course
        start, stop, _ = through.windows[0]
        state = tensors(course.runner.start(course.ensemble, course.inputs(start, stop)))
        spans, losses, skipped, errors = through.spans(), [], 0, []
        if not spans:
            remedy = f"a span shorter than {through.span}"
            refuse("train_through: too few observations", f"{through.span} calls", len(through.windows), remedy)
        latest = through.windows[spans[-1][0]]
        if burn_in > latest[1] - latest[2]:
            received, remedy = f"burn_in={burn_in}", "a shorter burn_in, or more observations"
            refuse("train_through: nothing is left to train on", f"at most {latest[1] - latest[2]}", received, remedy)
        for i, calls in enumerate(spans):
            arguments = through.arguments(calls)
            first, last = through.windows[calls[0]], through.windows[calls[-1]]
            cause = None
            try:
                loss, (state, means), slopes = through.gradient(tensors(state), *map(tensors, arguments))
            except Exception as error:
                if not _backend.is_not_finite(error):
                    raise
                loss, cause = np.nan, error
            if not np.isfinite(float(loss)):
                text = describe(
                    f"the loss is not finite about {course.labels.times[min(first[1], len(course.labels.times)) - 1]}",
                    expected="a step that stays bounded",
                    received=float(loss),
                    remedy="a smaller learning_rate, or first train on analyses",
                )
                raise ValueError(text) from cause
            begin = first[1] - first[2]
            if through.truth is not None:
                errors.append(np.asarray(means) - through.truth[begin : last[1]])
            if begin < burn_in:
                continue
            losses.append(float(loss))
            length = float(np.sqrt(sum(float(ops.sum(ops.square(g))) for g in slopes)))
            if not np.isfinite(length):
                skipped += 1
                continue
            factor = 1.0 if self.clip is None else min(1.0, self.clip / max(length, 1e-300))
            falling, rest = rate * (0.1 + 0.45 * (1 + np.cos(np.pi * i / len(spans)))), list(slopes)
            for optimizer, group, ratio in self.groups:
                optimizer.learning_rate = ratio * falling
                own, rest = rest[: len(group)], rest[len(group) :]
                optimizer.apply([factor * g for g in own], group)
        row = {"loss": float(np.mean(losses)), "skipped": float(skipped), "seconds": time.perf_counter() - clock}
        if errors:
            row["rmse"] = float(np.sqrt(np.mean(np.concatenate(errors)[burn_in:] ** 2, axis=1)).mean())
        return row | {name: float(np.exp(values([v])[0])) for name, v in through.logs.items()}


def tensors(tree: Any) -> Any:
    """Return a nested structure of arrays as one of tensors, None for an absent one."""
    if isinstance(tree, dict):
        return {k: tensors(v) for k, v in tree.items()}
    if isinstance(tree, tuple):
        parts = [tensors(v) for v in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return None if tree is None else ops.convert_to_tensor(tree)
