"""What a training run recorded: a dictionary of lists, one value for each epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from physml._atomic import replacing
from physml._errors import refuse

_NAMES = {
    "loss": "training loss in scaled units",
    "val_loss": "validation loss in scaled units",
    "learning_rate": "learning rate at the first step of the epoch",
}


class History(dict[str, list[float]]):
    """Losses, metrics and learning rate by epoch: ``history["loss"]`` is a list, :attr:`dataset` the same with labels.

    ``loss`` is the mean over the steps of an epoch, while the weights move; ``val_loss`` is that of the weights at its end.

    Examples
    --------
    >>> history = History(loss=[4.0, 2.0, 1.0], val_loss=[5.0, 3.0, 3.5])
    >>> history.best_epoch, history.watched
    (2, 'val_loss')
    >>> history.dataset.val_loss.sel(epoch=2).item()
    3.0
    """

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return len(self.get("loss", ()))

    @property
    def watched(self) -> str:
        """What tells the best epoch: the validation loss, or the loss where there is none."""
        return "val_loss" if self.get("val_loss") else "loss"

    @property
    def best_epoch(self) -> int:
        """The epoch of least validation loss, or of least loss where there is no validation; the first is 1.

        Raises
        ------
        ValueError
            Where no epoch has a finite loss.
        """
        values = np.asarray(self.get(self.watched, ()), "float64")
        if not np.isfinite(values).any():
            refuse("the history has no best epoch", "a finite loss", f"{values.size} epochs", "train first")
        return int(np.nanargmin(np.where(np.isfinite(values), values, np.nan))) + 1

    @property
    def dataset(self) -> xr.Dataset:
        """All records on ``epoch``, counted from 1."""
        epoch = xr.Variable("epoch", np.arange(1, self.epochs + 1), {"long_name": "epoch", "units": "1"})
        made = {
            name: ("epoch", np.asarray(values, "float64"), {"long_name": _NAMES.get(name, name), "units": "1"})
            for name, values in self.items()
            if len(values) == self.epochs
        }
        return xr.Dataset(made, {"epoch": epoch})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a JSON file, whole or not at all; :meth:`load` reads the same numbers."""
        with replacing(Path(path)) as made:
            made.write_text(json.dumps(dict(self), indent=1), encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Return what :meth:`save` wrote.

        Raises
        ------
        ValueError
            Where the file holds something else.
        """
        found: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, Mapping) or not all(isinstance(v, list) for v in found.values()):
            refuse(
                f"{os.fspath(path)!r} is no history",
                "names with one number for each epoch",
                type(found).__name__,
                "pass history.json of a run",
            )
        return cls({str(k): [float(x) for x in v] for k, v in found.items()})
