"""Derivatives: given by hand, along a direction, adjoint, implicit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from physml._backend.compiling import _derivative
from physml._backend.precision import float64


def custom_gradient(function: Callable[..., tuple[Any, Callable[..., Any]]]) -> Callable[..., Any]:
    """Give *function* its own vector-Jacobian product, both passes computed with float64 available.

    Parameters
    ----------
    function
        Takes tensors; returns ``(output, vjp)`` with ``vjp(upstream) -> tuple of gradients``, one for each input.
        Inputs, outputs and gradients keep the caller's dtype; inside, casts to float64 are honoured.

    Returns
    -------
    callable
        The differentiable function of the same tensors.
    """
    if keras.backend.backend() == "jax":
        import jax

        def run(*args: Any) -> Any:
            with float64():
                return function(*args)[0]

        wrapped = jax.custom_vjp(run)

        def backward(args: Any, upstream: Any) -> Any:
            with float64():
                return tuple(function(*args)[1](upstream))

        wrapped.defvjp(lambda *args: (run(*args), args), backward)
        return wrapped

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.custom_gradient
        def call(*args: Any) -> Any:
            output, vjp = function(*args)
            return output, lambda *upstream: tuple(vjp(*upstream))

        return lambda *args: call(*(tf.convert_to_tensor(a) for a in args))

    raise RuntimeError(
        f"the {keras.backend.backend()!r} backend has no float64 custom gradient in physml. "
        "Expected: tensorflow or jax. Remedy: set KERAS_BACKEND=tensorflow before importing keras."
    )


def slopes(function: Callable[..., Any], args: list[Any]) -> tuple[Any, list[Any]]:
    """Return the value of a function that acts cell by cell, and its derivative in each argument, themselves differentiable."""
    if keras.backend.backend() == "jax":
        import jax

        found = jax.grad(lambda *a: function(*a).sum(), argnums=tuple(range(len(args))))(*args)
        return function(*args), list(found)

    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(args)
        value = function(*args)
    return value, tape.gradient(value, args, unconnected_gradients="zero")


def value_and_gradient(function: Callable[[Any], Any], x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return ``function(x)`` (a scalar) and its gradient with respect to *x*, as NumPy arrays."""
    if keras.backend.backend() == "jax":
        import jax

        with float64():
            value, gradient = jax.value_and_grad(function)(jax.numpy.asarray(x))
        return np.asarray(value), np.asarray(gradient)

    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return np.asarray(value), np.asarray(tape.gradient(value, x))


def jvp(function: Callable[[Any], Any], x: Any, direction: Any) -> tuple[Any, Any]:
    """Return ``function(x)`` and its derivative along *direction*: the tangent linear."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jvp(function, (x,), (direction,))

    import tensorflow as tf

    with _derivative(), tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        value = function(x)
    slope = accumulator.jvp(value)
    return value, tf.zeros_like(value) if slope is None else slope


def vjp(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return ``function(x)`` and its adjoint, a function of the upstream gradient."""
    if keras.backend.backend() == "jax":
        import jax

        value, pull = jax.vjp(function, x)
        return value, lambda upstream: pull(upstream)[0]

    import tensorflow as tf

    with _derivative(), tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        value = function(x)
    return value, lambda upstream: tape.gradient(value, x, output_gradients=upstream, unconnected_gradients="zero")


def implicit(value: Any, residual: Any, solve: Callable[[Any], Any]) -> Any:
    """Return *value*, where *residual* is zero, with the gradient of that root.

    As whatever *residual* depends on changes, the root moves by ``-solve(change of the residual)``: the gradient costs one
    solve, and none of it runs through the iterations that found the root. Nothing is solved where no gradient is asked for.

    Parameters
    ----------
    value
        The root, without a gradient of its own.
    residual
        A differentiable function at *value*, of the shape of *value*.
    solve
        Solves with the derivative of the residual in *value*; linear and symmetric.
    """
    if keras.backend.backend() == "jax":
        import jax

        # The backward pass runs when the traces of this one are gone: whatever solve reads has to be handed over.
        closed = jax.make_jaxpr(solve)(residual)

        @jax.custom_vjp
        def attach(value: Any, residual: Any, *read: Any) -> Any:
            return value

        def backward(read: Any, upstream: Any) -> Any:
            (found,) = jax.core.eval_jaxpr(closed.jaxpr, read, upstream)
            return (jax.numpy.zeros_like(upstream), -found, *(None for _ in read))

        attach.defvjp(lambda value, residual, *read: (value, read), backward)
        return attach(value, residual, *closed.consts)

    import tensorflow as tf

    @tf.custom_gradient
    def identity(value: Any, residual: Any) -> Any:
        return tf.identity(value), lambda upstream: (tf.zeros_like(upstream), -solve(upstream))

    return identity(value, residual)


def gradients(function: Callable[..., tuple[Any, Any]], variables: list[Any], others: list[Any]) -> Callable[..., Any]:
    """Return a compiled function that gives the value of *function*, what it tells beside, and gradients in Keras variables.

    Parameters
    ----------
    function
        Of nested structures of tensors, None for an absent one; returns a scalar and a structure of tensors.
    variables
        What it is differentiated in.
    others
        Further Keras variables that it reads and that may change between calls.

    Returns
    -------
    callable
        ``(*args) -> (value, told, [gradient of each variable])``, 0 where the value does not depend on one.
    """
    if keras.backend.backend() == "jax":
        import jax

        def stateless(values: Any, rest: Any, *args: Any) -> Any:
            mapping = [*zip(variables, values, strict=True), *zip(others, rest, strict=True)]
            with keras.StatelessScope(state_mapping=mapping):
                return function(*args)

        jitted = jax.jit(jax.value_and_grad(stateless, has_aux=True))

        def call(*args: Any) -> Any:
            (value, told), slopes = jitted([v.value for v in variables], [v.value for v in others], *args)
            return value, told, list(slopes)

        return call
    import tensorflow as tf

    raw = [v.value for v in variables]

    @tf.function(autograph=False)
    def taped(*args: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(raw)
            value, told = function(*args)
        return value, told, tape.gradient(value, raw, unconnected_gradients="zero")

    return taped
