"""Figures of explanations order, sign and scale what they show, and say how sure it is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from drawn import MINUS, rows, texts, whiskers, widths
from scipy import stats

from physml import plot
from physml.plot import _coast
from physml.plot._style import LOWERS, RAISES, wrapped

UNITS = {"units": "degC"}


def explained(n_groups: int = 3, n_times: int = 5, stderr: float = 0.02, **attrs) -> xr.Dataset:
    """Attributions whose sizes grow with the group, at whole months."""
    size = np.arange(1.0, n_groups + 1)[:, None]
    phi = np.random.default_rng(0).normal(size=(n_groups, n_times)) * size
    return xr.Dataset(
        {
            "attribution": (("group", "time"), phi, UNITS),
            "stderr": (("group", "time"), np.full_like(phi, stderr)),
            "prediction": ("time", 1.0 + phi.sum(0), {**UNITS, "long_name": "mean of sst"}),
            "base_value": ("time", np.ones(n_times), UNITS),
            "residual": ("time", np.zeros(n_times), UNITS),
        },
        {
            "group": [f"sst, box {i}" for i in range(n_groups)],
            "time": xr.date_range("2000-01-15", periods=n_times, freq="MS"),
        },
        {"replicates": 5, "target": "mean of sst", **attrs},
    )


def one(values=(0.3, -0.5, 0.1), stderr=(0.02, 0.01, 0.0), **more) -> xr.Dataset:
    return xr.Dataset(
        {
            "attribution": ("group", list(values), {"units": "kg m-3"}),
            "stderr": ("group", list(stderr)),
            "prediction": ((), 0.9),
            "base_value": ((), 1.0),
            **more,
        },
        {"group": ["west", "east", "wind"]},
    )


def test_bars_are_sorted_signed_and_carry_their_interval():
    figure = plot.bars(one(), title="Why")
    assert rows(figure.axes[0]) == ["east", "west", "wind"]
    assert widths(figure.axes[0]) == [-0.5, 0.3, 0.1]
    np.testing.assert_allclose(whiskers(figure.axes[0]), [1.96 * 0.01, 1.96 * 0.02], rtol=1e-4)
    said = texts(figure)
    assert "attribution [kg m⁻³]" in said and "prediction 0.9 = baseline 1.0 + sum of the bars" in said
    assert f"{MINUS}0.5" in said and "+0.3" in said


def test_bars_of_maps_are_mean_absolute_values_or_means():
    phi = (one().attribution * xr.DataArray([1.0, -3.0], dims="x")).to_dataset(name="attribution")
    figure = plot.bars(phi)
    assert widths(figure.axes[0]) == pytest.approx([1.0, 0.6, 0.2])
    assert "mean absolute attribution" in texts(figure)
    figure = plot.bars(phi, signed=True)
    assert widths(figure.axes[0]) == pytest.approx([0.5, -0.3, -0.1])
    assert "mean attribution" in texts(figure)


def test_one_sample_keeps_its_sign_and_few_replicates_widen_the_interval():
    sample = one().expand_dims(time=[0]).assign_attrs(replicates=5)
    ax = plot.bars(sample).axes[0]
    assert widths(ax) == [-0.5, 0.3, 0.1]
    np.testing.assert_allclose(whiskers(ax), stats.t.ppf(0.975, 4) * np.array([0.01, 0.02]), rtol=1e-6)


def test_the_interval_of_a_mean_is_of_independent_estimates_or_of_the_spread_of_the_samples():
    found = explained(2, 5)
    half = whiskers(plot.bars(found).axes[0])
    np.testing.assert_allclose(half, stats.t.ppf(0.975, 5 * 4) * 0.02 / np.sqrt(5), rtol=1e-6)
    size = abs(found.attribution)
    order = np.argsort(-size.mean("time").values)
    expected = stats.t.ppf(0.975, 4) * size.std("time", ddof=1).values / np.sqrt(5)
    figure = plot.bars(found, interval="samples")
    np.testing.assert_allclose(whiskers(figure.axes[0]), expected[order], rtol=1e-6)
    assert "all samples like these" in texts(figure)


def test_errors_of_the_cells_of_a_map_do_not_average_out():
    found = explained(2, 5).expand_dims(lat=[0.0, 10.0], lon=[0.0, 10.0])
    half = whiskers(plot.bars(found).axes[0])
    np.testing.assert_allclose(half, stats.t.ppf(0.975, 5 * 4) * 0.02 / np.sqrt(5), rtol=1e-6)


def test_every_sample_is_a_dot_where_asked():
    figure = plot.bars(explained(3, 5), dots=True)
    dots = [c.get_offsets() for c in figure.axes[0].collections if len(c.get_offsets()) == 5]
    assert len(dots) == 3
    expected = np.sort(abs(explained(3, 5).attribution.sel(group="sst, box 2")).values)
    assert any(np.allclose(np.sort(d[:, 0]), expected) for d in dots)


def test_groups_stand_under_their_parent_whose_bar_is_the_sum_of_theirs():
    found = explained(4, 6).assign_coords(group_parent=("group", ["a", "b", "a", "b"]))
    found["group"] = ["a, x", "b, x", "a, y", "b, y"]
    ax = plot.bars(found).axes[0]
    total = abs(found.attribution.groupby("group_parent").sum()).mean("time")
    first, second = ("a", "b") if total.sel(group_parent="a") > total.sel(group_parent="b") else ("b", "a")
    names = rows(ax)
    assert names[0] == first and names[3] == second
    assert sorted(names[1:3]) == sorted(names[4:]) == ["x", "y"]
    assert widths(ax)[0] == pytest.approx(float(total.sel(group_parent=first)))
    assert ax.patches[1].get_height() < ax.patches[0].get_height()
    sizes = widths(ax)
    assert sizes[1] >= sizes[2] and sizes[4] >= sizes[5]


def test_a_beeswarm_has_a_dot_for_each_sample_the_widest_group_on_top():
    found = explained(4, 30)
    figure = plot.beeswarm(found, title="All forecasts")
    ax = figure.axes[0]
    mean = abs(found.attribution).mean("time").values
    assert rows(ax) == [f"sst, box {i}" for i in np.argsort(-mean)]
    drawn = [c.get_offsets() for c in ax.collections]
    np.testing.assert_allclose(drawn[0][:, 0], found.attribution.values[np.argmax(mean)])
    assert np.ptp(drawn[0][:, 1]) < 1
    assert "attribution [°C]" in texts(figure)


def test_dots_that_would_hide_each_other_lie_apart():
    found = explained(1, 9)
    found["attribution"][:] = 0.5
    y = plot.beeswarm(found).axes[0].collections[0].get_offsets()[:, 1]
    assert len(set(np.round(y, 6))) == 9 and np.abs(y).max() <= 0.4


def test_the_inputs_colour_the_dots_from_low_to_high_or_in_their_units():
    found = explained(2, 40)
    found["warmth"] = (found.attribution.dims, found.attribution.values * 3)
    figure = plot.beeswarm(found, values="warmth")
    assert "low" in texts(figure) and "high" in texts(figure)
    np.testing.assert_allclose(figure.axes[0].collections[0].get_clim(), (0, 1))
    found["warmth"].attrs = {"units": "K", "long_name": "mean input"}
    figure = plot.beeswarm(found, values=found.warmth)
    low, high = figure.axes[0].collections[0].get_clim()
    assert low == -high and "mean input [K]" in texts(figure)


def test_few_groups_of_many_are_drawn_and_the_rest_is_told():
    figure = plot.beeswarm(explained(9, 4), show=5)
    assert len(rows(figure.axes[0])) == 5
    assert "4 groups of smaller attributions are not drawn" in texts(figure)


def test_a_waterfall_leads_from_the_baseline_to_the_prediction():
    figure = plot.waterfall(explained().isel(time=1), title="One forecast")
    ax = figure.axes[0]
    bars = ax.patches
    phi = explained().attribution.isel(time=1).values
    assert rows(ax)[0] == "baseline" and rows(ax)[-1] == "prediction"
    assert [p.get_width() for p in bars] == pytest.approx(sorted(phi, key=abs, reverse=True))
    assert bars[0].get_x() == 1.0
    ends = [p.get_x() + p.get_width() for p in bars]
    low, high = ax.get_xlim()
    assert low < min(1.0, *ends) and max(1.0, *ends) < high
    assert [p.get_x() for p in bars[1:]] == pytest.approx(ends[:-1])
    assert ends[-1] == pytest.approx(1 + phi.sum())
    from matplotlib.colors import to_hex

    assert all(to_hex(p.get_facecolor()) == (RAISES if p.get_width() > 0 else LOWERS).lower() for p in bars)
    assert "mean of sst [°C]" in texts(figure)
    half = whiskers(ax)
    np.testing.assert_allclose(half[half > 0], stats.t.ppf(0.975, 4) * 0.02, rtol=1e-6)


def test_a_waterfall_shows_what_is_left_over_and_merges_small_groups():
    found = explained(8, 2).isel(time=0)
    assert "left over" not in texts(plot.waterfall(found))
    found["residual"] = found.residual + 0.4
    figure = plot.waterfall(found, show=4)
    assert rows(figure.axes[0])[4:] == ["5 others together", "left over", "prediction"]
    last = figure.axes[0].patches[-1]
    assert last.get_width() == pytest.approx(0.4)
    small = np.sort(np.abs(found.attribution.values))[:5]
    others = [v for v in found.attribution.values if abs(v) in small]
    assert figure.axes[0].patches[3].get_width() == pytest.approx(sum(others))


def test_time_by_group_is_symmetric_and_has_the_prediction_above():
    found = explained(3, 6)
    figure = plot.time_by_group(found, title="Months")
    lower, upper = figure.axes[:2]
    low, high = lower.collections[0].get_clim()
    assert low == -high == -float(abs(found.attribution).max())
    assert rows(lower) == list(found.group.values)
    np.testing.assert_allclose(upper.lines[0].get_ydata(), found.prediction)
    np.testing.assert_allclose(upper.lines[1].get_ydata(), found.base_value)
    assert "prediction" in texts(figure) and "attribution [°C]" in texts(figure)
    np.testing.assert_allclose(lower.collections[0].get_array().reshape(3, 6), found.attribution)


def test_uneven_dates_get_columns_of_one_width_with_their_dates():
    figure = plot.time_by_group(explained(2, 6).isel(time=[0, 1, 5]))
    assert "2000-02-01" in texts(figure) or "2000-02-15" in texts(figure)
    assert figure.axes[0].get_xlim() == (-0.5, 2.5)


def cells() -> xr.Dataset:
    lat, lon = np.arange(-30.0, 31, 15), np.arange(0.0, 360, 30)
    values = np.random.default_rng(0).normal(size=(4, lat.size, lon.size))
    values[:, 0, 0] = np.nan
    return xr.Dataset(
        {"attribution": (("channel", "lat", "lon"), values, UNITS)},
        {
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"}),
            "variable": ("channel", ["sst", "sst", "sea-ice", "sea-ice"]),
            "offset": ("channel", [-1, 0, -1, 0]),
        },
    )


def test_attributions_of_cells_get_a_map_for_each_channel():
    figure = plot.attribution_maps(cells())
    said = texts(figure)
    for words in (f"sst, t{MINUS}1", "sea-ice, t", "attribution [°C]"):
        assert words in said
    limits = {ax.collections[1].get_clim() for ax in figure.axes[:4]}
    (ends,) = limits
    assert ends[0] == -ends[1] == -float(abs(cells().attribution).max())
    same = cells().isel(channel=[1, 3])
    said = texts(plot.attribution_maps(same))
    assert "sea-ice |" in said and "t |" not in said.replace("sst |", "")


def test_one_far_cell_does_not_bleach_the_map():
    bare = cells().attribution.drop_vars(["variable", "offset"]).isel(channel=[0])
    found = xr.concat([bare] * 8, "lon").drop_vars("lon").to_dataset(name="attribution")
    found["attribution"][0, 2, 2] = 1e3
    assert plot.attribution_maps(found).axes[0].collections[1].get_clim()[1] < 10
    assert plot.attribution_maps(found, limits=(-1.0, 1.0)).axes[0].collections[1].get_clim() == (-1.0, 1.0)


def test_a_region_that_holds_all_attributions_is_drawn_in_full():
    phi = xr.zeros_like(cells().attribution.isel(channel=[0])).fillna(0) + 1e-6
    phi[0, 2, 3:6] = [1.0, 2.0, 3.0]
    figure = plot.attribution_maps(phi.to_dataset(name="attribution"))
    assert figure.axes[0].collections[1].get_clim() == (-3.0, 3.0)


def test_derivatives_by_inputs_of_other_units_have_a_scale_each_in_their_units():
    units = ["degC / (m s-1)", "1", "degC / (m s-1)", "1"]
    found = cells().assign_coords(channel_units=("channel", units))
    figure = plot.attribution_maps(found)
    assert len({ax.collections[1].get_clim() for ax in figure.axes[:4]}) == 4
    assert texts(figure).count("derivative [°C / (m s⁻¹)]") == 2
    assert len({ax.collections[1].get_clim() for ax in plot.attribution_maps(found, share=True).axes[:4]}) == 1


def test_rows_over_time_and_one_map_are_drawn_into_given_axes():
    upper, lower = plot.curves({"a": xr.DataArray([1.0, 2.0], dims="t")}).subplots(2)
    plot.time_by_group(explained(3, 6), ax=upper, title="What each brings")
    plot.maps(cells().attribution[0], ax=lower, title="Where")
    assert rows(upper) == [f"sst, box {i}" for i in range(3)]
    assert (upper.get_title(loc="left"), lower.get_title(loc="left")) == ("What each brings", "Where")
    with pytest.raises(ValueError, match=r"axes hold one map.*4 maps"):
        plot.maps(cells().attribution, col="channel", ax=lower)


@pytest.fixture
def coastline(tmp_path, monkeypatch):
    """Put one coastline where cartopy looks for those already there."""
    cartopy = pytest.importorskip("cartopy")
    shapefile = pytest.importorskip("shapefile")
    folder = tmp_path / "shapefiles" / "natural_earth" / "physical"
    folder.mkdir(parents=True)
    with shapefile.Writer(str(folder / "ne_110m_coastline")) as writer:
        writer.field("name", "C")
        writer.line([[[-20.0, -10.0], [-10.0, 10.0]]])
        writer.record("made up")
    monkeypatch.setitem(cartopy.config, "pre_existing_data_dir", tmp_path)
    return folder


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Let nothing be found, and fail whatever would be fetched."""
    cartopy = pytest.importorskip("cartopy")
    io = pytest.importorskip("cartopy.io")
    for key in ("pre_existing_data_dir", "data_dir"):
        monkeypatch.setitem(cartopy.config, key, tmp_path / "nothing")

    def refuse(*args):
        raise OSError("the network was asked")

    monkeypatch.setattr(io.Downloader, "acquire_resource", refuse)
    monkeypatch.setattr(io.shapereader.NEShpDownloader, "acquire_resource", refuse)


def test_coastlines_are_drawn_where_they_are_and_turned_to_the_map(coastline):
    ax = plot.attribution_maps(cells()).axes[0]
    lines = ax.collections[-1].get_segments()
    # The map runs from 15° W to 345° E: the coast at 10° to 20° W is cut by both its sides.
    np.testing.assert_allclose(lines, [[[-20.0, -10.0], [-10.0, 10.0]], [[340.0, -10.0], [350.0, 10.0]]])
    assert plot.attribution_maps(cells()).axes[0].get_xlim() == (-15.0, 345.0)
    assert len(plot.maps(cells().attribution[0]).axes[0].collections) == 2


def test_coastlines_are_never_fetched_unless_asked(no_network):
    assert _coast.stored(360.0) is None
    assert len(plot.attribution_maps(cells()).axes[0].collections) == 2
    with pytest.raises(OSError, match=r"cannot be fetched.*network was asked.*coastlines=None"):
        plot.maps(cells().attribution[0], coastlines=True)


def test_names_break_after_commas_into_lines_of_about_one_length():
    assert wrapped("u") == "u"
    long = "sea surface temperature, lag 1 months, tropical Pacific, east"
    assert wrapped(long) == "sea surface temperature,\nlag 1 months, tropical Pacific, east"
    words = wrapped("a name without any comma that is longer than one line")
    assert words.count("\n") == 1 and max(map(len, words.split("\n"))) <= 32
    label = "importance: change of root mean square error of flux"
    assert wrapped(label, 30).replace("\n", " ") == label


def test_numbers_of_a_figure_have_the_decimals_of_its_largest():
    ax = plot.bars(one(values=(1.234, -0.0456, 2e-12), stderr=(0.0, 0.0, 0.0))).axes[0]
    assert {t.get_text() for t in ax.texts} == {"+1.23", f"{MINUS}0.05", "0"}


@pytest.mark.parametrize(
    "figure",
    ["beeswarm", *(pytest.param(f, marks=pytest.mark.long) for f in ("waterfall", "bars", "time_by_group"))],
)
def test_forty_long_names_fit_without_touching(figure):
    found = explained(40, 6)
    found["group"] = [f"sea surface temperature, lag {i} months, region {i}" for i in range(40)]
    found = found.isel(time=0) if figure == "waterfall" else found
    drawn = getattr(plot, figure)(found, show=40)
    drawn.canvas.draw()
    ax = drawn.axes[0]
    boxes = sorted((t.get_window_extent() for t in ax.get_yticklabels()), key=lambda b: b.y0)
    assert all(a.y1 <= b.y0 + 1 for a, b in itertools.pairwise(boxes))
    assert min(b.x0 for b in boxes) >= 0 and max(b.x1 for b in boxes) <= ax.get_window_extent().x0


REFUSED = {
    "no attribution": (
        lambda: plot.bars(xr.Dataset({"attributon": ("group", [1.0])})),
        r"no attribution by group; did you mean 'attributon'\?",
    ),
    "an unknown interval": (lambda: plot.bars(explained(), interval="sample"), "interval is unknown.*'samples'"),
    "the spread of one sample": (
        lambda: plot.bars(one().expand_dims(x=2), interval="samples"),
        "one sample has no spread",
    ),
    "a beeswarm of one sample": (lambda: plot.beeswarm(one()), "a beeswarm shows many samples.*plot.waterfall"),
    "colours of another name": (
        lambda: plot.beeswarm(explained().assign(warmth=explained().attribution), values="warmht"),
        "did you mean 'warmth'",
    ),
    "colours of other samples": (
        lambda: plot.beeswarm(explained(), values=explained().attribution[:, :2]),
        "values do not lie on the samples",
    ),
    "a waterfall of many": (lambda: plot.waterfall(explained()), r"one sample.*result.isel\(time=0\)"),
    "a waterfall from nowhere": (
        lambda: plot.waterfall(one().drop_vars("base_value")),
        "the waterfall has no 'base_value'",
    ),
    "time of no samples": (lambda: plot.time_by_group(one()), "one dimension beside the group"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()
