"""What is read off a figure in tests."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

MINUS = "\N{MINUS SIGN}"


def texts(figure: Figure) -> str:
    from matplotlib.text import Text

    return " | ".join(t.get_text() for t in figure.findobj(Text) if t.get_visible())


def rows(ax) -> list[str]:
    """Return the names of the rows from top to bottom."""
    ticks = sorted(zip(ax.get_yticks(), (t.get_text() for t in ax.get_yticklabels()), strict=True))
    return [name for _, name in (ticks if ax.yaxis_inverted() else ticks[::-1])]


def widths(ax) -> list[float]:
    return [p.get_width() for p in ax.patches]


def whiskers(ax) -> np.ndarray:
    return np.array([np.ptp(s[:, 0]) / 2 for c in ax.collections for s in getattr(c, "get_segments", list)() if len(s)])
