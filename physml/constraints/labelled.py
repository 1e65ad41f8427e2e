"""Constraints on Datasets: any model's output corrected, data checked, and what each law changed; lazy where the data are."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from keras import ops

from physml import _backend, _packing, grid
from physml._errors import describe
from physml.constraints._plan import linear_laws
from physml.constraints.base import Constraint
from physml.constraints.combine import labels
from physml.constraints.linear import LinearLaw, law_sides
from physml.data.batches import fill_masked
from physml.fields import FieldSpec
from physml.layout import Layout
from physml.timeaxis import TimeStep, find_step, positions, shift

if TYPE_CHECKING:
    from physml.constraints.combine import Constraints

TOLERANCE = 1e-5
"""Relative residual of a sum after a projection above which it could not be reached."""


def check(constraints: Constraints, ds: xr.Dataset, spec: FieldSpec) -> xr.Dataset:
    """Return the greatest residual of every law in every sample of the data themselves, and whether the laws can be met.

    A network cannot learn a law that its training data break: look at this first.

    Parameters
    ----------
    constraints
        Laws on the targets of *spec*.
    ds
        Data with inputs and targets.
    spec
        How inputs and targets are drawn from the data.

    Returns
    -------
    xarray.Dataset
        One variable by law, ``[*members, sample]``; relative for :class:`Conserve`, else in the units of the law. For each sum,
        ``reachable_*``: whether a field exists that satisfies it together with all other laws.
    """
    layout = constraints.bind(spec.bind(ds).load())
    x = layout.pack(ds, "inputs", whole_window=True)
    y = layout.pack(ds, "targets", whole_window=True)
    out = _residuals(constraints, layout, x, y)
    sums = [k for k, law in labels(constraints).items() if _sums(law, layout)]
    if not sums:
        return out

    def miss(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        with _backend.float64():
            fx, fy = _tensors(layout, x, y)
            moved = constraints.project(fy, fx, layout)
            rows = [_misses(labels(constraints)[k], moved, fx, layout)[0].reshape(len(x), -1).max(-1) for k in sums]
        return np.stack(rows, axis=-1).reshape(len(x), *(1 for _ in layout.space), len(sums))

    left = _packing.map_samples(miss, [y, x], layout.space, len(sums), "float64", reduce=True)
    for i, k in enumerate(sums):
        met = (left.isel(channel=i) <= TOLERANCE).assign_attrs(long_name=f"whether {k} can hold with the other laws")
        out[f"reachable_{k}"] = met
    return out


def apply(
    constraints: Constraints,
    outputs: xr.Dataset,
    inputs: xr.Dataset | None = None,
    *,
    sample_dim: str = "time",
    members: Any = None,
    levels: Any = None,
    mask: str | None = None,
    refuse: bool = True,
) -> xr.Dataset:
    """Return *outputs* moved onto the laws; other variables stay as they are.

    Parameters
    ----------
    constraints
        Laws by variable name.
    outputs
        Fields of any model.
    inputs
        The state before the step, and sources, at the same positions along *sample_dim* (by position, not by label). Needed
        by laws whose total follows from the inputs.
    sample_dim, members, levels, mask
        As in :class:`physml.FieldSpec`. A Dataset without *sample_dim* is one sample. Sources per time count over the time
        from the labels of the inputs to those of the outputs, or over the step of the inputs where these are the same.

    refuse
        Whether a sum that cannot be reached is an error; otherwise it is missed.

    Raises
    ------
    ValueError
        Where inputs are needed and missing, or a sum cannot be reached together with the other laws: where, and by how much.
    """
    layout, x, y = _aligned(constraints, outputs, inputs, sample_dim, members, levels, mask)

    n = y.sizes[sample_dim]
    which = xr.zeros_like(y.isel(channel=[0]), dtype="int64") + xr.DataArray(np.arange(n), dims=sample_dim)
    which = which.transpose(*y.dims)
    dates = y[sample_dim].values if sample_dim in y.coords else np.arange(n)

    def correct(x: np.ndarray, y: np.ndarray, which: np.ndarray) -> np.ndarray:
        with _backend.float64():
            fx, fy = _tensors(layout, x, y)
            out = constraints.project(fy, fx, layout)
            sample = which.reshape(len(which), -1)[:, 0] if len(which) else np.zeros(0, int)
            for name, law in labels(constraints).items() if refuse else ():
                if _sums(law, layout):
                    _refuse_unreachable(name, law, out, fx, layout, dates[sample])
            return np.concatenate([np.asarray(out[n]) for n in layout.spec.targets], axis=-1).astype(y.dtype)

    moved = _packing.map_samples(correct, [x, y, which], layout.space, y.sizes["channel"], y.dtype)
    moved = moved.assign_coords(y.coords)
    plain = layout.plain()
    fields = plain.unpack(moved, "targets", predicted=True)
    if sample_dim not in outputs.dims:
        fields = fields.isel({sample_dim: 0}, drop=True)
    corrected = {}
    for name, field in fields.data_vars.items():
        before = outputs[name]
        if mask is not None:  # masked cells keep what they hold
            field = field.where(field.notnull(), before)
        kind = before.dtype if np.issubdtype(before.dtype, np.floating) else field.dtype
        corrected[name] = field.transpose(*before.dims).astype(kind).assign_attrs(before.attrs)
    return outputs.assign(corrected)


def report(constraints: Constraints, outputs: xr.Dataset, inputs: xr.Dataset | None = None, **roles: Any) -> xr.Dataset:
    """Return how far fields are from the laws, where, and what each law does to each variable.

    Returns
    -------
    xarray.Dataset
        By law, before and after the projection: the greatest residual in every sample (``*_before``, ``*_after``: for a law over
        the whole grid, its drift curve) and a map of the mean absolute residual (``map_*_before``). By variable: the rms change
        (``moved_*``), and with several laws that by each law alone (``moved_*_by_*``). Lazy where the data are.
    """
    layout, x, y = _aligned(constraints, outputs, inputs, **roles)
    after = apply(constraints, outputs, inputs, **roles, refuse=False)
    y_after = _aligned(constraints, after, inputs, **roles)[2]
    stages = {"before": _residuals(constraints, layout, x, y), "after": _residuals(constraints, layout, x, y_after)}
    out = xr.Dataset({f"{n}_{stage}": da for stage, found in stages.items() for n, da in found.data_vars.items()})
    out = out.merge(_maps(constraints, layout, x, y), compat="no_conflicts")
    each = {"": after}
    if len(constraints) > 1:
        alone = {k: copy.copy(constraints) for k in labels(constraints)}
        for k, law in labels(constraints).items():
            alone[k].laws, alone[k]._planned = (law,), {}
            mine = set(law.mentions())
            alone[k].costs = {n: c for n, c in constraints.costs.items() if n in mine}
            alone[k].exclude = {n: e for n, e in constraints.exclude.items() if n in mine}
            each[f"_by_{k}"] = _moved_by(alone[k], outputs, inputs, roles)
    for suffix, fields in each.items():
        for name in layout.spec.targets:
            if name not in fields:
                continue
            change = (fields[name].astype("float64") - outputs[name]) ** 2
            rms: xr.DataArray = change.mean([d for d in layout.space if d in change.dims]) ** 0.5
            out[f"moved_{name}{suffix}"] = rms.assign_attrs(
                units=outputs[name].attrs.get("units", "1"),
                long_name=f"rms change of {name} by {suffix[4:] or 'the laws'}",
            )
    return out


def _moved_by(alone: Constraints, outputs: xr.Dataset, inputs: xr.Dataset | None, roles: dict[str, Any]) -> xr.Dataset:
    """Return the variables that one law changes."""
    moved = apply(alone, outputs, inputs, **roles, refuse=False)
    (law,) = alone
    return moved[[n for n in law.mentions() if n in outputs]]


def _maps(constraints: Constraints, layout: Layout, x: xr.DataArray, y: xr.DataArray) -> xr.Dataset:
    """Return the mean absolute residual of every law on the grid, over samples, members and levels."""
    names = labels(constraints)

    def measure(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        with _backend.float64():
            fx, fy = _tensors(layout, x, y)
            found = [_on_grid(law, fy, fx, layout) for law in names.values()]
        return np.stack(found, axis=-1)

    values = _packing.map_samples(measure, [y, x], layout.space, len(names), "float64")
    out = {}
    for i, (k, law) in enumerate(names.items()):
        field = values.isel(channel=i)
        field = field.mean([d for d in field.dims if d not in layout.space])
        out[f"map_{k}_before"] = field.assign_attrs(
            units=_units(law, layout), long_name=f"mean absolute residual of {law!r}"
        )
    return xr.Dataset(out)


def _on_grid(law: Constraint, outputs: Any, inputs: Any, layout: Layout) -> np.ndarray:
    """Return the absolute residual of a law, ``[sample, *space]``: the mean over levels, leads and parts."""
    rows = int(next(iter(outputs.values())).shape[0])
    total = np.zeros((rows, *layout.shape))
    found = _sums(law, layout)
    for one in found:
        have, want, size = law_sides(one, outputs, inputs, layout)
        residual = np.abs(have - want) / (np.where(size > 0, size, 1.0) if law.relative else 1.0)
        spread = np.stack([np.broadcast_to(one.groups.share(r), (*layout.shape, one.depth)) for r in residual])
        total += spread.mean(-1).reshape(rows, -1, *layout.shape).mean(1) / len(found)
    if not found:
        total += np.abs(np.asarray(law.residual(outputs, inputs, layout))).mean(-1)
    return total


def _misses(
    law: Constraint, outputs: Any, inputs: Any, layout: Layout
) -> tuple[np.ndarray, Any, np.ndarray, np.ndarray]:
    """Return by how much the worst of the sums of a constraint misses, relatively, that sum, and both its sides."""
    worst: Any = None
    for one in _sums(law, layout):
        have, want, size = law_sides(one, outputs, inputs, layout)
        miss = np.abs(have - want) / np.where(size > 0, size, 1.0)
        if worst is None or miss.max(initial=0.0) > worst[0].max(initial=0.0):
            worst = miss, one, have, want
    return worst


def _refuse_unreachable(
    name: str, law: Constraint, outputs: Any, inputs: Any, layout: Layout, dates: np.ndarray
) -> None:
    """Raise where a sum is missed after the projection: nothing within the other laws satisfies it."""
    miss, one, have, want = _misses(law, outputs, inputs, layout)
    if not miss.max(initial=0.0) > TOLERANCE:
        return
    rows = miss.reshape(len(dates), -1).max(-1)
    at = np.unravel_index(miss.argmax(), miss.shape)
    place = [f"{layout.spec.sample_dim}={dates[at[0] // (len(miss) // len(dates))]}"]
    if one.groups.labels is not None:
        place.append(f"group {at[1]}")
    else:
        for axis, dim in enumerate(layout.space):
            if axis not in one.groups.axes:
                i = int(at[1 + axis]) * one.groups.blocks.get(axis, 1)
                place.append(f"{dim}={layout.statics[dim].values[i] if dim in layout.statics else i}")
    raise ValueError(
        describe(
            f"{name} cannot be satisfied together with the other laws at {', '.join(place)}",
            expected=f"a sum of {want[at]:.6g}{f' {one.units}' if one.units else ''}",
            received=f"{have[at]:.6g} at the nearest, {abs(have[at] - want[at]):.3g} away; "
            f"missed in {(rows > TOLERANCE).sum()} of {len(rows)} samples",
            remedy="look at the total and the bounds: inputs, sources, equals; check(ds, spec) tells where data break them",
        )
    )


def _aligned(
    constraints: Constraints,
    outputs: xr.Dataset,
    inputs: xr.Dataset | None,
    sample_dim: str = "time",
    members: Any = None,
    levels: Any = None,
    mask: str | None = None,
) -> tuple[Layout, xr.DataArray, xr.DataArray]:
    """Return the layout of outputs and inputs matched by position, and both packed."""
    said = list(dict.fromkeys(n for law in constraints for n in law.mentions()))
    moving = [ds for ds in (inputs, outputs) if ds is not None]
    weights = [
        n
        for law in constraints
        for n in law.factors()
        if any(n in ds.variables and sample_dim in ds[n].dims for ds in moving)
    ]
    still = {str(n) for ds in moving for n in ds.variables if sample_dim in ds.dims and sample_dim not in ds[n].dims}
    names = [n for n in said if n in outputs.variables and n not in still] or said
    known = [n for n in said if n not in names and n not in still]
    needed = list(dict.fromkeys([*(n for law in constraints for n in law.needs()), *known, *weights]))
    missing = [n for n in needed if inputs is None and (n in names or n not in outputs.variables)]
    if missing:
        raise ValueError(
            describe(
                f"the laws follow from inputs ({', '.join(missing)}) that were not given",
                expected="inputs=Dataset with the state before the step",
                received="None",
                remedy="pass inputs, or equals=... to the budget",
            )
        )
    outputs = _as_samples(outputs, names, sample_dim)
    before = outputs if inputs is None else _as_samples(inputs, needed, sample_dim)
    if outputs.sizes[sample_dim] != before.sizes[sample_dim]:
        raise ValueError(
            describe(
                f"inputs and outputs differ in length along {sample_dim!r}",
                expected=f"{outputs.sizes[sample_dim]} as in the outputs",
                received=before.sizes[sample_dim],
                remedy="select the inputs that belong to the outputs, one by one",
            )
        )
    spec = FieldSpec(needed or names, names, sample_dim, 0, 1, levels, members, mask)
    merged = before.assign({n: outputs[n] for n in names if n not in before})
    static = [n for n in outputs.data_vars if n not in merged and sample_dim not in outputs[n].dims]
    layout = spec.bind(merged.assign({n: outputs[n] for n in static})).load()
    kinds = {n: np.result_type(v.dtype, outputs[n].dtype) for n, v in layout.variables.items() if n in names}
    layout = replace(
        layout,
        variables={**layout.variables, **{n: replace(layout.variables[n], dtype=str(k)) for n, k in kinds.items()}},
        step=_step_between(before, outputs, sample_dim) or layout.step,
    )
    layout = constraints.bind(layout)
    plain = layout.plain()
    return layout, plain.pack(merged, "inputs"), plain.pack(outputs, "targets")


def _as_samples(ds: xr.Dataset, names: list[str], sample_dim: str) -> xr.Dataset:
    """Return a Dataset whose *names* have a sample dimension; what lacks it is one sample."""
    for name in names:
        grid.variable(ds, name, "field")
    if sample_dim in ds.dims:
        return ds
    plain = ds.drop_vars(sample_dim, errors="ignore")
    label = {sample_dim: [ds[sample_dim].values]} if sample_dim in ds.coords else {}
    return plain.assign({n: plain[n].expand_dims(sample_dim) for n in names}).assign_coords(label)


def _step_between(before: xr.Dataset, after: xr.Dataset, sample_dim: str) -> TimeStep | None:
    """Return the step from each input to its output, where the labels tell one."""
    if sample_dim not in before.coords or sample_dim not in after.coords:
        return None
    start, end = before[sample_dim].values, after[sample_dim].values
    if start.dtype != end.dtype or (start == end).any():
        return None
    step = find_step(xr.DataArray(np.array([start[0], end[0]]), dims=sample_dim))
    if step is None or not step.size > 0:
        return None
    found = positions(end, shift(start, step, 1), step)
    return step if (found == np.arange(end.size)).all() else None


def _tensors(layout: Layout, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
    x = fill_masked(x, layout.valid("inputs"), layout, "inputs")
    y = fill_masked(y, layout.valid("targets"), layout, "targets")
    return layout.split(ops.convert_to_tensor(x), "inputs"), layout.split(ops.convert_to_tensor(y), "targets")


def _residuals(constraints: Constraints, layout: Layout, x: xr.DataArray, y: xr.DataArray) -> xr.Dataset:
    names = list(labels(constraints))

    def measure(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        with _backend.float64():
            fx, fy = _tensors(layout, x, y)
            found = [np.abs(np.asarray(r)) for r in constraints.residuals(fy, fx, layout).values()]
        rows = [r.reshape(len(x), -1).max(-1) if len(x) else np.zeros(0) for r in found]
        return np.stack(rows, axis=-1).astype("float64").reshape(len(x), *(1 for _ in layout.space), len(names))

    values = _packing.map_samples(measure, [y, x], layout.space, len(names), "float64", reduce=True)
    out = {}
    for i, (name, law) in enumerate(zip(names, constraints, strict=True)):
        out[name] = values.isel(channel=i).assign_attrs(
            units=_units(law, layout),
            long_name=f"greatest {'relative ' if law.relative else ''}residual of {law!r}",
        )
    return xr.Dataset(out)


def _sums(law: Constraint, layout: Layout) -> tuple[LinearLaw, ...]:
    """Return the sums of a constraint that follow from inputs alone."""
    return () if law.passes > 1 else linear_laws(law, layout)


def _units(law: Constraint, layout: Layout) -> str:
    """Return the units of the residual of a law."""
    found = _sums(law, layout)
    if law.relative:
        return "1"
    known = layout.units(law.name) if law.name in layout.variables else None
    return (found[0].units if found else known) or "1"
