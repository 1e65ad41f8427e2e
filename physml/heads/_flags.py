"""Classes as CF flags: their numbers and names, how they are stored, and how often each occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from physml import _packing
from physml._errors import describe
from physml.layout import Layout, Variable

Flags = tuple[tuple[int | float, ...], tuple[str, ...]]


def flags_of(name: str, known: Variable, values: Sequence[Any] | None, labels: Sequence[str] | None) -> Flags:
    """Return the numbers and the names of the classes of a variable: those given, or those of its attributes.

    Raises
    ------
    ValueError
        Where neither tells the classes, where there are fewer than two, where names and numbers differ in number or repeat.
    """
    if values is None:
        found = told(name, known)
        if found is None:
            raise ValueError(
                describe(
                    f"Classes: the numbers of the classes of {name!r} are not told",
                    expected="Classes(values=[...]), or the attributes flag_values and flag_meanings (CF)",
                    received=f"attributes {', '.join(known.attrs) or 'none'}",
                    remedy=f"ds[{name!r}].attrs.update(flag_values=[0, 1], flag_meanings='water ice')",
                )
            )
        numbers, own = found
    else:
        numbers = tuple(number(v) for v in np.atleast_1d(np.asarray(values)).tolist())
        own = _meanings(known, numbers)
    names = own if labels is None else tuple(map(str, labels))
    check_classes(name, numbers, names)
    return numbers, names


def told(name: str, known: Variable, who: str = "Classes") -> Flags | None:
    """Return the numbers and the names of the classes by the attributes of a variable, or None where they do not tell.

    Raises
    ------
    ValueError
        For flag_masks: several flags may hold at once; and for flag_values that are no numbers.

    Examples
    --------
    >>> told("ice", Variable(("time",), "int8", {"flag_values": "0, 1", "flag_meanings": "water ice"}, {}))
    ((0, 1), ('water', 'ice'))
    """
    if "flag_masks" in known.attrs:
        raise ValueError(
            describe(
                f"{who}: {name!r} has flag_masks, so that several flags may hold at once",
                expected="flag_values: one class a cell",
                received="flag_masks",
                remedy="make one variable for each flag",
            )
        )
    if known.dtype == "bool":
        return (0, 1), ("false", "true")
    values = known.attrs.get("flag_values")
    if values is None:
        return None
    if isinstance(values, str):
        values = [v.rstrip("bBsSlL") for v in values.replace(",", " ").split()]
    try:
        numbers = tuple(number(v) for v in np.atleast_1d(np.asarray(values)).tolist())
    except ValueError as error:
        raise ValueError(
            describe(
                f"{who}: the attribute flag_values of {name!r} holds no numbers",
                expected="numbers, each of one class",
                received=repr(known.attrs["flag_values"]),
                remedy=f"ds[{name!r}].attrs.update(flag_values=[0, 1], flag_meanings='water ice')",
            )
        ) from error
    return numbers, _meanings(known, numbers)


def _meanings(known: Variable, numbers: Sequence[Any]) -> tuple[str, ...]:
    meanings = known.attrs.get("flag_meanings")
    return tuple(map(str, numbers)) if meanings is None else tuple(str(meanings).split())


def check_classes(name: str, numbers: Sequence[Any], names: Sequence[str], who: str = "Classes") -> None:
    """Refuse classes that are fewer than two, named twice, or not as many as their names."""
    alike = len({*numbers}) < len(numbers) or len({*names}) < len(names) or not np.isfinite(list(numbers)).all()
    if len(numbers) < 2 or len(numbers) != len(names) or alike:
        call = "Forest(spec, kind='classification', " if who == "Forest" else f"{who}("
        raise ValueError(
            describe(
                f"{who}: numbers and names of the classes of {name!r} do not fit",
                expected="two or more different numbers, and as many different names",
                received=f"values {list(numbers)}, labels {list(names)}",
                remedy=f"{call}values=[0, 1], labels=['water', 'ice'])",
            )
        )


def flag_attrs(known: Variable, numbers: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the attributes of a variable whose values are classes, with CF flags in the type they are stored in."""
    attrs = {k: v for k, v in known.attrs.items() if k not in ("flag_values", "flag_meanings", "units", "valid_range")}
    kind = storage(known, numbers)[0]
    return attrs | {
        "flag_values": np.asarray(numbers, kind),
        "flag_meanings": " ".join("_".join(str(n).split()) for n in names),
    }


def storage(known: Variable, numbers: Sequence[Any]) -> tuple[str, Any]:
    """Return the integer type in which classes are stored, that of the variable where it has one, and what is missing there.

    Examples
    --------
    >>> storage(Variable(("time",), "float32", {}, {}), (1, 2))
    ('int8', np.int8(-128))
    """
    kind = np.dtype(known.dtype)
    if any(v != int(v) for v in numbers):
        return "float32", np.float32(np.nan)
    if kind.kind not in "iu":
        kind = next(np.dtype(k) for k in ("int8", "int16", "int32", "int64") if _fits(numbers, k))
    ends = np.iinfo(kind)
    order = (ends.max, ends.min) if kind.kind == "u" else (ends.min, ends.max)
    missing = next(v for v in (*order, *range(ends.max - 1, 0, -1)) if v not in numbers)
    return kind.name, kind.type(missing)


def class_shares(
    ds: xr.Dataset, layout: Layout, name: str, numbers: Sequence[Any], onehot: Sequence[str] = ()
) -> np.ndarray:
    """Return which share of the valid cells, weighted by area, each class takes; one pass over the data.

    Cells whose value is missing count for no class.

    Raises
    ------
    ValueError
        For values that are no class, on valid cells.
    """
    weights = layout.weights
    sample = layout.spec.sample_dim
    fields = [_packing.ready(ds[n], sample) for n in (onehot or (name,))]
    valid = _cells(
        layout.valid("targets")[..., layout.where("targets", (onehot or (name,))[0])], layout, fields[0], name
    )
    area = xr.DataArray(weights, dims=layout.space)
    area = area.mean([d for d in layout.space if d not in fields[0].dims]).where(valid, 0.0)
    size = area.broadcast_like(fields[0]).where(fields[0].notnull(), 0.0)
    if onehot:
        found = [((f == 1) * size).sum() for f in fields]
    else:
        found = [((fields[0] == v) * size).sum() for v in numbers]
    whole = xr.concat([*found, size.sum()], "class").compute().values.astype("float64")
    if not np.isclose(whole[:-1].sum(), whole[-1], rtol=1e-5):
        raise ValueError(
            describe(
                f"Classes: {name!r} holds values that are no class, on valid cells",
                expected=", ".join(map(str, onehot or numbers)),
                received=f"other values on {100 * (1 - whole[:-1].sum() / whole[-1]):.3g} % of the area",
                remedy="name all classes, or mask those cells",
            )
        )
    return whole[:-1] / whole[-1]


def _cells(valid: np.ndarray, layout: Layout, da: xr.DataArray, name: str) -> xr.DataArray:
    """Return the valid cells of a variable, on its own dimensions."""
    levels = {d: v for d, v in layout.variables[str(da.name)].levels.items()}
    depth = int(np.prod([len(v) for v in levels.values()], dtype=int))
    whole = valid[..., :depth].reshape(*layout.shape, *(len(v) for v in levels.values()))
    found = xr.DataArray(whole, dims=(*layout.space, *levels))
    return found.any([d for d in layout.space if d not in da.dims])


def refuse_unknown(y: np.ndarray, weights: np.ndarray, names: Sequence[str], numbers: Sequence[Any]) -> None:
    """Refuse targets ``[batch, *space, channel]`` that are no class where they carry weight; *names* by channel."""
    counts = weights if weights.ndim == y.ndim else weights[..., None]
    bad = ~np.isin(y, np.asarray(numbers, y.dtype)) & (counts > 0)
    if bad.any():
        row, *_, channel = (int(i) for i in np.argwhere(bad)[0])
        strange = np.unique(y[bad])[:5]
        raise ValueError(
            describe(
                f"target {names[channel]!r} holds values that are no class, first in sample {row} of the batch",
                expected=f"among {', '.join(map(str, numbers))}",
                received=", ".join(f"{v:g}" for v in strange) + f" on {int(bad.sum())} cells",
                remedy="name all classes in Classes(values=[...]), or mask those cells",
            )
        )


def weights_by_class(given: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """Return weights in the order of the classes.

    Raises
    ------
    ValueError
        Where a class lacks one, or a name is no class.
    """
    if set(given) != set(names) or not all(0 <= float(v) < np.inf for v in given.values()):
        raise ValueError(
            describe(
                "Classes: class_weights do not fit the classes",
                expected=f"one number >= 0 for each of {', '.join(names)}",
                received=dict(given),
                remedy="class_weights={" + ", ".join(f"{n!r}: 1.0" for n in names) + "}",
            )
        )
    return [float(given[n]) for n in names]


def number(value: Any) -> int | float:
    """Return a number as a whole one where it is."""
    return int(value) if float(value).is_integer() else float(value)


def _fits(numbers: Sequence[Any], kind: str) -> bool:
    ends = np.iinfo(kind)
    return all(ends.min < v <= ends.max for v in numbers)
