"""Preparing data for a run: opening, masks, areas and anomalies, and undoing the anomalies in a prediction."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import describe
from physml.timeaxis import as_label

MASK, AREA = "mask", "cell_area"


def open_data(
    path: str | Sequence[str], chunks: Mapping[str, int] | None = None, sample_dim: str = "time"
) -> xr.Dataset:
    """Open netCDF files or zarr stores lazily.

    Parameters
    ----------
    path
        One path, or several to be joined by their coordinates.
    chunks
        Dask chunks by dimension; None takes those of the store, or pieces along *sample_dim* where it has none.
    sample_dim
        Dimension along which a file without chunks is read in pieces.

    Raises
    ------
    FileNotFoundError, ValueError
        For paths that are not there or cannot be read.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    for p in paths:
        if "://" not in str(p) and not os.path.exists(p):
            raise FileNotFoundError(
                describe(
                    f"no data at {str(p)!r}",
                    expected="a netCDF file or a zarr store",
                    received="nothing there",
                    remedy="check data.path; relative paths count from the folder of the YAML file",
                )
            )
    try:
        parts = [_open_one(str(p), chunks, sample_dim) for p in paths]
        return parts[0] if len(parts) == 1 else xr.combine_by_coords(parts, join="exact", combine_attrs="override")  # type: ignore[return-value]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            describe(
                f"data at {', '.join(map(str, paths))} cannot be read",
                expected="whole netCDF files or zarr stores on one grid",
                received=f"{type(error).__name__}: {error}",
                remedy="open it with xarray to see more, or fetch the file again",
            )
        ) from error


def _open_one(path: str, chunks: Mapping[str, int] | None, sample_dim: str) -> xr.Dataset:
    if path.rstrip("/").endswith(".zarr"):
        return xr.open_zarr(path, chunks=dict(chunks or {}), consolidated=None)
    if chunks:
        return xr.open_dataset(path, chunks=dict(chunks))
    ds = xr.open_dataset(path)
    if sample_dim not in ds.dims or any(v.encoding.get("chunksizes") for v in ds.data_vars.values()):
        ds.close()
        return xr.open_dataset(path, chunks={})
    # A file without chunks would otherwise be one chunk: all of it would be read for every batch.
    import dask

    with dask.config.set({"array.chunk-size": "16MiB"}):
        return ds.chunk({sample_dim: "auto"})


def add_mask_and_area(ds: xr.Dataset, mask_from: str | None, cell_area: bool, sample_dim: str) -> xr.Dataset:
    """Return *ds* with ``mask`` (cells of *mask_from* that are never missing) and ``cell_area`` [m2] where asked."""
    if mask_from is not None:
        ds = ds.assign({MASK: grid.finite_mask(grid.variable(ds, mask_from, "mask_from"), sample_dim)})
    if cell_area:
        ds = ds.assign({AREA: grid.cell_area(ds)})
    return ds


def climatology(ds: xr.Dataset, names: Sequence[str], sample_dim: str) -> xr.Dataset:
    """Return the mean of every calendar month, ``[month, ...]``, computed.

    Raises
    ------
    ValueError
        Where a month of the year never occurs, or the axis holds no dates.
    """
    if not hasattr(ds[sample_dim], "dt"):
        raise ValueError(
            describe(
                f"anomalies need dates along {sample_dim!r}",
                expected="datetime64 or cftime labels",
                received=ds[sample_dim].dtype,
                remedy="open the data with decoded times, or drop data.anomaly",
            )
        )
    means = ds[list(names)].groupby(ds[sample_dim].dt.month.rename("month")).mean().compute()
    missing = sorted(set(range(1, 13)) - {int(m) for m in means.month.values})
    if missing:
        raise ValueError(
            describe(
                "the training period lacks calendar months",
                expected="all twelve",
                received=f"none of month {missing}",
                remedy="a longer training period, or drop data.anomaly",
            )
        )
    return means.sortby("month")


def remove(ds: xr.Dataset, means: xr.Dataset, sample_dim: str) -> xr.Dataset:
    """Return *ds* with the climatology taken from its variables; attributes and types stay."""
    return ds.assign({n: _shifted(ds[n], means[n], ds[sample_dim], -1) for n in means.data_vars if n in ds})


def restore(ds: xr.Dataset, means: xr.Dataset, sample_dim: str) -> xr.Dataset:
    """Return a prediction with the climatology of the time it is valid at added back."""
    when = ds["valid_time"] if "valid_time" in ds.coords else ds[sample_dim]
    return ds.assign({n: _shifted(ds[n], means[n], when, 1) for n in means.data_vars if n in ds})


def _shifted(da: xr.DataArray, means: xr.DataArray, when: xr.DataArray, sign: int) -> xr.DataArray:
    month = when.dt.month.variable
    at = means.sel(month=xr.DataArray(month, coords={d: da[d] for d in month.dims if d in da.coords}))
    moved = da + sign * at.drop_vars("month")
    return moved.transpose(*da.dims).astype(da.dtype).assign_attrs(da.attrs)


def rename_and_select(ds: xr.Dataset, names: Mapping[str, str], ranges: Mapping[str, Any]) -> xr.Dataset:
    """Return part of *ds* under new names: ``{"lat": [-60, 60]}`` is a range, ``{"lev": 500}`` one entry.

    Raises
    ------
    ValueError
        For names that are not there, and ranges that leave nothing.
    """
    for old in names:
        grid.variable(ds, old, "data.rename")
    ds = ds.rename(dict(names))
    return select(ds, ranges)


def select(ds: xr.Dataset, ranges: Mapping[str, Any]) -> xr.Dataset:
    """Return the part of *ds* within ranges or at labels by dimension."""
    for dim, wanted in ranges.items():
        if dim not in ds.dims:
            raise ValueError(
                describe(
                    f"data.select names {dim!r}, which is no dimension",
                    expected=f"among {tuple(map(str, ds.dims))}",
                    received=repr(dim),
                    remedy="correct data.select",
                )
            )
        if isinstance(wanted, list | tuple) and len(wanted) == 2:
            axis = ds.indexes[dim]
            low, high = (as_label(axis, label) for label in wanted)
            descending = len(axis) > 1 and axis[0] > axis[-1]
            ds = ds.sel(
                {dim: slice(high, low) if descending and not isinstance(low, str) and low < high else slice(low, high)}
            )
        else:
            ds = ds.sel({dim: [wanted] if np.isscalar(wanted) else list(wanted)})
        if ds.sizes[dim] == 0:
            raise ValueError(
                describe(
                    f"data.select leaves nothing along {dim!r}",
                    expected="one label or more",
                    received=wanted,
                    remedy="check the range against the coordinate",
                )
            )
    return ds
