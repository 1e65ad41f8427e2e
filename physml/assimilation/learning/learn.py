"""Learning a model from partial and noisy observations: assimilation with the present model, training on its analyses, again.

    round 0      first states by interpolation of the observations; train the step on them
    round r      (a) assimilate the observations with the step: analyses and their errors
                 (b) train the step on the analyses, over several steps, weighted by their errors

It is expectation and maximisation in turn (Bocquet et al. 2020): (a) finds the states that the model and the observations
make likely, (b) the model that the states make likely. What the model errs by, Q = q^2 I, is found along the way, from the
innovations: they must be as large as the filter expects them to be.

References
----------
Brajard, J., Carrassi, A., Bocquet, M. and Bertino, L. (2020), doi:10.1016/j.jocs.2020.101171. Bocquet, M., Brajard, J.,
Carrassi, A. and Bertino, L. (2020), doi:10.3934/fods.2020001.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import xarray as xr

from physml import _backend, _progress
from physml._errors import refuse
from physml.assimilation.cycling.course import Course
from physml.assimilation.cycling.cycle import Cycle
from physml.assimilation.cycling.identity import digest
from physml.assimilation.learning._resume import Checkpoint, assign, values
from physml.assimilation.learning.interpolation import interpolate_observations
from physml.assimilation.learning.noise import Scaled
from physml.assimilation.learning.sweep import Found, Sweep
from physml.assimilation.learning.training import Windows, trainer
from physml.assimilation.method import Method
from physml.assimilation.observing.gridded import GridObservations
from physml.assimilation.observing.rows import Observations
from physml.assimilation.times import find_time
from physml.provenance import stamp


class Learnt(NamedTuple):
    """What a learning returns; the step itself has been trained."""

    analysis: xr.Dataset
    """Analyses of the last round, ``<name>`` and ``<name>_std``: of a smoother the smoothed ones."""
    log: pd.DataFrame
    """One row a round: loss, rms of the innovations and as expected, chi2, model error, seconds; rmse where there is a truth."""


class AlternatingLearning:
    """Trains a time step on its own analyses of observations, in turn with the assimilation.

    Parameters
    ----------
    step
        A time step that is a Keras layer or model, such as ``RK4(network, dt)``, ``Residual(network)`` or
        ``Corrected(step, network)``. It is trained in place.
    method
        Any ensemble :class:`Method`; a smoother's analyses are the smoothed ones.
    state_names, space, time_step
        As for :class:`Cycle`; not needed where the step has them.
    members
        Number of members, drawn about the first state.
    leads, lead_weights
        Steps that the loss looks ahead, and their weights.
    epochs, learning_rate
        Passes over the analyses in a round, and the rate: numbers, or sequences, whose last entry holds for the rounds after.
        Entry 0 is of the training on the first states.
    batch_size, optimizer
        Of the training.
    weighted
        Whether errors weigh by the inverse variance of the analyses.
    model_error
        First standard deviation q of what a step errs by, in units of the state; None: a tenth of the standard deviation of the
        observed values.
    adapt
        Whether q follows the innovations.
    seed
        Of members, model errors, rotations and the order of training.
    fused
        As for :class:`Cycle`.

    Examples
    --------
    >>> from physml import networks
    >>> from physml.assimilation import RK4, EnKFN
    >>> step = RK4(networks.bilinear_tendency([40], boundary=["periodic"], products=6), dt=0.05)
    >>> learning = AlternatingLearning(step, EnKFN(), state_names=["x"])
    >>> learnt = learning.run(observations, cycles=8, directory="learning")  # doctest: +SKIP
    """

    def __init__(
        self,
        step: Callable[..., Any],
        method: Method,
        *,
        state_names: Sequence[str] | None = None,
        space: Sequence[str] | None = None,
        time_step: Any = None,
        members: int = 30,
        leads: int = 4,
        lead_weights: Sequence[float] | None = None,
        epochs: int | Sequence[int] = (40, 15),
        learning_rate: float | Sequence[float] = (1e-2, 5e-3),
        batch_size: int = 256,
        optimizer: str = "adam",
        weighted: bool = True,
        model_error: float | None = None,
        adapt: bool = True,
        seed: int = 0,
        fused: bool = True,
    ) -> None:
        if not isinstance(method, Method) or not method.ensemble:
            what = "AlternatingLearning: the method knows no ensemble"
            refuse(what, "an ensemble Method", type(method).__name__, "EnKFN(), ETKF(inflation=1.05), EnKS(...)")
        if members < 2:
            refuse("AlternatingLearning: too few members", ">= 2", members, "members=30")
        self.step, self.method, self.members, self.leads = step, method, int(members), int(leads)
        self.cycle = Cycle(step, method, state_names=state_names, space=space, fused=fused)
        self.lead_weights, self.optimizer, self.batch_size = lead_weights, optimizer, int(batch_size)
        self.epochs, self.learning_rate = _listed(epochs), _listed(learning_rate)
        self.weighted, self.model_error, self.adapt = bool(weighted), model_error, bool(adapt)
        self.time_step, self.seed = time_step, int(seed)

    def run(
        self,
        observations: Observations,
        initial: xr.Dataset | None = None,
        *,
        cycles: int = 10,
        forcing: xr.Dataset | None = None,
        truth: xr.Dataset | None = None,
        burn_in: int = 0,
        directory: str | os.PathLike[str] | None = None,
        show: bool = True,
    ) -> Learnt:
        """Train the step.

        Parameters
        ----------
        observations
            Of any kind, with times; one model step apart at least somewhere.
        initial
            First states at each analysis time, ``<name>`` and maybe ``<name>_std``; None: interpolated from gridded
            observations of the whole state (:func:`interpolate_observations`).
        cycles
            Number of rounds of assimilation and training after the first training.
        forcing
            As for :meth:`Cycle.run`.
        truth
            The true state at the analysis times, which is only compared.
        burn_in
            Analysis times at the beginning that are neither trained on nor compared.
        directory
            Where weights, optimizer, analyses and log are kept after each round; a learning of the same settings and
            observations goes on from there. None: nowhere.
        show
            Whether to draw a progress bar on a terminal.

        Raises
        ------
        ValueError
            Where there are no first states, or forecasts are not finite.
        """
        with _backend.float64():
            return self._run(observations, initial, cycles, forcing, truth, burn_in, directory, show)

    def _run(
        self,
        observations: Observations,
        initial: xr.Dataset | None,
        cycles: int,
        forcing: xr.Dataset | None,
        truth: xr.Dataset | None,
        burn_in: int,
        directory: str | os.PathLike[str] | None,
        show: bool,
    ) -> Learnt:
        if initial is None:
            if not isinstance(observations, GridObservations):
                received = type(observations).__name__
                what = "there are no first states"
                refuse(what, "GridObservations, or first states", received, "pass initial=, a Dataset by time")
            initial = interpolate_observations(observations)
        first = self._first(initial)
        course = self.cycle.course(first, observations, forcing, time_step=self.time_step, seed=self.seed)
        if course.every != 1:
            what = "AlternatingLearning: steps without an analysis between"
            refuse(what, "an analysis after each step", f"every {course.every}-th", "pad with missing observations")
        names = course.vector.names
        fields = [initial[n].transpose(..., *course.vector.space).values for n in names]
        mean = course.vector.vector(np.stack(fields, axis=-1).astype("float64"))
        if len(mean) != len(course.rows.values):
            what, want = "first states do not fit the observations", len(course.rows.values)
            refuse(what, f"{want}, one for each analysis time", len(mean), "interpolate them to these times")
        stds = [initial[f"{n}_std"].transpose(..., *course.vector.space).values for n in names if f"{n}_std" in initial]
        std = course.vector.vector(np.stack(stds, axis=-1)) if len(stds) == len(names) else None
        target = None
        if truth is not None:
            there = [truth[n].sel({course.labels.time: course.labels.times}, method="nearest") for n in names]
            true = np.stack([t.transpose(..., *course.vector.space).values for t in there], axis=-1)
            target = course.vector.vector(true.astype("float64"))

        held = None if course.held is None else np.concatenate([course.held(t)[:, 0] for t in range(len(mean))])
        shape = (*course.vector.wet.shape, len(names))
        model = trainer(
            self.step,
            shape,
            leads=self.leads,
            lead_weights=self.lead_weights,
            forcing_shape=None if held is None else held.shape[1:],
            optimizer=self.optimizer,
            learning_rate=self.learning_rate[0],
        )
        model.optimizer.build(model.trainable_variables)
        weights, moments = list(model.variables), list(model.optimizer.variables)
        spread = np.nanstd(course.rows.values)
        noise = Scaled(course.vector.size, 0.1 * spread if self.model_error is None else self.model_error)
        run = Sweep(course, noise, variables=[*weights, noise.log_std])
        log: list[dict[str, float]] = []
        checkpoint = Checkpoint(directory, self._settings(burn_in, course), "learning")
        kept = checkpoint.load()
        if kept is not None:
            assign(weights, kept["weights"])
            assign(moments, kept["optimizer"])
            assign([noise.log_std], kept["noise"])
            log, (mean, std) = kept["log"], kept["analysis"]
        with _progress.bar("learning", cycles + 1, show=show) as done:
            for number in range(cycles + 1):
                if number < len(log):
                    done(1)
                    continue
                clock, row = time.perf_counter(), {"round": float(number)}
                if number:
                    found = self._assimilate(run, noise, number, burn_in)
                    mean, std = found.mean, found.std
                    row |= found.statistics(burn_in)
                row["model_error"] = noise.std
                if target is not None:
                    error = (mean - target)[burn_in:]
                    row["rmse"] = float(np.sqrt(np.mean(error**2, axis=1)).mean())
                row["loss"] = self._train(model, course, mean, std, held, number, burn_in)
                row["seconds"] = time.perf_counter() - clock
                log.append(row)
                checkpoint.save(
                    {"log": log},
                    weights=values(weights),
                    optimizer=values(moments),
                    noise=values([noise.log_std]),
                    analysis=[mean, np.full_like(mean, np.nan) if std is None else std],
                )
                done(1)
        table = pd.DataFrame(log).set_index("round")
        table.index = table.index.astype(int)
        return Learnt(self._label(course, mean, std), table)

    def _assimilate(self, run: Sweep, noise: Scaled, number: int, burn_in: int) -> Found:
        """Return the analyses of a round; before them q is set on a part of the record, the first time more patiently."""
        if self.adapt:
            part = min(len(run.course.rows.values), 400 + burn_in)
            for attempt in range(4 if number == 1 else 1):
                found = run.pass_over((self.seed, number, attempt + 1), part)
                error_std = run.course.rows.error_std[burn_in:part]
                noise.follow(found.innovation[burn_in:], found.innovation_std[burn_in:], error_std)
        return run.pass_over((self.seed, number, 0))

    def _train(
        self,
        model: keras.Model,
        course: Any,
        mean: np.ndarray,
        std: np.ndarray | None,
        held: np.ndarray | None,
        number: int,
        burn_in: int,
    ) -> float:
        known = std is not None and self.weighted and bool(np.isfinite(std).all())
        data = Windows(
            course.vector.fields(mean)[burn_in:],
            self.leads,
            variance=course.vector.fields(np.square(std), 1.0)[burn_in:] if known and std is not None else None,
            forcing=None if held is None else held[burn_in:],
            batch_size=self.batch_size,
            seed=(self.seed, number),
            dtype=course.dtype,
        )
        model.optimizer.learning_rate = _at(self.learning_rate, number)
        losses = model.fit(data, epochs=int(_at(self.epochs, number)), shuffle=False, verbose=0).history["loss"]
        if not np.isfinite(losses[-1]):
            what, rate = f"training diverged in round {number}", _at(self.learning_rate, number)
            refuse(what, "a finite loss", losses[-1], f"a smaller learning_rate than {rate:g}")
        return float(losses[-1])

    def _first(self, initial: xr.Dataset) -> xr.Dataset:
        """Return the members one step before the first of the states: it, plus noise of its error."""
        when = find_time(initial)
        if when is None or when.ndim != 1 or when.size < self.leads + 2:
            refuse("first states have no times", f"more than {self.leads + 1}", None, "initial with a time dimension")
        dim, rng = str(when.dims[0]), np.random.default_rng((self.seed, 10**6))
        start, gap = initial.isel({dim: 0}), when.values[1] - when.values[0]
        out = xr.Dataset(coords={**start.coords, dim: when.values[0] - gap}, attrs=initial.attrs)
        out[dim].attrs.update(when.attrs)
        for name in self.cycle.state_names:
            error = start.get(f"{name}_std", 0.3 * float(initial[name].std()))
            noise = rng.standard_normal((self.members, *start[name].shape))
            out[name] = start[name] + xr.DataArray(noise, dims=("member", *start[name].dims)) * error
            out[name].attrs.update(initial[name].attrs)
        return out

    def _settings(self, burn_in: int, course: Course) -> dict[str, Any]:
        names = (
            "members",
            "leads",
            "lead_weights",
            "batch_size",
            "optimizer",
            "weighted",
            "model_error",
            "adapt",
            "seed",
        )
        own = {name: getattr(self, name) for name in names}
        return {**own, "method": digest(self.method), "burn_in": burn_in, **course.identity()}

    def _label(self, course: Any, mean: np.ndarray, std: np.ndarray | None) -> xr.Dataset:
        labels, out = course.labels, {}
        for key, array in (("", mean), ("_std", std)):
            if array is not None:
                stacked = course.vector.fields(np.asarray(array), np.nan)
                for c, name in enumerate(course.vector.names):
                    make = labels.spread if key else labels.field
                    out[name + key] = make(stacked[..., c], c, "standard deviation of the analysis" if key else "")
        coords = {name: c for name, c in labels.coords().items() if name not in labels.slots}
        ds = xr.Dataset(out).assign_coords(coords)
        return stamp(ds, "analyses of alternating learning")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value]


def _at(values: list[Any], number: int) -> Any:
    return values[min(number, len(values) - 1)]
