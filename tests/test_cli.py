"""The command ``physml data``: thin, quick, and of one message where something is wrong."""

import subprocess
import sys

import pytest
import xarray as xr

from physml.cli import main
from physml.data import catalog


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    """Keep every test out of the user's cache."""
    monkeypatch.setenv("PHYSML_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_list_shows_all_or_what_holds_every_word(capsys):
    assert main(["data", "list"]) == 0
    assert capsys.readouterr().out == catalog.table() + "\n"
    assert main(["data", "list", "argo", "float"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["argo-index", "argo-float"]
    assert main(["data", "list", "argo", "xyzzy"]) == 1
    assert capsys.readouterr() == ("", "physml: no data set holds 'argo xyzzy'; physml data list shows all\n")


def test_show_prints_the_entry(capsys):
    assert main(["data", "show", "oisst-v2.1"]) == 0
    assert capsys.readouterr().out == f"{catalog.info('oisst-v2.1')}\n"


def test_fetch_writes_a_sample_where_it_is_told_and_prints_the_path(tmp_path, data_folder, capsys):
    assert main(["data", "fetch", "gyre-sample", "--to", str(tmp_path / "here")]) == 0
    path = tmp_path / "here" / "gyre-sample.nc"
    assert capsys.readouterr().out == f"{path}\n"
    with xr.open_dataset(path) as ds:
        xr.testing.assert_equal(ds.load(), catalog.open("gyre-sample"))
    assert main(["data", "fetch", "gyre-sample"]) == 0
    assert capsys.readouterr().out == f"{data_folder / 'gyre-sample' / 'gyre-sample.nc'}\n"


def test_fetch_takes_parameters(monkeypatch, capsys):
    asked = {}

    def fetch(name, folder, **kwargs):
        asked.update(kwargs)
        return []

    monkeypatch.setattr(catalog, "fetch", fetch)
    words = ["data", "fetch", "climsim-low-res", "part=mlo", "year=1", "month=2,03", "--overwrite"]
    assert main(words) == 0
    assert asked == {"overwrite": True, "part": ["mlo"], "year": [1], "month": [2, 3]}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["show", "ersst-v4"], "physml: the catalog has no entry 'ersst-v4'; did you mean 'ersst-v5'?"),
        (["fetch", "oisst-v2.1"], "physml: oisst-v2.1 needs year=, the year of the file."),
        (["fetch", "oisst-v2.1", "year=nineteen"], "physml: oisst-v2.1 has no year='nineteen'."),
        (["fetch", "oisst-v2.1", "2019"], "physml: oisst-v2.1 takes no '2019'. Expected: KEY=VALUE."),
        (["fetch", "glorys12"], "physml: glorys12 needs an account at https://data.marine.copernicus.eu"),
        (["fetch", "arco-era5"], "physml: arco-era5 is a zarr store of 2.05 PB, which is opened in place."),
    ],
)
def test_what_is_wrong_is_one_message(words, text, capsys):
    assert main(["data", *words]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(text) and err.count("\n") == 1


def test_data_loads_no_network_library_and_adds_little_to_the_import_of_xarray():
    code = (
        "import sys, time, xarray; start = time.perf_counter(); from physml.cli import main; main(['data', 'list']);"
        "print(time.perf_counter() - start);"
        "print([m for m in ('keras', 'tensorflow', 'pooch', 'matplotlib') if m in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        *_, took, loaded = done.stdout.splitlines()
        assert loaded == "[]"
        seconds.append(float(took))
    assert min(seconds) < 1
