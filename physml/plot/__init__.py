"""Figures: maps side by side, curves, bars of attributions, learning curves, error maps.

Every function returns a :class:`matplotlib.figure.Figure` that belongs to nobody: no window opens, no global setting
changes, and ``figure.savefig(path)`` writes it. Land is grey; a missing value in the sea is hatched.
"""

from physml.plot._lines import bars, curves, learning_curve
from physml.plot._maps import attribution_maps, error_map, maps
from physml.plot._style import PALETTE, palette

__all__ = ["PALETTE", "attribution_maps", "bars", "curves", "error_map", "learning_curve", "maps", "palette"]
