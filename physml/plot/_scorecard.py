"""Figures of scores: the scorecard of many models, and one score over lead time with its intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, refuse
from physml.plot import _style as style
from physml.plot._lines import _name_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BETTER, WORSE = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}"
NAMES = {
    "rmse": "root mean square error",
    "mse": "mean square error",
    "mae": "mean absolute error",
    "bias": "mean error",
    "acc": "anomaly correlation",
    "crps": "CRPS",
    "log_score": "logarithmic score",
    "brier": "Brier score",
    "coverage": "coverage",
}


def scorecard(card: xr.Dataset, *, limit: float | None = None, title: str | None = None) -> Figure:
    """Draw scores of models by variable and lead, coloured by the difference to the reference in percent.

    Blue is better than the reference and orange worse, for every score; triangles and bold type mark what is significant. Mean
    errors and coverages, whose best value lies between others, are coloured only where their difference is significant.

    Parameters
    ----------
    card
        What :func:`physml.verify.scorecard` returned, with one dimension of leads at most.
    limit
        End of the colour scale [%]; by default the 95 % quantile of the differences, rounded.
    title
        Title of the figure.

    Raises
    ------
    ValueError
        Where it is no scorecard, or has several dimensions of leads.

    Examples
    --------
    >>> from physml import verify
    >>> truth = xr.Dataset({"t": ("time", np.sin(np.arange(100.0)), {"units": "K"})})
    >>> models = {"persistence": truth + 0.5, "network": truth + 0.25}
    >>> figure = scorecard(verify.scorecard(models, truth, bootstrap={"block": 5, "n": 50}))
    """
    card, lead = checked_card(card)
    gain = gains(card)
    limit = _round_up(gain) if limit is None else float(limit)
    scores = [str(s) for s in card["score"].values]
    leads = [""] if lead is None else [_lead(card[lead], i) for i in range(card.sizes[lead])]
    unit = "" if lead is None else _lead_label(card[lead])
    models, variables = ([str(v) for v in card[d].values] for d in ("model", "variable"))
    reference = str(card.attrs.get("reference", ""))
    rows = [(v, m) for v in variables for m in models if np.isfinite(card.value.sel(model=m, variable=v)).any()]
    headed = len(variables) > 1
    across = max(1, min(len(scores), 14 // max(len(leads), 3)))
    down = -(-len(scores) // across)

    cell_w, cell_h = 0.92, 0.42
    lines = len(rows) + (len(variables) if headed else 0)
    margin = 0.115 * max(len(m) for m in models) + 0.3
    below = 1.15 if reference else 0.35
    width = margin + across * (len(leads) * cell_w + 0.35) + 0.3
    height = down * (lines * cell_h + 0.85) + below + (0.45 if title else 0.0)
    figure = style.new_figure(max(width, 6.2), height)
    axes = figure.subplots(down, across, squeeze=False)
    cmap = _colours()
    bold = False
    for n, ax in enumerate(axes.flat):
        if n >= len(scores):
            ax.set_visible(False)
            continue
        one, colours = card.isel(score=n), gain.isel(score=n)
        ticks, y, last = [], 0, None
        digits = {v: _digits(one.value.sel(variable=v)) for v in variables}
        for variable, model in rows:
            if headed and variable != last:
                ax.text(-0.5, y + 0.1, variable, fontsize=style.LABEL, fontweight="bold", color=style.INK, va="center")
                y, last = y + 1, variable
            picked = one.sel(model=model, variable=variable)
            values = np.atleast_1d(picked.value.values)
            shades = np.atleast_1d(colours.sel(model=model, variable=variable).values)
            marks = np.atleast_1d(picked.better.values) if "better" in picked else np.zeros(len(values))
            for x, (value, shade, mark) in enumerate(zip(values, shades, marks, strict=True)):
                if not np.isfinite(value):
                    ax.text(x, y, "\N{EN DASH}", ha="center", va="center", fontsize=style.TICK, color=style.FAINT)
                    continue
                part = np.clip(shade / limit, -1, 1) if np.isfinite(shade) else 0.0
                face = cmap(0.5 + 0.5 * part) if np.isfinite(shade) else "#EDEDEB"
                ax.add_patch(_cell(x, y, face))
                weight = "bold" if mark else "normal"
                bold |= bool(mark)
                ink = "white" if abs(part) > 0.7 else style.INK
                ax.text(
                    x,
                    y,
                    _number(value, digits[variable]),
                    ha="center",
                    va="center",
                    fontsize=style.TICK,
                    color=ink,
                    fontweight=weight,
                )
                if mark:
                    sign = BETTER if mark > 0 else WORSE
                    ax.text(x + 0.43, y, sign, ha="right", va="center", fontsize=7, color=ink, family="DejaVu Sans")
            ticks.append((y, model))
            y += 1
        ax.set_xlim(-0.5, len(leads) - 0.5)
        ax.set_ylim(y - 0.5, -0.5)
        left = n % across == 0
        ax.set_yticks(
            [t for t, _ in ticks], [m for _, m in ticks] if left else [], fontsize=style.TICK, color=style.INK
        )
        ax.set_xticks(range(len(leads)), leads, fontsize=style.TICK, color=style.INK)
        ax.tick_params(length=0, pad=4)
        ax.xaxis.tick_top()
        ax.spines[:].set_visible(False)
        # One unit for all variables stands in the heading, several beside the variables.
        units = {str(u) for u in np.atleast_1d(one["units"].values) if str(u)} if "units" in one.coords else set()
        told = style.in_brackets(units.pop()) if len(units) == 1 else ""
        heading = NAMES.get(scores[n], scores[n]) + told
        ax.set_title(heading, fontsize=style.LABEL, color=style.INK, loc="left", pad=8)
        if unit and n + across >= len(scores):
            ax.set_xlabel(unit, fontsize=style.TICK, color=style.FAINT)
    if reference:
        _key(figure, axes, limit, reference, bold, card.attrs.get("level", 0.95))
    if title:
        figure.suptitle(title, fontsize=style.TITLE, color=style.INK, x=0.01, ha="left")
    return figure


def score_by_lead(
    card: xr.Dataset,
    score: str | None = None,
    variable: str | None = None,
    *,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw one score of every model over lead time, with its interval as a band.

    Parameters
    ----------
    card
        What :func:`physml.verify.scorecard` returned, with one dimension of leads.
    score, variable
        Which; the only ones by default.
    colors
        Colour for each model, as from :func:`physml.plot.palette`. The reference is dark and dashed unless it has one.
    title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where it is no scorecard, has no leads, or a name is missing or unknown.

    Examples
    --------
    >>> from physml import verify
    >>> truth = xr.Dataset({"t": ("time", np.sin(np.arange(100.0)), {"units": "K"})})
    >>> leads = xr.DataArray([0.1, 0.2], coords={"lead": [1, 2]}, dims="lead")
    >>> card = verify.scorecard({"network": truth + leads}, truth, reference=None, bootstrap={"block": 5, "n": 50})
    >>> figure = score_by_lead(card)
    """
    card, lead = checked_card(card)
    if lead is None:
        refuse(
            "the scorecard has no leads", "a dimension such as 'lead'", dict(card.sizes), "draw it by plot.scorecard"
        )
    for dim, name in (("score", score), ("variable", variable)):
        names = [str(v) for v in card[dim].values]
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            what = (
                f"the scorecard has no {dim} {name!r}{closest(str(name), names)}" if name else f"which {dim} to draw?"
            )
            refuse(what, f"one of {', '.join(names)}", repr(name), f"pass {dim}=...")
        card = card.sel({dim: name})
    shades = style.palette(card["model"].values.tolist())
    reference = str(card.attrs.get("reference", ""))
    if reference:
        rest = [m for m in shades if m != reference]
        shades = style.palette(rest) | {reference: style.PALETTE[-1]}
    shades |= dict(colors or {})
    ax = style.new_figure(9.5, 5.2).subplots() if ax is None else ax
    lines = {}
    for model in map(str, card["model"].values):
        one = card.sel(model=model)
        x, y = style.numbers(one.value)
        if not np.isfinite(y).any():
            continue
        dashed: Any = (0, (4, 2)) if model == reference else "-"
        if "low" in one:
            ax.fill_between(x, one.low.values, one.high.values, color=shades[model], alpha=0.14, linewidth=0)
        ax.plot(x, y, color=shades[model], linewidth=2.6, linestyle=dashed, marker="o", markersize=6)
        lines[model] = (x, y)
    ax.margins(x=0.02)
    if len(x) <= 12:
        ax.set_xticks(x)
    name, units = str(card["score"].values), str(card["units"].values) if "units" in card.coords else ""
    style.style_axes(ax, _lead_label(card[lead]), f"{NAMES.get(name, name)}{style.in_brackets(units)}")
    low = card.low if "low" in card else card.value
    if float(low.min()) >= 0 and float(low.min()) < 0.6 * float(card.value.max()):
        ax.set_ylim(bottom=0)
    _name_ends(ax, lines, shades)
    if "low" in card:
        note = f"bands: {100 * float(card.attrs.get('level') or 0.95):g} % intervals"
        ax.text(0.01, 0.98, note, transform=ax.transAxes, va="top", fontsize=style.TICK, color=style.FAINT)
    if title:
        ax.set_title(title, fontsize=style.TITLE, color=style.INK, loc="left", pad=14)
    return ax.figure  # type: ignore[return-value]


def checked_card(card: xr.Dataset) -> tuple[xr.Dataset, str | None]:
    """Return the scorecard in memory and the name of its dimension of leads."""
    dims = {"score", "model", "variable"}
    if not isinstance(card, xr.Dataset) or "value" not in card or not dims <= set(card.value.dims):
        received = ", ".join(map(str, card.data_vars)) if isinstance(card, xr.Dataset) else type(card).__name__
        refuse(
            "this is no scorecard",
            "a Dataset with 'value' on score, model and variable",
            received or "nothing",
            "pass what physml.verify.scorecard returned",
        )
    leads = [str(d) for d in card.value.dims if d not in dims]
    if len(leads) > 1:
        refuse("the scorecard has several dimensions of leads", "one", leads, "average or select over the others")
    return card.compute(), leads[0] if leads else None


def gains(card: xr.Dataset) -> xr.DataArray:
    """Return by how many percent each score is better than the reference; NaN without one."""
    if "percent" not in card:
        return xr.full_like(card.value, np.nan)
    gain = -card.percent.where(card["model"] != card.attrs.get("reference", ""))
    if "best" in card.coords:
        gain = gain.where(card["best"] != "larger", -gain)
        # A mean error near zero is many times smaller than another by chance.
        if "significant" in card:
            gain = gain.where(card["best"].isin(["smaller", "larger", "unknown"]) | card.significant)
    return gain


def _round_up(gain: xr.DataArray) -> float:
    if "best" in gain.coords and (firm := gain["best"].isin(["smaller", "larger"])).any():
        gain = gain.where(firm)  # errors about zero may be any number of times smaller
    finite = np.abs(gain.values[np.isfinite(gain.values)])
    if not finite.size:
        return 1.0
    end = float(np.quantile(finite, 0.95)) or 1.0
    steps = np.array([1, 2, 5, 10]) * 10.0 ** np.floor(np.log10(end))
    return float(min(steps[np.searchsorted(steps, end * (1 - 1e-9))], 100.0))


def _digits(values: xr.DataArray) -> int:
    """Return how many decimals show two digits of most values."""
    sizes = np.abs(values.values[np.isfinite(values.values) & (values.values != 0)])
    return int(np.clip(1 - np.floor(np.log10(np.median(sizes) * 1.0001)), 0, 4)) if sizes.size else 0


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.2g}"
    text = text.removeprefix("-") if not float(text) else text
    return text.replace("-", "\N{MINUS SIGN}")


def _lead(labels: xr.DataArray, i: int) -> str:
    value = labels.values[i]
    if labels.dtype.kind == "m":
        return f"{value / np.timedelta64(1, 'D'):g}"
    return f"{value:g}" if labels.dtype.kind in "iuf" else str(value)


def _lead_label(labels: xr.DataArray) -> str:
    if labels.dtype.kind == "m":
        return f"{labels.name} [days]"
    return style.with_units(labels)


def _cell(x: float, y: float, face: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=2.5)


def _colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("gain", [style.RAISES, "#F0B48F", "#FAFAF8", "#9DBFE0", style.LOWERS])


def _key(figure: Figure, axes: Any, limit: float, reference: str, bold: bool, level: Any) -> None:
    """Draw the colour bar below, with what the marks mean."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    image = ScalarMappable(Normalize(-limit, limit), _colours())
    width = figure.get_figwidth()
    place: dict[str, Any] = {"location": "bottom", "fraction": 0.06, "pad": 0.03, "extend": "both"}
    bar = figure.colorbar(image, ax=axes.ravel().tolist(), aspect=4.2 * width, shrink=min(0.8, 7 / width), **place)
    text = f"% better than {reference}"
    if bold:
        gap = "      " if width > 8 else "\n"
        text += f"{gap}bold, {BETTER} better, {WORSE} worse at the {100 * float(level or 0.95):g} % level"
    bar.set_label(text, fontsize=style.TICK, color=style.INK)
    bar.ax.tick_params(labelsize=style.TICK, colors=style.INK, length=3)
    ticks = [-limit, -limit / 2, 0, limit / 2, limit]
    bar.set_ticks(ticks, labels=[f"{v:+g}".replace("-", "\N{MINUS SIGN}") if v else "0" for v in ticks])
    bar.outline.set_visible(False)
