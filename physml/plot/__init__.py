"""Figures: maps side by side, curves, explanations, learning curves, error maps, ensembles and predictability.

Every function returns a :class:`matplotlib.figure.Figure` that belongs to nobody: no window opens, no global setting
changes, and ``figure.savefig(path)`` writes it. Land is grey; a missing value in the sea is hatched.
"""

from physml.plot._chaos import lyapunov_spectra, power_spectra, skill_horizons
from physml.plot._ensembles import consistency, errors_over_time, hovmoeller, rank_histogram, spread_skill
from physml.plot._explain_bars import bars, importance
from physml.plot._explain_effects import effect_curves
from physml.plot._explain_grids import effect_map, interactions
from physml.plot._explain_maps import attribution_maps
from physml.plot._explain_samples import beeswarm, waterfall
from physml.plot._explain_time import time_by_group
from physml.plot._learning import learning_curve
from physml.plot._lines import curves
from physml.plot._maps import error_map, maps
from physml.plot._probabilities import confusion, reliability, roc
from physml.plot._scorecard import score_by_lead, scorecard
from physml.plot._style import PALETTE, palette
from physml.plot._tuning import search_history, search_slices

__all__ = [
    "PALETTE",
    "attribution_maps",
    "bars",
    "beeswarm",
    "confusion",
    "consistency",
    "curves",
    "effect_curves",
    "effect_map",
    "error_map",
    "errors_over_time",
    "hovmoeller",
    "importance",
    "interactions",
    "learning_curve",
    "lyapunov_spectra",
    "maps",
    "palette",
    "power_spectra",
    "rank_histogram",
    "reliability",
    "roc",
    "score_by_lead",
    "scorecard",
    "search_history",
    "search_slices",
    "skill_horizons",
    "spread_skill",
    "time_by_group",
    "waterfall",
]
