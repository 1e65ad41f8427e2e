"""Opening what an entry of the catalog means: files or a zarr store, with one error where that fails."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import xarray as xr

from physml._errors import describe
from physml.data._download import reason
from physml.data._entries import Entry

# fsspec's protocols, the packages that speak them and the hosts they speak to.
_PROTOCOLS = {"gs": ("gcsfs", "https://storage.googleapis.com"), "s3": ("s3fs", "https://s3.amazonaws.com")}


def open_files(entry: Entry, paths: list[Path], kwargs: dict[str, Any]) -> xr.Dataset:
    """Open files lazily; a damaged one is named."""
    try:
        if entry.engine == "argo-index":
            return _open_index(paths[0])
        options = {"engine": entry.engine, "chunks": {}, **entry.options, **kwargs}
        if len(paths) == 1:
            return xr.open_dataset(paths[0], **options)
        return _open_several(entry, paths, options)
    except (OSError, EOFError) as error:
        damaged = next((path for path in paths if not _reads(entry, path)), paths[0])
        raise ValueError(
            describe(
                f"{damaged} cannot be read",
                expected=f"a file of {entry.name}, whole",
                received=f"{damaged.stat().st_size} bytes: {reason(error)}",
                remedy=f"remove it and fetch it again, physml.data.catalog.fetch({entry.name!r}, ..., overwrite=True)",
            )
        ) from error


def _open_several(entry: Entry, paths: list[Path], options: dict[str, Any]) -> xr.Dataset:
    try:
        return xr.open_mfdataset(paths, **{**entry.combine, **options})
    except ValueError as error:
        raise ValueError(
            describe(
                f"{len(paths)} files of {entry.name} cannot be opened as one",
                expected="files of one grid",
                received=reason(error),
                remedy=f"open them one by one: xr.open_dataset(path) for each path of catalog.fetch({entry.name!r}, ...)",
            )
        ) from error


def _reads(entry: Entry, path: Path) -> bool:
    try:
        readable(entry, path)
    except (OSError, ValueError):
        return False
    return True


def readable(entry: Entry, path: Path) -> None:
    """Raise where a file is not what its entry says."""
    if entry.engine == "argo-index":
        _open_index(path, nrows=10)
        return
    with xr.open_dataset(path, engine=entry.engine, **entry.options) as ds:
        if not any(v.name in ds.variables for v in entry.variables):
            raise ValueError(f"none of {', '.join(v.name for v in entry.variables)} is in it")


def _open_index(path: Path, nrows: int | None = None) -> xr.Dataset:
    """Return Argo's index of profiles as a Dataset on ``profile``."""
    import pandas as pd

    frame = pd.read_csv(path, comment="#", nrows=nrows, dtype={"profiler_type": "string", "date": "string"})
    wanted = {"file", "date", "latitude", "longitude"}
    if not wanted <= set(frame.columns):
        raise ValueError(f"its columns are {', '.join(map(str, frame.columns))[:80]}, without {', '.join(wanted)}")
    stamps = pd.to_datetime(frame.pop("date"), format="%Y%m%d%H%M%S", errors="coerce")
    made = {"time": ("profile", stamps.to_numpy("datetime64[ns]"))}
    for column in frame.columns:
        values = frame[column]
        number = pd.api.types.is_float_dtype(values)
        kept = values.to_numpy() if number else values.astype(object).fillna("").to_numpy(dtype=object).astype(str)
        made[str(column)] = ("profile", kept)
    ds = xr.Dataset(made).set_coords(["time", "latitude", "longitude"])
    for axis, units in (("latitude", "degrees_north"), ("longitude", "degrees_east")):
        # 99999 stands for a position that is not known.
        ds[axis] = ds[axis].where(abs(ds[axis]) <= 360).assign_attrs(standard_name=axis, units=units)
    return ds


def open_store(entry: Entry, place: Path, kwargs: dict[str, Any]) -> xr.Dataset:
    """Open a zarr store in place, or the copy of it in *place*."""
    address = entry.urls[0]
    local = place / address.rstrip("/").rsplit("/", 1)[1]
    options = {"chunks": {}, **entry.options, **kwargs}
    if local.exists():
        return xr.open_zarr(local, **options)
    package, host = _PROTOCOLS.get(address.partition("://")[0], (None, None))
    if package and find_spec(package) is None:
        raise ImportError(
            describe(
                f"{entry.name} lies at {address}, which needs the package {package}",
                expected=f"{package} installed",
                received="it is not",
                remedy=f"pip install 'physml[cloud]', or copy the store by hand to {local}: {command(entry, place)}",
            )
        )
    try:
        if host:
            _reach(host)
        return xr.open_zarr(address, storage_options=dict(entry.storage_options), **options)
    except Exception as error:  # gcsfs, s3fs, aiohttp and zarr raise unrelated classes for an address out of reach
        raise ConnectionError(
            describe(
                f"{entry.name} could not be opened at {address}",
                expected="the zarr store there",
                received=reason(error),
                remedy=f"try again, or copy it by hand where the network allows, so that it lies at {local}: "
                f"{command(entry, place)}",
            )
        ) from error


def _reach(host: str) -> None:
    """Raise where no answer comes from a host; the packages of the buckets would try for minutes."""
    import requests

    requests.head(host, timeout=15)


def command(entry: Entry, place: Path) -> str:
    """Return the entry's own command, with the folder filled in."""
    return (entry.by_hand or "").replace("{folder}", str(place))
