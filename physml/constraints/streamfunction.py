"""Streamfunction: velocities on the faces of a C-grid as differences of corner values, hence without divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import describe
from physml.constraints._cgrid import measure, open_faces, periodic_dims
from physml.constraints._coasts import Coasts, corner_coasts
from physml.constraints._winding import round_flows
from physml.heads.base import Head
from physml.layout import Layout


class Streamfunction(Head):
    """Head whose velocities have no divergence and cross no coast, on a masked C-grid with islands.

    The network gives a streamfunction ``psi`` at the corners of the cells. With y and x the first and the last space
    dimension and ``e`` the size of a face::

        e_x u[j, i] = -(psi[j, i] - psi[j - 1, i])        e_y v[j, i] = psi[j, i] - psi[j, i - 1]

    so that the net flow out of every cell, ``e_x u[j, i] - e_x u[j, i - 1] + e_y v[j, i] - e_y v[j - 1, i]``, is zero to the
    round-off of those differences. ``u[j, i]`` lies on the face between the cells ``(j, i)`` and ``(j, i + 1)``, ``v[j, i]``
    between ``(j, i)`` and ``(j + 1, i)``, ``psi[j, i]`` at the corner of both; all have the shape of the cells, and the last
    row and column of closed dimensions are walls. Velocities are positive towards larger index.

    ``psi`` is one constant on every coast. Land is what is masked, and what lies beyond closed ends; land cells that touch at
    a corner are one coast. The coast along the closed ends of smaller index has the value 0; every other coast, an island or
    the opposite wall of a channel, has the mean of what the network says at the corners around it. So the circulation
    around islands and the transport through straits and channels are learned. On a grid that is periodic in both dimensions
    the mean flow has no streamfunction: there the network gives two more fields, whose means over the grid are the mean flow
    along y and along x, in scaled units; it is spread evenly around land.

    Parameters
    ----------
    velocity
        The target that crosses the faces along each space dimension, such as ``{"lon": "u", "lat": "v"}`` [m s-1].
    boundary
        For both space dimensions ``"periodic"`` or ``"closed"``. Never assumed.
    edges
        The sizes of the faces crossed along each dimension: the name of a static field on the faces, or one number. Lengths
        [m], such as ``{"lon": "dy_u", "lat": "dx_v"}``; or areas [m2], with levels too, where layers differ in thickness.
        On a uniform grid ``{"x": 1.0, "y": 1.0}``.
    scale
        Width of the features of the flow [cells]: where the network says 1, and 0 that many mean edges away, the flow in between is
        one scaled unit of velocity (a standard deviation).

    Raises
    ------
    ValueError
        For grids that do not have two space dimensions, dimensions or targets left out, masks that differ between the
        velocities, coordinates that decrease, and sizes that are not positive on open faces.

    Notes
    -----
    Network output: ``[batch, y, x, target channels of one velocity]``, three times as many where both dimensions are periodic.
    The mask is that of the cells. In the data, velocities on faces to land are 0, not missing.

    References
    ----------
    Arakawa, A. and Lamb, V. R. (1977), doi:10.1016/B978-0-12-460817-7.50009-4. Bryan, K. (1969), for islands,
    doi:10.1016/0021-9991(69)90004-7.

    Examples
    --------
    >>> Streamfunction({"x": "u", "y": "v"}, {"x": "periodic", "y": "closed"}, {"x": 1e4, "y": 1e4}).velocity
    {'x': 'u', 'y': 'v'}
    """

    def __init__(
        self,
        velocity: Mapping[str, str],
        boundary: Mapping[str, str],
        edges: Mapping[str, str | float],
        scale: float = 8.0,
    ) -> None:
        self.velocity, self.boundary, self.edges, self.scale = dict(velocity), dict(boundary), dict(edges), float(scale)

    @property
    def _who(self) -> str:
        return type(self).__name__

    def _check(self, layout: Layout) -> None:
        """Refuse a grid that has not two dimensions, or dimensions and targets that are left out."""
        for what, given in (("velocity", self.velocity), ("edges", self.edges)):
            if len(layout.space) != 2 or set(given) != set(layout.space):
                raise ValueError(
                    describe(
                        f"{self._who}: {what} does not fit the grid",
                        expected=f"one entry for each of two space dimensions, here {layout.space}",
                        received=given,
                        remedy="name the vertical and others in the levels of the FieldSpec",
                    )
                )
        if sorted(self.velocity.values()) != sorted(layout.spec.targets):
            raise ValueError(
                describe(
                    f"{self._who} makes the two velocities and nothing else",
                    expected=f"targets {sorted(self.velocity.values())}",
                    received=tuple(layout.spec.targets),
                    remedy="give other targets a model of their own",
                )
            )

    def channels(self, layout: Layout) -> int:
        """Return how many channels the network must give: one for every offset and level."""
        self._check(layout)
        doubly = all(periodic_dims(self._who, self.boundary, layout))
        return len(layout.targets) // 2 * (3 if doubly else 1)

    def statics(self, layout: Layout) -> Sequence[str]:
        """Return the names of the static fields that are kept with the layout."""
        return tuple(e for e in self.edges.values() if isinstance(e, str))

    def bind(self, layout: Layout, unit: np.ndarray | None = None) -> None:
        """Prepare coasts and sizes for a layout; refuse one it cannot act on."""
        self._check(layout)
        self._periodic = periodic_dims(self._who, self.boundary, layout)
        names = [self.velocity[d] for d in layout.space]
        where = [layout.where("targets", n) for n in names]
        masks = [layout.valid("targets")[..., w] for w in where]
        if masks[0].shape != masks[1].shape or (masks[0] != masks[1]).any():
            raise ValueError(
                describe(
                    f"{self._who} needs one mask and the same levels for both velocities",
                    expected=f"as many valid cells for {names[0]!r} as for {names[1]!r}",
                    received=[m.reshape(-1, m.shape[-1]).sum(0).tolist() for m in masks],
                    remedy="mask cells, not faces; give both the same levels",
                )
            )
        self._valid = masks[0]
        self._check_directions(layout)
        self._open = [open_faces(self._valid, axis, wraps) for axis, wraps in enumerate(self._periodic)]
        self._edges = [
            measure(self._who, f"the edge along {d}", self.edges[d], layout, n, o)
            for d, n, o in zip(layout.space, names, self._open, strict=True)
        ]
        self._coasts = Coasts(self._valid, self._periodic)
        if all(self._periodic):
            columns = np.moveaxis(self._valid, -1, 0)
            self._round = np.stack([round_flows(wet, corner_coasts(wet, self._periodic)) for wet in columns], axis=-1)
        self._order = [names.index(n) for n in layout.spec.targets]
        unit = np.ones(len(layout.targets)) if unit is None else np.asarray(unit, "float64")
        speed = np.sqrt(np.mean([unit[w] ** 2 for w in where], axis=0))
        sizes = [e[o].mean() for e, o in zip(self._edges, self._open, strict=True) if o.any()]
        self._unit = speed * (float(np.mean(sizes)) if sizes else 1.0)
        self.seen = np.ones(len(layout.inputs), "float32")

    def _check_directions(self, layout: Layout) -> None:
        for d in layout.space:
            labels = layout.statics.coords.get(d)
            if labels is not None and labels.dtype.kind in "iuf" and labels.size > 1 and (np.diff(labels) < 0).all():
                raise ValueError(
                    describe(
                        f"{self._who}: the coordinate {d!r} decreases, while velocities are positive towards larger index",
                        expected="labels that increase",
                        received=f"{labels.values[0]:g} ... {labels.values[-1]:g}",
                        remedy=f"turn it round: ds.isel({d}=slice(None, None, -1)), and see that each velocity then lies on "
                        "the far side of its cell",
                    )
                )

    def _behind(self, corners: Any, axis: int) -> Any:
        """Return for every corner the value of the one before; before the first of a closed dimension lies the wall, 0."""
        if self._periodic[axis]:
            return ops.roll(corners, 1, axis=axis + 1)
        pads = [(0, 0)] * 4
        pads[axis + 1] = (1, 0)
        kept = corners[:, :-1] if axis == 0 else corners[:, :, :-1]
        return ops.pad(kept, pads)

    def corners(self, network_output: Any) -> Any:
        """Return ``psi`` at the corner ahead of every cell, ``[batch, y, x, offset and level]``, velocity times edge [m2 s-1]."""
        kind = _backend.widest_float()
        said = ops.cast(network_output, kind)[..., : len(self._unit)]
        return self._coasts(said * ops.cast(self.scale * self._unit, kind))

    def flows(self, network_output: Any, inputs: Any) -> list[Any]:
        """Return what flows through the faces along y and along x, ``[batch, y, x, offset and level]`` each [m2 s-1]."""
        psi = self.corners(network_output)
        found = [psi - self._behind(psi, 1), self._behind(psi, 0) - psi]
        if all(self._periodic):
            n = len(self._unit)
            said = ops.cast(network_output, psi.dtype)[..., n:]  # not ops.mean: on JAX it goes through float32
            mean = ops.sum(said, axis=(1, 2), keepdims=True) / self._valid[..., 0].size
            mean = mean * ops.cast(np.tile(self._unit, 2), psi.dtype)
            for k, way in enumerate((mean[..., :n], mean[..., n:])):
                rounds = ops.cast(self._round[k], psi.dtype)
                found = [f + way * rounds[axis] for axis, f in enumerate(found)]
        return found

    def __call__(self, network_output: Any, inputs: Any) -> Any:
        """Return the velocities.

        Computed in float64 and rounded once. On JAX this needs ``jax_enable_x64``.

        Parameters
        ----------
        network_output
            ``[batch, y, x, offset and level]``.
        inputs
            ``[batch, y, x, input channel]`` in physical units.

        Returns
        -------
        tensor
            ``[batch, y, x, target channel]`` in physical units, in the type of *inputs*.
        """
        flows = self.flows(network_output, inputs)
        speeds = [
            ops.where(o, f / ops.cast(e, f.dtype), ops.zeros_like(f))
            for f, o, e in zip(flows, self._open, self._edges, strict=True)
        ]
        return ops.cast(ops.concatenate([speeds[k] for k in self._order], axis=-1), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"velocity": self.velocity, "boundary": self.boundary, "edges": self.edges, "scale": self.scale}
