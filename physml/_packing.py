"""Packing named variables into one array with a channel dimension, and back; both exact, both lazy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml import calendar
from physml._errors import describe
from physml.fields import Role
from physml.timeaxis import shift, step_of

if TYPE_CHECKING:
    from physml.layout import Layout


def pack(layout: Layout, ds: xr.Dataset, role: Role, *, whole_window: bool = False) -> xr.DataArray:
    """See :meth:`physml.layout.Layout.pack`."""
    spec = layout.spec
    ds = calendar.complete(ds, getattr(spec, role), spec.sample_dim)
    layout.check(ds, role, whole_window=whole_window)
    at = layout.samples(ds, None if whole_window else role)
    if not at:
        low, high = spec.window(None if whole_window else role)
        raise ValueError(
            describe(
                f"no sample fits into the data along {spec.sample_dim!r}",
                expected=f"at least {max(0, high) - min(0, low) + 1} steps for offsets {low} to {high}",
                received=f"{ds.sizes[spec.sample_dim]} steps",
                remedy="select a longer period, or smaller offsets",
            )
        )
    members = [m for m in spec.members if m in ds.dims]  # type: ignore[union-attr]
    outer = {m: ds.sizes[m] for m in members} | {spec.sample_dim: len(at)}
    sizes = outer | dict(zip(layout.space, layout.shape, strict=True))
    dtype = np.result_type(*(layout.variables[n].dtype for n in getattr(spec, role)), "float32")
    parts = []
    for name in getattr(spec, role):
        for offset in spec.offsets(role, name):
            da = ds[name]
            if spec.sample_dim in da.dims:
                da = da.isel({spec.sample_dim: slice(at.start + offset, at.stop + offset)})
            parts.append(columns(layout, da, name, sizes, dtype))
    data = concatenate(parts, tuple(sizes.values()))
    coords = {n: c for n, c in ds.coords.items() if set(c.dims) <= set(sizes)}
    template = xr.DataArray(
        np.broadcast_to(np.float32(0), [ds.sizes[d] for d in sizes]), dims=tuple(sizes), coords=coords
    ).isel({spec.sample_dim: slice(at.start, at.stop)})
    labels = np.array([str(c) for c in layout.channels(role)])
    return xr.DataArray(data, dims=(*sizes, "channel"), coords={**template.coords, "channel": labels}, name=role)


def columns(layout: Layout, da: xr.DataArray, name: str, sizes: Mapping[str, int], dtype: Any) -> Any:
    """Return one variable as ``[*sizes, level]``, of length 1 along the dimensions it lacks; lazy where it is lazy."""
    levels = layout.variables[name].levels
    da = select_levels(layout, ready(da, layout.spec.sample_dim), name)
    inner = {d: len(v) for d, v in levels.items()}
    there = {d: n if d in da.dims else 1 for d, n in {**sizes, **inner}.items()}
    whole = da.variable.astype(dtype).set_dims(there).transpose(*there)
    return whole.data.reshape(*whole.shape[: len(sizes)], -1)


def unpack(layout: Layout, array: xr.DataArray, role: Role = "targets", *, predicted: bool = False) -> xr.Dataset:
    """See :meth:`physml.layout.Layout.unpack`."""
    spec = layout.spec
    sample = spec.sample_dim
    valid = layout.valid(role) if predicted and spec.mask is not None else None
    several = len({o for n in getattr(spec, role) for o in spec.offsets(role, n)}) > 1
    lead = _lead_name(layout, several)
    out: dict[str, xr.DataArray] = {}
    base = array.drop_vars([n for n in ("channel",) if n in array.coords])
    for name in getattr(spec, role):
        known, offsets = layout.variables[name], spec.offsets(role, name)
        where = layout.where(role, name)
        da = base.isel(channel=where)
        if valid is not None and not valid[..., where].all():
            da = da.where(xr.Variable((*layout.space, "channel"), valid[..., where]))
        leading = da.dims[:-1]
        data = da.data.reshape(*da.shape[:-1], len(offsets), *(len(v) for v in known.levels.values()))
        fresh = xr.DataArray(data, dims=(*leading, lead, *known.levels), coords=da.coords)
        if np.issubdtype(known.dtype, np.floating) or not predicted:
            if not np.issubdtype(known.dtype, np.floating):
                fresh = fresh.round()
            fresh = fresh.astype(known.dtype)
        fresh = fresh.assign_coords({lead: list(offsets)}) if several else fresh.isel({lead: 0})
        if not predicted:  # what packing repeated along dimensions that the variable lacks
            still = (sample, lead, *layout.members) if sample not in known.dims else ()
            fresh = fresh.isel(
                {d: 0 for d in (*still, *layout.space) if d in fresh.dims and d not in known.dims}, drop=True
            )
        elif role == "targets" and layout.series and layout.space:  # one value for the whole map
            fresh = fresh.astype("float64").mean(layout.space, keep_attrs=True).astype(fresh.dtype)
        fresh = fresh.assign_coords(
            {n: c for n, c in layout.statics.coords.items() if set(c.dims) <= set(fresh.dims) and n not in fresh.coords}
        )
        order = [d for d in known.dims if d in fresh.dims]
        order = [*(str(d) for d in fresh.dims if d not in order and (d != lead or not several)), *order]
        if lead in fresh.dims:
            order.insert(order.index(sample) + 1, lead)
        out[name] = fresh.transpose(*order).assign_attrs(known.attrs)
    return _dated(layout, xr.Dataset(out), role)


def _lead_name(layout: Layout, several: bool) -> str:
    """Return the name of the dimension of several target offsets; another where data without them use that name."""
    taken = {*layout.space, *layout.members, *(d for v in layout.variables.values() for d in v.levels)}
    if "lead" not in taken:
        return "lead"
    if several:
        raise ValueError(
            describe(
                "the data have a dimension 'lead', which several target offsets need",
                expected="another name of that dimension, or one target offset",
                received=f"dimensions {sorted(taken)}",
                remedy="ds.rename(lead='months')",
            )
        )
    return "_lead"


def _dated(layout: Layout, ds: xr.Dataset, role: Role) -> xr.Dataset:
    """Give every field the time it is valid at."""
    sample = layout.spec.sample_dim
    offsets = sorted({o for n in getattr(layout.spec, role) for o in layout.spec.offsets(role, n)})
    if offsets == [0] or sample not in ds.coords:
        return ds
    base = ds[sample]
    step = step_of(base, layout.step)
    if step is None:
        raise ValueError(
            describe(
                f"the dates of the {role} cannot be told",
                expected=f"a coordinate {sample!r} with a constant step",
                received=f"{base.size} label(s)",
                remedy="bind the spec to data of three steps or more",
            )
        )
    if len(offsets) == 1:
        moved = shift(base.values, step, offsets[0])
        gone = [n for n, c in ds.coords.items() if sample in c.dims and n != sample]
        ds = ds.drop_vars(gone).assign_coords({sample: xr.Variable(sample, moved, base.attrs, base.encoding)})
        return ds
    dates = np.stack([shift(base.values, step, o) for o in offsets], axis=1)
    ds["lead"].attrs.update(long_name=f"steps after {sample}", step=str(step))
    valid = xr.Variable((sample, "lead"), dates, {"long_name": "time at which the field is valid"})
    return ds.assign_coords(valid_time=valid)


def ready(da: xr.DataArray, sample_dim: str) -> xr.DataArray:
    """Give a variable that still lies in a file dask chunks, so that packing reads nothing."""
    if da.chunks is None and not da.variable._in_memory:
        return da.chunk({sample_dim: "auto"} if sample_dim in da.dims else {})
    return da


def level_positions(layout: Layout, da: xr.DataArray, name: str) -> dict[str, np.ndarray]:
    """Return where the levels of a layout stand in a variable, for the dimensions that do not hold just them, in order.

    Raises
    ------
    ValueError
        Where levels are missing.
    """
    found = {}
    for dim, labels in layout.variables[name].levels.items():
        if dim in da.coords:
            have = da[dim].values.tolist()
        else:  # counted, where there are no labels
            have = list(range(da.sizes[dim]))
        everything = layout.spec.levels[dim] is None  # type: ignore[index, call-overload]
        if have == list(labels):
            continue
        if set(labels) - set(have) or (dim not in da.coords and everything):
            raise ValueError(
                describe(
                    f"{name!r} lacks levels along {dim!r}, or has others",
                    expected=list(labels),
                    received=have,
                    remedy="give the levels the layout was bound to",
                )
            )
        found[dim] = np.array([have.index(label) for label in labels])
    return found


def select_levels(layout: Layout, da: xr.DataArray, name: str) -> xr.DataArray:
    """Return a variable on the levels of a layout, in their order."""
    return da.isel(level_positions(layout, da, name))


def concatenate(parts: list[Any], shape: tuple[int, ...]) -> Any:
    """Join parts ``[*shape or 1, channel]`` along the last axis, broadcast to *shape*.

    A NumPy array where all parts are, else a dask array in the smallest blocks among them; what is broadcast is repeated
    block by block, never as a whole.
    """
    lazy = [p.chunks for p in parts if not isinstance(p, np.ndarray)]
    if not lazy:
        return np.concatenate([np.broadcast_to(p, (*shape, p.shape[-1])) for p in parts], axis=-1)
    import dask.array as dsa

    blocks = tuple(max([(n,), *(c[i] for c in lazy if sum(c[i]) == n)], key=len) for i, n in enumerate(shape))
    whole = []
    for part in parts:
        own = (*(b if n == sum(b) else (1,) for b, n in zip(blocks, part.shape, strict=False)), (part.shape[-1],))
        part = dsa.from_array(part, chunks=own) if isinstance(part, np.ndarray) else part.rechunk(own)
        whole.append(dsa.broadcast_to(part, (*shape, part.shape[-1]), chunks=(*blocks, own[-1])))
    return dsa.concatenate(whole, axis=-1).rechunk({-1: -1})


def _in_rows(array: xr.DataArray, core: Sequence[str]) -> xr.DataArray:
    """Return an array whose blocks hold whole rows; rows that were split are gathered few at a time."""
    if all(len(array.chunksizes.get(d, ())) <= 1 for d in core):
        return array
    return array.chunk({d: -1 if d in core else "auto" for d in array.dims})


@dataclass(frozen=True)
class _Block:
    """A function of rows on blocks with several leading dimensions; dask asks the function itself for its name, not its pickle."""

    function: Callable[..., np.ndarray]
    core: int
    reduce: bool

    def __call__(self, *blocks: np.ndarray) -> np.ndarray:
        leading = blocks[0].shape[: -self.core]
        flat = [b.reshape(-1, *b.shape[-self.core :]) for b in blocks]
        out = self.function(*flat)
        shape = out.shape[-1:] if self.reduce else out.shape[1:]
        return np.asarray(out).reshape(*leading, *shape)

    def __dask_tokenize__(self) -> Any:
        from dask.base import normalize_token

        return type(self).__qualname__, normalize_token(self.function), self.core, self.reduce


def map_samples(
    function: Callable[..., np.ndarray],
    arrays: Sequence[xr.DataArray],
    space: Sequence[str],
    channels: int,
    dtype: Any,
    *,
    reduce: bool = False,
) -> xr.DataArray:
    """Apply a function of tensors to packed arrays, block by block of samples where they are lazy.

    Parameters
    ----------
    function
        Takes ``[sample, *space, channel]`` for every array, returns ``[sample, *space, channels]``; with *reduce* the space
        dimensions of the result have length 1 and are dropped.
    arrays
        Packed arrays with the same leading dimensions, matched by position.
    space
        Names of the space dimensions.
    channels, dtype
        Channels and type of the result.

    Returns
    -------
    xarray.DataArray
        ``[*leading, *space, channel]`` with the leading coordinates of the first array.
    """
    names = [f"_in{i}" for i in range(len(arrays))]
    rows = [_in_rows(a.drop_vars("channel", errors="ignore"), [*space, "channel"]) for a in arrays]
    renamed = [a.rename(channel=n) for a, n in zip(rows, names, strict=True)]
    keep = [] if reduce else list(space)
    return xr.apply_ufunc(
        _Block(function, len(space) + 1, reduce),
        *renamed,
        input_core_dims=[[*space, n] for n in names],
        output_core_dims=[[*keep, "channel"]],
        join="override",
        dask="parallelized",
        output_dtypes=[np.dtype(dtype)],
        dask_gufunc_kwargs={"output_sizes": {"channel": channels}, "allow_rechunk": True},
        keep_attrs=True,
    )
