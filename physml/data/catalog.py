"""Public data by name: what there is, how it may be used, and one call that opens it; small samples work offline.

>>> from physml.data import catalog
>>> ds = catalog.open("sst-sample")
>>> dict(ds.sst.sizes)
{'time': 120, 'lat': 36, 'lon': 72}

Files are fetched once, into ``$PHYSML_DATA/NAME`` or the user's cache, and opened lazily from there; a zarr store on a
public bucket is opened in place. Where the network refuses, the error says the command that fetches by hand and where
the file must lie so that `open` finds it. The entries stand in ``datasets/catalog.yaml``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import xarray as xr

from physml._errors import closest, describe
from physml.data import _download, _samples
from physml.data._catalog_file import entries
from physml.data._entries import Entry, File, Parameter, Variable
from physml.data._opening import command, open_files, open_store, readable

__all__ = [
    "Entry",
    "Parameter",
    "Variable",
    "fetch",
    "folder_of",
    "info",
    "names",
    "open",
    "sample_file",
    "search",
    "table",
]


def names() -> list[str]:
    """Return the names of all entries, in the order of the catalog.

    Examples
    --------
    >>> "sst-sample" in names()
    True
    """
    return list(entries())


def info(name: str) -> Entry:
    """Return the entry of a name, which shows itself in full.

    Raises
    ------
    KeyError
        Where there is no such entry; the nearest name is offered.

    Examples
    --------
    >>> info("ersst-v5").variables[0].units
    'degC'
    """
    known = entries()
    if name not in known:
        raise KeyError(
            describe(
                f"the catalog has no entry {name!r}{closest(name, known)}",
                expected=f"one of {', '.join(known)}",
                received=repr(name),
                remedy="see physml.data.catalog.table(), or physml data list",
            )
        )
    return known[name]


def search(text: str) -> list[str]:
    """Return the names of the entries that hold every word of *text*, in whatever case.

    Examples
    --------
    >>> search("idealised levels members")
    ['sst-levels-sample']
    """
    words = text.lower().split()
    return [name for name, entry in entries().items() if all(word in str(entry).lower() for word in words)]


def table(which: Iterable[str] | None = None) -> str:
    """Return a plain table of the entries, or of those named: name, access, resolution, period and title."""
    rows = [("name", "access", "resolution", "period", "title")]
    for name in names() if which is None else which:
        entry = info(name)
        access = "offline" if entry.kind == "sample" else entry.access
        rows.append((name, access, entry.resolution, entry.period, entry.title))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    )


def folder_of(name: str) -> Path:
    """Return the folder in which `fetch` puts the files of an entry and `open` looks for them."""
    info(name)
    root = os.environ.get("PHYSML_DATA")
    if root:
        return Path(root).expanduser() / name
    import pooch

    return Path(pooch.os_cache("physml")) / name


def fetch(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
    **parameters: Any,
) -> list[Path]:
    """Fetch the files of an entry, and return their paths; those that are there already are not fetched again.

    Parameters
    ----------
    name
        Name of the entry.
    folder
        Where the files will lie, instead of `folder_of`.
    overwrite
        Fetch again what is there: an older file gives way when the new one is whole.
    progress
        Show a progress bar on the error stream.
    **parameters
        What stands for the placeholders of the address, such as ``year=2020`` or ``year=range(2010, 2020)``.

    Raises
    ------
    ConnectionError
        Where an address cannot be reached; the message holds the command that fetches by hand.
    ValueError
        Where a parameter is missing or wrong, or a file came damaged.
    PermissionError
        Where the data need an account; the message says how to fetch them.

    Notes
    -----
    A sample is made on the spot and written as netCDF. A zarr store is not fetched but opened in place.
    """
    entry = info(name)
    place = folder_of(name) if folder is None else Path(folder)
    if entry.kind == "sample":
        entry.files(parameters)
        target = place / f"{name}.nc"
        return [target if target.exists() and not overwrite else sample_file(name, place, overwrite=overwrite)]
    if entry.kind == "zarr":
        _refuse(
            f"{name} is a zarr store of {entry.size}, which is opened in place",
            f"catalog.open({name!r}) and a part of it",
            "fetch",
            f"write the part you need, catalog.open({name!r})[...].sel(...).to_zarr(...), or copy the whole store by "
            f"hand: {command(entry, place)}",
        )
    if entry.access == "account":
        _needs_account(entry, place)
    paths = []
    for file in entry.files(parameters):
        path = place / file.name
        if overwrite or not path.exists():
            _download.download(
                file, place, sha256=entry.sha256, check=lambda came: readable(entry, came), progress=progress
            )
        paths.append(path)
    return paths


def open(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    """Open a data set of the catalog lazily.

    A sample is made in memory. Files are looked for in *folder* and fetched if they are not there. A zarr store is
    opened in place, or from a copy in *folder*.

    Parameters
    ----------
    name
        Name of the entry.
    folder
        Where the files lie, instead of `folder_of`.
    download
        False opens only what lies there already.
    progress
        Show a progress bar while fetching.
    **kwargs
        Placeholders of the address, such as ``year=2020``, without which every file that lies there is opened;
        the rest goes to xarray, before the options of the catalog.

    Raises
    ------
    FileNotFoundError
        With ``download=False``, where no file lies there.
    ConnectionError, ValueError, PermissionError
        As `fetch`.
    ImportError
        Where the package that speaks to the bucket is not installed.

    Examples
    --------
    >>> open("gyre-sample").tracer.attrs["units"]
    'kg m-3'
    """
    entry = info(name)
    if entry.kind == "sample":
        chunks = kwargs.pop("chunks", None)
        entry.files(kwargs)
        made = _samples.made(entry)
        return made if chunks is None else made.chunk(chunks)
    place = folder_of(name) if folder is None else Path(folder)
    # What is nearly a parameter is one misspelt, which xarray would refuse in other words.
    misspelt = [key for key in kwargs if key not in entry.parameters and closest(key, entry.parameters)]
    if misspelt:
        entry.files({key: kwargs[key] for key in misspelt})
    parameters = {key: kwargs.pop(key) for key in list(kwargs) if key in entry.parameters}
    if entry.kind == "zarr":
        return open_store(entry, place, kwargs)
    there = _there(entry, place, parameters)
    if not there:
        if entry.access == "account":
            _needs_account(entry, place)
        if not download:
            files = entry.files(parameters) if parameters or not entry.parameters else []
            _nothing_there(entry, place, files)
        there = fetch(name, place, progress=progress, **parameters)
    return open_files(entry, there, kwargs)


def sample_file(
    name: str, folder: str | os.PathLike[str] | None = None, *, format: str = "netcdf", overwrite: bool = False
) -> Path:
    """Write a sample, so that readers of files can be tried, and return its path.

    Parameters
    ----------
    name
        Name of a sample.
    folder
        Where to write it, instead of `folder_of`.
    format
        "netcdf" writes ``NAME.nc``, "zarr" the store ``NAME.zarr`` in chunks of one year or less.
    overwrite
        Replace what is there.

    Raises
    ------
    ValueError
        Where the entry is no sample, the format is unknown, or the file is there.
    """
    entry = info(name)
    samples = [n for n, e in entries().items() if e.kind == "sample"]
    if entry.kind != "sample":
        _refuse(f"{name} is no sample", f"one of {', '.join(samples)}", name, "correct the name, or fetch it")
    if format not in _samples.SUFFIXES:
        _refuse(f"format {format!r} is not known", "'netcdf' or 'zarr'", repr(format), "correct it")
    place = folder_of(name) if folder is None else Path(folder)
    target = place / f"{name}.{_samples.SUFFIXES[format]}"
    _samples.write(entry, target, format=format, overwrite=overwrite)
    return target


def _there(entry: Entry, place: Path, parameters: dict[str, Any]) -> list[Path]:
    """Return the files that lie there: all that the parameters and their defaults mean, or whatever there is."""
    if entry.urls and (parameters or all(p.default is not None for p in entry.parameters.values())):
        wanted = [place / file.name for file in entry.files(parameters)]
        return wanted if all(path.exists() for path in wanted) else []
    return sorted(path for pattern in entry.patterns() for path in place.glob(pattern))


def _needs_account(entry: Entry, place: Path) -> NoReturn:
    raise PermissionError(
        describe(
            f"{entry.name} needs an account at {entry.homepage}, so it is fetched by hand",
            expected=f"netCDF files in {place}",
            received="none",
            remedy=f"register there, then {command(entry, place)}",
        )
    )


def _nothing_there(entry: Entry, place: Path, files: list[File]) -> NoReturn:
    commands = " && ".join(file.command(place) for file in files[:3]) or "pass its parameters to fetch"
    raise FileNotFoundError(
        describe(
            f"no file of {entry.name} lies in {place}",
            expected=", ".join(entry.patterns()),
            received="none",
            remedy=f"leave out download=False, or fetch by hand: {commands}",
        )
    )


def _refuse(what: str, expected: str, received: str, remedy: str) -> NoReturn:
    raise ValueError(describe(what, expected=expected, received=received, remedy=remedy))
