"""What is answered beside or in place of the targets: layouts of heads and of learners that are no networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import xarray as xr

from physml._errors import describe
from physml.layout import Layout, Variable


def answering(
    layout: Layout,
    variables: Mapping[str, Variable],
    along: Mapping[str, xr.Variable] | None = None,
    who: str = "head",
) -> Layout:
    """Return a layout with other targets, at the same offsets: what a head or a learner answers.

    Parameters
    ----------
    layout
        Layout of inputs and targets.
    variables
        The answered variables in their order; one that is also an input keeps, in the result, what is remembered of it as a target.
    along
        Labels of the dimensions that are added, by name.
    who
        ``"head"`` or ``"learner"``, for messages.

    Raises
    ------
    ValueError
        Where a new name is taken by another variable, or a new dimension by another dimension.
    """
    spec = layout.spec
    taken = [n for n in variables if n in layout.variables and n not in spec.targets]
    if taken:
        raise ValueError(
            describe(
                f"the {who} would answer {taken[0]!r}, which is the name of an input",
                expected="a name of its own",
                received=repr(taken[0]),
                remedy="rename the input",
            )
        )
    levels = {d for n in spec.targets for d in layout.variables[n].levels}
    used = [d for d in along or {} if d in {spec.sample_dim, *layout.space, *layout.members, *levels}]
    if used:
        raise ValueError(
            describe(
                f"the {who} would add the dimension {used[0]!r}, which the data have",
                expected="a name of its own",
                received=repr(used[0]),
                remedy="give the head another: dim='...'" if who == "head" else "rename that of the data",
            )
        )
    return replace(
        layout,
        spec=replace(spec, targets=tuple(variables)),
        variables={**layout.variables, **variables},
        statics=layout.statics.drop_vars(list(along or {}), errors="ignore").assign_coords(along or {}),
    )


def refuse_taken(layout: Layout, names: Sequence[str]) -> None:
    """Refuse targets that have a name which the head gives to what it answers beside them."""
    taken = [n for n in names if n in layout.spec.targets]
    if taken:
        raise ValueError(
            describe(
                f"the head would answer {taken[0]!r}, which is the name of a target",
                expected="a name of its own",
                received=repr(taken[0]),
                remedy="rename the target",
            )
        )


def longer(known: Variable, layout: Layout, dim: str, labels: Sequence[Any]) -> Variable:
    """Return a variable with one dimension more, beside the samples."""
    at = known.dims.index(layout.spec.sample_dim) + 1
    dims = (*known.dims[:at], dim, *known.dims[at:])
    return replace(known, dims=dims, levels={**known.levels, dim: tuple(labels)})


def spread_along(
    layout: Layout, dim: str, labels: Sequence[Any], attrs: Mapping[str, Any], who: str = "head"
) -> Layout:
    """Return a layout whose targets have one dimension more, beside the samples: quantiles, or members.

    Parameters
    ----------
    layout
        Layout of inputs and targets.
    dim, labels, attrs
        The dimension, its labels and what is said of them.
    who
        As for :func:`answering`.
    """
    found = {n: longer(layout.variables[n], layout, dim, labels) for n in layout.spec.targets}
    return answering(layout, found, {dim: xr.Variable(dim, list(labels), dict(attrs))}, who)


def along_quantiles(layout: Layout, levels: Sequence[float], dim: str = "quantile", who: str = "head") -> Layout:
    """Return a layout whose targets lie along quantiles."""
    return spread_along(layout, dim, levels, {"long_name": "level of the quantile", "units": "1"}, who)


def probability(known: Variable, layout: Layout, label: str, dim: str, names: Sequence[str]) -> Variable:
    """Return the probability of each class of a variable, labelled by the names of the classes."""
    attrs = {"long_name": f"probability of {label}", "units": "1"}
    return replace(longer(known, layout, dim, names), dtype="float32", attrs=attrs)


def along_classes(names: Sequence[str], dim: str) -> dict[str, xr.Variable]:
    """Return the names of classes as the labels of their dimension."""
    return {dim: xr.Variable(dim, list(names), {"long_name": "class"})}
