"""4D-Var: the trajectory through a window that fits the observations in it best, by autodiff through the model.

The control is the state at the beginning of the window, x_0 = xf + U z; the states x_k = M(x_{k-1}) follow, be M a numerical
model or a network unrolled. Weak constraint adds errors of the model to the control,

    x_k = M(x_{k-1}) + eta_k + V q_k,    Q = V V^T,    J = 1/2 |z|^2 + 1/2 sum |q_k|^2 + the misfits,

where eta_k is what earlier windows found. With a linear model the states are those of the Kalman smoother, the last one that of
the Kalman filter.

Windows may overlap. They move on by ``shift`` analysis times, and observations enter the cost function in the first window that
they lie in: they have made the background of the later ones what it is, so that they would count twice (Bocquet and Sakov's
single data assimilation). The background is then the trajectory of the window before, and B has to be smaller than for windows
that do not overlap. The first window grows, shift by shift, to its length: each minimisation starts close to its minimum
(quasi-static), where the cost function of a long window has many.

References
----------
Le Dimet, F.-X. and Talagrand, O. (1986), doi:10.3402/tellusa.v38i2.11706. Pires, C., Vautard, R. and Talagrand, O. (1996),
doi:10.1034/j.1600-0870.1996.00006.x (quasi-static). Tremolet, Y. (2006), doi:10.1256/qj.05.224 (weak constraint). Bocquet, M.
and Sakov, P. (2013), doi:10.5194/npg-20-803-2013; (2014), doi:10.1002/qj.2236 (overlapping windows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from physml._errors import refuse
from physml.assimilation.errors.background import Background
from physml.assimilation.method import Output, Problem, Seen, State
from physml.assimilation.methods.kalman import covariance
from physml.assimilation.methods.variational import Variational


@dataclass(frozen=True, eq=False, kw_only=True)
class FourDVar(Variational):
    """Strong-constraint 4D-Var, incremental: the model is perfect, the state at the beginning of the window is not.

    ``shift=1`` with a longer window makes it a fixed-lag smoother: ``smoothed`` is then told too.

    Examples
    --------
    >>> method = FourDVar(background_error=0.02 * np.eye(40), window=4, shift=1)
    >>> method.count, method.lag, method.first
    (1, 3, 4)
    """

    window: int = 1
    """Number of analysis times in a window."""
    shift: int | None = None
    """Number of analysis times that the window moves on by; None: its length, so that windows do not overlap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1 or not 1 <= self.count <= self.window:
            what = f"{type(self).__name__}: the window moves on by more than its length, or not at all"
            refuse(what, "1 <= shift <= window", (self.shift, self.window), "shift=1, or None")

    @property
    def count(self) -> int:
        """Number of new analysis times in a call."""
        return self.window if self.shift is None else self.shift

    @property
    def lag(self) -> int:
        """Number of analysis times in the window that earlier ones have seen."""
        return self.window - self.count

    @property
    def first(self) -> int:
        """Number of analysis times in the first call: a whole window."""
        return self.window

    def __call__(self, problem: Problem, state: State, seen: Seen, draws: dict[str, Any]) -> tuple[State, Output]:
        """Minimise over the window, or over the growing ones of the first call, and move on."""
        b = covariance(self.background_error, problem, f"{type(self).__name__}: background_error")
        first = "origin" not in state
        start = self._join(problem, state["ensemble"], None) if first else state["origin"]
        ends = range(self.window, 0, -self.count)[::-1] if first else [self.window]
        outputs, before = [], 0 if first else self.lag
        for end in ends:
            new = Seen(*[None if a is None else a[before:end] for a in seen])

            def states(x: Any, z: Any, end: int = end) -> list[Any]:
                return self._trajectory(problem, b, self._move(problem, b, x, z, end), end)

            found = self.analyse(problem, start, states, new, draws, self._size(problem, b, end))
            start = self._move(problem, b, start, found.control, end)
            outputs.append(found.output)
            before = end
        output = Output(*[None if parts[0] is None else ops.concatenate(parts) for parts in zip(*outputs, strict=True)])
        if not self.lag:
            return {"ensemble": found.states[-1]}, output
        smoothed = ops.stack(found.states[: self.count])
        if first:
            unknown = ops.full((self.lag, *smoothed.shape[1:]), np.nan, dtype="float64")
            smoothed = ops.concatenate([unknown, smoothed])
        origin = self._advance(problem, start, found.states[self.count - 1])
        return {"ensemble": found.states[-1], "origin": origin}, output._replace(smoothed=smoothed)

    def _size(self, problem: Problem, b: Background, end: int) -> int:
        """Return p for a window of *end* times."""
        return b.rank

    def _join(self, problem: Problem, x: Any, forcing: Any) -> Any:
        """Return what the background is known by, in one row for each run."""
        return x

    def _move(self, problem: Problem, b: Background, x: Any, z: Any, end: int) -> Any:
        """Return the background moved by a control."""
        return x + b.root(z)

    def _trajectory(self, problem: Problem, b: Background, x: Any, end: int) -> list[Any]:
        """Return the states at the first *end* times of the window."""
        states = []
        for k in range(end):
            x = problem.propagate(x, k)
            states.append(x)
        return states

    def _advance(self, problem: Problem, x: Any, state: Any) -> Any:
        """Return the background of the next window, which begins at *state*."""
        return state


@dataclass(frozen=True, eq=False, kw_only=True)
class WeakFourDVar(FourDVar):
    """Weak-constraint 4D-Var: the model errs by Q between two analysis times, and its errors are estimated with the state."""

    model_error: Any = None
    """Q of a propagation from one analysis time to the next; None: that of the problem."""

    def control_size(self, size: int, noise: int) -> int:
        """Return p of a whole window."""
        rank = noise if self.model_error is None else getattr(self.model_error, "rank", size)
        return super().control_size(size, noise) + self.window * rank

    def _q(self, problem: Problem) -> Background:
        error = problem.model_error if self.model_error is None else self.model_error
        if error is None:
            refuse("WeakFourDVar: the model error is not known", "model_error, Q", None, "pass it, or use FourDVar")
        return covariance(error, problem, "WeakFourDVar: model_error")

    def _size(self, problem: Problem, b: Background, end: int) -> int:
        return b.rank + end * self._q(problem).rank

    def _join(self, problem: Problem, x: Any, forcing: Any) -> Any:
        if forcing is None:
            forcing = ops.zeros((x.shape[0], self.window * problem.size), dtype="float64")
        return ops.concatenate([x, forcing], axis=-1)

    def _move(self, problem: Problem, b: Background, x: Any, z: Any, end: int) -> Any:
        q, n = self._q(problem), problem.size
        errors = q.root(ops.reshape(z[:, b.rank :], (-1, end, q.rank)))
        moved = ops.reshape(errors, (-1, end * n))
        still = x[:, (1 + end) * n :]
        return ops.concatenate([x[:, :n] + b.root(z[:, : b.rank]), x[:, n : (1 + end) * n] + moved, still], axis=-1)

    def _trajectory(self, problem: Problem, b: Background, x: Any, end: int) -> list[Any]:
        n, states = problem.size, []
        state = x[:, :n]
        for k in range(end):
            state = problem.propagate(state, k) + x[:, (1 + k) * n : (2 + k) * n]
            states.append(state)
        return states

    def _advance(self, problem: Problem, x: Any, state: Any) -> Any:
        n = problem.size
        kept = x[:, (1 + self.count) * n :]
        new = ops.zeros((x.shape[0], self.count * n), dtype="float64")
        return ops.concatenate([state, kept, new], axis=-1)
