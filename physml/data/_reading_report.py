"""What reading will cost, told before any training."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from physml.data.loader import Loader


@dataclass(frozen=True)
class ReadingReport:
    """How data are read.

    Attributes
    ----------
    variables
        By name: how it is read, its steps in a chunk, and the size of a step [bytes].
    samples, batches
        In an epoch.
    unit_steps, groups, per_group
        Steps read at once, groups in an epoch, and units in a group.
    amplification
        Bytes decoded for every byte that is needed; of the first groups of an epoch.
    needed
        Bytes an epoch needs.
    held
        Rows held in memory at most [bytes].
    speed
        Bytes decoded in a second, measured on the first group; None where it was not.
    advice
        What would make it faster.
    """

    variables: dict[str, dict[str, Any]]
    samples: int
    batches: int
    unit_steps: int
    groups: int
    per_group: int
    amplification: float
    needed: int
    held: int
    speed: float | None
    advice: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Time an epoch of reading takes [s], where the speed was measured."""
        return None if self.speed is None else self.needed * self.amplification / self.speed

    @classmethod
    def of(cls, loader: Loader, *, measure: bool = True) -> ReadingReport:
        """Return the report of a loader; see :meth:`physml.data.Loader.report`."""
        fields, cut, pool, order = loader._moving(), loader._cut(), loader._reading(), loader.plan()
        lazy = {n: f for n, f in fields.items() if f.memory is None}
        dim = loader.layout.spec.sample_dim
        variables = {}
        for name, known in loader._open().items():
            steps = 0 if known.still else int(np.diff(known.source.bounds(dim)).max())
            variables[name] = {"how": known.source.how, "chunk_steps": steps, "step_bytes": known.row_bytes}
        decoded = wanted = 0
        for group in order.groups[:4]:
            more = pool.reads(group)
            decoded, wanted = decoded + more[0], wanted + more[1]
        again = 1.0
        if not cut.keep and wanted:
            again += (max(loader.samples.offsets) - min(loader.samples.offsets)) / float(
                np.diff(cut.units.time_bounds).mean()
            )
        sizes = tuple(loader._members().values())
        needed = sum(
            f.row_bytes
            // f.dtype.itemsize
            * f.source.stored_itemsize
            * int(pool.used.sum())
            * int(np.prod([sizes[i] for i in f.has], dtype=int))
            for f in lazy.values()
        )
        speed = None
        if measure and lazy:
            loader.close()
            start = time.perf_counter()
            with pool.lease(
                loader.epoch if loader.shuffle else 0, 0, order.groups[:1] if len(order.groups) == 1 else order.groups
            ):
                speed = pool.reads(order.groups[0])[0] / (time.perf_counter() - start)
        return cls(
            variables,
            loader.n_samples,
            len(loader),
            int(np.diff(cut.units.time_bounds).max()),
            len(order.groups),
            cut.per_group,
            decoded / wanted * again if wanted else 1.0,
            needed,
            cut.held,
            speed,
            tuple(_advice(loader, lazy, cut, decoded / wanted if wanted else 1.0, len(order.groups))),
        )

    def __str__(self) -> str:
        lines = [f"{self.samples} samples in {self.batches} batches"]
        width = max(len(n) for n in self.variables)
        for name, v in self.variables.items():
            chunk = f", {v['chunk_steps']} steps a chunk" if v["chunk_steps"] else ""
            lines.append(f"  {name:<{width}}  {v['how']}{chunk}, {v['step_bytes'] / 1e6:.3g} MB a step")
        if self.groups > 1:
            lines.append(f"read in {self.groups} groups of up to {self.per_group} x {self.unit_steps} steps")
        else:
            lines.append("held in memory as a whole" + (" after the first pass" if self.needed else ""))
        lines.append(f"decoded for each byte needed: {self.amplification:.2f}; held at most: {self.held / 1e6:.0f} MB")
        if self.speed is not None:
            lines.append(
                f"{self.speed / 1e6:.0f} MB/s, so {self.seconds:.1f} s an epoch for reading {self.needed / 1e9:.2f} GB"
            )
        return "\n".join([*lines, *(f"advice: {a}" for a in self.advice)])


def _advice(loader: Loader, lazy: dict[str, Any], cut: Any, decoded: float, groups: int) -> list[str]:
    found = []
    dim = loader.layout.spec.sample_dim
    for name, known in lazy.items():
        if "through dask" in known.source.how:
            found.append(f"{name!r} is read {known.source.how}; write it to zarr as it is, and read that")
    if not lazy:
        return found
    biggest = max(lazy.values(), key=lambda f: int(np.diff(f.source.bounds(dim)).max()) * f.row_bytes)
    steps = int(np.diff(biggest.source.bounds(dim)).max())
    good = max(1, min(len(loader.samples), int(16e6 // max(biggest.row_bytes, 1))))
    unit = int(np.diff(cut.units.time_bounds).max())
    if decoded > 1.5 and unit < steps:
        found.append(
            f"chunks of {steps} steps do not fit into memory and are decoded again: rechunk to {dim}={good}, or give more memory"
        )
    elif decoded > 1.5:
        found.append(
            f"{decoded:.1f} bytes are decoded for each that is needed: rechunk so that a chunk holds one region, and {dim}={good}"
        )
    if steps * biggest.row_bytes < 1e5 and len(biggest.source.bounds(dim)) > 100:
        found.append(f"chunks of {steps * biggest.row_bytes / 1e3:.0f} kB are small: rechunk to {dim}={good}")
    if loader.shuffle and groups > 1 and cut.per_group < 4:
        needed = 8 * cut.held // (2 * max(cut.per_group, 1))
        found.append(
            f"only {cut.per_group} chunks are mixed at a time: memory='{needed // 10**6 + 1}MB' mixes 4, or rechunk to {dim}={max(1, steps // 4)}"
        )
    if not cut.keep:
        found.append("the edges of windows are read again: more memory keeps them")
    return found
