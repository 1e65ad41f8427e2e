import numpy as np
import pytest
import xarray as xr

from physml.fields import FieldSpec


@pytest.fixture
def ds():
    """Two years of months on a small grid with an island, three inputs, missing on land."""
    rng = np.random.default_rng(0)
    lat, lon = np.array([-45.0, -15.0, 15.0, 45.0]), np.arange(0.0, 360, 60)
    wet = np.ones((4, 6), bool)
    wet[1, 2:4] = False
    ds = xr.Dataset(
        {n: (("time", "lat", "lon"), rng.normal(size=(24, 4, 6)).astype("float32")) for n in ("tracer", "u", "v")},
        {
            "time": xr.date_range("2000-01-01", periods=24, freq="MS"),
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"}),
        },
        {"title": "synthetic"},
    )
    ds["wet"] = (("lat", "lon"), wet)
    ds["cell_area"] = ds.wet * np.cos(np.deg2rad(ds.lat))
    for name, units in (("tracer", "kg m-3"), ("u", "m s-1"), ("v", "m s-1")):
        ds[name] = ds[name].where(ds.wet).assign_attrs(units=units)
    return ds


@pytest.fixture
def layout(ds):
    return FieldSpec(["tracer", "u", "v"], "tracer", target_offsets=1, mask="wet", area="cell_area").bind(ds)
