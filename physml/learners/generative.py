"""Ensembles from a network that reads noise: the noise is one more named field, drawn lazily, the same for the same labels."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import is_count, refuse
from physml.fields import FieldSpec
from physml.layout import Layout

NOISE, CHANNEL, MEMBER = "noise", "noise_channel", "member"


def with_noise_inputs(spec: FieldSpec, *, channels: int) -> FieldSpec:
    """Return a spec with noise among its inputs, and ``member`` among its members.

    Parameters
    ----------
    spec
        Condition and targets.
    channels
        Fields of noise.

    Examples
    --------
    >>> with_noise_inputs(FieldSpec("coarse", "fine"), channels=2).inputs
    ('coarse', 'noise')
    """
    if not is_count(channels):
        refuse("with_noise_inputs: channels is no count", "a whole number >= 1", channels, "channels=4")
    taken = {NOISE, CHANNEL, MEMBER} & {*spec.inputs, *spec.targets, *spec.levels, *spec.members}  # type: ignore[misc]
    if taken:
        refuse(
            f"with_noise_inputs: the name {sorted(taken)[0]!r} is taken",
            f"no {NOISE!r}, {CHANNEL!r} or {MEMBER!r} in the spec",
            ", ".join(sorted(taken)),
            "rename yours",
        )
    return replace(
        spec,
        inputs=(*spec.inputs, NOISE),
        input_offsets={**{n: spec.offsets("inputs", n) for n in spec.inputs}, NOISE: (0,)},
        levels={**spec.levels, CHANNEL: tuple(range(channels))},  # type: ignore[dict-item]
        members=(*spec.members, MEMBER),  # type: ignore[misc]
    )


def with_noise(ds: xr.Dataset, spec: FieldSpec | Layout, *, seed: int, members: int = 1) -> xr.Dataset:
    """Return a Dataset with independent standard normal noise on the grid of its fields.

    The noise of a map follows from the seed, the number of the member and the label of the sample: another selection, other
    chunks or more members draw the same numbers for the same maps. Along other dimensions of members, and in space, the numbers go by
    position: a part of the grid or of the runs draws others.

    Parameters
    ----------
    ds
        Data with the other inputs.
    spec
        From :func:`with_noise_inputs`, or a layout of it.
    seed
        A whole number >= 0.
    members
        Size of the ensemble.

    Returns
    -------
    xarray.Dataset
        With ``noise`` ``[member, sample, *others, *space, noise_channel]``, float32, lazy where the other inputs are lazy.

    Raises
    ------
    ValueError
        For a spec without noise, and members or seeds that are no counts.
    """
    layout, spec = (spec, spec.spec) if isinstance(spec, Layout) else (None, spec)
    if NOISE not in spec.inputs:
        refuse(
            "with_noise: the spec has no noise",
            f"an input {NOISE!r}",
            ", ".join(spec.inputs),
            "spec = with_noise_inputs(spec, channels=4)",
        )
    if not is_count(members) or not is_count(seed, 0):
        refuse(
            "with_noise: no ensemble can be drawn",
            "members >= 1 and seed >= 0, whole numbers",
            f"members={members}, seed={seed}",
            "members=10, seed=0",
        )
    sample = spec.sample_dim
    fields = [ds[n] for n in (*spec.inputs, *spec.targets) if n != NOISE and n in ds.variables]
    aside = {sample, MEMBER, *spec.levels}  # type: ignore[misc]
    sizes = dict(max(fields, key=lambda f: len({*f.dims} - aside)).sizes)
    others = {str(d): n for d, n in sizes.items() if d not in aside}
    if layout is not None:
        own = {d: ds.sizes[d] for d in layout.members if d in ds.dims and d != MEMBER}
        others = own | dict(zip(layout.space, layout.shape, strict=True))
    depth = len(spec.levels[CHANNEL])  # type: ignore[index, call-overload, arg-type]
    rest = (*others.values(), depth)
    rows = _keys(ds[sample].values if sample in ds.coords else np.arange(ds.sizes[sample]))
    first = next((f for f in fields if sample in f.dims), None)
    chunks = None if first is None or first.chunks is None else first.chunksizes[sample]
    draws = np.arange(members, dtype="uint64")
    data: Any
    if chunks is None:
        data = _drawn(draws[:, None], rows[None], seed, rest)
    else:
        import dask.array as dsa

        data = dsa.map_blocks(
            _drawn,
            dsa.from_array(draws[:, None], chunks=(1, 1)),
            dsa.from_array(rows[None], chunks=(1, chunks)),
            seed,
            rest,
            dtype="float32",
            chunks=((1,) * members, chunks, *((n,) for n in rest)),
            new_axis=list(range(2, 2 + len(rest))),
            meta=np.empty((0,) * (2 + len(rest)), "float32"),
        )
    noise = xr.DataArray(
        data, dims=(MEMBER, sample, *others, CHANNEL), attrs={"units": "1", "long_name": f"noise of seed {seed}"}
    )
    return ds.assign({NOISE: noise}).assign_coords({MEMBER: np.arange(members), CHANNEL: np.arange(depth)})


def generate(
    model: Any, ds: xr.Dataset, *, members: int, seed: int, batch_size: int = 32, **options: Any
) -> xr.Dataset:
    """Return an ensemble from a generator, as :func:`physml.predict` does, with a dimension ``member``.

    Parameters
    ----------
    model
        A :class:`physml.FieldModel` whose inputs hold noise, or the path of a saved one.
    ds
        Data with the other inputs.
    members
        Size of the ensemble; the first of more members are the same.
    seed
        Of the noise, see :func:`with_noise`.
    batch_size, **options
        As for :func:`physml.predict`.

    Returns
    -------
    xarray.Dataset
        The targets, labelled and masked, ``[member, sample, ...]``; lazy where *ds* is lazy. The laws of the model hold in every
        member.

    Examples
    --------
    >>> ensemble = generate("generator.keras", ds, members=10, seed=1)  # doctest: +SKIP
    """
    from physml.forecast import predict
    from physml.model import load

    model = load(model) if isinstance(model, str | os.PathLike) else model
    noisy = with_noise(ds, model.layout, seed=seed, members=members)
    return predict(model, noisy, batch_size=batch_size, **options).assign_attrs(physml_noise_seed=seed)


def _keys(labels: np.ndarray) -> np.ndarray:
    """Return a number for every label, the same wherever it stands."""
    if labels.dtype.kind in "mM":
        return labels.astype("datetime64[ns]" if labels.dtype.kind == "M" else "timedelta64[ns]").astype("uint64")
    if labels.dtype.kind in "iub":
        return labels.astype("int64").astype("uint64")
    if labels.dtype.kind == "f":
        return labels.astype("float64").view("uint64")
    return np.array([zlib.crc32(str(label).encode()) for label in labels], dtype="uint64")


def _drawn(members: np.ndarray, keys: np.ndarray, seed: int, rest: Sequence[int]) -> np.ndarray:
    """Return noise ``[member, sample, *rest]``, each map from a generator of its own."""
    out = np.empty((members.shape[0], keys.shape[1], *rest), "float32")
    for i, m in enumerate(members[:, 0]):
        for j, k in enumerate(keys[0]):
            out[i, j] = np.random.default_rng((seed, int(m), int(k))).standard_normal(tuple(rest), dtype="float32")
    return out
