"""Linear laws in tensors: coefficients, what is known beforehand, and the sums of both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from keras import ops

from physml import _backend
from physml._errors import closest, describe
from physml.constraints.groups import Groups
from physml.layout import Layout
from physml.provenance import parse_units

CONSTANTS = {"g": (9.80665, "m s-2")}
"""Numbers that may stand in an expression by name: the standard gravity (CGPM 1901)."""

Factor = str | float | xr.DataArray | tuple[float, str]
"""A factor of a term: a number, a number with units, the name of a field or a product of names, or a field."""


@dataclass(frozen=True)
class Coefficient:
    """What a field is multiplied with before it is summed.

    Attributes
    ----------
    fixed
        ``[*space, level]`` float64, zero on cells that take no part.
    inputs
        Inputs at offset 0 that it is multiplied with as well, with their powers: weights that differ between samples.
    """

    fixed: np.ndarray
    inputs: tuple[tuple[str, int], ...] = ()

    def tensor(self, inputs: Mapping[str, Any], fixed: Any = None) -> Any:
        """Return the coefficient ``[batch or 1, *space, level]``; *inputs* are float64 ``[batch, *space, level]``.

        *fixed* is the fixed part as a tensor, where it travels as an argument.
        """
        out = ops.convert_to_tensor(self.fixed if fixed is None else fixed)[None]
        for name, power in self.inputs:
            x = inputs[name]
            if power < 0:  # anything may stand on masked cells
                x = ops.where(x != 0, x, ops.ones_like(x))
            for _ in range(abs(power)):
                out = out * x if power > 0 else out / x
        return out


@dataclass(frozen=True)
class LinearLaw:
    """``sum C y = sum K x + constant`` in every group of cells.

    Attributes
    ----------
    label
        Its name in errors, metrics and reports.
    groups
        Which cells are summed.
    outputs
        Coefficients ``C`` by target variable.
    known
        Input variables at offset 0 with their coefficients ``K``.
    constant
        Added to what is known; a number or ``[*group, level]``.
    depth
        Levels of the law before summing: 1, or those of its variables.
    here
        ``[*group, level]`` booleans: the groups where there is a law.
    units
        Of the sums, None where unknown.
    """

    label: str
    groups: Groups
    outputs: Mapping[str, Coefficient]
    known: tuple[tuple[str, Coefficient], ...]
    constant: Any
    depth: int
    here: np.ndarray
    units: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Inputs it is computed from, at offset 0."""
        weights = [n for c in (*self.outputs.values(), *(k for _, k in self.known)) for n, _ in c.inputs]
        return tuple(dict.fromkeys([*(n for n, _ in self.known), *weights]))

    def arrays(self) -> dict[str, Any]:
        """Return its arrays, to be passed where they must not be constants of a graph."""
        constant = np.broadcast_to(np.asarray(self.constant, "float64"), self.here.shape)
        return {
            "outputs": {n: c.fixed for n, c in self.outputs.items()},
            "known": [c.fixed for _, c in self.known],
            "constant": np.ascontiguousarray(constant),
            "here": self.here.astype("float64"),
        }

    def coefficients(self, inputs: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tensors of the coefficients by output."""
        return {n: c.tensor(inputs, arrays["outputs"][n]) for n, c in self.outputs.items()}

    def total(self, inputs: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return what the outputs must sum to, and the sum of its absolute terms, ``[batch or 1, *group, level]``."""
        value = ops.convert_to_tensor(arrays["constant"])[None]
        size = ops.abs(value)
        for (name, coefficient), fixed in zip(self.known, arrays["known"], strict=True):
            term = coefficient.tensor(inputs, fixed) * inputs[name]
            value = value + self.groups.sum(term)
            size = size + self.groups.sum(ops.abs(term))
        return value * arrays["here"], size * arrays["here"]

    def sum(self, coefficients: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        """Return the sums of the outputs ``[batch, *group, level]``, given the tensors of the coefficients."""
        found = [self.groups.sum(c * outputs[name]) for name, c in coefficients.items()]
        return sum(found[1:], found[0])


class Terms:
    """Resolves names, numbers and expressions of a law on a layout, with their units.

    Parameters
    ----------
    layout
        Where names are looked up: fields without sample dimension first, then inputs at offset 0, then :data:`CONSTANTS`.
    who
        Named in errors.
    """

    def __init__(self, layout: Layout, who: str) -> None:
        self.layout, self.who = layout, who

    def dims(self, what: Factor) -> set[str]:
        """Return the dimensions along which a factor varies, sample and members left out."""
        found: set[str] = set()
        for name in names_in([what], self.who):
            if name in self.layout.statics.variables:
                found |= set(map(str, self.layout.statics[name].dims))
            elif name in self.layout.spec.inputs:
                known = self.layout.variables[name]
                found |= {d for d in known.dims if d in self.layout.space or d in known.levels}
        return found

    def factor(self, what: Factor, of: str) -> tuple[np.ndarray, list[tuple[str, int]], Any]:
        """Return the fixed part ``[*space, level]``, the inputs with their powers and the pint unit of a factor of a variable."""
        one = parse_units("1")
        fixed: np.ndarray = np.ones((1,) * (len(self.layout.shape) + 1))
        if isinstance(what, tuple):
            return fixed * float(what[0]), [], parse_units(what[1])
        if isinstance(what, float | int | np.number) and not isinstance(what, bool):
            return fixed * float(what), [], one
        if not isinstance(what, str):
            raise TypeError(
                describe(
                    f"{self.who}: a factor of {of!r} is of a type that is not understood",
                    expected="a number, (number, units), a name, a product of names such as 'area*dz', or a DataArray",
                    received=type(what).__name__,
                    remedy="wrap arrays as DataArrays with the dimensions of the field",
                )
            )
        inputs: list[tuple[str, int]] = []
        unit = one
        for name, power in tokens(what, self.who):
            value, units = self._resolve(name, of)
            if isinstance(value, str):
                inputs.append((value, power))
            else:
                fixed = fixed * value if power > 0 else fixed / np.where(value == 0, np.nan, value)
            unit = unit * parse_units(units) ** power
        return fixed, inputs, unit

    def _resolve(self, name: str, of: str) -> tuple[np.ndarray | str, str]:
        """Return a field (or the name of an input) and its units."""
        layout = self.layout
        number = (1,) * (len(layout.shape) + 1)
        try:
            return np.full(number, float(name)), "1"
        except ValueError:
            pass
        if name in layout.statics.variables:
            da = layout.statics[name]
            levelled = bool(set(da.dims) & set(layout.variables[of].levels))
            return layout.static(name, of if levelled else None), da.attrs.get("units", "1")
        if name in layout.spec.inputs:
            layout.where("inputs", name, 0)
            return name, layout.variables[name].attrs.get("units", "1")
        if name in CONSTANTS:
            value, units = CONSTANTS[name]
            return np.full(number, value), units
        names = [*map(str, layout.statics.variables), *layout.spec.inputs, *CONSTANTS]
        raise KeyError(
            describe(
                f"{self.who}: {name!r} is not known{closest(name, names)}",
                expected=f"a field without {layout.spec.sample_dim!r}, an input, or one of {tuple(CONSTANTS)}",
                received=repr(name),
                remedy="correct the name, add the field to the Dataset, or add it to the inputs of the FieldSpec",
            )
        )


def tokens(expression: str, who: str) -> list[tuple[str, int]]:
    """Return the names and numbers of a product with their powers, 1 or -1.

    Examples
    --------
    >>> tokens("area*dz/g", "Budget")
    [('area', 1), ('dz', 1), ('g', -1)]
    """
    parts = re.split(r"\s*([*/])\s*", expression.strip())
    names, signs = parts[::2], ["*", *parts[1::2]]
    if any(not n or re.search(r"[\s()+]", n) for n in names):
        raise ValueError(
            describe(
                f"{who}: an expression cannot be read",
                expected="names and numbers joined by * and /, such as 'area*dz' or 'dp/g'",
                received=repr(expression),
                remedy="put other arithmetic into a variable of the Dataset",
            )
        )
    return [(n, 1 if s == "*" else -1) for n, s in zip(names, signs, strict=True)]


def names_in(factors: Sequence[Any], who: str) -> list[str]:
    """Return the names that occur in factors, numbers left out."""
    found = []
    for what in factors:
        for name, _ in tokens(what, who) if isinstance(what, str) else ():
            try:
                float(name)
            except ValueError:
                found.append(name)
    return list(dict.fromkeys(found))


def law_residual(law: LinearLaw, outputs: Mapping[str, Any], inputs: Mapping[str, Any], layout: Layout) -> Any:
    """Return ``sum C y - sum K x - constant`` ``[batch and offset, *group, level]``, summed in float64, with its gradient."""
    from physml.constraints._arrange import at_start, fold

    names, needs = tuple(law.outputs), law.needs
    y, x = fold({n: outputs[n] for n in names}, layout), at_start(inputs, needs, layout, names[0])
    arrays = law.arrays()

    def forward_and_vjp(*args: Any) -> tuple[Any, Any]:
        wide = [ops.cast(a, "float64") for a in args]
        y64, x64 = dict(zip(names, wide, strict=False)), dict(zip(needs, wide[len(names) :], strict=True))
        c = law.coefficients(x64, arrays)
        value = (law.sum(c, y64) - law.total(x64, arrays)[0]) * arrays["here"]

        def vjp(upstream: Any) -> tuple[Any, ...]:
            g = law.groups.spread(ops.cast(upstream, "float64") * arrays["here"])
            dy = {n: like(g * c[n], y64[n]) for n in names}
            dx = {n: ops.zeros_like(x64[n]) for n in needs}
            for n, coefficient in law.outputs.items():
                through(dx, x64, coefficient, c[n], g * y64[n])
            for (n, coefficient), fixed in zip(law.known, arrays["known"], strict=True):
                weight = coefficient.tensor(x64, fixed)
                dx[n] = dx[n] - like(g * weight, x64[n])
                through(dx, x64, coefficient, weight, -g * x64[n])
            found = [*(dy[n] for n in names), *(dx[n] for n in needs)]
            return tuple(ops.cast(d, a.dtype) for d, a in zip(found, args, strict=True))

        return ops.cast(value, args[0].dtype), vjp

    return _backend.custom_gradient(forward_and_vjp)(*(y[n] for n in names), *(x[n] for n in needs))


def law_totals(law: LinearLaw, outputs: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the sum of the outputs and what it must be, ``[batch, *group, level]``; both at one offset."""
    y, x = ({n: ops.cast(v, "float64") for n, v in fields.items()} for fields in (outputs, known))
    arrays = law.arrays()
    have = law.sum(law.coefficients(x, arrays), y) * arrays["here"]
    return have, law.total(x, arrays)[0]


def law_sides(
    law: LinearLaw, outputs: Mapping[str, Any], inputs: Mapping[str, Any], layout: Layout
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sum of the outputs, what it must be, and the sum of the absolute terms, ``[batch and offset, *group, level]``."""
    from physml.constraints._arrange import at_start, fold

    y = {n: ops.cast(v, "float64") for n, v in fold({n: outputs[n] for n in law.outputs}, layout).items()}
    x = {n: ops.cast(v, "float64") for n, v in at_start(inputs, law.needs, layout, next(iter(y))).items()}
    have, want = law_totals(law, y, x)
    size = law.total(x, law.arrays())[1]
    for n, c in law.coefficients(x, law.arrays()).items():
        size = size + law.groups.sum(ops.abs(c * y[n]))
    return np.asarray(have), np.asarray(want + 0 * size), np.asarray(size)


def through(dx: dict[str, Any], x: Mapping[str, Any], coefficient: Coefficient, value: Any, change: Any) -> None:
    """Add to the gradients of inputs what comes through a coefficient that is made of them."""
    for i, (name, power) in enumerate(coefficient.inputs):
        if power == 1:
            others = coefficient.inputs[:i] + coefficient.inputs[i + 1 :]
            slope = Coefficient(coefficient.fixed, others).tensor(x)
        else:
            slope = value * power / ops.where(x[name] != 0, x[name], ops.ones_like(x[name]))
        dx[name] = dx[name] + like(change * slope, x[name])


def like(x: Any, field: Any) -> Any:
    """Return *x* summed over the levels that *field* lacks, with the batch of *field*."""
    x = ops.sum(x, axis=-1, keepdims=True) if x.shape[-1] != field.shape[-1] and field.shape[-1] == 1 else x
    return x + ops.zeros_like(field)
