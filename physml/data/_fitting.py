"""How a Scaling is fitted: all statistics of all variables from one pass, lazily, and what they must not be."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from physml import _packing, calendar
from physml._errors import describe
from physml._progress import computing
from physml.data import _quantiles
from physml.data._methods import Method
from physml.data._moments import COUNT, GREATEST, LEAST, MEAN, MISSING, OUTSIDE, SQUARES, moments, ordered
from physml.fields import Role
from physml.layout import Layout
from physml.timeaxis import TimeStep, positions, shift, step_of

Numbers = dict[str, np.ndarray]


class Fitted(NamedTuple):
    """Offsets, scales and changes by variable, over all samples and by month; see :class:`physml.Scaling`."""

    mean: Numbers
    std: Numbers
    increment: Numbers
    monthly: dict[str, Numbers] | None


class _Task(NamedTuple):
    """One set of statistics: of a variable or of its change, over samples in groups."""

    da: xr.DataArray
    valid: xr.DataArray
    groups: np.ndarray
    n: int
    depth: int


def fit(
    layout: Layout, ds: xr.Dataset, methods: Mapping[str, Method], months: np.ndarray | None, progress: bool
) -> Fitted:
    """Return the statistics; *months* [1 to 12] of the samples where statistics are wanted by month."""
    import dask

    sample = layout.spec.sample_dim
    axis = ds[sample] if sample in ds.coords else None
    pair = cache(partial(pairs, axis, layout.step))
    tasks: dict[Any, _Task] = {}
    for name in methods:
        tasks |= {(name, *key): task for key, task in _tasks(layout, ds, name, methods[name], months, pair).items()}
    lazy: dict[Any, Any] = {
        k: moments(*t, method=methods[k[0]] if k[1] == "values" else None) for k, t in tasks.items()
    }
    robust = [k for k in tasks if methods[k[0]].name == "robust" and k[1] == "values"]
    small = {k for k in robust if ds[k[0]].variable._in_memory or tasks[k].da.size <= _quantiles.EXACT}
    whole = {n: _ordered(layout, ds, n, whole=True) for n in {k[0] for k in small}}
    with computing("scaling", show=progress):
        found, quartiles = dask.compute(
            lazy, {k: _quantiles.exact(*tasks[k]._replace(da=whole[k[0]])) for k in robust if k in small}
        )
    for name in methods:
        _check(layout, name, methods[name], found[name, "values", None])
    large = {k: _quantiles.Histogram(*tasks[k], found=found[k]) for k in robust if k not in small}
    if large:
        with computing("quartiles", show=progress):
            (counts,) = dask.compute({k: h.coarse() for k, h in large.items()})
        with computing("quartiles, refined", show=progress):
            (counts,) = dask.compute({k: h.fine(counts[k]) for k, h in large.items()})
        quartiles |= {k: h.values(counts[k]) for k, h in large.items()}
    return _gather(layout, methods, found, quartiles, months is not None)


def _tasks(
    layout: Layout, ds: xr.Dataset, name: str, method: Method, months: np.ndarray | None, pair: Any
) -> dict[tuple[str, int | None], _Task]:
    """Return the statistics of one variable by kind ("values", "change", "values by month", ...) and offset."""
    spec, known = layout.spec, layout.variables[name]
    sample = spec.sample_dim
    da, depth = _ordered(layout, ds, name), len(known.levels)
    valid = _valid(layout, "inputs" if name in spec.inputs else "targets", name)
    found: dict[tuple[str, int | None], _Task] = {
        ("values", None): _Task(da, valid, np.zeros(len(da), int), 1, depth),
    }
    if sample not in known.dims:
        return found
    by_month = is_monthly(layout, name) and months is not None
    if by_month:
        assert months is not None
        for offset in offsets(layout, name):
            earlier, later = pair(len(da), offset)
            groups = np.full(len(da), -1)
            groups[later] = months[earlier] - 1
            found["values", offset] = _Task(da, valid, groups, 12, depth)
    if has_increment(layout, name):
        if method.nonlinear:
            transformed = da.data.map_blocks(_transformed, method, dtype="float64", meta=np.empty((0,) * da.ndim))
            state = da.variable.copy(data=transformed)
        else:
            state = da.variable.astype("float64")
        for offset in spec.offsets("targets", name):
            earlier, later = pair(len(da), offset)
            # Neighbouring blocks are needed for the difference; the graph still reads every block once.
            change = xr.DataArray(state.isel({sample: later}) - state.isel({sample: earlier}))
            found["change", offset] = _Task(change, valid, np.zeros(len(change), int), 1, depth)
            if by_month:
                assert months is not None
                found["change by month", offset] = _Task(change, valid, months[earlier] - 1, 12, depth)
    return found


def _transformed(x: np.ndarray, method: Method) -> np.ndarray:
    return method.forward(x.astype("float64"), 0.0, np)


def _ordered(layout: Layout, ds: xr.Dataset, name: str, *, whole: bool = False) -> xr.DataArray:
    da = _packing.select_levels(layout, _packing.ready(ds[name], layout.spec.sample_dim), name)
    return ordered(da, layout.spec.sample_dim, list(layout.variables[name].levels), whole=whole)


def pairs(axis: xr.DataArray | None, step: TimeStep | None, n: int, offset: int) -> tuple[Any, Any]:
    """Return the positions of the samples that have a value *offset* steps on, and the positions of those values.

    Slices where the axis is uniform or has no step, else arrays: no pair reaches over a gap.

    Examples
    --------
    >>> pairs(xr.DataArray([0, 1, 5, 6], dims="t"), TimeStep("number", 1.0), 4, 1)
    (array([0, 2]), array([1, 3]))
    """
    size = max(0, n - abs(offset))
    earlier, later = (slice(start, start + size) for start in (max(0, -offset), max(0, offset)))
    if axis is None or offset == 0 or (step := step_of(axis, step)) is None:
        return earlier, later
    at = positions(axis.values, shift(axis.values, step, offset), step)
    there = np.flatnonzero(at >= 0)
    if np.array_equal(there, np.arange(n)[earlier]) and np.array_equal(at[there], np.arange(n)[later]):
        return earlier, later
    return there, at[there]


def offsets(layout: Layout, name: str) -> tuple[int, ...]:
    """Return the offsets of a variable among inputs and targets, increasing [steps]."""
    spec = layout.spec
    roles: tuple[Role, ...] = ("inputs", "targets")
    return tuple(sorted({o for r in roles if name in getattr(spec, r) for o in spec.offsets(r, name)}))


def has_increment(layout: Layout, name: str) -> bool:
    """Tell whether a variable is a target that changes from an input at offset 0."""
    spec = layout.spec
    if name not in spec.inputs or name not in spec.targets:
        return False
    return 0 in spec.offsets("inputs", name) and 0 not in spec.offsets("targets", name)


def is_monthly(layout: Layout, name: str) -> bool:
    """Tell whether a variable may have statistics by month: static fields and the calendar itself have none."""
    sample = layout.spec.sample_dim
    return sample in layout.variables[name].dims and not calendar.virtual([name], sample)


def _valid(layout: Layout, role: Role, name: str) -> xr.DataArray:
    known = layout.variables[name]
    where = layout.where(role, name, layout.spec.offsets(role, name)[0])
    data = layout.valid(role)[..., where].reshape((*layout.shape, *(len(x) for x in known.levels.values())))
    valid = xr.DataArray(data, dims=(*layout.space, *known.levels))
    # A variable without some space dimension is needed where any cell along it is.
    return valid.any([d for d in layout.space if d not in known.dims])


def _check(layout: Layout, name: str, method: Method, found: np.ndarray) -> None:
    """Refuse a variable that is missing on valid cells, or outside the domain of its transform."""
    if missing := int(found[MISSING].sum()):
        raise ValueError(
            describe(
                f"Scaling.fit: {name!r} is missing on valid cells",
                expected="a value on every cell of the mask"
                if layout.spec.mask
                else "no missing values (there is no mask)",
                received=f"{missing} missing or infinite values",
                remedy="name a mask in the FieldSpec (physml.grid.finite_mask makes one), or fill the gaps",
            )
        )
    if outside := int(found[OUTSIDE].sum()):
        raise ValueError(
            describe(
                f"Scaling.fit: {name!r} has values outside the domain of method {method.name!r}",
                expected=method.domain,
                received=f"{outside} of {int(found[COUNT].sum())} values",
                remedy="clip or mask them, or choose 'standard'"
                if method.eps
                else "'log:eps' with eps > 0 allows zeros; or choose 'standard'",
            )
        )


def _scales(
    method: Method, found: np.ndarray, quartiles: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offset and scale ``[group, *levels]``, and whether the scale is more than rounding."""
    if method.name == "none":
        return np.zeros_like(found[MEAN]), np.ones_like(found[MEAN]), np.ones_like(found[MEAN], dtype=bool)
    if method.name == "minmax":
        offset, scale = found[LEAST], found[GREATEST] - found[LEAST]
    elif method.name == "robust":
        assert quartiles is not None
        offset, scale = quartiles[1], quartiles[2] - quartiles[0]
    else:
        offset, scale = found[MEAN], np.sqrt(found[SQUARES] / np.maximum(found[COUNT], 1))
    return offset, scale, scale > _floor(found)


def _floor(found: np.ndarray) -> np.ndarray:
    largest = np.maximum(np.abs(found[LEAST]), np.abs(found[GREATEST]))
    return 1e-12 * np.maximum(largest, np.finfo("float64").tiny)


def _gather(
    layout: Layout,
    methods: Mapping[str, Method],
    found: Mapping[Any, Any],
    quartiles: Mapping[Any, Any],
    by_month: bool,
) -> Fitted:
    out = Fitted({}, {}, {}, {"mean": {}, "std": {}, "increment": {}} if by_month else None)
    for name, method in methods.items():
        key = (name, "values", None)
        offset, scale, varies = (a[0].reshape(-1) for a in _scales(method, found[key], quartiles.get(key)))
        if not varies.all():
            raise ValueError(_constant(name, f"{scale.min():g} at level {int(scale.argmin())}, mean {offset.min():g}"))
        out.mean[name], out.std[name] = offset, scale
        leads = layout.spec.offsets("targets", name)
        floor = _floor(found[key]).reshape(-1)
        monthly = out.monthly is not None and is_monthly(layout, name)
        if has_increment(layout, name):
            rows = _changes([found[name, "change", o] for o in leads])[0]
            months = _changes([found[name, "change by month", o] for o in leads]) if monthly else rows
            if (rows > floor).all() and (months > floor).all():
                out.increment[name] = rows
                if out.monthly is not None and monthly:
                    out.monthly["increment"][name] = months
        if out.monthly is not None and monthly:
            tables = [_by_month(name, method, o, found, quartiles) for o in offsets(layout, name)]
            for what, parts in zip(("mean", "std"), zip(*tables, strict=True), strict=True):
                out.monthly[what][name] = np.stack(parts, axis=1)
    return out


def _changes(found: list[np.ndarray]) -> np.ndarray:
    """Return the standard deviation of changes as ``[group, offset, level]``."""
    spread = [np.sqrt(f[SQUARES] / np.maximum(f[COUNT], 1)) for f in found]
    return np.stack([s.reshape(len(s), -1) for s in spread], axis=1)


def _by_month(
    name: str, method: Method, offset: int, found: Mapping[Any, Any], quartiles: Mapping[Any, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return offset and scale ``[12, level]`` of a variable at an offset."""
    key = (name, "values", offset)
    counts = found[key][COUNT].reshape(12, -1)
    if absent := [m + 1 for m in range(12) if not counts[m].any()]:
        raise ValueError(
            describe(
                f"Scaling.fit by month: the training data have no sample in month {absent[0]}"
                + (f" with {name!r} {offset:+d} steps from it" if offset else ""),
                expected="samples in each of the 12 months",
                received=f"none in {', '.join(map(str, absent))}",
                remedy="train on whole years, or pass by=None",
            )
        )
    centre, scale, varies = (a.reshape(12, -1) for a in _scales(method, found[key], quartiles.get(key)))
    if not varies.all():
        month, level = (int(i) for i in np.argwhere(~varies)[0])
        raise ValueError(_constant(name, f"{scale[month, level]:g} in month {month + 1} at level {level}"))
    return centre, scale


def _constant(name: str, received: str) -> str:
    return describe(
        f"Scaling.fit: {name!r} does not vary over the training data",
        expected="a standard deviation (range, interquartile range) above zero",
        received=received,
        remedy="drop the variable or the level, or train on a longer period",
    )
