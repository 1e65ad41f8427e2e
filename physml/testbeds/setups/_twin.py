"""A twin experiment: a truth, what is seen of it, and members to start from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from physml._errors import refuse


class Twin(NamedTuple):
    """The three parts of a twin experiment."""

    truth: xr.Dataset
    """``x`` at time 0 and at each time of the observations."""
    observations: xr.DataArray
    """``x`` at the times of the truth but the first, NaN where not seen; ``attrs["error_std"]`` is the std of its errors."""
    initial: xr.Dataset
    """``x`` at time 0 by member, or their expectation where no members were asked for."""


class Draws(NamedTuple):
    """Independent streams of random numbers for the parts of a twin, so that none depends on the size of another."""

    truth: np.random.Generator
    errors: np.random.Generator
    places: np.random.Generator
    members: np.random.Generator


def draws(seed: int) -> Draws:
    """Return the streams of a seed."""
    return Draws(*(np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)))


def check(cycles: int, members: int | None) -> None:
    """Refuse numbers that are no counts."""
    for name, count in (("cycles", cycles), ("members", members)):
        if count is not None and (isinstance(count, bool) or int(count) != count or count < 1):
            refuse(f"{name} is no count", "a whole number >= 1", count, f"pass {name}=10 or more")


def build(
    truth: xr.Dataset,
    members: NDArray[np.float64],
    errors: np.random.Generator,
    error_std: float,
    seen: NDArray[np.bool_] | None = None,
) -> Twin:
    """Return the twin of a truth.

    Parameters
    ----------
    truth
        ``x`` at time 0 and at each time of the observations.
    members
        First states of the members ``[member, n]``, or their expectation ``[n]``.
    errors, error_std
        Stream and standard deviation of the observation errors.
    seen
        ``[cycles, n]``, True where there is an observation. None: everywhere.
    """
    later = truth.x.isel(time=slice(1, None))
    noisy = later + error_std * errors.standard_normal(later.shape)
    if seen is not None:
        noisy = noisy.where(seen)
    observations = noisy.rename("x").assign_attrs(truth.x.attrs, error_std=float(error_std))
    lead = ("member",) if members.ndim == 2 else ()
    space = str(truth.x.dims[-1])
    first = {"x": ((*lead, space), members, truth.x.attrs)}
    initial = xr.Dataset(first, {space: truth[space], "time": truth.time[0]}, truth.attrs)
    if lead:
        initial = initial.assign_coords(member=("member", np.arange(len(members)), {"standard_name": "realization"}))
    return Twin(truth, observations, initial)
