"""Classes of a target: the numbers that stand for them, their names, and what a classifier answers about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from physml._errors import describe
from physml.heads import _flags
from physml.heads._answers import along_classes, answering, probability
from physml.layout import Layout, Variable

DIM = "category"
"""Dimension of the classes."""


def found(y: np.ndarray) -> tuple[float, ...]:
    """Return the different numbers of a target, increasing."""
    return tuple(_flags.number(v) for v in np.unique(y).tolist())


def numbered(y: np.ndarray, numbers: Sequence[float], name: str) -> np.ndarray:
    """Return the position of every value among the numbers of the classes.

    Raises
    ------
    ValueError
        For values that are no class.
    """
    order = np.argsort(numbers)
    ordered = np.asarray(numbers, "float64")[order]
    at = np.clip(np.searchsorted(ordered, y), 0, len(ordered) - 1)
    if (strange := y[ordered[at] != y]).size:
        raise ValueError(
            describe(
                f"target {name!r} holds values that are no class",
                expected=f"among {', '.join(map(str, numbers))}",
                received=f"{', '.join(f'{v:g}' for v in np.unique(strange)[:5])} in {strange.size} rows",
                remedy="name all classes in values=[...], or mask those cells",
            )
        )
    return order[at]


def answers(layout: Layout, numbers: Sequence[float], names: Sequence[str]) -> Layout:
    """Return the layout of the most likely class of every target, and of the probability of each: ``NAME_probability``."""
    out: dict[str, Variable] = {}
    targets = {n: layout.variables[n] for n in layout.spec.targets}
    for n, known in targets.items():
        out[n] = replace(known, attrs=_flags.flag_attrs(known, numbers, names), dtype="float32")
    for n, known in targets.items():
        out[f"{n}_probability"] = probability(known, layout, known.attrs.get("long_name", n), DIM, names)
    return answering(layout, out, along_classes(names, DIM), "learner")
