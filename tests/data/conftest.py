"""What the tests of the catalog share: a server on this machine, a small file, a catalog of one entry."""

import http.server
import threading

import numpy as np
import pytest
import xarray as xr

from physml.data import _catalog_file, catalog


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """Keep a test of the catalog out of the user's cache."""
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


def _entry_text(**changes):
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
        entries = _catalog_file.read(_entry_text(**changes), "test.yaml")
        monkeypatch.setattr(catalog, "entries", lambda: entries)
        return entries["made-up"]

    return made


@pytest.fixture
def entry_text():
    """Return the function that writes the YAML of one entry."""
    return _entry_text


@pytest.fixture
def nothing_but():
    """Return whether a folder, if it is there, holds these names alone."""

    def check(folder, *names):
        return sorted(p.name for p in folder.iterdir()) == sorted(names) if folder.exists() else not names

    return check
