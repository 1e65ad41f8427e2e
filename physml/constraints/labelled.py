"""Constraints on Datasets: any model's output corrected, data checked, and what each law changed; lazy where the data are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from keras import ops

from physml import _backend, _packing, grid
from physml._errors import describe
from physml.data.batches import fill_masked
from physml.fields import FieldSpec
from physml.layout import Layout
from physml.timeaxis import TimeStep, find_step, positions, shift

if TYPE_CHECKING:
    from physml.constraints.combine import Constraints


def check(constraints: Constraints, ds: xr.Dataset, spec: FieldSpec) -> xr.Dataset:
    """Return the greatest residual of every law in every sample of the data themselves.

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
        One variable by law, ``[*members, sample]``; relative for budgets, in the units of the variable for bounds.
    """
    layout = constraints.bind(spec.bind(ds).load())
    x = layout.pack(ds, "inputs", whole_window=True)
    y = layout.pack(ds, "targets", whole_window=True)
    return _residuals(constraints, layout, x, y)


def apply(
    constraints: Constraints,
    outputs: xr.Dataset,
    inputs: xr.Dataset | None = None,
    *,
    sample_dim: str = "time",
    members: Any = None,
    levels: Any = None,
    mask: str | None = None,
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

    Raises
    ------
    ValueError
        Where inputs are needed and missing, or a total cannot be reached within the bounds.
    """
    layout, x, y = _aligned(constraints, outputs, inputs, sample_dim, members, levels, mask)

    def correct(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        with _backend.float64():
            fx, fy = _tensors(layout, x, y)
            out = constraints.project(fy, fx, layout)
            for name, residual in constraints.residuals(out, fx, layout).items():
                rows = np.abs(np.asarray(residual)).reshape(len(x), -1).max(-1, initial=0.0)
                if rows.max(initial=0.0) > 1e-5:
                    raise ValueError(
                        describe(
                            f"{name} cannot be satisfied within the bounds",
                            expected="a total between the sums of the lower and the upper bounds",
                            received=f"a residual of {rows.max():.3g} after the projection in {(rows > 1e-5).sum()} of "
                            f"{len(rows)} samples",
                            remedy="look at the total: inputs, sources and equals",
                        )
                    )
            return np.concatenate([np.asarray(out[n]) for n in layout.spec.targets], axis=-1).astype(y.dtype)

    moved = _packing.map_samples(correct, [x, y], layout.space, y.sizes["channel"], y.dtype)
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
    """Return residuals ``*_before`` and ``*_after`` by law and sample, and the rms change ``moved_*`` of every variable."""
    layout, x, y = _aligned(constraints, outputs, inputs, **roles)
    after = apply(constraints, outputs, inputs, **roles)
    y_after = _aligned(constraints, after, inputs, **roles)[2]
    stages = {"before": _residuals(constraints, layout, x, y), "after": _residuals(constraints, layout, x, y_after)}
    out = xr.Dataset({f"{n}_{stage}": da for stage, found in stages.items() for n, da in found.data_vars.items()})
    for name in layout.spec.targets:
        change = (after[name].astype("float64") - outputs[name]) ** 2
        dims = [d for d in layout.space if d in change.dims]
        rms: xr.DataArray = change.mean(dims) ** 0.5
        out[f"moved_{name}"] = rms.assign_attrs(
            units=outputs[name].attrs.get("units", "1"), long_name=f"rms change of {name} by the laws"
        )
    return out


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
    names = list(dict.fromkeys(law.name for law in constraints))
    needed = list(dict.fromkeys(n for law in constraints for n in law.needs()))
    if needed and inputs is None:
        raise ValueError(
            describe(
                f"the laws follow from inputs ({', '.join(needed)}) that were not given",
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
    still = [n for n in outputs.data_vars if n not in merged and sample_dim not in outputs[n].dims]
    layout = spec.bind(merged.assign({n: outputs[n] for n in still})).load()
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
    from physml.constraints.combine import label

    names = [label(law) for law in constraints]

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
            units="1" if law.relative else (layout.units(law.name) or "1"),
            long_name=f"greatest {'relative ' if law.relative else ''}residual of {law!r}",
        )
    return xr.Dataset(out)
