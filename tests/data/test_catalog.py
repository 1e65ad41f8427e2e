"""The catalog of public data: complete, strict, found in the package, with samples that need no network."""

import re
import subprocess
import sys
import tomllib
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from physml.data import _catalog_file, catalog
from physml.provenance import parse_units

pytestmark = pytest.mark.usefixtures("data_folder")

NAMES = catalog.names()
SAMPLES = [name for name in NAMES if catalog.info(name).kind == "sample"]


# What the catalog says


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_is_complete_and_its_units_can_be_read(name):
    entry = catalog.info(name)
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]+", name)
    for variable in entry.variables:
        parse_units(variable.units)
        assert variable.long_name[0].isupper() or variable.long_name[0].isdigit()
    for doi in entry.doi:
        assert re.fullmatch(r"10\.\d{4,9}/[^\s]+[^\s.,;]", doi)
    for address in (entry.homepage, *entry.urls):
        parts = urllib.parse.urlsplit(address)
        assert parts.scheme in ("https", "gs", "s3") and parts.netloc and not re.search(r"\s", address)
    assert entry.licence and re.search(r"\(\d{4}\)", entry.citation)
    assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_prints_what_a_user_must_know(name):
    entry = catalog.info(name)
    text = str(entry)
    for part in (entry.name, entry.variables[0].name, entry.doi[0], "licence", "cite", "checksum", *entry.urls):
        assert part in text
    assert entry.licence.split()[-1] in text
    assert repr(entry) == text and text.startswith(f"{name}: {entry.title}\n")


@pytest.mark.parametrize("name", [n for n in NAMES if catalog.info(n).kind == "files"])
def test_every_parameter_can_stand_in_its_address_and_the_names_match_their_pattern(name):
    entry = catalog.info(name)
    if entry.access == "account":
        assert entry.patterns() == ["*.nc"]
        return
    values = {key: p.values[0] if p.values else p.first for key, p in entry.parameters.items()}
    files = entry.files(values)
    assert len(files) == len(entry.urls)
    for file, pattern in zip(files, entry.patterns(), strict=True):
        assert "{" not in file.address and Path(file.name).match(pattern)
        assert file.address in file.command(Path("/d")) and f"/d/{file.name}" in file.command(Path("/d"))


def test_addresses_are_those_that_the_providers_document():
    def addresses(name, **values):
        return [file.address for file in catalog.info(name).files(values)]

    assert addresses("climsim-low-res", year=2, month=4, second=24000) == [
        "https://huggingface.co/datasets/LEAP/ClimSim_low-res/resolve/main/train/0002-04/E3SM-MMF.mli.0002-04-01-24000.nc"
    ]
    assert addresses("argo-float", dac="coriolis", wmo=6903091) == [
        "https://data-argo.ifremer.fr/dac/coriolis/6903091/6903091_prof.nc"
    ]
    assert addresses("woa23")[0].endswith("/temperature/netcdf/decav/1.00/woa23_decav_t00_01.nc")
    assert addresses("etopo-2022")[0].endswith("/60s/60s_bed_elev_netcdf/ETOPO_2022_v1_60s_N90W180_bed.nc")
    assert addresses("oisst-v2.1", year=range(2019, 2021)) == [
        f"https://downloads.psl.noaa.gov/Datasets/noaa.oisst.v2.highres/sst.day.mean.{year}.nc" for year in (2019, 2020)
    ]


def test_the_table_has_a_line_for_each_entry_and_search_finds_every_word():
    lines = catalog.table().splitlines()
    assert [line.split()[0] for line in lines[1:]] == NAMES
    assert catalog.table(["ersst-v5"]).splitlines()[1].startswith("ersst-v5  open")
    assert catalog.search("ARGO float") == ["argo-index", "argo-float"]
    assert catalog.search("") == NAMES and catalog.search("no such thing") == []


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(KeyError, match=r"no entry 'ersst-v4'; did you mean 'ersst-v5'\? Expected: one of ersst-v5, "):
        catalog.info("ersst-v4")


# How it is read


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"licence": None}, r"test.yaml, made-up lacks 'licence'. Expected: licence: str"),
        ({"license": "none"}, r"has an unknown key 'license'; did you mean 'licence'\?"),
        ({"title": "3"}, r"has a wrong 'title'. Expected: str. Received: 3 \(int\)"),
        ({"kind": "file"}, "has a wrong 'kind'"),
        ({"doi": "[doi:10.1000/182]"}, "has a DOI that is none. .* Received: doi:10.1000/182"),
        ({"doi": "[]"}, "has no DOI to cite"),
        ({"urls": "['https://example.org/{year}.nc']"}, r"other placeholders than parameters"),
        ({"parameters": "{year: {meaning: year, first: 1}}"}, r"other placeholders than parameters"),
        ({"parameters": "{year: {first: 1}}"}, r"made-up.parameters.year lacks 'meaning'"),
        ({"variables": "{sst: {units: degC}}"}, r"made-up.variables.sst lacks 'long_name'"),
        ({"variables": "{sst: degC}"}, r"made-up.variables.sst has no keys"),
        ({"urls": None}, "is open and has no address"),
        ({"access": "account"}, "needs an account and does not say how to fetch"),
        ({"kind": "sample"}, "is a sample with an address"),
        ({"sha256": "'" + 64 * "0" + "'"}, "has a checksum and more than one file, or one that changes"),
        ({"title": "a\n  title: b"}, "'title' stands twice"),
    ],
)
def test_an_entry_that_is_wrong_is_refused_by_name(changes, text, entry_text):
    with pytest.raises(ValueError, match=text):
        _catalog_file.read(entry_text(**changes), "test.yaml")


def test_a_text_without_entries_is_refused():
    with pytest.raises(ValueError, match=r"test.yaml holds no entries"):
        _catalog_file.read("", "test.yaml")


def test_the_file_of_the_package_comes_before_that_of_the_repository(tmp_path, monkeypatch):
    inside = tmp_path / "physml" / "data"
    (tmp_path / "datasets").mkdir()
    inside.mkdir(parents=True)
    monkeypatch.setattr(_catalog_file, "__file__", str(inside / "_catalog_file.py"))
    with pytest.raises(FileNotFoundError, match="the catalog of data sets is not there"):
        _catalog_file.catalog_file()
    (tmp_path / "datasets" / "catalog.yaml").touch()
    assert _catalog_file.catalog_file() == tmp_path / "datasets" / "catalog.yaml"
    (inside / "catalog.yaml").touch()
    assert _catalog_file.catalog_file() == inside / "catalog.yaml"


def test_the_wheel_carries_the_catalog_where_the_package_looks_for_it():
    root = Path(__file__).parents[2]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"datasets/catalog.yaml": "physml/data/catalog.yaml"}
    assert Path(_catalog_file.__file__).parent.relative_to(root) == Path("physml/data")


def test_importing_the_catalog_loads_neither_keras_nor_pooch():
    code = (
        "import sys; from physml.data import catalog; catalog.table(); catalog.open('gyre-sample');"
        "print([m for m in ('keras', 'tensorflow', 'jax', 'pooch', 'requests', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Samples


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_the_same_each_time_and_holds_what_its_entry_says(name):
    entry, ds = catalog.info(name), catalog.open(name)
    xr.testing.assert_identical(ds, catalog.open(name))
    assert set(entry.dims) <= set(ds.dims)
    assert ds.nbytes < 4e6
    for variable in entry.variables:
        assert ds[variable.name].attrs["units"] == variable.units
        assert isinstance(ds[variable.name].data, np.ndarray)


@pytest.mark.parametrize("format", ["netcdf", "zarr"])
def test_a_sample_written_and_read_is_the_sample(format, tmp_path, nothing_but):
    path = catalog.sample_file("sst-levels-sample", tmp_path / "out", format=format)
    assert nothing_but(tmp_path / "out", path.name)
    read = xr.open_dataset if format == "netcdf" else xr.open_zarr
    with read(path) as back:
        xr.testing.assert_equal(back.load(), catalog.open("sst-levels-sample"))
    with pytest.raises(ValueError, match=r"is there already. .* Remedy: pass overwrite=True"):
        catalog.sample_file("sst-levels-sample", tmp_path / "out", format=format)
    catalog.sample_file("sst-levels-sample", tmp_path / "out", format=format, overwrite=True)
    assert nothing_but(tmp_path / "out", path.name)


def test_a_sample_can_be_fetched_and_opened_in_chunks(data_folder):
    (path,) = catalog.fetch("sst-sample")
    assert path == data_folder / "sst-sample" / "sst-sample.nc"
    assert catalog.fetch("sst-sample") == [path]
    assert catalog.open("sst-sample", chunks={"time": 12}).sst.chunksizes["time"] == (12,) * 10


def test_without_a_folder_that_is_set_files_lie_in_the_cache_of_the_user(monkeypatch):
    import pooch

    monkeypatch.delenv("PHYSML_DATA")
    assert catalog.folder_of("ersst-v5") == Path(pooch.os_cache("physml")) / "ersst-v5"


def test_what_is_no_sample_is_refused():
    with pytest.raises(ValueError, match=r"ersst-v5 is no sample. Expected: one of gyre-sample, sst-sample, "):
        catalog.sample_file("ersst-v5")
    with pytest.raises(ValueError, match=r"format 'hdf' is not known. Expected: 'netcdf' or 'zarr'"):
        catalog.sample_file("sst-sample", format="hdf")
    with pytest.raises(ValueError, match=r"sst-sample has no parameter 'year'. Expected: parameters among: none"):
        catalog.open("sst-sample", year=2000)
