"""Cycles of time steps and analyses of labelled fields."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xarray as xr

from physml import _backend
from physml._errors import refuse
from physml.assimilation.cycling.course import Course
from physml.assimilation.cycling.identity import digest
from physml.assimilation.cycling.labelling import finish
from physml.assimilation.cycling.preparing import called, course_of, layered_of, native
from physml.assimilation.cycling.storing import check_target, write
from physml.assimilation.cycling.workers import OverDask
from physml.assimilation.method import Method
from physml.assimilation.observing.observations import PointObservations
from physml.assimilation.observing.rows import Observations


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

    The twin experiment of Sakov and Oke (2008), ten times of it:

    >>> from physml.testbeds import lorenz96
    >>> from physml.testbeds.setups import sakov2008
    >>> truth, seen, members = sakov2008.twin(cycles=10, members=24)
    >>> step = RK4(lorenz96.tendency, dt=0.05, dtype="float64")
    >>> out = Cycle(step, ETKF(inflation=1.013), state_names=["x"]).run(members, GridObservations(seen))
    >>> out.x.dims, out.used.values[0].item()
    (('time', 'site'), 40.0)
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
            refuse("Cycle: no method takes the model error", "a Method", called(analysis), "drop model_error=")

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
        to: str | os.PathLike[str] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        chunk: int | None = None,
        members_by: str = "batch",
        workers: Any = None,
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
        to
            ``*.zarr``: the run is written there chunk by chunk, in the memory of a chunk, and returned lazily. None: it is
            returned in memory.
        resume
            Go on where an earlier call with the same arguments was stopped, with the same numbers bit for bit; begin where
            there is nothing to go on with.
        overwrite
            Replace what is at *to*, and throw away what an earlier call left unless *resume*.
        chunk
            Number of analysis times in a chunk; by default a tenth of the run, but at most 32 MB.
        members_by
            ``"batch"``: all members in one batch, compiled. ``"dask"``: in parallel by dask, for steps too heavy for one
            batch; not with methods that need a tangent linear or an adjoint.
        workers
            A ``distributed.Client`` for ``members_by="dask"``; None: threads.

        Returns
        -------
        Dataset
            With a layer or none, by step, the initial state not included: each variable of the state after analysis; and with
            a layer ``<name>_forecast`` before it, its posterior standard deviation ``<name>_std``, ``innovation``,
            ``innovation_std``, ``chi2`` and ``used``, NaN or 0 where there was no analysis; of :class:`BLUE` the form of its
            solution in the attribute ``solution``.

            With a method, by analysis time: of each variable the analysis ``<name>`` and ``<name>_forecast`` (of an ensemble
            their means), ``<name>_std`` and ``<name>_forecast_std`` where they are known, ``<name>_smoothed`` of smoothers (at
            the time it speaks of), ``innovation``, ``innovation_std``, ``residual`` (observation minus analysis, for
            :func:`desroziers`), ``chi2``, ``used``, ``rejected``.

        Raises
        ------
        ValueError
            Where the state is missing on wet cells, units or grids differ, or observations lie outside the run.
        """
        if members_by not in ("batch", "dask"):
            refuse("Cycle: members_by is unknown", "'batch' or 'dask'", repr(members_by), "choose one")
        target = None if to is None else check_target(to, resume=resume, overwrite=overwrite)
        method = isinstance(self.analysis, Method)
        dtype = dtype or (native(self.step) if method else "float32")
        share = OverDask(self.step, workers, dtype) if members_by == "dask" else None
        options: dict[str, Any] = {
            "steps": steps,
            "every": every,
            "time_step": time_step,
            "tolerance": tolerance,
            "outside": outside,
        }
        with _backend.float64() if method or dtype == "float64" else contextlib.nullcontext():
            if method:
                options |= {"seed": seed, "members": members, "chunk": None if to is None else chunk or 0}
                run: Any = self.course(initial, observations, forcing, **options, dtype=dtype, share=share)
            else:
                run = layered_of(self, initial, observations, forcing, **options, dtype=dtype, step=share or self.step)
            if target is None:
                return finish(run)
            parts = [self.step, self.analysis, self.after, self.gross_error, self.model_error, self.fused, members_by]
            key = run.identity() | {"cycle": digest(parts)}
            return write(run, target, key, resume=resume, overwrite=overwrite, chunk=chunk)

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
        share: OverDask | None = None,
        chunk: int | None = None,
    ) -> Course:
        """Return a run by a method, prepared and not yet run; arguments as for :meth:`run`.

        Learning goes through it call by call: it holds the state vector, the problem, and the observations, forcing and
        random numbers of each call.
        """
        return course_of(
            self,
            initial,
            observations,
            forcing,
            steps=steps,
            every=every,
            time_step=time_step,
            tolerance=tolerance,
            outside=outside,
            dtype=dtype or native(self.step),
            seed=seed,
            members=members,
            share=share,
            chunk=chunk,
        )
