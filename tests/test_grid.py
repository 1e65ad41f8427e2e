"""Areas add up to the sphere, axes are found by their metadata, masks are what never goes missing."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from physml import grid
from physml.provenance import digest, record, same_units, stamp, units_ratio

SPHERE = 4 * np.pi * grid.EARTH_RADIUS**2


def world(n_lat, n_lon, names=("lat", "lon"), flip=False):
    lat = (np.arange(n_lat) + 0.5) * 180 / n_lat - 90
    lon = np.arange(n_lon) * 360 / n_lon
    return xr.Dataset(coords={names[0]: lat[::-1] if flip else lat, names[1]: lon})


@settings(max_examples=25)
@given(n_lat=st.integers(2, 40), n_lon=st.integers(2, 40), flip=st.booleans())
def test_a_global_grid_covers_the_sphere(n_lat, n_lon, flip):
    area = grid.cell_area(world(n_lat, n_lon, flip=flip))
    assert (area > 0).all()
    assert float(area.sum()) == pytest.approx(SPHERE, rel=1e-12)


def test_a_cell_has_the_area_of_the_formula():
    area = grid.cell_area(world(180, 360))
    edges = np.deg2rad([30.0, 31.0])
    expected = grid.EARTH_RADIUS**2 * np.deg2rad(1) * np.diff(np.sin(edges))[0]
    assert float(area.sel(lat=30.5, lon=7)) == pytest.approx(expected, rel=1e-12)
    assert area.attrs["units"] == "m2"


def test_axes_are_found_by_metadata_or_by_name():
    ds = world(4, 5, ("y", "x"))
    with pytest.raises(ValueError, match=r"no latitude.*standard_name.*attrs\['standard_name'\] = 'latitude'"):
        grid.latitude_longitude(ds)
    ds.y.attrs["units"], ds.x.attrs["standard_name"] = "degrees_north", "longitude"
    lat, lon = grid.latitude_longitude(ds)
    assert (lat.name, lon.name) == ("y", "x")
    assert [c.name for c in grid.latitude_longitude(world(4, 5, ("nav_lat", "longitude")))] == ["nav_lat", "longitude"]


@pytest.mark.parametrize("shape", [(1, 4), (4, 1)])
def test_areas_of_other_grids_are_refused(shape):
    with pytest.raises(ValueError, match=r"cell areas need a regular grid.*area='cell_area'"):
        grid.cell_area(world(*shape))


def test_areas_of_curvilinear_grids_are_refused():
    lat, lon = np.meshgrid(np.arange(3.0), np.arange(4.0), indexing="ij")
    with pytest.raises(ValueError, match=r"two or more points. Received: latitude \(3, 4\)"):
        grid.cell_area(xr.Dataset(coords={"lat": (("y", "x"), lat), "lon": (("y", "x"), lon)}))


def test_a_mask_is_lazy_and_keeps_the_other_dimensions(sst, nothing_computed):
    with nothing_computed():
        mask = grid.finite_mask(sst.temp.chunk(time=5))
    assert mask.dims == ("depth", "lat", "lon")
    np.testing.assert_array_equal(mask.isel(depth=0), sst.wet)
    once = sst.salt.copy()
    once[3, 0, 0] = np.nan
    assert not grid.finite_mask(once)[0, 0]


def test_a_missing_variable_is_named_with_its_neighbour(sst):
    with pytest.raises(KeyError, match=r"input 'tempp' is not in the Dataset; did you mean 'temp'\?.*Received: area"):
        grid.variable(sst, "tempp", "input")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("m/s", "m s-1", True),
        ("hPa", "mbar", True),
        ("degC", "celsius", True),
        ("kg m-3", "g L-1", True),
        ("degC s-1", "K s-1", True),
        ("degC", "K", False),
        ("%", "1", False),
        ("g kg-1", "1", False),
        ("m", "s", False),
    ],
)
def test_units_are_compared_by_meaning(a, b, same):
    assert same_units(a, b) is same
    assert same_units(b, a) is same


def test_units_that_cannot_be_read_are_named():
    with pytest.raises(ValueError, match=r"units 'degC of the sea' cannot be read.*correct attrs\['units'\]"):
        same_units("degC of the sea", "m")


@pytest.mark.parametrize(
    ("a", "b", "factor"), [("K d-1", "degC", 1 / 86400), ("g m-3 s-1", "kg m-3", 1e-3), ("degC s-1", "degC", 1)]
)
def test_rates_are_measured_in_changes(a, b, factor):
    assert units_ratio(a, b).to("1/s").magnitude == pytest.approx(factor, rel=1e-12)


def test_history_is_continued_and_provenance_is_written():
    ds = stamp(xr.Dataset(attrs={"history": "yesterday", "title": "t"}), "predict", {"model_created": "now"})
    assert ds.attrs["history"].splitlines()[0] == "yesterday"
    assert ds.attrs["history"].endswith(": predict")
    assert ds.attrs["title"] == "t"
    assert ds.attrs["Conventions"].startswith("CF-")
    assert ds.attrs["physml_model_created"] == "now"
    assert record({"a": 1}, source="x")["config_sha256"] == digest({"a": 1})
