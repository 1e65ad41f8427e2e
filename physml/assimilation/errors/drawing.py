"""Draws of background errors: initial ensembles, and variances estimated from probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from keras import ops

from physml import _backend, grid
from physml._errors import refuse
from physml.assimilation.errors.background import Background, bind, draw
from physml.assimilation.steps import pack, state_fields
from physml.provenance import stamp


class Estimate(NamedTuple):
    """Variances, and the standard error of each."""

    variance: np.ndarray
    """``[n]``."""
    error: np.ndarray
    """``[n]``."""


def probed_variance(background: Background, probes: int = 200, seed: int = 0, block: int = 20) -> Estimate:
    """Return the diagonal of B from random probes, for backgrounds too large for it: the mean of (U c)^2, c normal.

    Parameters
    ----------
    background
        Only products with its root are taken.
    probes
        Their number; the relative error of a variance is sqrt(2 / probes).
    seed
        Of the probes.
    block
        How many are held at once.

    Examples
    --------
    >>> found = probed_variance(bind(2.0, size=3), probes=400)
    >>> bool((abs(found.variance - 4) < 4 * found.error).all())
    True
    """
    if probes < 2:
        refuse("probed_variance: too few probes", "2 or more", probes, "pass probes=200")
    rng, sums = np.random.default_rng(seed), np.zeros((2, background.size))
    for start in range(0, probes, block):
        square = np.square(ops.convert_to_numpy(draw(background, rng, min(block, probes - start))))
        sums += [square.sum(axis=0), np.square(square).sum(axis=0)]
    mean, second = sums / probes
    return Estimate(mean, np.sqrt(np.maximum(second - mean**2, 0.0) / (probes - 1)))


def perturb(
    initial: xr.Dataset,
    error: Any,
    *,
    members: int,
    seed: int = 0,
    variables: Sequence[str] | None = None,
    space: Sequence[str] | None = None,
    mask: Any = None,
    periodic: bool | None = None,
    member: str = "member",
) -> xr.Dataset:
    """Return an initial ensemble: a state plus draws of errors of covariance B.

    Parameters
    ----------
    initial
        A state at one time.
    error
        Whatever :func:`bind` takes; or covariances by name of the variable, which are then independent of each other.
    members
        Size of the ensemble.
    seed
        Of the draws; the same on each backend.
    variables
        Those that are perturbed, by default those of *error* by name, or all on the grid.
    space
        Dimensions of space, by default those of latitude and longitude.
    mask
        True on wet cells: an array, a DataArray or the name of a variable; None: all are wet. Land keeps its values.
    periodic
        Whether the first and the last longitude are neighbours; needed on a grid of latitude and longitude.
    member
        Name of the new dimension.

    Examples
    --------
    >>> truth = xr.Dataset({"x": ("site", np.zeros(40))})
    >>> perturb(truth, 0.1, members=8, space=["site"]).x.shape
    (8, 40)
    """
    if members < 1:
        refuse("perturb: members is not positive", ">= 1", members, "pass the size of the ensemble")
    if member in initial.dims:
        refuse("perturb: the state has members already", f"no dimension {member!r}", dict(initial.sizes), "select one")
    named = isinstance(error, dict)
    found = space or [str(c.dims[0]) for c in grid.latitude_longitude(initial)]
    own = mask if isinstance(mask, str) else None
    on_grid = [str(n) for n, v in initial.data_vars.items() if set(found) <= set(v.dims) and n != own]
    names = list(variables or (error if named else on_grid))
    fields, dims, several = state_fields(initial, names, space)
    if several:
        refuse("perturb: the state has more than space", dims, fields[0].dims, f"initial.isel({several[0]}=0)")
    shape = tuple(fields[0].sizes[d] for d in dims)
    mask = grid.variable(initial, mask, "mask") if isinstance(mask, str) else mask
    mask = mask.transpose(*dims).values if isinstance(mask, xr.DataArray) else mask
    wet = np.ones(shape, bool) if mask is None else np.asarray(mask).astype(bool)
    if wet.shape != shape:
        refuse("mask does not fit the state", shape, wet.shape, "give it the dimensions of the state in space")
    where: dict[str, Any] = {"shape": shape}
    if space is None:
        latitude, longitude = grid.latitude_longitude(fields[0])
        where = {"latitude": latitude.values, "longitude": longitude.values, "periodic": periodic}
    if named:
        from physml.assimilation.errors.multivariate import Blocks

        error = Blocks(error)
    background = bind(error, **where, mask=wet, channels=tuple(names))
    errors = np.zeros((members, *shape, len(names)))
    with _backend.float64():
        drawn = ops.convert_to_numpy(draw(background, np.random.default_rng(seed), members))
    errors[:, wet] = np.asarray(drawn).reshape(members, -1, len(names))
    state = pack(fields, dims, wet, "the state")
    out = initial
    for c, field in enumerate(fields):
        values = np.where(wet, state[..., c] + errors[..., c], field.transpose(*dims).values)
        new = xr.DataArray(values.astype(field.dtype), dims=(member, *dims), attrs=field.attrs)
        out = out.assign({str(field.name): new})
    return stamp(out, f"{members} members perturbed with {type(error).__name__}, seed {seed}")
