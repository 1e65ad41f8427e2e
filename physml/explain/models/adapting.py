"""Any model as a function of packed inputs: a FieldModel, a Keras model or layer, an estimator, a function of Datasets."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from physml._errors import describe, refuse
from physml.explain.models.outputs import Outputs, outputs_of
from physml.learners._fitted import Fitted

if TYPE_CHECKING:
    from physml.layout import Layout

Forward = Callable[[np.ndarray], np.ndarray]

_ONE_AT_A_TIME = threading.RLock()
"""A model uses all cores itself; threads that ask at once would only get in each other's way. A model may ask another."""


@dataclass(frozen=True, eq=False)
class Adapted:
    """A model as a function of inputs ``[row, *space, channel]`` in physical units. Made by :func:`adapt`.

    Attributes
    ----------
    name
        What the model calls itself.
    layout
        Layout of its inputs.
    outputs
        How what it returns is labelled.
    call
        Outputs ``[row, *outputs.shape]`` of inputs, both NumPy arrays.
    dtype
        Type of the inputs it is given; None: that of the data.
    tensors
        The same function of tensors, differentiable; None where there is no such thing.
    network
        The Keras model or layer, or None.
    """

    name: str
    layout: Layout
    outputs: Outputs
    call: Forward
    dtype: str | None = None
    tensors: Callable[[Any], Any] | None = None
    network: Any = None

    @property
    def compiled(self) -> bool:
        """Whether it should always be given the same number of rows."""
        return self.tensors is not None or self.network is not None

    def __reduce__(self) -> Any:
        # The network goes along once, within the function that knows how to send it.
        here = (self.name, self.layout, self.outputs, self.call, self.dtype, self.tensors)
        return _restored, (*here, self.network is not None)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the outputs of *rows*, one caller at a time.

        Raises
        ------
        ValueError
            Where the model returns another shape than before.
        """
        with _ONE_AT_A_TIME:
            outputs = np.asarray(self.call(rows))
        expected = (len(rows), *self.outputs.shape)
        if outputs.shape != expected:
            raise ValueError(
                describe(
                    "the model returned another shape than its layout says",
                    expected=f"[row, ...] = {expected}",
                    received=outputs.shape,
                    remedy="give the layout the model was built for",
                )
            )
        return outputs


def _restored(*parts: Any) -> Adapted:
    name, layout, outputs, call, dtype, tensors, networked = parts
    return Adapted(name, layout, outputs, call, dtype, tensors, call.model if networked else None)


@dataclass(frozen=True, eq=False)
class on_tensors:
    """Mark a function as one of tensors ``[row, *space, channel]`` rather than of Datasets.

    Examples
    --------
    >>> model = on_tensors(lambda x: x[..., :1] ** 2)
    """

    function: Callable[[Any], Any]


def adapt(
    model: Any, layout: Layout | None = None, probe: np.ndarray | None = None, outputs: Sequence[str] | None = None
) -> Adapted:
    """Return *model* as a function of packed inputs.

    Parameters
    ----------
    model
        A ``FieldModel``; a learner of :mod:`physml.learners`; a Keras model or layer of ``[row, *space, channel]`` in physical units, or of all valid inputs of a
        sample ``[row, n]``, or with an input for each variable, called by its name; a fitted scikit-learn estimator
        whose features are all valid inputs of a sample, or the channels of a cell; :class:`on_tensors`; any other callable
        takes a Dataset of inputs and returns a Dataset or DataArray, with the sample dimension in both (see
        :func:`physml.explain.labelled_models.on_datasets`).
    layout
        Layout of a model that has none of its own: ``spec.bind(ds)``.
    probe
        Inputs ``[1, *space, channel]`` by which the shape of the outputs is found; default ones.
    outputs
        Names of the outputs of a model that returns ``[row, k]``, or ``[row, *space, k]`` other than the targets; default the class names of a classifier, else those of
        the target channels.

    Raises
    ------
    TypeError
        Where there is no layout, or *model* is none of these.
    ValueError
        Where what it returns fits neither the layout nor *outputs*.
    """
    if isinstance(model, Adapted):
        return model
    layout = layout_for(model, layout)
    if probe is None:
        probe = np.ones((1, *layout.shape, len(layout.inputs)), "float32")
    probe = probe[:1]
    if isinstance(model, Fitted):
        from physml.explain.models.learned import learner

        return learner(model, outputs)
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Layer):
        from physml.explain.models.keras_models import keras_model

        return keras_model(model, layout, probe, outputs)
    if isinstance(model, on_tensors):
        return _tensors(model.function, layout, probe, outputs)
    if hasattr(model, "predict") and not hasattr(model, "n_features_in_") and hasattr(model, "fit"):
        raise TypeError(
            describe(
                f"{type(model).__name__} is not fitted",
                expected="n_features_in_, which fit sets",
                received="an estimator without it",
                remedy="model.fit(X, y) first",
            )
        )
    if hasattr(model, "predict") and hasattr(model, "n_features_in_"):
        from physml.explain.models.estimators import estimator

        return estimator(model, layout, probe, outputs)
    if callable(model):
        from physml.explain.models.labelled_models import on_datasets

        if outputs is not None:
            refuse(
                "a function of Datasets names its outputs itself",
                "outputs=None",
                list(outputs),
                "leave outputs out, and rename the variables that the function returns",
            )
        return on_datasets(model, layout, probe)
    raise TypeError(
        describe(
            "this is no model",
            expected="a FieldModel, a Keras model, a fitted scikit-learn estimator, or a callable on Datasets",
            received=type(model).__name__,
            remedy="pass a callable, or explain.on_tensors(f) for a function of tensors",
        )
    )


def layout_for(model: Any, layout: Layout | None) -> Layout:
    """Return the layout given, or else the model's own; refuse a model that has none."""
    found = layout if layout is not None else getattr(model, "layout", None)
    if found is None:
        raise TypeError(
            describe(
                "the model has no layout",
                expected="a FieldModel, or layout=spec.bind(ds)",
                received=type(model).__name__,
                remedy="pass layout=...",
            )
        )
    return found


def _tensors(function: Callable[[Any], Any], layout: Layout, probe: np.ndarray, names: Sequence[str] | None) -> Adapted:
    import keras

    from physml import _backend

    def call(rows: np.ndarray) -> np.ndarray:
        with _backend.float64():  # JAX would take float64 rows for float32 ones
            return keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(rows)))

    outputs = outputs_of(call(probe).shape[1:], layout, names)
    name = getattr(function, "__name__", type(function).__name__)
    return Adapted(name, layout, outputs, _shaped(call, outputs), None, function)


def _shaped(call: Forward, outputs: Outputs) -> Forward:
    """Give a model of one number a row ``[row]`` its axis ``[row, 1]``."""
    if outputs.shape != (1,):
        return call

    def shaped(rows: np.ndarray) -> np.ndarray:
        found = np.asarray(call(rows))
        return found[:, None] if found.ndim == 1 else found

    return shaped
