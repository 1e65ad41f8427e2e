"""Constraints as a Keras layer, for any model that works on the channels of a layout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from physml.constraints.base import Constraint
from physml.constraints.combine import Constraints
from physml.layout import Layout


def concatenate(fields: dict[str, Any], layout: Layout) -> Any:
    """Return the target tensor ``[batch, *space, channel]`` of fields by variable."""
    parts = [fields[n] for n in layout.spec.targets]
    return parts[0] if len(parts) == 1 else keras.ops.concatenate(parts, axis=-1)


@keras.saving.register_keras_serializable(package="physml")
class ConstraintLayer(keras.layers.Layer):
    """Moves physical outputs onto the laws, or adds their violation to the loss.

    Parameters
    ----------
    constraints
        Laws, or their configuration.
    layout
        Layout of inputs and targets, or its configuration.
    penalty
        None: the laws hold exactly in the output (hard). A number: outputs pass unchanged and ``penalty`` times the mean
        squared residual joins the loss (soft).

    Call arguments
    --------------
    outputs : ``[batch, *space, target channel]`` in physical units.
    inputs : ``[batch, *space, input channel]`` in physical units.

    Output shape
    ------------
    That of *outputs*.

    Raises
    ------
    KeyError, ValueError
        Where a law does not fit the layout.
    """

    def __init__(
        self,
        constraints: Constraints | Constraint | Iterable[Constraint] | list[dict[str, Any]] | dict[str, Any],
        layout: Layout | dict[str, Any],
        penalty: float | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")  # in half precision a budget is gone before it is enforced
        super().__init__(**kwargs)
        if not isinstance(constraints, Constraints):
            entries: Any = constraints if isinstance(constraints, dict | Constraint) else list(constraints)
            plain = isinstance(entries, dict) or (
                isinstance(entries, list) and bool(entries) and isinstance(entries[0], dict)
            )
            constraints = Constraints.from_config(entries) if plain else Constraints(entries)
        self.penalty = penalty
        self.constraints = constraints
        restored = isinstance(layout, dict)
        found = Layout.from_config(layout) if isinstance(layout, dict) else layout
        self.layout = found if restored else constraints.bind(found)

    def call(self, outputs: Any, inputs: Any) -> Any:
        """Return the outputs, moved onto the laws unless *penalty* is given."""
        if self.layout.spec.mask is not None:  # anything may stand on masked cells, NaN too
            inputs = keras.ops.where(self.layout.valid("inputs"), inputs, keras.ops.zeros_like(inputs))
        y, x = self.layout.split(outputs, "targets"), self.layout.split(inputs, "inputs")
        if self.penalty is not None:
            self.add_loss(self.penalty * self.constraints.loss(y, x, self.layout))
            return outputs
        return concatenate(self.constraints.project(y, x, self.layout), self.layout)

    def compute_output_shape(self, outputs_shape: Any, inputs_shape: Any = None) -> Any:
        """Return the shape of *outputs*."""
        return outputs_shape

    def save_own_variables(self, store: Any) -> None:
        """Store the static fields of the layout."""
        for name, array in self.layout.arrays().items():
            store[name] = array

    def load_own_variables(self, store: Any) -> None:
        """Restore the static fields of the layout."""
        arrays = {n: np.asarray(store[n]) for n in self.layout.arrays()}
        self.layout = Layout.from_config(self.layout.to_config(), arrays)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            **super().get_config(),
            "constraints": self.constraints.to_config(),
            "layout": self.layout.to_config(),
            "penalty": self.penalty,
        }
