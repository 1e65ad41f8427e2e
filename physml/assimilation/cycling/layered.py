"""Runs of their own, each with an analysis layer such as BLUE: one step a portion, all runs in one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from physml._errors import refuse
from physml.assimilation.cycling.identity import digest
from physml.assimilation.cycling.labelling import Columns, Labels
from physml.assimilation.observing.observations import PointObservations
from physml.assimilation.observing.rows import Observations
from physml.assimilation.steps import evaluate
from physml.assimilation.times import duration, seconds
from physml.assimilation.vector import require_units

TOLD = ("std", "innovation", "innovation_std", "chi2", "used")


class LayeredRun:
    """Steps and, after every *every*-th, an analysis with ``diagnose(forecast, observations)``.

    Parameters
    ----------
    step, analysis, after
        Of the cycle.
    start
        ``[N, *space, channel]``.
    held
        Forcing of the step that begins at a number of steps, or None.
    given
        Observations of each analysis, ``[analysis, 1 or N, m, ...]``; None: a free run.
    channel
        Observed channel.
    every, steps
        Of the run.
    gross_error
        Of the cycle.
    labels
        Names of the output.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        analysis: Any,
        after: Callable[[Any], Any] | None,
        start: Any,
        held: Callable[[int], Any],
        given: dict[str, np.ndarray] | None,
        channel: int,
        every: int,
        steps: int,
        gross_error: float | None,
        labels: Labels,
    ) -> None:
        self.step, self.analysis, self.after, self.initial, self.held = step, analysis, after, start, held
        self.given, self.channel, self.every, self.portions = given, channel, every, steps
        self.gross_error, self.labels = gross_error, labels

    def start(self) -> dict[str, Any]:
        """Return the state before the first step."""
        return {"state": self.initial}

    def advance(self, number: int, state: dict[str, Any]) -> tuple[dict[str, Any], Columns]:
        """Return the state after one more step and its analysis, and what is told of them."""
        n, k = number + 1, self.channel
        x = evaluate(self.step, state["state"], self.held(number))
        told = {"forecast": ops.convert_to_numpy(x)}
        if self.given is not None and n % self.every == 0:
            if not np.isfinite(told["forecast"][:, self.labels.wet]).all():
                what = f"the forecast is not finite at step {n}"
                refuse(what, "finite values", "NaN or inf", "look at a free run")
            a, rejected = self._analysed(x, {key: v[n // self.every - 1] for key, v in self.given.items()})
            x = ops.concatenate([x[..., :k], ops.cast(a.analysis, x.dtype), x[..., k + 1 :]], axis=-1)
            x = x if self.after is None else self.after(x)
            told |= {name: ops.convert_to_numpy(getattr(a, name)) for name in TOLD} | rejected
        elif self.given is not None:
            told |= self._blank(told["forecast"])
        told["analysis"] = ops.convert_to_numpy(x)
        return {"state": x}, {name: v[None] for name, v in told.items()}

    def _analysed(self, x: Any, given: dict[str, np.ndarray]) -> tuple[Any, Columns]:
        x = x[..., self.channel : self.channel + 1]
        found = self.analysis.diagnose(x, given)
        if self.gross_error is None:
            return found, {}
        gross = np.abs(ops.convert_to_numpy(found.innovation)) > self.gross_error * np.asarray(found.innovation_std)
        if gross.any():
            values = np.where(gross, np.nan, np.broadcast_to(given["values"], gross.shape))
            wide = {k: np.broadcast_to(v, (len(gross), *v.shape[1:])) for k, v in given.items()}
            found = self.analysis.diagnose(x, {**wide, "values": values})
        return found, {"rejected": gross.sum(axis=1).astype("float64")}

    def _blank(self, forecast: np.ndarray) -> Columns:
        members, width = len(forecast), self.given["values"].shape[2] if self.given else 0
        shapes: dict[str, tuple[int, ...]] = {"std": (*forecast.shape[:-1], 1), "chi2": (members,), "used": (members,)}
        shapes |= {name: (members, width) for name in ("innovation", "innovation_std")}
        shapes |= {} if self.gross_error is None else {"rejected": (members,)}
        zero = ("used", "rejected")
        return {k: np.full(s, 0.0 if k in zero else np.nan, forecast.dtype) for k, s in shapes.items()}

    def identity(self) -> dict[str, str]:
        """Return digests of what the run follows from, but for the cycle itself."""
        forcing = (self.held(n) for n in range(self.portions))
        parts = {
            "initial": [ops.convert_to_numpy(self.initial), self.labels.wet],
            "observations": self.given,
            "options": [self.every, self.portions, self.labels.times],
            "forcing": [digest(f) for f in forcing if f is not None],
        }
        return {name: digest(part) for name, part in parts.items()}

    def tail(self, state: dict[str, Any]) -> Columns:
        """Return nothing: all has been told."""
        return {}

    def label(self, columns: Columns) -> dict[str, Any]:
        """Return variables of the output."""
        one, wet, k = self.labels.members is None, self.labels.wet, self.channel
        dtype = columns["forecast"].dtype

        def dried(values: np.ndarray) -> np.ndarray:
            values = np.where(wet, values, np.nan).astype(dtype)
            return values[:, 0] if one else values

        out = {
            str(f.name): self.labels.field(dried(columns["analysis"][..., c]), c)
            for c, f in enumerate(self.labels.fields)
        }
        if self.given is not None:
            name = self.labels.fields[k].name
            out[f"{name}_forecast"] = self.labels.field(dried(columns["forecast"][..., k]), k, "forecast")
            text = "posterior standard deviation"
            out[f"{name}_std"] = self.labels.spread(dried(columns["std"][..., 0]), k, text)
            out |= self.labels.statistics({key: v[:, 0] if one else v for key, v in columns.items()})
        return out


def prepare_rows(
    analysis: Any,
    observations: Any,
    field: Any,
    times: np.ndarray,
    rows: np.ndarray,
    tolerance: Any,
    outside: str,
    size: int,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the observations of each analysis, ``[analysis, 1 or member, m, ...]``, and how many were not used."""
    if isinstance(observations, Observations) and not isinstance(observations, PointObservations):
        remedy = "a Method, such as OptimalInterpolation(background_error=...), takes every kind"
        refuse("Cycle: a layer observes points", "PointObservations", type(observations).__name__, remedy)
    members = [observations] if isinstance(observations, PointObservations) else list(observations)
    for each in members:
        if not isinstance(each, PointObservations):
            refuse("Cycle: a layer observes points", "PointObservations", type(each).__name__, "one for each member")
    known = {each.error_std is None for each in members}
    if len(known) > 1:
        remedy = "PointObservations(..., error_std=...) for each, or for none"
        refuse("Cycle: some of the observations have no error", "error_std for all, or for none", "some", remedy)
    if len(members) not in (1, size):
        refuse("observations do not fit the members", f"one set, or {size}", len(members), "pass one for each member")
    prepared, counts = [], {"observations_dropped_space": 0, "observations_unused": 0}
    for each in members:
        require_units(each.units, field.attrs.get("units"), field.name)
        table = each.table()
        finite = np.isfinite(table.values)
        require_inside(table.time, finite, times, tolerance)
        prepared.append(analysis.prepare(each.at(times[rows], tolerance), outside))
        inside = np.isfinite(prepared[-1]["values"])
        counts["observations_dropped_space"] += int((inside & ~prepared[-1]["weights"].any(axis=-1)).sum())
        counts["observations_unused"] += int(finite.sum() - inside.sum())
    width = max(p["values"].shape[1] for p in prepared)
    blank = {"values": np.nan, "error_std": 1.0}

    def widen(key: str, a: np.ndarray) -> np.ndarray:
        gap = [(0, 0), (0, width - a.shape[1]), *[(0, 0)] * (a.ndim - 2)]
        return np.pad(a, gap, constant_values=blank.get(key, 0))

    return {key: np.stack([widen(key, p[key]) for p in prepared], axis=1) for key in prepared[0]}, counts


def require_inside(when: Any, finite: np.ndarray, times: np.ndarray, tolerance: Any) -> None:
    """Refuse observations before the start or after the end of the run."""
    given, axis, slack = seconds(when, like=times), seconds(times), duration(tolerance) + 1e-3
    lost = finite & ((given < axis[0] - slack) | (given > axis[-1] + slack))
    if lost.any():
        what = f"{lost.sum()} of {lost.size} observations lie outside the run"
        received = f"{np.asarray(when)[lost][0]} first"
        refuse(what, f"{times[0]} to {times[-1]}", received, "select them, or run longer")
