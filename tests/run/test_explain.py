"""A model explained from files: settings in plain text, what is written, what is refused."""

import re
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from physml import FieldModel, FieldSpec, Scaling, cli
from physml.explain import area_mean, groups, zero
from physml.explain.explainer import Explainer
from physml.report import Report
from physml.run import explain_settings as settings
from physml.run.explain import Chosen, attribute, explain_run, read_baseline
from physml.run.explain_fields import input_anomalies, painted
from physml.run.explain_report import explanation_section, explanation_table, explanation_text


@pytest.fixture(scope="module")
def ds():
    """Three years of two variables on a small globe with land."""
    rng = np.random.default_rng(0)
    lat, lon = np.arange(-60.0, 61, 30), np.arange(0.0, 360, 60)
    wet = np.ones((5, 6), bool)
    wet[1, 2] = False
    out = xr.Dataset(
        {
            n: (("time", "lat", "lon"), rng.normal(size=(36, 5, 6)).astype("float32"), {"units": units})
            for n, units in (("sst", "degC"), ("wind", "m s-1"))
        }
        | {"wet": (("lat", "lon"), wet), "north": (("lat", "lon"), np.tile(lat[:, None] > 0, (1, 6)))},
        {
            "time": xr.date_range("2000-01-15", periods=36, freq="30D"),
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"}),
        },
    )
    return out.assign({n: out[n].where(out.wet).assign_attrs(out[n].attrs) for n in ("sst", "wind")})


@pytest.fixture(scope="module")
def model(ds):
    """A linear network: the same mix of the input channels in every cell."""
    spec = FieldSpec(["sst", "wind"], "sst", input_offsets={"sst": (-1, 0), "wind": (0,)}, target_offsets=1, mask="wet")
    scaling = Scaling.fit(ds, spec)
    x = keras.Input((5, 6, 3))
    mix = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant([[0.1], [0.6], [-0.3]]))
    return FieldModel(keras.Model(x, mix(x)), scaling=scaling)


@pytest.fixture(scope="module")
def files(ds, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    ds.to_netcdf(folder / "sst.nc")
    model.save(folder / "model.keras")
    return folder


@pytest.fixture(scope="module")
def explained(files):
    said = []
    out = explain_run(
        files / "model.keras",
        str(files / "sst.nc"),
        files / "out",
        target="box_mean(sst, lat=-30:30, lon=120:240)",
        groups="{variable: true, region: {north: north}, rest: south}",
        baseline="samples(3)",
        samples="2001:2001",
        say=said.append,
    )
    with xr.open_dataset(out / "explanation.nc") as result:
        return out, result.load(), said


def test_the_folder_is_whole_and_the_contributions_add_up(explained, files):
    out, result, said = explained
    assert any(line.startswith("12 samples of 43 model rows each: 516 rows, about ") for line in said)
    assert {p.name for p in out.iterdir()} == {
        "explanation.nc",
        "report.html",
        "bars.png",
        "waterfall.png",
        "beeswarm.png",
        "time.png",
        "maps.png",
    }
    assert not list(files.glob(".physml-*"))
    assert said[-1].endswith("report.html")
    total = result.base_value + result.attribution.sum("group")
    np.testing.assert_allclose(total, result.prediction, rtol=1e-5, atol=1e-6)
    assert list(result.group.values) == ["sst, north", "sst, south", "wind, north", "wind, south"]
    assert result.attribution.attrs["units"] == "degC"
    assert set(result.time.dt.year.values) == {2001}
    assert result.attrs["baseline"] == "3 samples (seed 0)"
    assert result.attrs["physml_model"] == "model.keras"


def test_the_page_says_what_was_asked_and_how_sure_it_is(explained):
    page = (explained[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    for words in (
        "4 groups of inputs",
        "over 30°S to 30°N, 120°E to 120°W, 30 days ahead",
        "3 samples (seed 0)",
        "exact Shapley values",
        "round-off",
        "The contributions are exact",
        "wind, south",
    ):
        assert words in page


def test_an_earlier_explanation_is_kept_unless_asked_and_nothing_else_is_replaced(explained, files, tmp_path, capsys):
    words = ["explain", str(files / "model.keras"), str(files / "sst.nc"), "--out"]
    assert cli.main([*words, str(explained[0])]) == 1
    assert "--overwrite" in capsys.readouterr().err
    (tmp_path / "thesis.txt").write_text("years of work")
    assert cli.main([*words, str(tmp_path), "--overwrite"]) == 1
    assert "holds no explanation that could be replaced" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def test_samples_are_chosen_after_their_windows_are_cut(ds, model):
    whole = Explainer(model, zero(model.layout), groups(model.layout), "sst")
    some = Chosen(model, zero(model.layout), groups(model.layout), "sst")
    some.chosen = 5
    every, few = whole.shapley(ds, "exact"), some.shapley(ds, "exact")
    assert few.sizes["time"] == 5
    xr.testing.assert_allclose(few.attribution, every.attribution.sel(time=few.time), atol=1e-5)
    slopes = Chosen(model, zero(model.layout), groups(model.layout), area_mean("sst"))
    slopes.chosen = 5
    assert slopes.gradients(ds, "saliency").sizes["time"] == 5


def test_the_colour_of_a_group_is_its_mean_departure_in_standard_deviations(ds, model):
    explainer = Explainer(model, zero(model.layout), groups(model.layout), "sst")
    found = input_anomalies(explainer, ds)
    packed = model.layout.pack(ds, "inputs")
    wet = model.layout.valid("inputs")[..., 0]
    wind = packed.isel(channel=2).values[:, wet]
    expected = wind.mean(1) / np.sqrt((wind**2).mean())
    np.testing.assert_allclose(found.sel(group="wind"), expected, rtol=1e-4)


def test_groups_that_lie_apart_are_painted_and_channels_that_share_them_are_one_map(ds, model):
    layout = model.layout
    halves = groups(layout, box={"north": {"lat": slice(1, 90)}, "south": {"lat": slice(-90, 1)}})
    names = list(halves.names)
    result = xr.Dataset({"attribution": ("group", [1.0, 2.0, 3.0, 4.0])}, {"group": names})
    maps = painted(Explainer(model, zero(layout), halves, "sst"), result)
    assert list(maps["variable"].values) == ["sst", "wind"]
    value = dict(zip(names, [1.0, 2.0, 3.0, 4.0], strict=True))
    assert (maps.attribution.isel(channel=0).sel(lat=60) == value["sst, north"]).all()
    assert (maps.attribution.isel(channel=1).sel(lat=-60) == value["wind, south"]).all()
    assert np.isnan(maps.attribution.sel(lat=-30, lon=120)).all()
    assert painted(Explainer(model, zero(layout), groups(layout), "sst"), result) is None


def result(stderr: float = 0.0, **more) -> xr.Dataset:
    phi = np.array([[0.5, -0.1, 0.3], [0.1, 0.1, -0.2]])
    return xr.Dataset(
        {
            "attribution": (("group", "time"), phi, {"units": "K"}),
            "stderr": (("group", "time"), np.full_like(phi, stderr)),
            "prediction": ("time", 1 + phi.sum(0), {"units": "K"}),
            "base_value": ("time", np.ones(3)),
            "residual": ("time", np.zeros(3)),
            **more,
        },
        {"group": ["sst", "wind"], "time": xr.date_range("2000-01-01", periods=3, freq="MS")},
        {
            "target": "mean of sst",
            "baseline": "climatology",
            "method": "paired permutations",
            "seed": 3,
            "rows": 12345,
            "replicates": 5,
        },
    )


def test_the_text_tells_exact_values_from_estimates_and_what_is_left_over():
    assert "exact for this model" in explanation_text(result()) and "round-off" in explanation_text(result())
    told = explanation_text(result(0.02))
    for words in (
        "2 groups of inputs adds to the mean of sst in 3 samples from 2000-01-01 to 2000-03-01",
        "baseline: climatology",
        "12\N{NARROW NO-BREAK SPACE}345 rows",
        "seed 3",
        "largest standard error is 0.02 K, 4 % of the largest contribution",
    ):
        assert words in told
    left = result(residual=("time", [0.0, -0.1, 0.0]))
    assert "to 0.1 K at worst, 20 % of the largest contribution" in explanation_text(left)
    stopped = result(0.02, converged=("time", [True, False, True]))
    assert "1 of 3 samples did not reach the tolerance" in explanation_text(stopped)
    assert "every sample reached the tolerance" in explanation_text(result(0.02, converged=("time", [True] * 3)))


def test_one_sample_is_named_by_its_date():
    assert "for one sample, 2000-02-01" in explanation_text(result().isel(time=[1]))
    assert "for one sample." in explanation_text(result().isel(time=1, drop=True))


def test_derivatives_give_cells_and_their_sums_over_the_groups(ds, model, monkeypatch):
    explainer = Explainer(model, zero(model.layout), groups(model.layout), "sst")
    packed = model.layout.pack(ds, "inputs").transpose("channel", "time", "lat", "lon")
    asked = []

    def gradients(self, ds, kind, **more):
        asked.append((kind, more))
        return packed.drop_vars("channel").to_dataset(name="attribution")

    monkeypatch.setattr(Explainer, "gradients", gradients)
    found, cells = attribute(explainer, ds, settings.read_call("gradients(kind=saliency, steps=8)", "method"), 0)
    assert asked == [("saliency", {"steps": 8})]
    expected = packed.isel(channel=2).where(ds.wet).sum(("lat", "lon"))
    np.testing.assert_allclose(found.attribution.sel(group="wind"), expected, rtol=1e-5)
    assert cells.attribution.dims == ("channel", "time", "lat", "lon")
    with pytest.raises(ValueError, match="no argument 'piars'; did you mean 'pairs'"):
        attribute(explainer, ds, settings.read_call("permutations(piars=8)", "method"), 0)


@pytest.mark.long
def test_data_too_large_for_memory_are_explained_block_by_block_to_the_same_numbers(files, explained, monkeypatch):
    monkeypatch.setattr("physml.run.explain.IN_MEMORY", 0)
    out = explain_run(
        files / "model.keras",
        str(files / "sst.nc"),
        files / "lazy",
        target="box_mean(sst, lat=-30:30, lon=120:240)",
        groups="{variable: true, region: {north: north}, rest: south}",
        baseline="samples(3)",
        samples="2001:2001",
    )
    with xr.open_dataset(out / "explanation.nc") as lazy:
        xr.testing.assert_allclose(lazy.load().drop_attrs(), explained[1].drop_attrs(), rtol=1e-5, atol=1e-6)


def test_the_table_is_ordered_and_has_units_and_intervals():
    rows = explanation_table(result(0.02))
    assert [r["group"] for r in rows] == ["sst", "wind"]
    assert rows[0]["mean absolute contribution [K]"] == pytest.approx(0.3)
    assert rows[0]["share of all"] == "69 %"
    # t(12) 0.02 / sqrt(3) = 0.0252 about 0.2333
    assert rows[0]["95 % interval"] == "0.208 to 0.258"
    assert "95 % interval" not in explanation_table(result())[0]
    assert "contribution [K]" in explanation_table(result().isel(time=0))[0]


def test_the_section_takes_the_figures_it_is_given_or_draws_those_that_suit():
    page = Report("Title", "Summary.")
    drawn = explanation_section(page, result(), before="Why it was asked.")
    assert list(drawn) == ["bars", "waterfall"]
    assert "Why it was asked." in page.html() and page.html().count("<figure") == 2
    # The sample whose prediction is furthest from its baseline.
    assert "2000-01-01" in drawn["waterfall"][1]
    drawn = explanation_section(page, result(), figures={"bars": drawn["bars"]})
    assert list(drawn) == ["bars"] and page.html().count("<figure") == 3


CALLS = {
    "sst": ("sst", (), {}),
    "box_mean(sst, lat=-5:5, lon=190:240.5)": ("box_mean", ("sst",), {"lat": slice(-5, 5), "lon": slice(190, 240.5)}),
    "cell(lat=0.5, lon = -30)": ("cell", (), {"lat": 0.5, "lon": -30}),
    "climatology(by=month)": ("climatology", (), {"by": "month"}),
    "samples(20)": ("samples", (20,), {}),
    "f([1, 2], 'a, b', x=1961-01:1990-12)": ("f", ([1, 2], "a, b"), {"x": slice("1961-01", "1990-12")}),
    "f(:5)": ("f", (slice(None, 5),), {}),
}


@pytest.mark.parametrize("text", CALLS)
def test_a_setting_reads_as_a_call(text):
    call = settings.read_call(text, "target")
    assert (call.name, call.positional, dict(call.named)) == CALLS[text]


def test_a_setting_may_be_a_mapping():
    call = settings.read_call({"box_mean": {"name": "sst", "lat": [-5, 5]}}, "target")
    assert call.name == "box_mean" and call.named["lat"] == [-5, 5]
    target = settings.read_target({"box_mean": {"name": "sst", "lat": [-5, 5]}})
    assert str(target) == "mean of sst over 5°S to 5°N"


def test_samples_are_a_number_a_range_or_all():
    axis = pd.date_range("2000", periods=24, freq="MS")
    assert list(settings.pick_samples(axis, "4")) == list(settings.pick_samples(axis, 4)) == [0, 8, 15, 23]
    assert list(settings.pick_samples(axis, "2001:")) == list(range(12, 24))
    assert list(settings.pick_samples(axis, "2000-02")) == [1]
    assert settings.pick_samples(axis, None).size == 24 and settings.pick_samples(axis, 100).size == 24
    assert list(settings.pick_samples(pd.RangeIndex(10), "2:4")) == [2, 3, 4]


def test_groups_are_words_or_a_mapping_or_a_file(ds, model, tmp_path):
    layout = model.layout
    assert len(settings.read_groups("variable", ds, layout)) == len(settings.read_groups(None, ds, layout)) == 2
    assert len(settings.read_groups("lag", ds, layout)) == 2
    assert len(settings.read_groups("variable, lag", ds, layout)) == 3
    path = tmp_path / "groups.yaml"
    path.write_text("box: {tropics: {lat: -30:30}}\nrest: elsewhere\n")
    found = settings.read_groups(str(path), ds, layout)
    assert found.names == ("sst, tropics", "sst, elsewhere", "wind, tropics", "wind, elsewhere")
    assert settings.read_groups({"variable": {"all": ["sst", "wind"]}}, ds, layout).names == ("all",)


REFUSED = {
    "an open bracket": (lambda ds, m: settings.read_target("box_mean(sst"), "target cannot be read"),
    "a word after a name": (lambda ds, m: settings.read_call("f(a=1, 2)", "target"), "names a value before '2'"),
    "an open list": (lambda ds, m: settings.read_call("f([1, 2)", "target"), "open bracket"),
    "a misspelt target": (lambda ds, m: settings.read_target("box_maen(sst)"), "did you mean 'box_mean'"),
    "a misspelt baseline": (lambda ds, m: read_baseline("climatolgy", ds, m, 0), "did you mean 'climatology'"),
    "a misspelt argument": (
        lambda ds, m: read_baseline("samples(m=3)", ds, m, 0),
        "'m' of baseline 'samples' is unknown",
    ),
    "a missing argument": (
        lambda ds, m: read_baseline("samples", ds, m, 0),
        r"baseline 'samples' lacks 'n'.*samples\(n=",
    ),
    "too many values": (lambda ds, m: read_baseline("zero(1)", ds, m, 0), "takes fewer values"),
    "twice": (lambda ds, m: read_baseline("samples(3, n=2)", ds, m, 0), "'n' of baseline 'samples' is given twice"),
    "a misspelt word": (lambda ds, m: settings.read_groups("varable", ds, m.layout), "did you mean 'variable'"),
    "a misspelt choice": (lambda ds, m: settings.read_groups({"boxes": {}}, ds, m.layout), "did you mean 'box'"),
    "no file": (lambda ds, m: settings.read_groups("none.yaml", ds, m.layout), "no groups at 'none.yaml'"),
    "no region": (lambda ds, m: settings.read_groups({"region": "nroth"}, ds, m.layout), "did you mean 'north'"),
    "no samples": (
        lambda ds, m: settings.pick_samples(ds.indexes["time"], "1990:1991"),
        "samples select nothing.*2000-01-15",
    ),
    "none of them": (lambda ds, m: settings.pick_samples(ds.indexes["time"], 0), "samples select nothing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused(case, ds, model):
    call, message = REFUSED[case]
    with pytest.raises((ValueError, KeyError), match=message):
        call(ds, model)


def test_a_wrong_setting_fails_before_tensorflow_is_loaded():
    code = (
        "import sys; from physml import cli;"
        "code = cli.main(['explain', 'm.keras', 'd.nc', '--out', 'x', '--groups', 'varable']);"
        "print(code, [m for m in ('keras', 'tensorflow', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 []"
    assert re.search("groups have no word 'varable'; did you mean 'variable'", done.stderr)
