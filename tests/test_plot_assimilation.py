"""Figures of ensembles and of predictability show what the diagnostics found, and refuse other things in words."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.text import Text

from physml import plot
from physml.assimilation import (
    chi_square,
    desroziers,
    forecast_skill_horizon,
    power_spectrum,
    rank_histogram,
    spread_skill,
)

RNG = np.random.default_rng(0)


def field(scale=1.0, **sizes: int) -> xr.DataArray:
    values = scale * RNG.standard_normal(tuple(sizes.values()))
    coords = {d: (d, np.arange(n), {"long_name": d, "units": "1"}) for d, n in sizes.items()}
    return xr.DataArray(values, coords, tuple(sizes), attrs={"units": "m s-1", "long_name": "wind"})


def said(figure) -> str:
    return " | ".join(t.get_text() for t in figure.findobj(Text) if t.get_visible())


def save(figure, tmp_path) -> None:
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").stat().st_size > 2000


def test_the_rank_histogram_says_in_words_what_its_shape_means(tmp_path):
    truth = field(case=2000)
    for members, words in (
        (field(member=9, case=2000), "flat within chance"),
        (field(member=9, case=2000, scale=0.5), "too little spread"),
        (field(member=9, case=2000, scale=2.0), "too much spread"),
        (field(member=9, case=2000) - 1.0, "members too low"),
    ):
        figure = plot.rank_histogram(rank_histogram(members.assign_attrs(truth.attrs), truth), title="ranks")
        assert words in said(figure)
    bars = [p for p in figure.axes[0].patches if p.get_width() == 0.86]
    assert len(bars) == 10 and sum(p.get_height() for p in bars) == pytest.approx(1.0)
    save(figure, tmp_path)


def test_spread_and_skill_share_one_scale_and_the_diagonal(tmp_path):
    figure = plot.spread_skill(spread_skill(field(member=20, case=500), field(case=500), bins=5))
    ax = figure.axes[0]
    assert ax.get_xlim() == ax.get_ylim() and ax.get_aspect() == 1.0
    assert "rmse of the ensemble mean [m s⁻¹]" in said(figure) and "spread over error, all cases: " in said(figure)
    assert len(ax.lines[1].get_xdata()) == 5
    save(figure, tmp_path)


def test_errors_are_full_lines_and_spreads_of_the_same_colour_are_broken(tmp_path):
    errors = {"forecast": abs(field(time=30)), "analysis": 0.5 * abs(field(time=30))}
    errors = {n: e.assign_attrs(units="m s-1", long_name="rmse") for n, e in errors.items()}
    figure = plot.errors_over_time(errors, errors, observation_error=100.0, title="cycles")
    assert figure.axes[0].get_ylim()[1] > 100.0
    figure = plot.errors_over_time(errors, errors, observation_error=1.0, title="cycles")
    spread, error = figure.axes[0].lines[0], figure.axes[0].lines[2]
    assert spread.get_color() == error.get_color() and spread.is_dashed() and not error.is_dashed()
    assert figure.axes[0].get_ylim()[0] == 0 and "observation\nerror" in said(figure)
    save(figure, tmp_path)
    with pytest.raises(ValueError, match="has no error of its name"):
        plot.errors_over_time(errors, {"ETKF": errors["forecast"]})


def test_consistency_marks_the_times_outside_the_band(tmp_path):
    innovation = field(time=60, site=20)
    found = chi_square(innovation, 1.0, dim="site")
    suggested = desroziers(innovation, 0.5 * innovation, dim="site")
    figure = plot.consistency(found, suggested, {"observation": 0.7, "background": 0.7}, title="innovations")
    outside = int(((found.chi2 < found.low) | (found.chi2 > found.high)).sum())
    assert len(figure.axes[0].lines[2].get_xdata()) == outside
    assert "forecast error, suggested" in said(figure) and "% inside the 95 % band" in said(figure)
    assert len(plot.consistency(found).axes) == 1
    run = xr.Dataset({"chi2": found.chi2, "used": found["count"]})
    assert len(plot.consistency(run).axes[0].lines[2].get_xdata()) == outside
    save(figure, tmp_path)


def test_the_hovmoeller_diagram_gives_truth_and_analysis_one_scale_and_the_error_its_own(tmp_path):
    truth = 5.0 * field(time=40, site=12)
    analysis = (truth + 0.1 * field(time=40, site=12)).assign_attrs(truth.attrs)
    figure = plot.hovmoeller(truth, analysis.transpose("site", "time"), observations=truth.where(truth > 0))
    images = [ax.collections[0] for ax in figure.axes[:3]]
    assert images[0].get_clim() == images[1].get_clim() and images[2].get_clim()[1] < 0.5
    np.testing.assert_allclose(images[2].get_array(), (analysis - truth).transpose("site", "time"))
    assert len(figure.axes[2].lines[0].get_xdata()) == int((truth > 0).sum())
    save(figure, tmp_path)
    with pytest.raises(ValueError, match="common times"):
        plot.hovmoeller(truth, analysis.isel(time=slice(3)))
    with pytest.raises(ValueError, match="truth and analysis are at other times"):
        plot.hovmoeller(truth, analysis.assign_coords(time=analysis.time + 1))


def test_spectra_of_exponents_tell_dimension_and_sum(tmp_path):
    found = xr.Dataset(
        {
            "exponent": ("index", [0.9, 0.0, -14.57], {"units": "1"}),
            "stderr": ("index", [0.1] * 3),
            "kaplan_yorke": 2.06,
        },
        {"index": [1, 2, 3]},
    )
    figure = plot.lyapunov_spectra({"truth": found, "network": found.drop_vars("kaplan_yorke")})
    assert "truth: dimension 2.06, sum \N{MINUS SIGN}13.67" in said(figure)
    save(figure, tmp_path)


def test_horizons_fall_from_all_forecasts_to_those_that_never_lose_their_skill(tmp_path):
    rate = xr.DataArray([1.0, 2.0, 3.0, 0.0], dims="start")
    lead = np.linspace(0, 4, 81)
    error = (0.05 * np.exp(rate * xr.DataArray(lead, {"lead": lead}, ["lead"]))).assign_coords(lead=lead)
    found = forecast_skill_horizon(error, 1.0)
    figure = plot.skill_horizons({"network": found}, unit=2.0, label="lead time [Lyapunov times]")
    left = figure.axes[0].lines[0].get_ydata()
    assert left[0] == 1.0 and left[-1] == 0.25 and (np.diff(left) <= 0).all()
    assert figure.axes[0].get_xlim() == (0, 2.0)
    assert f"median {float(found.median()) / 2:.2g}" in said(figure)
    save(figure, tmp_path)


def test_power_spectra_are_logarithmic_both_ways(tmp_path):
    x = field(time=9, site=16)
    mean = power_spectrum(x, "site", periodic=True).mean("time", keep_attrs=True)
    figure = plot.power_spectra({"truth": mean, "forecast": 0.5 * mean}, title="power")
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    save(figure, tmp_path)
    with pytest.raises(ValueError, match="average over the others"):
        plot.power_spectra({"truth": power_spectrum(x, "site", periodic=True)})


@pytest.mark.parametrize(
    ("draw", "source"),
    [
        (lambda: plot.rank_histogram(xr.Dataset()), "rank_histogram"),
        (lambda: plot.rank_histogram(rank_histogram(field(member=3, x=4, y=5), field(x=4, y=5), dim="x")), "rank"),
        (lambda: plot.spread_skill(xr.Dataset({"spread": 1.0})), "spread_skill"),
        (lambda: plot.consistency(chi_square(field(time=5), 1.0)), "chi_square"),
        (lambda: plot.lyapunov_spectra({}), "lyapunov_spectrum"),
        (lambda: plot.skill_horizons({}), "forecast_skill_horizon"),
        (lambda: plot.lyapunov_spectra({"truth": xr.Dataset()}), "lyapunov_spectrum"),
    ],
)
def test_other_things_are_refused_with_the_name_of_what_is_drawn(draw, source):
    with pytest.raises(ValueError, match=f"{source}|nothing to draw"):
        draw()
