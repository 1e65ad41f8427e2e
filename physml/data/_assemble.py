"""From rows in memory to tensors with channels last, masks filled and weights cut, each sample touched once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.data._buffers import Buffers
from physml.data.patches import Patches, cuts
from physml.fields import Role
from physml.layout import Layout

ROLES: tuple[Role, ...] = ("inputs", "targets")


@dataclass(frozen=True)
class _Columns:
    """One variable at one offset: where its channels are, and how a row is turned to ``[*space, *levels]``."""

    name: str
    offset: int
    where: slice
    levels: tuple[int, ...]
    axes: tuple[int, ...]
    lacking: tuple[int, ...]


class Assembler:
    """Writes samples into tensors.

    Parameters
    ----------
    layout
        Names, channels and masks.
    rest
        By variable the dimensions of its rows, in order.
    offsets
        Offsets in the order of the columns of the windows.
    dtype, fill, missing
        Type of the tensors, what masked inputs hold, and what is done where a valid value is missing: ``"raise"`` or
        ``"mask"``.
    patches
        How maps are cut.
    """

    def __init__(
        self,
        layout: Layout,
        rest: Mapping[str, tuple[str, ...]],
        offsets: Sequence[int],
        dtype: np.dtype,
        missing: str,
        patches: Patches | None,
    ) -> None:
        self.layout, self.dtype, self.missing, self.patches = layout, dtype, missing, patches
        self.shape = layout.shape if patches is None else patches.shape(layout.space, layout.shape)
        self.columns = {
            role: [
                _columns(layout, role, n, o, rest[n], offsets)
                for n in getattr(layout.spec, role)
                for o in layout.spec.offsets(role, n)
            ]
            for role in ROLES
        }
        self.valid = {role: layout.valid(role) for role in ROLES}
        self.masked = {role: np.flatnonzero(~v.reshape(-1)) for role, v in self.valid.items()}
        self.weights = scaled_weights(layout, self.valid["targets"], by_channel=missing == "mask").astype(dtype)
        self.plain_weights = patches is None and missing != "mask"
        self.layout_rank = len(layout.shape)
        self._same = np.empty(0, dtype)
        self.buffers = Buffers()

    def empty(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return tensors for *n* items: inputs, targets and weights."""
        take = self.buffers.take
        x, y = (take((n, *self.shape, len(self.layout.channels(role))), self.dtype) for role in ROLES)
        if not self.plain_weights:
            return x, y, take((n, *self.shape, *self.weights.shape[self.layout_rank :]), self.dtype)
        if len(self._same) < n:  # every batch has the same: one copy serves all, and nobody may write to it
            self._same = take((n, *self.weights.shape), self.dtype)
            self._same[...] = self.weights
            self._same.flags.writeable = False
        return x, y, self._same[:n]

    def fill(
        self,
        tensors: tuple[np.ndarray, np.ndarray, np.ndarray],
        locate: Callable[[str, int], tuple[np.ndarray, tuple[np.ndarray, ...]]],
        origins: np.ndarray | None,
        fill: float,
        when: Callable[[int], str],
    ) -> None:
        """Write items into tensors.

        Parameters
        ----------
        tensors
            Inputs, targets and weights of these items alone.
        locate
            Gives for a variable and the number of an offset the array and where in it the rows of all items lie.
        origins
            First cells of the patches, ``[item, dimension]``.
        fill
            What masked inputs hold.
        when
            Names the sample of an item, for messages.

        Raises
        ------
        ValueError
            For values missing on valid cells.
        """
        x, y, w = tensors
        work = [self._sources(role, tensor, locate) for role, tensor in zip(ROLES, (x, y), strict=True)]
        pieces: list[Any] = [None] * len(x)
        if origins is not None:
            pieces = [list(cuts(origin, self.shape, self.layout.shape)) for origin in origins.tolist()]
            for i, origin in enumerate(origins.tolist()):
                self._cut_weights(w[i], origin, pieces[i])
        elif not self.plain_weights:
            w[...] = self.weights
        with np.errstate(invalid="ignore", over="ignore"):
            for role, tensor, sources in zip(ROLES, (x, y), work, strict=True):
                for i, cut in enumerate(pieces):
                    for lacking, array, at, target in sources:
                        if cut is None:
                            target[i] = array[at[i]]
                            continue
                        for here, there in cut:
                            taken = tuple(slice(None) if k in lacking else s for k, s in enumerate(there))
                            target[i][here] = array[at[i]][taken]
                    self._finish(role, tensor[i], w, i, cut, fill, when)

    def _sources(self, role: Role, tensor: np.ndarray, locate: Callable[[str, int], Any]) -> list[Any]:
        found = []
        for column in self.columns[role]:
            array, at = locate(column.name, column.offset)
            lead = array.ndim - len(column.axes)
            turned = array.transpose(*range(lead), *(lead + a for a in column.axes))
            for k in column.lacking:
                turned = np.expand_dims(turned, lead + k)
            target = tensor[..., column.where].reshape(*tensor.shape[:-1], *column.levels)
            rows = list(zip(*(a.tolist() for a in at), strict=True)) if at else [()] * len(tensor)
            found.append((column.lacking, turned, rows, target))
        return found

    def _finish(
        self, role: Role, item: np.ndarray, w: np.ndarray, i: int, pieces: Any, fill: float, when: Callable[[int], str]
    ) -> None:
        """Fill what is masked and look for what is missing, while the item is still in the cache."""
        masked = len(self.masked[role]) > 0
        valid = None
        if masked and pieces is not None:
            valid = _patch(self.valid[role], self.shape, pieces)
            item[~valid] = 0
        elif masked:
            item.reshape(-1)[self.masked[role]] = 0
        # A sum is finite where all values are, and costs a fraction of looking at each.
        whole = math.isfinite(item.reshape(-1).sum())
        bad = None if whole else ~np.isfinite(item)
        if bad is not None and bad.any():
            if self.missing != "mask":
                raise missing_value(self.layout, role, bad, when(i))
            item[bad] = 0
            if role == "targets":
                w[i][bad if w[i].ndim == bad.ndim else bad[..., 0]] = 0
        if role == "inputs" and fill != 0:
            if bad is not None:
                item[bad] = fill
            if valid is not None:
                item[~valid] = fill
            elif masked:
                item.reshape(-1)[self.masked[role]] = fill

    def _cut_weights(self, w: np.ndarray, origin: Sequence[int], pieces: Any) -> None:
        assert self.patches is not None
        for here, there in pieces:
            w[here] = self.weights[there]
        if any(self.patches.margin.values()):  # type: ignore[union-attr]
            inside = self.patches.weight(self.layout.space, self.shape, origin, self.layout.shape)
            w *= inside.reshape(*inside.shape, *(1,) * (w.ndim - inside.ndim)).astype(w.dtype)


def _patch(whole: np.ndarray, shape: Sequence[int], pieces: Any) -> np.ndarray:
    out = np.empty((*shape, *whole.shape[len(shape) :]), whole.dtype)
    for here, there in pieces:
        out[here] = whole[there]
    return out


def _columns(
    layout: Layout, role: Role, name: str, offset: int, rest: Sequence[str], offsets: Sequence[int]
) -> _Columns:
    known = layout.variables[name]
    wanted = [d for d in layout.space if d in rest] + list(known.levels)
    return _Columns(
        name,
        list(offsets).index(offset),
        layout.where(role, name, offset),
        tuple(len(v) for v in known.levels.values()),
        tuple(list(rest).index(d) for d in wanted),
        tuple(k for k, d in enumerate(layout.space) if d not in rest),
    )


def scaled_weights(layout: Layout, valid: np.ndarray, *, by_channel: bool = False) -> np.ndarray:
    """Return weights ``[*space]``, or ``[*space, channel]`` where the mask differs between targets or *by_channel*.

    Their mean is 1, so that the loss Keras averages over all cells is the area-weighted mean over the valid ones.

    Raises
    ------
    ValueError
        Where no valid cell carries weight.
    """
    area = layout.weights
    same = (valid == valid[..., :1]).all() and not (by_channel and valid.shape[-1] > 1)
    weights = area if same else area[..., None] * valid
    if not weights.sum() > 0:
        raise ValueError(
            describe(
                "Batches: no valid cell carries weight",
                expected="a mask with valid cells and areas above zero",
                received=f"{int(valid.sum())} valid cells, total area {area.sum():g}",
                remedy="check the variables named as mask and area",
            )
        )
    return weights / weights.mean()


def fill_masked(
    array: np.ndarray, valid: np.ndarray, layout: Layout, role: Role, labels: xr.DataArray | None = None
) -> np.ndarray:
    """Return ``[batch, *space, channel]`` with 0 on masked cells.

    Raises
    ------
    ValueError
        Where a valid cell is missing or infinite, naming the variable, the sample and the number of cells.
    """
    bad = ~np.isfinite(array) & valid
    if bad.any():
        channel = int(bad.reshape(-1, bad.shape[-1]).sum(0).argmax())
        row = int(bad[..., channel].reshape(bad.shape[0], -1).any(-1).argmax())
        where = f"sample {row} of the batch"
        dim = layout.spec.sample_dim
        if labels is not None and dim in labels.coords:
            where = f"{dim} {labels[dim].values.reshape(-1)[row]}"
        raise missing_value(layout, role, bad, where)
    if valid.all():
        return array
    return np.where(valid, array, array.dtype.type(0))


def missing_value(layout: Layout, role: Role, bad: np.ndarray, where: str) -> ValueError:
    """Return the error for values missing on valid cells, ``[..., channel]`` true where they are."""
    counts = bad.reshape(-1, bad.shape[-1]).sum(0)
    channel = int(counts.argmax())
    return ValueError(
        describe(
            f"{role[:-1]} '{layout.channels(role)[channel]}' is missing on valid cells at {where}",
            expected="finite values wherever the mask is true"
            if layout.spec.mask
            else "finite values everywhere (there is no mask)",
            received=f"{int(counts[channel])} cells missing or infinite",
            remedy="name a mask in the FieldSpec (physml.grid.finite_mask makes one), fill the gaps, or drop the samples",
        )
    )
