"""NumPy and Fourier transforms within compiled functions, with their adjoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from physml._backend.derivatives import custom_gradient


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
