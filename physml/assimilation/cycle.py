"""Cycles of time steps and analyses of labelled fields."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from keras import ops

from physml import _backend, grid
from physml.assimilation.analysis import check_units
from physml.assimilation.observations import PointObservations, duration, refuse, seconds
from physml.assimilation.steps import evaluate, forcing_at, pack, state_fields, valid_times
from physml.provenance import stamp


class Cycle:
    """Alternates a time step and an analysis: forecast, analysis, forecast, ...

    Parameters
    ----------
    step
        Any time step, ``step(state, forcing=None) -> state`` on ``[batch, *space, channel]``.
    analysis
        An analysis with ``prepare(observations)`` and ``diagnose(forecast, observations)``, such as :class:`BLUE`. None: a free
        run. It changes the observed variable alone; the others go on unchanged.
    after
        Applied to the state after each analysis, ``[batch, *space, channel]`` to the same: constraints, such as positivity
        and a given total, which an analysis does not know.
    state_names, forcing_names
        Names of the channels, by default those of the step.
    variable
        Name of the observed variable, by default that of the observations, or the only one.
    space
        Dimensions of space, by default those of latitude and longitude.
    mask
        True on wet cells, by default that of the analysis; None without one: all cells are wet.

    Examples
    --------
    >>> decay = Cycle(lambda x, forcing=None: 0.5 * x, state_names=["tracer"], space=["x"])
    >>> start = xr.Dataset({"tracer": ("x", [8.0, 4.0])})
    >>> decay.run(start, steps=2, time_step="1D").tracer.values.tolist()
    [[4.0, 2.0], [2.0, 1.0]]
    """

    def __init__(
        self,
        step: Callable[..., Any],
        analysis: Any = None,
        *,
        after: Callable[[Any], Any] | None = None,
        state_names: Sequence[str] | None = None,
        forcing_names: Sequence[str] | None = None,
        variable: str | None = None,
        space: Sequence[str] | None = None,
        mask: Any = None,
    ) -> None:
        self.step, self.analysis, self.after = step, analysis, after
        self.state_names = tuple(state_names or getattr(step, "state_names", None) or ())
        self.forcing_names = tuple(forcing_names or getattr(step, "forcing_names", None) or ())
        self.variable, self.space, self.mask = variable, space, mask
        if not self.state_names:
            refuse("Cycle: the state has no names", "a step with state_names", "none", "pass state_names=['name', ...]")

    def run(
        self,
        initial: xr.Dataset,
        observations: PointObservations | Sequence[PointObservations] | None = None,
        forcing: Any = None,
        *,
        steps: int,
        every: int = 1,
        time_step: Any = None,
        tolerance: Any = 0.0,
        outside: str = "drop",
        dtype: str = "float32",
    ) -> xr.Dataset:
        """Return the run from *initial*, labelled with valid times.

        Parameters
        ----------
        initial
            The state on (*space), and at most one more dimension of members or runs; at one time, or without time: then times
            count from the start.
        observations
            Of one variable, for all members alike, or one for each member. Those at the time of no analysis are counted in
            the attribute ``observations_unused``.
        forcing
            A Dataset with the forcing of each step at the time it begins; what has no time may stand in *initial*. Or an
            array ``[batch, steps, *space, channel]``.
        steps, every
            Number of steps; an analysis follows every *every*-th.
        time_step
            Length of a step ("1D", a timedelta, [s]), by default ``step.time_step`` or ``step.dt``.
        tolerance
            Longest time between an observation and its analysis.
        outside
            As for :func:`analyse`.
        dtype
            Type of the state tensor.

        Returns
        -------
        Dataset
            By time, the initial one not included: each variable of the state after analysis; and with an analysis
            ``<name>_forecast`` before it, its posterior standard deviation ``<name>_std``, ``innovation``,
            ``innovation_std``, ``chi2`` and ``used``, NaN or 0 where there was no analysis.

        Raises
        ------
        ValueError
            Where the state is missing on wet cells, units or grids differ, or observations lie outside the run.
        """
        with _backend.float64() if dtype == "float64" else contextlib.nullcontext():
            return self._run(initial, observations, forcing, (steps, every, time_step), tolerance, outside, dtype)

    def _run(
        self,
        initial: xr.Dataset,
        observations: Any,
        forcing: Any,
        course: Any,
        tolerance: Any,
        outside: str,
        dtype: str,
    ) -> xr.Dataset:
        steps, every, time_step = course
        if not 1 <= every <= steps:
            refuse("Cycle: steps and every do not fit", "1 <= every <= steps", f"{every}, {steps}", "pass every=1")
        fields, space, batch = state_fields(initial, self.state_names, self.space)
        wet = self._mask(initial, fields[0], space)
        times, time = valid_times(initial, self.step, steps, time_step)

        def tensor(parts: list[xr.DataArray], what: str) -> Any:
            """Members that fields lack are those of the initial state."""
            like = fields[0].reset_coords(drop=True)
            packed = pack([f.broadcast_like(like) for f in parts], (*batch, *space), wet, what)
            return ops.convert_to_tensor((packed if batch else packed[None]).astype(dtype))

        x = tensor(fields, "the initial state")
        k, name = self._observed(observations)
        rows = np.arange(every, steps + 1, every)
        given, counts = self._prepare(observations, fields[k], times, rows, tolerance, outside, x.shape[0])
        xf, xa, found = [], [], {}
        for n in range(1, steps + 1):
            held = None
            if self.forcing_names and (forcing is None or isinstance(forcing, xr.Dataset)):
                held = tensor(forcing_at(forcing, initial, self.forcing_names, time, times[n - 1]), "the forcing")
            elif forcing is not None:
                held = ops.convert_to_tensor(forcing[:, n - 1], dtype)
            x = evaluate(self.step, x, held)
            xf.append(ops.convert_to_numpy(x))
            if given is not None and n % every == 0:
                if not np.isfinite(xf[-1][:, wet]).all():
                    refuse(
                        f"the forecast is not finite at step {n}", "finite values", "NaN or inf", "look at a free run"
                    )
                a = self.analysis.diagnose(x[..., k : k + 1], {key: v[n // every - 1] for key, v in given.items()})
                x = ops.concatenate([x[..., :k], ops.cast(a.analysis, x.dtype), x[..., k + 1 :]], axis=-1)
                x = x if self.after is None else self.after(x)
                found[n] = [ops.convert_to_numpy(part) for part in a[1:]]
            xa.append(ops.convert_to_numpy(x))
        dims = (time, *batch, *space)

        def label(parts: Any, dims: tuple[str, ...], attrs: dict[str, Any]) -> xr.DataArray:
            array = np.stack(parts)
            return xr.DataArray(array if batch else array[:, 0], dims=dims, attrs=attrs)

        def field(parts: list[np.ndarray], channel: int, attrs: dict[str, Any]) -> xr.DataArray:
            return label([np.where(wet, p[..., channel], np.nan).astype(dtype) for p in parts], dims, attrs)

        out = xr.Dataset({f.name: field(xa, c, f.attrs) for c, f in enumerate(fields)}, attrs=initial.attrs)
        if given is not None:
            units = {"units": fields[k].attrs["units"]} if "units" in fields[k].attrs else {}
            long = fields[k].attrs.get("long_name", name)
            out[f"{name}_forecast"] = field(xf, k, {**fields[k].attrs, "long_name": f"forecast of {long}"})
            blank = [np.full_like(v, np.nan) for v in found[every]]
            std, *rest = zip(*[found.get(n, blank) for n in range(1, steps + 1)], strict=True)
            out[f"{name}_std"] = field(list(std), 0, {"long_name": f"posterior standard deviation of {long}", **units})
            texts = [
                ("innovation", (time, *batch, "obs"), "observation minus forecast", units),
                ("innovation_std", (time, *batch, "obs"), "expected standard deviation of the innovation", units),
                ("chi2", (time, *batch), "chi-square of the innovations over their number", {"units": "1"}),
                ("used", (time, *batch), "number of observations used", {"units": "1"}),
            ]
            for part, (key, where, text, unit) in zip(rest, texts, strict=True):
                out[key] = label(part, where, {"long_name": text, **unit})
            out["used"] = out["used"].fillna(0)
        kept = {n: c for n, c in fields[0].coords.items() if set(c.dims) <= {*batch, *space} and n != time}
        out = out.assign_coords({**kept, time: (time, times[1:], {"standard_name": "time", "long_name": "valid time"})})
        return stamp(out.assign_attrs(counts), f"{steps} steps of {_name(self.step)} with {_name(self.analysis)}")

    def _mask(self, initial: xr.Dataset, field: xr.DataArray, space: tuple[str, ...]) -> np.ndarray:
        shape = tuple(field.sizes[d] for d in space)
        mask = self.mask if self.mask is not None else getattr(self.analysis, "mask", None)
        mask = grid.variable(initial, mask, "mask") if isinstance(mask, str) else mask
        mask = mask.transpose(*space).values if isinstance(mask, xr.DataArray) else mask
        wet = np.ones(shape, bool) if mask is None else np.asarray(mask).astype(bool)
        if wet.shape != shape:
            refuse("the mask does not fit the state", shape, wet.shape, "give it the dimensions of the state in space")
        for c, own in zip(space, ("latitude", "longitude"), strict=False):
            theirs = getattr(self.analysis, own, None)
            if theirs is not None and not np.allclose(theirs, field[c], rtol=0, atol=1e-4):
                refuse(
                    f"the {own} of the analysis and of the state differ",
                    theirs[:3],
                    field[c].values[:3],
                    "use one grid",
                )
        return wet

    def _observed(self, observations: Any) -> tuple[int, str]:
        """Return the channel and the name of the observed variable."""
        first = observations if isinstance(observations, PointObservations | None) else observations[0]
        name = self.variable or (
            self.state_names[0] if len(self.state_names) == 1 else getattr(first, "variable", None)
        )
        if self.analysis is not None and name not in self.state_names:
            refuse("the observed variable is not known", self.state_names, name, "pass variable= to the cycle")
        k = self.state_names.index(name) if name in self.state_names else 0
        return k, self.state_names[k]

    def _prepare(
        self,
        observations: Any,
        field: xr.DataArray,
        times: np.ndarray,
        rows: np.ndarray,
        tolerance: Any,
        outside: str,
        size: int,
    ) -> tuple[dict[str, np.ndarray] | None, dict[str, int]]:
        """Return the observations of each analysis, ``[analysis, 1 or member, m, ...]``, and how many were not used."""
        if (self.analysis is None) != (observations is None):
            received = "one without the other"
            refuse("Cycle: analysis and observations belong together", "both, or neither", received, "pass both")
        if observations is None:
            return None, {}
        members = [observations] if isinstance(observations, PointObservations) else list(observations)
        if len(members) not in (1, size):
            refuse(
                "observations do not fit the members", f"one set, or {size}", len(members), "pass one for each member"
            )
        prepared, counts = [], {"observations_dropped_space": 0, "observations_unused": 0}
        for each in members:
            check_units(each, field)
            table = each.table()
            finite = np.isfinite(table.values)
            when, axis, slack = seconds(table.time, like=times), seconds(times), duration(tolerance) + 1e-3
            lost = finite & ((when < axis[0] - slack) | (when > axis[-1] + slack))
            if lost.any():
                what = f"{lost.sum()} of {lost.size} observations lie outside the run"
                refuse(what, f"{times[0]} to {times[-1]}", f"{table.time[lost][0]} first", "select them, or run longer")
            prepared.append(self.analysis.prepare(each.at(times[rows], tolerance), outside))
            inside = np.isfinite(prepared[-1]["values"])
            counts["observations_dropped_space"] += int((inside & ~prepared[-1]["weights"].any(axis=-1)).sum())
            counts["observations_unused"] += int(finite.sum() - inside.sum())
        width = max(p["values"].shape[1] for p in prepared)
        blank = {"values": np.nan, "error_std": 1.0}

        def widen(key: str, a: np.ndarray) -> np.ndarray:
            gap = [(0, 0), (0, width - a.shape[1]), *[(0, 0)] * (a.ndim - 2)]
            return np.pad(a, gap, constant_values=blank.get(key, 0))

        return {key: np.stack([widen(key, p[key]) for p in prepared], axis=1) for key in prepared[0]}, counts


def _name(thing: Any) -> str:
    return "no analysis" if thing is None else getattr(thing, "name", None) or type(thing).__name__
