"""The little that depends on the Keras backend: double precision and custom gradients."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Make float64 mean float64 inside the block.

    JAX turns float64 into float32 unless x64 is on; a budget or a linear solve would lose nine digits without a
    word. Inside this block x64 is on for the current thread only. TensorFlow needs nothing.
    """
    if keras.backend.backend() == "jax":
        import jax

        with jax.enable_x64(True):
            yield
    else:
        yield


def eager() -> contextlib.AbstractContextManager[Any]:
    """Make operations on constants run at once inside the block, even while a function is being compiled."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.ensure_compile_time_eval()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    return contextlib.nullcontext()


def outside(function: Callable[..., np.ndarray], shape: tuple[int, ...], *args: Any) -> Any:
    """Return the float64 tensor of *shape* that a function of NumPy arrays computes, within compiled functions too.

    It has no gradient of its own: see :func:`outside_linear`, or put it within :func:`custom_gradient`. XLA on TensorFlow cannot
    hold it; ``traced(..., fused=False)`` can.
    """

    def run(*arrays: Any) -> np.ndarray:
        return np.asarray(function(*(np.asarray(a) for a in arrays)), "float64", order="C")

    if keras.backend.backend() == "jax":
        import jax

        if not any(isinstance(a, jax.core.Tracer) for a in args):
            return jax.numpy.asarray(run(*args))
        return jax.pure_callback(run, jax.ShapeDtypeStruct(shape, "float64"), *args, vmap_method="sequential")

    import tensorflow as tf

    if tf.executing_eagerly():
        return tf.convert_to_tensor(run(*args))
    result = tf.numpy_function(run, args, tf.float64)
    result.set_shape(shape)
    return result


def outside_linear(
    forward: Callable[[np.ndarray], np.ndarray],
    adjoint: Callable[[np.ndarray], np.ndarray],
    sizes: tuple[int, int],
    x: Any,
) -> Any:
    """Return ``forward(x)`` for a linear function of NumPy arrays along the last axis, with its adjoint as gradient.

    Parameters
    ----------
    forward, adjoint
        ``[k, sizes[0]] -> [k, sizes[1]]`` and back.
    """
    x = keras.ops.convert_to_tensor(x)
    lead = tuple(x.shape[:-1])

    def function(x: Any) -> tuple[Any, Callable[[Any], tuple[Any]]]:
        def apply(a: np.ndarray) -> np.ndarray:
            return forward(a.reshape(-1, sizes[0])).reshape(*a.shape[:-1], sizes[1])

        def vjp(upstream: Any) -> tuple[Any]:
            return (outside_linear(adjoint, forward, (sizes[1], sizes[0]), upstream),)

        return outside(apply, (*lead, sizes[1]), x), vjp

    return custom_gradient(function)(x)


def real_spectrum(x: Any) -> Any:
    """Return the real part of the Fourier transform over all dimensions of a real tensor, half of the last."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.numpy.fft.rfftn(x).real

    import tensorflow as tf

    return tf.math.real((tf.signal.rfft if len(x.shape) == 1 else tf.signal.rfft2d)(x))


def filtered(x: Any, spectrum: Any, shape: tuple[int, ...]) -> Any:
    """Return real fields ``[..., *grid]``, continued by zeros to *shape* of one or two dimensions, times a real spectrum."""
    if keras.backend.backend() == "jax":
        import jax

        axes = tuple(range(-len(shape), 0))
        return jax.numpy.fft.irfftn(jax.numpy.fft.rfftn(x, shape, axes) * spectrum, shape, axes)

    import tensorflow as tf

    forward, back = (tf.signal.rfft, tf.signal.irfft) if len(shape) == 1 else (tf.signal.rfft2d, tf.signal.irfft2d)
    x = tf.pad(
        x,
        [[0, 0]] * (len(x.shape) - len(shape))
        + [[0, n - m] for n, m in zip(shape, x.shape[-len(shape) :], strict=True)],
    )
    return back(forward(x) * tf.cast(spectrum, tf.complex128), shape)


def widest_float() -> str:
    """Return the widest float that plain operations honour here: "float64", but "float32" on JAX with x64 off."""
    if keras.backend.backend() == "jax":
        import jax

        return str(jax.numpy.result_type(float))
    return "float64"


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


def spare_rows(rows: int) -> int:
    """Return how many rows to add to a batch so that the others do not depend on the sizes of the batch and the map.

    The matrix products of Eigen sum the last few dozen cells of a batch in another order than the rest: one bit of float32. In
    a row that nobody reads this does no harm. It costs a row, so that batches of few whole maps go without.
    """
    if keras.backend.backend() == "jax":
        import jax

        return int(rows >= 8 and jax.default_backend() == "cpu")

    import tensorflow as tf

    return int(rows >= 8 and not tf.config.list_physical_devices("GPU"))


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


def mean(x: Any, axis: int, keepdims: bool = False) -> Any:
    """Return the mean along an axis in the dtype of *x*: ``keras.ops.mean`` computes it in float32 on JAX."""
    return keras.ops.sum(x, axis=axis, keepdims=keepdims) / x.shape[axis]


def is_not_finite(error: Exception) -> bool:
    """Whether an error comes from a matrix with NaN: TensorFlow fails in its decomposition, JAX gives NaN without a word."""
    return "NaN" in str(error) or "not successful" in str(error)


def concrete(value: Any) -> np.ndarray | None:
    """Return a tensor as an array where its values are known by now, None inside compiled functions."""
    try:
        return np.asarray(keras.ops.convert_to_numpy(value))
    except (NotImplementedError, TypeError, AttributeError, ValueError):
        return None


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
