"""Analyses of labelled forecasts: each time alone, or with the observations of other times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.assimilation.blue.choice import FORMS
from physml.assimilation.blue.grid_blue import BLUE
from physml.assimilation.blue.iterative import Sampled
from physml.assimilation.observing import grids
from physml.assimilation.observing.observations import PointObservations, pad
from physml.assimilation.times import duration, find_time, seconds
from physml.provenance import same_units, stamp


def analyse(
    ds: xr.Dataset,
    observations: PointObservations,
    background_error: Any,
    *,
    periodic: bool,
    variable: str | None = None,
    mask: Any = None,
    tolerance: Any = None,
    window: Any = None,
    outside: str = "drop",
    method: str = "auto",
    samples: int = 64,
    neighbours: int = 50,
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
        B, as for :class:`BLUE`; its std may be a DataArray on (lat, lon).
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
    method, samples, neighbours
        Form of the solution, as for :class:`BLUE`; one for all times, told by the attribute ``solution``.

    Returns
    -------
    Dataset
        The analysis under the name of the forecast, its posterior standard deviation ``<name>_std`` (with
        ``<name>_std_error`` where it is estimated from random samples); ``chi2``, ``used`` and ``signal`` (degrees of freedom)
        by time; ``innovation``, ``innovation_std`` (what B and R let one expect) and ``influence`` on the analysis of its
        time by observation; attributes ``solution``, ``observations_dropped_space`` and ``observations_dropped_time``.

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
    field, lat, lon, wet = grids.labelled_field(ds, name, mask)
    check_units(observations, field)
    if observations.error_std is None:
        refuse("the observations have no error", "error_std, sigma_o", None, "PointObservations(..., error_std=...)")
    when = find_time(field)
    if set(field.dims) - {lat, lon, *(() if when is None else when.dims)}:
        refuse(
            f"{name!r} has more than time and space", f"(time, {lat}, {lon})", field.dims, "select or stack the rest"
        )
    field = field if field.ndim == 3 else field.expand_dims("time" if when is None else str(when.name))
    time, size, space = str(field.dims[0]), field.shape[0], [lat, lon]
    if isinstance(getattr(background_error, "std", None), xr.DataArray):
        background_error = replace(background_error, std=background_error.std.transpose(lat, lon).values)
    options: dict[str, Any] = {"method": method, "samples": samples, "neighbours": neighbours}
    layer = BLUE(background_error, latitude=field[lat], longitude=field[lon], periodic=periodic, mask=wet, **options)
    table, in_time = observations.table(), getattr(background_error, "in_time", False)
    given = {k: v[0] for k, v in layer.prepare(table, outside).items()}
    on_grid, finite = given["weights"].any(axis=-1), np.isfinite(given["values"])
    near = _nearest(table, when, size, in_time, tolerance)
    # The index -1 is of none.
    given = {k: np.concatenate([v, np.full((1, *v.shape[1:]), k == "error_std", v.dtype)]) for k, v in given.items()}

    own = pad([np.flatnonzero(near == t) for t in range(size)])
    field = _checked(field, space, wet)
    sampled = grids.Interpolation(given["index"][own], np.where(own[..., None] < 0, 0.0, given["weights"][own]))
    hx = (
        grids.sample(field, lat, lon, sampled, (time, "_slot")).reset_coords(drop=True).drop_vars(time, errors="ignore")
    )
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
    layer.method = layer.resolved(width)

    def block(values: np.ndarray, steps: np.ndarray, innovations: np.ndarray) -> tuple[np.ndarray, ...]:
        out = []
        nothing = np.zeros((1, *layer.grid_shape, 1))
        for i, (xf, t) in enumerate(zip(values, steps, strict=True)):
            # Of one width, so that compiled functions are compiled once.
            row = np.pad(rows[t], (0, width - len(rows[t])), constant_values=-1)
            part = {k: v[row][None] for k, v in given.items()}
            part["values"] = np.where(row < 0, np.nan, innovations[row] if in_time else innovations[i])[None]
            if in_time:
                part["lag"] = (then[row] - now[t])[None]
            xa, std, _, expected, chi2, used, *rest = (np.asarray(x)[0] for x in layer.examine(nothing, part))
            maps = (np.where(wet, x[..., 0], np.nan).astype(values.dtype) for x in (xf[..., None] + xa, std, rest[0]))
            # Of the observations used, those of this time.
            here = {each: k for k, each in enumerate(row) if each >= 0}
            place = np.array([here.get(each, -1) for each in own[t]])
            seen = (np.where(place < 0, np.nan, x[place]) for x in (expected, rest[1]))
            out.append((*maps, chi2, used, rest[2], *seen))
        return tuple(np.stack(column) for column in zip(*out, strict=True))

    xa, std, error, chi2, used, signal, expected, influence = xr.apply_ufunc(
        block,
        field,
        xr.DataArray(np.arange(size), dims=time),
        grids.whole(innovation, "_obs") if in_time else grids.whole(d - hx, "_slot"),
        input_core_dims=[space, [], ["_obs"] if in_time else ["_slot"]],
        output_core_dims=[space, space, space, [], [], [], ["_slot"], ["_slot"]],
        dask="parallelized",
        output_dtypes=[field.dtype] * 3 + ["float64"] * 5,
        dask_gufunc_kwargs={"output_sizes": {"_slot": own.shape[1]}},
    )
    dims, coords = _places(observations, field)
    place = xr.DataArray(np.arange(near.size).reshape(observations.values.shape), dims=dims)
    there = xr.DataArray(near >= 0, dims="_obs")
    expected, influence = (
        x.reset_coords(drop=True).drop_vars(time, errors="ignore").isel(at).where(there).isel(_obs=place)
        for x in (expected, influence)
    )
    attrs, label = field.attrs, field.attrs.get("long_name", name)
    columns = {
        f"{name}_std": (std, f"posterior standard deviation of {label}", attrs.get("units")),
        "chi2": (chi2, "chi-square of the innovations over their number", "1"),
        "used": (used, "number of observations used", "1"),
        "signal": (signal, "degrees of freedom for signal", "1"),
        "innovation": (innovation.isel(_obs=place), "observation minus forecast", attrs.get("units")),
        "innovation_std": (expected, "expected standard deviation of the innovation", attrs.get("units")),
        "influence": (influence, "influence of the observation on the analysis at its place", "1"),
    }
    if issubclass(FORMS[layer.method], Sampled):
        text = f"standard error of the posterior standard deviation from {samples} random samples"
        columns[f"{name}_std_error"] = (error, text, attrs.get("units"))
    out = xr.Dataset({name: xa.assign_attrs(attrs)}, attrs=ds.attrs).assign_coords(coords)
    out = out.assign({k: v.assign_attrs(_attrs(text, units)) for k, (v, text, units) in columns.items()})
    out = out if ds[name].ndim == 3 else out.isel({time: 0})
    counts = {"space": (finite & ~on_grid).sum(), "time": (finite & (near < 0)).sum()}
    out = out.assign_attrs({f"observations_dropped_{k}": int(n) for k, n in counts.items()})
    out = out.assign_attrs(solution=FORMS[layer.method].name)
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
        grids.whole(field, *space),
        input_core_dims=[space],
        output_core_dims=[space],
        dask="parallelized",
        output_dtypes=[field.dtype],
        keep_attrs=True,
    )


def check_units(observations: PointObservations, field: xr.DataArray) -> None:
    """Refuse observations in other units than the field's."""
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
