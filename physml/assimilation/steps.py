"""Time steps: Euler and Runge-Kutta schemes around any tendency, and n steps as the layers of one network.

A time step is any callable ``step(state, forcing=None) -> state`` with state ``[batch, *space, state channel]`` and
forcing ``[batch, *space, forcing channel]``. A tendency is any callable ``tendency(state)`` or ``tendency(state, forcing)``
that returns dx/dt in units of the state per second: a network, a layer or a function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
import xarray as xr
from keras import ops

from physml import grid
from physml._errors import refuse
from physml.assimilation.times import duration, find_time


def evaluate(function: Callable[..., Any], state: Any, forcing: Any = None) -> Any:
    """Return ``function(state)``, or of state and forcing; a functional model of two inputs gets them as a list."""
    if forcing is None:
        return function(state)
    if isinstance(function, keras.Model) and len(getattr(function, "inputs", None) or ()) == 2:
        return function([state, forcing])
    return function(state, forcing)


class _Scheme(keras.layers.Layer):
    """A step of length dt around a tendency; the forcing is held over the step."""

    def __init__(self, tendency: Callable[..., Any], dt: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not callable(tendency):
            what, received = f"{type(self).__name__}: the tendency cannot be called", type(tendency).__name__
            refuse(what, "a network, a layer or a function of the state", received, "pass tendency=...")
        if not dt > 0:
            refuse(f"{type(self).__name__}: dt is not positive", "> 0 [s]", dt, "pass the length of the step")
        self.tendency, self.dt = tendency, float(dt)

    def compute_output_shape(self, state_shape: Any, forcing_shape: Any = None) -> Any:
        """Return the shape of the state."""
        return tuple(state_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor; functions must be registered with Keras to be read again."""
        tendency = keras.saving.serialize_keras_object(self.tendency)
        return {**super().get_config(), "tendency": tendency, "dt": self.dt}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _Scheme:
        """Return the layer that :meth:`get_config` describes."""
        return cls(**{**config, "tendency": keras.saving.deserialize_keras_object(config["tendency"])})


@keras.saving.register_keras_serializable(package="physml")
class Euler(_Scheme):
    """Forward Euler step, of order 1: x + dt f(x).

    Parameters
    ----------
    tendency
        f, in units of the state per second.
    dt
        Length of the step [s].

    Examples
    --------
    >>> float(Euler(lambda x: -x, dt=0.5)(ops.ones((1, 3, 1)))[0, 0, 0])
    0.5
    """

    def call(self, state: Any, forcing: Any = None) -> Any:
        """Return the state one step later ``[batch, *space, channel]``."""
        return state + self.dt * evaluate(self.tendency, state, forcing)


@keras.saving.register_keras_serializable(package="physml")
class RK4(_Scheme):
    """Classical Runge-Kutta step, of order 4: x + dt (k1 + 2 k2 + 2 k3 + k4) / 6.

    Parameters
    ----------
    tendency
        f, in units of the state per second.
    dt
        Length of the step [s].

    References
    ----------
    Hairer, E., Norsett, S. P. and Wanner, G. (1993), doi:10.1007/978-3-540-78862-1, chapter II.1.
    """

    def call(self, state: Any, forcing: Any = None) -> Any:
        """Return the state one step later ``[batch, *space, channel]``."""
        k1 = evaluate(self.tendency, state, forcing)
        k2 = evaluate(self.tendency, state + 0.5 * self.dt * k1, forcing)
        k3 = evaluate(self.tendency, state + 0.5 * self.dt * k2, forcing)
        k4 = evaluate(self.tendency, state + self.dt * k3, forcing)
        return state + (self.dt / 6) * (k1 + 2 * k2 + 2 * k3 + k4)


@keras.saving.register_keras_serializable(package="physml")
class Unrolled(keras.layers.Layer):
    """n time steps as the layers of one network, differentiable from end to end.

    Parameters
    ----------
    step
        Any time step. Its weights are trained where it is a layer or a model.
    n
        Number of steps.
    return_sequence
        True: all n states, ``[batch, n, *space, channel]``. False: the last, ``[batch, *space, channel]``.

    Call arguments
    --------------
    state
        ``[batch, *space, state channel]``.
    forcing
        ``[batch, n, *space, forcing channel]``: one for each step, acting from its beginning to its end. None: no forcing.
    """

    def __init__(self, step: Callable[..., Any], n: int, return_sequence: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(n, bool) or int(n) != n or n < 1:
            refuse("Unrolled: n is no number of steps", "an integer >= 1", n, "pass n=1 or more")
        self.step, self.n, self.return_sequence = step, int(n), bool(return_sequence)

    def call(self, state: Any, forcing: Any = None) -> Any:
        """Return the trajectory without the initial state, or the last state."""
        if forcing is not None and forcing.shape[1] != self.n:
            remedy = f"give one forcing field for each of the {self.n} steps"
            refuse(
                "Unrolled: the forcing does not fit", f"[batch, {self.n}, *space, channel]", list(forcing.shape), remedy
            )
        states = []
        for k in range(self.n):
            state = evaluate(self.step, state, None if forcing is None else forcing[:, k])
            states.append(state)
        return ops.stack(states, axis=1) if self.return_sequence else state

    def compute_output_shape(self, state_shape: Any, forcing_shape: Any = None) -> Any:
        """Return the shape of the trajectory or of the last state."""
        batch, *rest = state_shape
        return (batch, self.n, *rest) if self.return_sequence else tuple(state_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        step = keras.saving.serialize_keras_object(self.step)
        return {**super().get_config(), "step": step, "n": self.n, "return_sequence": self.return_sequence}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Unrolled:
        """Return the layer that :meth:`get_config` describes."""
        return cls(**{**config, "step": keras.saving.deserialize_keras_object(config["step"])})


def state_fields(
    initial: xr.Dataset, names: Sequence[str], space: Sequence[str] | None
) -> tuple[list[xr.DataArray], tuple[str, ...], tuple[str, ...]]:
    """Return the fields of a state at one time, the dimensions of space, and that of its members, if any."""
    fields = [grid.variable(initial, n, "state variable") for n in names]
    dims = tuple(space or [str(c.dims[0]) for c in grid.latitude_longitude(fields[0])])
    when = find_time(initial)
    time = str(when.dims[0]) if when is not None and when.ndim else "time"
    several = max(f.sizes.get(time, 1) for f in fields)
    if several != 1:
        refuse("the initial state has several times", "one time", several, f"initial.isel({time}=0)")
    fields = [f.isel({time: 0}) if time in f.dims else f for f in fields]
    members = tuple(dict.fromkeys(str(d) for f in fields for d in f.dims if d not in dims))
    if len(members) > 1:
        refuse("the initial state has too many dimensions", f"{dims} and one of members", members, "stack or select")
    return fields, dims, members


def pack(fields: Sequence[xr.DataArray], dims: Sequence[str], wet: np.ndarray, what: str) -> np.ndarray:
    """Return fields as ``[*dims, channel]``, those of space last, with 0 on dry cells."""
    arrays = []
    for f in xr.broadcast(*[f.reset_coords(drop=True) for f in fields]):
        values = np.asarray(f.transpose(*dims).values, "float64")
        bad = ~np.isfinite(values[..., wet])
        if bad.any():
            where = f"{what} {f.name!r} is missing on {int(bad.sum())} wet cells"
            refuse(where, "finite values", "NaN or inf", "pass mask=, or fill it")
        arrays.append(np.where(wet, values, 0.0))
    return np.stack(arrays, axis=-1)


def valid_times(initial: xr.Dataset, step: Any, steps: int, time_step: Any, like: Any = None) -> tuple[np.ndarray, str]:
    """Return the times of a run, ``[steps + 1]``, and the name of their dimension.

    Without a date they count from 0: as numbers where the times *like* are numbers, else as durations.
    """
    for attribute in ("time_step", "dt"):
        time_step = getattr(step, attribute, None) if time_step is None else time_step
    if time_step is None:
        refuse("the length of the time step is not known", "a duration", None, "pass time_step='1D'")
    when, count = find_time(initial), np.arange(steps + 1)
    nothing: Any = 0.0 if like is not None and np.asarray(like).dtype.kind in "fiu" else np.timedelta64(0, "ns")
    start: Any = nothing if when is None else when.values.reshape(-1)[0]
    name = "time" if when is None else str(when.name)
    if hasattr(start, "calendar"):
        return np.array([start + pd.Timedelta(n * duration(time_step), "s").to_pytimedelta() for n in count]), name
    if np.asarray(start).dtype.kind not in "Mm":
        return start + duration(time_step) * count, name
    return start + pd.Timedelta(duration(time_step), "s").to_timedelta64().astype("m8[ns]") * count, name


def forcing_at(
    forcing: xr.Dataset | None, initial: xr.Dataset, names: Sequence[str], time: str, label: Any
) -> list[xr.DataArray]:
    """Return the forcing of the step that begins at the time *label*; fields without time hold for every step."""
    fields = []
    for name in names:
        source = forcing if forcing is not None and name in forcing.variables else initial
        field = grid.variable(source, name, "forcing variable")
        if time in field.dims:
            at = np.flatnonzero(field[time].values == label)
            if not at.size:
                what = f"the forcing {name!r} has no field for the step that begins at {label}"
                refuse(what, "one for each step", f"{field.sizes[time]} times", "extend it, or take fewer steps")
            field = field.isel({time: at[0]})
        fields.append(field)
    return fields
