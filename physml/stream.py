"""Predictions written region by region: memory of one region, nothing half-written under the final name, and a way to go on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from physml._atomic import put
from physml._errors import describe
from physml.forecast import predict
from physml.model import FieldModel, load
from physml.provenance import digest

STATE, STORE = "state.json", "regions.zarr"


def predict_to(
    model: FieldModel | str,
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    tiles: Mapping[str, int] | None = None,
    halo: Mapping[str, int] | None = None,
    periodic: Iterable[str] = (),
    blend: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write the prediction of a whole Dataset to netCDF or zarr, in the memory of a part of it.

    The result is that of :func:`physml.predict`. Regions, the chunks along the sample dimension, are computed one after another
    (each in parallel, on ``dask.distributed`` too where a client is active) and written to ``PATH.partial``; the whole is then
    moved to *path*. After a kill, a full disk or bad data, ``resume=True`` goes on with the regions that are not yet written.

    Parameters
    ----------
    model, ds, batch_size, tiles, halo, periodic, blend
        As for :func:`physml.predict`.
    path
        ``*.zarr`` or ``*.nc``, on a local or shared disk.
    resume
        Go on where an earlier call with the same model and data was stopped; begin where there is nothing to go on with.
    overwrite
        Replace what is at *path*, and throw away what an earlier call left unless *resume*.
    progress
        Show a bar.

    Returns
    -------
    pathlib.Path
        *path*.

    Raises
    ------
    FileExistsError
        Where *path* or a stopped prediction is there and neither *overwrite* nor *resume* is said.
    ValueError
        Where model, data, tiles or chunks are not those of the prediction to resume.

    Examples
    --------
    >>> physml.predict_to("model.keras", ds, "forecast.zarr", tiles={"lat": 256, "lon": 256})  # doctest: +SKIP
    """
    target = check_target(path, overwrite=overwrite, resume=resume)
    model = load(model) if isinstance(model, str | os.PathLike) else model
    spec = model.layout.spec
    names = [n for n in spec.inputs if n in ds.variables]
    if not any(ds[n].chunks is not None or not ds[n].variable._in_memory for n in names):
        ds = ds.chunk({spec.sample_dim: batch_size}) if spec.sample_dim in ds.dims else ds
    options: dict[str, Any] = {"tiles": tiles, "halo": halo, "periodic": sorted(periodic), "blend": blend}
    fields = predict(model, ds, batch_size=batch_size, **options)
    key = key_of(model, ds, **options)
    return stream(fields, target, key, spec.sample_dim, resume=resume, overwrite=overwrite, progress=progress)


def check_target(path: str | os.PathLike[str], *, overwrite: bool, resume: bool) -> Path:
    """Return where to write; refuse unknown formats and what is there already.

    Raises
    ------
    ValueError, FileExistsError
        Before anything is computed.
    """
    target = Path(path)
    if target.suffix not in (".nc", ".zarr"):
        raise ValueError(
            describe(
                f"{str(path)!r} has no known format",
                expected="*.nc or *.zarr",
                received=target.suffix or "no ending",
                remedy="write to forecast.nc or forecast.zarr",
            )
        )
    if target.exists() and not overwrite:
        raise FileExistsError(
            describe(
                f"{str(path)!r} is there already",
                expected="a new path",
                received=str(path),
                remedy="choose another, or overwrite=True (--overwrite)",
            )
        )
    if _partial(target).exists() and not (overwrite or resume):
        raise FileExistsError(
            describe(
                f"an earlier prediction to {str(path)!r} was stopped",
                expected="nothing at " + str(_partial(target)),
                received=_told(_partial(target)),
                remedy="resume=True (--resume) to go on, or overwrite=True (--overwrite) to begin anew",
            )
        )
    return target


def stream(
    fields: xr.Dataset,
    target: Path,
    key: Mapping[str, str],
    sample_dim: str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write lazy *fields* region by region along *sample_dim*; see :func:`predict_to`.

    Parameters
    ----------
    fields
        What to write; its chunks are those of the store.
    target
        ``*.zarr`` or ``*.nc``.
    key
        Digests by name of all that the fields follow from: a resume with others is refused.
    sample_dim
        Dimension along which regions follow each other.
    resume, overwrite, progress
        As for :func:`predict_to`.
    """
    fields = _regular(fields)
    partial = _partial(target)
    bare = fields.drop_vars(list(fields.coords))
    sizes = bare.chunksizes[sample_dim]
    chunks = {str(d): int(c[0]) for d, c in bare.chunksizes.items()}
    state: dict[str, Any] = {
        "key": dict(key),
        "chunks": chunks,
        "sizes": {str(d): n for d, n in fields.sizes.items()},
        "regions": len(sizes),
        "done": [],
    }
    if partial.exists():
        found = _state(partial)
        if resume and found is not None and (partial / STORE).exists():
            _require_same(found, state, target)
            state = found
        else:  # nothing had been written, or it is not wanted
            shutil.rmtree(partial)
    store = partial / STORE
    fresh = not partial.exists()
    try:
        if fresh:
            partial.mkdir(parents=True)
            laid = bare if target.suffix == ".nc" else settled(fields)
            laid.to_zarr(store, compute=False, consolidated=False, mode="w")
            _save(partial, state)
        starts = np.cumsum([0, *sizes])
        for i in _shown(range(len(sizes)), progress, f"predict to {target.name}"):
            if i in state["done"]:
                continue
            region = {sample_dim: slice(int(starts[i]), int(starts[i + 1]))}
            bare.isel(region).to_zarr(store, region=region, consolidated=False)
            state["done"].append(i)
            _save(partial, state)
        made = store
        if target.suffix == ".nc":
            made = partial / "whole.nc"
            slabs = [slice(int(a), int(a + n)) for a, n in zip(starts, sizes, strict=False)]
            _to_netcdf(fields, store, made, sample_dim, slabs)
    except BaseException as error:
        if not state["done"]:
            shutil.rmtree(partial, ignore_errors=True)
        else:
            error.add_note(
                f"{len(state['done'])} of {len(sizes)} regions are written and kept in {partial}. Once the cause is gone, "
                "the same call with resume=True (--resume) goes on from there; overwrite=True (--overwrite) begins anew."
            )
        raise
    put(made, target)
    shutil.rmtree(partial)
    return target


def key_of(model: FieldModel, ds: xr.Dataset, **options: Any) -> dict[str, str]:
    """Return digests of a model, of the data it is given and of options.

    The data are told by their sizes, coordinates and attributes, and by the values of the inputs at the first, the middle
    and the last sample: reading all of them would take as long as the prediction.
    """
    config = {k: v for k, v in model.get_config().items() if k not in ("name", "provenance", "network")}
    weights = _hash([*model.get_weights(), *model.layout.arrays().values()])
    network = _nameless(model.get_config()["network"])
    sample, spec = model.layout.spec.sample_dim, model.layout.spec
    names = [n for n in dict.fromkeys(spec.inputs) if n in ds.variables]
    parts: list[Any] = [{str(d): n for d, n in ds[names].sizes.items()}, {n: ds[n].attrs for n in names}]
    values = [ds[n].values for n in sorted(map(str, ds[names].coords)) if ds[n].ndim <= 1]
    some = ds[names].drop_vars(list(ds[names].coords))
    if sample in some.dims:
        n = some.sizes[sample]
        some = some.isel({sample: sorted({0, n // 2, n - 1})})
    loaded = some.compute()
    values += [loaded[n].values for n in names]
    return {
        "model": digest([config, network, weights, model.provenance.get("preparation")]),
        "data": digest([parts, _hash(values)]),
        "options": digest(options),
    }


def _hash(arrays: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        a = np.asarray(array)
        found.update(f"{a.dtype}{a.shape}".encode())
        found.update(np.ascontiguousarray(a).tobytes() if a.dtype != object else repr(a.tolist()).encode())
    return found.hexdigest()


def _nameless(config: Any) -> Any:
    """Return a configuration without what Keras counts from one process to the next."""
    if isinstance(config, Mapping):
        gone = ("name", "inbound_nodes", "input_layers", "output_layers", "build_config", "shared_object_id")
        return {k: _nameless(v) for k, v in config.items() if k not in gone}
    return [_nameless(v) for v in config] if isinstance(config, list | tuple) else str(config)


def settled(ds: xr.Dataset) -> xr.Dataset:
    """Return names along dimensions as strings of any length: zarr has no settled form for those of fixed length."""
    return ds.assign_coords({n: c.astype(object) for n, c in ds.coords.items() if c.dtype.kind == "U"})


def _regular(fields: xr.Dataset) -> xr.Dataset:
    """Return fields whose chunks are alike along every dimension, as a store needs them; their coordinates in memory."""
    largest: dict[Any, int] = {}
    for da in fields.data_vars.values():
        for dim, sizes in da.variable.chunksizes.items():
            largest[dim] = max(largest.get(dim, 0), *sizes)
    fields = fields.chunk({d: largest.get(d, n) for d, n in fields.sizes.items()})
    return fields.assign_coords({n: c.compute() for n, c in fields.coords.items() if c.variable.chunks is not None})


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def _state(partial: Path) -> dict[str, Any] | None:
    try:
        return json.loads((partial / STATE).read_text())
    except FileNotFoundError:
        return None


def _save(partial: Path, state: Mapping[str, Any]) -> None:
    made = partial / (STATE + ".new")
    made.write_text(json.dumps(state))
    os.replace(made, partial / STATE)


def _told(partial: Path) -> str:
    state = _state(partial)
    return "no region" if state is None else f"{len(state['done'])} of {state['regions']} regions"


def _require_same(found: Mapping[str, Any], now: Mapping[str, Any], target: Path) -> None:
    before = {**found["key"], "chunks": found["chunks"], "sizes": found["sizes"]}
    wanted = {**now["key"], "chunks": now["chunks"], "sizes": now["sizes"]}
    other = [k for k in wanted if before.get(k) != wanted[k]]
    if other:
        shown = {k: before.get(k) if k in ("chunks", "sizes") else "as it was" for k in other}
        raise ValueError(
            describe(
                f"the prediction to {str(target)!r} was begun with another {' and other '.join(other)}",
                expected=shown,
                received={k: wanted[k] if k in ("chunks", "sizes") else "another" for k in other},
                remedy="resume with the same model, data, tiles and chunks, or begin anew: overwrite=True (--overwrite)",
            )
        )


def _shown(steps: range, progress: bool, title: str) -> Iterator[int]:
    if not progress:
        yield from steps
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(steps, title, console=Console(stderr=True))


def _to_netcdf(fields: xr.Dataset, store: Path, made: Path, sample_dim: str, regions: list[slice]) -> None:
    """Copy the regions into one netCDF file, slab by slab: an HDF5 file would not outlive a kill while it is written."""
    import netCDF4
    import zarr

    fields.drop_vars(list(fields.data_vars)).to_netcdf(made, format="NETCDF4")
    source = zarr.open_group(store, mode="r")
    with netCDF4.Dataset(made, "a") as file:
        if "coordinates" in file.ncattrs():  # of no variable in particular, as there were none
            file.delncattr("coordinates")
        for name, da in fields.data_vars.items():
            for dim, n in da.sizes.items():
                if dim not in file.dimensions:
                    file.createDimension(str(dim), n)
            chunks = [1 if d == sample_dim else c[0] for d, c in da.variable.chunksizes.items()]
            array: Any = source[str(name)]
            missing = da.encoding.get("_FillValue", np.nan if array.dtype.kind == "f" else None)
            make: Any = file.createVariable
            variable = make(
                str(name),
                array.dtype.name,
                da.dims,
                compression="zlib",
                complevel=1,
                chunksizes=chunks,
                fill_value=missing,
            )
            extra = [str(c) for c in da.coords if c not in da.dims]
            attrs = {k: int(v) if isinstance(v, bool | np.bool_) else v for k, v in da.attrs.items() if v is not None}
            variable.setncatts({**attrs, **({"coordinates": " ".join(extra)} if extra else {})})
            for region in regions:
                at = tuple(region if d == sample_dim else slice(None) for d in da.dims)
                variable[at] = array[at]
