"""Runs written chunk by chunk of analysis times: memory of a chunk, nothing half-written under the final name, and a way to go on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import xarray as xr
from keras import ops

from physml._atomic import put
from physml._errors import describe, refuse
from physml.assimilation.cycling.labelling import Columns, Labels
from physml.provenance import stamp
from physml.stream import settled

PROGRESS, STORE = "progress.json", "run.zarr"
CHUNK_BYTES = 32e6
"""Size of a chunk of all variables together [bytes], unless told otherwise."""


def check_target(path: str | os.PathLike[str], *, resume: bool, overwrite: bool) -> Path:
    """Return where to write; refuse other formats than zarr, and what is there already."""
    target = Path(path)
    if target.suffix != ".zarr":
        refuse(f"{str(path)!r} has no known format", "*.zarr", target.suffix or "no ending", "to='run.zarr'")
    for there, allowed, what, remedy in (
        (target, overwrite, f"{str(path)!r} is there already", "choose another, or overwrite=True"),
        (_partial(target), overwrite or resume, f"an earlier run to {str(path)!r} was stopped", "resume=True to go on"),
    ):
        if there.exists() and not allowed:
            raise FileExistsError(describe(what, expected="a new path", received=there, remedy=remedy))
    return target


def write(
    run: Any, target: Path, key: Mapping[str, str], *, resume: bool = False, overwrite: bool = False, chunk: Any = None
) -> xr.Dataset:
    """Go through a run and write it to *target*; return the whole, lazily.

    After every chunk the state of the run is kept beside the store, so that a resumed run goes on from there with the same
    numbers bit for bit. A chunk is written whole, and written again where it was not finished.

    Parameters
    ----------
    run
        With ``start``, ``advance``, ``label``, ``portions`` and ``labels``.
    target
        ``*.zarr``, checked by :func:`check_target`.
    key
        Digests by name of all that the run follows from: a resume with others is refused.
    resume, overwrite
        As for :meth:`Cycle.run`.
    chunk
        Number of analysis times in a chunk; None: a tenth of the run, or less where that exceeds 32 MB.
    """
    partial = _partial(target)
    # Without its store it is what a finished run, killed at its very end, left behind.
    found = _read(partial) if resume and (partial / STORE).exists() else None
    if partial.exists() and found is None:
        shutil.rmtree(partial)
    if found is not None:
        _require_same(found, key, chunk, target)
    writer = _Writer(run, partial, dict(key), chunk, found)
    try:
        writer.go()
    except BaseException as error:
        if not (partial / PROGRESS).exists():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            error.add_note(
                f"What was run is kept in {partial}. Once the cause is gone, the same call with resume=True goes on from "
                "there; overwrite=True begins anew."
            )
        raise
    put(partial / STORE, target)
    shutil.rmtree(partial)
    return xr.open_zarr(target, consolidated=False)


class _Writer:
    """Buffers what a run tells until a chunk is full, each variable for itself: smoothed fields come later than others."""

    def __init__(self, run: Any, partial: Path, key: dict[str, str], chunk: Any, found: Any) -> None:
        self.run, self.partial, self.key, self.chunk = run, partial, key, chunk
        self.labels: Labels = run.labels
        self.next, self.rejected = 0, 0.0
        self.state: Any = None
        self.buffers: dict[str, list[np.ndarray]] = {}
        self.written: dict[str, int] = {}
        self.dims: dict[str, list[str]] = {}
        self.saved: str | None = None
        if found is None:
            return
        for name in ("next", "rejected", "written", "dims", "chunk", "saved"):
            setattr(self, name, found[name])
        with np.load(partial / found["saved"]) as arrays:
            parts = {name: arrays[name] for name in arrays.files}
        self.state = {k[6:]: ops.convert_to_tensor(v) for k, v in parts.items() if k.startswith("state/")}
        self.buffers = {k[7:]: [v] for k, v in parts.items() if k.startswith("buffer/")}

    def go(self) -> None:
        """Run to the end."""
        state = self.run.start() if self.state is None else self.state
        told: list[Columns] = []
        rows = 0
        while self.next < self.run.portions:
            state, columns = self.run.advance(self.next, state)
            told.append(columns)
            rows += len(next(iter(columns.values())))
            self.next += 1
            if self.chunk is None:
                self.chunk = self._chunk(columns)
            last = self.next == self.run.portions
            if rows >= self.chunk or last:
                self._take({k: np.concatenate([t[k] for t in told]) for k in told[0]})
                told, rows = [], 0
                if last and (tail := self.run.tail(state)):
                    self._take(tail)
                self._flush(last)
                self._save(state)
        self._attributes()

    def _chunk(self, columns: Columns) -> int:
        row = sum(a[:1].nbytes for a in columns.values())
        tenth = -(-len(self.labels.times) // 10)
        return max(1, min(int(CHUNK_BYTES // max(row, 1)), tenth))

    def _take(self, columns: Columns) -> None:
        self.rejected += float(columns["rejected"].sum()) if "rejected" in columns else 0.0
        variables = self.run.label(columns)
        if not (self.partial / STORE).exists():
            self._create(variables)
        for name, variable in variables.items():
            self.buffers.setdefault(name, []).append(variable.values)
            self.dims[name] = [str(d) for d in variable.dims]

    def _create(self, variables: Mapping[str, xr.Variable]) -> None:
        """Make the store, all of it missing, with its labels."""
        self.partial.mkdir(parents=True, exist_ok=True)
        size, empty = len(self.labels.times), {}
        for name, v in variables.items():
            shape, chunks = (size, *v.shape[1:]), (self.chunk, *v.shape[1:])
            blank = dask.array.full(shape, np.nan, dtype=v.dtype, chunks=chunks)
            empty[name] = xr.Variable(v.dims, blank, v.attrs)
        ds = xr.Dataset(empty, attrs=dict(self.labels.attrs)).assign_coords(self.labels.coords())
        ds = settled(ds)
        made = self.partial / (STORE + ".new")
        shutil.rmtree(made, ignore_errors=True)
        stamp(ds, self.labels.action).to_zarr(made, compute=False, consolidated=False, mode="w")
        os.replace(made, self.partial / STORE)

    def _flush(self, last: bool) -> None:
        """Write whole chunks; at the end what is left. What is never told of stays missing."""
        ready: dict[tuple[int, int], dict[str, Any]] = {}
        for name, parts in self.buffers.items():
            values = np.concatenate(parts)
            done = self.written.get(name, -self.labels.late_by(name))
            # Fields of before the start are dropped.
            drop = min(max(-done, 0), len(values))
            values, done = values[drop:], done + drop
            rows = len(values) if last else len(values) // self.chunk * self.chunk
            if done >= 0 and rows:
                ready.setdefault((done, done + rows), {})[name] = (self.dims[name], values[:rows])
                done, values = done + rows, values[rows:]
            self.buffers[name], self.written[name] = [values], done
        for (start, stop), variables in ready.items():
            region = {self.labels.time: slice(start, stop)}
            xr.Dataset(variables).to_zarr(self.partial / STORE, region=region, consolidated=False)

    def _save(self, state: Mapping[str, Any]) -> None:
        """Keep the state and what is not yet written; the old one goes once the new one is named."""
        name = f"state-{self.next}.npz"
        arrays = {f"state/{k}": ops.convert_to_numpy(v) for k, v in state.items()}
        arrays |= {f"buffer/{k}": np.concatenate(v) for k, v in self.buffers.items()}
        np.savez(self.partial / name, **arrays)
        progress = {
            "key": self.key,
            "next": self.next,
            "rejected": self.rejected,
            "written": self.written,
            "dims": self.dims,
            "chunk": self.chunk,
            "saved": name,
        }
        made = self.partial / (PROGRESS + ".new")
        made.write_text(json.dumps(progress))
        os.replace(made, self.partial / PROGRESS)
        for file in self.partial.glob("state-*.npz"):
            if file.name != name:
                file.unlink()

    def _attributes(self) -> None:
        import zarr

        if any(name == "rejected" for name in self.written):
            zarr.open_group(self.partial / STORE, mode="r+").attrs["observations_rejected"] = int(self.rejected)


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def _read(partial: Path) -> dict[str, Any] | None:
    try:
        return json.loads((partial / PROGRESS).read_text())
    except FileNotFoundError:
        return None


def _require_same(found: Mapping[str, Any], key: Mapping[str, str], chunk: Any, target: Path) -> None:
    other = [name for name, value in key.items() if found["key"].get(name) != value]
    if chunk is not None and chunk != found["chunk"]:
        other.append("chunk")
    if other:
        what = f"the run to {str(target)!r} was begun with another {' and other '.join(other)}"
        remedy = "resume with the same arguments, or begin anew: overwrite=True"
        refuse(what, "the same " + ", ".join(key), "another " + ", ".join(other), remedy)
