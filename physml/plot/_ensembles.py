"""Figures of ensembles and cycles: ranks, spread beside skill, errors over time, consistency, truth beside analysis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.plot import _lines as lines
from physml.plot import _style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAND: dict[str, Any] = {"color": "#DDE6EE", "linewidth": 0, "zorder": 0}


def rank_histogram(ranks: xr.Dataset, *, title: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw how often the truth had each rank, over the band in which nineteen of twenty bars of a flat histogram lie.

    Parameters
    ----------
    ranks
        What :func:`physml.assimilation.rank_histogram` returned, for one histogram.
    title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where it is no such Dataset, or holds several histograms.
    """
    ranks = _checked(ranks, ("count", "expected", "slope", "convexity"), ("rank",), "rank_histogram")
    count, rank = ranks["count"].values.astype(float), ranks["rank"].values
    cases, flat = count.sum(), float(ranks.expected)
    share = count / cases
    spread = 1.96 * np.sqrt(flat * (1 - 1 / len(rank))) / cases
    ax = style.new_figure(9.5, 5.2).subplots() if ax is None else ax
    level = 1 / len(rank)
    ax.bar(rank, share, width=0.86, color=style.PALETTE[0], zorder=2)
    ax.axhspan(level - spread, level + spread, color="white", alpha=0.45, linewidth=0, zorder=3)
    for edge in (level - spread, level + spread):
        ax.axhline(edge, color=style.INK, linewidth=0.8, alpha=0.5, zorder=3)
    ax.axhline(level, color=style.INK, linewidth=1.4, linestyle=(0, (5, 3)), zorder=3)
    ax.set_xlim(-0.7, rank[-1] + 0.7)
    ax.set_ylim(0, max(1.18 * share.max(), 1.6 * level))
    style.style_axes(ax, "rank of the truth among the members", "part of all cases")
    ax.text(
        0.99, 0.97, _shape(ranks), transform=ax.transAxes, ha="right", va="top", fontsize=style.TICK, color=style.INK
    )
    return _titled(ax, title)


def spread_skill(result: xr.Dataset, *, title: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw the error of the ensemble mean over the spread, bin by bin, beside the diagonal on which they are equal.

    Parameters
    ----------
    result
        What :func:`physml.assimilation.spread_skill` returned.
    title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where it is no such Dataset.
    """
    result = _checked(result, ("spread", "rmse", "ratio"), ("bin",), "spread_skill")
    x, y = result.spread.values, result.rmse.values
    end = 1.08 * max(x.max(), y.max())
    ax = style.new_figure(6.4, 5.8).subplots() if ax is None else ax
    ax.plot([0, end], [0, end], color=style.INK, linewidth=1.4, linestyle=(0, (5, 3)))
    ax.fill_between([0, end], [0, end], [end, end], **BAND)
    ax.plot(x, y, "o-", color=style.PALETTE[1], linewidth=2.6, markersize=8)
    ax.set_xlim(0, end)
    ax.set_ylim(0, end)
    ax.set_aspect("equal")
    style.style_axes(ax, style.with_units(result.spread), style.with_units(result.rmse), grid="both")
    ax.text(0.04, 0.96, "over-confident", transform=ax.transAxes, va="top", fontsize=style.TICK, color=style.FAINT)
    ax.text(0.96, 0.04, "over-dispersed", transform=ax.transAxes, ha="right", fontsize=style.TICK, color=style.FAINT)
    note = f"spread over error, all cases: {float(result.ratio):.2f}"
    ax.text(0.04, 0.89, note, transform=ax.transAxes, va="top", fontsize=style.TICK, color=style.INK)
    return _titled(ax, title)


def errors_over_time(
    errors: Mapping[str, xr.DataArray],
    spreads: Mapping[str, xr.DataArray] | None = None,
    *,
    observation_error: float | None = None,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the rmse of forecasts and analyses over the cycles, with the spread of the ensemble in thin lines.

    Parameters
    ----------
    errors
        Root mean square errors over time, by name.
    spreads
        Spreads over time, by the same names.
    observation_error
        Standard deviation of the observation errors, drawn as a level.
    colors, title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where a spread has no error of its name, or the arrays do not fit each other.
    """
    spreads = spreads or {}
    if unknown := [name for name in spreads if name not in errors]:
        what = f"the spread {unknown[0]!r} has no error of its name"
        expected, received = ", ".join(errors), ", ".join(spreads)
        raise ValueError(describe(what, expected=expected, received=received, remedy="name both alike"))
    ax = style.new_figure(11.0, 5.2).subplots() if ax is None else ax
    shades = style.palette(errors) | dict(colors or {})
    for name, spread in spreads.items():
        ax.plot(*style.numbers(spread), color=shades[name], linewidth=1.4, linestyle=(0, (2, 1.5)), alpha=0.9)
    lines.curves(errors, colors=shades, ax=ax, title=title)
    for line in ax.lines[len(spreads) :]:
        line.set_linewidth(1.8)
    ax.set_ylim(bottom=0)
    if observation_error is not None:
        ax.set_ylim(top=max(ax.get_ylim()[1], 1.05 * observation_error))
        ax.axhline(observation_error, color=style.FAINT, linewidth=1.2)
        outside = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
        at, text = (1.0, observation_error), {"fontsize": style.TICK, "color": style.FAINT, "va": "center"}
        ax.annotate("observation\nerror", at, xytext=(10, 0), **outside, **text)  # type: ignore[arg-type]
    if spreads:
        ax.plot([], [], color=style.INK, linewidth=1.8, label="error")
        ax.plot([], [], color=style.INK, linewidth=1.4, linestyle=(0, (2, 1.5)), label="spread")
        ax.legend(loc="upper right", ncols=2, fontsize=style.TICK, frameon=False)
    return ax.figure  # type: ignore[return-value]


def consistency(
    chi2: xr.Dataset,
    suggested: xr.Dataset | None = None,
    used: Mapping[str, float] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Draw chi-square of the innovations over time and, below, the standard deviations of the errors that they suggest.

    Parameters
    ----------
    chi2
        What :func:`physml.assimilation.chi_square` returned, along one dimension such as time; or a run of
        :class:`physml.assimilation.Cycle`, which tells ``chi2`` and ``used``.
    suggested
        What :func:`physml.assimilation.desroziers` returned along the same, or a coarser dimension.
    used
        Standard deviations that the analysis used, by ``"observation"`` and ``"background"``, drawn as levels.
    title
        Title of the figure.

    Raises
    ------
    ValueError
        Where a Dataset is of another kind, or not along one dimension.
    """
    if {"chi2", "used"} <= set(chi2) and "low" not in chi2:
        from physml.assimilation.diagnostics.consistency import chi_square_interval

        lower, upper = chi_square_interval(chi2["used"])
        chi2 = chi2[["chi2"]].assign(low=lower, high=upper)
    along = chi2["chi2"].dims if "chi2" in chi2 else ()
    chi2 = _checked(chi2, ("chi2", "low", "high"), along[:1], "chi_square")
    panels = 1 if suggested is None else 2
    figure = style.new_figure(11.0, 1.2 + 3.6 * panels)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    x, y = style.numbers(chi2["chi2"])
    low, high = (style.numbers(chi2[end])[1] for end in ("low", "high"))
    axes[0].fill_between(x, low, high, step="mid" if len(x) < 60 else None, **BAND)
    axes[0].axhline(1.0, color=style.INK, linewidth=1.4, linestyle=(0, (5, 3)))
    inside = (y >= low) & (y <= high)
    axes[0].plot(x, y, "o", markersize=3.2, color=style.PALETTE[0], alpha=0.55, zorder=2)
    axes[0].plot(x[~inside], y[~inside], "o", markersize=3.2, color=style.PALETTE[1], zorder=3)
    running = xr.DataArray(y).rolling(dim_0=max(3, len(y) // 20), center=True, min_periods=2).mean()
    axes[0].plot(x, running, color=style.PALETTE[0], linewidth=2.6)
    note = f"mean {np.nanmean(y):.2f}, {100 * inside[np.isfinite(y)].mean():.0f} % inside the 95 % band"
    corner = {"transform": axes[0].transAxes, "va": "top", "fontsize": style.TICK, "color": style.INK}
    axes[0].text(0.01, 0.98, note, **corner)
    axes[0].set_ylim(0, 1.15 * max(np.nanmax(y), np.nanmax(high)))
    style.style_axes(axes[0], "", "χ² of innovations\nover their number")
    if suggested is not None:
        _suggestions(axes[1], suggested, used or {})
    dim = chi2["chi2"][along[0]]
    axes[-1].set_xlabel("" if dim.dtype.kind in "MO" else style.with_units(dim), fontsize=style.LABEL, color=style.INK)
    axes[0].margins(x=0.01)
    if title:
        figure.suptitle(title, fontsize=style.TITLE, color=style.INK, x=0.01, ha="left")
    return figure


def hovmoeller(
    truth: xr.DataArray,
    analysis: xr.DataArray,
    *,
    time: str = "time",
    observations: xr.DataArray | None = None,
    title: str | None = None,
) -> Figure:
    """Draw truth, analysis and the error of the analysis over time and one dimension of space, one above the other.

    Parameters
    ----------
    truth, analysis
        Fields on *time* and one dimension of space, at the same times.
    time
        Name of the dimension of time, drawn from left to right.
    observations
        Of the same dimensions, NaN where there are none; dots mark on the error where there are.
    title
        Title of the figure.

    Raises
    ------
    ValueError
        Where the fields have other dimensions, sizes or times.
    """
    space = [d for d in truth.dims if d != time]
    if truth.ndim != 2 or time not in truth.dims or dict(analysis.sizes) != dict(truth.sizes):
        raise ValueError(
            describe(
                "truth and analysis are no fields over time and one dimension",
                expected=f"two dimensions, {time!r} one of them, of the same sizes",
                received=f"{dict(truth.sizes)} and {dict(analysis.sizes)}",
                remedy="select a member and a level, and common times",
            )
        )
    if time in truth.coords and time in analysis.coords:
        ours, theirs = analysis[time].values, truth[time].values
        # Times that were computed differ by rounding.
        same = np.allclose(ours, theirs) if ours.dtype.kind in "fiu" else np.array_equal(ours, theirs)
        if not same:
            raise ValueError(
                describe(
                    "truth and analysis are at other times",
                    expected=f"{theirs[0]} to {theirs[-1]}",
                    received=f"{ours[0]} to {ours[-1]}",
                    remedy="select common times",
                )
            )
    fields = {
        "truth": truth,
        "analysis": analysis,
        "analysis - truth": truth.copy(data=_values(analysis, truth.dims) - truth.values),
    }
    figure = style.new_figure(11.0, 7.6)
    axes = figure.subplots(3, 1, sharex=True, sharey=True)
    x, y = (style.numbers(truth[d].astype(truth[d].dtype))[0] for d in (time, space[0]))
    bound = {"truth": np.nanmax(np.abs(truth.values))}
    bound["analysis"] = bound["truth"]
    bound["analysis - truth"] = max(float(np.nanquantile(np.abs(fields["analysis - truth"].values), 0.995)), 1e-12)
    for ax, (name, field) in zip(axes, fields.items(), strict=True):
        values = _values(field, (space[0], time))
        colours: dict[str, Any] = {
            "cmap": "PuOr" if name == "analysis - truth" else "RdBu_r",
            "vmin": -bound[name],
            "vmax": bound[name],
        }
        image = ax.pcolormesh(x, y, values, shading="nearest", rasterized=True, **colours)
        ax.set_title(name.replace("-", "\N{MINUS SIGN}"), fontsize=style.LABEL, color=style.INK, loc="left")
        style.style_axes(ax, "", style.with_units(truth[space[0]]), grid="both")
        ax.grid(False)
        if ax is axes[1]:
            continue
        above = ax is axes[0]
        bar = figure.colorbar(
            image,
            ax=axes[:2] if above else ax,
            pad=0.015,
            aspect=32 if above else 16,
            extend="neither" if above else "both",
        )
        bar.set_label(
            style.with_units(truth) if above else f"error{style.units_of(truth)}", fontsize=style.LABEL, color=style.INK
        )
        bar.ax.tick_params(labelsize=style.TICK, colors=style.INK, length=3)
        bar.outline.set_visible(False)
    if observations is not None:
        seen = np.isfinite(_values(observations, (space[0], time)))
        rows, columns = np.nonzero(seen)
        axes[2].plot(x[columns], y[rows], ".", markersize=1.6, color=style.INK, alpha=0.45)
    dim = truth[time]
    axes[2].set_xlabel("" if dim.dtype.kind in "MO" else style.with_units(dim), fontsize=style.LABEL, color=style.INK)
    if title:
        figure.suptitle(title, fontsize=style.TITLE, color=style.INK, x=0.01, ha="left")
    return figure


def _suggestions(ax: Axes, suggested: xr.Dataset, used: Mapping[str, float]) -> None:
    names = {"observation": "observation_error_std", "background": "background_error_std"}
    along = suggested[names["observation"]].dims if names["observation"] in suggested else ()
    suggested = _checked(suggested, tuple(names.values()), along[:1], "desroziers")
    shades = dict(zip(names, style.PALETTE[1:3], strict=True))
    for name, variable in names.items():
        x, y = style.numbers(suggested[variable])
        dots = {"marker": "o", "markersize": 6} if len(x) <= 40 else {}
        label = {"observation": "observation error", "background": "forecast error"}[name]
        ax.plot(x, y, color=shades[name], linewidth=2.6, label=f"{label}, suggested", **dots)  # type: ignore[arg-type]
        if name in used:
            ax.axhline(used[name], color=shades[name], linewidth=1.4, linestyle=(0, (5, 3)), label=f"{label}, used")
    top = np.nanmax([*used.values(), *(np.nanmax(suggested[v].values) for v in names.values())])
    ax.set_ylim(0, 1.5 * top)
    style.style_axes(ax, "", f"standard deviation{style.units_of(suggested[names['observation']])}")
    ax.legend(loc="upper left", ncols=2, fontsize=style.TICK, frameon=False)


def _values(field: xr.DataArray, dims: Any) -> np.ndarray:
    return np.asarray(field.transpose(*dims).values, "float64")


def _shape(ranks: xr.Dataset) -> str:
    """Return what the histogram says, in words, with the strength in standard deviations."""
    slope, bowl = float(ranks.slope), float(ranks.convexity)
    said = []
    if abs(bowl) > 3:
        said.append(f"{'too little' if bowl > 0 else 'too much'} spread ({bowl:+.0f} \N{GREEK SMALL LETTER SIGMA})")
    if abs(slope) > 3:
        said.append(f"members too {'low' if slope > 0 else 'high'} ({slope:+.0f} \N{GREEK SMALL LETTER SIGMA})")
    return (", ".join(said) or "flat within chance").replace("-", "\N{MINUS SIGN}")


def _checked(result: xr.Dataset, names: tuple[str, ...], dims: tuple[Any, ...], source: str) -> xr.Dataset:
    found = list(result.data_vars) if isinstance(result, xr.Dataset) else [type(result).__name__]
    fits = all(n in found for n in names) and result[names[0]].dims == dims and len(dims) == 1
    if not fits:
        received = {str(n): result[n].dims for n in found} if isinstance(result, xr.Dataset) else found
        expected = f"{', '.join(names)} along {dims[0] if dims else 'one dimension'}"
        remedy = f"pass what physml.assimilation.{source} returned, and select one entry of other dimensions"
        raise ValueError(
            describe(f"this is no result of {source} to draw", expected=expected, received=received, remedy=remedy)
        )
    return result.compute()


def _titled(ax: Axes, title: str | None) -> Figure:
    if title:
        ax.set_title(title, fontsize=style.TITLE, color=style.INK, loc="left", pad=14)
    return ax.figure  # type: ignore[return-value]
