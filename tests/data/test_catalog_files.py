"""Fetching and opening: whole and checked, or not at all, with one clear error where the network refuses."""

import dataclasses
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from physml.data import _catalog_file, _opening, catalog

pytestmark = pytest.mark.usefixtures("data_folder")


def test_a_file_comes_once_and_opens_lazily(server, netcdf, use, data_folder, nothing_but):
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
def test_a_packed_file_is_unpacked(server, netcdf, use, data_folder, unpacked_on_the_way, nothing_but):
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


def lay(folder, name, **variables):
    folder.mkdir(parents=True, exist_ok=True)
    xr.Dataset(variables).to_netcdf(folder / name)


def test_temperature_and_salinity_of_the_atlas_open_as_one(data_folder):
    for letter in "ts":
        levels = {"depth": ("depth", [0.0, 5.0]), "time": ("time", [4.0], {"units": "months since 1955-01-01"})}
        field = (("time", "depth", "lat"), np.ones((1, 2, 3)))
        lay(
            data_folder / "woa23",
            f"woa23_decav_{letter}00_01.nc",
            **{f"{letter}_an": field},
            crs=((), 0),
            lat=[1, 2, 3],
            **levels,
        )
    with catalog.open("woa23", download=False) as ds:
        assert {"t_an", "s_an"} <= set(ds.data_vars) and dict(ds.sizes) == {"time": 1, "depth": 2, "lat": 3}
        assert ds.time.values.tolist() == [4.0]


def test_steps_of_climsim_open_along_a_new_time(data_folder):
    for second in (0, 1200):
        state = (("lev", "ncol"), np.full((60, 4), float(second)))
        lay(
            data_folder / "climsim-low-res",
            f"E3SM-MMF.mli.0001-02-01-{second:05d}.nc",
            state_t=state,
            state_ps=("ncol", np.ones(4)),
        )
    with catalog.open("climsim-low-res", year=1, month=2, second=[0, 1200], download=False) as ds:
        assert dict(ds.sizes) == {"time": 2, "lev": 60, "ncol": 4}
        assert ds.state_t[:, 0, 0].values.tolist() == [0.0, 1200.0]


def test_files_that_do_not_fit_together_say_so(data_folder):
    for wmo, levels in ((10001, 5), (10002, 7)):
        lay(data_folder / "argo-float", f"{wmo}_prof.nc", TEMP=(("N_PROF", "N_LEVELS"), np.ones((2, levels))))
    with catalog.open("argo-float", dac="aoml", wmo=10001, download=False) as ds:
        assert dict(ds.sizes) == {"N_PROF": 2, "N_LEVELS": 5}
    with pytest.raises(ValueError, match=r"2 files of argo-float cannot be opened as one. .* open them one by one: "):
        catalog.open("argo-float", dac="aoml", wmo=[10001, 10002])


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
    moved = dataclasses.replace(known["argo-index"], urls=(f"{server.url}/ar_index_global_prof.txt.gz",))
    monkeypatch.setattr(catalog, "entries", lambda: {"argo-index": moved})
    ds = catalog.open("argo-index", progress=False)
    assert ds.sizes == {"profile": 2}
    assert ds.time.values[0] == np.datetime64("1997-07-29T20:03:00") and np.isnat(ds.time.values[1])
    assert ds.longitude.values[0] == -16.032 and np.isnan(ds.longitude.values[1])
    assert ds.ocean.values.tolist() == ["A", ""]
    assert {v.name for v in moved.variables} <= set(ds.variables)


# What can go wrong


def test_an_address_that_refuses_says_how_to_fetch_by_hand(server, use, data_folder, nothing_but):
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


def test_no_network_is_one_clear_error(use, data_folder, nothing_but):
    # Port 9 of this machine answers nobody.
    use(urls="[http://127.0.0.1:9/sst.nc.gz]", unpack="gzip")
    with pytest.raises(ConnectionError, match=r"Connection refused.*curl -fL .* && gunzip -f '.*sst\.nc\.gz'"):
        catalog.open("made-up", progress=False)
    assert nothing_but(data_folder / "made-up")


@pytest.mark.parametrize("there", [False, True])
def test_a_download_that_breaks_off_leaves_nothing_new(server, netcdf, use, data_folder, there, nothing_but):
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


def test_an_interrupt_leaves_nothing_behind(use, data_folder, monkeypatch, nothing_but):
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
def test_a_file_cut_short_unnoticed_is_refused(server, netcdf, use, data_folder, packed, nothing_but):
    content = gzip.compress(netcdf) if packed else netcdf
    server.files["/sst.nc"] = server.files["/sst.nc.gz"] = content
    server.tell_length, server.cut = False, len(content) // 2
    use(urls=f"[{server.url}/sst.nc{'.gz' if packed else ''}]", **({"unpack": "gzip"} if packed else {}))
    with pytest.raises(ValueError, match=r"sst.nc came damaged, cut short or as something else .* bytes: .* curl -fL"):
        catalog.open("made-up", progress=False)
    assert nothing_but(data_folder / "made-up")


def test_a_page_of_a_login_is_not_taken_for_data(server, use, data_folder, nothing_but):
    server.files["/sst.nc"] = b"<!DOCTYPE html><html>Please log in</html>"
    use(urls=f"[{server.url}/sst.nc]")
    with pytest.raises(ValueError, match="Received: 41 bytes of an HTML page: "):
        catalog.open("made-up", progress=False)
    assert nothing_but(data_folder / "made-up")


def test_another_checksum_is_refused(server, netcdf, use, data_folder, nothing_but):
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
    monkeypatch.setattr(_opening, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"needs the package gcsfs. .* Remedy: pip install 'physml\[cloud\]', or copy"
    ):
        catalog.open("weatherbench2-era5-64x32")


def test_a_bucket_out_of_reach_is_told_at_once(monkeypatch):
    monkeypatch.setattr(_opening, "find_spec", lambda name: True)
    monkeypatch.setattr(_opening, "_PROTOCOLS", {"gs": ("gcsfs", "http://127.0.0.1:9")})
    with pytest.raises(
        ConnectionError,
        match=r"weatherbench2-era5-64x32 could not be opened at gs://.*Connection refused.*gsutil -m cp -r",
    ):
        catalog.open("weatherbench2-era5-64x32")
