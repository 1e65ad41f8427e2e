"""Targets in space of what a function of Datasets returns: on the grid of its inputs, or on one of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import describe
from physml.explain.models.measures import Measure, chosen, linear, own_coordinates, same_cells
from physml.explain.models.outputs import Given
from physml.fields import FieldSpec
from physml.layout import Layout


def on_its_grid(bind: Callable[[Layout], Measure], name: str | None, weighed: bool, outputs: Given) -> Measure:
    """Return a target in space of a variable that a function of Datasets returns.

    It lies on the grid of the inputs, whose area then weighs it, or brings latitude and longitude of its own.

    Parameters
    ----------
    bind
        Binds the target to a layout.
    name
        The variable; None: the only one.
    weighed
        Whether the target needs areas.
    outputs
        What the function returns.

    Raises
    ------
    KeyError, ValueError
        As :func:`variable`, and where areas are needed and cannot be told.
    """
    name = chosen(name, outputs)
    like = outputs.template[name]
    here = _grid_of(like, outputs.layout, weighed)
    where = np.arange(like.size).reshape(like.shape)
    order = [like.dims.index(d) for d in (*here.space, *here.variables[name].levels)]
    columns = outputs.where(name).start + where.transpose(order).reshape(*here.shape, -1)
    found = bind(here)
    if found.weights is not None:
        weights = np.zeros(outputs.shape)
        weights[columns.ravel()] = found.weights
        return linear(weights, found.label, found.units, 0)
    coords = own_coordinates(like, found.dims, outputs.layout)
    return Measure(
        lambda out: found.reduce(out[:, columns]), found.dims, found.valid, found.label, found.units, 0, coords
    )


def _grid_of(like: xr.DataArray, inputs: Layout, weighed: bool) -> Layout:
    """Return the layout of one variable on its own: space dimensions, further ones as levels, mask, area where needed."""
    name, sample = str(like.name), inputs.spec.sample_dim
    dims = tuple(map(str, like.dims))
    ours = bool(inputs.space) and set(inputs.space) <= set(dims) and same_cells(like, inputs)
    space = inputs.space if ours else _horizontal(like)
    statics = xr.Dataset({f"{name} mask": like.notnull().reset_coords(drop=True)})
    area: str | None = f"{name} area"
    if ours:
        known = inputs.statics.coords
        like = like.assign_coords({n: c for n, c in known.items() if set(c.dims) <= set(space)})
        area = inputs.spec.area and area
        if area is not None:
            statics[area] = (space, inputs.static(inputs.spec.area)[..., 0])  # type: ignore[arg-type]
    elif weighed:
        statics[area] = _area(like, space)
    else:
        area = None
    levels = tuple(d for d in dims if d not in space)
    spec = FieldSpec(name, name, sample, levels=levels, mask=f"{name} mask", area=area)
    return spec.bind(xr.merge([like.fillna(0).expand_dims({sample: 1}).to_dataset(), statics], compat="override"))


def _horizontal(like: xr.DataArray) -> tuple[str, ...]:
    """Return the dimensions of latitude and longitude, or all dimensions."""
    try:
        lat, lon = grid.latitude_longitude(like)
    except ValueError:
        return tuple(map(str, like.dims))
    return tuple(str(d) for d in like.dims if d in {*lat.dims, *lon.dims})


def _area(like: xr.DataArray, space: tuple[str, ...]) -> xr.DataArray:
    """Return the areas of a regular grid, or the cosine of latitude along it alone."""
    try:
        return grid.cell_area(like).reset_coords(drop=True)
    except ValueError as error:
        lines = [
            c for n, c in like.coords.items() if c.dims == space and (n in ("lat", "latitude") or _is_latitude(c.attrs))
        ]
        if not lines:
            raise ValueError(
                describe(
                    f"the area of the cells of {like.name!r}, which the model returns, cannot be told",
                    expected="the grid of the inputs, or latitude and longitude of one dimension each",
                    received=f"dimensions {like.dims} with coordinates {[str(n) for n in like.coords]}",
                    remedy="return them too, or pass a function: target=lambda ds: ds[name].weighted(area).mean(...)",
                )
            ) from error
        return np.cos(np.deg2rad(lines[0])).reset_coords(drop=True)


def _is_latitude(attrs: Mapping[str, Any]) -> bool:
    return attrs.get("standard_name") == "latitude" or attrs.get("units") == "degrees_north"
