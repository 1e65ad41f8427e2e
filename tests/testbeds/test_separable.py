"""The separable function has the attribution its formula says, and every exact method finds it."""

import math

import numpy as np
import pytest
import xarray as xr

from physml.fields import FieldSpec
from physml.provenance import parse_units
from physml.testbeds import separable


@pytest.fixture(scope="module")
def ds():
    """Return samples on the full grid."""
    return separable.simulate(600, seed=3)


@pytest.fixture(scope="module")
def small():
    """Return a few samples on cells of 30 degrees."""
    return separable.simulate(4, shape=(6, 12), seed=1)


def tensor(ds):
    """Return x as ``[sample, lat, lon, channel]``, zero on land, and the cells of the ocean."""
    return ds.x.fillna(0).values[..., None], np.argwhere(ds.ocean.values)


def test_the_grid_is_the_published_one_and_only_land_is_missing(ds):
    assert ds.x.shape == (600, 18, 36)
    assert int(ds.ocean.sum()) == 460
    assert (ds.x.notnull() == ds.ocean).all()
    assert float(ds.lat[0]) == -85 and float(ds.lon[0]) == 5


def test_cells_are_standard_normal_and_correlated_by_their_chord():
    x = separable.simulate(20_000, shape=(6, 12), seed=2).x
    flat = x.values[:, x.notnull().values[0]]
    found = flat.T @ flat / len(flat)
    lat, lon = (np.radians(a)[x.notnull().values[0]] for a in np.meshgrid(x.lat, x.lon, indexing="ij"))
    away = np.sin(np.subtract.outer(lat, lat) / 2) ** 2
    away += np.cos(lat)[:, None] * np.cos(lat) * np.sin(np.subtract.outer(lon, lon) / 2) ** 2
    # Entries of a sample covariance are off by at most sqrt(2 / n), here one percent: five of these.
    np.testing.assert_allclose(found, np.exp(-2 * np.sqrt(away) / 0.5), atol=0.05)


def test_the_attribution_adds_up_to_the_target_and_is_zero_at_zero(ds):
    truth = separable.truth(ds)
    np.testing.assert_allclose(truth.attribution.sum(["lat", "lon"]), ds.y, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(truth.attribution.notnull(), ds.x.notnull())
    none = separable.truth(ds.assign(x=xr.zeros_like(ds.x)))
    assert float(abs(none.attribution).max()) == 0


def test_contributions_are_the_integral_of_the_slopes(small):
    """A quadrature that steps onto every breakpoint is exact for the piecewise constant slope."""
    x, cells = tensor(small)
    c = separable.contributions(x, small)[..., 0]
    breaks = small.breakpoint.values
    for n, (j, i) in [(0, cells[0]), (1, cells[7]), (3, cells[-1])]:
        end = x[n, j, i, 0]
        knots = np.sort(np.clip([0.0, end, *breaks], min(0, end), max(0, end)))
        segment = np.searchsorted(breaks, 0.5 * (knots[1:] + knots[:-1]))
        integral = math.copysign(1, end) * (small.slope.values[segment, j, i] * np.diff(knots)).sum()
        assert c[n, j, i] == pytest.approx(integral / int(small.ocean.sum()), abs=1e-15)


def test_breakpoints_are_the_sextiles_of_the_normal_distribution(ds):
    share = [0.5 * (1 + math.erf(b / math.sqrt(2))) for b in ds.breakpoint.values]
    np.testing.assert_allclose(share, np.arange(1, 6) / 6, atol=1e-14)


def test_occlusion_of_the_function_is_the_truth(small):
    x, cells = tensor(small)
    f, truth = separable.function(small), separable.truth(small).attribution.values
    for j, i in cells:
        without = x.copy()
        without[:, j, i] = 0
        np.testing.assert_allclose((f(x) - f(without))[:, 0], truth[:, j, i], rtol=0, atol=1e-15)


def test_one_permutation_of_the_function_gives_its_shapley_values(small):
    """Every order gives the same for an additive function: cells join in a random order, and each brings its own."""
    x, cells = tensor(small)
    f, truth = separable.function(small), separable.truth(small).attribution.values
    state = np.zeros_like(x)
    before = f(state)
    for j, i in np.random.default_rng(0).permutation(cells):
        state[:, j, i] = x[:, j, i]
        after = f(state)
        np.testing.assert_allclose((after - before)[:, 0], truth[:, j, i], rtol=0, atol=1e-15)
        before = after


@pytest.mark.parametrize("n", [10, 100])
def test_integrated_gradients_of_the_function_near_the_truth_as_their_steps_resolve_the_breakpoints(small, n):
    """A step that holds a breakpoint errs by at most x/n times the jump of the slope; all others are exact."""
    x, _ = tensor(small)
    d, truth = int(small.ocean.sum()), separable.truth(small).attribution.values
    segment = [np.searchsorted(small.breakpoint.values, x[..., 0] * (k + 0.5) / n) for k in range(n)]
    slope = sum(np.take_along_axis(small.slope.values, s, axis=0) for s in segment) / (n * d)
    error = np.where(small.ocean, slope * x[..., 0] - truth, 0)
    jumps = abs(np.diff(small.slope.values, axis=0)).sum(0)
    assert (abs(error) <= 0.5 * jumps * abs(x[..., 0]) / (n * d) + 1e-15).all()
    assert abs(error).max() > 1e-3 / (n * d)


def test_the_function_of_tensors_is_that_of_arrays(small):
    from keras import ops

    x, _ = tensor(small)
    got = ops.convert_to_numpy(separable.function(small)(ops.convert_to_tensor(x, "float32")))
    np.testing.assert_allclose(got[:, 0], small.y, rtol=0, atol=1e-6)


def test_more_samples_begin_with_the_fewer_and_blocks_of_dask_hold_the_same_numbers(ds):
    few = separable.simulate(5, seed=3)
    xr.testing.assert_equal(few.drop_attrs(), ds.isel(sample=slice(5)).drop_attrs())
    lazy = separable.simulate(600, seed=3, chunk=70)
    assert lazy.x.chunks[0] == (*[70] * 8, 40) and lazy.y.chunks is not None
    assert separable.truth(lazy).attribution.chunks is not None
    xr.testing.assert_equal(lazy.compute().drop_attrs(), ds.drop_attrs())


def test_seeds_of_samples_and_of_the_function_are_apart(small):
    other = separable.simulate(4, shape=(6, 12), seed=2)
    np.testing.assert_array_equal(other.slope, small.slope)
    assert float(abs(other.x - small.x).max()) > 0.1
    bent = separable.simulate(4, shape=(6, 12), seed=1, slope_seed=1)
    np.testing.assert_array_equal(bent.x, small.x)
    assert float(abs(bent.slope - small.slope).max()) > 0.1


def test_it_fits_a_field_spec_and_everything_is_labelled(small):
    layout = FieldSpec("x", "x", sample_dim="sample", mask="ocean", area="cell_area").bind(small)
    assert layout.valid("inputs")[..., 0].sum() == int(small.ocean.sum())
    for name in ("x", "y", "slope", "breakpoint", "cell_area"):
        parse_units(small[name].attrs["units"])
        assert small[name].attrs["long_name"]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"n": 0}, "n is out of range. Expected: an integer >= 1. Received: 0. Remedy: pass n=100."),
        ({"seed": -1}, "seed is out of range"),
        ({"slope_seed": True}, "slope_seed is out of range"),
        ({"chunk": 0}, "chunk is out of range. Expected: an integer >= 1, or None"),
        ({"shape": (2, 12)}, "shape is out of range. Expected: two integers >= 4"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(wrong, text):
    with pytest.raises(ValueError, match=text):
        separable.simulate(**{"n": 3, **wrong})
