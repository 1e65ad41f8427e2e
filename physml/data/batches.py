"""Batches: labelled fields as the input of ``model.fit``."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import xarray as xr

from physml import calendar
from physml._errors import describe
from physml.fields import FieldSpec, Role
from physml.layout import Layout


class Batches(keras.utils.PyDataset):
    """Batches of inputs, targets and weights in physical units.

    Nothing is computed before the first batch is asked for. A batch is a function of the data, the seed, the epoch and
    its number alone. Masked cells hold 0 in the tensors and have weight 0, so they reach neither the network nor the loss.

    Parameters
    ----------
    ds
        Data with all inputs and targets, in memory or lazy.
    spec
        What to read; a :class:`physml.FieldSpec` or its layout.
    batch_size
        Samples in a batch; the last batch may hold fewer.
    shuffle
        Draw samples in a new order every epoch. ``FieldModel.fit`` keeps it; to another Keras model say
        ``fit(batches, shuffle=False)``.
    seed
        Seed of that order.
    drop_remainder
        Leave out the last batch when it is not full.
    dtype
        Type of the tensors.

    Raises
    ------
    ValueError
        For an empty selection; while iterating, for values missing on valid cells.

    Examples
    --------
    >>> ds = xr.Dataset({"x": (("time", "i"), np.arange(12.0).reshape(4, 3))}, {"time": np.arange(4)})
    >>> batches = Batches(ds, FieldSpec("x", "x", target_offsets=1), batch_size=2)
    >>> [x.shape for x, y, w in (batches[i] for i in range(len(batches)))]
    [(2, 3, 1), (1, 3, 1)]
    """

    def __init__(
        self,
        ds: xr.Dataset,
        spec: FieldSpec | Layout,
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_remainder: bool = False,
        dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if batch_size < 1:
            raise ValueError(
                describe("batch_size is not positive", expected=">= 1", received=batch_size, remedy="batch_size=32")
            )
        names = spec.spec if isinstance(spec, Layout) else spec
        self.ds = ds = calendar.complete(ds, names.inputs, names.sample_dim)
        self.layout = spec if isinstance(spec, Layout) else spec.bind(ds)
        self.batch_size, self.shuffle, self.seed, self.drop_remainder = batch_size, shuffle, seed, drop_remainder
        self.dtype = dtype
        self.epoch = 0
        # Lazy views: packing a lazy Dataset reads nothing, and one in memory is packed at the first batch.
        self._lazy = any(
            ds[n].chunks is not None or not ds[n].variable._in_memory
            for n in (*self.layout.spec.inputs, *self.layout.spec.targets)
        )
        for role in ("inputs", "targets"):
            self.layout.check(ds, role, whole_window=True)
        members = [m for m in self.layout.members if m in ds.dims]
        times = len(self.layout.samples(ds))
        self._grid = (*(ds.sizes[m] for m in members), times)
        self.n_samples = int(np.prod(self._grid))
        if self.n_samples == 0 or (drop_remainder and self.n_samples < batch_size):
            low, high = self.layout.spec.window()
            raise ValueError(
                describe(
                    "Batches: the selection holds no batch",
                    expected=f"windows of offsets {low} to {high} along {self.layout.spec.sample_dim!r}",
                    received=f"{self.n_samples} samples from {dict(ds.sizes)}",
                    remedy="select a longer period, or drop_remainder=False",
                )
            )
        self._packed: dict[str, xr.DataArray] = {}
        self._fixed: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        whole, rest = divmod(self.n_samples, self.batch_size)
        return whole + (rest > 0 and not self.drop_remainder)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return len(self)

    def order(self, epoch: int | None = None) -> np.ndarray:
        """Return the order of the samples in an epoch (the present one by default)."""
        if not self.shuffle:
            return np.arange(self.n_samples)
        return np.random.default_rng([self.seed, self.epoch if epoch is None else epoch]).permutation(self.n_samples)

    def on_epoch_end(self) -> None:
        """Begin the next epoch, with its own order."""
        self.epoch += 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return batch *index* of this epoch: inputs, targets ``[batch, *space, channel]`` and weights."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        start = (index % len(self)) * self.batch_size
        chosen = self.order()[start : start + self.batch_size]
        valid_x, valid_y, weights = self._constants()
        x = self._gather("inputs", chosen, valid_x)
        y = self._gather("targets", chosen, valid_y)
        return x, y, np.repeat(weights[None], len(chosen), axis=0)

    def _constants(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._fixed is None:
            valid_y = self.layout.valid("targets")
            area = self.layout.weights
            # One weight a cell, or one a channel where the mask differs between targets. Their mean is 1, so that the
            # loss Keras averages over all cells is the area-weighted mean over the valid ones.
            weights = area if (valid_y == valid_y[..., :1]).all() else area[..., None] * valid_y
            if not weights.sum() > 0:
                raise ValueError(
                    describe(
                        "Batches: no valid cell carries weight",
                        expected="a mask with valid cells and areas above zero",
                        received=f"{int(valid_y.sum())} valid cells, total area {area.sum():g}",
                        remedy="check the variables named as mask and area",
                    )
                )
            scaled = (weights / weights.mean()).astype(self.dtype)
            self._fixed = self.layout.valid("inputs"), valid_y, scaled
        return self._fixed

    def _gather(self, role: Role, chosen: np.ndarray, valid: np.ndarray) -> np.ndarray:
        packed = self._packed.get(role)
        if packed is None:
            packed = self.layout.pack(self.ds, role, whole_window=True)
            if not self._lazy:
                packed = packed.astype(self.dtype)
            self._packed[role] = packed
        at = np.unravel_index(chosen, self._grid)
        dims = packed.dims[: len(at)]
        picked = packed.isel({d: xr.DataArray(i, dims="batch") for d, i in zip(dims, at, strict=True)})
        array = picked.transpose("batch", ...).values.astype(self.dtype, copy=False)
        return fill_masked(array, valid, self.layout, role, picked)


class EpochOf(keras.callbacks.Callback):
    """Tells batches which epoch Keras is at: it also draws batches to build a model, and goes on after a resume."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the epoch of the batches."""
        self.batches.epoch = epoch


def fill_masked(
    array: np.ndarray, valid: np.ndarray, layout: Layout, role: Role, labels: xr.DataArray | None = None
) -> np.ndarray:
    """Return ``[batch, *space, channel]`` with 0 on masked cells.

    Raises
    ------
    ValueError
        Where a valid cell is missing or infinite, naming the variable, the sample and the number of cells.
    """
    finite = np.isfinite(array)
    bad = ~finite & valid
    if bad.any():
        counts = bad.reshape(-1, bad.shape[-1]).sum(0)
        channel = int(counts.argmax())
        row = int(bad[..., channel].reshape(bad.shape[0], -1).any(-1).argmax())
        where = f"sample {row} of the batch"
        dim = layout.spec.sample_dim
        if labels is not None and dim in labels.coords:
            where = f"{dim} {labels[dim].values.reshape(-1)[row]}"
        raise ValueError(
            describe(
                f"{role[:-1]} '{layout.channels(role)[channel]}' is missing on valid cells at {where}",
                expected="finite values wherever the mask is true"
                if layout.spec.mask
                else "finite values everywhere (there is no mask)",
                received=f"{int(counts[channel])} cells missing or infinite",
                remedy="name a mask in the FieldSpec (physml.grid.finite_mask makes one), fill the gaps, or drop the samples",
            )
        )
    if valid.all():
        return array
    return np.where(valid, array, array.dtype.type(0))
