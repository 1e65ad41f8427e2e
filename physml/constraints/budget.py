"""Budgets: weighted sums of a field that the step from inputs to targets must keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from keras import ops

from physml import _backend
from physml._errors import describe
from physml.constraints.base import Constraint, Fields, SumLaw
from physml.layout import Layout
from physml.provenance import units_ratio


class Conserve(Constraint):
    """The weighted sum of a field over some dimensions stays what it was, but for named sources.

    With weights ``w`` and the step ``dt`` from offset 0 to the target::

        sum w y  =  sum w x  +  dt sum w s        or, with ``equals``,        sum w y  =  equals

    in every group of cells along the remaining dimensions, where ``x`` is the same variable among the inputs. Sums run in
    float64.

    Parameters
    ----------
    name
        Target variable; also an input, unless *equals* is given.
    over
        Dimensions that are summed: all space dimensions for a global budget, the level dimension for a column. Names.
    weights
        Name of a variable of the Dataset without sample dimension, or a DataArray, such as the cell volume [m3]; >= 0, not
        missing on valid cells. None: every cell counts 1.
    sources
        Input variables that are gained, in the units of *name* (per step) or of *name* per time.
    equals
        The total itself, in units of *name* times *weights*.

    Raises
    ------
    ValueError
        For weights that are negative, missing or all zero, unknown dimensions, and sources in other units.

    Examples
    --------
    >>> Conserve("tracer", over=("lat", "lon"), weights="cell_volume")
    Conserve(name='tracer', over=('lat', 'lon'), weights='cell_volume', sources=(), equals=None)
    """

    relative = True

    def __init__(
        self,
        name: str,
        over: str | Sequence[str],
        weights: str | xr.DataArray | None = None,
        sources: str | Sequence[str] = (),
        equals: float | None = None,
    ) -> None:
        self.name = name
        self.over = (over,) if isinstance(over, str) else tuple(over)
        self._given = weights if isinstance(weights, xr.DataArray) else None
        self.weights = f"weights of {name}" if self._given is not None else weights
        self.sources = (sources,) if isinstance(sources, str) else tuple(sources)
        self.equals = None if equals is None else float(equals)
        if not self.over:
            raise ValueError(
                describe(
                    f"Conserve({name!r}) sums over no dimension",
                    expected="one or more dimension names",
                    received=repr(over),
                    remedy="over=('lat', 'lon')",
                )
            )
        if self.equals is not None and self.sources:
            raise ValueError(
                describe(
                    f"Conserve({name!r}) has both equals and sources",
                    expected="a total that is given, or one that follows from the inputs",
                    received=f"equals={equals}, sources={self.sources}",
                    remedy="drop one of them",
                )
            )

    def given(self) -> dict[str, xr.DataArray]:
        """Return the weights, where they were passed as an array."""
        return {} if self._given is None else {str(self.weights): self._given}

    def statics(self, layout: Layout) -> dict[str, xr.DataArray]:
        """Return the weights."""
        if self.weights is None:
            return {}
        if self._given is not None:
            return {str(self.weights): self._given}
        from physml import grid

        return {
            str(self.weights): grid.variable(layout.statics, str(self.weights), f"weights of Conserve({self.name!r})")
        }

    def needs(self) -> tuple[str, ...]:
        """Return the variable itself and its sources, or nothing where *equals* is given."""
        return () if self.equals is not None else (self.name, *self.sources)

    def verify(self, layout: Layout) -> None:
        """Refuse a layout without the dimensions, the inputs or the units of this budget."""
        super().verify(layout)
        known = layout.variables[self.name]
        unknown = set(self.over) - set(layout.space) - set(known.levels)
        if unknown:
            raise ValueError(
                describe(
                    f"Conserve({self.name!r}) sums over {sorted(unknown)}, which the field does not have",
                    expected=f"dimensions among {(*layout.space, *known.levels)}",
                    received=self.over,
                    remedy="correct over=...",
                )
            )
        if known.levels and 0 < len(set(known.levels) & set(self.over)) < len(known.levels):
            raise ValueError(
                describe(
                    f"Conserve({self.name!r}) sums over some level dimensions but not all",
                    expected=f"all or none of {tuple(known.levels)}",
                    received=self.over,
                    remedy="name them all in over=...",
                )
            )
        for name in self.needs():
            layout.where("inputs", name, 0)
            if layout.variables[name].depth not in (1, known.depth):
                raise ValueError(
                    describe(
                        f"source {name!r} of Conserve({self.name!r}) has other levels than the field",
                        expected=f"{known.depth} levels, or none",
                        received=f"{layout.variables[name].depth} levels",
                        remedy="select or sum its levels",
                    )
                )
        self.weight_field(layout)
        self.source_factor(layout)

    def weight_field(self, layout: Layout) -> np.ndarray:
        """Return the weights ``[*space, level]`` float64, zero on masked cells."""
        valid = layout.valid("targets")[
            ..., layout.where("targets", self.name, layout.spec.offsets("targets", self.name)[0])
        ]
        if self.weights is None:
            return valid.astype("float64")
        w = np.broadcast_to(layout.static(str(self.weights), self.name), valid.shape)
        bad = (~np.isfinite(w) | (w < 0)) & valid
        if bad.any() or not (w[valid] > 0).any():
            raise ValueError(
                describe(
                    f"weights {self.weights!r} of Conserve({self.name!r}) are no weights",
                    expected="finite and >= 0 on valid cells, and not all zero",
                    received=f"{int(bad.sum())} of {int(valid.sum())} valid cells missing or negative, "
                    f"{int((w[valid] > 0).sum())} above zero",
                    remedy="correct, fill or mask those cells",
                )
            )
        return np.where(valid, w, 0.0)

    def source_factor(self, layout: Layout) -> float:
        """Return what a source is multiplied with: 1 for amounts per step, the step [s] for rates."""
        if not self.sources:
            return 1.0
        offsets = layout.spec.offsets("targets", self.name)
        if len(offsets) > 1:
            raise ValueError(
                describe(
                    f"Conserve({self.name!r}) has sources and several target offsets",
                    expected="one target offset",
                    received=offsets,
                    remedy="roll a one-step model out instead",
                )
            )
        factors = {s: self._factor(s, layout, offsets[0]) for s in self.sources}
        if len(set(factors.values())) > 1:
            raise ValueError(
                describe(
                    f"Conserve({self.name!r}) mixes sources per step and per time",
                    expected="one kind",
                    received={s: layout.units(s) for s in factors},
                    remedy="convert one of them",
                )
            )
        return next(iter(factors.values()))

    def _factor(self, source: str, layout: Layout, offset: int) -> float:
        have, want = layout.units(source), layout.units(self.name)
        if have is None or want is None:
            raise ValueError(
                describe(
                    f"Conserve({self.name!r}) cannot tell the units of its source {source!r}",
                    expected="attrs['units'] on both variables",
                    received=f"{self.name}: {want!r}, {source}: {have!r}",
                    remedy="ds[name].attrs['units'] = ...",
                )
            )
        ratio = units_ratio(have, want)
        if ratio.dimensionless:
            return float(ratio.magnitude)
        if ratio.is_compatible_with("1/s") and layout.step is not None and layout.step.seconds is not None:
            return float(ratio.to("1/s").magnitude) * layout.step.seconds * offset
        raise ValueError(
            describe(
                f"source {source!r} of Conserve({self.name!r}) has units that do not add up",
                expected=f"{want!r} per step, or {want!r} per second on a time axis with a fixed step",
                received=f"{have!r} with steps of {layout.step}",
                remedy="convert the source, for example with pint-xarray",
            )
        )

    def sum_law(self, layout: Layout) -> SumLaw:
        """Return the weighted sum in axes and arrays."""
        terms: dict[str, float] = {}
        if self.equals is None:
            terms = {self.name: 1.0} | dict.fromkeys(self.sources, self.source_factor(layout))
        return SumLaw(
            axes=tuple(layout.space.index(d) for d in layout.space if d in self.over),
            over_levels=bool(set(layout.variables[self.name].levels) & set(self.over)),
            weights=self.weight_field(layout),
            terms=terms,
            constant=0.0 if self.equals is None else self.equals,
        )

    def residual(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return ``(sum w y - total) / sum w |x|``, dimensionless, ``[batch and offset, group]``, summed in float64.

        The scale is the amount ``sum w |y|`` where *equals* is given; its own gradient is left out.
        """
        from physml.constraints.combine import arrange

        law = self.held_sum(layout)
        assert law is not None
        y, terms, weights = arrange(outputs[self.name], inputs, law, self.name, layout)
        factors = list(law.terms.values())

        def forward_and_vjp(y: Any, *terms: Any) -> tuple[Any, Any]:
            y64 = ops.cast(y, "float64")
            total = ops.zeros_like(y64[..., 0]) + law.constant
            for factor, term in zip(factors, terms, strict=True):
                total = total + factor * ops.sum(ops.cast(term, "float64") * weights, axis=-1)
            scale = ops.sum(ops.abs(ops.cast(terms[0], "float64") if terms else y64) * weights, axis=-1)
            scale = ops.where(scale > 0, scale, ops.ones_like(scale))
            # A group whose cells are all masked has no law.
            value = np.sign(weights.sum(-1)) * (ops.sum(y64 * weights, axis=-1) - total) / scale

            def vjp(upstream: Any) -> tuple[Any, ...]:
                g = (ops.cast(upstream, "float64") / scale)[..., None] * weights
                return ops.cast(g, y.dtype), *(ops.cast(-f * g, t.dtype) for f, t in zip(factors, terms, strict=True))

            return ops.cast(value, y.dtype), vjp

        return _backend.custom_gradient(forward_and_vjp)(y, *terms)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            "name": self.name,
            "over": self.over,
            "weights": self.weights,
            "sources": self.sources,
            "equals": self.equals,
        }
