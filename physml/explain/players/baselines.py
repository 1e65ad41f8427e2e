"""Baselines by name: what stands in for the groups that are absent, in physical units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import closest, describe, refuse
from physml.explain.players._baseline import Baseline as Baseline
from physml.explain.players._baseline import clean as clean
from physml.explain.players._baseline import dated
from physml.explain.players._selecting import layout_of
from physml.timeaxis import as_label, in_steps

if TYPE_CHECKING:
    from physml.data.scaling import Scaling

By = Literal["month", "season", "dayofyear", "hour"]
PARTS_OF_THE_DATE = ("month", "season", "dayofyear", "hour")
"""What a climatology may be made by: the names that xarray gives them in ``.dt``."""


def climatology(ds: xr.Dataset, layout: Any, by: By | None = None) -> Baseline:
    """Return the mean input over time and members, or one mean for each calendar month.

    Sums run in float64, in one pass over lazy data. A sample is compared with the climatology of its own month.

    Parameters
    ----------
    ds
        Data to average, usually the training period.
    layout
        Layout of the inputs, or a FieldModel.
    by
        ``"month"``: by calendar month of the sample (offset 0); or ``"season"``, ``"dayofyear"``, ``"hour"``. None: one mean.

    Raises
    ------
    ValueError
        For another *by*, and where valid cells are missing in *ds*.

    Examples
    --------
    >>> from physml.fields import FieldSpec
    >>> ds = xr.Dataset({"sst": (("time", "x"), [[1.0, 5.0], [3.0, 5.0]])}, {"time": [0, 1]})
    >>> climatology(ds, FieldSpec("sst", "sst").bind(ds)).rows[..., 0]
    array([[2., 5.]])
    """
    layout = layout_of(layout, what="climatology")
    if by is not None and by not in PARTS_OF_THE_DATE:
        refuse(
            f"by is unknown{closest(str(by), PARTS_OF_THE_DATE)}",
            f"None or one of {', '.join(PARTS_OF_THE_DATE)}",
            repr(by),
            "pass by='month'",
        )
    packed = layout.pack(ds, "inputs")
    sample = layout.spec.sample_dim
    over = [d for d in packed.dims if d not in (*layout.space, "channel")]
    name, keys, parts = "climatology", None, [packed]
    if by is not None:
        name, every = f"climatology by {by}", dated(packed[sample], by, f"climatology by {by}")
        keys = tuple(sorted(set(every)))
        parts = [packed.isel({sample: [i for i, k in enumerate(every) if k == key]}) for key in keys]
    means = [part.mean(over, dtype="float64", skipna=False) for part in parts]
    rows = xr.concat(means, "row", coords="minimal", compat="override").transpose("row", ...).values
    return Baseline(name, clean(rows, layout, lambda row: name), keys, by or "month")


def reference_period(ds: xr.Dataset, layout: Any, period: slice | Sequence[Any], by: By | None = None) -> Baseline:
    """Return the climatology of a period, such as 1961 to 1990.

    Parameters
    ----------
    ds
        Data that hold the period.
    layout
        Layout of the inputs, or a FieldModel.
    period
        First and last label, both included: ``slice("1961", "1990")``.
    by
        As for :func:`climatology`.

    Returns
    -------
    Baseline
        Named by the first and last sample that it was made of.

    Raises
    ------
    ValueError
        Where *ds* holds no sample of the period, or *period* does not fit its labels.
    """
    layout = layout_of(layout, what="reference_period")
    dim = layout.spec.sample_dim
    axis = grid.variable(ds, dim, "sample coordinate")
    try:
        first, last = ends = (period.start, period.stop) if isinstance(period, slice) else tuple(period)
        index = axis.to_index()
        inside = index.slice_indexer(*(None if e is None else as_label(index, e) for e in (first, last)))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            describe(
                "reference_period: period does not fit the axis",
                expected=f"first and last label of type {axis.dtype}",
                received=period,
                remedy="slice('1961', '1990') for dates, numbers for numbers",
            )
        ) from error
    part = ds.isel({dim: inside})
    if not part.sizes[dim]:
        refuse(
            "reference_period holds no time of the data",
            f"labels between {axis.values[0]} and {axis.values[-1]}",
            f"{ends[0]} to {ends[1]}",
            "correct the period",
        )
    made = climatology(part, layout, by)
    said = [_label(part[dim][i]) for i in (0, -1)]
    return replace(made, name=f"reference period {said[0]} to {said[1]}" + (f" by {by}" if by else ""))


def zero(layout: Any) -> Baseline:
    """Return inputs of zero, in physical units: meaningful for anomalies, rarely for anything else."""
    layout = layout_of(layout, what="zero")
    return Baseline("zero", np.zeros((1, *layout.shape, len(layout.inputs))))


def normalised_zero(scaling: Scaling | Any) -> Baseline:
    """Return the inputs that a scaling turns into zeros: the means of the training data, by month where it scales by month.

    Where the scaling is by month, the input that tells it the month stays that of the sample.

    Parameters
    ----------
    scaling
        From ``Scaling.fit``, or a FieldModel, which holds one.

    Raises
    ------
    TypeError
        Where there is no scaling.
    """
    from physml.data.scaling import Scaling

    found = scaling if isinstance(scaling, Scaling) else getattr(scaling, "scaling", None)
    if not isinstance(found, Scaling):
        raise TypeError(
            describe(
                "normalised_zero needs a scaling",
                expected="a Scaling, or a FieldModel",
                received=type(scaling).__name__,
                remedy="pass Scaling.fit(train, spec), or zero(layout) for zero in physical units",
            )
        )
    layout = found.layout
    rows = (found.vector("mean", "inputs")[None] if found.by is None else found.table("mean", "inputs")).copy()
    scale = found.vector("std", "inputs")
    for name in layout.spec.inputs:
        at = layout.where("inputs", name)
        rows[:, at] = found.method(name).inverse(rows[:, at], scale[at], np)
    keys = None
    if found.by is not None:
        keys = tuple(range(1, 13))
        rows[:, layout.where("inputs", f"{layout.spec.sample_dim}.month", 0).start] = keys
    values = np.where(layout.valid("inputs"), rows.reshape(len(rows), *(1 for _ in layout.space), -1), 0.0)
    return Baseline("normalised zero" + ("" if keys is None else " by month"), values, keys)


def samples(ds: xr.Dataset, layout: Any, n: int, seed: int = 0) -> Baseline:
    """Return *n* different samples of *ds*; the value of a coalition is the mean over them.

    Raises
    ------
    ValueError
        Where *ds* holds fewer than *n* samples, or *n* is not positive.
    """
    layout = layout_of(layout, what="samples")
    packed = layout.pack(ds, "inputs")
    outer = packed.dims[: packed.get_axis_num(layout.spec.sample_dim) + 1]
    sizes = [packed.sizes[d] for d in outer]
    if not isinstance(n, int | np.integer) or not 1 <= n <= np.prod(sizes):
        refuse("n samples cannot be drawn", f"1 to {np.prod(sizes)}", n, "pass fewer, or data with more samples")
    if not isinstance(seed, int | np.integer) or seed < 0:
        refuse("samples: seed starts no draw", "a whole number >= 0", repr(seed), "seed=0")
    drawn = np.sort(np.random.default_rng(seed).choice(np.prod(sizes), n, replace=False))
    where = {d: xr.DataArray(i, dims="row") for d, i in zip(outer, np.unravel_index(drawn, sizes), strict=True)}
    name = f"{n} samples (seed {seed})"
    rows = packed.drop_vars(list(packed.coords)).isel(where).transpose("row", ...).values
    return Baseline(name, clean(rows, layout, lambda row: name))


def persistence(ds: xr.Dataset, layout: Any, lag: int | str = 1) -> Baseline:
    """Return a baseline in which absent inputs hold what they were *lag* steps before: what the change since then brought.

    Every sample has a row of its own, taken from the data that are explained: these must begin *lag* steps before the first
    sample; earlier samples are left out.

    Parameters
    ----------
    ds
        Data of which one sample stands as an example.
    layout
        Layout of the inputs, or a FieldModel.
    lag
        Steps, or a length of time such as ``"1MS"`` or ``"5D"``.

    Raises
    ------
    ValueError
        Where *lag* is no positive whole number of steps.
    """
    layout = layout_of(layout, what="persistence")
    asked = in_steps(lag, layout.step, "persistence: lag") if isinstance(lag, str) else lag
    if isinstance(asked, bool) or not isinstance(asked, int | np.integer) or asked < 1:
        refuse("persistence: lag is no step back", "1 or more steps", repr(lag), "lag=1")
    low, high = layout.spec.window("inputs")
    one = layout.pack(ds.isel({layout.spec.sample_dim: slice(0, max(high, 0) - min(low, 0) + 1)}), "inputs")
    outer = one.dims[: one.get_axis_num(layout.spec.sample_dim) + 1]
    name = f"persistence over {lag if isinstance(lag, str) else f'{asked} step' + 's' * (asked > 1)}"
    row = one.isel({d: 0 for d in outer}).values[None]
    return Baseline(name, clean(row, layout, lambda row: name), lag=int(asked))


def given(rows: np.ndarray | xr.Dataset, layout: Any, name: str = "given") -> Baseline:
    """Return reference inputs of one's own; the value of a coalition is the mean over them.

    Parameters
    ----------
    rows
        ``[row, *space, channel]`` or one row ``[*space, channel]``; a Dataset with the inputs along the sample dimension; or
        one without it: a state that every offset holds.
    layout
        Layout of the inputs, or a FieldModel.
    name
        How the results shall call it.

    Raises
    ------
    ValueError
        Where the shape is another, and where valid cells are missing.

    Examples
    --------
    >>> from physml.fields import FieldSpec
    >>> ds = xr.Dataset({"sst": (("time", "x"), [[1.0, 5.0], [3.0, 5.0]])}, {"time": [0, 1]})
    >>> given(ds.isel(time=1, drop=True), FieldSpec("sst", "sst").bind(ds), "last state").rows[..., 0]
    array([[3., 5.]])
    """
    layout = layout_of(layout, what="given")
    shape = (*layout.shape, len(layout.inputs))
    if isinstance(rows, xr.Dataset):
        dim = layout.spec.sample_dim
        if not any(dim in rows[n].dims for n in layout.spec.inputs if n in rows):
            low, high = layout.spec.window("inputs")
            state = rows.drop_vars(dim, errors="ignore")
            wanted = [n for n in layout.spec.inputs if n in state and dim in layout.variables[n].dims]
            length = max(high, 0) - min(low, 0) + 1
            rows = state.assign({n: state[n].expand_dims({dim: length}) for n in wanted})
        packed = layout.pack(rows, "inputs")
        values = packed.values.reshape(-1, *shape)
    else:
        values = np.asarray(rows)
        values = values[None] if values.ndim == len(shape) else values
    if values.shape[1:] != shape or not len(values):
        refuse(
            f"rows of baseline {name!r} do not fit the inputs",
            f"[row, *space, channel] = [row, {', '.join(map(str, shape))}]",
            values.shape,
            "lay them out as layout.pack(ds, 'inputs') does, or pass a Dataset",
        )
    return Baseline(name, clean(values, layout, lambda row: f"{name}, row {row}"))


def _label(one: xr.DataArray) -> str:
    dated = np.issubdtype(one.dtype, np.datetime64) or one.dtype == object
    return str(one.dt.strftime("%Y-%m-%d").item()) if dated else f"{one.item():g}"
