"""Samples of the catalog: made by the test beds, and written to try readers of files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from physml._errors import describe
from physml.data._entries import Entry

SUFFIXES = {"netcdf": "nc", "zarr": "zarr"}


def made(entry: Entry) -> xr.Dataset:
    """Return the Dataset that a sample's test bed makes."""
    from physml.testbeds import gyre, sst

    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.arguments.items()}
    makers: dict[str, Callable[..., xr.Dataset]] = {"gyre": gyre.simulate, "sst": sst.simulate}
    return makers[str(arguments.pop("testbed"))](**arguments)


def write(entry: Entry, target: Path, *, format: str, overwrite: bool) -> None:
    """Write a sample beside *target* and move it there when it is whole.

    Raises
    ------
    ValueError
        Where *target* is there and may not be replaced.
    """
    if target.exists() and not overwrite:
        raise ValueError(
            describe(
                f"{target} is there already", expected="a new file", received=str(target), remedy="pass overwrite=True"
            )
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    ds = made(entry)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".physml-") as beside:
        fresh = Path(beside) / target.name
        if format == "netcdf":
            ds.to_netcdf(fresh)
        else:
            # Version 2 is what every reader knows.
            ds.chunk(time=12).to_zarr(fresh, zarr_format=2, consolidated=True)
            shutil.rmtree(target, ignore_errors=True)
        os.replace(fresh, target)
