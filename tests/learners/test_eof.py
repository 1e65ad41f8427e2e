"""EOFs are the singular vectors of the weighted departures, labelled; all of them together are the field."""

import numpy as np
import pytest
import xarray as xr

from physml.learners import EOF
from physml.learners._patterns import patterns


def weighted(ocean):
    t = ocean.t.stack(cell=("lat", "lon")).dropna("cell")
    area = ocean.area.stack(cell=("lat", "lon")).sel(cell=t.cell)
    return (t - t.mean("time")).values * np.sqrt(area.values), np.sqrt(area.values)


def test_patterns_components_and_variance_are_those_of_the_singular_value_decomposition(ocean):
    x, root = weighted(ocean)
    u, s, v = np.linalg.svd(x, full_matrices=False)
    eof = EOF(3, weights=ocean.area).fit(ocean.t)
    np.testing.assert_allclose(eof.explained, s[:3] ** 2 / (s**2).sum(), rtol=1e-10)
    pattern = eof.patterns.stack(cell=("lat", "lon")).dropna("cell").values
    sign = np.sign((v[:3] * pattern).sum(1))
    np.testing.assert_allclose(pattern, sign[:, None] * v[:3] * s[:3, None] / np.sqrt(72) / root, atol=1e-9)
    pcs = eof.project(ocean.t)
    np.testing.assert_allclose(pcs.values, u[:, :3] * np.sqrt(72) * sign, atol=1e-9)
    assert pcs.dims == ("time", "mode")
    assert eof.patterns.attrs["units"] == "degC"
    assert bool(eof.patterns.isel(lat=1, lon=1).isnull().all())


def test_all_patterns_together_are_the_field(ocean):
    eof = EOF(18, weights=ocean.area).fit(ocean.t)
    again = eof.reconstruct(eof.project(ocean.t))
    xr.testing.assert_allclose(again, ocean.t, atol=1e-9)
    assert again.attrs == ocean.t.attrs
    assert float(eof.explained.sum()) == pytest.approx(1, abs=1e-12)


def test_projections_and_reconstructions_stay_lazy(ocean, nothing_computed):
    eof = EOF(4).fit(ocean.t.chunk(time=11))
    xr.testing.assert_identical(eof.patterns, EOF(4).fit(ocean.t).patterns)
    with nothing_computed():
        pcs = eof.project(ocean.t.chunk(time=10))
        again = eof.reconstruct(pcs)
    xr.testing.assert_allclose(again.compute(), eof.reconstruct(eof.project(ocean.t)))


def test_patterns_of_more_data_than_memory_are_those_of_all_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 8)) @ np.diag(2.0 ** -np.arange(8)) @ rng.normal(size=(8, 200))
    rows = lambda: iter(np.split(x, 4))  # noqa: E731
    exact, random = (patterns(rows, 60, 200, 3, memory, seed=0) for memory in (2**30, 0))
    np.testing.assert_allclose(random[0], exact[0], atol=1e-9)
    np.testing.assert_allclose(random[1:][0], exact[1], rtol=1e-10)
    assert random[2] == pytest.approx(exact[2], rel=1e-12)


def test_fields_with_gaps_and_too_many_patterns_are_refused(ocean):
    gap = ocean.t.copy()
    gap[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 cells that are missing now and then"):
        EOF(2).fit(gap)
    with pytest.raises(ValueError, match=r"20 patterns are too many. Expected: at most 18"):
        EOF(20).fit(ocean.t)
    with pytest.raises(ValueError, match="no dimension 'month'"):
        EOF(2, dim="month").fit(ocean.t)
    with pytest.raises(ValueError, match="n is no number of patterns"):
        EOF(0)
    with pytest.raises(ValueError, match=r"the weights lie along \['time'\]"):
        EOF(2, weights=ocean.index).fit(ocean.t)
