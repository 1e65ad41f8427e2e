"""The receptive field of a network, read off its Keras graph: what a tile has to see beyond its ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from physml import _reaches
from physml._errors import describe
from physml.reach import SAME, Reach


@dataclass(frozen=True)
class Extent:
    """What an output cell sees along one space dimension.

    Attributes
    ----------
    before, after
        Input cells seen on either side, for the output cell that sees furthest.
    stride
        Windows that begin at multiples of it, and whose sizes differ by multiples of it, give the same cells.
    edge
        What the layers see beyond the ends: ``"none"`` (they look at no other cell), ``"periodic"`` (the other end),
        ``"own"`` (their own padding) or ``"mixed"``, which no tile can reproduce.
    why
        For ``"mixed"``, the reason.
    reach
        The exact cells, see :class:`physml.reach.Reach`; from output to input.
    """

    before: int
    after: int
    stride: int
    edge: str
    why: str
    reach: Reach

    def __iter__(self) -> Any:
        return iter((self.before, self.after, self.stride))


@dataclass(frozen=True)
class Signal:
    """A tensor on its way through the graph: its shape, and what its cells see of the input."""

    shape: tuple[int | None, ...]
    reaches: tuple[Reach, ...]


class _Edges:
    """What is gathered along one dimension on the way: strides of all tensors, and the layers that look past the ends."""

    def __init__(self, cells: int | None) -> None:
        self.cells, self.stride = cells, 1
        self.wrap: list[str] = []
        self.own: list[str] = []
        self.broken: list[str] = []
        self.across: list[str] = []
        self.cut, self.clamped = False, 0

    def see(self, name: str, layer: Reach, before: Signal, after: Signal, axis: int) -> None:
        self.stride = math.lcm(self.stride, after.reaches[axis].step)
        have, got = before.shape[axis + 1], after.shape[axis + 1]
        reach = before.reaches[axis]
        if have is not None and got is not None:
            self.cut |= len(layer.sees[0]) == 1 and layer.step == len(layer.sees) and got < have
            if layer.clamps:
                self.cut |= have * reach.step < (self.cells or 0) * len(reach.sees)
                # Only what was cut off before matters: an end that is whole is repeated from where the layers see it.
                if self.cut:
                    self.clamped += 2 * math.ceil(max(got - have, 1) * reach.step / len(reach.sees))
        if layer.crosses:
            self.across.append(name)
        if layer.wraps:
            self.wrap.append(name)
            if have is not None and have * reach.step != (self.cells or 0) * len(reach.sees):
                self.broken.append(name)
        elif have is not None and got is not None and layer.leaves(have, got):
            self.own.append(name)

    def verdict(self) -> tuple[str, str]:
        if self.across:
            return "mixed", f"{self.across[0]!r} looks across the pole, to the far side of the circle"
        if not self.wrap:
            return ("own" if self.own else "none"), ""
        if self.own:
            return "mixed", f"{self.wrap[0]!r} reads the other end, {self.own[0]!r} pads the ends by itself"
        if self.broken:
            return "mixed", f"{self.broken[0]!r} wraps a tensor that is not the whole circle of {self.cells} cells"
        if self.cells is not None and self.cells % self.stride:
            return "mixed", f"{self.cells} cells are no multiple of the stride {self.stride}"
        return "periodic", ""


def receptive_field(network: Any, shape: Sequence[int | None] | None = None) -> tuple[Extent, ...]:
    """Return what an output cell of a network sees, for every space dimension.

    Parameters
    ----------
    network
        A Keras model or layer on ``[batch, *space, channel]``, or a :class:`physml.FieldModel`.
    shape
        Sizes of the space dimensions; by default those of the network's input. Strided layers that pad ("same") need them.

    Returns
    -------
    tuple of Extent
        ``(before, after, stride)`` for each space dimension, in input cells, and what lies beyond the ends.

    Raises
    ------
    ValueError
        Where a layer sees the whole map, holds constants of the map's shape, or is not known; naming it, with the remedy. A
        layer of your own says what it sees by an attribute or a method ``receptive_field``: one pair ``(before, after)`` for
        each space dimension, for layers that keep the grid; one that sees the whole map says why by ``whole_map``.

    Examples
    --------
    >>> start = keras.Input((None, 3))
    >>> pooled = keras.layers.AveragePooling1D(2)(keras.layers.Conv1D(4, 5, padding="same")(start))
    >>> [tuple(e) for e in receptive_field(keras.Model(start, keras.layers.UpSampling1D(2)(pooled)))]
    [(3, 3, 2)]
    """
    if hasattr(network, "network") and hasattr(network, "layout"):
        reason = network.whole_grid_reason()
        if reason is not None:
            raise ValueError(_reaches.refusal(network.name, reason))
        shape, network = network.layout.shape, network.network
    given = _input_shape(network, shape)
    space = len(given) - 2
    edges = [_Edges(n) for n in given[1:-1]]
    start = Signal(given, (SAME,) * space)
    end = replay(network, start, partial(_visit, edges))
    if not isinstance(end, Signal) or len(end.reaches) != space:
        raise ValueError(_reaches.refusal(getattr(network, "name", "network"), "its output lies on other dimensions"))
    out = []
    for edge, reach in zip(edges, end.reaches, strict=True):
        home = [(q * reach.step) // len(reach.sees) for q in range(len(reach.sees))]
        before = max((h - min(s) for h, s in zip(home, reach.sees, strict=True) if s), default=0)
        after = max((max(s) - h for h, s in zip(home, reach.sees, strict=True) if s), default=0)
        # Where cells were cut off before, an end is repeated from further inside than the cells in the middle show.
        more = edge.clamped
        if edge.across:
            more += (edge.cells or 0) // 2
        out.append(Extent(max(before, 0) + more, max(after, 0) + more, edge.stride, *edge.verdict(), reach))
    return tuple(out)


def _input_shape(network: Any, shape: Sequence[int | None] | None) -> tuple[int | None, ...]:
    takes = getattr(network, "input_shape", None)
    if not isinstance(takes, tuple) or not all(n is None or isinstance(n, int) for n in takes):
        takes = None
    if takes is None and shape is None:
        raise ValueError(
            describe(
                "receptive_field does not know the sizes of the map",
                expected="a network with one input, or shape=(cells, ...)",
                received=f"{type(network).__name__} with input {takes}",
                remedy="pass shape=model.layout.shape",
            )
        )
    if shape is None:
        assert takes is not None
        return takes
    if takes is not None and (
        len(takes) != len(shape) + 2 or any(a not in (None, b) for a, b in zip(takes[1:-1], shape, strict=True))
    ):
        raise ValueError(
            describe(
                "receptive_field: the network is built for another map",
                expected=takes[1:-1],
                received=tuple(shape),
                remedy="leave shape out",
            )
        )
    return (None, *shape, None if takes is None else takes[-1])


def replay(network: Any, x: Any, call: Callable[..., Any]) -> Any:
    """Run the graph of a network: ``call(operation, *arguments)`` for every layer, those of nested models too.

    Parameters
    ----------
    network
        Functional or Sequential, or a single layer.
    x
        Its input, anything that *call* understands.
    call
        Called in the order of the graph.

    Returns
    -------
    Any
        What *call* made of the output.
    """
    if isinstance(network, keras.Sequential) and getattr(network, "_functional", None) is None:
        for layer in network.layers:
            x = replay(layer, x, call)
        return x
    graph = getattr(network, "_functional", network)
    # Keras has no public way to run a graph on something else than tensors; `clone_model` itself goes this way.
    run = getattr(graph, "_run_through_graph", None)
    if run is None:
        return call(network, x)
    nested: Callable[..., Any] = lambda op: partial(_nested, op, call)  # noqa: E731
    out = run(x, operation_fn=nested)
    return out[0] if isinstance(out, list | tuple) and len(out) == 1 else out


def _nested(op: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if isinstance(op, keras.Sequential) or hasattr(op, "_run_through_graph"):
        return replay(op, args[0], call)
    return call(op, *args, **kwargs)


def _visit(edges: list[_Edges], op: Any, *args: Any, **kwargs: Any) -> Any:
    signals = [a for a in keras.tree.flatten([args, kwargs]) if isinstance(a, Signal)]
    if not signals:
        return op(*args, **kwargs)
    if hasattr(op, "network") and hasattr(op, "layout"):
        reason = op.whole_grid_reason()
        if reason is not None:
            raise ValueError(_reaches.refusal(op.name, reason))
        return replay(op.network, signals[0], partial(_visit, edges))
    layers = _reaches.of(op, signals, args, kwargs)
    if layers is None:  # cell by cell: branches are joined
        reaches = _reaches.join(op, [s.reaches for s in signals])
        layers = [SAME] * len(reaches)
    else:
        seen = [[layer.after(r) for layer, r in zip(layers, s.reaches, strict=True)] for s in signals]
        reaches = tuple(seen[0]) if len(seen) == 1 else _reaches.join(op, seen)
    outs = keras.tree.map_structure(lambda spec: Signal(tuple(spec.shape), reaches), _spec(op, args, kwargs))
    for axis, (edge, layer) in enumerate(zip(edges, layers, strict=True)):
        edge.see(str(op.name), layer, signals[0], keras.tree.flatten(outs)[0], axis)
    return outs


def _spec(op: Any, args: Any, kwargs: Any) -> Any:
    def tensor(a: Any) -> Any:
        return keras.KerasTensor(a.shape, "float32") if isinstance(a, Signal) else a

    args, kwargs = keras.tree.map_structure(tensor, (args, kwargs))
    return op.compute_output_spec(*args, **kwargs)
