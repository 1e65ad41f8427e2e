"""The catalog of public data: complete, strict, and of one clear error where the network refuses."""

import gzip
import hashlib
import http.server
import re
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from physml.data import _catalog_file, _entries, catalog
from physml.provenance import parse_units

NAMES = catalog.names()
SAMPLES = [name for name in NAMES if catalog.info(name).kind == "sample"]


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    """Keep every test out of the user's cache."""
    monkeypatch.setenv("PHYSML_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def server():
    """Serve bytes on 127.0.0.1; ``cut`` breaks off after so many of them, ``status`` refuses."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.asked.append(self.path)
            content = served.files.get(self.path)
            if content is None or served.status != 200:
                self.send_error(404 if content is None else served.status)
                return
            self.send_response(200)
            if served.tell_length:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: served.cut])

        def log_message(self, *args):
            """Say nothing."""

    class Served(http.server.ThreadingHTTPServer):
        files: dict
        asked: list
        cut = None
        status = 200
        tell_length = True

    served = Served(("127.0.0.1", 0), Handler)
    served.files, served.asked = {}, []
    served.url = f"http://127.0.0.1:{served.server_address[1]}"
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


@pytest.fixture
def netcdf(tmp_path):
    """Return the bytes of a small file with ``sst``."""
    path = tmp_path / "made.nc"
    xr.Dataset({"sst": (("time", "x"), np.arange(6.0).reshape(2, 3))}, {"time": [0, 1]}).to_netcdf(path)
    return path.read_bytes()


def entry_text(**changes):
    """Return the YAML of one complete entry, with keys changed or, where None, left out."""
    keys = {
        "title": "made up",
        "kind": "files",
        "access": "open",
        "homepage": "https://example.org",
        "urls": "[https://example.org/sst.nc]",
        "variables": "{sst: {units: degC, long_name: Sea surface temperature}}",
        "dims": "[time, x]",
        "resolution": "coarse",
        "period": "a day",
        "size": "small",
        "licence": "none",
        "citation": "nobody",
        "doi": "[10.1000/182]",
        "engine": "netcdf4",
    } | changes
    return "made-up:\n" + "".join(f"  {k}: {v}\n" for k, v in keys.items() if v is not None)


@pytest.fixture
def use(monkeypatch):
    """Make a catalog of the one entry that the keys say."""

    def made(**changes):
        entries = _catalog_file.read(entry_text(**changes), "test.yaml")
        monkeypatch.setattr(catalog, "entries", lambda: entries)
        return entries["made-up"]

    return made


def nothing_but(folder, *names):
    return sorted(p.name for p in folder.iterdir()) == sorted(names) if folder.exists() else not names


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
    assert repr(entry) == f"Entry({name!r}: {entry.title})"


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
    with pytest.raises(KeyError, match=r"no entry 'ersst-v4'; did you mean 'ersst-v5'\?\. Expected: one of ersst-v5, "):
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
def test_an_entry_that_is_wrong_is_refused_by_name(changes, text):
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
def test_a_sample_written_and_read_is_the_sample(format, tmp_path):
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


def test_what_is_no_sample_is_refused():
    with pytest.raises(ValueError, match=r"ersst-v5 is no sample. Expected: one of gyre-sample, sst-sample, "):
        catalog.sample_file("ersst-v5")
    with pytest.raises(ValueError, match=r"format 'hdf' is not known. Expected: 'netcdf' or 'zarr'"):
        catalog.sample_file("sst-sample", format="hdf")
    with pytest.raises(ValueError, match=r"sst-sample has no parameter 'year'. Expected: parameters among: none"):
        catalog.open("sst-sample", year=2000)


# Files


def test_a_file_comes_once_and_opens_lazily(server, netcdf, use, data_folder):
    server.files["/sst.nc"] = netcdf
    use(urls=f"[{server.url}/sst.nc]", changes="false", sha256=f"'{hashlib.sha256(netcdf).hexdigest()}'")
    for _ in range(2):
        with catalog.open("made-up", progress=False) as ds:
            assert ds.sst.chunks is not None
            np.testing.assert_array_equal(ds.sst, np.arange(6.0).reshape(2, 3))
    assert server.asked == ["/sst.nc"]
    assert nothing_but(data_folder / "made-up", "sst.nc")
    assert catalog.fetch("made-up", progress=False) == [data_folder / "made-up" / "sst.nc"]
    catalog.fetch("made-up", progress=False, overwrite=True)
    assert server.asked == ["/sst.nc", "/sst.nc"]


def test_a_progress_bar_goes_to_the_error_stream(server, netcdf, use, tmp_path, capsys):
    server.files["/sst.nc"] = netcdf
    use(urls=f"[{server.url}/sst.nc]")
    catalog.fetch("made-up", tmp_path / "here")
    out, err = capsys.readouterr()
    assert out == "" and "sst.nc" in err


@pytest.mark.parametrize("unpacked_on_the_way", [False, True])
def test_a_packed_file_is_unpacked(server, netcdf, use, data_folder, unpacked_on_the_way):
    server.files["/sst.nc.gz"] = netcdf if unpacked_on_the_way else gzip.compress(netcdf)
    use(urls=f"[{server.url}/sst.nc.gz]", unpack="gzip")
    with catalog.open("made-up", progress=False) as ds:
        assert ds.sizes == {"time": 2, "x": 3}
    assert nothing_but(data_folder / "made-up", "sst.nc")
    assert (data_folder / "made-up" / "sst.nc").read_bytes() == netcdf


def test_several_files_open_as_one_and_without_parameters_all_that_are_there(server, use, tmp_path, data_folder):
    for year in (2001, 2002, 2003):
        path = tmp_path / "one.nc"
        xr.Dataset({"sst": ("time", [float(year)])}, {"time": [year]}).to_netcdf(path)
        server.files[f"/sst.{year}.nc"] = path.read_bytes()
    use(
        urls=f"['{server.url}/sst.{{year}}.nc']",
        parameters="{year: {meaning: the year, first: 2001, last: 2003}}",
        combine="{combine: by_coords, data_vars: minimal, coords: minimal, compat: override, join: exact}",
    )
    with catalog.open("made-up", year=[2001, 2003], progress=False) as ds:
        assert ds.sst.values.tolist() == [2001, 2003]
    with catalog.open("made-up", download=False) as ds:
        assert ds.sst.values.tolist() == [2001, 2003]
    with catalog.open("made-up", year=2003, download=False) as ds:
        assert ds.sst.values.tolist() == [2003]
    with pytest.raises(FileNotFoundError, match=r"no file of made-up lies in .*sst\.2002\.nc"):
        catalog.open("made-up", year=2002, download=False)
    assert server.asked == ["/sst.2001.nc", "/sst.2003.nc"]
    for wrong, text in (
        ({"year": 2004}, r"made-up has no year=2004. Expected: an integer from 2001 to 2003"),
        ({"year": True}, "made-up has no year=True"),
        ({"year": []}, "made-up has an empty year"),
        ({"yaer": 2001}, r"made-up has no parameter 'yaer'; did you mean 'year'\?"),
    ):
        with pytest.raises(ValueError, match=text):
            catalog.open("made-up", **wrong)
    with pytest.raises(ValueError, match=r"made-up needs year=, the year. .* Remedy: pass year=2001"):
        catalog.fetch("made-up")


def test_a_file_laid_there_by_hand_is_found(netcdf, use, data_folder):
    use()
    (data_folder / "made-up").mkdir(parents=True)
    (data_folder / "made-up" / "sst.nc").write_bytes(netcdf)
    with catalog.open("made-up", download=False) as ds:
        assert "sst" in ds
    with catalog.open("made-up", data_folder / "made-up", chunks=None) as ds:
        assert ds.sst.chunks is None


def test_the_index_of_argo_becomes_a_dataset(server, monkeypatch):
    lines = [
        "# Title : Profile directory file of the Argo Global Data Assembly Center",
        "# Date of update : 20260907162415",
        "file,date,latitude,longitude,ocean,profiler_type,institution,date_update",
        "aoml/13857/profiles/D13857_001.nc,19970729200300,0.267,-16.032,A,845,AO,20260220143529",
        "aoml/13857/profiles/D13857_002.nc,,,99999.000,,845,AO,20260220143530",
    ]
    server.files["/ar_index_global_prof.txt.gz"] = gzip.compress("\n".join(lines).encode())
    known = _catalog_file.entries()
    moved = _entries.dataclasses.replace(known["argo-index"], urls=(f"{server.url}/ar_index_global_prof.txt.gz",))
    monkeypatch.setattr(catalog, "entries", lambda: {"argo-index": moved})
    ds = catalog.open("argo-index", progress=False)
    assert ds.sizes == {"profile": 2}
    assert ds.time.values[0] == np.datetime64("1997-07-29T20:03:00") and np.isnat(ds.time.values[1])
    assert ds.longitude.values[0] == -16.032 and np.isnan(ds.longitude.values[1])
    assert ds.ocean.values.tolist() == ["A", ""]
    assert {v.name for v in moved.variables} <= set(ds.variables)


# What can go wrong


def test_an_address_that_refuses_says_how_to_fetch_by_hand(server, use, data_folder):
    use(urls=f"[{server.url}/sst.nc]")
    place = data_folder / "made-up" / "sst.nc"
    with pytest.raises(ConnectionError) as error:
        catalog.open("made-up", progress=False)
    text = str(error.value)
    assert text.startswith(
        f"sst.nc could not be fetched from {server.url}/sst.nc. Expected: the whole file. Received: "
    )
    assert "HTTPError: 404" in text
    assert f"so that it lies at {place}: curl -fL --create-dirs -o '{place}' '{server.url}/sst.nc'" in text
    assert nothing_but(place.parent)


def test_no_network_is_one_clear_error(use, data_folder):
    # Port 9 of this machine answers nobody.
    use(urls="[http://127.0.0.1:9/sst.nc.gz]", unpack="gzip")
    with pytest.raises(ConnectionError, match=r"Connection refused.*curl -fL .* && gunzip -f '.*sst\.nc\.gz'"):
        catalog.open("made-up", progress=False)
    assert nothing_but(data_folder / "made-up")


@pytest.mark.parametrize("there", [False, True])
def test_a_download_that_breaks_off_leaves_nothing_new(server, netcdf, use, data_folder, there):
    server.files["/sst.nc"] = netcdf
    use(urls=f"[{server.url}/sst.nc]")
    if there:
        catalog.fetch("made-up", progress=False)
    server.cut = len(netcdf) // 2
    with pytest.raises(ConnectionError, match=r"sst.nc could not be fetched .* IncompleteRead"):
        catalog.fetch("made-up", progress=False, overwrite=True)
    assert nothing_but(data_folder / "made-up", *(["sst.nc"] if there else []))
    server.cut = None
    catalog.fetch("made-up", progress=False)
    assert (data_folder / "made-up" / "sst.nc").read_bytes() == netcdf


def test_an_interrupt_leaves_nothing_behind(use, data_folder, monkeypatch):
    import pooch

    def interrupted(self, url, target, pooch_, check_only=False):
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    use()
    with pytest.raises(KeyboardInterrupt):
        catalog.fetch("made-up", progress=False)
    assert nothing_but(data_folder / "made-up")


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_short_unnoticed_is_refused(server, netcdf, use, data_folder, packed):
    content = gzip.compress(netcdf) if packed else netcdf
    server.files["/sst.nc"] = server.files["/sst.nc.gz"] = content
    server.tell_length, server.cut = False, len(content) // 2
    use(urls=f"[{server.url}/sst.nc{'.gz' if packed else ''}]", **({"unpack": "gzip"} if packed else {}))
    with pytest.raises(ValueError, match=r"sst.nc came damaged, cut short or as something else .* bytes: .* curl -fL"):
        catalog.open("made-up", progress=False)
    assert nothing_but(data_folder / "made-up")


def test_a_page_of_a_login_is_not_taken_for_data(server, use, data_folder):
    server.files["/sst.nc"] = b"<!DOCTYPE html><html>Please log in</html>"
    use(urls=f"[{server.url}/sst.nc]")
    with pytest.raises(ValueError, match="Received: 41 bytes of an HTML page: "):
        catalog.open("made-up", progress=False)
    assert nothing_but(data_folder / "made-up")


def test_another_checksum_is_refused(server, netcdf, use, data_folder):
    server.files["/sst.nc"] = netcdf
    use(urls=f"[{server.url}/sst.nc]", changes="false", sha256="'" + 64 * "0" + "'")
    found = hashlib.sha256(netcdf).hexdigest()
    with pytest.raises(
        ValueError,
        match=rf"is not the file that is known .*sha256 {64 * '0'}. Received: sha256 {found}, {len(netcdf)} bytes",
    ):
        catalog.open("made-up", progress=False)
    assert nothing_but(data_folder / "made-up")


def test_a_file_without_the_variables_is_refused(server, netcdf, use):
    server.files["/sst.nc"] = netcdf
    use(urls=f"[{server.url}/sst.nc]", variables="{salt: {units: '1', long_name: Salinity}}")
    with pytest.raises(ValueError, match="none of salt is in it"):
        catalog.open("made-up", progress=False)


def test_a_damaged_file_that_lies_there_is_named(netcdf, use, data_folder):
    use()
    (data_folder / "made-up").mkdir(parents=True)
    (data_folder / "made-up" / "sst.nc").write_bytes(netcdf[:100])
    with pytest.raises(
        ValueError, match=r"sst.nc cannot be read. Expected: a file of made-up, whole. Received: 100 bytes"
    ):
        catalog.open("made-up")


def test_data_that_need_an_account_say_how_and_open_once_they_are_there(data_folder, netcdf):
    for call in (catalog.open, catalog.fetch):
        with pytest.raises(PermissionError) as error:
            call("glorys12")
        text = str(error.value)
        assert "needs an account at https://data.marine.copernicus.eu" in text
        assert "copernicusmarine subset --dataset-id cmems_mod_glo_phy_my_0.083deg_P1D-m" in text
        assert f"--output-directory '{data_folder / 'glorys12'}'" in text
    (data_folder / "glorys12").mkdir(parents=True)
    for day in range(2):
        ds = xr.Dataset({"thetao": ("time", [float(day)])}, {"time": [np.datetime64("2005-01-01", "ns") + day]})
        ds.to_netcdf(data_folder / "glorys12" / f"cmems_{day}.nc")
    with catalog.open("glorys12") as ds:
        assert ds.thetao.values.tolist() == [0.0, 1.0]


def test_a_store_is_opened_from_its_copy_or_its_address_and_is_not_fetched(data_folder, monkeypatch):
    name = "cmip6-gfdl-esm4-tos"
    with pytest.raises(
        ValueError, match=r"is a zarr store of 3.3 GB .*, which is opened in place.*aws s3 cp --recursive"
    ):
        catalog.fetch(name)
    copy = data_folder / name / "v20190726"
    xr.Dataset({"tos": ("time", [1.0, 2.0])}).to_zarr(copy, consolidated=False)
    ds = catalog.open(name, consolidated=False)
    assert ds.tos.chunks is not None and ds.tos.values.tolist() == [1.0, 2.0]


def test_a_store_on_a_web_server_opens_through_fsspec(use, tmp_path):
    pytest.importorskip("fsspec")
    xr.Dataset({"sst": ("time", [1.0, 2.0])}).to_zarr(tmp_path / "s.zarr", consolidated=False)
    use(kind="zarr", engine="zarr", urls=f"['file://{tmp_path}/s.zarr']", by_hand="cp '{folder}'")
    ds = catalog.open("made-up", consolidated=False)
    assert ds.sst.values.tolist() == [1.0, 2.0]


def test_a_store_out_of_reach_is_one_clear_error(use, tmp_path, data_folder):
    use(kind="zarr", engine="zarr", urls=f"['file://{tmp_path}/none.zarr']", by_hand="cp -r none.zarr '{folder}/'")
    place = data_folder / "made-up"
    with pytest.raises(ConnectionError) as error:
        catalog.open("made-up", consolidated=False)
    text = str(error.value)
    assert text.startswith(
        f"made-up could not be opened at file://{tmp_path}/none.zarr. Expected: the zarr store there."
    )
    assert f"so that it lies at {place / 'none.zarr'}: cp -r none.zarr '{place}/'" in text


def test_a_bucket_without_its_package_says_which(use, monkeypatch):
    from physml.data import _opening

    monkeypatch.setattr(_opening, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"needs the package gcsfs. .* Remedy: pip install 'physml\[cloud\]', or copy"
    ):
        catalog.open("weatherbench2-era5-64x32")


def test_a_bucket_out_of_reach_is_told_at_once(monkeypatch):
    from physml.data import _opening

    monkeypatch.setattr(_opening, "find_spec", lambda name: True)
    monkeypatch.setattr(_opening, "_PROTOCOLS", {"gs": ("gcsfs", "http://127.0.0.1:9")})
    with pytest.raises(
        ConnectionError, match=r"weatherbench2-era5-64x32 could not be opened at gs://.*gsutil -m cp -r"
    ):
        catalog.open("weatherbench2-era5-64x32")
