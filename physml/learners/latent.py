"""The parts of an autoencoder between labelled fields: maps to latent vectors and back, and maps drawn from the prior."""

from __future__ import annotations

import math
import os
import threading
import uuid
from typing import Any

import keras
import numpy as np
import xarray as xr
from keras import ops

from physml import _backend, _packing
from physml._errors import is_count, refuse
from physml._sent import Sent
from physml.data.batches import fill_masked
from physml.model import FieldModel, load
from physml.predictor import packed, unpacked
from physml.provenance import stamp

DIM = "latent"
NAME = "code"


def encode(model: FieldModel | str, ds: xr.Dataset, *, batch_size: int = 32) -> xr.Dataset:
    """Return the latent vectors of the maps of a Dataset.

    Parameters
    ----------
    model
        A FieldModel around :func:`physml.networks.autoencoder`, or the path of a saved one.
    ds
        Data with its inputs.
    batch_size
        Rows given to the encoder at a time, at most.

    Returns
    -------
    xarray.Dataset
        ``code`` ``[*members, sample, latent]``, without units; of a variational autoencoder the means of the distributions, and
        their standard deviations as ``code_std``. Lazy where *ds* is lazy.

    Raises
    ------
    ValueError
        Where the network has no encoder; on computing, where inputs are missing on valid cells.

    Examples
    --------
    >>> latent = encode(model, ds)  # doctest: +SKIP
    """
    model = _autoencoder(model)
    size = _size(model)
    drawn = _draws(model)
    packed = model.layout.pack(ds, "inputs")
    part = _Part(model, "encoder", batch_size)
    out = _packing.map_samples(
        part, [packed], model.layout.space, 2 * size if drawn else size, model.compute_dtype, reduce=True
    )
    out = out.rename(channel=DIM)
    label = {"units": "1", "long_name": "latent coordinate"}
    found = xr.Dataset({NAME: out.isel({DIM: slice(size)}).assign_coords({DIM: np.arange(size)}).assign_attrs(label)})
    if drawn:
        log_variance = out.isel({DIM: slice(size, None)}).assign_coords({DIM: np.arange(size)})
        std = xr.apply_ufunc(np.exp, 0.5 * log_variance, dask="parallelized", output_dtypes=[log_variance.dtype])
        label = {"units": "1", "long_name": "standard deviation of the latent coordinate"}
        found[f"{NAME}_std"] = std.assign_attrs(label)
    return stamp(found.assign_attrs(ds.attrs), f"encode with {model.name}")


def decode(
    model: FieldModel | str, latent: xr.Dataset | xr.DataArray, ds: xr.Dataset | None = None, *, batch_size: int = 32
) -> xr.Dataset:
    """Return the maps that latent vectors stand for, in physical units; laws hold in them as in all outputs of the model.

    Parameters
    ----------
    model
        As for :func:`encode`.
    latent
        Vectors as :func:`encode` returns them, with any dimensions besides ``latent``.
    ds
        Data with the inputs, on the same dimensions; needed where the output follows from more than the latent vector: laws that
        read inputs, increments, scaling by month.
    batch_size
        Rows given to the decoder at a time, at most.

    Returns
    -------
    xarray.Dataset
        The targets, labelled, masked, lazy where *latent* is lazy.

    Raises
    ------
    ValueError
        Where the network has no decoder, the vectors have another length, or inputs are needed and not given.
    """
    model = _autoencoder(model)
    array = latent[NAME] if isinstance(latent, xr.Dataset) else latent
    size = _size(model)
    if array.sizes.get(DIM) != size:
        refuse(
            "decode: the vectors do not fit the decoder",
            f"a dimension {DIM!r} of {size}",
            dict(array.sizes),
            "pass what encode returns",
        )
    reasons = _needs_inputs(model)
    if reasons and ds is None:
        refuse(f"decode: {reasons[0]}", "the inputs as ds", "None", "decode(model, latent, ds)")
    space = model.layout.space
    arrays, core = [array], [[DIM]]
    if ds is not None:
        packed = model.layout.pack(ds, "inputs").drop_vars("channel")
        arrays.append(packed.transpose(*(d for d in array.dims if d != DIM), *space, "channel"))
        core.append([*space, "channel"])
        arrays = [a if a.chunks is None else a.chunk(dict.fromkeys(c, -1)) for a, c in zip(arrays, core, strict=True)]
    out = xr.apply_ufunc(
        _Part(model, "decoder", batch_size),
        *arrays,
        input_core_dims=core,
        output_core_dims=[[*space, "channel"]],
        join="exact",
        dask="parallelized",
        output_dtypes=[np.dtype(model.compute_dtype)],
        dask_gufunc_kwargs={
            "output_sizes": {
                **dict(zip(space, model.layout.shape, strict=True)),
                "channel": len(model.answers.targets),
            },
            "allow_rechunk": True,
        },
    )
    fields = model.answers.unpack(out.drop_vars("channel", errors="ignore"), "targets", predicted=True)
    return stamp(
        fields.assign_attrs(latent.attrs if isinstance(latent, xr.Dataset) else {}), f"decode with {model.name}"
    )


def draw_prior(model: FieldModel | str, members: int, *, seed: int, ds: xr.Dataset | None = None) -> xr.Dataset:
    """Return maps that a variational autoencoder draws from its prior N(0, 1).

    Parameters
    ----------
    model
        As for :func:`encode`.
    members
        Number of maps.
    seed
        Of the draws; the first of more members are the same.
    ds
        As for :func:`decode`, with a dimension ``member``.

    Returns
    -------
    xarray.Dataset
        The targets on ``member`` and the space dimensions.

    Raises
    ------
    ValueError
        Where the autoencoder is not variational, or *members* is no count.
    """
    model = _autoencoder(model)
    if not _draws(model):
        refuse(
            "draw_prior: the autoencoder has no prior",
            "networks.autoencoder(layout, kind='variational', ...)",
            model.network.name,
            "encode real maps and decode those",
        )
    if not is_count(members):
        refuse("draw_prior: members is no count", "a whole number >= 1", members, "members=10")
    size = _size(model)
    rows = [np.random.default_rng((seed, m)).normal(size=size) for m in range(members)]
    latent = xr.DataArray(
        np.array(rows, model.compute_dtype),
        dims=("member", DIM),
        coords={"member": np.arange(members), DIM: np.arange(size)},
    )
    return decode(model, latent, ds)


class _Part:
    """Encoder or decoder of a model as a function of arrays, in batches of one size; sent elsewhere as a ``.keras`` file."""

    _one_at_a_time = threading.Lock()

    def __init__(self, model: FieldModel, part: str, batch_size: int, token: str | None = None) -> None:
        if not is_count(batch_size):
            refuse("batch_size is not positive", ">= 1", batch_size, "batch_size=32")
        self.model, self.part, self.batch_size = model, part, int(batch_size)
        self.token = token or uuid.uuid4().hex
        self._runs: dict[int, Any] = {}
        self._file: bytes | None = None

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        layout, kind = self.model.layout, self.model.compute_dtype
        if self.part == "encoder":  # rows [row, *space, channel]
            core = [len(layout.space) + 1]
        else:
            core = [1, len(layout.space) + 1]
        leading = arrays[0].shape[: arrays[0].ndim - core[0]]
        rows = [
            a.reshape(-1, *a.shape[a.ndim - n :]).astype(kind) for a, n in zip(arrays, core[: len(arrays)], strict=True)
        ]
        if self.part == "encoder" and self.model.missing != "mean":
            fill_masked(rows[0], layout.valid("inputs"), layout, "inputs")
        count, size = len(rows[0]), self.batch_size
        found = []
        with self._one_at_a_time:
            if len(rows) not in self._runs:
                self._runs[len(rows)] = self._compile([r.shape[1:] for r in rows])
            for start in range(0, count, size):
                cut = [r[start : start + size] for r in rows]
                n = len(cut[0])
                cut = [np.concatenate([c, np.repeat(c[-1:], size - n, axis=0)]) for c in cut]
                found.append(self._runs[len(rows)](*cut)[0][:n])
        out = np.concatenate(found)
        return out.reshape(*leading, *out.shape[1:])

    def _compile(self, shapes: list[tuple[int, ...]]) -> Any:
        model, layout = self.model, self.model.layout
        encoder, decoder = (model.network.get_layer(n) for n in ("encoder", "decoder"))

        def encoded(x: Any) -> tuple[Any]:
            _, z = model.scaled_inputs(x)
            return (ops.cast(encoder(z, training=False), model.compute_dtype),)

        def decoded(latent: Any, x: Any = None) -> tuple[Any]:
            if x is None:
                zeros = ops.zeros((self.batch_size, *layout.shape, len(layout.inputs)), model.compute_dtype)
                x = model._scale.centre(zeros)
            return (model.through(x, lambda z, training=None: decoder(latent), training=False, penalties=False),)

        kinds = [model.compute_dtype] * len(shapes)
        full = [(self.batch_size, *s) for s in shapes]
        return _backend.fixed_signature(
            encoded if self.part == "encoder" else decoded, list(model.variables), full, kinds
        )

    def __dask_tokenize__(self) -> Any:
        return self.token, self.part, self.batch_size

    def __reduce__(self) -> Any:
        if self._file is None:
            self._file = packed(self.model)
        return _restore, (self._file, self.part, self.batch_size, self.token)


_SENT = Sent()


def _restore(data: bytes, part: str, batch_size: int, token: str) -> _Part:
    def make() -> _Part:
        restored = _Part(unpacked(data), part, batch_size, token)
        restored._file = data
        return restored

    return _SENT.once((token, part), make)


def _autoencoder(model: FieldModel | str) -> FieldModel:
    model = load(model) if isinstance(model, str | os.PathLike) else model
    names = [layer.name for layer in getattr(model.network, "layers", [])]
    if not {"encoder", "decoder"} <= set(names):
        refuse(
            f"the network {model.network.name!r} is no autoencoder",
            "layers named 'encoder' and 'decoder'",
            ", ".join(names),
            "build it with physml.networks.autoencoder",
        )
    return model


def _draws(model: FieldModel) -> bool:
    from physml.networks.variational import LatentNormal

    return any(isinstance(layer, LatentNormal) for layer in model.network.layers)


def _size(model: FieldModel) -> int:
    return math.prod(model.network.get_layer("decoder").input_shape[1:])


def _needs_inputs(model: FieldModel) -> list[str]:
    """Return why an output follows from inputs besides the latent vector."""
    reasons = []
    for law in model.constraints:
        said = [v for v in keras.tree.flatten(law.get_config()) if v in model.layout.spec.inputs and v != law.name]
        if read := [*law.needs(), *said]:
            reasons.append(f"{type(law).__name__} follows from the input {read[0]!r}")
    if model.increment:
        reasons.append("the model answers a change from the inputs")
    if model.scaling.by is not None:
        reasons.append("the scaling goes by the month")
    if model.head is not None:
        reasons.append(f"the head {type(model.head).__name__} reads the inputs")
    return reasons
