"""From the name of a kind and a Dataset to labelled attributions of every input cell."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, refuse
from physml.explain.blocks import Block, over_samples, samples_at_a_time
from physml.explain.gradients.kinds import Kind
from physml.explain.gradients.occlusion import Occlusion, by_groups
from physml.explain.gradients.work import Work, keras_of
from physml.explain.models.valued import accept_batch_rows, default_rows
from physml.explain.result import Part, label
from physml.provenance import same_units

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer
    from physml.explain.models.adapting import Adapted
    from physml.layout import Layout

KINDS = {
    "saliency": ("local", "Saliency"),
    "smoothgrad": ("local", "SmoothGrad"),
    "input_x_gradient": ("local", "InputXGradient"),
    "integrated": ("path_kinds", "Integrated"),
    "expected": ("path_kinds", "Expected"),
    "grad_cam": ("layered", "GradCam"),
    "lrp": ("layered", "Lrp"),
    "occlusion": ("occlusion", "Occlusion"),
}
"""Module and class of each kind."""


def attribute(
    explainer: Explainer, ds: xr.Dataset, kind: str = "integrated", *, batch_rows: int | None = None, **settings: Any
) -> xr.Dataset:
    """Return attributions of every input cell.

    Parameters
    ----------
    explainer
        Model, baseline and target; groups only for ``kind="occlusion"`` without patches.
    ds
        Samples to explain; read block by block, and lazily where lazy.
    kind
        ``"saliency"``, ``"smoothgrad"``, ``"input_x_gradient"``, ``"integrated"``, ``"expected"``, ``"grad_cam"``, ``"lrp"`` or
        ``"occlusion"``.
    batch_rows
        Rows the model is given at a time, which bounds memory; default by size of the inputs.
    **settings
        Of the kind: see the classes in the modules ``local``, ``path_kinds``, ``layered`` and ``occlusion`` beside this one.

    Returns
    -------
    xarray.Dataset
        ``attribution`` on (channel, members, sample, *space), NaN on masked cells, with ``variable``, ``offset`` and levels along
        ``channel``; ``stderr`` where it is drawn at random; ``prediction``, ``base_value`` and
        ``residual = prediction - base_value - sum of attribution`` by sample. Contributions are in units of the target, gradients
        in these per unit of the input (``channel_units``). Grad-CAM lies on space alone. Occlusion by groups is on (group, ...).

    Raises
    ------
    ValueError
        For unknown kinds and settings, missing inputs, and targets or models that a kind cannot explain, with the remedy.
    NotImplementedError
        For layers that relevance cannot pass.

    Examples
    --------
    >>> maps = explainer.gradients(ds, kind="integrated", tol=1e-3)  # doctest: +SKIP
    >>> explainer.groups.sum(maps)  # doctest: +SKIP
    """
    chosen = _kind(kind, settings)
    grouped = isinstance(chosen, Occlusion) and chosen.patches is None
    packed, beside = explainer.read(ds, chosen.compared)
    layout, measure, sample = explainer.layout, explainer.measure, explainer.layout.spec.sample_dim
    _check(explainer, kind, chosen, grouped)
    dtype = str(explainer.adapted.dtype or packed.dtype)
    shape = (len(layout.inputs), *layout.shape)
    told = {} if grouped else chosen.prepare(explainer, (None, *layout.shape, len(layout.inputs)), dtype)
    slots = explainer.slots(packed) if chosen.compared else 0

    parts = _group_parts(explainer) if grouped else _cell_parts(explainer, chosen)
    width = measure.valid.size if grouped else 1
    depth = sum(p.depth for p in parts)
    at_a_time = samples_at_a_time(packed, sample, depth * width)
    each = len(explainer.players) * slots if grouped else chosen.rows(explainer, slots)
    # A gradient remembers what all layers made of a batch: a quarter of the rows of a value.
    usual = default_rows((16 if chosen.derivative else 4) * int(np.prod(shape)))
    accept_batch_rows(batch_rows)
    batch_rows = min(usual if batch_rows is None else batch_rows, at_a_time * each)
    work = Work(explainer, batch_rows, min(batch_rows, at_a_time), dtype)
    values = over_samples(
        layout,
        packed,
        functools.partial(by_groups, work) if grouped else functools.partial(_explain, work, chosen),
        depth,
        width,
        baseline=explainer.baseline if chosen.compared else None,
        beside=beside,
        at_a_time=at_a_time,
        title=kind.replace("_", " "),
    )
    baseline = explainer.baseline.name if chosen.compared else "none"
    marks = {
        "kind": kind,
        "method": chosen.method,
        "seed": chosen.seeded,
        "baseline": baseline,
        "target": measure.label,
    }
    out = label(
        values,
        parts,
        layout=layout,
        measure=measure,
        packed=packed,
        coords=explainer.players.coords if grouped else _coords(layout, packed, chosen),
        settings={**marks, **told, **({} if "rows" in chosen.counts else {"rows_per_sample": each})},
        attrs=ds.attrs,
        what=f"explained {measure.label} by {chosen.method}, baseline {baseline}",
    )
    if grouped:
        return out
    outer = packed.dims[: packed.get_axis_num(sample) + 1]
    return _with_units(out.transpose("channel", *outer, *layout.space, missing_dims="ignore"), layout, chosen)


def _kind(name: str, settings: Mapping[str, Any]) -> Kind:
    if name not in KINDS:
        refuse(
            f"kind {name!r} is unknown{closest(name, KINDS)}",
            " or ".join(KINDS),
            repr(name),
            "leave it out for 'integrated'",
        )
    module, cls = KINDS[name]
    found = getattr(import_module(f"physml.explain.gradients.{module}"), cls)
    known = {f.name: f.default for f in dataclasses.fields(found)}
    if unknown := [s for s in settings if s not in known]:
        refuse(
            f"kind {name!r} has no setting {unknown[0]!r}{closest(unknown[0], known)}",
            ", ".join(f"{n}={d!r}" for n, d in {**known, "batch_rows": None}.items()),
            ", ".join(settings),
            "correct the name, or leave it out",
        )
    return found(**settings)


def _check(explainer: Explainer, kind: str, chosen: Kind, grouped: bool) -> None:
    """Refuse models and targets that a kind cannot explain, before anything is computed."""
    adapted, measure = explainer.adapted, explainer.measure
    if chosen.derivative and adapted.tensors is None:
        refuse(
            f"kind {kind!r} needs the derivative of {adapted.name!r}",
            "a FieldModel, a Keras model or on_tensors(f)",
            type(explainer.model).__name__,
            "use .shapley(...) or kind='occlusion', which need values only",
        )
    if chosen.network and (why := _opaque(adapted, chosen)):
        refuse(
            f"kind {kind!r} looks into the layers of a network",
            "a Keras model of one input",
            why,
            "use kind='integrated'",
        )
    if measure.dims and not grouped:
        refuse(
            f"kind {kind!r} explains one number a sample, and {measure.label!r} has several",
            "a target such as box_mean(...), area_mean() or cell(...)",
            f"a target on {measure.dims}",
            "choose one, or use .shapley(...), which explains whole fields by group",
        )
    if chosen.derivative and measure.weights is None:
        refuse(
            f"kind {kind!r} cannot differentiate {measure.label!r}, a function of the labelled output",
            "a target such as box_mean(...), area_mean(), cell(...) or the name of an output",
            "a function of the output Dataset",
            "choose one of these, or use .shapley(...) or kind='occlusion'",
        )


def _opaque(adapted: Adapted, chosen: Kind) -> str | None:
    """Return what keeps a kind from looking into a model; None if nothing does."""
    if adapted.network is not None:
        return None
    model = keras_of(adapted)
    if model is None:
        return adapted.name
    if len(model.inputs) > 1:
        return f"{model.name!r} of {len(model.inputs)} inputs"
    return None if not chosen.on_grid else f"{model.name!r} of a list of values, which lie on no grid"


def _explain(work: Work, chosen: Kind, block: Block) -> np.ndarray:
    """Return cells, then numbers by sample, as ``[depth, sample, 1]``."""
    found = chosen.explain(work, block)
    n = len(block.inputs)
    rows = []
    for name in chosen.cells:
        there = work.valid if chosen.by_channel else work.valid.any(-1)
        cells = np.where(there, found[name], np.nan)
        if chosen.by_channel:
            cells = np.moveaxis(cells, -1, 1)
        rows.append(cells.reshape(n, -1).T)
    rows += [found[name][None] for name in (*chosen.numbers, *chosen.counts)]
    return np.concatenate(rows)[..., None]


def _cell_parts(explainer: Explainer, chosen: Kind) -> list[Part]:
    layout, target = explainer.layout, explainer.measure.label
    leading = dict(zip(layout.space, layout.shape, strict=True))
    if chosen.by_channel:
        leading = {"channel": len(layout.inputs), **leading}
    parts = [Part(n, about.format(target), leading) for n, about in chosen.cells.items()]
    parts += [Part(n, about.format(target)) for n, about in chosen.numbers.items()]
    return parts + [Part(n, about, units="1", dtype=dtype) for n, (about, dtype) in chosen.counts.items()]


def _group_parts(explainer: Explainer) -> list[Part]:
    target = explainer.measure.label
    return [
        Part("attribution", f"loss of {target} without the group", {"group": len(explainer.players)}),
        Part("residual", f"{target} left over by the losses"),
        Part("prediction", target),
        Part("base_value", f"{target} for the baseline"),
    ]


def _coords(layout: Layout, packed: xr.DataArray, chosen: Kind) -> dict[str, Any]:
    """Return the coordinates of space, and of the channels: variable, offset, and levels."""
    coords: dict[str, Any] = {
        str(n): c for n, c in packed.coords.items() if c.dims and set(c.dims) <= set(layout.space)
    }
    if not chosen.by_channel:
        return coords
    inputs = layout.inputs
    along: dict[Any, Any] = {
        "channel": ([str(c) for c in inputs], {"long_name": "channel of the inputs"}),
        "variable": ([c.name for c in inputs], {"long_name": "input variable"}),
        "offset": ([c.offset for c in inputs], {"long_name": "steps from the sample", "units": "1"}),
    }
    for dim in dict.fromkeys(d for c in inputs for d in c.level):
        labels = [c.level.get(dim) for c in inputs]
        if any(isinstance(x, str) for x in labels):
            labels = ["" if x is None else x for x in labels]
        else:
            labels = [np.nan if x is None else x for x in labels]
        about = layout.statics[dim].attrs if dim in layout.statics.coords else {}
        along[dim] = (labels, {"long_name": f"{dim} of the input", **about})
    return {**coords, **{n: ("channel", values, attrs) for n, (values, attrs) in along.items()}}


def _with_units(out: xr.Dataset, layout: Layout, chosen: Kind) -> xr.Dataset:
    """Give gradients the units of the target over those of each input."""
    if not chosen.per_input:
        return out
    units = [_per(out.attribution.attrs.get("units"), layout.units(c.name)) for c in layout.inputs]
    about = {"long_name": "units of the gradient"}
    for name in chosen.cells:
        del_units = {k: v for k, v in out[name].attrs.items() if k != "units"}
        known = {"units": units[0]} if units[0] and len(set(units)) == 1 else {}
        out[name].attrs = {**del_units, **known}
    return out.assign_coords(channel_units=("channel", [u or "" for u in units], about))


def _per(target: str | None, units: str | None) -> str | None:
    """Return units of a target per unit of an input.

    Examples
    --------
    >>> _per("K", "m s-1"), _per("K", "K"), _per("K", None)
    ('K / (m s-1)', '1', None)
    """
    if target is None or units is None:
        return None
    try:
        same = same_units(target, units)
    except ValueError:  # units that pint does not know are written as they are
        same = target == units
    below = f"({units})" if {*" /*"} & {*units} else units
    return "1" if same else target if units == "1" else f"{target} / {below}"
