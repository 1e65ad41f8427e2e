"""Runge-Kutta integration of the small systems, and their labelled output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from physml._errors import refuse

Array = NDArray[np.float64]


def rk4(tendency: Callable[[Any], Any], x: Any, dt: float) -> Any:
    """Return the state one classical Runge-Kutta step of length *dt* later: x + dt (k1 + 2 k2 + 2 k3 + k4) / 6."""
    k1 = tendency(x)
    k2 = tendency(x + 0.5 * dt * k1)
    k3 = tendency(x + 0.5 * dt * k2)
    k4 = tendency(x + dt * k3)
    return x + (dt / 6) * (k1 + 2 * k2 + 2 * k3 + k4)


def integrate(
    tendency: Callable[[Any], Any], x: Array, dt: float, n_steps: int, every: int = 1, spin_up: float = 0.0
) -> Array:
    """Return a trajectory ``[record, *shape of x]``: after *spin_up*, *n_steps* steps, the start and each *every*-th kept.

    Raises
    ------
    ValueError
        Where the number of steps is no multiple of *every*, *dt* is not positive, or the model blows up.
    """
    if not dt > 0:
        refuse("dt is not positive", "a length of the step > 0 [model time]", dt, "pass dt=0.05 or smaller")
    if isinstance(every, bool) or int(every) != every or every < 1 or n_steps < 0 or int(n_steps) != n_steps:
        refuse("the number of steps is no count", "n_steps >= 0 and every >= 1", (n_steps, every), "pass whole numbers")
    if n_steps % every:
        refuse("the last step is not kept", f"n_steps a multiple of every={every}", n_steps, "change n_steps or every")
    for _ in range(round(spin_up / dt)):
        x = rk4(tendency, x, dt)
    kept = np.empty((n_steps // every + 1, *x.shape))
    kept[0] = x
    for k in range(1, n_steps + 1):
        x = rk4(tendency, x, dt)
        if k % every == 0:
            kept[k // every] = x
    if not np.isfinite(kept[-1]).all():
        refuse("the model blew up", "finite values", f"NaN or inf with dt={dt}", "take a smaller dt")
    return kept


def start(x: ArrayLike | None, rest: Array, seed: int, members: int | None, std: Any) -> Array:
    """Return the first state ``[*member, n]``: *x* or else *rest*, plus noise of *std* from the seed; one row for each member."""
    given = x is not None
    base = np.asarray(rest if x is None else x, np.float64)
    if base.shape[-1:] != rest.shape or base.ndim > 2 or (base.ndim == 2 and members not in (None, len(base))):
        shape = f"[{rest.size}], or [members, {rest.size}]"
        refuse("the initial state does not fit", shape, list(base.shape), "give one value for each component")
    if given and (members is None or base.ndim == 2):
        return base
    rng = np.random.default_rng(seed)
    return base + std * rng.standard_normal((*(() if members is None else (members,)), rest.size))


def labelled(fields: dict[str, tuple[tuple[str, ...], Array, str]], dt: float, every: int) -> xr.Dataset:
    """Return trajectories ``[time, *member, *dims]``, by name with the dims and the long name, as a Dataset."""
    out = {}
    for name, (dims, values, long_name) in fields.items():
        several = values.ndim == len(dims) + 2
        lead = ("member", "time") if several else ("time",)
        out[name] = ((*lead, *dims), np.moveaxis(values, 0, several), {"long_name": long_name, "units": "1"})
    ds = xr.Dataset(out)
    if "member" in ds.dims:
        ds = ds.assign_coords(member=("member", np.arange(ds.sizes["member"]), {"standard_name": "realization"}))
    elapsed = {"long_name": "model time", "units": "1", "axis": "T"}
    return ds.assign_coords(time=("time", np.arange(ds.sizes["time"]) * every * dt, elapsed))
