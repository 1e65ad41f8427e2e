import numpy as np
import pytest
import scipy.sparse
import xarray as xr
from keras import ops

from physml import _backend
from physml.assimilation import (
    CallableObservations,
    ColumnObservations,
    GridObservations,
    JointObservations,
    LinearObservations,
    PointObservations,
    superob,
)
from physml.assimilation.vector import state_vector

TIMES = np.array([1.0, 2.0, 3.0])


@pytest.fixture(scope="module")
def ocean():
    """Two variables on 3 levels of a 4 x 6 grid with land that differs by level, and a state vector of them."""
    rng = np.random.default_rng(4)
    lat, lon, depth = np.linspace(-3, 3, 4), np.arange(0.0, 360, 60), np.array([5.0, 50, 200])
    wet = np.ones((3, 4, 6), bool)
    wet[:, 1, 2] = False
    wet[2, 3] = False
    dims, coords = ("depth", "lat", "lon"), {"depth": depth, "lat": lat, "lon": lon}
    fields = [
        xr.DataArray(rng.normal(size=wet.shape), coords, dims, n, {"units": u}) for n, u in (("t", "K"), ("s", "1"))
    ]
    vector = state_vector(fields, dims, wet, True)
    state = np.stack([np.where(wet, f.values, 0) for f in fields], axis=-1)
    return vector, fields, state


@pytest.fixture(scope="module")
def ring():
    """A state of ten sites on a ring, and its vector."""
    field = xr.DataArray(np.random.default_rng(5).normal(size=10), {"site": np.arange(10)}, ("site",), "x")
    return state_vector([field], ("site",), np.ones(10, bool), {"site": 10}), field.values


def seen(vector, rows, state):
    """Return H x by time, of a state ``[*space, channel]``; NaN where nothing is observed."""
    with _backend.float64():
        x = ops.convert_to_tensor(vector.vector(state)[None])
        h = rows.observe(vector)
        every = [
            h(x, type(at)(*[None if a is None else ops.convert_to_tensor(a) for a in at]))
            for at in (rows.seen(t, t + 1).at(0) for t in range(len(rows.values)))
        ]
        return np.where(np.isfinite(rows.values), [ops.convert_to_numpy(y)[0] for y in every], np.nan)


def test_a_state_goes_to_a_vector_of_wet_cells_and_back(ocean):
    vector, _, state = ocean
    x = vector.vector(state)
    assert x.shape == (vector.size,) == (2 * vector.wet.sum(),)
    assert x[3] == state[0, 0, 1, 1] and vector.element(1, 1) == 3
    np.testing.assert_array_equal(vector.fields(x), state)
    with _backend.float64():
        batch = ops.convert_to_tensor(np.stack([state, 2 * state]))
        both = vector.vector(batch)
        np.testing.assert_array_equal(ops.convert_to_numpy(both), [x, 2 * x])
        np.testing.assert_array_equal(ops.convert_to_numpy(vector.fields(both)), ops.convert_to_numpy(batch))


def test_distances_go_round_the_sphere_and_round_the_ring(ocean, ring):
    vector, _, _ = ocean
    where = vector.geometry.positions
    assert where.shape == (vector.size, 3)
    radius = np.linalg.norm(where, axis=1)
    assert np.allclose(radius, 6371229.0, rtol=1e-12)
    # Two variables and all levels lie at one place; 60 degrees of the equator are a chord of one radius.
    assert np.array_equal(where[0], where[1])
    a, b = vector.on_sphere([0.0, 0.0], [0.0, 60.0])
    assert np.linalg.norm(a - b) == pytest.approx(6371229.0)
    geometry = ring[0].geometry
    with _backend.float64():
        p = ops.convert_to_tensor(geometry.positions)
        d = ops.convert_to_numpy(geometry.distance(p, p))
    assert d[0, 9] == 1 and d[0, 5] == 5 and d[2, 9] == 3 and d.max() == 5


def test_gridded_observations_with_gaps_are_packed_to_the_fullest_time(ring):
    vector, x = ring
    values = np.full((3, 5), np.nan)
    values[0, [1, 4]], values[2, :] = [10.0, 11.0], np.arange(5.0)
    # Every other site, times out of order.
    field = xr.DataArray(values, {"time": [3.0, 2.0, 1.0], "site": np.arange(0, 10, 2)}, ("time", "site"), "x")
    observations = GridObservations(field, xr.DataArray(np.arange(1.0, 6), {"site": field.site}, ("site",)))
    rows = observations.rows(vector, TIMES)
    assert rows.values.shape == (3, 5) and np.isfinite(rows.values).sum(axis=1).tolist() == [5, 0, 2]
    assert rows.values[2, :2].tolist() == [10, 11] and rows.error_std[2, :2].tolist() == [2, 5]
    np.testing.assert_array_equal(seen(vector, rows, x[:, None])[0], x[::2])
    np.testing.assert_array_equal(seen(vector, rows, x[:, None])[2, :2], x[[2, 8]])
    assert rows.positions[2, :2, 0].tolist() == [2, 8] and sorted(observations.when()) == [1, 3]
    assert observations.rows(vector, TIMES[1:]).unused == 5


def test_land_is_dropped_and_counted_or_refused(ocean):
    vector, fields, state = ocean
    observations = GridObservations(fields[1].expand_dims(time=[1.0]), 0.1)
    rows = observations.rows(vector, TIMES[:1])
    assert rows.dropped == (~vector.wet).sum() and np.isfinite(rows.values).sum() == vector.wet.sum()
    there = np.isfinite(rows.values[0])
    np.testing.assert_array_equal(seen(vector, rows, state)[0, there], fields[1].values[vector.wet])
    with pytest.raises(ValueError, match="9 of 72 observations lie on land"):
        observations.rows(vector, TIMES[:1], outside="error")


def test_a_matrix_a_sparse_matrix_and_a_linear_function_are_one_operator(ocean):
    vector, _, state = ocean
    rng = np.random.default_rng(6)
    h = {
        n: rng.normal(size=(4, vector.wet.size)) * vector.wet.ravel() * (rng.random((4, 72)) < 0.3) for n in ("t", "s")
    }
    values = rng.normal(size=(3, 4))
    values[1, 2] = np.nan
    expected = np.where(np.isfinite(values), sum(h[n] @ state[..., k].ravel() for k, n in enumerate("ts")), np.nan)
    dense = LinearObservations(h, values, 0.3, time=TIMES)
    sparse = LinearObservations({n: scipy.sparse.coo_array(m) for n, m in h.items()}, values, 0.3, time=TIMES)

    def operator(x):
        flat = ops.reshape(x, (-1, 72, 2))
        return sum(ops.matmul(flat[..., k], h[n].T) for k, n in enumerate("ts"))

    function = CallableObservations(operator, values, 0.3, time=TIMES)
    for observations in (dense, sparse, function):
        rows = observations.rows(vector, TIMES)
        np.testing.assert_allclose(seen(vector, rows, state), expected, rtol=0, atol=1e-12)
    assert dense.rows(vector, TIMES).variables == ("t, s",) * 4
    one = LinearObservations(h["s"], values, 0.3, time=TIMES, variable="s").rows(vector, TIMES)
    np.testing.assert_allclose(seen(vector, one, state)[0], h["s"] @ state[..., 1].ravel(), rtol=0, atol=1e-12)


def test_columns_are_weighted_sums_over_levels(ocean):
    vector, _, state = ocean
    points = PointObservations([[1.0, 2.0, 3.0]], [-3.0, 0.5, 3.0], [0.0, 200.0, 90.0], [1.0], 0.1, "K", "t")
    w = np.array([[0.2, 0.3, 0.5], [1.0, -1.0, 0.0], [0.5, 0.5, 0.0]])
    rows = ColumnObservations(points, "depth", weights=w).rows(vector, TIMES[:1])
    got = seen(vector, rows, state)[0]
    assert got[0] == pytest.approx(w[0] @ state[:, 0, 0, 0], abs=1e-13)
    # The southern row is a quarter, the northern three quarters away from 0.5; 200 E lies at a third of 180 to 240.
    corner = np.einsum("j,i,kji->k", [1 / 4, 3 / 4], [2 / 3, 1 / 3], state[:, 1:3, 3:5, 0])
    assert got[1] == pytest.approx(w[1] @ corner, abs=1e-13)
    at = ColumnObservations(points, "depth", at=[5.0, 20.0, 125.0]).rows(vector, TIMES[:1])
    got = seen(vector, at, state)[0]
    assert got[0] == pytest.approx(state[0, 0, 0, 0], abs=1e-13)
    assert got[1] == pytest.approx((2 * corner[0] + corner[1]) / 3, abs=1e-13)
    # The sea is not as deep there: dropped.
    assert np.isnan(got[2]) and at.dropped == 1


def test_points_need_levels_and_a_period(ocean, ring):
    points = PointObservations([1.0], [0.0], [0.0], 1.0, 0.1, variable="t")
    with pytest.raises(ValueError, match="more than two dimensions"):
        points.rows(ocean[0], TIMES)
    with pytest.raises(ValueError, match="the grid is not regular"):
        PointObservations([1.0], [0.0], [0.0], 1.0, 0.1).rows(ring[0], TIMES)
    flat = xr.DataArray(np.zeros((2, 3)), {"lat": [0.0, 1], "lon": [0.0, 1, 2]}, ("lat", "lon"), "t")
    with pytest.raises(ValueError, match="the first and the last longitude are neighbours"):
        points.rows(state_vector([flat], ("lat", "lon"), np.ones((2, 3), bool)), TIMES)


def test_joint_observations_stand_side_by_side(ocean):
    vector, fields, state = ocean
    gridded = GridObservations(fields[0].isel(depth=[0]).expand_dims(time=[2.0]), 0.1)
    linear = LinearObservations(scipy.sparse.eye_array(3, 72), np.ones((3, 3)), 0.3, time=TIMES, variable="s")
    square = CallableObservations(lambda x: x[:, 0, 0, :2, 0] ** 2, [[4.0, 5.0]], 0.2, time=[3.0], variable="square")
    parts = [gridded, square, linear]
    joint = JointObservations(parts)
    rows, alone = joint.rows(vector, TIMES), [p.rows(vector, TIMES) for p in parts]
    together = np.concatenate([seen(vector, r, state) for r in alone], axis=1)
    np.testing.assert_array_equal(seen(vector, rows, state), together)
    assert np.isfinite(together).sum(axis=1).tolist() == [3, 23 + 3, 2 + 3]
    assert rows.variables[-4:] == ("square", "s", "s", "s") and rows.positions is None
    assert np.unique(joint.when()).tolist() == [1, 2, 3]
    assert JointObservations([gridded, linear]).rows(vector, TIMES).positions.shape == (3, 27, 3)


def test_two_duplicates_are_one_observation_of_half_the_variance():
    obs = PointObservations(
        [1.0, 3.0, 5.0, np.nan, 7.0, 8.0],
        [0.2, -0.2, 0.1, 0.0, 0.0, 70.0],
        [359.0, 1.0, 0.0, 0.0, 1.0, 0.0],
        [1, 1, 1, 1, 2, 2],
        [1.0, 1.0, 0.5, 1.0, 1.0, 1.0],
        "K",
        "t",
    )
    grid = ([-1.0, 0.0, 1.0], [0.0, 10.0, 350.0])
    mean, count = superob(obs, grid)
    assert count.tolist() == [3, 1, 1] and mean.units == "K"
    # By time; what lies in no cell comes first.
    assert mean.values.tolist() == pytest.approx([4.0, 8.0, 7.0]) and mean.time.tolist() == [1, 2, 2]
    assert mean.error_std[0] == pytest.approx(6**-0.5) and mean.latitude[0] == pytest.approx(0.4 / 6)
    assert np.cos(np.deg2rad(mean.longitude[0])) == pytest.approx(1)
    pair = obs.take(np.array([[0, 1]]))
    assert superob(pair, grid)[0].error_std ** 2 == pytest.approx(0.5)
    assert superob(pair, grid, correlation=1.0)[0].error_std ** 2 == pytest.approx(1.0)
    assert superob(pair, grid, correlation=0.5)[0].error_std ** 2 == pytest.approx(0.75)
    with pytest.raises(ValueError, match="out of range"):
        superob(obs, grid, correlation=2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: GridObservations(f, 0.0), "GridObservations: error_std is not positive"),
        (lambda f: GridObservations(f), "the observations have no error"),
        (lambda f: GridObservations(f.values, 1.0), "the values have no labels"),
        (lambda f: GridObservations(f / 0, 1.0), "infinite"),
        (lambda f: GridObservations(f.assign_attrs(units="Pa"), 1.0), "units of the observations and of 't' differ"),
        (lambda f: GridObservations(f, 1.0, variable="tt"), "not known; did you mean 't'"),
        (lambda f: GridObservations(f.rename(lat="y"), 1.0), "not on the grid of the state"),
        (lambda f: GridObservations(f.assign_coords(lon=f.lon + 1), 1.0), "'lon' holds cells that the state does not"),
        (lambda f: GridObservations(f.isel(time=0, drop=True), 1.0), "have no time"),
        (lambda f: LinearObservations(np.eye(72), np.ones((3, 72)), 0.0, TIMES, variable="t"), "not positive"),
        (lambda f: LinearObservations(np.eye(3), np.ones((3, 3)), 1.0, TIMES, variable="t"), "does not fit"),
        (lambda f: LinearObservations(np.eye(72), np.ones((2, 72)), 1.0, TIMES), "values and time do not fit"),
        (lambda f: LinearObservations(np.eye(72), np.ones((3, 72)), 1.0, TIMES), "one of t, s"),
        (lambda f: CallableObservations("f", np.ones((3, 2)), 1.0, TIMES), "cannot be called"),
        (
            lambda f: CallableObservations(lambda x: x, np.ones((3, 2)), 1.0, TIMES, {"site": [1, 2]}),
            "positions of observations do not fit the state",
        ),
        (lambda f: LinearObservations(np.eye(72), np.ones((2, 72)), 1.0, [1.0, 1.0], variable="t"), "two rows"),
        (lambda f: JointObservations([f]), "a part is no observation"),
        (lambda f: JointObservations([]), "there are no parts"),
    ],
)
def test_observations_that_do_not_fit_are_refused(ocean, make, message):
    vector, fields, _ = ocean
    field = fields[0].expand_dims(time=TIMES)
    with pytest.raises(ValueError, match=message):
        make(field).rows(vector, TIMES)


def test_columns_that_do_not_fit_are_refused(ocean):
    points = PointObservations([1.0, 2.0], [0.0, 0.0], [0.0, 0.0], 1.0, 0.1, variable="t")
    for weights, at, message in (
        (None, None, "Received: neither"),
        ([1.0], [2.0], "Received: both"),
        (np.ones((5, 3)), None, "weights do not fit"),
        (None, np.ones(5), "at does not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            ColumnObservations(points, "depth", weights, at)
    with pytest.raises(ValueError, match="do not fit the levels of 'depth'"):
        ColumnObservations(points, "depth", [1.0, 2.0]).rows(ocean[0], TIMES)
    with pytest.raises(ValueError, match="'level' is not the vertical dimension"):
        ColumnObservations(points, "level", [1.0, 2.0, 3.0]).rows(ocean[0], TIMES)
