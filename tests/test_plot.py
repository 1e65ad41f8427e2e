"""Figures show what the data say: one scale for all panels, land apart from missing values, zeros on log axes."""

from __future__ import annotations

import subprocess
import sys
import types

import dask
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from physml import plot

LAT, LON = np.arange(-30.0, 31.0, 10.0), np.arange(0.0, 360.0, 30.0)


def field(**dims) -> xr.DataArray:
    """A random field with two land cells, on a globe and along *dims*."""
    coords = {**dims, "lat": LAT, "lon": LON}
    values = np.random.default_rng(0).normal(size=tuple(len(v) for v in coords.values()))
    values[..., 0, :2] = np.nan
    return xr.DataArray(values, coords=coords, name="sst", attrs={"units": "degC", "long_name": "sea temperature"})


def attribution(values=(0.3, -0.5, 0.1), stderr=(0.02, 0.01, 0.0)) -> xr.Dataset:
    return xr.Dataset(
        {
            "attribution": ("group", list(values), {"units": "kg m-3"}),
            "stderr": ("group", list(stderr)),
            "prediction": ((), 0.9),
            "base_value": ((), 1.0),
        },
        {"group": ["west", "east", "wind"]},
    )


def curve(values, units="K", dim="step") -> xr.DataArray:
    return xr.DataArray(
        np.asarray(values, float),
        coords={dim: np.arange(1, len(values) + 1)},
        dims=dim,
        attrs={"units": units, "long_name": "rmse"},
    )


def images(figure: Figure) -> list:
    """Return the drawn fields, without land and colour bar."""
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.get_visible()]
    return [ax.collections[1] for ax in panels]


def texts(figure: Figure) -> str:
    from matplotlib.text import Text

    return " | ".join(t.get_text() for t in figure.findobj(Text) if t.get_visible())


def draw(figure: Figure, tmp_path) -> None:
    path = tmp_path / "figure.png"
    figure.savefig(path, dpi=40)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_importing_plot_loads_no_matplotlib_and_drawing_loads_no_pyplot():
    code = (
        "import sys, numpy as np, xarray as xr\n"
        "from physml import plot\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plot.maps(xr.DataArray(np.eye(3), dims=('y', 'x')))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'keras' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_global_setting_changes(tmp_path):
    before = dict(mpl.rcParams)
    draw(plot.maps(field(time=[0, 1]), col="time"), tmp_path)
    draw(plot.curves({"a": curve([1, 2])}, log=True), tmp_path)
    draw(plot.bars(attribution()), tmp_path)
    assert dict(mpl.rcParams) == before


def test_all_panels_share_one_scale_and_a_diverging_one_is_symmetric(tmp_path):
    data = field(time=[0, 1, 2]) * xr.DataArray([1.0, 5.0, 0.1], dims="time")
    figure = plot.maps(data, col="time", diverging=True)
    limits = {image.get_clim() for image in images(figure)}
    assert limits == {(-float(abs(data).max()), float(abs(data).max()))}
    assert {i.get_clim() for i in images(plot.maps(data, col="time", limits=(0, 2)))} == {(0, 2)}
    draw(figure, tmp_path)


def test_rows_and_columns_name_themselves_and_the_bar_has_units():
    data = field(step=[1, 10], network=["cnn", "transport"])
    data["step"].attrs = {"long_name": "lead time", "units": "months"}
    said = texts(plot.maps(data, col="step", row="network", title="Errors"))
    for words in ("lead time 1 months", "lead time 10 months", "cnn", "transport", "sea temperature [°C]", "Errors"):
        assert words in said


def test_fields_by_name_are_drawn_side_by_side_on_the_same_grid_only():
    truth = field()
    figure = plot.maps({"truth": truth, "forecast": truth + 1})
    assert len(images(figure)) == 2
    assert "truth" in texts(figure) and "forecast" in texts(figure)
    with pytest.raises(ValueError, match="exact"):
        plot.maps({"truth": truth, "forecast": truth.isel(lon=slice(5))})


def test_land_is_not_a_missing_value(tmp_path):
    data = field(time=[0, 1])
    assert "no value" not in texts(plot.maps(data, col="time"))
    data[1, 3, 3] = np.nan
    figure = plot.maps(data, col="time")
    assert "hatched: no value" in texts(figure)
    ground = figure.axes[0].collections[0].get_array()
    assert np.ma.count(np.ma.masked_invalid(ground)) == 2
    draw(figure, tmp_path)


def test_a_mask_hides_values_on_land():
    data = field()
    mask = data.notnull() & (data.lat > -20)
    (image,) = images(plot.maps(data.fillna(0.0), mask=mask))
    drawn = np.ma.masked_invalid(image.get_array()).reshape(mask.shape)
    np.testing.assert_array_equal(~np.ma.getmaskarray(drawn), mask.values)


@pytest.mark.parametrize("order", [("lat", "lon"), ("lon", "lat")])
@pytest.mark.parametrize("north_first", [False, True])
def test_north_is_up_whatever_the_order_of_the_data(order, north_first):
    data = field().transpose(*order)
    data = data.sortby("lat", ascending=not north_first)
    figure = plot.maps(data)
    drawn = np.ma.masked_invalid(images(figure)[0].get_array()).reshape(len(LAT), len(LON))
    np.testing.assert_array_equal(drawn.filled(np.nan), field().transpose("lat", "lon").values)
    assert figure.axes[0].yaxis.get_major_formatter()(10.0) == "10°N"
    assert [figure.axes[0].xaxis.get_major_formatter()(v) for v in (0, 90, 180, 270)] == ["0°", "90°E", "180°", "90°W"]


def test_columns_wrap_into_rows_of_equal_length():
    figure = plot.maps(field(time=range(5)), col="time", wrap=3)
    shape = figure.axes[0].get_subplotspec().get_gridspec()
    assert (shape.nrows, shape.ncols) == (2, 3)
    assert len(images(figure)) == 5


def test_long_distances_are_drawn_in_kilometres():
    x = xr.DataArray(np.linspace(0, 2e6, 5), dims="x", attrs={"units": "m"})
    data = xr.DataArray(np.eye(5), coords={"y": x.rename(x="y").values, "x": x}, dims=("y", "x"))
    figure = plot.maps(data)
    assert "x [km]" in texts(figure)
    assert figure.axes[0].get_xlim()[1] < 3000


def test_a_curvilinear_grid_is_drawn_by_its_cells(tmp_path):
    lat = xr.DataArray(np.random.default_rng(0).normal(size=(3, 4)), dims=("j", "i"), attrs={"units": "degrees_north"})
    data = xr.DataArray(
        np.eye(3, 4), dims=("j", "i"), coords={"lat": lat, "lon": lat.assign_attrs(units="degrees_east")}
    )
    figure = plot.maps(data)
    assert "i [cell]" in texts(figure)
    draw(figure, tmp_path)


def test_dates_of_any_calendar_name_their_panels():
    times = xr.date_range("2000-01-15", periods=2, freq="MS", calendar="360_day", use_cftime=True)
    assert "2000-02-01" in texts(plot.maps(field(time=times), col="time"))
    times = xr.date_range("2000-01-15", periods=2, freq="12h")
    assert "2000-01-15 12:00" in texts(plot.maps(field(time=times), col="time"))


def test_a_lazy_field_is_computed_once():
    calls = []

    def count(block):
        calls.append(1)
        return block

    data = field(time=[0, 1]).chunk().map_blocks(count)
    with dask.config.set(scheduler="synchronous"):
        before = len(calls)
        plot.maps(data, col="time")
    assert len(calls) - before == 1


def test_every_network_keeps_its_colour_on_the_page():
    colours = plot.palette(["free", "projection", "transport"])
    figure = plot.curves({"transport": curve([1, 2]), "free": curve([2, 3])}, colors=colours)
    drawn = [to_hex(line.get_color()).upper() for line in figure.axes[0].lines]
    assert drawn == [colours["transport"], colours["free"]]
    assert len(set(plot.palette("abcdefg").values())) == 7


def test_names_stand_at_the_end_of_their_lines_and_never_on_each_other():
    lines = {name: curve([0.0, 1.0 + 1e-3 * i]) for i, name in enumerate("abcdef")}
    axes = plot.curves(lines).axes[0]
    heights = {t.get_text(): t.xy[1] for t in axes.texts}
    ordered = [heights[name] for name in "abcdef"]
    assert ordered == sorted(ordered)
    assert np.diff(ordered).min() > 0.04
    assert 0 <= min(ordered) and max(ordered) <= 1


def test_a_perfect_zero_is_seen_on_a_log_axis(tmp_path):
    figure = plot.curves({"free": curve([1e-3, 1.0]), "conserving": curve([0.0, 0.0])}, log=True)
    axes = figure.axes[0]
    assert axes.get_yscale() == "symlog"
    assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1]
    draw(figure, tmp_path)
    assert plot.curves({"free": curve([1e-3, 1.0])}, log=True).axes[0].get_yscale() == "log"


def test_a_curve_that_broke_down_says_so(tmp_path):
    figure = plot.curves({"fine": curve([1, 2]), "broken": curve([np.nan, np.nan])})
    assert "broken (no value)" in texts(figure)
    draw(figure, tmp_path)


def test_curves_take_dates_and_durations(tmp_path):
    for times in (
        xr.date_range("2000", periods=3, freq="MS"),
        xr.date_range("2000", periods=3, freq="MS", calendar="noleap", use_cftime=True),
        np.arange(3).astype("m8[D]"),
    ):
        draw(plot.curves({"a": curve([1, 2, 3]).assign_coords(step=("step", times))}), tmp_path)


def test_attribution_maps_are_centred_on_zero(tmp_path):
    phi = field(group=["west", "east"]).assign_attrs(units="K").to_dataset(name="attribution")
    figure = plot.attribution_maps(phi)
    (low, high), *rest = [image.get_clim() for image in images(figure)]
    assert low == -high and rest == [(low, high)]
    assert "attribution [K]" in texts(figure)
    draw(figure, tmp_path)


def test_the_learning_curve_marks_the_best_epoch(tmp_path):
    history = types.SimpleNamespace(history={"loss": [5.0, 1.0, 0.2, 0.1], "val_loss": [6.0, 2.0, 0.4, 0.9], "mae": []})
    figure = plot.learning_curve(history)
    assert "best: 0.4 at epoch 3" in texts(figure)
    assert figure.axes[0].get_yscale() == "log"
    draw(figure, tmp_path)
    assert "best: 0.9 at epoch 2" in texts(plot.learning_curve({"loss": [1.0, 0.9]}))


def test_observations_lie_on_the_error_map_across_the_date_line(tmp_path):
    std = field().rename("std")
    figure = plot.error_map(std, {"latitude": [0.0, 10.0], "longitude": [-170.0, 20.0]})
    dots = figure.axes[0].collections[-1].get_offsets()
    np.testing.assert_allclose(dots, [[190.0, 0.0], [20.0, 10.0]])
    assert "dots: 2 observations" in texts(figure)
    draw(figure, tmp_path)


def test_missing_observations_are_not_drawn():
    obs = xr.Dataset(
        {"sst": ("obs", [1.0, np.nan, 2.0])}, {"lat": ("obs", [0.0, 1, 2]), "lon": ("obs", [0.0, 1, np.nan])}
    )
    dots = plot.error_map(field(), obs).axes[0].collections[-1].get_offsets()
    np.testing.assert_allclose(dots, [[0.0, 0.0]])
    held = types.SimpleNamespace(to_dataset=lambda: obs)
    assert "dots: 1 observation" in texts(plot.error_map(field(), held))


REFUSED = {
    "too many dimensions": (
        lambda: plot.maps(field(time=[0])),
        ValueError,
        "two space dimensions.*'time', 'lat', 'lon'",
    ),
    "an unknown column": (
        lambda: plot.maps(field(time=[0]), col="tiem"),
        ValueError,
        r"no dimension 'tiem'; did you mean 'time'\?",
    ),
    "coastlines of a channel": (
        lambda: plot.maps(xr.DataArray(np.eye(3), dims=("y", "x")), coastlines=True),
        ValueError,
        "coastlines need a map of the Earth",
    ),
    "no curves": (lambda: plot.curves({}), ValueError, "no curve to draw"),
    "curves in other units": (
        lambda: plot.curves({"a": curve([1]), "b": curve([1], units="Pa")}),
        ValueError,
        "the curve 'b' does not fit the others.*units 'K'.*units 'Pa'",
    ),
    "a map as a curve": (lambda: plot.curves({"a": field()}), ValueError, r"one dimension.*\('lat', 'lon'\)"),
    "no loss": (lambda: plot.learning_curve({"los": [1.0]}), ValueError, "the history holds no loss.*Received: los"),
    "observations without longitude": (
        lambda: plot.error_map(field(), {"lat": [0.0]}),
        KeyError,
        "the observations have no 'lon'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_is_refused(case):
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call()


def test_coastlines_without_cartopy_say_how_to_get_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "cartopy", None)
    monkeypatch.setitem(sys.modules, "cartopy.crs", None)
    with pytest.raises(ImportError, match="pip install cartopy"):
        plot.maps(field(), coastlines=True)
