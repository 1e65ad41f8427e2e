"""A model and its target as values and gradients of rows, evaluated in batches of one size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from physml._errors import refuse
from physml.explain.blocks import Block
from physml.explain.gradients.rows import Late, in_batches, input_gradient

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer
    from physml.explain.models.adapting import Adapted


class Work:
    """A model and its target, evaluated in batches of one size; travels to other processes.

    Parameters
    ----------
    explainer
        Whose model and target.
    batch_rows
        Rows in a batch that asks for gradients.
    value_rows
        Rows in a batch that asks for values.
    dtype
        Type of the rows.
    """

    def __init__(self, explainer: Explainer, batch_rows: int, value_rows: int, dtype: str) -> None:
        self.explainer, self.batch_rows, self.value_rows, self.dtype = explainer, batch_rows, value_rows, dtype
        self.layout = explainer.layout
        self.shape = (batch_rows, *self.layout.shape, len(self.layout.inputs))
        self.valid = self.layout.valid("inputs")
        self._compiled: dict[str, Late] = {}

    def late(self, name: str, make: Callable[[], Any]) -> Late:
        """Return a function that is compiled on its first call, the same one for every block."""
        return self._compiled.setdefault(name, Late(make))

    def gradient(self, rows: np.ndarray) -> np.ndarray:
        """Return the gradient of the target in the inputs of every row.

        Raises
        ------
        ValueError
            Where it is not finite on a valid cell.
        """
        found = self.late("gradient", partial(_compile_gradient, self.explainer, self.shape, self.dtype))(rows)
        if not np.isfinite(found[:, self.valid]).all():
            bad = self.valid & ~np.isfinite(found)
            channel = self.layout.inputs[int(np.argwhere(bad)[0][-1])]
            refuse(
                f"the gradient of {self.explainer.measure.label!r} in {str(channel)!r} is not finite",
                "a finite gradient in every valid input",
                f"{int(bad.sum())} of {found.size} values missing or infinite",
                "a root, logarithm or division in the model may be at its end here; or use .shapley(...)",
            )
        return np.where(self.valid, found, 0)

    def value(self, rows: np.ndarray) -> np.ndarray:
        """Return the target of rows ``[row, *space, channel]`` as ``[row, valid cell]`` in float64."""
        return self.explainer.value(rows.astype(self.dtype, copy=False))

    def full(self, block: Block) -> np.ndarray:
        """Return the target of the samples ``[sample, valid cell]``."""
        return self._values(block.inputs, np.arange(len(block.inputs)))

    def base(self, block: Block) -> np.ndarray:
        """Return the target of the baseline, the mean over the rows of each sample ``[sample, valid cell]``."""
        used, where = np.unique(block.index, return_inverse=True)
        return self._values(block.rows, used)[where.reshape(block.index.shape)].mean(1)

    def _values(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        found = in_batches(self.value, lambda k: rows[numbers[k]], len(numbers), self.value_rows)
        return np.concatenate([values for _, values in found])


def _compile_gradient(explainer: Explainer, shape: tuple[int, ...], dtype: str) -> Any:
    adapted, weights = explainer.adapted, explainer.measure.weights
    assert adapted.tensors is not None and weights is not None
    variables, scale = list(getattr(keras_of(adapted), "variables", [])), gradient_scale(explainer, dtype)
    return input_gradient(adapted.tensors, weights, variables, shape, dtype, scale)


def keras_of(adapted: Adapted) -> Any:
    """Return the Keras model or layer behind an adapted model, whatever inputs it takes; None where there is none."""
    return adapted.network if adapted.network is not None else getattr(adapted.call, "model", None)


def gradient_scale(explainer: Explainer, dtype: str) -> float:
    """Return a power of two near the greatest derivative of the target in the output of the network, at the baseline.

    Divided by it, gradients inside the network are about one. A mean over many cells, or a field of 1e-9 kg kg-1, would vanish in a
    network of half precision otherwise.
    """
    adapted, weights = explainer.adapted, explainer.measure.weights
    assert weights is not None
    size, model = float(np.abs(weights).max()), adapted.network
    half = hasattr(model, "through") and any("16" in str(layer.compute_dtype) for layer in model._flatten_layers())
    if half:  # what a FieldModel's scaling, head and laws make of the output of its network
        size = _around_network(model, np.asarray(weights).reshape(-1, 1), explainer.baseline.rows[:1], dtype) or size
    return float(2.0 ** np.round(np.log2(size))) if np.isfinite(size) and size > 0 else 1.0


def _around_network(model: Any, column: np.ndarray, row: np.ndarray, dtype: str) -> float:
    from keras import ops

    from physml._backend import float64, vjp

    with float64() if dtype == "float64" else contextlib.nullcontext():
        x = ops.convert_to_tensor(row.astype(dtype))
        seen: list[Any] = []

        def look(z: Any, training: Any = None) -> Any:
            seen.append(model.network(z))
            return seen[-1]

        def value(n: Any) -> Any:
            y = model.through(x, lambda z, training=None: n, penalties=False)
            return ops.matmul(ops.cast(ops.reshape(y, (1, -1)), dtype), column.astype(dtype))

        model.through(x, look, penalties=False)
        if not hasattr(seen[0], "shape"):  # a head may take several tensors
            return 0.0
        _, pull = vjp(value, ops.cast(seen[0], dtype))
        return float(np.abs(ops.convert_to_numpy(pull(ops.ones((1, 1), dtype)))).max())
