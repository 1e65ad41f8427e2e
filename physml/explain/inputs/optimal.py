"""Backward optimisation: the input nearest to a given one that makes a target as great, as small or as near a value as it can be.

With x0 the start and S the standard deviation of each channel, the input is x = x0 + S L v, and its distance from the start

    d = |v| / sqrt(n),    n the number of cells that may change,

where L is the identity, or a square root of the correlations of the background in its leading patterns (EOFs) E with variances
Lambda and the rest r shared by all other directions,

    L L^T = E Lambda E^T + r (I - E E^T),

so that a typical sample of the background lies at d = 1, and v is the control vector of variational assimilation. The objective

    J = -f + p d^2 / 2    (greatest),    f + p d^2 / 2    (least),    (f - a)^2 / 2 + p d^2 / 2    (the value a)

is minimised by projected gradient steps with Adam's moments, the second one a single number for each sample: with one for each
cell, as in a network's training, the steps would end elsewhere than at the optimum as soon as anything is projected. Steps
shrink to a hundredth along a cosine.

References
----------
McGovern, A. et al. (2019), Making the black box more transparent: understanding the physical implications of machine learning,
doi:10.1175/BAMS-D-18-0195.1. Kingma, D. P. and Ba, J. (2015), Adam: a method for stochastic optimization, arXiv:1412.6980.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe, is_count, refuse
from physml.explain.blocks import over_samples, samples_at_a_time
from physml.explain.gradients.rows import Late, compiled_rows
from physml.explain.gradients.work import gradient_scale, keras_of
from physml.explain.inputs.descent import Descent, Goal, descend
from physml.explain.inputs.metric import Metric
from physml.explain.models.valued import default_rows
from physml.provenance import stamp

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer
    from physml.layout import Layout

AIMS = ("greatest", "least")


def backward_optimisation(
    explainer: Explainer,
    start: xr.Dataset,
    aim: str | float = "greatest",
    *,
    background: xr.Dataset,
    within: float | None = None,
    penalty: float = 0.0,
    modes: int = 0,
    vary: str | Sequence[str] | None = None,
    laws: Any = (),
    steps: int = 200,
    rate: float = 0.1,
    tolerance: float = 0.05,
) -> xr.Dataset:
    """Return optimal inputs: one for each sample of *start*.

    Parameters
    ----------
    explainer
        Model and target; the target must be one number that is linear in the output of a model that can be differentiated.
    start
        Samples to start from, and to stay near; read block by block, and lazily where lazy.
    aim
        ``"greatest"``, ``"least"``, or the value that the target is to reach [units of the target].
    background
        Samples that tell how much the inputs vary: the standard deviation of each channel about the mean of each cell.
    within
        Greatest distance from the start; 1 is that of a typical sample of the background.
    penalty
        p of the formula: units of the target, or their square for a value.
    modes
        Leading patterns of the background in the measure of distance; 0: every cell counts alike.
    vary
        Names of the inputs that may change; default all but those made of the calendar.
    laws
        Constraints of :mod:`physml.constraints` on inputs by their names, or one :class:`physml.constraints.Constraints`. Every
        step is projected onto them; sums that follow from the inputs are those of the start.
    steps, rate
        Number of steps, and the length of the first as a distance.
    tolerance
        Part of the gradient that may be left for a sample to count as converged.

    Returns
    -------
    xarray.Dataset
        The optimal inputs under their own names and ``*_difference`` from the start, NaN on masked cells;
        ``target_before``, ``target_after`` and ``history`` (after 0 to *steps* steps) in units of the target; ``distance``; ``left``,
        the part of the gradient that is neither balanced by the penalty nor held back by a bound; ``converged``, whether it is
        at most *tolerance*. With laws and *modes* at once the result obeys both, but may stop short of the optimum.

    Raises
    ------
    ValueError, KeyError, TypeError
        For targets and models without a gradient, for unknown aims and names, where nothing bounds the distance, and where the
        start breaks the laws.

    Examples
    --------
    >>> best = explainer.backward_optimisation(start, "greatest", background=train, within=0.5)  # doctest: +SKIP
    """
    layout, measure, adapted = explainer.layout, explainer.measure, explainer.adapted
    goal = _goal(aim, within, penalty)
    if adapted.tensors is None or measure.weights is None:
        refuse(
            f"{measure.label!r} of {adapted.name!r} has no gradient to follow",
            "box_mean, area_mean, cell or the name of an output, of a FieldModel, a Keras model or on_tensors(f)",
            "a target of several numbers, or a function of Datasets",
            "choose such a target and model",
        )
    numbers = {"steps": (steps, 1), "rate": (rate, 1e-12), "penalty": (penalty, 0), "tolerance": (tolerance, 0)}
    for name, (value, lowest) in numbers.items():
        if not (np.isfinite(value) and value >= lowest):
            refuse(f"{name} is out of range", f"a number >= {lowest:g}", value, f"leave {name} out")
    for name, count in (("steps", steps), ("modes", modes)):
        if not is_count(count, 0):
            refuse(f"{name} is out of range", "a whole number", repr(count), f"leave {name} out")
    varied = _varied(layout, vary)
    metric = Metric.of(layout, background, varied, modes)
    packed, _ = explainer.read(start)
    projection = None if _empty(laws) else _projection(laws, layout, start, metric)
    dtype = str(adapted.dtype or packed.dtype)
    at_a_time = min(
        samples_at_a_time(packed, layout.spec.sample_dim, 4 * varied.size), default_rows(16 * 4 * varied.size)
    )
    descent = Descent(goal, metric, projection, within, penalty, steps, rate)
    gradient = Late(functools.partial(_compile, explainer, (at_a_time, *varied.shape), dtype))
    values = over_samples(
        layout,
        packed,
        functools.partial(descend, descent, gradient, at_a_time),
        varied.size + steps + 5,
        1,
        at_a_time=at_a_time,
        title="backward optimisation",
    )
    told = {"aim": aim, "within": "none" if within is None else within, "penalty": penalty, "modes": modes}
    told |= {"steps": steps, "rate": rate, "tolerance": tolerance, "target": measure.label}
    out = _label(values, packed, layout, explainer, steps, tolerance)
    out.attrs = {**start.attrs, **told, "laws": repr(laws) if projection is not None else "none"}
    return stamp(out, f"backward optimisation of {measure.label}, aim {aim}")


def _compile(explainer: Explainer, shape: tuple[int, ...], dtype: str) -> Any:
    """Return the target and its gradient of rows of one shape, compiled once."""
    from keras import ops

    from physml._backend import vjp

    adapted = explainer.adapted
    assert adapted.tensors is not None and explainer.measure.weights is not None
    tensors, scale = adapted.tensors, gradient_scale(explainer, dtype)
    column = np.asarray(explainer.measure.weights / scale, dtype).reshape(-1, 1)

    def function(x: Any) -> tuple[Any, Any]:
        def value(x: Any) -> Any:
            return ops.matmul(ops.cast(ops.reshape(tensors(x), (shape[0], -1)), dtype), column)

        f, pull = vjp(value, x)
        return f[:, 0], pull(ops.ones((shape[0], 1), dtype))

    run = compiled_rows(function, list(getattr(keras_of(adapted), "variables", [])), shape, dtype)
    return lambda rows: tuple(a.astype("float64") * scale for a in run(rows))


def _goal(aim: str | float, within: float | None, penalty: float) -> Goal:
    if within is not None and not within > 0:
        refuse("within is not positive", "> 0, in typical departures of the background", within, "pass within=0.5")
    if not isinstance(aim, str) or aim not in AIMS:
        try:
            value = math.nan if isinstance(aim, str) else float(aim)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            near = closest(aim, AIMS) if isinstance(aim, str) else ""
            refuse(f"aim {aim!r} is unknown{near}", f"one of {AIMS}, or a finite value", repr(aim), "aim='greatest'")
        return Goal(value=value)
    if within is None and not penalty > 0:
        refuse(
            "nothing bounds the distance from the start",
            "within > 0, or penalty > 0",
            f"within={within}, penalty={penalty}",
            "pass within=0.5: half of the distance of a typical sample",
        )
    return Goal(-1.0 if aim == "greatest" else 1.0)


def _varied(layout: Layout, vary: str | Sequence[str] | None) -> np.ndarray:
    """Return the input cells that may change, ``[*space, channel]``."""
    names = list(dict.fromkeys(c.name for c in layout.inputs))
    if vary is None:
        chosen = [n for n in names if "." not in n]
    else:
        chosen = [vary] if isinstance(vary, str) else list(vary)
    for name in chosen:
        if name not in names:
            raise KeyError(
                describe(
                    f"vary names the unknown input {name!r}{closest(name, names)}",
                    expected=", ".join(names),
                    received=repr(name),
                    remedy="correct the name",
                )
            )
    return layout.valid("inputs") & np.array([c.name in chosen for c in layout.inputs])


def _empty(laws: Any) -> bool:
    return laws is None or (hasattr(laws, "__len__") and not len(laws))


def _projection(laws: Any, layout: Layout, start: xr.Dataset, metric: Metric) -> Any:
    """Return the function that moves inputs ``[row, *space, channel]`` onto the laws."""
    from physml.explain.inputs.lawful import Lawful

    named = {c.name: float(s) ** -2 for c, s in zip(layout.inputs, metric.spread, strict=True) if s > 0}
    return Lawful(laws, layout, start, named)


def _label(
    values: Any, packed: xr.DataArray, layout: Layout, explainer: Explainer, steps: int, tolerance: float
) -> xr.Dataset:
    """Give results ``[depth, *members, sample, 1]`` their names, dimensions and units."""
    sample = layout.spec.sample_dim
    outer = packed.dims[: packed.get_axis_num(sample) + 1]
    shape = packed.shape[len(outer) :]
    n = math.prod(shape)
    order = [*range(1, len(outer) + 1), 0]
    x = values[:n, ..., 0].transpose(order).reshape(*packed.shape)
    before = layout.unpack(packed, "inputs", predicted=True)
    after = layout.unpack(packed.copy(data=x), "inputs", predicted=True)
    made = [n for n in after.data_vars if "." in str(n)]  # of the calendar
    before, after = before.drop_vars(made), after.drop_vars(made)
    out = after.assign({f"{name}_difference": after[name] - before[name] for name in after.data_vars})
    for name in after.data_vars:
        about = f"change of {before[name].attrs.get('long_name', name)} from the start"
        out[f"{name}_difference"].attrs = {**_units(before[name].attrs.get("units")), "long_name": about}
    target, units = explainer.measure.label, _units(explainer.measure.units)
    numbers = values[n:, ..., 0]
    out["history"] = (("step", *outer), numbers[: steps + 1], {"long_name": f"{target} on the way", **units})
    out["target_before"] = (outer, numbers[steps + 1], {"long_name": f"{target} of the start", **units})
    out["target_after"] = (outer, numbers[steps + 2], {"long_name": f"{target} of the optimal input", **units})
    out["distance"] = (outer, numbers[steps + 3], {"long_name": "distance from the start", "units": "1"})
    out["left"] = (outer, numbers[steps + 4], {"long_name": "part of the gradient left", "units": "1"})
    out["converged"] = (out.left <= tolerance).assign_attrs(long_name="whether little of the gradient is left")
    return out.assign_coords(step=("step", np.arange(steps + 1), {"long_name": "steps taken", "units": "1"}))


def _units(units: str | None) -> dict[str, str]:
    return {} if units is None else {"units": units}
