"""What a long learning leaves in a folder, so that it goes on where it was stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physml import _atomic
from physml._errors import refuse


class Checkpoint:
    """Arrays and numbers of a learning in one file of a folder, replaced as a whole.

    Parameters
    ----------
    directory
        Where; None: nothing is kept.
    settings
        What must be the same when it goes on.
    name
        Of the file, without its ending.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, settings: Mapping[str, Any], name: str) -> None:
        self.path = None if directory is None else Path(directory) / f"{name}.npz"
        self.settings = json.dumps(dict(settings), sort_keys=True, default=str)

    def load(self) -> dict[str, Any] | None:
        """Return what was kept last, None where there is nothing.

        Raises
        ------
        ValueError
            Where it was kept under other settings.
        """
        if self.path is None or not self.path.exists():
            return None
        with np.load(self.path) as file:
            arrays = {k: file[k] for k in file.files}
        kept = str(arrays.pop("settings"))
        if kept != self.settings:
            ours, theirs = json.loads(self.settings), json.loads(kept)
            other = {k: theirs.get(k) for k in {*ours, *theirs} if ours.get(k) != theirs.get(k)}
            what = f"{self.path} was written under other settings"
            refuse(what, other, {k: ours.get(k) for k in other}, "use the same, or another directory")
        notes = json.loads(str(arrays.pop("notes")))
        return {**notes, **_split(arrays)}

    def save(self, notes: Mapping[str, Any], **groups: list[Any]) -> None:
        """Keep *notes* (numbers, texts, lists of them) and *groups* of arrays."""
        if self.path is None:
            return
        flat: dict[str, Any] = {
            f"{group}/{i}": np.asarray(a) for group, arrays in groups.items() for i, a in enumerate(arrays)
        }
        with _atomic.replacing(self.path) as made, open(made, "wb") as file:
            np.savez(file, settings=self.settings, notes=json.dumps(dict(notes)), **flat)


def _split(arrays: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    groups: dict[str, dict[int, np.ndarray]] = {}
    for key, array in arrays.items():
        group, number = key.rsplit("/", 1)
        groups.setdefault(group, {})[int(number)] = array
    return {group: [found[i] for i in sorted(found)] for group, found in groups.items()}


def values(variables: list[Any]) -> list[np.ndarray]:
    """Return the values of Keras variables as NumPy arrays."""
    from keras import ops

    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


def assign(variables: list[Any], arrays: list[np.ndarray]) -> None:
    """Give Keras variables the values of :func:`values`."""
    if [tuple(v.shape) for v in variables] != [a.shape for a in arrays]:
        shapes = [tuple(v.shape) for v in variables]
        refuse("the weights kept do not fit the network", shapes, [a.shape for a in arrays], "use another directory")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
