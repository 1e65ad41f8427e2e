"""Analyses of labelled fields: of a given forecast, and in a cycle of time steps and analyses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from keras import ops

from physml import _backend, grid
from physml.assimilation import observations as obs
from physml.assimilation.blue import BLUE
from physml.assimilation.covariance import PointCovariance
from physml.assimilation.observations import PointObservations, duration, refuse, seconds
from physml.assimilation.steps import evaluate, forcing_at, pack, state_fields, valid_times
from physml.provenance import same_units, stamp


def analyse(
    ds: xr.Dataset,
    observations: PointObservations,
    background_error: PointCovariance,
    *,
    periodic: bool,
    variable: str | None = None,
    mask: Any = None,
    tolerance: Any = None,
    window: Any = None,
    outside: str = "drop",
) -> xr.Dataset:
    """Return the analysis of a labelled forecast, with its error map; lazy in time where the forecast is.

    Without a ``time_length`` in *background_error* every time is analysed alone, with the observations nearest to it. With
    one, every time is analysed with all observations, those of other times weighing less as their correlation falls. Each
    innovation is taken at the forecast nearest in time to its observation.

    Parameters
    ----------
    ds
        Holds the forecast on (time, lat, lon) or (lat, lon), NaN on masked cells.
    observations
        With ``error_std``.
    background_error
        B; its std may be a DataArray on (lat, lon).
    periodic
        Whether the first and the last longitude are neighbours.
    variable
        Name of the forecast, by default that of the observations.
    mask
        True on wet cells: an array, a DataArray or the name of a variable, loaded at once; None: all are wet.
    tolerance
        Longest time between an observation and the forecast compared with it ("15D", a timedelta, [s]). None: their times
        must be the same.
    window
        With a ``time_length``: only observations nearer in time than this are used. None: all.
    outside
        What to do with observations on land or outside the grid: ``"drop"`` counts them, ``"error"`` raises an error.

    Returns
    -------
    Dataset
        The analysis under the name of the forecast, its posterior standard deviation ``<name>_std``, ``chi2`` and ``used``
        by time, ``innovation`` and ``innovation_std`` (what B and R let one expect) by observation; attributes
        ``observations_dropped_space`` and ``observations_dropped_time``.

    Raises
    ------
    ValueError
        Where units differ, positions or times do not fit; when computed, where the forecast is missing on wet cells.
    """
    name = variable or observations.variable
    if name is None:
        refuse(
            "the variable to analyse is not named", "variable=", "None", f"one of {', '.join(map(str, ds.data_vars))}"
        )
    field, lat, lon, wet = obs.labelled_field(ds, name, mask)
    _check_units(observations, field)
    if observations.error_std is None:
        refuse("the observations have no error", "error_std, sigma_o", None, "PointObservations(..., error_std=...)")
    when = obs.find_time(field)
    if set(field.dims) - {lat, lon, *(() if when is None else when.dims)}:
        refuse(
            f"{name!r} has more than time and space", f"(time, {lat}, {lon})", field.dims, "select or stack the rest"
        )
    field = field if field.ndim == 3 else field.expand_dims("time" if when is None else str(when.name))
    time, size, space = str(field.dims[0]), field.shape[0], [lat, lon]
    if isinstance(background_error.std, xr.DataArray):
        background_error = replace(background_error, std=background_error.std.transpose(lat, lon).values)
    layer = BLUE(background_error, latitude=field[lat], longitude=field[lon], periodic=periodic, mask=wet)
    table, in_time = observations.table(), background_error.in_time
    given = {k: v[0] for k, v in layer.prepare(table, outside).items()}
    on_grid, finite = given["weights"].any(axis=-1), np.isfinite(given["values"])
    near = _nearest(table, when, size, in_time, tolerance)

    own = obs.pad([np.flatnonzero(near == t) for t in range(size)])
    field = _checked(field, space, wet)
    sampled = obs.Interpolation(given["index"][own], np.where(own[..., None] < 0, 0.0, given["weights"][own]))
    hx = obs.sample(field, lat, lon, sampled, (time, "_slot")).reset_coords(drop=True).drop_vars(time, errors="ignore")
    d = xr.DataArray(np.where(own < 0, np.nan, given["values"][own]), dims=(time, "_slot"))
    slot = np.zeros(near.shape, "int64")
    slot[own[own >= 0]] = np.nonzero(own >= 0)[1]
    at = {time: xr.DataArray(np.maximum(near, 0), dims="_obs"), "_slot": xr.DataArray(slot, dims="_obs")}
    innovation = (d - hx).isel(at).where(xr.DataArray(near >= 0, dims="_obs"))

    rows: Any = own
    if in_time:
        # The innovations of other times are wanted too.
        now, then = seconds(when), seconds(table.time)
        usable, reach = (near >= 0) & on_grid & finite, np.inf if window is None else duration(window)
        rows = [np.flatnonzero(usable & (np.abs(then - t) <= reach)) for t in now]
    width = max(1, *map(len, rows))

    def block(values: np.ndarray, steps: np.ndarray, innovations: np.ndarray) -> tuple[np.ndarray, ...]:
        out = []
        with _backend.float64():
            nothing = ops.zeros((1, *layer.grid_shape, 1), dtype="float64")
            for i, (xf, t) in enumerate(zip(values, steps, strict=True)):
                row = np.pad(rows[t], (0, width - len(rows[t])), constant_values=-1)
                part = {k: v[row][None] for k, v in given.items()}
                part["values"] = np.where(row < 0, np.nan, innovations[row] if in_time else innovations[i])[None]
                if in_time:
                    part["lag"] = (then[row] - now[t])[None]
                a = layer.diagnose(nothing, part)
                increment, std = (ops.convert_to_numpy(x)[0, ..., 0] for x in (a.analysis, a.std))
                maps = (np.where(wet, x, np.nan).astype(values.dtype) for x in (xf + increment, std))
                out.append((*maps, *(ops.convert_to_numpy(x)[0] for x in (a.chi2, a.used))))
        return tuple(np.stack(column) for column in zip(*out, strict=True))

    xa, std, chi2, used = xr.apply_ufunc(
        block,
        field,
        xr.DataArray(np.arange(size), dims=time),
        obs.whole(innovation, "_obs") if in_time else obs.whole(d - hx, "_slot"),
        input_core_dims=[space, [], ["_obs"] if in_time else ["_slot"]],
        output_core_dims=[space, space, [], []],
        dask="parallelized",
        output_dtypes=[field.dtype, field.dtype, "float64", "float64"],
    )
    each = np.arange(near.size)[:, None]
    with _backend.float64():
        # Each observation alone: only its own variance is wanted.
        alone = {**{k: v[each] for k, v in given.items()}, "lag": np.zeros(each.shape)}
        variance = ops.convert_to_numpy(layer.seen(alone)[0].at_observations())[:, 0, 0]
    expected = np.where((near >= 0) & on_grid & finite, np.sqrt(variance + given["error_std"] ** 2), np.nan)
    dims, coords = _places(observations, field)
    place = xr.DataArray(each.reshape(observations.values.shape), dims=dims)
    attrs, label = field.attrs, field.attrs.get("long_name", name)
    columns = {
        f"{name}_std": (std, f"posterior standard deviation of {label}", attrs.get("units")),
        "chi2": (chi2, "chi-square of the innovations over their number", "1"),
        "used": (used, "number of observations used", "1"),
        "innovation": (innovation.isel(_obs=place), "observation minus forecast", attrs.get("units")),
        "innovation_std": (
            xr.DataArray(expected, dims="_obs").isel(_obs=place),
            "expected standard deviation of the innovation",
            attrs.get("units"),
        ),
    }
    out = xr.Dataset({name: xa.assign_attrs(attrs)}, attrs=ds.attrs).assign_coords(coords)
    out = out.assign({k: v.assign_attrs(_attrs(text, units)) for k, (v, text, units) in columns.items()})
    out = out if ds[name].ndim == 3 else out.isel({time: 0})
    counts = {"space": (finite & ~on_grid).sum(), "time": (finite & (near < 0)).sum()}
    out = out.assign_attrs({f"observations_dropped_{k}": int(n) for k, n in counts.items()})
    return stamp(out, f"BLUE of {name} with {background_error!r}")


def _nearest(
    table: PointObservations, when: xr.DataArray | None, size: int, in_time: bool, tolerance: Any
) -> np.ndarray:
    """Return the index of the forecast that each observation is compared with, -1 for none."""
    if when is None or (size == 1 and table.time is None):
        if in_time:
            refuse("the background error has a time_length and there is no time", "times", None, "drop time_length")
        return np.zeros(table.values.shape, "int64")
    near = table.nearest(when.values, 0.0 if tolerance is None else tolerance)
    lost = (near < 0) & np.isfinite(table.values)
    if lost.any() and tolerance is None:
        what = f"{lost.sum()} of {lost.size} observations are at none of the forecast's times"
        remedy = "pass tolerance='15D', for example: the nearest forecast is compared"
        refuse(what, "the same times, or a tolerance", f"{table.time[lost][0]} first", remedy)
    return near


def _checked(field: xr.DataArray, space: list[str], wet: np.ndarray) -> xr.DataArray:
    """Return the field, which raises an error when it is computed and found missing on wet cells."""

    def check(values: np.ndarray) -> np.ndarray:
        missing = int((~np.isfinite(values[..., wet])).sum())
        if missing:
            what = f"the forecast {field.name!r} is missing on wet cells"
            refuse(what, "finite values", f"{missing} missing", "pass mask=, True on wet cells")
        return values

    return xr.apply_ufunc(
        check,
        obs.whole(field, *space),
        input_core_dims=[space],
        output_core_dims=[space],
        dask="parallelized",
        output_dtypes=[field.dtype],
        keep_attrs=True,
    )


def _check_units(observations: PointObservations, field: xr.DataArray) -> None:
    ours, theirs = observations.units, field.attrs.get("units")
    if ours is not None and theirs is not None and not same_units(ours, theirs):
        refuse(f"units of the observations and of {field.name!r} differ", theirs, ours, "convert the observations")


def _attrs(text: str, units: str | None) -> dict[str, str]:
    return {"long_name": text} if units is None else {"long_name": text, "units": units}


def _places(observations: PointObservations, field: xr.DataArray) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return dimensions for the observations that do not clash with those of the field, and their coordinates."""
    dims = [d if d not in field.dims else f"observation_{d}" for d in observations.dims]
    time, times = field.dims[0], observations.time
    if len(dims) == 2 and times is not None and time in field.coords and np.array_equal(times, field[time].values):
        dims[0] = str(time)
    # Neither standard_name nor degrees_north: the grid's own stay the only answer to "which is the latitude?".
    coords: dict[str, Any] = {
        f"observation_{k}": (dims, getattr(observations, k), _attrs(f"{k} of the observation", "degree"))
        for k in ("latitude", "longitude")
    }
    if times is not None and dims[0] != time:
        coords["observation_time"] = (dims[:1], times, {"long_name": "time of the observation"})
    return tuple(dims), coords


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
            _check_units(each, field)
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
