"""Classes of a target: the numbers that stand for them, their names, and what a classifier answers about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.layout import Layout, Variable
from physml.learners._fitted import answering

DIM = "category"
"""Dimension of the classes."""
_OWN = ("flag_values", "flag_meanings", "units", "valid_range")


def told(known: Variable) -> tuple[tuple[float, ...], tuple[str, ...]] | None:
    """Return numbers and names of the classes by the CF attributes of a variable, or None where they do not tell."""
    if known.dtype == "bool":
        return (0, 1), ("false", "true")
    values = known.attrs.get("flag_values")
    if values is None:
        return None
    numbers = tuple(_number(v) for v in np.atleast_1d(np.asarray(values)).tolist())
    meanings = known.attrs.get("flag_meanings")
    return numbers, tuple(str(meanings).split()) if meanings else tuple(map(str, numbers))


def check(name: str, numbers: Sequence[float], names: Sequence[str]) -> None:
    """Refuse classes that are fewer than two, repeat, or not as many as their names."""
    if len(numbers) < 2 or len(numbers) != len(names) or len({*numbers}) < len(numbers) or len({*names}) < len(names):
        raise ValueError(
            describe(
                f"numbers and names of the classes of {name!r} do not fit",
                expected="two or more different numbers, and as many different names",
                received=f"values {list(numbers)}, labels {list(names)}",
                remedy="Forest(..., values=[0, 1], labels=['water', 'ice'])",
            )
        )


def found(y: np.ndarray) -> tuple[float, ...]:
    """Return the different numbers of a target, increasing."""
    return tuple(_number(v) for v in np.unique(y).tolist())


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
        attrs = {k: v for k, v in known.attrs.items() if k not in _OWN}
        attrs |= {
            "flag_values": np.asarray(numbers, storage(known, numbers)[0]),
            "flag_meanings": " ".join("_".join(str(x).split()) for x in names),
        }
        out[n] = replace(known, attrs=attrs, dtype="float32")
    for n, known in targets.items():
        at = known.dims.index(layout.spec.sample_dim) + 1
        attrs = {"long_name": f"probability of {known.attrs.get('long_name', n)}", "units": "1"}
        dims, levels = (*known.dims[:at], DIM, *known.dims[at:]), {**known.levels, DIM: tuple(names)}
        out[f"{n}_probability"] = Variable(dims, "float32", attrs, levels)
    made = answering(layout, out)
    label = xr.Variable(DIM, list(names), {"long_name": "class"})
    return replace(made, statics=made.statics.drop_vars(DIM, errors="ignore").assign_coords({DIM: label}))


def storage(known: Variable, numbers: Sequence[float]) -> tuple[str, int | float]:
    """Return the type in which classes are stored in files, and what is missing there."""
    if any(v != int(v) for v in numbers):
        return "float32", float("nan")
    kind = np.dtype(known.dtype)
    if kind.kind not in "iu":
        kind = next(
            np.dtype(k) for k in ("int8", "int16", "int32", "int64") if np.iinfo(k).max > max(map(abs, numbers))
        )
    ends = np.iinfo(kind)
    missing = next(v for v in (int(ends.min), int(ends.max), *range(int(ends.max) - 1, 0, -1)) if v not in numbers)
    return kind.name, missing


def _number(value: float) -> float:
    return int(value) if float(value) == int(value) else float(value)
