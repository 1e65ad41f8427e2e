"""Baselines and ridge on observed sea surface temperature give the numbers that plain NumPy gave for them."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec
from physml.learners import Climatology, DampedPersistence, Persistence, Ridge

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "ersst_v3b_1960-2009.nc"
LEADS = (1, 3, 6, 12)
REFERENCE = {
    "Climatology": (0.885, 0.888, 0.896, 0.911),
    "Persistence": (0.253, 0.621, 0.984, 1.293),
    "DampedPersistence": (0.252, 0.587, 0.830, 0.915),
    "Ridge": (0.270, 0.511, 0.731, 0.843),
}


@pytest.fixture(scope="module")
def pacific():
    if not DATA.exists():
        pytest.skip(f"needs {DATA.name} (NOAA ERSST v3b) in ../shared/data")
    with xr.open_dataset(DATA) as file:
        sst = file.sst.sel(lat=slice(-40, 60)).load()
    weight = np.cos(np.deg2rad(sst.lat))
    nino = sst.sel(lat=slice(-5, 5), lon=slice(190, 240)).weighted(weight).mean(("lat", "lon"))
    ds = xr.Dataset({"sst": sst, "nino": nino.assign_attrs(units="degC"), "wet": sst.notnull().all("time")})
    ds["area"] = (weight * ds.wet).transpose("lat", "lon")
    return ds.sel(time=slice("1960", "1995")), ds.sel(time=slice("1996", "2009"))


def rmse(learner, train, test):
    """Return the error of Niño 3.4 by lead; every forecast that starts and ends in the test years counts."""
    lead = learner.spec.target_offsets[0]
    out = learner.fit(train).predict(test)
    return float(np.sqrt(np.square(out.nino[: test.sizes["time"] - lead] - test.nino).mean()))


@pytest.mark.parametrize("name", ["Climatology", "Persistence", "DampedPersistence"])
def test_baselines_of_nino_34(pacific, name):
    make = {"Climatology": Climatology, "Persistence": Persistence, "DampedPersistence": DampedPersistence}[name]
    train, test = (part[["nino"]] for part in pacific)
    found = [rmse(make(FieldSpec("nino", "nino", target_offsets=n)), train, test) for n in LEADS]
    np.testing.assert_allclose(found, REFERENCE[name], atol=6e-4)


@pytest.mark.long
def test_ridge_on_patterns_of_nino_34(pacific):
    found = []
    for n in LEADS:
        spec = FieldSpec(["sst", "nino"], "nino", target_offsets=n, mask="wet", area="area")
        found.append(rmse(Ridge(spec, 100, eofs=30, by="month", harmonics=1), *pacific))
    # The set-up behind the reference is known but for details: a thousandth or two of a degree.
    np.testing.assert_allclose(found, REFERENCE["Ridge"], atol=2e-3)
