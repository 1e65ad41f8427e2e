"""Flux form: the network says what crosses every face; what leaves one cell enters its neighbour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import closest, describe
from physml.constraints._cgrid import measure, open_faces, periodic_dims, states
from physml.constraints.budget import Conserve
from physml.heads.base import Head
from physml.layout import Layout


class FluxForm(Head):
    """Head that steps conserved fields by fluxes through the faces between cells.

    For every target ``c`` the network gives one number ``n`` for each face, and with the content ``C = V (c + s dt)``::

        F = n unit <V>  on open faces, 0 on closed ones,        V y = C - div F

    ``unit`` is the scaled unit of the target (its standard deviation, or that of its change in a model with
    ``increment=True``) and ``<V>`` the mean volume: a network that says 1 moves, in one step, what a mean cell gains when
    its target rises by one unit. So nothing is lost, in any box of cells or in total, and a network that says 0 predicts
    persistence. ``face[j, i]`` lies on the side of larger index, and fluxes are positive towards larger index. Ends that are
    closed, and faces between a valid and a masked cell, carry exactly zero.

    Parameters
    ----------
    boundary
        For every space dimension ``"periodic"`` or ``"closed"``. Never assumed.
    volume
        Name of the static field ``V``, such as the cell volume [m3], with levels or without. None: equal cells.
    positive
        Limit the fluxes so that nothing turns negative: with ``O`` the sum of the fluxes out of a cell, each of them is
        scaled by ``r = min(1, C / O)`` of the cell it leaves (Zalesak 1979). A cell gives away what it holds at most, so
        this holds for fluxes of any size and for every content ``C >= 0``, to the last bit and without clipping. A cell
        whose content is negative, by a sink or from the start, gives nothing.
    vertical
        Name of a level dimension along which content moves too, between neighbours in the order of the levels.
    sources
        By target, the input or inputs that are gained before the fluxes act, in the units of the target (per step) or of
        the target per time.

    Raises
    ------
    ValueError
        For a boundary that is missing or unknown, targets that are no inputs, several target offsets, a volume that is not
        positive on valid cells, an unknown level dimension, and sources of other units.

    Notes
    -----
    Network output: ``[batch, *space, (dimension, target channel)]``, all fluxes along the first space dimension first, those
    along *vertical* last.

    References
    ----------
    Zalesak, S. T. (1979), doi:10.1016/0021-9991(79)90051-2.

    Examples
    --------
    >>> FluxForm({"lat": "closed", "lon": "periodic"}, volume="cell_volume", positive=True).positive
    True
    """

    def __init__(
        self,
        boundary: Mapping[str, str],
        volume: str | None = None,
        positive: bool = False,
        vertical: str | None = None,
        sources: Mapping[str, str | Sequence[str]] | None = None,
    ) -> None:
        self.boundary, self.volume, self.positive, self.vertical = dict(boundary), volume, bool(positive), vertical
        self.sources = {n: [s] if isinstance(s, str) else list(s) for n, s in (sources or {}).items()}

    def channels(self, layout: Layout) -> int:
        """Return how many channels the network must give: one for every face and target channel."""
        return (len(layout.space) + (self.vertical is not None)) * len(layout.targets)

    def statics(self, layout: Layout) -> Sequence[str]:
        """Return the names of the static fields that are kept with the layout."""
        return () if self.volume is None else (self.volume,)

    def bind(self, layout: Layout, unit: np.ndarray | None = None) -> None:
        """Prepare open faces and volumes for a layout; refuse one it cannot act on."""
        periodic = periodic_dims("FluxForm", self.boundary, layout)
        self._state = states("FluxForm", layout)
        valid = layout.valid("targets")
        parts = []
        for name in layout.spec.targets:
            here = valid[..., layout.where("targets", name)]
            parts.append(measure("FluxForm", "volume", 1.0 if self.volume is None else self.volume, layout, name, here))
        volume = np.concatenate(parts, axis=-1)
        self._mean = float(volume[valid].mean()) if valid.any() else 1.0
        self._volume = np.where(valid, volume / self._mean, 0.0)
        self._divisor = np.where(valid, volume / self._mean, 1.0)
        self._gains = self._sources(layout)
        opens = [open_faces(valid, axis, wraps) for axis, wraps in enumerate(periodic)]
        if self.vertical is not None:
            self._below, last = self._levels(layout)
            self._above = np.argsort(self._below)
            opens.append(valid & valid[..., self._below] & ~last)
        unit = np.ones(len(layout.targets)) if unit is None else np.asarray(unit, "float64")
        self._scales = [np.where(o, unit, 0.0) for o in opens]
        self.seen = np.ones(len(layout.inputs), "float32")

    def _levels(self, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
        """Return the channel of the next level for every target channel, and which are last."""
        below = np.arange(len(layout.targets))
        last = np.ones(below.shape, dtype=bool)
        for name in layout.spec.targets:
            levels = layout.variables[name].levels
            if self.vertical not in levels:
                raise ValueError(
                    describe(
                        f"FluxForm: {name!r} has no levels along {self.vertical!r}{closest(str(self.vertical), levels)}",
                        expected=f"a level dimension of {name!r}, among {tuple(levels)}",
                        received=repr(self.vertical),
                        remedy="name it in the levels of the FieldSpec, or leave vertical out",
                    )
                )
            where, sizes = layout.where("targets", name), [len(v) for v in levels.values()]
            axis = list(levels).index(str(self.vertical))
            below[where] = np.roll(below[where].reshape(sizes), -1, axis).reshape(-1)
            place = np.arange(sizes[axis]).reshape([-1 if a == axis else 1 for a in range(len(sizes))])
            last[where] = np.broadcast_to(place == sizes[axis] - 1, sizes).reshape(-1)
        return below, last

    def _sources(self, layout: Layout) -> list[tuple[int, slice, float]]:
        """Return the position of the target, the channels of the source and its factor, for every source."""
        found = []
        for target, names in self.sources.items():
            for name in names:
                law = Conserve(target, layout.space, sources=name)
                law.verify(layout)
                at = tuple(layout.spec.targets).index(target)
                found.append((at, layout.where("inputs", name, 0), law.source_factor(layout)))
        return found

    def _ahead(self, x: Any, axis: int) -> Any:
        """Return for every cell the value of its neighbour towards larger index."""
        if axis < len(self.boundary):
            return ops.roll(x, -1, axis=axis + 1)
        return ops.take(x, self._below, axis=-1)

    def _behind(self, x: Any, axis: int) -> Any:
        """Return for every cell the value of its neighbour towards smaller index."""
        if axis < len(self.boundary):
            return ops.roll(x, 1, axis=axis + 1)
        return ops.take(x, self._above, axis=-1)

    def _content(self, inputs: Any) -> Any:
        """Return what every cell holds, sources included, over the mean volume."""
        kind = _backend.widest_float()
        parts = [ops.cast(inputs[..., s], kind) for s in self._state]
        for at, where, factor in self._gains:
            parts[at] = parts[at] + factor * ops.cast(inputs[..., where], kind)
        return ops.concatenate(parts, axis=-1) * ops.cast(self._volume, kind)

    def _outward(self, network_output: Any, content: Any) -> list[tuple[Any, Any]]:
        """Return for every dimension what leaves through the face ahead, and what comes back through it; both >= 0."""
        kind = _backend.widest_float()
        said = ops.split(ops.cast(network_output, kind), len(self._scales), axis=-1)
        fluxes = [n * ops.cast(scale, kind) for n, scale in zip(said, self._scales, strict=True)]
        both = [(ops.maximum(f, 0.0), ops.maximum(-f, 0.0)) for f in fluxes]
        if not self.positive:
            return both
        leaving = self._sum([part for k, (out, back) in enumerate(both) for part in (out, self._behind(back, k))])
        # The rounding of the sums must not reach below zero: a margin of a few units in the last place.
        margin = 1.0 - 16 * len(both) * float(np.finfo(kind).eps)
        held = margin * ops.maximum(content, 0.0)
        short = leaving > held
        share = ops.where(short, held / ops.where(short, leaving, ops.ones_like(leaving)), ops.ones_like(leaving))
        return [(out * share, back * self._ahead(share, k)) for k, (out, back) in enumerate(both)]

    @staticmethod
    def _sum(parts: list[Any]) -> Any:
        return sum(parts[1:], parts[0])

    def fluxes(self, network_output: Any, inputs: Any) -> list[Any]:
        """Return the fluxes through the faces towards larger index, ``[batch, *space, target channel]`` for every dimension.

        In units of the target times the volume, per step; limited where *positive*.
        """
        both = self._outward(network_output, self._content(inputs))
        return [self._mean * (out - back) for out, back in both]

    def __call__(self, network_output: Any, inputs: Any) -> Any:
        """Return the fields after the step.

        Computed in float64 and rounded once. On JAX this needs ``jax_enable_x64``; without it the total changes by about
        1e-8 of itself in a step.

        Parameters
        ----------
        network_output
            ``[batch, *space, (dimension, target channel)]``.
        inputs
            ``[batch, *space, input channel]`` in physical units.

        Returns
        -------
        tensor
            ``[batch, *space, target channel]`` in physical units, in the type of *inputs*.
        """
        content = self._content(inputs)
        both = self._outward(network_output, content)
        leaving = self._sum([part for k, (out, back) in enumerate(both) for part in (out, self._behind(back, k))])
        arriving = self._sum([part for k, (out, back) in enumerate(both) for part in (self._behind(out, k), back)])
        after = (content - leaving) + arriving
        return ops.cast(after / ops.cast(self._divisor, after.dtype), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            "boundary": self.boundary,
            "volume": self.volume,
            "positive": self.positive,
            "vertical": self.vertical,
            "sources": self.sources,
        }
