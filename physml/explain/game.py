"""The game: a target of a model, and its value for any coalition of groups.

``v(S) = mean over baselines b of f(x on the groups in S, b elsewhere)``

A target reduces the output of the model to the quantity explained. Rows of all samples and coalitions stream through the
model in batches of one size, so that it is compiled once and memory stays bounded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe
from physml.explain.baselines import clean
from physml.explain.groups import box_cells, separation

if TYPE_CHECKING:
    from physml.layout import Layout

Forward = Callable[[np.ndarray], np.ndarray]

BATCH_BYTES = 4 * 2**20
"""Input bytes of one batch unless batch_rows is given: convolutions run fastest while a batch stays in the cache."""

BLOCK_BYTES = 64 * 2**20
"""Inputs read at a time."""


@dataclass(frozen=True)
class Measure:
    """A target on a given layout: outputs ``[row, *space, channel]`` to values ``[row, valid cell]`` in float64.

    Attributes
    ----------
    reduce
        The reduction.
    dims, valid
        Dimensions of the result and its valid cells: none and True for one number, space for a field.
    label, units
        What is explained and its unit, or None.
    offset
        Steps from the sample to the time the target is valid at.
    """

    reduce: Forward
    dims: tuple[str, ...]
    valid: np.ndarray
    label: str
    units: str | None
    offset: int = 0


@dataclass(frozen=True)
class Target:
    """A quantity of one output channel. Made by :func:`box_mean`, :func:`cell`, :func:`area_mean`, :func:`field`.

    Attributes
    ----------
    name
        Output variable; None: the only one.
    label
        How the target is called, with ``{}`` where the channel goes.
    where
        Coordinate ranges or points in space, an ``offset`` and labels of levels where there are several.
    weigh
        Weights over space from (layout, selection in space, valid cells, label); None: the field itself.
    """

    name: str | None
    label: str
    where: Mapping[str, Any]
    weigh: Callable[[Layout, dict[str, Any], np.ndarray, str], np.ndarray] | None

    def bind(self, layout: Layout) -> Measure:
        """Return the target on the outputs of *layout*.

        Raises
        ------
        KeyError
            For an unknown variable or coordinate; the nearest is offered.
        ValueError
            Where several channels fit, or no valid cell is selected.
        """
        channel, inside = _channel(layout, self.name, self.where)
        chosen = layout.targets[channel]
        label = self.label.format(chosen)
        valid = layout.valid("targets")[..., channel]
        if self.weigh is None:
            cells = np.flatnonzero(valid)
            return Measure(
                lambda out: _flat(out)[:, cells, channel].astype("float64"),
                layout.space,
                valid,
                label,
                layout.units(chosen.name),
                chosen.offset,
            )
        weights = np.where(valid, self.weigh(layout, inside, valid, label), 0.0).ravel()
        cells = np.flatnonzero(weights)
        if not cells.size:
            raise ValueError(
                describe(
                    f"target {label!r} holds no valid cell",
                    expected="one or more valid cells of positive area",
                    received="none",
                    remedy="widen the selection",
                )
            )
        share = weights[cells, None] / weights.sum()
        return Measure(
            lambda out: _flat(out)[:, cells, channel].astype("float64") @ share,
            (),
            np.array(True),
            label,
            layout.units(chosen.name),
            chosen.offset,
        )


def field(name: str | None = None, **where: Any) -> Target:
    """Explain every cell of an output variable: one attribution for each output cell and group.

    Parameters
    ----------
    name
        Output variable; None where there is one.
    **where
        ``offset=...`` [steps] and labels of levels, needed where the variable has several channels.
    """
    return Target(name, "{}", where, None)


def area_mean(name: str | None = None, **where: Any) -> Target:
    """Explain the mean of an output variable over all valid cells, weighted by area; see :func:`field`."""
    return Target(name, "area mean of {}", where, lambda layout, inside, valid, label: layout.weights)


def box_mean(name: str | None = None, **where: Any) -> Target:
    """Explain the mean of an output variable over a box, weighted by area.

    Parameters
    ----------
    name
        Output variable; None where there is one.
    **where
        Coordinate ranges, both ends included: ``lat=slice(-5, 5), lon=slice(190, 240)``. A range of longitudes may cross
        the date line or Greenwich. ``offset`` and levels as in :func:`field`.

    Examples
    --------
    >>> box_mean("sst", lat=slice(-5, 5), lon=slice(190, 240)).label
    'mean of {} over lat -5 to 5, lon 190 to 240'
    """

    def weigh(layout: Layout, inside: dict[str, Any], valid: np.ndarray, label: str) -> np.ndarray:
        return layout.weights * box_cells(layout, inside, f"target {label!r}")

    ranges = ", ".join(f"{n} {s.start} to {s.stop}" for n, s in where.items() if isinstance(s, slice))
    return Target(name, f"mean of {{}} over {ranges or 'all cells'}", where, weigh)


def cell(name: str | None = None, **where: Any) -> Target:
    """Explain an output variable in the cell nearest to a point.

    Parameters
    ----------
    name
        Output variable; None where there is one.
    **where
        The point: ``lat=0.5, lon=-30.0``. ``offset`` and levels as in :func:`field`.
    """

    def weigh(layout: Layout, inside: dict[str, Any], valid: np.ndarray, label: str) -> np.ndarray:
        away = np.zeros(layout.shape)
        for name, value in inside.items():
            distance, step = separation(layout, name, float(value), f"target {label!r}")
            if distance.min() > max(step, 1e-6):
                raise ValueError(
                    describe(
                        f"target {label!r} lies outside the grid",
                        expected=f"{name} within {step:g} of a cell",
                        received=f"{name}={value}, {distance.min():g} from the nearest",
                        remedy="correct the point; mind the units and sign of the coordinates",
                    )
                )
            away += distance**2
        if not valid.ravel()[away.argmin()]:
            raise ValueError(
                describe(
                    f"target {label!r} lies on a masked cell",
                    expected="a point whose nearest cell is valid",
                    received=f"{dict(inside)}",
                    remedy="move the point, or use box_mean around it",
                )
            )
        return np.arange(away.size).reshape(away.shape) == away.argmin()

    point = ", ".join(f"{n}={v}" for n, v in where.items())
    return Target(name, f"{{}} at {point}", where, weigh)


def bind(target: Any, layout: Layout) -> Measure:
    """Return a target on *layout*; None or "field" is the whole field, a function takes the labelled output Dataset."""
    if target is None or target == "field":
        target = field()
    if isinstance(target, Target):
        return target.bind(layout)
    if callable(target):
        return _labelled(target, layout)
    raise TypeError(
        describe(
            "target is no target",
            expected="field, area_mean, box_mean, cell, a function of the output Dataset, or None for the field",
            received=repr(target),
            remedy="for instance target=box_mean('tracer', lat=slice(10, 40))",
        )
    )


def _labelled(function: Callable[[xr.Dataset], xr.DataArray], layout: Layout) -> Measure:
    """Return a function of the output Dataset as a measure; each row is a sample of that Dataset."""
    sample = layout.spec.sample_dim

    def labelled(outputs: np.ndarray) -> xr.DataArray:
        array = xr.DataArray(outputs, dims=(sample, *layout.space, "channel"))
        result = function(layout.unpack(array, "targets", predicted=True))
        dims = {str(d) for d in getattr(result, "dims", ())}
        if not isinstance(result, xr.DataArray) or dims not in ({sample}, {sample, *layout.space}):
            raise ValueError(
                describe(
                    "the target function returned another shape",
                    expected=f"a DataArray on ({sample!r},) or on {(sample, *layout.space)}",
                    received=getattr(result, "dims", type(result).__name__),
                    remedy=f"reduce over all dimensions but {sample!r}, or over none of space",
                )
            )
        return result.transpose(sample, ...)

    # Unlike positive numbers, so that ratios and logarithms are defined and only what the function masks is missing.
    shape = (1, *layout.shape, len(layout.targets))
    probe = labelled(np.random.default_rng(0).uniform(0.5, 1, shape).astype("float32"))
    dims = tuple(str(d) for d in probe.dims[1:])
    if dims:
        probe = probe.transpose(sample, *layout.space)
        dims = layout.space
    valid = layout.valid("targets").any(-1) & probe.notnull().values[0] if dims else np.array(True)
    cells = np.flatnonzero(valid)
    if not cells.size:
        raise ValueError(
            describe(
                "the target function returned no valid cell",
                expected="values on one or more cells",
                received="missing values on all",
                remedy="check its selection and mask",
            )
        )

    def reduce(outputs: np.ndarray) -> np.ndarray:
        values = labelled(outputs).transpose(sample, *dims).values
        return values.reshape(len(values), -1)[:, cells].astype("float64")

    label = str(probe.name or getattr(function, "__name__", "target"))
    offsets = {c.offset for c in layout.targets}
    return Measure(reduce, dims, valid, label, probe.attrs.get("units"), offsets.pop() if len(offsets) == 1 else 0)


def _channel(layout: Layout, name: str | None, where: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the output channel that a target names, and the rest of its selection, which is in space."""
    names = tuple(dict.fromkeys(c.name for c in layout.targets))
    if name is not None and name not in names:
        raise KeyError(
            describe(
                f"target names the unknown output {name!r}{closest(name, names)}",
                expected=", ".join(names),
                received=repr(name),
                remedy="correct the name, or add it to the targets of the FieldSpec",
            )
        )
    fit = [i for i, c in enumerate(layout.targets) if name in (None, c.name)]
    levels = {d for i in fit for d in layout.targets[i].level}
    inside = dict(where)
    for key in [k for k in where if k == "offset" or k in levels]:
        wanted = inside.pop(key)
        fit = [
            i
            for i in fit
            if (layout.targets[i].offset if key == "offset" else layout.targets[i].level.get(key)) == wanted
        ]
    if len(fit) != 1:
        raise ValueError(
            describe(
                f"target fits {len(fit)} output channels",
                expected="one of " + ", ".join(repr(str(c)) for c in layout.targets),
                received=", ".join(repr(str(layout.targets[i])) for i in fit) or f"{name or ''} {dict(where)}",
                remedy="name the variable, and give offset=... and the level where it has several",
            )
        )
    return fit[0], inside


def _flat(outputs: np.ndarray) -> np.ndarray:
    return outputs.reshape(len(outputs), -1, outputs.shape[-1])


@dataclass(frozen=True)
class Request:
    """Coalitions of one sample: inputs ``[cell]``, members ``[row, group]``, baseline row of each ``[row]``."""

    inputs: np.ndarray
    coalitions: np.ndarray
    slots: np.ndarray


def forward(model: Any) -> Forward:
    """Return *model* as a function of NumPy batches: Keras' own compiled prediction, or the callable as it is."""
    predict = getattr(model, "predict_on_batch", None)
    if predict is not None:
        return lambda rows: np.asarray(predict(rows))

    def call(rows: np.ndarray) -> np.ndarray:
        import keras

        return keras.ops.convert_to_numpy(model(keras.ops.convert_to_tensor(rows)))

    return call


def valued(forward: Forward, measure: Measure, layout: Layout) -> Forward:
    """Return the target of model inputs ``[row, cell]`` as ``[row, valid cell]``.

    Raises
    ------
    ValueError
        Where the model returns another shape than *layout* says, or values that are not finite.
    """

    def value(rows: np.ndarray) -> np.ndarray:
        outputs = forward(rows.reshape(len(rows), *layout.shape, len(layout.inputs)))
        expected = (len(rows), *layout.shape, len(layout.targets))
        if outputs.shape != expected:
            raise ValueError(
                describe(
                    "the model returned another shape than its layout says",
                    expected=f"[row, *space, target channel] = {expected}",
                    received=outputs.shape,
                    remedy="give the layout the model was built for",
                )
            )
        values = measure.reduce(outputs)
        if not np.isfinite(values).all():
            raise ValueError(
                describe(
                    f"the model's {measure.label!r} is not finite",
                    expected="finite predictions for every mixture of sample and baseline",
                    received=f"{int((~np.isfinite(values)).sum())} of {values.size} values missing or infinite",
                    remedy="check the range of the baseline against the training data",
                )
            )
        return values

    return value


def read_samples(layout: Layout, packed: xr.DataArray) -> Iterator[np.ndarray]:
    """Read the inputs of one sample after another, ``[*space, channel]``, along members, then samples."""
    sample = layout.spec.sample_dim
    members = tuple(str(d) for d in packed.dims[: packed.get_axis_num(sample)])
    for at in np.ndindex(*(packed.sizes[m] for m in members)):
        one = packed.isel(dict(zip(members, at, strict=True)))
        ends = np.cumsum(one.chunksizes.get(sample, (one.sizes[sample],)))
        most = max(1, BLOCK_BYTES // max(one.nbytes // one.sizes[sample], 1))
        start = 0
        while start < one.sizes[sample]:
            # Whole chunks as long as they fit, so that none is computed twice.
            fitting = ends[(ends > start) & (ends <= start + most)]
            stop = int(fitting[-1]) if fitting.size else start + most
            block = one.isel({sample: slice(start, stop)})
            yield from clean(block.values, layout, functools.partial(_named, block, (*members, sample)))
            start = stop


def _named(block: xr.DataArray, names: tuple[str, ...], row: int) -> str:
    labels = block.isel({names[-1]: row}).coords
    return "ds at " + (", ".join(f"{n} {labels[n].values}" for n in names if n in labels) or f"sample {row} of a block")


def default_rows(row_bytes: int) -> int:
    """Return the number of rows in a batch for inputs of this size."""
    return int(np.clip(BATCH_BYTES // max(row_bytes, 1), 1, 1024))


def coalition_values(
    requests: Iterable[Request],
    *,
    background: np.ndarray,
    owner: np.ndarray,
    value: Forward,
    batch_rows: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Stream coalitions of many samples through one function in batches of one size.

    Parameters
    ----------
    requests
        What is asked, in order.
    background
        Baseline inputs ``[slot, cell]``; their type is the one the function is given.
    owner
        Group of each cell ``[cell]``, -1 for none.
    value
        Function of rows ``[batch_rows, cell]`` with values ``[batch_rows, ...]``; always called with *batch_rows* rows.
    batch_rows
        Rows in a batch; rows of the last batch beyond the last request are computed and thrown away.

    Yields
    ------
    tuple
        Number of the request and the values of its next rows, in order.
    """
    owner = owner.astype(np.intp)
    buffer = np.zeros((batch_rows, background.shape[1]), background.dtype)
    pending: list[tuple[int, int]] = []
    filled = 0

    def flush() -> Iterator[tuple[int, np.ndarray]]:
        values, start = value(buffer), 0
        for number, n in pending:
            yield number, values[start : start + n]
            start += n
        pending.clear()

    for number, request in enumerate(requests):
        # A column that is always absent is where masked cells (owner -1) point.
        present = np.pad(request.coalitions, ((0, 0), (0, 1)))
        done = 0
        while done < len(present):
            n = min(batch_rows - filled, len(present) - done)
            rows = buffer[filled : filled + n]
            np.take(background, request.slots[done : done + n], axis=0, out=rows, mode="clip")
            np.copyto(rows, request.inputs, where=present[done : done + n].take(owner, axis=1))
            pending.append((number, n))
            done, filled = done + n, filled + n
            if filled == batch_rows:
                yield from flush()
                filled = 0
    if filled:
        yield from flush()
