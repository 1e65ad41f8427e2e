"""The demonstration, in its short form, keeps its promises and writes all it says."""

import json
import re

import numpy as np
import pytest
import xarray as xr

from physml import cli, load

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert cli.main(["--debug", "demo", "--short", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def scores(out):
    return json.loads((out / "scores.json").read_text())


def test_scores_have_every_entry(scores):
    assert set(scores["networks"]) == {"unconstrained", "projected", "transport"}
    for network in scores["networks"].values():
        assert len(network["rmse"]) == 16
        assert np.isfinite(network["rmse"]).all()
        assert {"mass_drift", "negative_fraction"} <= set(network)
    assert {"rmse_free", "rmse_analysis", "spread", "chi2"} <= set(scores["assimilation"])
    explanation = scores["explanation"]
    assert len(explanation["groups"]) == len(explanation["attributions"]) == 6
    assert explanation["residual"] < 1e-6
    assert set(scores["seconds"]) == {"simulate", "train", "roll out", "assimilate", "explain", "write"}


@pytest.mark.parametrize("network", ["projected", "transport"])
def test_constrained_networks_keep_the_total_and_the_sign(scores, network):
    assert abs(scores["networks"][network]["mass_drift"]) <= 1e-6
    assert scores["networks"][network]["negative_fraction"] == 0.0


def test_the_unconstrained_network_keeps_neither(scores):
    assert abs(scores["networks"]["unconstrained"]["mass_drift"]) > 1e-3
    assert scores["networks"]["unconstrained"]["negative_fraction"] > 0


def test_observations_help(scores):
    assert scores["assimilation"]["rmse_analysis"] < scores["assimilation"]["rmse_free"]


def test_fields_are_labelled_and_the_model_is_saved(out):
    with xr.open_dataset(out / "rollouts.nc") as rolled, xr.open_dataset(out / "truth.nc") as truth:
        assert list(rolled.network.values) == ["unconstrained", "projected", "transport"]
        np.testing.assert_array_equal(rolled.time, truth.time[1:])
        assert rolled.tracer.attrs["units"] == "kg m-3"
        assert rolled.attrs["Conventions"].startswith("CF-")
    with xr.open_zarr(out / "simulation.zarr", consolidated=False) as simulation:
        assert simulation.sizes["run"] == 1
    assert load(out / "transport.keras").head is not None


def test_the_page_stands_alone(out):
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 12
    links = re.findall(r'(?:src|href)="(https?://[^"]+)"', page)
    assert all(link.startswith("https://doi.org/") for link in links)
    for words in ("Assimilating observations", "What the forecasts rest on", "Conservation and positivity"):
        assert words in page


def test_an_earlier_demo_is_kept_unless_asked(out, capsys):
    assert cli.main(["demo", "--short", "--out", str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_a_folder_that_holds_no_demo_is_never_replaced(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert cli.main(["demo", "--short", "--overwrite", "--out", str(tmp_path)]) == 1
    assert "holds no demonstration that could be replaced" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()
