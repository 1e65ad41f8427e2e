"""Balances: linear laws between several variables, in every cell, column, block, basin, or over the whole grid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe
from physml.constraints.base import Constraint, Fields
from physml.constraints.groups import Groups
from physml.constraints.linear import Coefficient, Factor, LinearLaw, Terms, law_residual, names_in
from physml.fields import Role
from physml.layout import Layout
from physml.provenance import parse_units, same_units, units_ratio


class Budget(Constraint):
    """Terms that add up: ``sum C y + sum K x = equals`` over groups of cells, outputs ``y`` and known inputs ``x`` alike.

    Parameters
    ----------
    terms
        Coefficients by variable, targets or inputs (at offset 0); a name that is both is the target. A coefficient is a number,
        ``(number, "units")``, the name of a field or of an input, a product of such (``"cp*dp/g"``), or a DataArray.
    over
        Dimensions that are summed; None: the law holds in every cell, and on every level.
    weights
        A factor of all terms, such as ``"area*dz"`` or ``"dp/g"``: fields without sample dimension, inputs (weights that differ
        between samples), numbers, and the standard gravity ``g``. A term that lacks a summed dimension along which the weights
        vary is taken as summed already, and is not weighed.
    equals
        What the terms add up to, in the units of the law; or names of inputs with coefficients, as in *terms*.
    blocks
        In place of *over*: cells by dimension that make a block, ``{"lat": 4, "lon": 4}``.
    groups
        In place of *over* for all space dimensions: the name of a field of integers, such as a basin number; missing and
        negative: no law.
    name
        In reports and errors. By default the names of the terms.

    Raises
    ------
    ValueError
        For units that do not add up, dimensions that do not fit, coefficients that are missing on valid cells.
    KeyError
        For names that are neither target nor input.

    Notes
    -----
    Where units are given they are compared, and terms converted to those of the first (g kg-1 against kg kg-1). A term without
    units beside others with units is an error. A degree Celsius counts as a kelvin: of differences, not of zero points.

    References
    ----------
    Beucler et al. (2021), doi:10.1103/PhysRevLett.126.098302.

    Examples
    --------
    >>> Budget({"net": 1, "solar": -1, "longwave": 1})
    Budget(terms={'net': 1.0, 'solar': -1.0, 'longwave': 1.0})
    >>> Budget({"heating": ("cp"), "flux": -1}, over="level", weights="dp/g", name="enthalpy").name
    'enthalpy'
    """

    def __init__(
        self,
        terms: Mapping[str, Factor] | Sequence[str],
        over: str | Sequence[str] | None = None,
        weights: Factor | None = None,
        equals: float | Mapping[str, Factor] = 0.0,
        *,
        blocks: Mapping[str, int] | None = None,
        groups: str | None = None,
        name: str | None = None,
    ) -> None:
        given: dict[str, xr.DataArray] = {}
        terms = terms if isinstance(terms, Mapping) else dict.fromkeys(terms, 1.0)
        self.name = name or "_".join(terms)
        self._named = name
        self.terms = {k: plain_factor(v, f"coefficient of {k} in {self.name}", given) for k, v in terms.items()}
        self.over = None if over is None else (over,) if isinstance(over, str) else tuple(over)
        self.weights = None if weights is None else plain_factor(weights, f"weights of {self.name}", given)
        self.equals: float | dict[str, Factor] = (
            {k: plain_factor(v, f"coefficient of known {k} in {self.name}", given) for k, v in equals.items()}
            if isinstance(equals, Mapping)
            else float(equals)
        )
        self.blocks = None if blocks is None else {k: int(v) for k, v in blocks.items()}
        self.groups = groups
        self._given = given
        if not self.terms or (self.blocks is not None and self.groups is not None):
            raise ValueError(
                describe(
                    f"{self!r} is no law" if self.terms else "Budget has no terms",
                    expected="terms by name, summed in one way: over, blocks or groups",
                    received=f"terms={list(self.terms)}, over={self.over}, blocks={self.blocks}, groups={self.groups!r}",
                    remedy="Budget({'a': 1, 'b': -1}, over=('lat', 'lon'))",
                )
            )

    # names ------------------------------------------------------------------------------------------------------------

    @property
    def _who(self) -> str:
        return f"{type(self).__name__} {self.name!r}"

    def mentions(self) -> tuple[str, ...]:
        """Return the variables of its terms."""
        return tuple(self.terms)

    def factors(self) -> tuple[str, ...]:
        """Return the names in its coefficients and weights."""
        known = self.equals.values() if isinstance(self.equals, dict) else ()
        extra = [self.groups] if self.groups is not None else []
        every = [*self.terms.values(), *known, *([self.weights] if self.weights is not None else [])]
        return tuple(dict.fromkeys([*names_in(every, self._who), *extra]))

    def needs(self) -> tuple[str, ...]:
        """Return the inputs among *equals*."""
        return tuple(self.equals) if isinstance(self.equals, dict) else ()

    def given(self) -> dict[str, xr.DataArray]:
        """Return the factors that were passed as arrays."""
        return dict(self._given)

    def statics(self, layout: Layout) -> dict[str, xr.DataArray]:
        """Return the fields that weigh its terms."""
        found = {n: layout.statics[n] for n in self.factors() if n in layout.statics.variables}
        return found | {n: da for n, da in self._given.items()}

    def verify(self, layout: Layout) -> None:
        """Refuse a layout without its terms, dimensions or units."""
        self.linear(layout)

    def _split(self, layout: Layout) -> tuple[list[str], list[tuple[str, Factor, float]]]:
        """Return the outputs among the terms, and the known terms with their coefficients and signs on the other side."""
        outputs = [n for n in self.terms if n in layout.spec.targets]
        known = [(n, c, -1.0) for n, c in self.terms.items() if n not in outputs]
        known += [(n, c, 1.0) for n, c in (self.equals.items() if isinstance(self.equals, dict) else ())]
        for n, _, _ in known:
            if n not in layout.spec.inputs:
                names = (*layout.spec.targets, *layout.spec.inputs)
                raise KeyError(
                    describe(
                        f"{self._who}: {n!r} is neither target nor input{closest(n, names)}",
                        expected=f"one of {names}",
                        received=repr(n),
                        remedy="correct the name, or add it to the FieldSpec",
                    )
                )
            layout.where("inputs", n, 0)
        if not outputs:
            raise ValueError(
                describe(
                    f"{self._who} constrains no output",
                    expected=f"a target among its terms: {tuple(layout.spec.targets)}",
                    received=tuple(self.terms),
                    remedy="add one of them to the targets of the FieldSpec",
                )
            )
        return outputs, known

    # the law in arrays ------------------------------------------------------------------------------------------------

    def linear(self, layout: Layout) -> tuple[LinearLaw, ...]:
        """Return the law in arrays."""
        outputs, known = self._split(layout)
        names = [*outputs, *(n for n, _, _ in known)]
        over = self._over(layout, names)
        levels = {d for n in names for d in layout.variables[n].levels}
        summed_levels = bool(levels & set(over))
        depths = {layout.variables[n].depth for n in names}
        depth = max(depths)
        self._check_levels(layout, names, levels, over, depths)
        # a cell takes part where all terms have a value
        valid = {n: _valid(layout, n, n in outputs) for n in names}
        if summed_levels:
            flat = np.logical_and.reduce([v.any(-1, keepdims=True) for v in valid.values()])
            together = {n: np.logical_and(v, flat) for n, v in valid.items()}
        else:
            shape = (*layout.shape, depth)
            together = dict.fromkeys(names, np.logical_and.reduce([np.broadcast_to(v, shape) for v in valid.values()]))
        terms = Terms(layout, self._who)
        units: str | None = None
        out: dict[str, Coefficient] = {}
        sides: list[tuple[str, Coefficient]] = []
        for i, (n, what, sign) in enumerate([*((n, self.terms[n], 1.0) for n in outputs), *known]):
            coefficient, its = self._coefficient(terms, layout, n, what, over, together[n])
            if i == 0:
                units = its
            else:
                sign = sign * self._scale(outputs[0], units, n, its)
            coefficient = Coefficient(coefficient.fixed * sign, coefficient.inputs)
            if i < len(outputs):
                out[n] = coefficient
            else:
                sides.append((n, coefficient))
        groups = self._groups(layout, over, summed_levels)
        kept = 1 if summed_levels else depth
        there = [np.broadcast_to(c.fixed != 0, (*layout.shape, c.fixed.shape[-1])) for c in out.values()]
        size = groups.sizes(kept)
        some = np.logical_or.reduce([np.broadcast_to(groups.total(t.astype("float64")) > 0, size) for t in there])
        constant = self.equals if isinstance(self.equals, float) else 0.0
        return (LinearLaw(self.name, groups, out, tuple(sides), constant, kept, some, units),)

    def _over(self, layout: Layout, names: list[str]) -> tuple[str, ...]:
        """Return the dimensions that are summed whole."""
        have = {*layout.space, *(d for n in names for d in layout.variables[n].levels)}
        over = self.over or ()
        if self.groups is not None:
            over = tuple(dict.fromkeys([*over, *layout.space]))
        asked = [*over, *(self.blocks or {})]
        unknown = [d for d in asked if d not in have]
        if unknown:
            raise ValueError(
                describe(
                    f"{self._who} sums over {unknown}, which its terms do not have{closest(unknown[0], have)}",
                    expected=f"dimensions among {sorted(have)}",
                    received=tuple(asked),
                    remedy="correct the dimensions",
                )
            )
        sizes = dict(zip(layout.space, layout.shape, strict=True))
        for d, n in (self.blocks or {}).items():
            if d not in sizes or n < 1 or sizes[d] % n or d in over:
                raise ValueError(
                    describe(
                        f"{self._who}: the blocks do not fit the grid along {d!r}",
                        expected=f"a divisor of the {sizes.get(d, 0)} cells along a space dimension that is not in over",
                        received=n,
                        remedy="select a region whose size is a multiple of the block",
                    )
                )
        return over

    def _check_levels(
        self, layout: Layout, names: list[str], levels: set[str], over: tuple[str, ...], depths: set[int]
    ) -> None:
        summed = levels & set(over)
        if summed and summed != levels:
            raise ValueError(
                describe(
                    f"{self._who} sums over some level dimensions but not all",
                    expected=f"all or none of {sorted(levels)}",
                    received=over,
                    remedy="name them all in over=...",
                )
            )
        if not summed and len(depths - {1}) > 1:
            raise ValueError(
                describe(
                    f"{self._who}: its terms have different levels",
                    expected="the same levels of all terms, or none",
                    received={n: layout.variables[n].depth for n in names},
                    remedy="select the same levels, or sum over them",
                )
            )
        offsets = {layout.spec.offsets("targets", n) for n in names if n in layout.spec.targets and n in self.terms}
        if len(offsets) > 1:
            raise ValueError(
                describe(
                    f"{self._who}: its terms are predicted at different times",
                    expected="the same target offsets for all of them",
                    received={n: layout.spec.offsets("targets", n) for n in names if n in layout.spec.targets},
                    remedy="give them the same target offsets",
                )
            )

    def _coefficient(
        self, terms: Terms, layout: Layout, n: str, what: Factor, over: tuple[str, ...], valid: np.ndarray
    ) -> tuple[Coefficient, str | None]:
        """Return the coefficient of a term, zero where it takes no part, and the units of the term."""
        known = layout.variables[n]
        fixed, inputs, unit = terms.factor(what, n)
        lacking = [d for d in (*over, *(self.blocks or {})) if d in layout.space and d not in known.dims]
        own = {*(d for d in layout.space if d not in lacking), *known.levels}
        if self.weights is not None and not (terms.dims(self.weights) & {*over, *(self.blocks or {})}) - own:
            w_fixed, w_inputs, w_unit = terms.factor(self.weights, n)
            fixed, inputs, unit = fixed * w_fixed, [*inputs, *w_inputs], unit * w_unit
        deep = max([fixed.shape[-1], *(layout.variables[i].depth for i, _ in inputs)])
        if deep not in (1, max(known.depth, valid.shape[-1])):
            raise ValueError(
                describe(
                    f"{self._who}: the coefficient of {n!r} has levels that the term lacks",
                    expected=f"{max(known.depth, valid.shape[-1])} levels, or none",
                    received=deep,
                    remedy="select or sum the levels of the coefficient, or give the term its own",
                )
            )
        fixed = np.broadcast_to(fixed, (*layout.shape, max(fixed.shape[-1], known.depth, valid.shape[-1])))
        here = np.broadcast_to(valid, fixed.shape)
        if lacking:  # one number for all cells of a sum counts once
            sizes = dict(zip(layout.space, layout.shape, strict=True)) | (self.blocks or {})
            cells: Any = np.prod([sizes[d] for d in lacking])
            if self.groups is not None:
                if len(lacking) < len(layout.space):
                    raise ValueError(
                        describe(
                            f"{self._who}: {n!r} lies along a part of the space dimensions that its groups divide",
                            expected=f"all of {layout.space}, or none",
                            received=known.dims,
                            remedy="give it on the grid, or as one number",
                        )
                    )
                groups = self._groups(layout, over, False)
                cells = np.maximum(groups.share(groups.total(np.ones((*layout.shape, 1)))), 1)
            fixed = fixed / cells
            here = np.ones_like(here)
        bad = ~np.isfinite(fixed) & here
        if bad.any():
            raise ValueError(
                describe(
                    f"{self._who}: the coefficient of {n!r} is missing",
                    expected="finite on every valid cell",
                    received=f"{int(bad.sum())} of {int(here.sum())} valid cells without a finite value",
                    remedy="fill or mask those cells; 0 takes a cell out of the sum",
                )
            )
        units = known.attrs.get("units")
        if units is not None:  # sums are of changes of a temperature as well as of itself
            units = str(parse_units("K" if same_units(units, "degC") else units) * unit)
        return Coefficient(np.where(here, fixed, 0.0), tuple(inputs)), units

    def _scale(self, first: str, units: str | None, n: str, its: str | None) -> float:
        """Return what a term is multiplied with to be in the units of the first."""
        if units is None and its is None:
            return 1.0
        if units is not None and its is not None:
            ratio = units_ratio(its, units)
            if ratio.dimensionless:
                return float(ratio.to("").magnitude)
        raise ValueError(
            describe(
                f"{self._who}: the units of its terms do not add up",
                expected=f"{units!r}, as {first!r} times its coefficient and weights",
                received=f"{its!r} for {n!r}",
                remedy="correct attrs['units'], or give the coefficient its units: (number, 'units')",
            )
        )

    def _groups(self, layout: Layout, over: tuple[str, ...], summed_levels: bool) -> Groups:
        axes = tuple(layout.space.index(d) for d in layout.space if d in over)
        if self.groups is not None:
            labels = layout.static(self.groups)[..., 0]
            known = np.isfinite(labels) & (labels >= 0)
            if not known.any():
                raise ValueError(
                    describe(
                        f"{self._who}: the groups {self.groups!r} hold no group",
                        expected="integers >= 0 in some cells",
                        received="missing or negative everywhere",
                        remedy="select a region with cells of a group, or leave the law out",
                    )
                )
            values, dense = np.unique(np.where(known, labels, -1).astype("int64"), return_inverse=True)
            dense = dense.reshape(labels.shape) - (0 if values[0] >= 0 else 1)
            return Groups(layout.shape, axes, summed_levels, labels=np.where(known, dense, -1))
        blocks = {layout.space.index(d): n for d, n in (self.blocks or {}).items()}
        return Groups(layout.shape, axes, summed_levels, blocks)

    def residual(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return ``sum C y + sum K x - equals`` in the units of the law, ``[batch and offset, *group, level]``."""
        return law_residual(self.held_linear(layout)[0], outputs, inputs, layout)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        config: dict[str, Any] = {"terms": dict(self.terms)}
        config |= {"over": self.over} if self.over is not None else {}
        config |= {"weights": self.weights} if self.weights is not None else {}
        config |= {"equals": self.equals} if self.equals != 0.0 else {}
        config |= {"blocks": self.blocks} if self.blocks is not None else {}
        config |= {"groups": self.groups} if self.groups is not None else {}
        return config | ({"name": self._named} if self._named is not None else {})


def plain_factor(what: Any, name: str, given: dict[str, xr.DataArray]) -> Factor:
    """Return a factor as it is kept: numbers as floats, arrays by name."""
    if isinstance(what, xr.DataArray):
        name = re.sub(r"\W+", "_", name)
        given[name] = what
        return name
    if isinstance(what, list | tuple) and len(what) == 2 and isinstance(what[1], str):
        return (float(what[0]), what[1])
    if isinstance(what, int | float | np.number) and not isinstance(what, bool):
        return float(what)
    return what


def _valid(layout: Layout, name: str, target: bool) -> np.ndarray:
    role: Role = "targets" if target else "inputs"
    at = layout.spec.offsets("targets", name)[0] if target else 0
    return layout.valid(role)[..., layout.where(role, name, at)]
