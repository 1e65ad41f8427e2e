"""Fields beside an explanation: what the inputs of each group were, and where its contributions lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from physml.explain import Explainer
    from physml.layout import Layout


def input_anomalies(explainer: Explainer, ds: xr.Dataset) -> xr.DataArray:
    """Return the mean over each group's cells of its inputs less the baseline, in standard deviations of the input.

    Parameters
    ----------
    explainer
        With its groups and baseline.
    ds
        The samples.

    Returns
    -------
    xarray.DataArray
        On (group, members, sample), for colouring figures. The standard deviation is that over samples and cells of each
        channel.
    """
    packed, beside = explainer.read(ds)
    sample = explainer.layout.spec.sample_dim
    space = (*explainer.layout.space, "channel")
    outer = [d for d in packed.dims if d not in space]
    rows = explainer.baseline.rows.astype("float64")
    if beside is not None:
        reference = beside.astype("float64")
    else:
        picked = explainer.baseline.pick(packed[sample])
        mean = np.stack([rows[i].mean(0) for i in picked])
        reference = xr.DataArray(mean, dims=(sample, *space))
    away = (packed.astype("float64") - reference.drop_vars(list(reference.coords))).transpose(*outer, *space)
    valid = explainer.layout.valid("inputs")
    values = np.where(valid, away.values, 0.0)
    count = np.maximum(valid.sum(tuple(range(valid.ndim - 1))), 1) * np.prod([packed.sizes[d] for d in outer])
    spread = np.sqrt((values**2).sum(tuple(range(values.ndim - 1))) / count)
    scaled = (values / np.where(spread > 0, spread, 1.0)).reshape(-1, valid.size)
    owner = explainer.players.owner.ravel()
    names = list(explainer.players.names)
    mean = np.stack([scaled[:, owner == g].mean(1) for g in range(len(names))])
    shape = tuple(packed.sizes[d] for d in outer)
    return xr.DataArray(
        mean.reshape(len(names), *shape),
        dims=("group", *outer),
        coords={"group": names, **{d: packed[d].variable for d in outer if d in packed.coords}},
        attrs={"long_name": "mean input of the group against the baseline, in standard deviations", "units": "1"},
    )


def painted(explainer: Explainer, result: xr.Dataset) -> xr.Dataset | None:
    """Return the attributions of groups that lie apart in space as a map for each input channel, or None.

    Every cell holds the attribution of its group; masked cells are missing.
    """
    layout, owner = explainer.layout, explainer.players.owner
    apart = any(len(np.unique(c[c >= 0])) > 1 for c in np.moveaxis(owner, -1, 0))
    phi = result["attribution"]
    outer = [d for d in phi.dims if d != "group"]
    if not apart or len(layout.space) != 2 or set(outer) & set(layout.space):
        return None
    # Channels that the groups do not tell apart are one map.
    apart_of: dict[bytes, list[int]] = {}
    for i in range(owner.shape[-1]):
        apart_of.setdefault(owner[..., i].tobytes(), []).append(i)
    names = [_named(layout, members) for members in apart_of.values()]
    owner = owner[..., [members[0] for members in apart_of.values()]]
    values = np.where(owner >= 0, phi.transpose(*outer, "group").values[..., np.maximum(owner, 0)], np.nan)
    coords = {n: c for n, c in layout.statics.coords.items() if set(c.dims) <= set(layout.space)}
    maps = xr.DataArray(values, dims=(*outer, *layout.space, "channel"), attrs=phi.attrs)
    more = {n: result[n] for n in ("prediction", "base_value") if n in result}
    return xr.Dataset({"attribution": maps, **more}).assign_coords(
        {**coords, **{d: phi[d] for d in outer if d in phi.coords}, "variable": ("channel", names)}
    )


def _named(layout: Layout, members: list[int]) -> str:
    """Return the variables of some input channels, with their offsets where they are not all of them."""
    chosen = [layout.inputs[i] for i in members]
    variables = list(dict.fromkeys(c.name for c in chosen))
    whole = all(sum(c.name == v for c in layout.inputs) == sum(c.name == v for c in chosen) for v in variables)
    if whole:
        return ", ".join(variables)
    if len(variables) == 1 and not any(c.level for c in chosen):
        return ", ".join([*variables, *(f"t{c.offset:+d}".removesuffix("+0") for c in chosen)])
    return ", ".join(map(str, chosen))
