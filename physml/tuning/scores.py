"""Scores of a fold: one number from forecast and truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from physml import verify
from physml._errors import closest, refuse
from physml.layout import Layout

Score = Callable[[xr.Dataset, xr.Dataset], Any]
LOSS = "val_loss"
NAMES = (LOSS, "rmse", "mae", "scaled_rmse")


def check_score(score: Any, direction: str) -> None:
    """Refuse scores that are not known, and errors that should grow.

    Raises
    ------
    ValueError
        Naming what is known.
    """
    if not callable(score) and score not in NAMES:
        refuse(
            f"search: unknown score {score!r}{closest(score, NAMES)}",
            f"{', '.join(map(repr, NAMES))}, or a function (forecast, truth) -> number",
            repr(score),
            "score='rmse'",
        )
    if direction not in ("minimize", "maximize"):
        refuse("search: unknown direction", "'minimize' or 'maximize'", repr(direction), "direction='minimize'")
    if direction == "maximize" and not callable(score):
        refuse(f"search: {score!r} is an error", "direction='minimize'", "'maximize'", "leave the direction out")


def truth_of(layout: Layout, ds: xr.Dataset) -> xr.Dataset:
    """Return the targets of *ds*, labelled as a forecast labels them."""
    return layout.unpack(layout.pack(ds, "targets", whole_window=True), "targets")


def score_of(score: str | Score, forecast: xr.Dataset, truth: xr.Dataset, layout: Layout, train: xr.Dataset) -> float:
    """Return one number for a forecast.

    Parameters
    ----------
    score
        ``"rmse"``, ``"mae"``: of the one target, weighted by area, in its units. ``"scaled_rmse"``: root of the mean over all
        targets of the mean square error over the variance in the training part. Or a function of forecast and truth.
    forecast, truth
        Datasets; the times they have in common are scored.
    layout
        Knows targets and weights.
    train
        Training part of the fold.
    """
    names = layout.spec.targets
    forecast, truth = (ds.drop_vars("valid_time", errors="ignore") for ds in xr.align(forecast, truth, join="inner"))
    if callable(score):
        return float(score(forecast.compute(), truth.compute()))
    missing = [n for n in names if n not in forecast]
    if missing:
        refuse(
            f"search: {score!r} finds no forecast of {missing[0]!r}",
            f"variables {', '.join(names)}",
            f"variables {', '.join(map(str, forecast.data_vars))}",
            "a score of your own: score=lambda forecast, truth: ...",
        )
    if score != "scaled_rmse" and len(names) > 1:
        refuse(
            f"search: {score!r} of several targets has no units",
            "one target",
            ", ".join(names),
            "score='scaled_rmse', or a function (forecast, truth) -> number",
        )
    kind = verify.mae if score == "mae" else verify.rmse
    found = [float(kind(forecast[n], truth[n], weights=_weights(layout, truth[n])).compute()) for n in names]
    if score != "scaled_rmse":
        return found[0]
    spread = [float(train[n].astype("float64").std().compute()) for n in names]
    return float(np.sqrt(np.mean([(f / s) ** 2 for f, s in zip(found, spread, strict=True)])))


def _weights(layout: Layout, truth: xr.DataArray) -> xr.DataArray | None:
    if layout.spec.area is None or not set(layout.space) <= set(truth.dims):
        return None
    coords = {d: truth[d] for d in layout.space if d in truth.coords}
    return xr.DataArray(layout.weights, coords, layout.space)
