"""From labelled arguments to a run: fields become vectors, observations rows, and what does not fit is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import fields as parameters
from dataclasses import is_dataclass, replace
from math import gcd
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr
from keras import ops

from physml import grid
from physml._errors import refuse
from physml.assimilation.blue.choice import FORMS
from physml.assimilation.cycling.course import Course
from physml.assimilation.cycling.labelling import Labels
from physml.assimilation.cycling.layered import LayeredRun, prepare_rows, require_inside
from physml.assimilation.method import Method, Problem
from physml.assimilation.observing.rows import Observations, Rows
from physml.assimilation.steps import forcing_at, pack, state_fields, valid_times
from physml.assimilation.times import seconds
from physml.assimilation.vector import StateVector, state_vector

if TYPE_CHECKING:
    from physml.assimilation.cycling.cycle import Cycle
    from physml.assimilation.cycling.workers import OverDask


class _Start(NamedTuple):
    """A labelled initial state taken apart."""

    fields: list[xr.DataArray]
    space: tuple[str, ...]
    member: tuple[str, ...]
    wet: np.ndarray

    @property
    def packed(self) -> np.ndarray:
        """The state ``[N, *space, channel]``."""
        state = pack(self.fields, (*self.member, *self.space), self.wet, "the initial state")
        return state if self.member else state[None]


def course_of(
    cycle: Cycle,
    initial: xr.Dataset,
    observations: Any,
    forcing: Any,
    *,
    steps: int | None,
    every: int | None,
    time_step: Any,
    tolerance: Any,
    outside: str,
    dtype: str,
    seed: int,
    members: bool,
    share: OverDask | None,
    chunk: int | None,
) -> Course:
    """Return a run by a method; arguments as for :meth:`Cycle.run`."""
    _require_pair(cycle, observations)
    if not isinstance(observations, Observations):
        received = type(observations).__name__
        refuse(
            "Cycle: these are no observations", "PointObservations, ...", received, "JointObservations joins several"
        )
    start = _ensemble(cycle, initial)
    steps, every = _course(cycle, initial, observations, steps, every, time_step)
    when = observations.when()
    times, time = valid_times(initial, cycle.step, steps, time_step, like=when)
    if when is not None:
        require_inside(when, np.ones(len(when), bool), times, tolerance)
    vector = state_vector(start.fields, start.space, start.wet, cycle.periodic)
    analyses = times[np.arange(every, steps + 1, every)]
    rows = observations.rows(vector, analyses, tolerance=tolerance, outside=outside)
    held = _held(cycle, forcing, initial, start, times, time, spread=False)

    def between(number: int) -> np.ndarray:
        """Return the forcing of the steps before an analysis."""
        assert held is not None
        return np.stack([held(number * every + i) for i in range(every)])

    problem = Problem(
        size=vector.size,
        propagate=lambda x, k: x,
        geometry=vector.geometry,
        model_error=None if cycle.model_error is None else vector.bind(cycle.model_error),
        gross_error=cycle.gross_error,
    )
    method = _bound(cycle.analysis, vector)
    return Course(
        cycle.step,
        method,
        cycle.after,
        vector,
        vector.vector(start.packed),
        rows,
        every,
        None if held is None else between,
        dtype,
        problem,
        seed,
        members,
        cycle.fused,
        _labels(cycle, initial, start, vector, time, analyses, rows, steps),
        share,
        chunk,
    )


def layered_of(
    cycle: Cycle,
    initial: xr.Dataset,
    observations: Any,
    forcing: Any,
    *,
    steps: int | None,
    every: int | None,
    time_step: Any,
    tolerance: Any,
    outside: str,
    dtype: str,
    step: Callable[..., Any],
) -> LayeredRun:
    """Return runs with an analysis layer, or free ones; arguments as for :meth:`Cycle.run`."""
    _require_pair(cycle, observations)
    fields, space, member = state_fields(initial, cycle.state_names, cycle.space)
    steps, every = _course(cycle, initial, observations, steps, every or 1, time_step)
    start = _Start(fields, space, member, _mask(cycle, initial, fields[0], space))
    times, time = valid_times(initial, cycle.step, steps, time_step)
    x = ops.convert_to_tensor(start.packed.astype(dtype))
    k, given, counts = _observed(cycle, observations), None, dict[str, int]()
    if observations is not None:
        at = np.arange(every, steps + 1, every)
        given, counts = prepare_rows(cycle.analysis, observations, fields[k], times, at, tolerance, outside, x.shape[0])
    form = {}
    if given is not None and hasattr(cycle.analysis, "resolved"):
        form["solution"] = FORMS[cycle.analysis.resolved(given["values"].shape[-1])].name
    held = _held(cycle, forcing, initial, start, times, time, spread=True)
    labels = Labels(
        time,
        times[1:],
        space,
        member[0] if member else None,
        fields,
        start.wet,
        {**initial.attrs, **counts, **form},
        _action(cycle, steps),
        {},
        fields[k].attrs.get("units"),
    )

    def forced(n: int) -> Any:
        return None if held is None else ops.convert_to_tensor(held(n).astype(dtype))

    return LayeredRun(step, cycle.analysis, cycle.after, x, forced, given, k, every, steps, cycle.gross_error, labels)


def native(step: Any) -> str:
    """Return the type of the state that a step takes: that of a layer, but not below float32; else float64."""
    return "float64" if getattr(step, "compute_dtype", "float64") == "float64" else "float32"


def called(thing: Any) -> str:
    """Return the name of a step or an analysis."""
    return "no analysis" if thing is None else getattr(thing, "name", None) or type(thing).__name__


def _action(cycle: Cycle, steps: int) -> str:
    return f"{steps} steps of {called(cycle.step)} with {called(cycle.analysis)}"


def _require_pair(cycle: Cycle, observations: Any) -> None:
    if (cycle.analysis is None) != (observations is None):
        received = "one without the other"
        refuse("Cycle: analysis and observations belong together", "both, or neither", received, "pass both")


def _ensemble(cycle: Cycle, initial: xr.Dataset) -> _Start:
    """Return the fields of a method's initial state; all dimensions but time and member are those of space."""
    method, space = cycle.analysis, cycle.space
    if space is None:
        fields = [grid.variable(initial, n, "state variable") for n in cycle.state_names]
        dims = dict.fromkeys(str(d) for f in fields for d in f.dims)
        space = [d for d in dims if d not in ("member", "time")]
        with contextlib.suppress(ValueError):
            # Networks take latitude and longitude last.
            flat = [str(c.dims[0]) for c in grid.latitude_longitude(fields[0]) if c.ndim == 1]
            space = [*[d for d in space if d not in flat], *[d for d in flat if d in space]]
    fields, dims_of_space, member = state_fields(initial, cycle.state_names, space)
    if method.ensemble and not member:
        what = f"{called(method)}: the initial state has no members"
        remedy = "xr.concat([...], 'member') of perturbed states"
        refuse(what, "a dimension 'member'", dict(fields[0].sizes), remedy)
    if method.ensemble and max(f.sizes.get(d, 1) for f in fields for d in member) < 2:
        refuse(f"{called(method)}: one member has no spread", "2 members or more", 1, "draw more of them")
    return _Start(fields, dims_of_space, member, _mask(cycle, initial, fields[0], dims_of_space))


def _bound(method: Method, vector: StateVector) -> Method:
    """Return a method whose covariances are those of the state vector."""
    if not is_dataclass(method):
        return method
    given = {f.name: getattr(method, f.name) for f in parameters(method)}
    loose = {name: vector.bind(value) for name, value in given.items() if hasattr(value, "bind")}
    return replace(method, **loose) if loose else method


def _course(
    cycle: Cycle, initial: xr.Dataset, observations: Any, steps: int | None, every: int | None, time_step: Any
) -> tuple[int, int]:
    """Return the number of steps and of those between analyses, from the times of the observations where not given."""
    if steps is None or every is None:
        if observations is None or isinstance(observations, Observations):
            given = None if observations is None else observations.when()
        else:
            each = [one.when() for one in observations]
            given = None if any(w is None for w in each) or not each else np.concatenate(each)
        if given is None or not len(given):
            every = every or 1
            if steps is None:
                what = "Cycle: the number of steps is not known"
                refuse(what, "steps, or observations with times", None, "pass steps=")
        else:
            pair, _ = valid_times(initial, cycle.step, 1, time_step, like=given)
            begin, end = seconds(pair)
            n = np.rint((seconds(given, like=pair) - begin) / (end - begin)).astype("int64")
            every = every or max(1, gcd(*map(int, np.unique(n[n > 0]))))
            steps = int(n.max()) if steps is None else steps
    if not 1 <= every <= steps:
        refuse("Cycle: steps and every do not fit", "1 <= every <= steps", f"{every}, {steps}", "pass every=1")
    return steps, every


def _labels(
    cycle: Cycle,
    initial: xr.Dataset,
    start: _Start,
    vector: StateVector,
    time: str,
    analyses: np.ndarray,
    rows: Rows,
    steps: int,
) -> Labels:
    counts = {"observations_dropped_space": rows.dropped, "observations_unused": rows.unused}
    slots = _slots(rows, vector, time)
    units = set(rows.units)
    return Labels(
        time,
        analyses,
        start.space,
        start.member[0] if start.member else None,
        start.fields,
        start.wet,
        {**initial.attrs, **counts},
        _action(cycle, steps),
        slots,
        units=next(iter(units)) if len(units) == 1 else None,
        late=getattr(cycle.analysis, "smoothing_lag", cycle.analysis.lag),
    )


def _slots(rows: Rows, vector: StateVector, time: str) -> dict[str, Any]:
    """Return coordinates of the observations: which variable, where there are several, and where they lie."""
    slots: dict[str, Any] = {}
    kinds = list(dict.fromkeys(rows.variables))
    if len(kinds) > 1:
        # Flags, as CF has them, rather than strings.
        flags = {"flag_values": np.arange(len(kinds), dtype="int8"), "flag_meanings": " ".join(map(_word, kinds))}
        which = np.array([kinds.index(v) for v in rows.variables], "int8")
        slots["observed"] = ("obs", which, {"long_name": "observed variable", **flags})
    places = rows.places(slice(None))
    if places is not None:
        for name, (values, units) in vector.named(places).items():
            # Neither standard_name nor degrees_north: the grid's own stay the only answer to "which is the latitude?".
            attrs = {"long_name": f"{name} of the observation", "units": units}
            slots[f"observation_{name}"] = ((time, "obs"), np.where(np.isfinite(rows.values), values, np.nan), attrs)
    return slots


def _word(name: str) -> str:
    return name.replace(", ", "+").replace(" ", "_")


def _held(
    cycle: Cycle, forcing: Any, initial: xr.Dataset, start: _Start, times: np.ndarray, time: str, *, spread: bool
) -> Callable[[int], np.ndarray] | None:
    """Return the forcing ``[1 or N, *space, channel]`` of the step that begins at a number of steps; None: there is none.

    With *spread* it has a row for each member.
    """
    if not cycle.forcing_names and isinstance(forcing, xr.Dataset):
        what, remedy = "Cycle: it is not said which variables force the step", "forcing_names=['name', ...]"
        refuse(what, "forcing_names, in the order of the channels", tuple(forcing.data_vars), remedy)
    if not cycle.forcing_names or not (forcing is None or isinstance(forcing, xr.Dataset)):
        return None if forcing is None else lambda n: np.asarray(forcing[:, n])
    # Dimensions that fields lack are those of the initial state.
    like = start.fields[0].reset_coords(drop=True)

    def labelled(n: int) -> np.ndarray:
        parts = forcing_at(forcing, initial, cycle.forcing_names, time, times[n])
        several = spread or any(d in f.dims for f in parts for d in start.member)
        shape = like if several else like.isel(dict.fromkeys(start.member, 0))
        member = start.member if several else ()
        packed = pack([f.broadcast_like(shape) for f in parts], (*member, *start.space), start.wet, "the forcing")
        return packed if member else packed[None]

    return labelled


def _mask(cycle: Cycle, initial: xr.Dataset, field: xr.DataArray, space: tuple[str, ...]) -> np.ndarray:
    shape = tuple(field.sizes[d] for d in space)
    mask = cycle.mask if cycle.mask is not None else getattr(cycle.analysis, "mask", None)
    mask = grid.variable(initial, mask, "mask") if isinstance(mask, str) else mask
    mask = mask.transpose(*space).values if isinstance(mask, xr.DataArray) else mask
    wet = np.ones(shape, bool) if mask is None else np.asarray(mask).astype(bool)
    if wet.shape != shape:
        refuse("the mask does not fit the state", shape, wet.shape, "give it the dimensions of the state in space")
    for c, own in zip(space, ("latitude", "longitude"), strict=False):
        theirs = getattr(cycle.analysis, own, None)
        if theirs is not None and not np.allclose(theirs, field[c], rtol=0, atol=1e-4):
            what = f"the {own} of the analysis and of the state differ"
            refuse(what, theirs[:3], field[c].values[:3], "use one grid")
    return wet


def _observed(cycle: Cycle, observations: Any) -> int:
    """Return the channel of the variable that a layer observes."""
    first = observations if isinstance(observations, Observations | None) else observations[0]
    only = cycle.state_names[0] if len(cycle.state_names) == 1 else None
    name = cycle.variable or only or getattr(first, "variable", None)
    if cycle.analysis is not None and name not in cycle.state_names:
        refuse("the observed variable is not known", cycle.state_names, name, "pass variable= to the cycle")
    return cycle.state_names.index(name) if name in cycle.state_names else 0
