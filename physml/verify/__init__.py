"""Scores of forecasts against the truth, their intervals, and totals: labelled, and lazy when the input is.

A score counts the cells where the truth is finite. Where the truth has a value and the forecast has none, the
score is NaN: a forecast that breaks down must not look better for it. To leave such cells out on purpose, say so:
``truth.where(forecast.notnull())``.

Rooms, each knowing those below it:

==================  ====================================================================================
``cards``           scores of many models by variable and lead, beside a reference: a scorecard
``diagrams``        reliability of probabilities and of distributions, ROC
``resampling``      intervals of scores and of their differences, by blocks of time
``thresholds``      extremes: how often, how far, how well
``classes``         confusion of classes, and the scores of its table
``probabilities``   Brier score and its parts
``ensembles``       spread beside skill, ranks of the truth
``distributions``   CRPS, logarithmic score, coverage: of a Gaussian, of quantiles, of members
``deterministic``   errors, anomaly correlation, skill of single forecasts
``spectra``         power by wavenumber, along circles and on planes
``totals``          budgets and their drift
``means``           scores as functions of weighted means
``matching``        labels, times, units and weights that fit together
==================  ====================================================================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physml.verify.cards import scorecard as scorecard
    from physml.verify.classes import confusion as confusion
    from physml.verify.deterministic import acc as acc
    from physml.verify.deterministic import bias as bias
    from physml.verify.deterministic import mae as mae
    from physml.verify.deterministic import mse as mse
    from physml.verify.deterministic import rmse as rmse
    from physml.verify.deterministic import skill as skill
    from physml.verify.diagrams import reliability as reliability
    from physml.verify.diagrams import roc as roc
    from physml.verify.distributions import coverage as coverage
    from physml.verify.distributions import crps as crps
    from physml.verify.distributions import log_score as log_score
    from physml.verify.distributions import pit as pit
    from physml.verify.ensembles import rank_histogram as rank_histogram
    from physml.verify.ensembles import spread_skill as spread_skill
    from physml.verify.probabilities import brier as brier
    from physml.verify.probabilities import brier_decomposition as brier_decomposition
    from physml.verify.resampling import block_bootstrap as block_bootstrap
    from physml.verify.resampling import block_length as block_length
    from physml.verify.spectra import isotropic_spectrum as isotropic_spectrum
    from physml.verify.spectra import power_spectrum as power_spectrum
    from physml.verify.spectra import zonal_spectrum as zonal_spectrum
    from physml.verify.thresholds import extremes as extremes
    from physml.verify.totals import drift as drift
    from physml.verify.totals import negative_fraction as negative_fraction
    from physml.verify.totals import total as total

_MODULES = {
    "cards": ("scorecard",),
    "classes": ("confusion",),
    "deterministic": ("acc", "bias", "mae", "mse", "rmse", "skill"),
    "diagrams": ("reliability", "roc"),
    "distributions": ("coverage", "crps", "log_score", "pit"),
    "ensembles": ("rank_histogram", "spread_skill"),
    "probabilities": ("brier", "brier_decomposition"),
    "resampling": ("block_bootstrap", "block_length"),
    "spectra": ("isotropic_spectrum", "power_spectrum", "zonal_spectrum"),
    "thresholds": ("extremes",),
    "totals": ("drift", "negative_fraction", "total"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
