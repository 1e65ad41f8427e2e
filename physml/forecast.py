"""Labelled fields through a FieldModel: one prediction for every sample, or a roll-out step by step; lazy when they are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import xarray as xr

from physml import _matching, _packing, calendar, grid
from physml._errors import describe
from physml.fields import FieldSpec
from physml.heads.distribution import Distribution
from physml.layout import Layout
from physml.model import FieldModel, load
from physml.predictor import Predictor, rows_at_a_time
from physml.provenance import stamp
from physml.tiles import map_tiles, plan
from physml.timeaxis import TimeStep, check_axis, positions, require_same_step, shift, step_of


def predict(
    model: FieldModel | str,
    ds: xr.Dataset,
    *,
    batch_size: int = 32,
    tiles: Mapping[str, int] | None = None,
    halo: Mapping[str, int] | None = None,
    periodic: Iterable[str] = (),
    blend: bool = False,
) -> xr.Dataset:
    """Predict the targets for every sample of a Dataset.

    Parameters
    ----------
    model
        A FieldModel, or the path of a saved one; or a learner of :mod:`physml.learners`, which takes no more than *ds*.
    ds
        Data with the inputs; targets are not needed.
    batch_size
        Rows given to the network at a time, at most.
    tiles
        Sizes of tiles [cells] by space dimension. Each is predicted from a window that holds, besides the tile, all cells the
        network sees from it: the result is that of whole maps, and memory is that of a few windows.
    halo
        Cells of a window beyond its tile by dimension, in place of those read off the network's graph
        (:func:`physml.receptive.receptive_field`); with *blend* the overlap.
    periodic
        Dimensions that close in themselves, where the network's layers (:class:`physml.networks.Pad`) do not say so.
    blend
        For networks that see the whole map: windows that overlap by twice the *halo* are averaged with smooth weights. This is
        no longer the prediction of the whole map, and the attributes say so.

    Returns
    -------
    xarray.Dataset
        The targets, named, with their units, levels and order of dimensions, missing exactly on masked cells, at the time they
        are valid at (with several target offsets: on ``lead``, with ``valid_time``). Lazy where *ds* is lazy, with memory
        independent of its length. A head that answers a distribution has variables of its own, such as ``sst`` and ``sst_std``
        (:mod:`physml.heads`).

    Raises
    ------
    KeyError, ValueError
        Where the data do not fit the model; for tiles that cannot be exact, with the reason; on computing, where inputs are
        missing on valid cells.

    Examples
    --------
    >>> forecast = physml.predict("model.keras", ds)  # doctest: +SKIP
    """
    if hasattr(model, "layout") and not isinstance(model, FieldModel):  # a learner that is no network
        return model.predict(ds)  # type: ignore[union-attr]
    model = load(model) if isinstance(model, str | os.PathLike) else model
    layout = model.layout
    packed = layout.pack(ds, "inputs")
    if tiles is not None:
        planned = plan(model, tiles, halo, periodic, blend=blend)
        out = map_tiles(model, packed, planned, batch_size)
        fields = _stamped(_labelled(model, out, blend), ds, model, f"predict by tiles {planned.tiles}")
        return fields.assign_attrs(planned.attrs)
    if halo is not None or periodic or blend:
        raise ValueError(
            describe(
                "predict: halo, periodic and blend belong to tiles",
                expected=f"tiles={{{layout.space[-1]!r}: 128}}",
                received=f"halo={halo}, periodic={periodic}, blend={blend}, tiles=None",
                remedy="say the sizes of the tiles, or leave the others out",
            )
        )
    blocks = [max(packed.chunksizes.get(d, (packed.sizes[d],))) for d in packed.dims[: -len(layout.space) - 1]]
    predictor = Predictor(model, rows_at_a_time(math.prod(blocks), batch_size))
    out = _packing.map_samples(predictor, [packed], layout.space, len(model.answers.targets), model.compute_dtype)
    return _stamped(_labelled(model, out), ds, model, "predict")


def persistence(layout: Layout, ds: xr.Dataset) -> xr.Dataset:
    """Return the forecast every model must beat: each target stays what it is at offset 0.

    Parameters
    ----------
    layout
        Layout of the model to compare with.
    ds
        Data with its inputs.

    Returns
    -------
    xarray.Dataset
        Targets that are also inputs, labelled as :func:`predict` labels them.
    """
    spec = layout.spec
    names = [n for n in spec.targets if n in spec.inputs and 0 in spec.offsets("inputs", n)]
    if not names:
        return xr.Dataset()
    packed = layout.pack(ds, "inputs")
    nothing = packed.isel(channel=[0]) * np.nan
    parts = []
    for n in spec.targets:
        at = layout.where("inputs", n, 0) if n in names else None
        state = nothing.isel(channel=[0] * layout.variables[n].depth) if at is None else packed.isel(channel=at)
        parts += [state.drop_vars("channel")] * len(spec.offsets("targets", n))
    fields = layout.unpack(xr.concat(parts, "channel").transpose(..., "channel"), "targets", predicted=True)
    return fields[names]


def _labelled(model: FieldModel, out: xr.DataArray, averaged: bool = False) -> xr.Dataset:
    """Return the answers of a model by name; *averaged* over tiles that overlap."""
    fields = model.answers.unpack(out, "targets", predicted=True)
    return model.head.finish(fields, averaged) if isinstance(model.head, Distribution) else fields


def _stamped(fields: xr.Dataset, ds: xr.Dataset, model: FieldModel, action: str) -> xr.Dataset:
    return stamp(
        fields.assign_attrs(ds.attrs),
        f"{action} with {model.name}",
        {f"model_{k.removeprefix('physml_')}": v for k, v in model.provenance.items()},
    )


def rollout(
    model: FieldModel | str,
    initial: xr.Dataset,
    steps: int,
    forcing: xr.Dataset | None = None,
    *,
    batch_size: int = 32,
) -> xr.Dataset:
    """Run a one-step model forward, each forecast the next input.

    Totals that laws of the model keep (:class:`physml.Conserve`) are pinned to those of the initial state and the sources since: what
    float32 cannot store of one step is carried into the next, so that nothing drifts however many steps there are.

    Of a model that answers a distribution the point forecast is the next input, and all that is returned: the mean of a
    :class:`physml.heads.Gaussian`, the median of :class:`physml.heads.Quantiles`. Its spread is that of one step, and is dropped.

    Parameters
    ----------
    model
        A FieldModel whose targets are among its inputs, with one target offset; or the path of a saved one.
    initial
        The state at the start: the last times along the sample dimension are used, as many as the input offsets need.
    steps
        Number of steps.
    forcing
        The inputs that are no targets, at every time a step begins. Inputs without sample dimension may be in either Dataset;
        parts of the date (``"time.month"``) follow from the start and the step.
    batch_size
        Rows (members) given to the network at a time.

    Returns
    -------
    xarray.Dataset
        The targets at the times they are valid at, the initial state not among them; ``step`` counts from 1. Lazy where
        *initial* or *forcing* is.

    Raises
    ------
    KeyError, ValueError
        For models that are no time step, missing forcing, and data that do not fit.
    """
    model = load(model) if isinstance(model, str | os.PathLike) else model
    layout, spec = model.layout, model.layout.spec
    sample, stride, history = spec.sample_dim, *_is_step(layout)
    states = _states(model)
    if steps < 1:
        raise ValueError(describe("rollout: no steps", expected="steps >= 1", received=steps, remedy="steps=10"))
    if sample not in initial.dims:
        initial = initial.expand_dims(sample)
    if initial.sizes[sample] < history:
        raise ValueError(
            describe(
                "rollout: the initial state is too short for the input offsets",
                expected=f"{history} times along {sample!r}",
                received=initial.sizes[sample],
                remedy=f"select the last {history} times before the start",
            )
        )
    initial = initial.isel({sample: slice(-history, None)})
    start, step = _start(initial, forcing, layout)
    if history > 1 and start is not None and step is not None:
        require_same_step(initial[sample], step, "rollout: the initial state")
    labels = [shift(start, step, i * stride)[0] for i in range(steps + 1)] if start is not None and step else None

    names = list(spec.targets)
    driven = [n for n in spec.inputs if n not in names]
    dated = calendar.virtual(driven, sample, forcing)
    sources = {n: _source(n, layout, initial, forcing) for n in driven if n not in dated}
    sources |= _calendar(dated, layout, start, step, steps * stride)
    members = _members(initial, forcing, layout)
    outer = members | dict(zip(layout.space, layout.shape, strict=True))
    kind = model.compute_dtype
    for name, da in [*((n, grid.variable(initial, n, "initial state")) for n in names), *sources.items()]:
        _matching.check_variable(layout, da, "forcing" if name in sources else "initial state")
    for ds in (initial, forcing):
        if ds is not None:
            _matching.check_grid(layout, ds)
    past = [
        {n: _packing.columns(layout, initial[n].isel({sample: i}), n, outer, kind) for n in names}
        for i in range(initial.sizes[sample])
    ]
    still = {n: _packing.columns(layout, s, n, outer, kind) for n, s in sources.items() if sample not in s.dims}
    at = _positions(sources, sample, labels, steps, spec, step)
    predictor = Predictor(model, min(batch_size, math.prod(members.values())), carrying=True)
    carried = [np.zeros((*outer.values(), n), kind) for n in predictor.carried.values()]
    channels = len(model.answers.targets) + sum(predictor.carried.values())
    kept = {k: c for s in (initial, forcing) if s is not None for k, c in s.coords.items() if set(c.dims) <= set(outer)}
    kept.pop(sample, None)
    out = []
    for i in range(steps):
        parts = []
        for name in spec.inputs:
            for offset in spec.offsets("inputs", name):
                if name in names:
                    parts.append(past[offset - 1][name])
                elif name in still:
                    parts.append(still[name])
                else:
                    now = sources[name].isel({sample: at[name][i] + offset})
                    parts.append(_packing.columns(layout, now, name, outer, kind))
        parts += carried
        x = xr.DataArray(_packing.concatenate(parts, tuple(outer.values())), dims=(*outer, "channel"))
        y = _packing.map_samples(predictor, [x], layout.space, channels, kind)
        if predictor.carried:
            carried = [y.data[..., len(model.answers.targets) :]]
        y = y.isel(channel=states)
        out.append(y)
        past = [*past[1:], {n: y.data[..., layout.where("targets", n)] for n in names}]
    whole = xr.concat(out, dim=sample, join="override").transpose(*members, sample, ...)
    whole = whole.assign_coords(kept)
    if labels is not None:
        origin = next(s for s in (initial, forcing) if s is not None and sample in s.coords)
        axis = np.array(labels[1:], dtype=np.asarray(start).dtype)
        whole = whole.assign_coords({sample: xr.Variable(sample, axis, origin[sample].attrs)})
    whole = whole.assign_coords(step=(sample, np.arange(1, steps + 1), {"long_name": "steps since the initial state"}))
    fields = layout.plain().unpack(whole, "targets", predicted=True)
    of = f" of the point forecast of {type(model.head).__name__}" if isinstance(model.head, Distribution) else ""
    return _stamped(fields, initial, model, f"rollout of {steps} steps{of}")


def _states(model: FieldModel) -> slice | np.ndarray:
    """Return which channels of the answer are the next state; refuse models whose answer holds none."""
    if not isinstance(model.head, Distribution):
        return slice(len(model.layout.targets))
    found = model.head.states(model.layout)
    if found is None:
        raise ValueError(
            describe(
                f"the answer of {type(model.head).__name__} holds no state to go on from",
                expected="a mean (Gaussian) or a median (Quantiles with the level .5)",
                received=", ".join(map(str, model.answers.targets[:6])),
                remedy="train a model of the state itself, or predict one step",
            )
        )
    return found


def _is_step(layout: Layout) -> tuple[int, int]:
    """Return the stride and the number of past states of a one-step model, or say why it is none."""
    spec = layout.spec
    strangers = [n for n in spec.targets if n not in spec.inputs]
    offsets = spec.offsets("targets", spec.targets[0])
    low, high = spec.window("inputs")
    problem = None
    if strangers:
        problem = f"the targets {strangers} are no inputs"
    elif len(offsets) != 1 or offsets[0] < 1:
        problem = f"target offsets {offsets}"
    elif max(o for n in spec.targets for o in spec.offsets("inputs", n)) > 0:
        problem = f"the state is needed at later times, offsets up to {high}"
    elif low < 0 and offsets[0] != 1 and any(min(spec.offsets("inputs", n)) < 0 for n in spec.targets):
        problem = f"past states with a stride of {offsets[0]}"
    if problem is not None:
        raise ValueError(
            describe(
                "the model is no time step",
                expected="targets among the inputs, at offsets <= 0, and one target offset > 0",
                received=problem,
                remedy="train a one-step model: target_offsets=1 with the state among the inputs",
            )
        )
    return offsets[0], 1 - min(min(spec.offsets("inputs", n)) for n in spec.targets)


def _start(
    initial: xr.Dataset, forcing: xr.Dataset | None, layout: Layout
) -> tuple[np.ndarray | None, TimeStep | None]:
    sample = layout.spec.sample_dim
    if sample not in initial.coords:
        return None, None
    axes = [s[sample] for s in (forcing, initial) if s is not None and sample in s.coords and s[sample].ndim]
    steps = [step_of(a, layout.step) for a in axes]
    return initial[sample].values[-1:], next((s for s in steps if s not in (None, layout.step)), layout.step)


def _members(initial: xr.Dataset, forcing: xr.Dataset | None, layout: Layout) -> dict[str, int]:
    """Return the sizes of the member dimensions; refuse forcing of other members than the initial state."""
    found: dict[str, int] = {}
    for m in layout.members:
        axes = [s[m] for s in (initial, forcing) if s is not None and m in s.dims]
        for axis in axes:
            found[m] = axis.size
        if len(axes) == 2 and not np.array_equal(axes[0].values, axes[1].values):
            raise ValueError(
                describe(
                    f"rollout: the forcing has other members along {m!r} than the initial state",
                    expected=axes[0].values.tolist(),
                    received=axes[1].values.tolist(),
                    remedy=f"forcing.sel({m}=initial[{m!r}])",
                )
            )
    return found


def _source(name: str, layout: Layout, initial: xr.Dataset, forcing: xr.Dataset | None) -> xr.DataArray:
    sample = layout.spec.sample_dim
    moving = sample in layout.variables[name].dims
    for ds in (forcing,) if moving else (forcing, initial):
        if ds is not None and name in ds.variables:
            if moving and sample not in ds[name].dims:
                return ds[name].expand_dims(sample)
            return ds[name] if moving or sample not in ds[name].dims else ds[name].isel({sample: 0}, drop=True)
    raise KeyError(
        describe(
            f"rollout: the input {name!r} is no target and has to be given",
            expected=f"forcing=Dataset with {name!r}" + (f" along {sample!r}" if moving else ""),
            received="no forcing" if forcing is None else ", ".join(str(v) for v in forcing.data_vars),
            remedy="pass forcing with all inputs that are not predicted",
        )
    )


def _calendar(
    names: list[str], layout: Layout, start: np.ndarray | None, step: TimeStep | None, steps: int
) -> dict[str, xr.DataArray]:
    """Return the parts of the date among the inputs, over the dates of the roll-out and of the windows around them."""
    if not names:
        return {}
    sample = layout.spec.sample_dim
    if start is None or step is None:
        raise ValueError(
            describe(
                f"rollout: {names[0]!r} needs the dates of the steps",
                expected=f"initial with dates along {sample!r}, and a model trained on a constant step",
                received="no dates" if start is None else "no step",
                remedy=f"initial.assign_coords({sample}=...), or forcing with {names[0]!r}",
            )
        )
    offsets = [o for n in names for o in layout.spec.offsets("inputs", n)]
    axis = np.concatenate([shift(start, step, k) for k in range(min(*offsets, 0), steps + max(*offsets, 0))])
    dates = calendar.complete(xr.Dataset(coords={sample: axis}), names, sample)
    return {n: dates[n] for n in names}


def _positions(
    sources: dict[str, xr.DataArray],
    sample: str,
    labels: list[Any] | None,
    steps: int,
    spec: FieldSpec,
    step: TimeStep | None,
) -> dict[str, list[int]]:
    found = {}
    for name, da in sources.items():
        if sample not in da.dims:
            continue
        if labels is None or sample not in da.coords:
            at = np.arange(steps) - min(0, min(spec.offsets("inputs", name)))
        else:
            check_axis(da[sample], f"rollout: forcing {name!r}")
            at = positions(da[sample].values, np.array(labels[:steps], dtype=da[sample].dtype), step)
        offsets = spec.offsets("inputs", name)
        bad = [
            i for i in range(steps) if at[i] < 0 or at[i] + offsets[0] < 0 or at[i] + offsets[-1] >= da.sizes[sample]
        ]
        if bad:
            when = labels[bad[0]] if labels is not None else f"step {bad[0] + 1}"
            raise ValueError(
                describe(
                    f"rollout: forcing {name!r} is missing at {when}",
                    expected=f"values at each of the {steps} steps, at offsets {offsets}",
                    received=f"{da.sizes[sample]} times"
                    + (f" from {da[sample].values[0]} to {da[sample].values[-1]}" if sample in da.coords else ""),
                    remedy="give forcing for the whole roll-out, or fewer steps",
                )
            )
        found[name] = [int(a) for a in at]
    return found


class FieldStep(keras.layers.Layer):
    """A one-step FieldModel as a time step: state to state, in physical units.

    The same object makes a forecast, carries an ensemble and can be differentiated. Of a model that answers a distribution it gives the
    point forecast, as :func:`rollout` does.

    Parameters
    ----------
    model
        A FieldModel whose targets are among its inputs, all inputs at offset 0.

    Call arguments
    --------------
    state : ``[batch, *space, state channel]``, the targets in their order.
    forcing : ``[batch, *space, forcing channel]``, the other inputs in their order; None where there are none.

    Output shape
    ------------
    That of *state*.

    Raises
    ------
    ValueError
        For models that are no time step or need past states.
    """

    def __init__(self, model: FieldModel, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", model.dtype_policy)
        super().__init__(**kwargs)
        layout, spec = model.layout, model.layout.spec
        _is_step(layout)
        self._states = _states(model)
        if spec.window("inputs") != (0, 0):
            raise ValueError(
                describe(
                    "the model needs more than the present state",
                    expected="input offsets (0,)",
                    received=spec.window("inputs"),
                    remedy="use physml.rollout, or train with input_offsets=0",
                )
            )
        self.model = model
        self.state_names = tuple(spec.targets)
        self.forcing_names = tuple(n for n in spec.inputs if n not in spec.targets)
        self._from: list[tuple[bool, slice]] = []
        used = 0
        for name in spec.inputs:
            depth = layout.variables[name].depth
            if name in spec.targets:
                self._from.append((True, layout.where("targets", name)))
            else:
                self._from.append((False, slice(used, used + depth)))
                used += depth
        self.built = True

    def call(self, state: Any, forcing: Any = None, training: bool | None = None) -> Any:
        """Return the state one step later."""
        if self.forcing_names and forcing is None:
            raise ValueError(
                describe(
                    "the step needs forcing",
                    expected=f"a tensor with the channels of {self.forcing_names}",
                    received="None",
                    remedy="step(state, forcing)",
                )
            )
        parts = [(state if from_state else forcing)[..., at] for from_state, at in self._from]
        x = parts[0] if len(parts) == 1 else keras.ops.concatenate(parts, axis=-1)
        y = self.model(x, training=training)
        return y if isinstance(self._states, slice) else keras.ops.take(y, self._states, axis=-1)
