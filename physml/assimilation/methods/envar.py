"""Hybrid ensemble variational assimilation: an ensemble tells the cost function the errors of the day.

An ensemble gives part of B, a static covariance the rest:

    B = (1 - weight) B_static + weight (L o A^T A / (N - 1)),    A the anomalies of the members, L a localisation.

The mean is analysed by 3D-Var or 4D-Var with this B, so that it may leave the space of the members; the anomalies by the
ensemble transform of the same observations (ETKF), about the mean that the minimisation found. With weight 1, no localisation
and linear operators the whole is the ETKF.

References
----------
Hamill, T. M. and Snyder, C. (2000), doi:10.1175/1520-0493(2000)128<2905:AHEKFV>2.0.CO;2. Lorenc, A. C. (2003),
doi:10.1256/qj.02.132. Clayton, A. M., Lorenc, A. C. and Barker, D. M. (2013), doi:10.1002/qj.2054 (hybrid 4D-Var).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.errors.combine import Ensemble
from physml.assimilation.errors.compose import Total
from physml.assimilation.method import Output, Problem, Seen, State
from physml.assimilation.methods._linalg import transform
from physml.assimilation.methods._members import forecast, model_noise, observe, relax, rotation
from physml.assimilation.methods.kalman import covariance
from physml.assimilation.methods.variational import Variational


@dataclass(frozen=True, eq=False, kw_only=True)
class HybridEnVar(Variational):
    """Hybrid 3D-Var or 4D-Var of the mean, with an ensemble transform of the anomalies.

    ``background_error`` is the static part.

    Examples
    --------
    >>> method = HybridEnVar(background_error=0.02 * np.eye(40), weight=0.8, inflation=1.02)
    """

    ensemble: ClassVar[bool] = True

    weight: float = 0.5
    """Of the ensemble in B, 0 to 1."""
    localisation: Any = None
    """Of the ensemble's part of B: a half-width or a covariance, as for :class:`physml.assimilation.Ensemble`."""
    window: int = 0
    """Number of analysis times in a window of 4D-Var, B being that of its beginning; 0: 3D-Var at each time."""
    inflation: float = 1.0
    """Factor on the anomalies after the analysis."""
    relaxation: float = 0.0
    """0 to 1: how far the spread goes back to that before the analysis (RTPS)."""
    rotate: bool = True
    """Whether the anomalies are mixed by a random rotation that keeps mean and covariance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight <= 1:
            refuse(
                "HybridEnVar: weight is not between 0 and 1", "0 (static) to 1 (ensemble)", self.weight, "weight=0.5"
            )
        if self.window < 0:
            refuse("HybridEnVar: the window is negative", ">= 0", self.window, "window=0 for 3D-Var")

    @property
    def count(self) -> int:
        """Number of analysis times in a call."""
        return max(self.window, 1)

    def draws(
        self, rng: np.random.Generator, members: int, size: int, observed: int, count: int, noise: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the model error and the rotation."""
        drawn = model_noise(rng, members, noise, count)
        return {**drawn, "rotation": rotation(rng, members)} if self.rotate else drawn

    def __call__(self, problem: Problem, state: State, seen: Seen, draws: dict[str, Any]) -> tuple[State, Output]:
        """Forecast the members, minimise for the mean, transform the anomalies."""
        ensemble = state["ensemble"]
        before = [forecast(problem, ensemble, draws, 0)]
        for k in range(1, self.count):
            before.append(forecast(problem, before[-1], draws, k))
        base = ensemble if self.window else before[0]
        static = covariance(self.background_error, problem, "HybridEnVar: background_error")
        varying = covariance(Ensemble(base, self.localisation), problem, "HybridEnVar: ensemble")
        b = Total([static, varying], [1.0 - self.weight, self.weight])
        mean = _backend.mean(base, axis=0, keepdims=True)

        def states(x: Any, z: Any) -> list[Any]:
            x, found = x + b.root(z), []
            if not self.window:
                return [x]
            for k in range(self.window):
                x = problem.propagate(x, k)
                found.append(x)
            return found

        found = self.analyse(problem, mean, states, seen, draws, b.rank, static=None if self.window else b)
        # The members meet the observations that the minimisation has kept.
        kept = replace(problem, gross_error=None)
        met = [observe(kept, e, found.seen.at(k)) for k, e in enumerate(before)]
        _, root, _ = transform(ops.concatenate([o.s for o in met], axis=-1), ops.concatenate([o.v for o in met]))
        after = []
        for o, center in zip(met, found.states, strict=True):
            anomalies = self.inflation * relax(ops.matmul(root, o.anomalies), o.anomalies, self.relaxation)
            after.append(center + (ops.matmul(draws["rotation"], anomalies) if self.rotate else anomalies))
        output = found.output._replace(
            forecast=ops.stack(before), analysis=ops.stack(after), forecast_std=None, std=None
        )
        return {**state, "ensemble": after[-1]}, output
