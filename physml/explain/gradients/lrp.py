"""Layer-wise relevance propagation of a Keras network, also inside a FieldModel.

Relevance starts as the share of each output element in the target, ``w_j f_j``, and is passed back by the rules of
:mod:`physml.explain.gradients.relevance`. Inside a FieldModel it passes the scaling of the inputs unchanged, so that inputs count
from their mean over the training data; what the target is for inputs and network output at their means is the base value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from physml._backend import vjp
from physml._errors import closest, describe
from physml.explain.gradients.layers import check, operations, parts_of
from physml.explain.gradients.relevance import RULES, Rule, propagate
from physml.explain.gradients.rows import compiled_rows

Relevance = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Inputs ``[row, *space, channel]`` to relevance of the same shape and base values ``[row]``."""


def rule(name: str, epsilon: float) -> Rule:
    """Return a rule by its name.

    Raises
    ------
    ValueError
        For an unknown rule, and a stabiliser that is not positive.
    """
    if name not in RULES:
        raise ValueError(
            describe(
                f"rule {name!r} is unknown{closest(name, RULES)}",
                expected=" or ".join(map(repr, RULES)),
                received=repr(name),
                remedy="leave it out for 'epsilon'",
            )
        )
    if not epsilon > 0:
        raise ValueError(
            describe("epsilon is not positive", expected="> 0", received=epsilon, remedy="leave it out for 1e-6")
        )
    return Rule(name, epsilon)


def inspect(network: Any, shape: tuple[int | None, ...], dtype: str) -> None:
    """Refuse what relevance cannot pass, before anything is computed.

    Parameters
    ----------
    network
        A FieldModel, or a network.
    shape, dtype
        Of its inputs, with the rows.

    Raises
    ------
    NotImplementedError
        Naming the layers, laws, head or transforms, and the remedy.
    """
    if _is_field_model(network):
        laws = [str(law) for law in network.constraints]
        methods = {n: network.scaling.method(n) for n in network.layout.spec.targets}
        other = [] if network.head is None else [f"head {type(network.head).__name__}"]
        other += [f"scaling {m.name!r} of {n!r}" for n, m in methods.items() if m.nonlinear]
        if laws or other:
            alone = "; or explain the fields before the laws: FieldModel(model.network, scaling=model.scaling, increment=model.increment)"
            raise NotImplementedError(
                describe(
                    f"relevance cannot pass what {network.name!r} does to the output of its network",
                    expected="no constraints, no head, targets scaled by a factor and a shift",
                    received=", ".join(laws + other),
                    remedy="kind='integrated'" + ("" if other else alone),
                )
            )
        network, dtype = network.network, network.compute_dtype
    check(network, shape, dtype)


def relevance(
    network: Any, weights: np.ndarray, how: Rule, shape: tuple[int, ...], dtype: str, cells: np.ndarray | None = None
) -> Relevance:
    """Return the relevance of inputs for a linear functional of a model's output; compiled once.

    Parameters
    ----------
    network
        A FieldModel, or a network that :func:`inspect` let pass.
    weights
        The functional ``[output element]``.
    how
        The rule.
    shape, dtype
        Of the rows, with their number.
    cells
        For a network of ``[row, n]``: where its features stand among the inputs ``[*space, channel]``.
    """
    weights = np.asarray(weights, "float64").ravel()
    share = weights.astype("float32")

    def shares(out: Any) -> Any:
        return ops.reshape(ops.convert_to_tensor(share), out.shape[1:])

    def plain(x: Any) -> tuple[Any, ...]:
        def enter(x: Any) -> Any:
            return x if cells is None else ops.take(ops.reshape(x, (shape[0], -1)), cells, axis=1)

        features, back = vjp(enter, ops.cast(x, "float32"))
        r = back(propagate(network, parts_of, features, lambda out: out * shares(out), how))
        return r, ops.zeros_like(r), ops.zeros((shape[0], weights.size), "float32")

    def inside(x: Any) -> tuple[Any, ...]:
        spec = operations(network.network, shape, network.compute_dtype)[-1][-1]
        nothing = ops.zeros((shape[0], *spec.shape[1:]), network.compute_dtype)
        scaled: list[Any] = []

        def look(z: Any, training: Any = None) -> Any:
            scaled.append(z)
            return nothing

        def output(x: Any, n: Any) -> Any:
            return network.through(x, lambda z, training=None: n, penalties=False)

        network.through(x, look, penalties=False)
        # What the inputs add beside the network (increments), and what a unit of the network's output adds.
        start, of_inputs = vjp(lambda x: output(x, nothing), x)
        _, of_network = vjp(lambda n: output(x, n), nothing)
        seed = ops.zeros_like(start) + shares(start)
        unit = ops.cast(of_network(seed), "float32")
        beside = (x - network._scale.centre(x)) * of_inputs(seed)
        r = propagate(network.network, parts_of, ops.cast(scaled[0], "float32"), lambda out: out * unit, how)
        return r, beside, ops.reshape(start, (shape[0], -1))

    run = compiled_rows(inside if _is_field_model(network) else plain, list(network.variables), shape, dtype)

    def found(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r, beside, start = (a.astype("float64") for a in run(rows))
        return r + beside, start @ weights - beside.reshape(len(beside), -1).sum(1)

    return found


def _is_field_model(network: Any) -> bool:
    return hasattr(network, "network") and hasattr(network, "through")
