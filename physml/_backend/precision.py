"""Double precision, and what is known while a function is compiled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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


def widest_float() -> str:
    """Return the widest float that plain operations honour here: "float64", but "float32" on JAX with x64 off."""
    if keras.backend.backend() == "jax":
        import jax

        return str(jax.numpy.result_type(float))
    return "float64"


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
