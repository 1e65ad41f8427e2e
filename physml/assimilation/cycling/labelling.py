"""Output of a cycle: arrays by analysis time become variables with dimensions, names, units and coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from physml.provenance import stamp

Columns = dict[str, np.ndarray]
"""What a run tells, each with a leading axis of time."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Names, dimensions and attributes of what a run tells."""

    time: str
    """Dimension of time."""
    times: np.ndarray
    """Valid times of the output."""
    space: tuple[str, ...]
    """Dimensions of space."""
    members: str | None
    """Dimension of members or runs."""
    fields: Sequence[xr.DataArray]
    """Fields of the initial state, for names, attributes and coordinates."""
    wet: np.ndarray
    """True on wet cells, ``[*space]``."""
    attrs: Mapping[str, Any]
    """Attributes of the output."""
    action: str
    """What the run was, for the history."""
    slots: Mapping[str, Any]
    """Coordinates of the dimension ``obs``: name to (dims, values, attrs)."""
    units: str | None = None
    """Units of the innovations; None: several, or not known."""
    late: int = 0
    """Number of analysis times by which smoothed fields come later than their own."""

    def field(self, values: np.ndarray, channel: int, text: str = "") -> xr.Variable:
        """Return fields ``[time, (member,) *space]`` with the attributes of a variable, *text* before its long name."""
        attrs = dict(self.fields[channel].attrs)
        if text:
            attrs["long_name"] = f"{text} of {attrs.get('long_name', self.fields[channel].name)}"
        return xr.Variable(self._dims(values, self.space), values, attrs)

    def spread(self, values: np.ndarray, channel: int, text: str) -> xr.Variable:
        """Return a standard deviation; of the attributes of its variable it keeps the units alone."""
        found = self.field(values, channel, text)
        return found._replace(attrs={k: found.attrs[k] for k in ("long_name", "units") if k in found.attrs})

    def by_observation(self, values: np.ndarray, text: str) -> xr.Variable:
        """Return what is told of each observation, ``[time, (member,) obs]``."""
        attrs = {"long_name": text} if self.units is None else {"long_name": text, "units": self.units}
        return xr.Variable(self._dims(values, ("obs",)), values, attrs)

    def by_time(self, values: np.ndarray, text: str) -> xr.Variable:
        """Return what is told of each analysis, ``[time]`` or ``[time, member]``."""
        return xr.Variable(self._dims(values, ()), values, {"long_name": text, "units": "1"})

    def statistics(self, columns: Columns) -> dict[str, xr.Variable]:
        """Return what all analyses tell alike."""
        out = {
            "innovation": self.by_observation(columns["innovation"], "observation minus forecast"),
            "innovation_std": self.by_observation(
                columns["innovation_std"], "expected standard deviation of the innovation"
            ),
            "chi2": self.by_time(columns["chi2"], "chi-square of the innovations over their number"),
            "used": self.by_time(columns["used"], "number of observations used"),
        }
        if "residual" in columns:
            out["residual"] = self.by_observation(columns["residual"], "observation minus analysis")
        if "rejected" in columns:
            out["rejected"] = self.by_time(columns["rejected"], "number of observations set aside as gross errors")
        return out

    def late_by(self, name: str) -> int:
        """Return how many analysis times later than its own a variable is told."""
        return self.late if name in [f"{f.name}_smoothed" for f in self.fields] else 0

    def coords(self) -> dict[str, Any]:
        """Return the coordinates of the output."""
        own = {*self.space, *([self.members] if self.members else [])}
        first = self.fields[0]
        kept = {str(n): c for n, c in first.coords.items() if set(c.dims) <= own and n != self.time}
        valid = {self.time: (self.time, self.times, {"standard_name": "time", "long_name": "valid time"})}
        return {**kept, **self.slots, **valid}

    def _dims(self, values: np.ndarray, rest: tuple[str, ...]) -> tuple[str, ...]:
        several = values.ndim == 2 + len(rest)
        return (self.time, *([self.members or "member"] if several else []), *rest)


def finish(run: Any) -> xr.Dataset:
    """Go through a run and return all that it tells as a labelled Dataset in memory."""
    labels: Labels = run.labels
    state, told = run.start(), []
    for number in range(run.portions):
        state, columns = run.advance(number, state)
        told.append(columns)
    whole = {name: np.concatenate([t[name] for t in told]) for name in told[0]}
    for name, values in run.tail(state).items():
        whole[name] = np.concatenate([whole[name], values])
    attrs = dict(labels.attrs)
    if "rejected" in whole:
        attrs["observations_rejected"] = int(whole["rejected"].sum())
    size = len(labels.times)
    variables = {name: _in_time(v, labels.late_by(name), size) for name, v in run.label(whole).items()}
    return stamp(xr.Dataset(variables, attrs=attrs).assign_coords(labels.coords()), labels.action)


def _in_time(variable: xr.Variable, late: int, size: int) -> xr.Variable:
    """Return fields at the times they speak of: those that came late shifted back, the last ones NaN where not told."""
    if not late:
        return variable
    values = variable.values[late : late + size]
    gap = np.full((size - len(values), *values.shape[1:]), np.nan)
    return variable._replace(data=np.concatenate([values, gap]))
