"""A step of training, compiled whole: the gradient of a function, the optimizer, and what layers remember."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


def training_step(
    function: Callable[..., tuple[Any, Any]], variables: list[Any], others: list[Any], optimizer: Any
) -> Callable[..., Any]:
    """Return a compiled function that takes one step of an optimizer down the gradient of *function*.

    Parameters
    ----------
    function
        Of tensors; returns a scalar and a structure of tensors.
    variables
        Keras variables that are trained.
    others
        Further Keras variables that it reads or changes, such as running means and the states of random numbers.
    optimizer
        Of Keras.

    Returns
    -------
    callable
        ``(*args) -> what function tells beside the scalar``.
    """
    optimizer.build(variables)
    if keras.backend.backend() == "jax":
        import jax

        kept = optimizer.variables

        def loss(values: Any, rest: Any, args: Any) -> Any:
            mapping = [*zip(variables, values, strict=True), *zip(others, rest, strict=True)]
            with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
                value, told = function(*args)
                found = [scope.get_current_value(v) for v in others]
            return value, (told, [r if f is None else f for f, r in zip(found, rest, strict=True)])

        @jax.jit
        def pure(values: Any, rest: Any, states: Any, args: Any) -> Any:
            (_, (told, rest)), slopes = jax.value_and_grad(loss, has_aux=True)(values, rest, args)
            values, states = optimizer.stateless_apply(states, slopes, values)
            return told, values, rest, states

        def call(*args: Any) -> Any:
            told, *new = pure([v.value for v in variables], [v.value for v in others], [v.value for v in kept], args)
            for group, found in zip((variables, others, kept), new, strict=True):
                for variable, value in zip(group, found, strict=True):
                    variable.assign(value)
            return told

        return call
    import tensorflow as tf

    raw = [v.value for v in variables]

    def taped(*args: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(raw)
            value, told = function(*args)
        optimizer.apply(tape.gradient(value, raw, unconnected_gradients="zero"), variables)
        return told

    return tf.function(taped, autograph=False)
