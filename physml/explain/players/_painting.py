"""Between cells and groups: cell-level attributions summed over groups, group-level ones painted onto cells.

Painting a share of its group onto every cell and summing over groups gives the attributions back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.explain.players._selecting import few

if TYPE_CHECKING:
    from physml.explain.players.groups import Groups
    from physml.layout import Layout


def summed(groups: Groups, layout: Layout, result: xr.DataArray | xr.Dataset) -> xr.DataArray | xr.Dataset:
    """See :meth:`physml.explain.Groups.sum`."""
    if isinstance(result, xr.Dataset):
        rest = result.drop_vars([n for n, v in result.variables.items() if "channel" in v.dims])
        rest = rest.drop_vars(
            [n for n in rest.coords if n in layout.space and n not in {d for v in rest.values() for d in v.dims}]
        )
        return rest.assign(attribution=summed(groups, layout, _attribution(result, "channel")))
    core = ("channel", *layout.space)
    _check_cells(layout, result, core)
    owner = np.moveaxis(groups.owner, -1, 0).ravel()
    order = np.argsort(owner, kind="stable")
    order = order[np.count_nonzero(owner < 0) :]
    starts = np.searchsorted(owner[order], np.arange(len(groups)))

    def reduce(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(*values.shape[: values.ndim - len(core)], -1)
        return np.add.reduceat(flat[..., order], starts, axis=-1, dtype="float64")

    out = _apply(reduce, result, core, ("group",), {"group": len(groups)})
    out = out.transpose("group", ...).assign_coords(groups.coords).rename(result.name)
    return out.assign_attrs(result.attrs)


def painted(groups: Groups, layout: Layout, result: xr.DataArray | xr.Dataset, density: bool | str) -> xr.Dataset:
    """See :meth:`physml.explain.Groups.paint`."""
    da = _attribution(result, "group") if isinstance(result, xr.Dataset) else result
    da = _in_order(groups, da)
    clash = sorted({str(d) for d in da.dims} & {*layout.space, "offset", *(d for c in layout.inputs for d in c.level)})
    if clash:
        refuse(
            f"attributions on {clash} cannot be painted onto the same dimensions of the inputs",
            "attributions of one number, such as box_mean, or of one cell",
            da.dims,
            f"select one cell, average, or rename: result.rename({clash[0]}='target_{clash[0]}')",
        )
    share, units = _share(groups, layout, da.attrs.get("units"), density)
    several, space = len({c.offset for c in layout.inputs}) > 1, set(layout.space)
    found = []
    for name in layout.spec.inputs:
        where = layout.where("inputs", name)
        offsets, levels = layout.spec.offsets("inputs", name), layout.variables[name].levels
        inner = ("offset", *levels, *layout.space)
        shape = (len(offsets), *(len(v) for v in levels.values()), *layout.shape)
        index = np.moveaxis(groups.owner[..., where], -1, 0).reshape(shape)
        part = np.moveaxis(share[..., where], -1, 0).reshape(shape)

        def spread(values: np.ndarray, index: np.ndarray = index, part: np.ndarray = part) -> np.ndarray:
            return np.where(index >= 0, values[..., index] * part, np.nan)

        sizes = dict(zip(inner, shape, strict=True))
        coords: dict[Any, Any] = {n: c for n, c in layout.statics.coords.items() if c.dims and set(c.dims) <= space}
        coords |= {d: xr.Variable(d, list(v), _attrs(layout, d)) for d, v in levels.items()}
        coords["offset"] = ("offset", list(offsets), {"long_name": "steps from the sample", "units": "1"})
        out = _apply(spread, da, ("group",), inner, sizes).assign_coords(coords)
        out = out if several else out.isel(offset=0, drop=True)
        label = f"{da.attrs.get('long_name', da.name or 'value')}, by {name}"
        found.append(out.rename(name).assign_attrs({**da.attrs, **units, "long_name": label}))
    maps = xr.merge(found, join="outer", compat="no_conflicts", combine_attrs="override")
    maps.attrs = dict(result.attrs) if isinstance(result, xr.Dataset) else {}
    return maps


def _share(groups: Groups, layout: Layout, units: str | None, density: bool | str) -> tuple[np.ndarray, dict[str, str]]:
    """Return by what the value of its group is multiplied in each cell ``[*space, channel]``, and new units."""
    if density is False:
        return np.ones(groups.owner.shape), {}
    size = np.ones(groups.owner.shape)
    if density == "area":
        area = layout.spec.area
        if area is None:
            refuse("density by area needs the area of the cells", "FieldSpec(area=...)", "no area", "density=True")
        size = size * np.where(groups.owner.max(-1) >= 0, layout.static(area)[..., 0], 0.0)[..., None]
        per = layout.units(area) if area in layout.variables else layout.statics[area].attrs.get("units")
        units = None if units is None or per is None else f"{units} ({per})-1"
    elif density is not True:
        refuse("density is not understood", "False, True or 'area'", repr(density), "density=True")
    inside = groups.owner >= 0
    total = np.bincount(groups.owner[inside], size[inside], minlength=len(groups))
    if (total <= 0).any():
        name = groups.names[int(np.argmax(total <= 0))]
        refuse(f"group {name!r} has no area", "cells of positive area", total.min(), "density=True, or merge the group")
    return np.where(inside, 1 / total[groups.owner], 0.0), {} if units is None else {"units": units}


def _apply(function: Any, da: xr.DataArray, core: Any, out: Any, sizes: dict[str, int]) -> xr.DataArray:
    if da.chunks is not None:
        da = da.chunk({d: -1 for d in core})
    plain = da.drop_vars([n for n, c in da.coords.items() if set(c.dims) & set(core)])
    return xr.apply_ufunc(
        function,
        plain,
        input_core_dims=[core],
        output_core_dims=[out],
        dask="parallelized",
        output_dtypes=["float64"],
        dask_gufunc_kwargs={"output_sizes": sizes},
    )


def _attribution(result: xr.Dataset, dim: str) -> xr.DataArray:
    if "attribution" not in result or dim not in result.attribution.dims:
        refuse(
            f"the result holds no attribution along {dim!r}",
            f"'attribution' on ({dim}, ...)",
            {n: v.dims for n, v in result.items()},
            "pass what an Explainer returned, or one DataArray",
        )
    return result["attribution"]


def _check_cells(layout: Layout, result: xr.DataArray, core: tuple[str, ...]) -> None:
    """Refuse attributions on other channels or another grid."""
    shape = {"channel": len(layout.inputs), **dict(zip(layout.space, layout.shape, strict=True))}
    have = {d: result.sizes.get(d) for d in core}
    if have != shape:
        refuse("attributions do not lie on the input cells", shape, dict(result.sizes), "explain with the same layout")
    for what, ours in (
        ("channel", [str(c) for c in layout.inputs]),
        ("variable", [c.name for c in layout.inputs]),
        ("offset", [c.offset for c in layout.inputs]),
    ):
        theirs = result[what].values.tolist() if what in result.coords else ours
        if theirs != ours and not (what == "channel" and theirs == list(range(len(ours)))):
            refuse(f"attributions have other channels, by {what}", ours, theirs, "explain with the same layout")


def _in_order(groups: Groups, da: xr.DataArray) -> xr.DataArray:
    """Return values along ``group`` in the order of the groups."""
    if "group" not in da.dims:
        refuse("values to paint have no dimension 'group'", "(group, ...)", da.dims, "pass result.attribution")
    theirs = da["group"].values.tolist() if "group" in da.coords else list(groups.names)
    if sorted(theirs) != sorted(groups.names):
        refuse(
            "values to paint are of other groups", few(groups.names), few(theirs), "use the groups they were made with"
        )
    return da if theirs == list(groups.names) else da.sel(group=list(groups.names))


def _attrs(layout: Layout, dim: str) -> dict[str, Any]:
    return dict(layout.statics[dim].attrs) if dim in layout.statics.coords else {}
