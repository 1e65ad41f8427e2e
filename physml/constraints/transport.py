"""Transport: the network says where the content of every cell goes; positive and conserving by construction."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import closest, describe
from physml.constraints._cgrid import periodic_dims, states
from physml.heads.base import Head
from physml.layout import Layout


class Transport(Head):
    """Head that redistributes conserved content among the neighbours of every cell.

    For each cell ``i`` the network gives one number for every displacement ``d`` of a ``size x size`` neighbourhood; a
    softmax over those that end on a valid cell makes shares ``P(i -> i + d)``, and::

        y_j V_j = sum_i P(i -> j) c_i V_i

    So nothing turns negative and nothing is lost, locally or in total, at any Courant number up to ``size / 2``. All targets
    are moved by the same shares, as water moves all that is dissolved in it.

    Parameters
    ----------
    size
        Odd width of the neighbourhood [cells].
    boundary
        For every space dimension ``"periodic"`` or ``"closed"``. Never assumed.
    volume
        Name of the static field ``V``, such as the cell volume [m3]. None: equal cells.
    stay
        Added to the number of the displacement zero, so that an untrained network begins close to persistence.
    balance
        Passes that even out the volume arriving in every cell (Sinkhorn and Knopp 1967, doi:10.2140/pjm.1967.21.343), for flows without
        divergence, which keep a constant constant. With 0 a roll-out may slowly gather content at a few places.
    linear
        Hide the fields that are moved from the network, so that the step is linear in them. A linear positive scheme is of
        first order at best (Godunov 1959): it smears more than one that sees what it moves.
    vertical
        A level dimension along which content moves too and the odd width of the neighbourhood there, as ``{"depth": 3}``. Its
        ends, the surface and the last level, are closed. The network then gives one number for every level and displacement.
        None: each level stays by itself, and all levels share one horizontal transport.

    Raises
    ------
    ValueError
        For an even size, a boundary that is missing or unknown, targets that are no inputs, several target offsets, levels that
        are unknown or differ between targets.

    Examples
    --------
    >>> Transport(size=5, boundary={"lat": "closed", "lon": "periodic"}, volume="cell_volume").size
    5
    """

    def __init__(
        self,
        size: int,
        boundary: Mapping[str, str],
        volume: str | None = None,
        stay: float = 4.0,
        balance: int = 0,
        linear: bool = False,
        vertical: Mapping[str, int] | None = None,
    ) -> None:
        widths = list((vertical or {}).values())
        for width in (size, *widths):
            if width < 3 or width % 2 == 0:
                raise ValueError(
                    describe(
                        "Transport: size is no neighbourhood", expected="3, 5, 7, ...", received=width, remedy="size=5"
                    )
                )
        if len(widths) > 1:
            raise ValueError(
                describe(
                    "Transport: vertical names several dimensions",
                    expected="one level dimension, such as {'depth': 3}",
                    received=vertical,
                    remedy="keep one; the others are moved alike",
                )
            )
        self.size, self.boundary, self.volume, self.stay = size, dict(boundary), volume, float(stay)
        self.balance, self.linear = int(balance), bool(linear)
        self.vertical = None if vertical is None else dict(vertical)

    def channels(self, layout: Layout) -> int:
        """Return how many channels the network must give: one for every displacement (from every level with *vertical*)."""
        across = self.size ** len(layout.space)
        if not self.vertical:
            return across
        (width,) = self.vertical.values()
        return across * width * len(self._columns(layout))

    def _columns(self, layout: Layout) -> np.ndarray:
        """Return the target channels that are moved together, ``[level, tracer]``; one level without *vertical*."""
        if not self.vertical:
            return np.arange(len(layout.targets))[None]
        (dim,) = self.vertical
        parts = []
        for name in layout.spec.targets:
            levels = layout.variables[name].levels
            if dim not in levels or levels[dim] != layout.variables[layout.spec.targets[0]].levels.get(dim):
                raise ValueError(
                    describe(
                        f"Transport: {name!r} does not have the levels that are moved along {dim!r}{closest(dim, levels)}",
                        expected=f"the same labels along {dim!r} for all of {tuple(layout.spec.targets)}",
                        received={d: list(v) for d, v in levels.items()} or "no levels",
                        remedy="name the dimension in the levels of the FieldSpec, or leave vertical out",
                    )
                )
            index = np.arange(len(layout.targets))[layout.where("targets", name)]
            index = index.reshape([len(v) for v in levels.values()])
            parts.append(np.moveaxis(index, list(levels).index(dim), 0).reshape(len(levels[dim]), -1))
        return np.concatenate(parts, axis=1)

    def statics(self, layout: Layout) -> Sequence[str]:
        """Return the names of the static fields that are kept with the layout."""
        return () if self.volume is None else (self.volume,)

    def bind(self, layout: Layout, unit: np.ndarray | None = None) -> None:
        """Prepare masks and volumes for a layout; refuse one it cannot act on. Shares have no unit."""
        self._periodic = list(periodic_dims("Transport", self.boundary, layout))
        self._state = states("Transport", layout)
        columns = self._columns(layout)
        self._order = columns.reshape(-1)
        self._back = np.argsort(self._order)
        valid = layout.valid("targets")
        together = valid[..., columns]
        wet = together[..., 0]
        if not (together == wet[..., None]).all():
            raise ValueError(
                describe(
                    "Transport needs one mask for all targets",
                    expected="the same valid cells on every target and level",
                    received=f"{valid.reshape(-1, valid.shape[-1]).sum(0).tolist()} valid cells by channel",
                    remedy="use a mask without levels, vertical={'depth': 3}, or one Transport model for each level",
                )
            )
        volume = np.ones(wet.shape) if self.volume is None else self._volumes(layout, columns)
        if not (volume[wet] > 0).all():
            raise ValueError(
                describe(
                    f"Transport: volume {self.volume!r} is not positive on every valid cell",
                    expected="> 0",
                    received=f"{int((~(volume[wet] > 0)).sum())} cells zero, negative or missing",
                    remedy="correct the volume, or mask those cells",
                )
            )
        widths = [self.size] * len(layout.space)
        if self.vertical:
            widths += self.vertical.values()
            self._periodic.append(False)
        else:  # the one level is no dimension of the moves
            wet, volume = wet[..., 0], volume[..., 0]
        scale = volume[wet].mean()
        self._volume = np.where(wet, volume / scale, 0.0)[..., None]
        self._divisor = np.where(wet, volume / scale, 1.0)[..., None]
        self._shape = wet.shape
        self._moves = list(itertools.product(*(range(-(w // 2), w // 2 + 1) for w in widths)))
        prior = np.stack([np.where(self._lands_on(wet, move), 0.0, -1e9) for move in self._moves], axis=-1)
        prior[..., self._moves.index((0,) * len(widths))] = self.stay
        self._prior = prior.astype("float32")
        moved = [self.linear and c.name in layout.spec.targets for c in layout.inputs]
        self.seen = np.where(moved, 0.0, 1.0).astype("float32")
        if not self.seen.any():
            raise ValueError(
                describe(
                    "Transport: the network sees nothing",
                    expected="an input besides the fields that are moved, such as the velocity",
                    received=tuple(layout.spec.inputs),
                    remedy="add inputs to the FieldSpec, or linear=False",
                )
            )

    def _volumes(self, layout: Layout, columns: np.ndarray) -> np.ndarray:
        """Return the volume of every cell that content moves between, ``[*space, level]``."""
        if not self.vertical:
            return layout.static(str(self.volume))
        # Other level dimensions, such as species, lie in the same water.
        return layout.static(str(self.volume), layout.spec.targets[0])[..., columns[:, 0]]

    def _lands_on(self, wet: np.ndarray, move: tuple[int, ...]) -> np.ndarray:
        """Return where a displacement from each cell ends on a valid cell of the domain."""
        lands = wet
        for axis, step in enumerate(move):
            lands = np.roll(lands, -step, axis)
            if not self._periodic[axis] and step:
                edge: list[Any] = [slice(None)] * wet.ndim
                edge[axis] = slice(-step, None) if step > 0 else slice(None, -step)
                lands = lands.copy()
                lands[tuple(edge)] = False
        return lands

    def shares(self, network_output: Any) -> list[Any]:
        """Return ``P(i -> i + d)`` for every displacement, ``[batch, *space, 1]`` each; they sum to one.

        With *vertical* the space of the result has the levels as its last dimension.
        """
        kind = _backend.widest_float()
        if self.vertical:
            network_output = ops.reshape(network_output, (-1, *self._shape, len(self._moves)))
        shares = ops.cast(ops.softmax(ops.cast(network_output, "float32") + self._prior, axis=-1), kind)
        shares = shares / ops.sum(shares, axis=-1, keepdims=True)  # processors differ in the last digit of a softmax
        parts = [ops.expand_dims(p, -1) for p in ops.unstack(shares, axis=-1)]
        volume, divisor = (ops.cast(v, kind) for v in (self._volume, self._divisor))
        for _ in range(self.balance):
            # Fewer leave for cells that would receive more volume than they hold, and the shares are made whole again.
            arriving = self._spread(parts, volume) / divisor
            ease = 1.0 / ops.where(self._volume > 0, ops.maximum(arriving, 1e-3), ops.ones_like(arriving))
            parts = [
                p * self._shift(ease, tuple(-step for step in move)) for p, move in zip(parts, self._moves, strict=True)
            ]
            whole = sum(parts[1:], parts[0])
            parts = [p / whole for p in parts]
        # What does not leave stays: a softmax sums to one only up to its rounding, which would add up in a roll-out.
        leaving = [p for p, move in zip(parts, self._moves, strict=True) if any(move)]
        stay = ops.maximum(1.0 - sum(leaving[1:], leaving[0]), 0.0)
        return [p if any(move) else stay for p, move in zip(parts, self._moves, strict=True)]

    def __call__(self, network_output: Any, inputs: Any) -> Any:
        """Return the moved fields.

        Computed in float64 and rounded once: float32 would lose small shares next to large ones, always downwards. On JAX
        this needs ``jax_enable_x64``; without it the total changes by about 1e-8 of itself in a step.

        Parameters
        ----------
        network_output
            ``[batch, *space, displacement]``; with *vertical* ``[batch, *space, (level, displacement)]``.
        inputs
            ``[batch, *space, input channel]`` in physical units.

        Returns
        -------
        tensor
            ``[batch, *space, target channel]`` in physical units, in the type of *inputs*.
        """
        kind = _backend.widest_float()
        state = ops.cast(ops.concatenate([inputs[..., s] for s in self._state], axis=-1), kind)
        if self.vertical:
            state = ops.take(state, self._order, axis=-1)
            state = ops.reshape(state, (-1, *self._shape, len(self._order) // self._shape[-1]))
        volume, divisor = (ops.cast(v, kind) for v in (self._volume, self._divisor))
        moved = self._spread(self.shares(network_output), state * volume) / divisor
        if self.vertical:
            moved = ops.take(ops.reshape(moved, (-1, *self._shape[:-1], len(self._order))), self._back, axis=-1)
        return ops.cast(moved, inputs.dtype)

    def _spread(self, shares: list[Any], content: Any) -> Any:
        """Return what arrives in every cell when each content goes out by its shares."""
        arrived = [self._shift(share * content, move) for share, move in zip(shares, self._moves, strict=True)]
        return sum(arrived[1:], arrived[0])

    def _shift(self, x: Any, move: tuple[int, ...]) -> Any:
        """Return a field moved by whole cells: around periodic ends, out of closed ones, where its share is zero."""
        at: list[Any] = [slice(None)]
        pads = [(0, 0)]
        for axis, (step, periodic, n) in enumerate(zip(move, self._periodic, self._shape, strict=True), start=1):
            if periodic:
                x = ops.roll(x, step, axis=axis) if step else x
                step = 0
            step = max(-n, min(n, step))
            at.append(slice(max(0, -step), n - max(0, step)))
            pads.append((max(0, step), max(0, -step)))
        return ops.pad(x[tuple(at)], [*pads, (0, 0)]) if any(p != (0, 0) for p in pads) else x

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            "size": self.size,
            "boundary": self.boundary,
            "volume": self.volume,
            "stay": self.stay,
            "balance": self.balance,
            "linear": self.linear,
            "vertical": self.vertical,
        }
