"""Readable forms of balances: sources minus sinks, fractions that sum to one, coarse cells that are means of fine ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.constraints.balance import Budget, plain_factor
from physml.constraints.linear import Coefficient, Factor, LinearLaw
from physml.constraints.nearby import Box
from physml.layout import Layout
from physml.provenance import same_units


class Closure(Budget):
    """What is stored is what comes in minus what goes out: ``storage = sum sources - sum sinks``.

    Parameters
    ----------
    storage
        A target or an input; or a number, 0 for what stores nothing.
    sources, sinks
        Names of targets or inputs, or their coefficients by name, as in :class:`Budget`.
    over, weights, blocks, groups, name
        As in :class:`Budget`.

    Examples
    --------
    >>> Closure("net_heat", sources="net_radiation", sinks=("latent", "sensible"))
    Closure(storage='net_heat', sources=('net_radiation',), sinks=('latent', 'sensible'))
    """

    def __init__(
        self,
        storage: str | float,
        sources: str | Sequence[str] | Mapping[str, Factor] = (),
        sinks: str | Sequence[str] | Mapping[str, Factor] = (),
        over: str | Sequence[str] | None = None,
        weights: Factor | None = None,
        *,
        blocks: Mapping[str, int] | None = None,
        groups: str | None = None,
        name: str | None = None,
    ) -> None:
        given: dict[str, xr.DataArray] = {}
        self.storage = storage if isinstance(storage, str) else float(storage)
        self.sources, self.sinks = _named(sources, given), _named(sinks, given)
        terms: dict[str, Any] = {storage: 1.0} if isinstance(storage, str) else {}
        for names, sign in ((self.sources, -1.0), (self.sinks, 1.0)):
            for n in names:
                if n in terms:
                    raise ValueError(
                        describe(
                            f"Closure: {n!r} occurs twice",
                            expected="storage, sources and sinks of different names",
                            received=f"storage={storage!r}, sources={tuple(self.sources)}, sinks={tuple(self.sinks)}",
                            remedy="leave one of them out, or use Budget",
                        )
                    )
                terms[n] = _times(names[n] if isinstance(names, dict) else 1.0, sign)
        equals = 0.0 if isinstance(storage, str) else -self.storage  # type: ignore[operator]
        super().__init__(terms, over, weights, equals, blocks=blocks, groups=groups, name=name)
        self._given |= given

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        config = {"storage": self.storage, "sources": self.sources, "sinks": self.sinks}
        rest = super().get_config()
        return config | {k: v for k, v in rest.items() if k not in ("terms", "equals")}


class Simplex(Budget):
    """Fractions: no part is negative, and the parts sum to one in every cell.

    Parameters
    ----------
    parts
        Names of the targets; or one target, with *over* its level dimension.
    over
        Level dimension along which the parts of a single target lie.
    total
        What the parts sum to: a number, or the name of an input.

    References
    ----------
    Duchi et al. (2008), doi:10.1145/1390156.1390191.

    Examples
    --------
    >>> Simplex(("tree", "grass", "bare"))
    Simplex(parts=('tree', 'grass', 'bare'), over=None, total=1.0)
    """

    def __init__(self, parts: str | Sequence[str], over: str | None = None, total: float | str = 1.0) -> None:
        self.parts = (parts,) if isinstance(parts, str) else tuple(parts)
        self.total = total if isinstance(total, str) else float(total)
        if len(self.parts) == 1 and over is None:
            raise ValueError(
                describe(
                    f"Simplex({self.parts[0]!r}) has a single part",
                    expected="several targets, or the level dimension along which the parts lie",
                    received=f"parts={self.parts}, over=None",
                    remedy="Simplex('fraction', over='class')",
                )
            )
        equals = {self.total: 1.0} if isinstance(self.total, str) else self.total
        super().__init__(dict.fromkeys(self.parts, 1.0), over, None, equals)

    def boxes(self, layout: Layout) -> dict[str, Box]:
        """Return the bounds 0 and, which follows from them and the sum, the total."""
        one = np.ones((1,) * (len(layout.shape) + 1))
        high = one * self.total if isinstance(self.total, float) else None
        return {n: Box(low=0.0 * one, high=high) for n in self.parts}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        parts = self.parts if len(self.parts) > 1 else self.parts[0]
        over = self.over[0] if self.over else None
        return {"parts": parts, "over": over, "total": self.total}


class BlockMean(Budget):
    """Downscaling that agrees with what it started from: the mean over each block of fine cells is the coarse value.

    Parameters
    ----------
    name
        Target on the fine grid.
    coarse
        Input on the fine grid that holds the coarse value in every cell of its block, as repeating or nearest-neighbour
        regridding makes it. In units of *name*.
    factor
        Cells of a block by space dimension: any integers that divide the grid.
    weights
        Name of a field that weighs the cells, such as the area [m2]; masked cells weigh nothing.

    References
    ----------
    Harder et al. (2023), JMLR 24(365).

    Examples
    --------
    >>> BlockMean("rain", "rain_coarse", {"lat": 4, "lon": 4}, weights="area")
    BlockMean(name='rain', coarse='rain_coarse', factor={'lat': 4, 'lon': 4}, weights='area')
    """

    def __init__(self, name: str, coarse: str, factor: Mapping[str, int], weights: str | None = None) -> None:
        self.coarse = coarse
        super().__init__({name: 1.0}, None, weights, {coarse: 1.0}, blocks=factor, name=name)

    def linear(self, layout: Layout) -> tuple[LinearLaw, ...]:
        """Return the law in arrays, its weights summing to one in each block."""
        (law,) = super().linear(layout)
        (name,) = law.outputs
        ours, theirs = layout.units(name) or "", layout.units(self.coarse) or ""
        if ours != theirs and not (ours and theirs and same_units(ours, theirs)):
            raise ValueError(
                describe(
                    f"BlockMean({name!r}): the coarse field is in other units",
                    expected=f"{ours!r} for {self.coarse!r}",
                    received=repr(theirs),
                    remedy="convert it, for example with pint-xarray",
                )
            )
        if law.outputs[name].inputs:
            raise ValueError(
                describe(
                    f"BlockMean({name!r}): the weights differ between samples",
                    expected="a field without the sample dimension, such as the area",
                    received=self.weights,
                    remedy="use Budget with blocks=... and equals={coarse: 1}",
                )
            )
        w = law.outputs[name].fixed
        sums = np.broadcast_to(law.groups.share(law.groups.total(w)), w.shape)
        share = np.divide(w, sums, out=np.zeros_like(w), where=sums > 0)
        known = ((self.coarse, Coefficient(share)),)
        units = layout.units(self.name)
        return (LinearLaw(law.label, law.groups, {name: Coefficient(share)}, known, 0.0, law.depth, law.here, units),)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"name": self.name, "coarse": self.coarse, "factor": self.blocks, "weights": self.weights}


def _named(names: Any, given: dict[str, xr.DataArray]) -> tuple[str, ...] | dict[str, Factor]:
    if isinstance(names, Mapping):
        return {n: plain_factor(v, f"coefficient of {n} in a closure", given) for n, v in names.items()}
    return (names,) if isinstance(names, str) else tuple(names)


def _times(factor: Factor, sign: float) -> Any:
    """Return a factor with a sign."""
    if sign > 0:
        return factor
    if isinstance(factor, str):
        return f"-1*{factor}"
    if isinstance(factor, tuple | list):
        return (-float(factor[0]), factor[1])
    return -factor
