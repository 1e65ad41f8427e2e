"""Figures of scores say which model is better and where that is sure, and refuse other things in words."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from physml import plot, verify
from physml.plot._scorecard import BETTER, WORSE

RNG = np.random.default_rng(0)
TIME = xr.date_range("2000-01-01", periods=100, freq="MS")


def said(figure) -> str:
    return " | ".join(t.get_text() for t in figure.findobj(Text) if t.get_visible())


def save(figure, tmp_path) -> None:
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").stat().st_size > 2000


@pytest.fixture(scope="module")
def card() -> xr.Dataset:
    truth = xr.Dataset({"t": ("time", RNG.normal(size=100), {"units": "K"})}, {"time": TIME})
    lead = xr.DataArray([1.0, 2.0], {"lead": [1, 3]}, ("lead",), attrs={"units": "months", "long_name": "lead time"})
    lead["lead"].attrs = lead.attrs

    def model(scale: float) -> xr.Dataset:
        noise = xr.DataArray(RNG.normal(size=100), {"time": TIME}, ("time",))
        return xr.Dataset({"t": (truth.t + scale * lead * noise).assign_attrs(units="K")})

    models = {"persistence": model(0.5), "network": model(0.2), "worse": model(1.2), "alike": model(0.5)}
    acc = functools.partial(verify.acc, climatology=0.0)
    return verify.scorecard(models, truth, ["rmse", acc, "bias"], bootstrap={"n": 200, "block": 2})


def test_the_scorecard_prints_every_number_and_marks_what_is_significant(card, tmp_path):
    figure = plot.scorecard(card, title="skill")
    save(figure, tmp_path)
    words = said(figure)
    for value in card.value.sel(score="rmse").values.ravel():
        assert f"{value:.2f}" in words
    for part in ("root mean square error [K]", "anomaly correlation", "% better than persistence", "at the 95 % level"):
        assert part in words
    texts = [t for ax in figure.axes for t in ax.texts]
    assert sum(t.get_text() == BETTER for t in texts) == int((card.better == 1).sum())
    assert sum(t.get_text() == WORSE for t in texts) == int((card.better == -1).sum())
    assert (card.better.sel(score="rmse", model="network") == 1).all()


def test_better_is_blue_and_worse_is_orange_whichever_way_the_score_goes(card):
    figure = plot.scorecard(card)
    for ax in figure.axes[:2]:
        cells = [to_rgb(p.get_facecolor()) for p in ax.patches if isinstance(p, Rectangle)]
        network, worse = cells[2], cells[4]
        assert network[2] > network[0]
        assert worse[0] > worse[2]
    alike = [to_rgb(p.get_facecolor()) for p in figure.axes[2].patches]
    unsure = ~card.significant.sel(score="bias").values.ravel()
    assert all(len(set(np.round(c, 2))) <= 2 for c, u in zip(alike, unsure, strict=True) if u)


def test_a_scorecard_without_reference_intervals_or_leads_is_drawn(card, tmp_path):
    bare = card[["value"]].isel(lead=0, drop=True).assign_attrs(reference="")
    figure = plot.scorecard(bare)
    save(figure, tmp_path)
    assert "better than" not in said(figure)
    two = xr.concat([card, card.assign_coords(variable=["salinity"])], "variable")
    assert "salinity" in said(plot.scorecard(two.assign_attrs(card.attrs)))


def test_a_score_by_lead_has_a_line_and_a_band_for_every_model(card, tmp_path):
    figure = plot.score_by_lead(card, "rmse", title="errors grow")
    save(figure, tmp_path)
    ax = figure.axes[0]
    assert len(ax.lines) == 4
    assert len(ax.collections) == 4
    np.testing.assert_allclose(ax.lines[1].get_ydata(), card.value.sel(score="rmse", model="network", variable="t"))
    for part in ("lead time [months]", "root mean square error [K]", "bands: 95 % intervals", "network"):
        assert part in said(figure)


def test_reliability_diagrams_draw_bars_of_both_kinds_and_counts(tmp_path):
    p = xr.DataArray(RNG.uniform(size=500), dims="time")
    o = (xr.DataArray(RNG.uniform(size=500), dims="time") < p) * 1.0
    band, bars = verify.reliability(p, o, bins=5), verify.reliability(p, o, bins=5, bars="bootstrap", n=30, block=1)
    figure = plot.reliability({"rain": band, "fog": band}, title="reliability")
    save(figure, tmp_path)
    assert "lies by chance, 95 %" in said(figure)
    assert len(figure.axes) == 2
    assert len(figure.axes[1].patches) == 10
    assert "from blocks of time, 95 %" in said(plot.reliability(bars))
    mean = xr.DataArray(RNG.normal(size=200), dims="time", name="t")
    forecast = xr.Dataset({"t": mean, "t_std": xr.ones_like(mean)})
    calibrated = plot.reliability(verify.reliability(forecast, mean + RNG.normal(size=200)))
    assert "level of the forecast's quantile" in said(calibrated)
    assert len(calibrated.axes) == 1


def test_roc_curves_name_their_area(tmp_path):
    p, o = xr.DataArray([0.1, 0.4, 0.35, 0.8], dims="x"), xr.DataArray([0, 0, 1, 1], dims="x")
    figure = plot.roc({"model": verify.roc(p, o)}, title="warnings")
    save(figure, tmp_path)
    assert "model, area 0.750" in said(figure)


def test_the_table_of_confusion_is_drawn_in_percent_of_the_truth(tmp_path):
    flags = {"flag_values": [0, 1, 2], "flag_meanings": "open_water ice never"}
    truth = xr.DataArray([0, 0, 0, 1, 1], dims="x", attrs=flags)
    table = verify.confusion(xr.DataArray([0, 0, 1, 1, 1], dims="x", attrs=flags), truth)
    figure = plot.confusion(table, title="surface")
    save(figure, tmp_path)
    for part in ("67 %", "33 %", "100 %", "open water", "accuracy 0.80", "balanced 0.83"):
        assert part in said(figure)


def test_spectra_are_drawn_over_that_of_the_truth(tmp_path):
    x = xr.DataArray(RNG.normal(size=(4, 16, 16)), dims=("time", "y", "x"))
    power = verify.isotropic_spectrum(x, ("y", "x"), periodic=True).mean("time", keep_attrs=True)
    figure = plot.power_spectra({"truth": power, "smooth": 0.5 * power}, ratio_to="truth")
    save(figure, tmp_path)
    upper, lower = figure.axes
    np.testing.assert_allclose(lower.lines[1].get_ydata(), 0.5)
    assert len(upper.lines[0].get_ydata()) == int(power.whole.sum())
    with pytest.raises(ValueError, match=r"no spectrum 'truht'; did you mean 'truth'\?"):
        plot.power_spectra({"truth": power}, ratio_to="truht")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda card: plot.scorecard(xr.Dataset()), "this is no scorecard"),
        (lambda card: plot.scorecard(card.expand_dims(level=2)), "several dimensions of leads"),
        (lambda card: plot.score_by_lead(card), "which score to draw.*rmse, acc, bias"),
        (lambda card: plot.score_by_lead(card, "rms"), "no score 'rms'; did you mean 'rmse'"),
        (lambda card: plot.score_by_lead(card.isel(lead=0)), "has no leads"),
        (lambda card: plot.reliability(card), r"no result of reliability.*physml.verify.reliability"),
        (lambda card: plot.roc({}), "nothing to draw"),
        (lambda card: plot.confusion(card), "no result of confusion"),
    ],
)
def test_what_cannot_be_drawn_is_refused(card, call, message):
    with pytest.raises(ValueError, match=message):
        call(card)
