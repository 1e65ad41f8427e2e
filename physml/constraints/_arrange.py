"""Tensors of laws: target offsets become samples, and fields become groups of cells for a single sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from physml.constraints.base import Fields, SumLaw
from physml.layout import Layout


def fold(fields: Fields, layout: Layout) -> dict[str, Any]:
    """Return targets ``[batch, *space, offset and level]`` as ``[batch and offset, *space, level]``."""
    out = {}
    for name, x in fields.items():
        offsets, depth = len(layout.spec.offsets("targets", name)), layout.variables[name].depth
        if offsets > 1:
            x = ops.moveaxis(ops.reshape(x, (-1, *layout.shape, offsets, depth)), -2, 1)
            x = ops.reshape(x, (-1, *layout.shape, depth))
        out[name] = x
    return out


def unfold(fields: Mapping[str, Any], like: Fields, layout: Layout) -> dict[str, Any]:
    """Undo :func:`fold`."""
    out = {}
    for name, x in fields.items():
        offsets, depth = len(layout.spec.offsets("targets", name)), layout.variables[name].depth
        if offsets > 1:
            x = ops.moveaxis(ops.reshape(x, (-1, offsets, *layout.shape, depth)), 1, -2)
            x = ops.reshape(x, (-1, *layout.shape, offsets * depth))
        out[name] = x
    return out


def at_start(inputs: Fields, names: Sequence[str], layout: Layout, target: str | None = None) -> dict[str, Any]:
    """Return inputs at offset 0, ``[batch, *space, level]``, repeated for every offset of a target."""
    out = {}
    offsets = 1 if target is None else len(layout.spec.offsets("targets", target))
    for name in names:
        start = layout.where("inputs", name, 0).start - layout.where("inputs", name).start
        x = inputs[name][..., start : start + layout.variables[name].depth]
        out[name] = ops.repeat(x, offsets, axis=0) if offsets > 1 else x
    return out


def arrange(y: Any, inputs: Fields, law: SumLaw, name: str, layout: Layout) -> tuple[Any, list[Any], np.ndarray]:
    """Bring fields ``[batch, *space, offset and level]`` into ``[batch and offset, group, cell]`` for a weighted sum.

    Returns
    -------
    y, terms
        The outputs, and the input terms at offset 0 repeated for every target offset.
    weights
        ``[group, cell]``.
    """
    n_offsets = len(layout.spec.offsets("targets", name))
    terms = []
    for source in law.terms:
        inner = layout.where("inputs", source, 0)
        start = inner.start - layout.where("inputs", source).start
        x = inputs[source][..., start : start + layout.variables[source].depth]
        if layout.variables[source].depth != layout.variables[name].depth:
            x = ops.broadcast_to(x, (*ops.shape(x)[:-1], layout.variables[name].depth))
        terms.append(group(x, law, 1, layout))
    terms = [ops.repeat(t, n_offsets, axis=0) for t in terms] if n_offsets > 1 else terms
    weights = group_array(law.weights[None], law, len(layout.space))[0]
    return group(y, law, n_offsets, layout), terms, weights


def _axes(law: SumLaw, n_space: int) -> tuple[list[int], list[int]]:
    """Axes of ``[batch, *space, level]`` that stay and that are summed."""
    summed = [1 + a for a in law.axes] + ([1 + n_space] if law.over_levels else [])
    return [a for a in range(1, n_space + 2) if a not in summed], summed


def group_array(x: np.ndarray, law: SumLaw, n_space: int) -> np.ndarray:
    stay, summed = _axes(law, n_space)
    moved = np.transpose(x, (0, *stay, *summed))
    return moved.reshape(x.shape[0], int(np.prod([x.shape[a] for a in stay], dtype=int)), -1)


def group(x: Any, law: SumLaw, n_offsets: int, layout: Layout) -> Any:
    n_space = len(layout.space)
    depth = x.shape[-1] // n_offsets
    if n_offsets > 1:
        x = ops.reshape(x, (-1, *layout.shape, n_offsets, depth))
        x = ops.reshape(ops.moveaxis(x, -2, 1), (-1, *layout.shape, depth))
    stay, summed = _axes(law, n_space)
    sizes = (None, *layout.shape, depth)
    groups = int(np.prod([sizes[a] for a in stay], dtype=int))
    cells = int(np.prod([sizes[a] for a in summed], dtype=int))
    if [*stay, *summed] != list(range(1, n_space + 2)):
        x = ops.transpose(x, (0, *stay, *summed))
    return ops.reshape(x, (-1, groups, cells))


def disarrange(y: Any, like: Any, law: SumLaw, layout: Layout) -> Any:
    """Undo :func:`arrange` for the outputs."""
    n_space = len(layout.space)
    stay, summed = _axes(law, n_space)
    depth = law.weights.shape[-1]
    n_offsets = like.shape[-1] // depth
    sizes = (None, *layout.shape, depth)
    y = ops.reshape(y, (-1, *(sizes[a] for a in stay), *(sizes[a] for a in summed)))
    back = np.argsort([*stay, *summed])
    if list(back) != list(range(n_space + 1)):
        y = ops.transpose(y, (0, *(int(b) + 1 for b in back)))
    if n_offsets > 1:
        y = ops.reshape(y, (-1, n_offsets, *layout.shape, depth))
        y = ops.moveaxis(y, 1, -2)
    return ops.reshape(y, (-1, *layout.shape, n_offsets * depth))
