"""Novelty detection: what an autoencoder cannot reconstruct as well as what it has learned from is new to it.

The error of a sample is the rms of its reconstruction over cells, weighted by area, and over channels, each in units of its
standard deviation s about the mean of each cell,

    e^2 = sum_c sum_i a_i ((x_ci - y_ci) / s_c)^2 / sum_c sum_i a_i,

and the sample is new where e exceeds a quantile of the errors of the training samples. The map of x - y shows what is new.

References
----------
Wagstaff, K. L. and Lee, J. (2018), Interpretable discovery in large image data sets, arXiv:1806.08340. McGovern, A. et al. (2019),
doi:10.1175/BAMS-D-18-0195.1.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import describe, refuse
from physml.explain.blocks import Block, over_samples, samples_at_a_time
from physml.explain.gradients.rows import in_batches
from physml.explain.inputs.metric import spread_of
from physml.explain.models.adapting import adapt
from physml.explain.models.outputs import Fields
from physml.explain.models.valued import accept_batch_rows, default_rows
from physml.provenance import stamp

if TYPE_CHECKING:
    from physml.explain.models.adapting import Adapted
    from physml.layout import Layout


def novelty(
    autoencoder: Any,
    train: xr.Dataset,
    ds: xr.Dataset,
    *,
    quantile: float = 0.99,
    layout: Layout | None = None,
    batch_rows: int | None = None,
) -> xr.Dataset:
    """Return how new samples are to an autoencoder, and what is new in them.

    Parameters
    ----------
    autoencoder
        A ``FieldModel`` whose targets are among its inputs, at the same offsets; or any other model of this kind, with *layout*.
    train
        Samples it has learned from, or better held back, of the same kind; read block by block where lazy.
    ds
        Samples to judge; read block by block, and lazily where lazy.
    quantile
        Part of the training samples that count as known.
    layout
        Layout of a model that has none of its own.
    batch_rows
        Rows the model is given at a time; default by size of the inputs.

    Returns
    -------
    xarray.Dataset
        On (members, sample): ``error`` in standard deviations; ``novel``, whether it exceeds the threshold; ``exceedance``, the share of
        training samples, and the sample itself, with an error as great: small where it is new. ``variable_error`` on
        (variable, members, sample) likewise; ``*_residual``, each variable less its reconstruction, in its units, NaN on masked
        cells. ``train_error`` on (train_sample), the training errors in increasing order, is in memory. The threshold is in the attributes.

    Raises
    ------
    ValueError
        For a model that is no autoencoder, a *quantile* out of range, too few training samples, missing inputs.

    Examples
    --------
    >>> found = novelty(model, train, test, quantile=0.99)  # doctest: +SKIP
    >>> test.isel(time=found.novel.values)  # doctest: +SKIP
    """
    if not 0 < quantile < 1:
        refuse("quantile is out of range", "a number in (0, 1)", quantile, "pass quantile=0.99")
    accept_batch_rows(batch_rows)
    adapted = adapt(autoencoder, layout)
    layout = adapted.layout
    same = _reconstructed(adapted)
    learned, packed = layout.pack(train, "inputs"), layout.pack(ds, "inputs")
    sample = layout.spec.sample_dim
    n = int(np.prod([learned.sizes[d] for d in learned.dims[: learned.get_axis_num(sample) + 1]]))
    if n < 2:
        refuse("the training samples are too few", "2 or more", n, "pass the data the autoencoder has learned from")
    judge = _Judge(adapted, same, spread_of(learned, layout)[same], batch_rows)
    known = over_samples(layout, learned, judge.errors, 1, 1, title="errors of training")
    known = np.sort(np.asarray(known).ravel())
    threshold = float(np.quantile(known, quantile))
    names = list(dict.fromkeys(c.name for c in layout.targets))
    cells = int(np.prod(layout.shape)) * len(layout.targets)
    depth = cells + 1 + len(names)
    values = over_samples(
        layout,
        packed,
        judge.everything,
        depth,
        1,
        at_a_time=samples_at_a_time(packed, sample, depth),
        title="novelty",
    )
    outer = packed.dims[: packed.get_axis_num(sample) + 1]
    order = [*range(1, len(outer) + 1), 0]
    shape = (*packed.shape[: len(outer)], *layout.shape, len(layout.targets))
    like = packed.isel(channel=same).drop_vars("channel")
    maps = layout.unpack(
        like.copy(data=values[:cells, ..., 0].transpose(order).reshape(shape)), "targets", predicted=True
    )
    out = maps.rename({name: f"{name}_residual" for name in names})
    for name in names:
        out[f"{name}_residual"].attrs["long_name"] = f"{name} less its reconstruction"
        out[f"{name}_residual"].attrs.pop("standard_name", None)
    out["error"] = (outer, values[cells, ..., 0], {"long_name": "error of the reconstruction", "units": "1"})
    about = {"long_name": "error of the reconstruction of each variable", "units": "1"}
    out["variable_error"] = (("variable", *outer), values[cells + 1 :, ..., 0], about)
    out["novel"] = (out.error > threshold).assign_attrs(long_name="whether the error exceeds that of known samples")
    out["exceedance"] = xr.apply_ufunc(
        functools.partial(_rank, known), out.error, dask="parallelized", output_dtypes=["float64"]
    ).assign_attrs(long_name="share of known samples with an error as great", units="1")
    out["train_error"] = ("train_sample", known, {"long_name": "error of the training samples", "units": "1"})
    out = out.assign_coords(variable=("variable", names, {"long_name": "variable"}))
    out.attrs = {**ds.attrs, "quantile": quantile, "threshold": threshold, "training_samples": n, "model": adapted.name}
    return stamp(out, f"novelty to {adapted.name}, threshold {threshold:.4g} ({quantile:g} quantile of {n} samples)")


class _Judge:
    """The errors of an autoencoder on blocks of samples."""

    def __init__(self, adapted: Adapted, same: list[int], spread: np.ndarray, batch_rows: int | None) -> None:
        layout = adapted.layout
        self.adapted, self.same, self.spread = adapted, same, np.where(spread > 0, spread, 1.0)
        self.rows = batch_rows or default_rows(4 * int(np.prod(layout.shape)) * len(layout.inputs))
        self.valid = layout.valid("targets")
        self.weights = layout.weights[..., None] * self.valid
        self.names = [c.name for c in layout.targets]

    def residual(self, block: Block) -> np.ndarray:
        """Return the inputs less their reconstruction ``[sample, *space, target channel]``, zero on masked cells."""
        dtype = self.adapted.dtype or block.inputs.dtype
        x = block.inputs.astype(dtype)
        found = in_batches(self.adapted, lambda k: x[k], len(x), min(self.rows, 256))
        y = np.concatenate([values for _, values in found]).astype("float64")
        off = np.where(self.valid, block.inputs[..., self.same] - y, 0.0)
        if not np.isfinite(off).all():
            refuse(
                "the reconstruction is not finite",
                "finite values on every valid cell",
                f"{int((~np.isfinite(off)).sum())} missing or infinite",
                "check the range of the samples against the training data",
            )
        return off

    def scaled(self, off: np.ndarray) -> np.ndarray:
        """Return the weighted squares ``[sample, target channel]``."""
        squares = self.weights * (off / self.spread) ** 2
        return squares.reshape(len(off), -1, len(self.names)).sum(1)

    def error(self, squares: np.ndarray, channels: Any = slice(None)) -> np.ndarray:
        """Return the rms of weighted squares ``[sample, target channel]`` over some channels ``[sample]``."""
        weights = self.weights.reshape(-1, len(self.names)).sum(0)
        return np.sqrt(squares[:, channels].sum(1) / weights[channels].sum())

    def errors(self, block: Block) -> np.ndarray:
        """Return the error of each sample ``[1, sample, 1]``."""
        return self.error(self.scaled(self.residual(block)))[None, :, None]

    def everything(self, block: Block) -> np.ndarray:
        """Return the map, the error and that of each variable ``[depth, sample, 1]``."""
        off = self.residual(block)
        squares = self.scaled(off)
        rows = [off.reshape(len(off), -1).T, self.error(squares)[None]]
        for name in dict.fromkeys(self.names):
            mine = np.array([n == name for n in self.names])
            rows.append(self.error(squares, mine)[None])
        return np.concatenate(rows)[..., None]


def _reconstructed(adapted: Adapted) -> list[int]:
    """Return the input channel of each target, refusing what is no autoencoder."""
    layout = adapted.layout
    inputs = [str(c) for c in layout.inputs]
    new = [str(c) for c in layout.targets if str(c) not in inputs]
    if new or not isinstance(adapted.outputs, Fields):
        what = f"the target {new[0]!r}" if new else f"outputs {adapted.outputs.shape}"
        raise ValueError(
            describe(
                f"{adapted.name!r} is no autoencoder",
                expected=f"targets among the inputs: {', '.join(inputs)}",
                received=what,
                remedy="train one: FieldSpec(inputs=names, targets=names), offset 0, and a narrow layer",
            )
        )
    return [inputs.index(str(c)) for c in layout.targets]


def _rank(known: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return the share of known errors, and one, that are as great as each of *error*."""
    return (1 + len(known) - np.searchsorted(known, error, "left")) / (1 + len(known))
