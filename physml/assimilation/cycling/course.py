"""The course of a run by a method: state vector, problem, observations and forcing of each call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.cycling.identity import digest
from physml.assimilation.cycling.labelling import Columns, Labels
from physml.assimilation.cycling.workers import OverDask
from physml.assimilation.method import Method, Output, Problem, Seen, State
from physml.assimilation.methods.runner import Runner, in_blocks, summary
from physml.assimilation.observing.rows import Rows
from physml.assimilation.steps import evaluate
from physml.assimilation.vector import StateVector

BLOCK_BYTES, LONGEST = 32e6, 40
"""Size of what goes in and out of one compiled loop [bytes], and the largest number of calls in it."""

GROWN = 1e6
"""A state so many times as large as the first has blown up: the matrices of an analysis are singular in sixteen digits."""

UNROLLED = 4
"""Up to so many steps between analyses are written out; XLA takes minutes to compile fifty."""


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
    chunk
        Number of analysis times that are written together; no more are gone through in one compiled loop. 0: a tenth of the
        run. None: nothing is written.
    share
        The step on blocks of members by dask, which cannot be compiled; None: one batch.
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
        share: OverDask | None = None,
        chunk: int | None = None,
    ) -> None:
        self.step, self.method, self.after, self.vector, self.ensemble = step, method, after, vector, ensemble
        self.rows, self.every, self.held, self.dtype, self.labels = rows, every, held, dtype, labels
        self.compiled, self.share, self.seed, self.members = share is None, share, seed, members
        self._problem = replace(problem, observe=rows.observe(vector))
        variables = list(getattr(step, "variables", None) or [])
        told = _Told(method=method, after=None if after is None else self._constrained, members=members)
        self.runner = Runner(told, self.problem, seed=seed, variables=variables, fused=fused and self.compiled)
        windows = method.first + method.count * max(0, -(-(len(rows.values) - method.first) // method.count))
        # Beyond the last time nothing is observed, and nothing is told.
        self.windows = list(self.runner.windows(windows))
        longest = 1
        if self.compiled:
            fits = int(BLOCK_BYTES // max(1, self._bytes(members)))
            stored = LONGEST if chunk is None else (chunk or -(-len(rows.values) // 10)) // method.count
            longest = max(1, min(LONGEST, fits, stored))
        self.blocks = list(in_blocks(self.windows, longest))
        self.portions = len(self.blocks)

    def _bytes(self, members: bool) -> int:
        """Return the size of what one call takes and gives."""
        several = 4 + len(self.ensemble) * (members or not self.method.ensemble)
        window = self.method.lag + self.method.count
        forcing = 0 if self.held is None else self.held(0).nbytes
        return 8 * self.method.count * several * self.vector.size + window * (self.rows.width_bytes + forcing)

    def propagate(self, x: Any, held: Any = None) -> Any:
        """Return ``[N, n]`` one analysis time later, in float64; *held* is the forcing of the steps between."""
        state = ops.cast(self.vector.fields(x), self.dtype)
        if self.share is not None:
            return ops.cast(self.vector.vector(self.share.steps(state, self.every, held)), "float64")

        def forward(state: Any, now: Any) -> Any:
            if now is not None:
                now = ops.cast(now, self.dtype)
                now = ops.broadcast_to(now, (state.shape[0], *now.shape[1:]))
            return ops.cast(evaluate(self.step, state, now), self.dtype)

        if self.compiled and self.every > UNROLLED:
            xs = {"count": ops.zeros((self.every,)), "held": held}
            state, _ = _backend.scan(lambda s, x: (forward(s, x["held"]), x["count"]), state, xs)
        else:
            for i in range(self.every):
                state = forward(state, None if held is None else held[i])
        return ops.cast(self.vector.vector(state), "float64")

    def problem(self, inputs: Any = None) -> Problem:
        """Return the problem under the forcing of a call (:meth:`inputs`)."""

        def propagate(x: Any, k: int) -> Any:
            return self.propagate(x, None if inputs is None else inputs[k])

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
        start, stop, _ = self.windows[0]
        return self.runner.start(self.ensemble, self.inputs(start, stop))

    def draws(self, number: int) -> dict[str, np.ndarray]:
        """Return the random numbers of a call."""
        members, size = self.ensemble.shape
        noise = 0 if self._problem.model_error is None else self._problem.model_error.rank
        width = self.rows.values.shape[1]
        return self.runner.draws(number, members, size, width, self.windows[number][2], noise)

    def advance(self, number: int, state: State) -> tuple[State, Columns]:
        """Return the state after one more block of calls, and what is told of their analysis times."""
        calls = self.blocks[number]
        seen = [self.seen(start, stop) for _, start, stop, _ in calls]
        draws = [self.draws(call) for call, *_ in calls]
        inputs: Any = [self.inputs(start, stop) for _, start, stop, _ in calls]
        told: Any
        if self.compiled:
            held = None if self.held is None else np.stack(inputs)
            try:
                if len(calls) == 1:
                    # The first call of a window may keep more than it was given, which a loop cannot.
                    after, told = self.runner.call(state, seen[0], draws[0], None if held is None else held[0])
                    told = {name: value[None] for name, value in told.items()}
                else:
                    several = Seen(*[None if a[0] is None else np.stack(a) for a in zip(*seen, strict=True)])
                    drawn = {name: np.stack([d[name] for d in draws]) for name in draws[0]}
                    after, told = self.runner.calls(state, several, drawn, held)
            except Exception:
                # Eigenvalues and Cholesky factors of NaN fail before the output can be looked at.
                self._require_finite(state, calls)
                raise
            state = after
        else:
            with _backend.float64():
                state, told = self.runner.method(
                    self.problem(inputs[0]),
                    state,
                    Seen(*[None if a is None else ops.convert_to_tensor(a) for a in seen[0]]),
                    {name: ops.convert_to_tensor(a) for name, a in draws[0].items()},
                )
                told = {name: value[None] for name, value in told.items()}
        columns = {name: np.concatenate(ops.convert_to_numpy(value)) for name, value in told.items()}
        first = calls[0][2] - calls[0][3]
        inside = min(calls[-1][2], len(self.rows.values)) - first
        forecast = columns["forecast_mean" if "forecast_mean" in columns else "forecast"]
        bad = ~np.isfinite(forecast[:inside].reshape(inside, -1)).all(axis=1)
        if bad.any():
            self._refuse(first + int(bad.argmax()))
        return state, {name: value[:inside] for name, value in columns.items()}

    def _require_finite(self, state: State, calls: list[tuple[int, int, int, int]]) -> None:
        """Refuse the first forecast that is not finite, by going through a block call by call."""
        for number, start, stop, count in calls:
            inputs = self.inputs(start, stop)
            x = ops.convert_to_numpy(self.propagate(state["ensemble"], None if inputs is None else inputs[0]))
            if not self.bounded(x):
                self._refuse(stop - count, f"a state of size {np.abs(x).max():.1e}")
            state, _ = self.runner.call(state, self.seen(start, stop), self.draws(number), inputs)

    def bounded(self, x: np.ndarray) -> bool:
        """Whether states are finite and of a size that an analysis can work with."""
        return bool((np.abs(x) <= GROWN * max(np.abs(self.ensemble).max(), 1e-30)).all())

    def _refuse(self, time: int, received: str = "NaN or inf") -> NoReturn:
        what = f"the forecast is not finite at the analysis of {self.labels.times[time]}"
        refuse(what, "finite values", received, "look at a free run, or at the inflation")

    def tail(self, state: State) -> Columns:
        """Return what is told after the last call: the last times of a smoother, as smoothed as they get."""
        if not self.labels.late or "past" not in state:
            return {}
        return {"smoothed_mean": ops.convert_to_numpy(state["past"]).mean(axis=1)}

    def identity(self) -> dict[str, str]:
        """Return digests of what the run follows from, but for the cycle itself."""
        parts = {
            "initial": [self.ensemble, self.vector],
            "observations": self.rows,
            "options": [self.every, self.dtype, self.seed, self.members, len(self.rows.values), self.labels.times],
        }
        held, times = self.held, range(len(self.rows.values))
        parts["forcing"] = None if held is None else [digest(held(t)) for t in times]
        return {name: digest(part) for name, part in parts.items()}

    def label(self, columns: Columns) -> dict[str, Any]:
        """Return variables of the output."""
        labels, out = self.labels, {}
        one = not self.method.ensemble and labels.members is None

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
        if "chi2" not in columns:
            return out
        told = {k: v[:, 0] if one and v.ndim == (3 if k in PER_OBSERVATION else 2) else v for k, v in columns.items()}
        return out | labels.statistics(told)


PER_OBSERVATION = ("innovation", "innovation_std", "residual")
MOMENTS = ("mean", "forecast_mean", "spread", "forecast_spread")
STATISTICS = ("innovation", "innovation_std", "chi2", "used", "rejected")


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
        self, rng: np.random.Generator, members: int, size: int, observed: int, count: int, noise: int = 0
    ) -> dict[str, np.ndarray]:
        return self.method.draws(rng, members, size, observed, count, noise)

    def start(self, problem: Problem, ensemble: Any) -> State:
        return self.method.start(problem, ensemble)

    def __call__(self, problem: Problem, state: State, seen: Seen, draws: dict[str, Any]) -> tuple[State, Any]:
        state, output = self.method(problem, state, seen, draws)
        if self.after is not None:
            state = {**state, "ensemble": self.after(state["ensemble"])}
            count, members, size = output.analysis.shape
            flat = self.after(ops.reshape(output.analysis, (count * members, size)))
            output = output._replace(analysis=ops.reshape(flat, (count, members, size)))
        return state, {**self._columns(output), "residual": self._residual(problem, output, seen)}

    def _residual(self, problem: Problem, output: Output, seen: Seen) -> Any:
        """Return d - H(mean analysis), ``[count, m]``, NaN where missing."""
        count = output.analysis.shape[0]
        earlier, rows = seen.values.shape[0] - count, []
        for t in range(count):
            at, mean = seen.at(earlier + t), _backend.mean(output.analysis[t], axis=0, keepdims=True)
            rows.append(ops.where(at.valid, at.values - problem.observe(mean, at)[0], np.nan))
        return ops.stack(rows)

    def _columns(self, output: Output) -> dict[str, Any]:
        if self.method.ensemble:
            smoothed = () if output.smoothed is None else ("smoothed_mean",)
            members = ("analysis",) if self.members else ()
            return summary(output, (*STATISTICS, *MOMENTS, *smoothed, *members))
        out = {name: getattr(output, name) for name in STATISTICS}
        known: dict[str, Any] = {
            "spread": output.std,
            "forecast_spread": output.forecast_std,
            "smoothed": output.smoothed,
        }
        out |= {"analysis": output.analysis, "forecast": output.forecast}
        return out | {name: value for name, value in known.items() if value is not None}
