"""Estimators in the manner of scikit-learn as functions of packed inputs: one row a sample, or one row a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from physml._errors import closest, describe, refuse
from physml.explain.models.adapting import Adapted
from physml.explain.models.outputs import Fields, Table, channels_named, outputs_of

if TYPE_CHECKING:
    from physml.layout import Layout


@dataclass(frozen=True, eq=False)
class Rows:
    """An estimator as a function of inputs ``[row, *space, channel]``.

    Attributes
    ----------
    estimator
        The fitted estimator, or anything with its ``predict`` or ``predict_proba``.
    features
        Where its features stand: among the flattened inputs ``[*space, channel]`` of a sample, or among the channels.
    cells
        Cells that are given to it one by one, ``[*space]`` booleans; None: it takes whole samples.
    names
        Names of the features, where it was fitted on a table with names.
    scatter
        Valid target cells ``[*space, target channel]`` among which its outputs are laid out; None: they are a table.
    """

    estimator: Any
    features: np.ndarray
    cells: np.ndarray | None = None
    names: tuple[str, ...] | None = None
    scatter: np.ndarray | None = None

    def table(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of inputs, ``[row, feature]`` or ``[row and cell, feature]``."""
        if self.cells is None:
            return rows.reshape(len(rows), -1)[:, self.features]
        return rows[:, self.cells].reshape(-1, rows.shape[-1])[:, self.features]

    def predict(self, table: np.ndarray) -> np.ndarray:
        """Return what the estimator makes of features ``[n, feature]``: ``[n, k]``, probabilities where there are classes."""
        given: Any = table
        if self.names is not None:
            import pandas as pd

            given = pd.DataFrame(table, columns=list(self.names))
        if _classes(self.estimator) is None:
            found = np.asarray(self.estimator.predict(given))
            return found.reshape(len(table), -1)
        found = self.estimator.predict_proba(given)
        return np.concatenate(found, axis=1) if isinstance(found, list) else np.asarray(found)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the outputs of inputs ``[row, *space, channel]``; zero on masked cells."""
        found = self.predict(self.table(rows))
        if self.cells is not None:
            whole = np.zeros((len(rows), *self.cells.shape, found.shape[1]), found.dtype)
            whole[:, self.cells] = found.reshape(len(rows), -1, found.shape[1])
            return whole
        if self.scatter is not None:
            whole = np.zeros((len(rows), *self.scatter.shape), found.dtype)
            whole[:, self.scatter] = found
            return whole
        return found


def estimator(model: Any, layout: Layout, probe: np.ndarray, outputs: Sequence[str] | None) -> Adapted:
    """Return a fitted estimator as a function of packed inputs.

    Parameters
    ----------
    model
        A scikit-learn estimator or pipeline, or one like it: ``predict``, ``n_features_in_``, and for classifiers
        ``predict_proba`` and ``classes_``. With as many features as there are valid inputs in a sample, it takes samples:
        ``layout.pack(ds, "inputs").values[:, layout.valid("inputs")]``. With as many features as channels, it takes the cells
        one by one; masked ones are never given to it. Features that were named when it was fitted are matched with the
        names of the channels, ``str(channel)``.
    layout
        Layout of the inputs.
    probe
        Inputs ``[1, *space, channel]`` by which the outputs are found.
    outputs
        Names of what it returns; default the names of the classes, else of the target channels.

    Returns
    -------
    Adapted
        Of samples: a table, or fields where there is one output for each valid target cell. Of cells: fields, those of the
        targets or the probability of each class. Inputs are given in the type of the data.

    Raises
    ------
    TypeError
        For a classifier without probabilities.
    ValueError
        Where the features fit neither way, both ways, or have other names than the channels; where the outputs do not fit.
    """
    kind = type(model).__name__
    valid = layout.valid("inputs")
    channels = [str(c) for c in layout.inputs]
    n, of_cell, of_sample = int(model.n_features_in_), len(channels), int(valid.sum())
    if _classes(model) is not None and not hasattr(model, "predict_proba"):
        raise TypeError(
            describe(
                f"the classifier {kind} tells no probabilities",
                expected="predict_proba",
                received="predict only, which jumps from class to class",
                remedy="calibrate it: sklearn.calibration.CalibratedClassifierCV, or probability=True",
            )
        )
    if n not in (of_cell, of_sample) or (of_cell == of_sample and valid.size > of_cell):
        both = n == of_cell
        refuse(
            f"the features of {kind} fit " + ("both a cell and a sample" if both else "neither a sample nor a cell"),
            f"{of_sample} (all valid inputs of a sample), or {of_cell} (the channels of a cell: {', '.join(channels)})",
            n,
            "wrap it in a function of Datasets, which says what its features are"
            if both
            else "give the layout it was fitted with",
        )
    cells = np.asarray(valid.all(-1)) if n == of_cell and layout.space else None
    features, names = _features(model, kind, channels, cells is None and bool(layout.space))
    if cells is None:
        features = np.flatnonzero(valid)[features]
    else:
        _same_cells(layout, cells, kind)
    call = Rows(model, features, cells, names)
    k = call.predict(call.table(probe)[:1]).shape[1]
    told = outputs if outputs is not None else _class_names(model)
    if told is not None and len(told) != k:
        refuse(f"outputs do not fit {kind}", f"{k} names", f"{len(told)}: {list(told)}", "name each of its outputs")
    found: Fields | Table
    if cells is not None:
        found = _fields(layout, k, told, kind)
    else:
        scatter = layout.valid("targets")
        if layout.space and told is None and k == scatter.sum() and k != len(layout.targets):
            return Adapted(kind, layout, Fields(layout), Rows(model, features, None, names, scatter))
        found = outputs_of((k,), layout, told)
    return Adapted(kind, layout, found, call)


def _features(model: Any, kind: str, channels: list[str], flattened: bool) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return the channels in the order of the features, and their names where the estimator knows them."""
    known = getattr(model, "feature_names_in_", None)
    if known is None:
        return np.arange(int(model.n_features_in_)), None
    names = tuple(str(n) for n in known)
    if flattened:
        refuse(
            f"{kind} names its features, which are values of many cells",
            "features in the order of layout.pack(ds, 'inputs').values[:, layout.valid('inputs')]",
            ", ".join(names[:4]) + (" ..." if len(names) > 4 else ""),
            "fit it on the array, without names",
        )
    unknown = sorted(set(names) - set(channels))
    if unknown:
        refuse(
            f"{kind} was fitted with the unknown feature {unknown[0]!r}{closest(unknown[0], channels)}",
            ", ".join(channels),
            ", ".join(names),
            "name its columns as the channels: [str(c) for c in layout.inputs]",
        )
    return np.array([channels.index(n) for n in names]), names


def _same_cells(layout: Layout, cells: np.ndarray, kind: str) -> None:
    """Refuse targets on cells that lack an input."""
    lacking = layout.valid("targets").any(-1) & ~cells
    if lacking.any():
        refuse(
            f"{kind} takes cells one by one, but {int(lacking.sum())} cells of the target lack an input",
            "all channels valid wherever the target is",
            f"{int(cells.sum())} cells with all channels",
            "mask those cells, or leave out the channels that are not everywhere",
        )


def _fields(layout: Layout, k: int, names: Sequence[str] | None, kind: str) -> Fields:
    """Return how *k* outputs of each cell are labelled."""
    if names is not None:
        return channels_named(layout, names)
    if k != len(layout.targets):
        refuse(
            f"the outputs of {kind} for a cell are not the targets of the layout",
            f"{len(layout.targets)}: {', '.join(map(str, layout.targets))}",
            k,
            "name them: outputs=[...]",
        )
    return Fields(layout)


def _classes(model: Any) -> Any:
    return getattr(model, "classes_", None)


def _class_names(model: Any) -> list[str] | None:
    """Return the names of the classes; with several outputs those of each, after its number."""
    classes = _classes(model)
    if classes is None:
        return None
    if isinstance(classes, list):
        return [f"output {i}: {c}" for i, each in enumerate(classes) for c in np.asarray(each).tolist()]
    return [str(c) for c in np.asarray(classes).tolist()]
