"""B from trajectories and from pairs of forecasts."""

import numpy as np
import pytest
import xarray as xr

from physml.assimilation import climatology_error, nmc_error


def test_the_climatology_error_is_the_sample_covariance():
    x = np.random.default_rng(0).normal(size=(30, 4, 2))
    B = climatology_error(x, scale=0.02)
    np.testing.assert_allclose(B.matrix, 0.02 * np.cov(x.reshape(30, 8).T), rtol=1e-12)


def test_channels_of_a_dataset_lie_side_by_side_and_land_is_left_out():
    rng = np.random.default_rng(1)
    u, v = rng.normal(size=(2, 12, 3))
    u[:, 1] = np.nan
    ds = xr.Dataset({"u": (("time", "x"), u), "v": (("x", "time"), v.T)})
    state = np.stack([u[:, [0, 2]], v[:, [0, 2]]], axis=-1).reshape(12, 4)
    np.testing.assert_allclose(climatology_error(ds).matrix, np.cov(state.T), rtol=1e-12)
    np.testing.assert_allclose(climatology_error(ds.v).matrix, np.cov(v.T), rtol=1e-12)


def test_the_nmc_method_finds_the_covariance_of_independent_errors_whatever_the_drift():
    rng = np.random.default_rng(2)
    root, truth = rng.normal(size=(3, 3)), rng.normal(size=(20000, 3))
    late, early = (truth + rng.normal(size=(20000, 3)) @ root + drift for drift in (0.7, 0.0))
    # Relative sampling error of a covariance from 20000 pairs: 0.01.
    np.testing.assert_allclose(nmc_error(late, early).matrix, root.T @ root, atol=0.05 * np.abs(root.T @ root).max())


def test_states_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="too few states"):
        climatology_error([[1.0, 2.0]])
    with pytest.raises(ValueError, match="states are missing"):
        climatology_error([[1.0, np.nan], [0.0, 1.0]])
    with pytest.raises(ValueError, match="other shapes"):
        nmc_error(np.zeros((3, 2)), np.zeros((4, 2)))
    a = xr.DataArray(np.zeros((3, 2)), dims=("time", "x"), coords={"time": [0, 1, 2]})
    with pytest.raises(ValueError, match="verify at other times"):
        nmc_error(a, a.assign_coords(time=[1, 2, 3]))
    with pytest.raises(ValueError, match="no 'time'"):
        climatology_error(a.isel(time=0, drop=True))
