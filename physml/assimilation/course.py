"""The course of a run by a method: state vector, problem, observations and forcing of each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml.assimilation.labelling import Columns, Labels
from physml.assimilation.method import Method, Output, Problem, Seen, State
from physml.assimilation.rows import Rows
from physml.assimilation.runner import Runner
from physml.assimilation.steps import evaluate
from physml.assimilation.times import refuse
from physml.assimilation.vector import StateVector


class Course:
    """A run by a method, prepared: what :meth:`Cycle.run` goes through call by call, and learning through cycles too.

    Parameters
    ----------
    step, method, after
        Of the cycle.
    vector
        Layout of the state vector.
    ensemble
        Members or runs at the start, ``[N, n]``.
    rows
        Observations by analysis time.
    every
        Number of steps from one analysis to the next.
    held
        Forcing ``[every, 1 or N, *space, channel]`` of the steps before the analysis of a number; None: none.
    dtype
        Of the state that the step sees.
    problem
        The problem without propagation: geometry, model error and limit of gross errors.
    seed, members
        Of the run.
    fused
        Whether XLA compiles the propagation on TensorFlow.
    labels
        Names of the output.
    forward
        Another way to propagate, ``(x [N, n], forcing) -> [N, n]``, that cannot be compiled; None: one batch.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        method: Method,
        after: Callable[[Any], Any] | None,
        vector: StateVector,
        ensemble: np.ndarray,
        rows: Rows,
        every: int,
        held: Callable[[int], np.ndarray] | None,
        dtype: str,
        problem: Problem,
        seed: int,
        members: bool,
        fused: bool,
        labels: Labels,
        forward: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.step, self.method, self.after, self.vector, self.ensemble = step, method, after, vector, ensemble
        self.rows, self.every, self.held, self.dtype, self.labels = rows, every, held, dtype, labels
        self.compiled, self.forward = forward is None, forward or self.propagate
        self._problem = replace(problem, observe=rows.observe(vector))
        variables = list(getattr(step, "variables", None) or [])
        told = _Told(method=method, after=None if after is None else self._constrained, members=members)
        self.runner = Runner(told, self.problem, seed=seed, variables=variables, fused=fused and self.compiled)
        count = len(rows.values)
        self.times = method.first + method.count * max(0, -(-(count - method.first) // method.count))
        self._windows = list(self.windows())
        self.portions = len(self._windows)

    def windows(self) -> Iterator[tuple[int, int, int]]:
        """Yield for each call the window of analysis times [start, stop) and how many of them are new."""
        return self.runner.windows(self.times)

    def propagate(self, x: Any, held: Any = None) -> Any:
        """Return ``[N, n]`` one analysis time later, in float64; *held* is the forcing of the steps between."""
        state = ops.cast(self.vector.fields(x), self.dtype)
        for i in range(self.every):
            now = None
            if held is not None:
                now = ops.cast(held[i], self.dtype)
                now = ops.broadcast_to(now, (state.shape[0], *now.shape[1:]))
            state = evaluate(self.step, state, now)
        return ops.cast(self.vector.vector(state), "float64")

    def problem(self, inputs: Any = None) -> Problem:
        """Return the problem under the forcing of a call (:meth:`inputs`)."""

        def propagate(x: Any, k: int) -> Any:
            return self.forward(x, None if inputs is None else inputs[k])

        return replace(self._problem, propagate=propagate)

    def inputs(self, start: int, stop: int) -> np.ndarray | None:
        """Return the forcing of a window, ``[time, every, 1 or N, *space, channel]``; beyond the end the last is held."""
        if self.held is None:
            return None
        last = len(self.rows.values) - 1
        return np.stack([self.held(min(max(t, 0), last)) for t in range(start, stop)])

    def seen(self, start: int, stop: int) -> Seen:
        """Return the observations of a window."""
        return self.rows.seen(start, stop)

    def _constrained(self, x: Any) -> Any:
        assert self.after is not None
        state = self.after(ops.cast(self.vector.fields(x), self.dtype))
        return ops.cast(self.vector.vector(state), "float64")

    def start(self) -> State:
        """Return the state of the method before the first call."""
        start, stop, _ = self._windows[0]
        return self.runner.start(self.ensemble, self.inputs(start, stop))

    def draws(self, number: int) -> dict[str, np.ndarray]:
        """Return the random numbers of a call."""
        members, size = self.ensemble.shape
        return self.runner.draws(number, members, size, self.rows.values.shape[1], self._windows[number][2])

    def advance(self, number: int, state: State) -> tuple[State, Columns]:
        """Return the state after one more call, and what is told of its analysis times."""
        start, stop, count = self._windows[number]
        arguments = (state, self.seen(start, stop), self.draws(number), self.inputs(start, stop))
        if self.compiled:
            state, told = self.runner.call(*arguments)
        else:
            with _backend.float64():
                state, told = self.runner.method(self.problem(arguments[-1]), *_tensors(arguments[:-1]))
        columns = {name: ops.convert_to_numpy(value) for name, value in told.items()}
        forecast = columns["forecast_mean" if "forecast_mean" in columns else "forecast"]
        inside = min(count, len(self.rows.values) - (stop - count))
        bad = ~np.isfinite(forecast[:inside].reshape(inside, -1)).all(axis=1)
        if bad.any():
            when = self.labels.times[stop - count + int(bad.argmax())]
            what = f"the forecast is not finite at the analysis of {when}"
            refuse(what, "finite values", "NaN or inf", "look at a free run, or at the inflation")
        return state, {name: value[:inside] for name, value in columns.items()}

    def label(self, columns: Columns) -> dict[str, Any]:
        """Return variables of the output."""
        labels, out = self.labels, {}
        one = labels.members is None

        def fields(key: str, channel: int) -> np.ndarray:
            values = columns[key][:, 0] if one and columns[key].ndim == 3 else columns[key]
            return self.vector.fields(values, np.nan)[..., channel]

        mean = self.method.ensemble
        parts = {
            "": ("mean" if mean else "analysis", labels.field, ""),
            "_forecast": ("forecast_mean" if mean else "forecast", labels.field, "forecast"),
            "_std": ("spread", labels.spread, "standard deviation of the analysis"),
            "_forecast_std": ("forecast_spread", labels.spread, "standard deviation of the forecast"),
            "_smoothed": ("smoothed_mean" if mean else "smoothed", labels.field, "smoothed analysis"),
        }
        if mean:
            parts["_members"] = ("analysis", labels.field, "members of the analysis")
        for c, name in enumerate(self.vector.names):
            for suffix, (key, make, text) in parts.items():
                if key in columns:
                    out[name + suffix] = make(fields(key, c), c, text)
        told = {k: v[:, 0] if one and v.ndim == (3 if k in PER_OBSERVATION else 2) else v for k, v in columns.items()}
        return out | labels.statistics(told)


PER_OBSERVATION = ("innovation", "innovation_std")
STATISTICS = (*PER_OBSERVATION, "chi2", "used", "rejected")


@dataclass(frozen=True, eq=False, kw_only=True)
class _Told(Method):
    """A method that tells of its members their mean and spread, so that they need not leave the compiled call."""

    method: Method
    after: Callable[[Any], Any] | None
    members: bool

    @property
    def count(self) -> int:
        return self.method.count

    @property
    def lag(self) -> int:
        return self.method.lag

    @property
    def first(self) -> int:
        return self.method.first

    def draws(
        self, rng: np.random.Generator, members: int, size: int, observed: int, count: int
    ) -> dict[str, np.ndarray]:
        return self.method.draws(rng, members, size, observed, count)

    def start(self, problem: Problem, ensemble: Any) -> State:
        return self.method.start(problem, ensemble)

    def __call__(self, problem: Problem, state: State, seen: Seen, draws: dict[str, Any]) -> tuple[State, Any]:
        state, output = self.method(problem, state, seen, draws)
        if self.after is not None:
            state = {**state, "ensemble": self.after(state["ensemble"])}
            count, members, size = output.analysis.shape
            flat = self.after(ops.reshape(output.analysis, (count * members, size)))
            output = output._replace(analysis=ops.reshape(flat, (count, members, size)))
        return state, self._columns(output)

    def _columns(self, output: Output) -> dict[str, Any]:
        out = {name: getattr(output, name) for name in STATISTICS}
        if self.method.ensemble:
            out |= {"mean": ops.mean(output.analysis, axis=1), "forecast_mean": ops.mean(output.forecast, axis=1)}
            out["spread"] = spread(output.analysis) if output.std is None else output.std
            out["forecast_spread"] = spread(output.forecast) if output.forecast_std is None else output.forecast_std
            if output.smoothed is not None:
                out["smoothed_mean"] = ops.mean(output.smoothed, axis=1)
            return {**out, "analysis": output.analysis} if self.members else out
        known = {"spread": output.std, "forecast_spread": output.forecast_std, "smoothed": output.smoothed}
        out |= {"analysis": output.analysis, "forecast": output.forecast}
        return out | {name: value for name, value in known.items() if value is not None}


def spread(ensemble: Any) -> Any:
    """Return the standard deviation of the members, ``[count, n]`` from ``[count, N, n]``; of one member NaN."""
    members = ensemble.shape[1]
    return ops.std(ensemble, axis=1) * (np.sqrt(members / (members - 1)) if members > 1 else np.nan)


def _tensors(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _tensors(v) for k, v in tree.items()}
    if isinstance(tree, Seen):
        return Seen(*map(_tensors, tree))
    if isinstance(tree, tuple):
        return tuple(map(_tensors, tree))
    return None if tree is None else ops.convert_to_tensor(tree)
