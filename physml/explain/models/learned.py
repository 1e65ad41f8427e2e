"""Learners that are no networks as functions of packed inputs; forests as the trees they are, so that they are explained exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from physml._errors import refuse
from physml.explain.models.adapting import Adapted
from physml.explain.models.estimators import Rows
from physml.explain.models.outputs import Fields, Outputs, channels_named, outputs_of
from physml.learners._fitted import Fitted
from physml.learners.forest import Forest


@dataclass(frozen=True, eq=False)
class Means:
    """The targets that a learner predicts, without their spread, of inputs ``[row, *space, channel]``."""

    learner: Fitted

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return ``[row, *space, target channel]``, or ``[row, target channel]``."""
        found = self.learner.rows(self.learner.inputs_of(rows))
        return found[..., : len(self.learner.layout.targets)]


def learner(model: Fitted, outputs: Sequence[str] | None) -> Adapted:
    """Return a fitted learner as a function of packed inputs.

    Parameters
    ----------
    model
        The learner. Its layout holds the parts of the date that it reads besides the inputs it was given.
    outputs
        Names for what it returns; default the target channels, or the names of the classes.

    Raises
    ------
    ValueError
        For a classifier of several targets.
    """
    layout = model.layout
    if not isinstance(model, Forest):
        nowhere = layout.series and bool(layout.space)
        found: Outputs = outputs_of((len(layout.targets),), layout, outputs) if nowhere else _fields(model, outputs)
        return Adapted(model.name, layout, found, Means(model))
    stacking = model.stacking
    scatter = None
    if stacking.cells is None and layout.space and not layout.series:
        scatter = np.zeros((*layout.shape, len(layout.targets)), bool)
        scatter.reshape(-1)[stacking.targets] = True
    call = Rows(model.estimator, stacking.features, stacking.cells, None, scatter)
    if model.kind == "regression":
        table = stacking.cells is None and scatter is None
        found = outputs_of((len(layout.targets),), layout, outputs) if table else _fields(model, outputs)
        return Adapted(model.name, layout, found, call)
    if len(stacking.targets) > 1:
        refuse(
            f"{model.name} tells classes of {len(stacking.targets)} targets at once",
            "one target, at one offset",
            ", ".join(map(str, layout.targets)),
            "explain a forest of one of them",
        )
    numbers, names = model.classes
    there = [int(c) for c in model.estimator.classes_]
    told = list(outputs) if outputs is not None else [names[c] for c in there]
    if stacking.cells is None:
        return Adapted(model.name, layout, outputs_of((len(there),), layout, told), call)
    fields = channels_named(layout, told)
    known = dict(fields.layout.variables)
    for name, c in zip(told, there, strict=True):
        known[name] = replace(known[name], attrs={"units": "1", "flag_value": numbers[c]})
    return Adapted(model.name, layout, Fields(replace(fields.layout, variables=known)), call)


def _fields(model: Fitted, outputs: Sequence[str] | None) -> Fields:
    return Fields(model.layout) if outputs is None else channels_named(model.layout, outputs)
