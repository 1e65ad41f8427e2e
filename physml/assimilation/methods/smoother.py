"""Ensemble Kalman smoother: each analysis also corrects the states before it, by the same combination of members.

With w and T of the ETKF at time k, the ensembles of the last ``smoothing_lag`` analysis times become

    E_j <- mu_j + 1 w A_j / sqrt(N - 1) + T A_j,   j = k - lag ... k - 1.

References
----------
Evensen, G. and van Leeuwen, P. J. (2000), doi:10.1175/1520-0493(2000)128<1852:AEKSFN>2.0.CO;2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.method import Output, Problem, Seen, State
from physml.assimilation.methods._linalg import transform
from physml.assimilation.methods._members import forecast, observe, told
from physml.assimilation.methods.ensemble import EnsembleFilter, updated


@dataclass(frozen=True, eq=False, kw_only=True)
class EnKS(EnsembleFilter):
    """Ensemble Kalman smoother of fixed lag around the ETKF.

    ``smoothed`` of the output is the ensemble ``smoothing_lag`` analysis times earlier, by all observations since; in the first
    ``smoothing_lag`` calls it is the initial ensemble. What is left at the end of a run, the last ``smoothing_lag`` analysis
    times as smoothed as they get, stays in the state under ``"past" [smoothing_lag, N, n]``, oldest first.

    Parameters
    ----------
    smoothing_lag
        How many analysis times back an observation corrects.
    inflation, relaxation
        Of the newest analysis alone.
    rotate
        As for :class:`EnsembleFilter`; earlier anomalies are rotated with it, so that members stay trajectories.
    """

    smoothing_lag: int
    rotate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smoothing_lag < 1:
            refuse("EnKS: smoothing_lag is too small", ">= 1 analysis time", self.smoothing_lag, "use ETKF for none")

    def start(self, problem: Problem, ensemble: Any) -> State:
        """Return the state of a run that starts from ``[N, n]``."""
        return {"ensemble": ensemble, "past": ops.repeat(ensemble[None], self.smoothing_lag, axis=0)}

    def __call__(self, problem: Problem, state: State, seen: Seen, draws: dict[str, Any]) -> tuple[State, Output]:
        """Return the ensemble at the next analysis time with those before it, and what is told."""
        observed = observe(problem, forecast(problem, state["ensemble"], draws, 0), seen.at(0))
        w, t, square = transform(observed.s, observed.v)
        mean, anomalies, _ = updated(observed, w, t, square)
        ensemble = self.finish(mean, anomalies, observed.anomalies, draws)
        if self.rotate:
            t = ops.matmul(draws["rotation"][0], t)
        centre = _backend.mean(state["past"], axis=1, keepdims=True)
        past = centre + ops.matmul(t + w[None, :] / np.sqrt(t.shape[0] - 1), state["past"] - centre)
        kept = ops.concatenate([past[1:], ensemble[None]])
        return {"ensemble": ensemble, "past": kept}, told(observed, ensemble, square, smoothed=past[0])
