"""Rules by which relevance passes back through one operation, and the pass through a whole graph.

For a linear operation ``z_j = sum_i a_i w_ij + c_j``

- ``"epsilon"``: ``R_i = sum_j a_i w_ij / (z_j + eps sign z_j) R_j``; the bias c_j takes its share, which reaches no input
- ``"zplus"``: ``R_i = sum_j (a_i w_ij)+ / (sum_k (a_k w_kj)+) R_j``, biases left out; for activations that are not negative the
  rule of Montavon et al. 2017, else that of Bach et al. 2015 with alpha 1 and beta 0

Relevance passes unchanged through functions of one cell (activations), and follows a cell where it is moved, copied or chosen.

References
----------
Bach, S. et al., 2015: On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance propagation. PLoS
ONE 10, e0130140. doi:10.1371/journal.pone.0130140
Montavon, G. et al., 2017: Explaining nonlinear classification decisions with deep Taylor decomposition. Pattern Recognition 65,
211-222. doi:10.1016/j.patcog.2016.11.008
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import keras
from keras import ops

from physml._backend import vjp
from physml.receptive import replay

RULES = ("epsilon", "zplus")


@dataclass(frozen=True)
class Rule:
    """How relevance is shared: ``"epsilon"`` or ``"zplus"``, and the stabiliser of the former."""

    name: str
    epsilon: float

    def ratio(self, relevance: Any, z: Any) -> Any:
        """Return relevance over what came out, for both rules without division by zero."""
        if self.name == "epsilon":
            eps = ops.cast(self.epsilon, z.dtype)
            return relevance / (z + ops.where(z >= 0, eps, -eps))
        positive = z > 0
        return ops.where(positive, relevance / ops.where(positive, z, ops.ones_like(z)), ops.zeros_like(z))


class Part(Protocol):
    """One operation: what comes out of its inputs, and the relevance of these."""

    def forward(self, inputs: list[Any]) -> Any:
        """Return the output."""
        ...

    def share(self, inputs: list[Any], relevance: Any, rule: Rule) -> list[Any]:
        """Return the relevance of each input."""
        ...


def _positive(x: Any) -> Any:
    return ops.maximum(x, ops.zeros_like(x))


def _negative(x: Any) -> Any:
    return ops.minimum(x, ops.zeros_like(x))


@dataclass(frozen=True)
class Linear:
    """A linear operation with a kernel: dense or convolution, with its activation.

    Attributes
    ----------
    apply
        ``(inputs, kernel) -> output``, linear in both.
    kernel, bias
        Tensors; a bias of None, or that is added to the output as it is.
    scaled
        The kernel times a factor for each output channel, where that can be done.
    activation
        Function of one cell that follows, None where there is none.
    """

    apply: Callable[[Any, Any], Any]
    kernel: Any
    bias: Any = None
    scaled: Callable[[Any, Any], Any] | None = None
    activation: Callable[[Any], Any] | None = None

    def _sum(self, a: Any) -> Any:
        z = self.apply(a, self.kernel)
        return z if self.bias is None else z + self.bias

    def forward(self, inputs: list[Any]) -> Any:
        """Return the output."""
        z = self._sum(inputs[0])
        return z if self.activation is None else self.activation(z)

    def share(self, inputs: list[Any], relevance: Any, rule: Rule) -> list[Any]:
        """Return the relevance of the input."""
        a = inputs[0]
        if rule.name == "epsilon":
            z, pull = vjp(self._sum, a)
            return [a * pull(rule.ratio(relevance, z))]
        parts = []
        for sign in (_positive, _negative):
            parts.append((sign(a), *vjp(partial(_swapped, self.apply, sign(self.kernel)), sign(a))))
        ratio = rule.ratio(relevance, parts[0][1] + parts[1][1])
        return [sum(a * pull(ratio) for a, _, pull in parts)]

    def folded(self, factor: Any, shift: Any) -> Linear | None:
        """Return the same followed by a factor and a shift of each output channel, None where it cannot be."""
        if self.scaled is None or self.activation is not None:
            return None
        bias = shift if self.bias is None else self.bias * factor + shift
        return Linear(self.apply, self.scaled(self.kernel, factor), bias, self.scaled)


def _swapped(apply: Callable[[Any, Any], Any], kernel: Any, a: Any) -> Any:
    return apply(a, kernel)


@dataclass(frozen=True)
class Pooled:
    """A sum of all inputs with fixed weights of one sign: pooling, interpolation, residual sums, differences.

    Attributes
    ----------
    function
        The sum.
    signs
        Sign of the weights of each input; all positive where it is left out.
    """

    function: Callable[..., Any]
    signs: tuple[int, ...] | None = None

    def forward(self, inputs: list[Any]) -> Any:
        """Return the output."""
        return self.function(*inputs)

    def share(self, inputs: list[Any], relevance: Any, rule: Rule) -> list[Any]:
        """Return the relevance of every input."""
        if rule.name == "zplus":
            signs = self.signs or (1,) * len(inputs)
            # Fewer inputs than signs: x - x, of which nothing is left.
            inputs = [_positive(a) if s > 0 else _negative(a) for s, a in zip(signs, inputs, strict=False)]
        pulled = [vjp(at, a) for at, a in zip(_each(self.function, inputs), inputs, strict=True)]
        ratio = rule.ratio(relevance, pulled[0][0])
        return [a * pull(ratio) for a, (_, pull) in zip(inputs, pulled, strict=True)]


def _each(function: Callable[..., Any], inputs: list[Any]) -> list[Callable[[Any], Any]]:
    """Return the function of one input each, the others as they are."""
    return [partial(_put, function, inputs, i) for i in range(len(inputs))]


def _put(function: Callable[..., Any], inputs: list[Any], i: int, a: Any) -> Any:
    # Two inputs may be one tensor, which a layer returned as it came: only the one that is asked for is differentiated.
    fixed = [ops.stop_gradient(b) for b in inputs]
    return function(*fixed[:i], a, *fixed[i + 1 :])


@dataclass(frozen=True)
class Moved:
    """Cells that are moved, copied, cut, joined or chosen (maximum): relevance follows them."""

    function: Callable[..., Any]

    def forward(self, inputs: list[Any]) -> Any:
        """Return the output."""
        return self.function(*inputs)

    def share(self, inputs: list[Any], relevance: Any, rule: Rule) -> list[Any]:
        """Return the relevance of every input."""
        return [vjp(at, a)[1](relevance) for at, a in zip(_each(self.function, inputs), inputs, strict=True)]


@dataclass(frozen=True)
class Affine:
    """A factor and a shift of every cell: the shift is a bias under ``"epsilon"``, left out under ``"zplus"``."""

    function: Callable[[Any], Any]

    def forward(self, inputs: list[Any]) -> Any:
        """Return the output."""
        return self.function(inputs[0])

    def share(self, inputs: list[Any], relevance: Any, rule: Rule) -> list[Any]:
        """Return the relevance of the input."""
        if rule.name == "zplus":
            return [relevance]
        z, pull = vjp(self.function, inputs[0])
        return [inputs[0] * pull(rule.ratio(relevance, z))]


@dataclass(frozen=True)
class Single:
    """A function of one cell: relevance passes unchanged."""

    function: Callable[[Any], Any]

    def forward(self, inputs: list[Any]) -> Any:
        """Return the output."""
        return self.function(inputs[0])

    def share(self, inputs: list[Any], relevance: Any, rule: Rule) -> list[Any]:
        """Return the relevance of the input."""
        return [relevance]


@dataclass(eq=False)
class Signal:
    """A tensor on its way through the graph, and the step that made it."""

    tensor: Any
    maker: Step | None = None


@dataclass(eq=False)
class Step:
    """One operation done: its part, its inputs, and its output."""

    part: Part
    sources: list[Signal]
    out: Signal = field(init=False)

    def __post_init__(self) -> None:
        self.out = Signal(self.part.forward([s.tensor for s in self.sources]), self)


PartsOf = Callable[..., "tuple[list[Part], list[Signal]]"]
"""``(operation, *arguments) -> (parts one after another, inputs of the first)``."""


def propagate(network: Any, parts_of: PartsOf, x: Any, seed: Callable[[Any], Any], rule: Rule) -> Any:
    """Return the relevance of the inputs of a network.

    Parameters
    ----------
    network
        Functional, Sequential or one layer, of operations that *parts_of* knows.
    parts_of
        What an operation on signals is made of.
    x
        Inputs ``[row, *space, channel]``.
    seed
        Relevance of the output, from the output.
    rule
        How relevance is shared.
    """
    steps: list[Step] = []

    def do(op: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(leaf, Signal) for leaf in keras.tree.flatten((args, kwargs))):
            return op(*args, **kwargs)
        parts, sources = parts_of(op, *args, **kwargs)
        for part in parts:
            steps.append(Step(part, sources))
            sources = [steps[-1].out]
        return steps[-1].out

    start = Signal(x)
    end = replay(network, start, do)
    relevance = {end: seed(end.tensor)}
    for step in reversed(steps):
        # A step that was folded into the next one has no relevance of its own.
        if (own := relevance.pop(step.out, None)) is None:
            continue
        shared = step.part.share([s.tensor for s in step.sources], own, rule)
        for source, r in zip(step.sources, shared, strict=True):
            relevance[source] = relevance[source] + r if source in relevance else r
    return relevance.get(start, ops.zeros_like(x))
