"""Helmholtz: velocities whose divergence is given, as a flow without divergence plus the flow of a potential."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import describe
from physml.constraints._cgrid import measure
from physml.constraints._poisson import MAX_PASSES, Poisson
from physml.constraints.streamfunction import Streamfunction
from physml.layout import Layout


class Helmholtz(Streamfunction):
    """Head whose velocities have the divergence that an input says, on a masked C-grid with islands.

    With the streamfunction ``psi`` of :class:`physml.Streamfunction`, the size ``e`` of a face, the distance ``d`` between
    the centres of its cells, the area ``A`` of a cell and the potential ``phi``::

        e u = rot psi + (e / d) grad phi,        net outflow of a cell = A factor div

    The network gives ``psi``; ``phi`` solves the Poisson problem with walls on all coasts, by preconditioned conjugate
    gradients in float64, to 1e-13 of the largest outflow. A basin with closed coasts can have no net outflow: what the input
    says there is taken less its mean over that basin, which :meth:`excess` tells. The divergence of the output is that of the input to
    the rounding of the output.

    Parameters
    ----------
    velocity, boundary, edges, scale
        As for :class:`physml.Streamfunction`.
    distances
        From the centre of each cell to the next along each dimension [m]: the name of a static field on the faces, or one number.
    area
        Of the cells [m2]: the name of a static field, or one number.
    divergence
        The input, at offset 0, that says the divergence [s-1]: outflow over area.
    factor
        What it is multiplied with, as -1 for the convergence that raises the sea level. Where input, velocities, edges and
        area all have units, these are checked and converted.

    Raises
    ------
    ValueError
        As :class:`physml.Streamfunction`; and for a divergence with other levels than the velocities, several target offsets,
        units that do not fit, and grids on which the iteration does not converge.

    Notes
    -----
    Every velocity depends on the divergence everywhere in its basin. The gradient with respect to the input takes one more solve,
    that with respect to the network none. A solve takes about 50 passes where coasts are smooth, up to a few hundred where
    they are a maze, whatever the resolution; most of its time goes into products with matrices as wide as the grid.

    Examples
    --------
    >>> one = {"x": 1.0, "y": 1.0}
    >>> head = Helmholtz({"x": "u", "y": "v"}, {"x": "closed", "y": "closed"}, one, one, 1.0, divergence="rise", factor=-1)
    >>> head.factor
    -1.0
    """

    def __init__(
        self,
        velocity: Mapping[str, str],
        boundary: Mapping[str, str],
        edges: Mapping[str, str | float],
        distances: Mapping[str, str | float],
        area: str | float,
        divergence: str,
        factor: float = 1.0,
        scale: float = 8.0,
    ) -> None:
        super().__init__(velocity, boundary, edges, scale)
        self.distances, self.area, self.divergence, self.factor = dict(distances), area, divergence, float(factor)
        if not self.factor:
            raise ValueError(
                describe(
                    "Helmholtz: a factor of 0 leaves no divergence to be met",
                    expected="another number, such as 1 or -1",
                    received=factor,
                    remedy="use Streamfunction for flows without divergence",
                )
            )

    def statics(self, layout: Layout) -> Sequence[str]:
        """Return the names of the static fields that are kept with the layout."""
        found = [*super().statics(layout), *self.distances.values(), self.area]
        return tuple(dict.fromkeys(f for f in found if isinstance(f, str)))

    def bind(self, layout: Layout, unit: np.ndarray | None = None) -> None:
        """Prepare coasts, sizes and the solver for a layout; refuse one it cannot act on."""
        super().bind(layout, unit)
        names = [self.velocity[d] for d in layout.space]
        if set(self.distances) != set(layout.space):
            raise ValueError(
                describe(
                    "Helmholtz: distances do not fit the grid",
                    expected=f"one entry for each of {layout.space}",
                    received=self.distances,
                    remedy="distances={'x': 'dx_u', 'y': 'dy_v'}",
                )
            )
        self._given = layout.where("inputs", self.divergence, 0)
        depth, offsets = layout.variables[self.divergence].depth, layout.spec.offsets("targets", names[0])
        if depth != layout.variables[names[0]].depth or len(offsets) > 1:
            raise ValueError(
                describe(
                    f"Helmholtz: the divergence {self.divergence!r} does not tell that of every velocity",
                    expected="the levels of the velocities, and one target offset",
                    received=f"{depth} and {layout.variables[names[0]].depth} level(s), target offsets {offsets}",
                    remedy="select the same levels; make one model for each offset",
                )
            )
        lengths = [
            measure("Helmholtz", f"the distance along {d}", self.distances[d], layout, n, o)
            for d, n, o in zip(layout.space, names, self._open, strict=True)
        ]
        area = measure("Helmholtz", "area", self.area, layout, names[0], self._valid)
        self._converted = self._units(layout, names)
        self._content = np.where(self._valid, area, 0.0) * (self.factor * self._converted)
        conductance = [np.where(o, e / d, 0.0) for o, e, d in zip(self._open, self._edges, lengths, strict=True)]
        self._poisson = Poisson(conductance, self._valid, area, self._periodic)
        if self._poisson.passes() >= MAX_PASSES:
            ratio = max(float(k[k > 0].max() / k[k > 0].min()) for k in conductance if (k > 0).any())
            raise ValueError(
                describe(
                    "Helmholtz: the potential cannot be found on this grid",
                    expected=f"convergence in {MAX_PASSES} passes",
                    received=f"edges over distances that differ by a factor of {ratio:.1e}",
                    remedy="check the edges and distances for stray values on open faces",
                )
            )

    def _units(self, layout: Layout, names: Sequence[str]) -> float:
        """Return the outflow in units of velocity times edge, of a unit of divergence times area; 1 where units are not all known."""
        from physml.provenance import parse_units

        statics, sources = layout.statics.variables, [self.area, *(self.edges[d] for d in layout.space)]
        said = [statics[f].attrs.get("units") if isinstance(f, str) else None for f in sources]
        said += [layout.units(n) for n in (*names, self.divergence)]
        if None in said:
            return 1.0
        area, *others, given = (parse_units(str(u)) for u in said)
        factors = []
        for edge, velocity in zip(others[:2], others[2:], strict=True):
            ratio = given * area / (velocity * edge)
            factors.append(ratio._REGISTRY.Quantity(1.0, ratio).to_root_units())
        if not all(f.dimensionless for f in factors) or abs(factors[0].magnitude / factors[1].magnitude - 1) > 1e-9:
            raise ValueError(
                describe(
                    f"Helmholtz: the units of the divergence {self.divergence!r} do not fit",
                    expected=f"units of velocity times edge over area, of {said[3:5]}, {said[1:3]} and {said[0]!r}",
                    received=repr(said[-1]),
                    remedy="convert it, for example with pint-xarray",
                )
            )
        return float(factors[0].magnitude)

    def _outflow(self, inputs: Any) -> Any:
        """Return the net outflow of every cell that the input says."""
        kind = _backend.widest_float()
        return ops.cast(inputs[..., self._given], kind) * ops.cast(self._content, kind)

    def excess(self, inputs: Any) -> Any:
        """Return the divergence that no flow can have, the mean of every basin, in units of the input, ``[batch, y, x, level]``."""
        outflow = self._outflow(inputs)
        scale = self.factor * self._converted
        return self._poisson.excess(outflow) / scale

    def flows(self, network_output: Any, inputs: Any) -> list[Any]:
        """Return what flows through the faces along y and along x, ``[batch, y, x, level]`` each [m2 s-1]."""
        found = self._poisson.flows(self._outflow(inputs))
        parts = ops.split(found, 2, axis=-1)
        return [a + b for a, b in zip(super().flows(network_output, inputs), parts, strict=True)]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            **super().get_config(),
            "distances": self.distances,
            "area": self.area,
            "divergence": self.divergence,
            "factor": self.factor,
        }
