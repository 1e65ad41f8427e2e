"""Cycles of time steps and analyses of labelled fields."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from math import gcd
from typing import Any

import numpy as np
import xarray as xr
from keras import ops

from physml import _backend, grid
from physml.assimilation.background import Background, Dense
from physml.assimilation.course import Course
from physml.assimilation.labelling import Columns, Labels, finish
from physml.assimilation.layered import LayeredRun, prepare_rows, require_inside
from physml.assimilation.method import Method, Problem
from physml.assimilation.observations import PointObservations
from physml.assimilation.rows import Observations
from physml.assimilation.steps import forcing_at, pack, state_fields, valid_times
from physml.assimilation.times import refuse, seconds
from physml.assimilation.vector import state_vector


class Cycle:
    """Alternates a time step and an analysis: forecast, analysis, forecast, ...

    Parameters
    ----------
    step
        Any time step, ``step(state, forcing=None) -> state`` on ``[batch, *space, channel]``.
    analysis
        A :class:`Method` (ensemble filters and smoothers, variational methods, ...); or an analysis layer with
        ``prepare(observations)`` and ``diagnose(forecast, observations)``, such as :class:`BLUE`, that changes the observed
        variable alone in runs of their own. None: a free run.
    after
        Applied to the state after each analysis, ``[batch, *space, channel]`` to the same: constraints, such as positivity
        and a given total, which an analysis does not know.
    state_names, forcing_names
        Names of the channels, by default those of the step.
    variable
        Name of the variable that a layer observes, by default that of the observations, or the only one.
    space
        Dimensions of space. By default those of latitude and longitude; for a method all but time and ``member``.
    mask
        True on wet cells, by default that of the analysis; None without one: all cells are wet.
    periodic
        For a method: on a geographic grid whether the first and the last longitude are neighbours; on others the period of
        each periodic dimension, ``{"site": 40}``, by default the attribute ``period`` of its coordinate.
    model_error
        Q, the covariance of what the model errs by from one analysis to the next, for methods that know model error.
    gross_error
        Observations whose innovation exceeds so many expected standard deviations are set aside and counted.
    fused
        Whether XLA compiles the steps on TensorFlow: five times faster for chains of small operations, slow to compile for
        large networks.

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
        periodic: bool | Mapping[str, float] | None = None,
        model_error: Any = None,
        gross_error: float | None = None,
        fused: bool = True,
    ) -> None:
        self.step, self.analysis, self.after = step, analysis, after
        self.state_names = tuple(state_names or getattr(step, "state_names", None) or ())
        self.forcing_names = tuple(forcing_names or getattr(step, "forcing_names", None) or ())
        self.variable, self.space, self.mask, self.periodic = variable, space, mask, periodic
        self.model_error, self.gross_error, self.fused = model_error, gross_error, fused
        if not self.state_names:
            refuse("Cycle: the state has no names", "a step with state_names", "none", "pass state_names=['name', ...]")
        if gross_error is not None and not gross_error > 0:
            refuse("Cycle: gross_error is not positive", "> 0 standard deviations", gross_error, "pass gross_error=4")
        if model_error is not None and not isinstance(analysis, Method):
            refuse("Cycle: no method takes the model error", "a Method", _name(analysis), "drop model_error=")

    def run(
        self,
        initial: xr.Dataset,
        observations: Observations | Sequence[PointObservations] | None = None,
        forcing: Any = None,
        *,
        steps: int | None = None,
        every: int | None = None,
        time_step: Any = None,
        tolerance: Any = 0.0,
        outside: str = "drop",
        dtype: str | None = None,
        seed: int = 0,
        members: bool = False,
    ) -> xr.Dataset:
        """Return the run from *initial*, labelled with valid times.

        Parameters
        ----------
        initial
            The state on (*space), and at most one more dimension of members or runs, for an ensemble method ``member``; at
            one time, or without time: then times count from the start.
        observations
            Of any kind; with a layer of one variable, for all runs alike, or one for each. Those at the time of no analysis
            are counted in the attribute ``observations_unused``.
        forcing
            A Dataset with the forcing of each step at the time it begins; what has no time may stand in *initial*. Or an
            array ``[batch, steps, *space, channel]``.
        steps
            Number of steps, by default up to the last observation.
        every
            An analysis follows every *every*-th step; by default, with a layer every step, with a method as often as the
            times of the observations have it.
        time_step
            Length of a step ("1D", a timedelta, [s]), by default ``step.time_step`` or ``step.dt``.
        tolerance
            Longest time between an observation and its analysis.
        outside
            What to do with observations on land or outside the grid: ``"drop"`` counts them, ``"error"`` raises an error.
        dtype
            Type of the state that the step sees; by default float32 with a layer, and with a method the step's own. A method
            itself works in float64.
        seed
            Of the random numbers of a method.
        members
            Whether the members of the analysis are kept, ``<name>_members``.

        Returns
        -------
        Dataset
            With a layer or none, by step, the initial state not included: each variable of the state after analysis; and with
            a layer ``<name>_forecast`` before it, its posterior standard deviation ``<name>_std``, ``innovation``,
            ``innovation_std``, ``chi2`` and ``used``, NaN or 0 where there was no analysis.

            With a method, by analysis time: of each variable the analysis ``<name>`` and ``<name>_forecast`` (of an ensemble
            their means), ``<name>_std`` and ``<name>_forecast_std`` where they are known, ``<name>_smoothed`` of smoothers (at
            the time it speaks of), ``innovation``, ``innovation_std``, ``chi2``, ``used``, ``rejected``.

        Raises
        ------
        ValueError
            Where the state is missing on wet cells, units or grids differ, or observations lie outside the run.
        """
        course = (steps, every, time_step)
        if isinstance(self.analysis, Method):
            with _backend.float64():
                run: Any = self.course(
                    initial,
                    observations,
                    forcing,
                    steps=steps,
                    every=every,
                    time_step=time_step,
                    tolerance=tolerance,
                    outside=outside,
                    dtype=dtype,
                    seed=seed,
                    members=members,
                )
                return finish(run, collect(run))
        dtype = dtype or "float32"
        with _backend.float64() if dtype == "float64" else contextlib.nullcontext():
            run = self._layered(initial, observations, forcing, course, tolerance, outside, dtype)
            return finish(run, collect(run))

    def course(
        self,
        initial: xr.Dataset,
        observations: Any,
        forcing: Any = None,
        *,
        steps: int | None = None,
        every: int | None = None,
        time_step: Any = None,
        tolerance: Any = 0.0,
        outside: str = "drop",
        dtype: str | None = None,
        seed: int = 0,
        members: bool = False,
        forward: Callable[[Any, Any], Any] | None = None,
    ) -> Course:
        """Return a run by a method, prepared and not yet run; arguments as for :meth:`run`."""
        method = self.analysis
        if observations is None:
            received = "one without the other"
            refuse("Cycle: analysis and observations belong together", "both, or neither", received, "pass both")
        if not isinstance(observations, Observations):
            received = type(observations).__name__
            refuse("Cycle: no observations", "PointObservations, GridObservations, ...", received, "JointObservations")
        fields, space, member = self._fields(initial, method)
        wet = self._mask(initial, fields[0], space)
        steps, every = self._course(initial, observations, (steps, every, time_step))
        times, time = valid_times(initial, self.step, steps, time_step, like=observations.when())
        vector = state_vector(fields, space, wet, self.periodic)
        ensemble = vector.vector(pack(fields, (*member, *space), wet, "the initial state"))
        ensemble = ensemble if member else ensemble[None]
        when = observations.when()
        if when is not None:
            require_inside(when, np.ones(len(when), bool), times, tolerance)
        at = np.arange(every, steps + 1, every)
        rows = observations.rows(vector, times[at], tolerance=tolerance, outside=outside)
        counts = {"observations_dropped_space": rows.dropped, "observations_unused": rows.unused}
        own = dict.fromkeys(zip(rows.variables, rows.units, strict=True))
        slots: dict[str, Any] = {}
        if len(own) > 1:
            slots["observed"] = ("obs", list(rows.variables), {"long_name": "observed variable"})
        labels = Labels(
            time,
            times[at],
            space,
            member[0] if member and not method.ensemble else None,
            fields,
            wet,
            {**initial.attrs, **counts},
            self._action(steps),
            slots,
            units=next(iter(own))[1] if len({u for _, u in own}) == 1 else None,
            late=method.lag,
        )
        held = self._held(forcing, initial, fields, (member, space, wet), times, time)

        def between(number: int) -> np.ndarray:
            """Return the forcing of the steps before an analysis."""
            assert held is not None
            return np.stack([held(number * every + i) for i in range(every)])

        native = getattr(self.step, "compute_dtype", None) or "float64"
        problem = Problem(
            size=vector.size,
            propagate=lambda x, k: x,
            geometry=vector.geometry,
            model_error=None if self.model_error is None else _bound(self.model_error),
            gross_error=self.gross_error,
        )
        return Course(
            self.step,
            method,
            self.after,
            vector,
            ensemble,
            rows,
            every,
            None if held is None else between,
            dtype or ("float64" if native == "float64" else "float32"),
            problem,
            seed,
            members,
            self.fused,
            labels,
            forward,
        )

    def _fields(self, initial: xr.Dataset, method: Method) -> tuple[list[xr.DataArray], tuple[str, ...], Any]:
        space = self.space
        if space is None:
            first = grid.variable(initial, self.state_names[0], "state variable")
            fields = [first, *[grid.variable(initial, n, "state variable") for n in self.state_names[1:]]]
            gone = {"member", "time"}
            space = [d for d in dict.fromkeys(str(d) for f in fields for d in f.dims) if d not in gone]
            with contextlib.suppress(ValueError):
                flat = [str(c.dims[0]) for c in grid.latitude_longitude(first) if c.ndim == 1]
                space = [*[d for d in space if d not in flat], *[d for d in flat if d in space]]
        fields, dims, member = state_fields(initial, self.state_names, space)
        if method.ensemble and not member:
            what = f"{_name(method)}: the initial state has no members"
            refuse(
                what, "a dimension 'member'", dict(fields[0].sizes), "xr.concat([...], 'member') of perturbed states"
            )
        return fields, dims, member

    def _course(self, initial: xr.Dataset, observations: Observations, course: Any) -> tuple[int, int]:
        """Return the number of steps and of those between analyses, from the times of the observations where not given."""
        steps, every, time_step = course
        if steps is None or every is None:
            given = observations.when()
            if given is None or not len(given):
                every = every or 1
                if steps is None:
                    refuse("Cycle: the observations have no times", "steps, or times", None, "pass steps=")
            else:
                pair, _ = valid_times(initial, self.step, 1, time_step, like=given)
                start, end = seconds(pair)
                n = np.rint((seconds(given, like=pair) - start) / (end - start)).astype("int64")
                every = every or max(1, gcd(*map(int, np.unique(n[n > 0]))))
                steps = max(every, int(n.max())) if steps is None else steps
        if not 1 <= every <= steps:
            refuse("Cycle: steps and every do not fit", "1 <= every <= steps", f"{every}, {steps}", "pass every=1")
        return steps, every

    def _layered(
        self,
        initial: xr.Dataset,
        observations: Any,
        forcing: Any,
        course: Any,
        tolerance: Any,
        outside: str,
        dtype: str,
    ) -> LayeredRun:
        fields, space, batch = state_fields(initial, self.state_names, self.space)
        given, steps, every = None, course[0], course[1] or 1
        if (self.analysis is None) != (observations is None):
            received = "one without the other"
            refuse("Cycle: analysis and observations belong together", "both, or neither", received, "pass both")
        if steps is None:
            if not isinstance(observations, Observations):
                refuse("Cycle: the number of steps is not known", "steps", None, "pass steps=")
            steps, every = self._course(initial, observations, (steps, every, course[2]))
        if not 1 <= every <= steps:
            refuse("Cycle: steps and every do not fit", "1 <= every <= steps", f"{every}, {steps}", "pass every=1")
        wet = self._mask(initial, fields[0], space)
        times, time = valid_times(initial, self.step, steps, course[2])
        packed = pack(fields, (*batch, *space), wet, "the initial state")
        x = ops.convert_to_tensor((packed if batch else packed[None]).astype(dtype))
        k, counts = self._observed(observations), dict[str, int]()
        if observations is not None:
            rows = np.arange(every, steps + 1, every)
            given, counts = prepare_rows(
                self.analysis, observations, fields[k], times, rows, tolerance, outside, x.shape[0]
            )
        labels = Labels(
            time,
            times[1:],
            space,
            batch[0] if batch else None,
            fields,
            wet,
            {**initial.attrs, **counts},
            self._action(steps),
            {},
            fields[k].attrs.get("units"),
        )
        held = self._held(forcing, initial, fields, (batch, space, wet), times, time)

        def forced(n: int) -> Any:
            return None if held is None else ops.convert_to_tensor(held(n).astype(dtype))

        return LayeredRun(
            self.step, self.analysis, self.after, x, forced, given, k, every, steps, self.gross_error, labels
        )

    def _held(
        self, forcing: Any, initial: xr.Dataset, fields: Any, layout: Any, times: np.ndarray, time: str
    ) -> Callable[[int], np.ndarray] | None:
        """Return the forcing ``[batch, *space, channel]`` of the step that begins at a number of steps; None: there is none."""
        batch, space, wet = layout
        if self.forcing_names and (forcing is None or isinstance(forcing, xr.Dataset)):
            # Members that fields lack are those of the initial state.
            like = fields[0].reset_coords(drop=True)

            def labelled(n: int) -> np.ndarray:
                parts = forcing_at(forcing, initial, self.forcing_names, time, times[n])
                packed = pack([f.broadcast_like(like) for f in parts], (*batch, *space), wet, "the forcing")
                return packed if batch else packed[None]

            return labelled
        return None if forcing is None else lambda n: np.asarray(forcing[:, n])

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
                what = f"the {own} of the analysis and of the state differ"
                refuse(what, theirs[:3], field[c].values[:3], "use one grid")
        return wet

    def _observed(self, observations: Any) -> int:
        """Return the channel of the variable that a layer observes."""
        first = observations if isinstance(observations, Observations | None) else observations[0]
        name = self.variable or (
            self.state_names[0] if len(self.state_names) == 1 else getattr(first, "variable", None)
        )
        if self.analysis is not None and name not in self.state_names:
            refuse("the observed variable is not known", self.state_names, name, "pass variable= to the cycle")
        return self.state_names.index(name) if name in self.state_names else 0

    def _action(self, steps: int) -> str:
        return f"{steps} steps of {_name(self.step)} with {_name(self.analysis)}"


def collect(run: Any) -> Columns:
    """Return all that a run tells."""
    state, told = run.start(), []
    for number in range(run.portions):
        state, columns = run.advance(number, state)
        told.append(columns)
    return {name: np.concatenate([t[name] for t in told]) for name in told[0]}


def _bound(error: Any) -> Background:
    return error if isinstance(error, Background) else Dense(error)


def _name(thing: Any) -> str:
    return "no analysis" if thing is None else getattr(thing, "name", None) or type(thing).__name__
