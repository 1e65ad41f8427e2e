"""Running a method: its calls compiled once, and a plain loop over arrays for test beds, twin experiments and benchmarks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.method import Method, Output, Problem, Seen, State

SUMMARIES = ("forecast_mean", "forecast_spread", "mean", "spread", "chi2", "used", "rejected")
"""What :func:`drive` keeps unless told otherwise."""


class Runner:
    """The calls of one method on one problem, compiled once for each set of shapes.

    Parameters
    ----------
    method
        Any :class:`Method`.
    problem
        What it assimilates into; or a function of the *inputs* of a call (whatever changes from call to call, such as the
        forcing) that returns it, and is called inside the compiled function.
    seed
        Call number c draws from ``numpy.random.default_rng((seed, c))``, so that a restart draws the same.
    variables
        Keras variables that the problem reads and that may change between calls.
    fused
        Whether XLA compiles the propagation on TensorFlow too: five times faster for chains of small operations, but it
        takes longer to compile. JAX always does.
    keep
        Names of what :meth:`call` returns (:func:`summary`); None: the whole :class:`Output`.
    """

    def __init__(
        self,
        method: Method,
        problem: Problem | Callable[[Any], Problem],
        *,
        seed: int = 0,
        variables: list[Any] | None = None,
        fused: bool = True,
        keep: Sequence[str] | None = None,
    ) -> None:
        self.method, self.problem, self.seed, self.fused = method, problem, seed, fused
        self.keep = keep if keep is None else tuple(keep)
        self._compiled = _backend.traced(self._call, variables=variables)
        self._block = _backend.traced(self._calls, variables=variables)

    def _problem(self, inputs: Any) -> Problem:
        problem = self.problem if isinstance(self.problem, Problem) else self.problem(inputs)
        if not self.fused or self.method.differentiates:
            return problem
        inner, made = problem.propagate, {}

        def propagate(x: Any, k: int) -> Any:
            if k not in made:
                made[k] = _backend.fused(lambda x: inner(x, k))
            return made[k](x)

        return replace(problem, propagate=propagate)

    def _call(self, state: State, seen: Seen, draws: dict[str, Any], inputs: Any) -> tuple[State, Any]:
        state, output = self.method(self._problem(inputs), state, seen, draws)
        return state, output if self.keep is None else summary(output, self.keep)

    def _calls(self, state: State, seen: Seen, draws: dict[str, Any], inputs: Any) -> tuple[State, Any]:
        return _backend.scan(lambda state, x: self._call(state, *x), state, (seen, draws, inputs))

    def start(self, ensemble: Any, inputs: Any = None) -> State:
        """Return the state of a run that starts from the members ``[N, n]``."""
        problem = self.problem if isinstance(self.problem, Problem) else self.problem(inputs)
        with _backend.float64():
            return self.method.start(problem, ops.convert_to_tensor(np.asarray(ensemble, "float64")))

    def draws(
        self, call: int, members: int, size: int, observed: int, count: int, noise: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the random numbers of call number *call*; *noise* is the rank of the model error, 0 without one."""
        return self.method.draws(np.random.default_rng((self.seed, call)), members, size, observed, count, noise)

    def call(self, state: State, seen: Seen, draws: dict[str, Any], inputs: Any = None) -> tuple[State, Any]:
        """Return the state at the last time of the call, and what the method tells, as tensors.

        Parameters
        ----------
        state
            Of :meth:`start` or of the call before.
        seen
            Observations of the window, ``[lag + count, m]``; in the first call ``[first, m]``.
        draws
            Of :meth:`draws`.
        inputs
            Nested structure of arrays for a *problem* that is a function of them.
        """
        with _backend.float64():
            return self._compiled(state, seen, draws, inputs)

    def calls(self, state: State, seen: Seen, draws: dict[str, Any], inputs: Any = None) -> tuple[State, Any]:
        """Return the same of several calls in a row, in one compiled loop: everything but the state is ``[calls, ...]``."""
        with _backend.float64():
            return self._block(state, seen, draws, inputs)

    def run(self, ensemble: Any, seen: Seen) -> dict[str, np.ndarray]:
        """Run over all observations in compiled blocks of calls; for a problem that needs no inputs.

        Parameters
        ----------
        ensemble
            Members at the analysis time before the first, ``[N, n]``.
        seen
            Values ``[time, m]``, NaN where missing; error_std a number, ``[m]`` or ``[time, m]``; index and weights ``[m, k]``
            or ``[time, m, k]``; positions ``[m, d]`` or ``[time, m, d]``.

        Returns
        -------
        dict
            What :meth:`call` returns, by name, along time.
        """
        values = np.asarray(seen.values, "float64")
        if values.ndim != 2:
            refuse("run: observations have the wrong shape", "[time, m]", values.shape, "values[:, None] for m = 1")
        whole = _over_time(seen, values)
        state, told = self.start(ensemble), []
        members, size = np.shape(ensemble)
        error = None if callable(self.problem) else self.problem.model_error
        noise = 0 if error is None else error.rank
        for calls in in_blocks(list(self.windows(len(values)))):
            windows, drawn = [], []
            for number, start, stop, count in calls:
                windows.append(Seen(*[None if a is None else a[start:stop] for a in whole]))
                drawn.append(self.draws(number, members, size, values.shape[1], count, noise))
            if len(calls) == 1:
                state, out = self.call(state, windows[0], drawn[0])
                told.append({name: np.asarray(a) for name, a in _named(out)})
                continue
            block = Seen(*[None if a[0] is None else np.stack(a) for a in zip(*windows, strict=True)])
            state, out = self.calls(state, block, {name: np.stack([d[name] for d in drawn]) for name in drawn[0]})
            told.append({name: np.concatenate(np.asarray(a)) for name, a in _named(out)})
        return {name: np.concatenate([out[name] for out in told]) for name in told[0]}

    def windows(self, times: int) -> Iterator[tuple[int, int, int]]:
        """Yield for each call the window of its observations [start, stop) and how many of its times are new.

        Raises
        ------
        ValueError
            For a number of analysis times that the windows do not fill.
        """
        method = self.method
        rest = times - method.first
        if rest < 0 or rest % method.count:
            many = f"{method.first} + a multiple of {method.count}"
            refuse("the analysis times do not fill the windows", many, times, "pad with missing observations, or cut")
        yield 0, method.first, method.first
        for t in range(method.first, times, method.count):
            yield t - method.lag, t + method.count, method.count


def summary(output: Output, names: Sequence[str]) -> dict[str, Any]:
    """Return parts of an output by name.

    The fields of :class:`Output` under their names; ``mean`` and ``spread`` of the analysis over the members ``[count, n]``,
    likewise ``forecast_mean`` and ``forecast_spread``, and ``smoothed_mean``. Where the method knows a standard deviation it
    is the spread; else the unbiased one of the members.
    """
    ways: dict[str, Callable[[], Any]] = {
        "mean": lambda: _backend.mean(output.analysis, axis=1),
        "forecast_mean": lambda: _backend.mean(output.forecast, axis=1),
        "smoothed_mean": lambda: _backend.mean(output.smoothed, axis=1),
        "spread": lambda: _spread(output.analysis) if output.std is None else output.std,
        "forecast_spread": lambda: _spread(output.forecast) if output.forecast_std is None else output.forecast_std,
    }
    unknown = [name for name in names if name not in ways and name not in Output._fields]
    if unknown:
        refuse("unknown part of the output", sorted({*ways, *Output._fields}), unknown[0], "name one of these")
    return {name: ways[name]() if name in ways else getattr(output, name) for name in names}


def _named(out: Any) -> list[tuple[str, Any]]:
    parts = out._asdict() if isinstance(out, Output) else out
    return [(name, a) for name, a in parts.items() if a is not None]


def _spread(ensemble: Any) -> Any:
    anomalies = ensemble - _backend.mean(ensemble, axis=1, keepdims=True)
    return ops.sqrt(ops.sum(anomalies * anomalies, axis=1) / max(ensemble.shape[1] - 1, 1))


def drive(
    method: Method,
    problem: Problem,
    ensemble: Any,
    seen: Seen,
    *,
    seed: int = 0,
    keep: Sequence[str] = SUMMARIES,
    fused: bool = True,
) -> dict[str, np.ndarray]:
    """Run a method over all observations, and return what it tells as NumPy arrays with a leading axis of time.

    Parameters
    ----------
    method, problem, seed, fused
        As for :class:`Runner`.
    ensemble, seen
        As for :meth:`Runner.run`.
    keep
        What to keep, by the names of :func:`summary`.

    Returns
    -------
    dict
        One array for each name, ``[time, ...]``.
    """
    return Runner(method, problem, seed=seed, fused=fused, keep=keep).run(ensemble, seen)


def in_blocks(windows: list[tuple[int, int, int]], longest: int = 40) -> Iterator[list[tuple[int, int, int, int]]]:
    """Yield calls, with their numbers, in blocks of one shape: few lengths, so that little is compiled."""
    calls = [(number, *window) for number, window in enumerate(windows)]
    for _, same in itertools.groupby(calls, lambda call: (call[2] - call[1], call[3])):
        group = list(same)
        length = max(b for b in range(1, longest + 1) if len(group) % b == 0)
        length = length if 4 * length > longest else longest
        yield from (group[i : i + length] for i in range(0, len(group), length))


def _over_time(seen: Seen, values: np.ndarray) -> Seen:
    times, m = values.shape
    std = np.broadcast_to(np.asarray(seen.error_std, "float64"), (times, m))
    rest: list[Any] = []
    for array, kind in ((seen.index, "int32"), (seen.weights, "float64"), (seen.positions, "float64")):
        a = None if array is None else np.asarray(array, kind)
        rest.append(a if a is None or a.ndim == 3 else np.broadcast_to(a, (times, *a.shape)))
    return Seen(values, std, *rest)
