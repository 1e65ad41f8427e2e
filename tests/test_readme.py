"""The README is true: its script runs, its commands are the ones that are tested, its table names what exists."""

import re
from pathlib import Path

import pytest

import physml

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def test_the_scripts_run_and_their_forecast_obeys_its_laws_and_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script, why = block("python")
    names = {}
    exec(script, names)
    forecast = physml.predict("tracer.keras", names["test"]).tracer
    assert float(forecast.min()) >= 0
    volume = names["ds"].cell_volume
    before = (names["test"].tracer.astype("float64") * volume).sum(("lat", "lon"))
    after = (forecast.astype("float64") * volume).sum(("lat", "lon"))
    assert float(abs(after.values / before.values - 1).max()) < 1e-6

    exec(why, names)
    found = names["why"]
    whole = found.base_value + found.attribution.sum("group")
    assert float(abs(whole - found.prediction).max()) < 1e-12
    mean = abs(found.attribution).mean(("run", "time")).groupby("group_variable").sum()
    assert float(mean.sel(group_variable="tracer")) > float(mean.sel(group_variable=["u", "v"]).max())
    assert (tmp_path / "why.png").stat().st_size > 10_000


def test_there_are_two_commands():
    demo, tests = block("bash")
    assert "physml demo" in demo
    assert "pytest" in tests
    assert all(command.startswith("python3 -m venv .venv && ") for command in (demo, tests))


ROOMS = "networks|assimilation|explain|verify|report|testbeds"


@pytest.mark.parametrize(("room", "member"), sorted(set(re.findall(rf"`({ROOMS})\.(\w+)`", README))))
def test_names_in_the_table_exist(room, member):
    assert hasattr(getattr(physml, room), member)
