"""Impurity importances of a forest by channel, by variable and by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import closest, refuse
from physml.provenance import stamp


def importances(forest: Any, groups: Mapping[str, Sequence[str] | str] | None) -> xr.Dataset:
    """See :meth:`physml.learners.Forest.importances`."""
    layout, stacking = forest.layout, forest.stacking
    channels = layout.inputs
    each = np.array([t.tree_.compute_feature_importances(normalize=True) for t in forest.estimator.estimators_])
    whole = forest.estimator.feature_importances_
    of = stacking.features % len(channels) if stacking.cells is None else stacking.features
    labels, names = [str(c) for c in channels], list(layout.spec.inputs)
    of_variable = np.array([names.index(c.name) for c in channels])
    found = {
        "importance": ("channel", _sums(whole, of, len(labels))),
        "importance_std": ("channel", _sums(each, of, len(labels)).std(0)),
        "variable_importance": ("variable", _sums(whole, of_variable[of], len(names))),
        "variable_importance_std": ("variable", _sums(each, of_variable[of], len(names)).std(0)),
    }
    coords: dict[str, Any] = {"channel": labels, "variable": names}
    if groups is not None:
        member = _members(groups, labels, names, of_variable)
        found["group_importance"] = ("group", member @ found["importance"][1])
        found["group_importance_std"] = ("group", (_sums(each, of, len(labels)) @ member.T).std(0))
        coords["group"] = list(groups)
    ds = xr.Dataset(found, coords)
    if stacking.cells is None and layout.space:
        values = np.full((*layout.shape, len(channels)), np.nan)
        values.reshape(-1)[stacking.features] = whole
        space = {n: c for n, c in layout.statics.coords.items() if set(c.dims) <= set(layout.space)}
        ds = ds.assign_coords(space)
        ds["value_importance"] = (("channel", *layout.space), np.moveaxis(values, -1, 0))
    for name, da in ds.data_vars.items():
        over = "standard deviation over the trees of the " if str(name).endswith("_std") else ""
        da.attrs = {"units": "1", "long_name": f"{over}impurity importance"}
    return stamp(ds, f"impurity importance of {forest.name}")


def _sums(values: np.ndarray, of: np.ndarray, n: int) -> np.ndarray:
    """Return sums of ``[..., feature]`` over the features of each of *n* kinds."""
    kind = np.zeros((len(of), n))
    kind[np.arange(len(of)), of] = 1.0
    return values @ kind


def _members(
    groups: Mapping[str, Sequence[str] | str], labels: list[str], names: list[str], of_variable: np.ndarray
) -> np.ndarray:
    """Return which channels belong to each group, ``[group, channel]``."""
    member = np.zeros((len(groups), len(labels)))
    for i, (group, parts) in enumerate(groups.items()):
        for part in (parts,) if isinstance(parts, str) else parts:
            if part in names:
                member[i, of_variable == names.index(part)] = 1.0
            elif part in labels:
                member[i, labels.index(part)] = 1.0
            else:
                refuse(
                    f"the group {group!r} names {part!r}, which is no input{closest(part, [*names, *labels])}",
                    ", ".join(dict.fromkeys([*names, *labels])),
                    repr(part),
                    "correct the name",
                )
    return member
