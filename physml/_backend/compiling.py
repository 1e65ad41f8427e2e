"""Functions compiled once for each set of shapes, and loops in them."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of arrays compiled by XLA, once for each shape: loops over arrays become five to thirty times faster."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        traced = tf.function(function, jit_compile=True, autograph=False)

        def call(*args: Any) -> Any:
            # Gradients are given beside it: nothing is to be recorded for differentiating its loops.
            return traced(
                *(tf.nest.map_structure(lambda a: None if a is None else tf.stop_gradient(a), arg) for arg in args)
            )

        return call
    return function


def fixed_signature(
    function: Callable[..., Any], variables: list[Any], shapes: list[tuple[int, ...]], dtypes: list[str]
) -> Callable[..., tuple[np.ndarray, ...]]:
    """Return a function of arrays of fixed shapes, compiled once, that gives NumPy arrays.

    Parameters
    ----------
    function
        Takes tensors, returns a tuple of tensors; reads the Keras *variables* and changes none.
    variables
        What it reads: their values at the time of each call are used.
    shapes, dtypes
        Of its arguments.
    """
    if keras.backend.backend() == "jax":
        import jax

        def stateless(values: Any, *args: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function(*args)

        jitted = jax.jit(stateless)
        return lambda *args: tuple(np.asarray(y) for y in jitted([v.value for v in variables], *args))

    import tensorflow as tf

    signature = [tf.TensorSpec(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    traced = tf.function(function, input_signature=signature, autograph=False).get_concrete_function()

    def run(*args: Any) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(y) for y in traced(*(tf.constant(a) for a in args)))

    return run


def traced(
    function: Callable[..., Any], *, variables: list[Any] | None = None, fused: bool = False
) -> Callable[..., Any]:
    """Return a function of nested structures of tensors, compiled once for each set of shapes, that can be differentiated.

    Parameters
    ----------
    function
        Of tensors, or of tuples and dictionaries of them; None stands for an absent one.
    variables
        Keras variables that it reads and that may change between calls; JAX would otherwise freeze them.
    fused
        True: by XLA on TensorFlow too, which fuses chains of small operations, but is slow in eigenvalue problems.
    """
    if keras.backend.backend() == "jax":
        import jax

        def stateless(values: Any, *args: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables or [], values, strict=True))):
                return function(*args)

        jitted = jax.jit(stateless)
        return lambda *args: jitted([v.value for v in variables or []], *args)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # A partial has no code object by which TensorFlow would take all functions made by one line for one, and warn of it.
        return tf.function(functools.partial(function), jit_compile=fused or None, autograph=False)
    return function


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of tensors that XLA compiles, inside one that is traced: elsewhere and on JAX, the function itself.

    Within :func:`jvp` and :func:`vjp` a function with loops stays as it is: TensorFlow hands no record of a loop across the
    edge of what XLA compiles. For the same reason a gradient from outside needs functions without loops, or unfused.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    if tf.executing_eagerly():
        return function
    compiled = tf.function(functools.partial(function), jit_compile=True, autograph=False)

    def call(*args: Any) -> Any:
        if _derivatives.get() and _loops(compiled.get_concrete_function(*args)):
            return function(*args)
        return compiled(*args)

    return call


_derivatives: contextvars.ContextVar[bool] = contextvars.ContextVar("derivatives", default=False)


@contextlib.contextmanager
def _derivative() -> Iterator[None]:
    """Let :func:`fused` know that what is traced inside the block will be differentiated there."""
    token = _derivatives.set(True)
    try:
        yield
    finally:
        _derivatives.reset(token)


def _loops(concrete: Any) -> bool:
    graph = concrete.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return any(node.op in ("While", "StatelessWhile") for node in nodes)


def scan(function: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any) -> tuple[Any, Any]:
    """Return the last carry and the stacked results of ``function(carry, x) -> (carry, y)`` along the first axis of *xs*.

    Nested structures of tensors, None for an absent one; inside a traced function. Unlike ``keras.ops.scan``, y need not look
    like the carry.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.scan(function, carry, xs)
    import tensorflow as tf

    leaves = [x for x in tf.nest.flatten(xs) if x is not None]
    length = int(leaves[0].shape[0])
    body = tf.function(functools.partial(function), autograph=False)

    def at(i: Any) -> Any:
        return tf.nest.map_structure(lambda x: None if x is None else x[i], xs)

    def spec(x: Any) -> Any:
        return None if x is None else tf.TensorSpec(x.shape, x.dtype)

    like = body.get_concrete_function(*tf.nest.map_structure(spec, (carry, at(0)))).structured_outputs[1]
    told = [y for y in tf.nest.flatten(like) if y is not None]
    arrays = [tf.TensorArray(y.dtype, size=length, element_shape=y.shape) for y in told]

    def step(i: Any, carry: Any, arrays: Any) -> Any:
        carry, y = body(carry, at(i))
        found = [a for a in tf.nest.flatten(y) if a is not None]
        return i + 1, carry, [a.write(i, v) for a, v in zip(arrays, found, strict=True)]

    _, carry, arrays = tf.while_loop(
        lambda i, *_: i < length, step, (0, carry, arrays), maximum_iterations=length, parallel_iterations=1
    )
    stacked = iter([a.stack() for a in arrays])
    return carry, tf.nest.map_structure(lambda y: None if y is None else next(stacked), like)
