import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from physml.assimilation import PointObservations, bilinear, observe, random_positions

LAT, LON = np.linspace(-60, 60, 13), np.arange(0.0, 360.0, 20)
PLAIN = settings(max_examples=25, deadline=None, derandomize=True)


def interpolate(operator, field):
    return (np.ravel(field)[operator.index] * operator.weights).sum(-1)


@PLAIN
@given(
    st.floats(-59.9, 59.9),
    st.floats(0.01, 339.9),
    st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3)),
    st.booleans(),
    st.booleans(),
)
def test_a_plane_is_reproduced_exactly_on_ascending_and_descending_grids(lat, lon, plane, down, left):
    a, b, c = plane
    y, x = LAT[::-1] if down else LAT, LON[::-1] if left else LON
    operator = bilinear(y, x, None, [lat], [lon], periodic=False)
    field = a + b * y[:, None] + c * x[None, :]
    assert interpolate(operator, field)[0] == pytest.approx(a + b * lat + c * lon, abs=1e-9)


@PLAIN
@given(st.floats(-89, 89), st.floats(-720, 720), st.integers(0, 2**32 - 1))
def test_land_is_never_used_and_weights_sum_to_one_or_are_all_zero(lat, lon, seed):
    mask = np.random.default_rng(seed).random((13, 18)) < 0.4
    operator = bilinear(LAT, LON, mask, [lat], [lon], periodic=True)
    total = operator.weights.sum()
    assert total == 0 or total == pytest.approx(1, abs=1e-14)
    assert (operator.weights >= 0).all()
    assert not operator.weights[0][~mask.ravel()[operator.index[0]]].any()
    assert operator.valid[0] == (total > 0)


def test_longitudes_count_from_minus_180_or_from_0_and_the_seam_is_crossed():
    field = np.cos(np.deg2rad(LON))[None, :] * np.ones((13, 1))
    points = np.array([-1.0, 359.0, 719.0, -361.0])
    operator = bilinear(LAT, LON, None, np.zeros(4), points, periodic=True)
    values = interpolate(operator, field)
    assert np.ptp(values) < 1e-12
    assert values[0] == pytest.approx(0.95 * 1 + 0.05 * np.cos(np.deg2rad(20)))
    half = bilinear(LAT, LON - 180, None, np.zeros(4), points, periodic=True)
    assert np.allclose(interpolate(half, np.roll(field, 9, axis=1)), values, atol=1e-12)


def test_without_period_the_seam_is_open_and_the_outer_half_cell_belongs_to_the_edge():
    operator = bilinear(LAT, LON, None, [0, 0, 0, 64.9, 65.1], [345.0, 349.9, -9.9, 0, 0], periodic=False)
    assert operator.valid.tolist() == [True, True, True, True, False]
    assert interpolate(operator, LON * np.ones((13, 1)))[:3].tolist() == [340, 340, 0]
    regional = bilinear([0, 1, 2], [10, 11, 12], None, [1, 1, 1], [12.4, 12.6, 300], periodic=False)
    assert regional.valid.tolist() == [True, False, False]


def test_the_weight_of_land_goes_to_the_wet_corners():
    mask = np.array([[True, False], [True, False]])
    operator = bilinear([0, 1], [0, 1], mask, [0.25, 0.0], [0.9, 1.0], periodic=False)
    assert np.allclose(operator.weights[0], [0.75, 0, 0.25, 0])
    assert operator.valid.tolist() == [True, False]


def test_ragged_observations_are_padded_to_rows_of_fixed_width():
    days = np.array(["2000-01-01", "2000-01-03", "2000-01-03", "2000-02-01"], "M8[ns]")
    obs = PointObservations([1, 2, 3, 4], [0, 1, 2, 3], [5, 6, 7, 8], days, 0.5, "K", "sst")
    rows = obs.at(days[[1, 0]], "1D")
    assert rows.values.shape == (2, 2)
    assert np.array_equal(rows.values, [[2, 3], [1, np.nan]], equal_nan=True)
    assert rows.count == 3 and rows.units == "K" and rows.variable == "sst"
    assert np.array_equal(obs.nearest(days[[0, 3]], "40D"), [0, 0, 0, 1])
    assert obs.at(days[:1] + np.timedelta64(99, "D")).values.shape == (1, 1)
    empty = PointObservations(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, "M8[ns]"))
    assert empty.at(days).count == 0


def test_a_dataset_of_profiles_is_read_by_its_metadata_or_usual_names():
    ds = xr.Dataset(
        {
            "temp": (("time", "station"), [[1.0, np.nan], [3.0, 4.0]], {"units": "degC"}),
            "y": ("station", [10.0, 20.0], {"standard_name": "latitude", "units": "degrees_north"}),
            "x": ("station", [30.0, 40.0], {"standard_name": "longitude", "units": "degrees_east"}),
            "err": ("station", [0.1, 0.2]),
        },
        {"time": ("time", np.array(["2000-01-01", "2000-01-02"], "M8[ns]"))},
    )
    obs = PointObservations.from_dataset(ds.transpose(), "temp", error_std="err")
    assert obs.dims == ("time", "station") and obs.units == "degC" and obs.count == 3
    assert obs.latitude[1].tolist() == [10, 20] and obs.error_std[0].tolist() == [0.1, 0.2]
    again = PointObservations.from_dataset(obs.to_dataset(), "temp", error_std="temp_error")
    for name in ("values", "latitude", "longitude", "time", "error_std"):
        np.testing.assert_array_equal(getattr(again, name), getattr(obs, name))
    table = xr.Dataset({n: ("p", [1.0, 2.0]) for n in ("sst", "lat", "lon")})
    assert PointObservations.from_dataset(table, "sst").time is None


def test_sampling_a_dataset_is_lazy_and_gives_h_x(field, no_compute, rng):
    lat, lon = random_positions(field.lat, field.lon, field.wet, (3, 20), rng)
    eager = observe(field, "sst", lat, lon, periodic=False, mask="wet")
    assert eager.dims == ("time", "obs") and eager.notnull().all() and eager.attrs["units"] == "degC"
    with no_compute():
        lazy = observe(field.chunk(time=1, lat=5), "sst", lat, lon, periodic=False, mask=field.wet)
    xr.testing.assert_allclose(lazy.compute(), eager, rtol=1e-15)
    fixed = observe(field, "sst", lat[0], lon[0], periodic=False, mask=field.wet)
    assert np.array_equal(fixed[0], eager[0])
    at_cells = observe(field, "sst", [0.0, -10.0], [0.0, 24.0], periodic=False, mask="wet")
    assert np.allclose(at_cells, field.sst.sel(lat=[0, -10]).values[..., [0, 1], [0, -1]])


def test_random_positions_lie_beside_wet_cells_and_fill_them_by_area(field):
    lat, lon = random_positions(field.lat, field.lon, field.wet, 4000, np.random.default_rng(1))
    assert bilinear(field.lat, field.lon, field.wet, lat, lon, periodic=False, outside="error").valid.all()
    globe = np.linspace(-88, 88, 45)
    lat, _ = random_positions(globe, LON, None, 20_000, np.random.default_rng(2))
    assert np.mean(np.abs(lat) < 30) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": np.zeros((1, 2, 3))}, "wrong shape. Expected: values .obs. or .time, obs."),
        ({"latitude": [0, 95]}, "beyond the poles. Expected: -90 to 90 degrees. Received: 95"),
        ({"values": [1, np.inf]}, "infinite. Expected: finite values, NaN where missing"),
        ({"error_std": 0.0}, "error_std is not positive. Expected: > 0. Received: 0"),
        ({"longitude": [1, 2, 3]}, "longitude does not fit the observations"),
        ({"time": np.zeros(3, "M8[ns]")}, "time does not fit the observations"),
    ],
)
def test_observations_that_make_no_sense_are_refused(arguments, message):
    good = {"values": [1.0, 2.0], "latitude": [0, 1], "longitude": [0, 1]}
    with pytest.raises(ValueError, match=message):
        PointObservations(**{**good, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"periodic": True, "grid_longitude": [0, 20, 40]}, "not periodic. Expected: a gap of one cell"),
        ({"periodic": True, "grid_longitude": np.arange(0, 361, 20)}, "drop a repeated column"),
        ({"grid_latitude": [0, 2, 1]}, "grid latitude is not regular"),
        ({"grid_latitude": np.zeros((2, 2))}, "grid latitude is not regular"),
        ({"mask": np.ones((3, 3))}, r"mask does not fit the grid. Expected: \(13, 18\)"),
        ({"outside": "error", "latitude": [89.0]}, "1 of 1 observations lie on land or outside the grid"),
        ({"outside": "stop"}, "outside is unknown. Expected: 'drop' or 'error'"),
    ],
)
def test_grids_and_positions_that_do_not_fit_are_refused(arguments, message):
    good = {"grid_latitude": LAT, "grid_longitude": LON, "mask": None, "latitude": [0.0], "longitude": [0.0]}
    with pytest.raises(ValueError, match=message):
        bilinear(**{"periodic": False, **good, **arguments})


def test_a_curvilinear_grid_is_refused():
    ds = xr.Dataset(
        {"t": (("y", "x"), np.zeros((2, 2)))},
        {"lat": (("y", "x"), np.zeros((2, 2))), "lon": (("y", "x"), np.zeros((2, 2)))},
    )
    with pytest.raises(ValueError, match="one-dimensional latitude and longitude"):
        observe(ds, "t", [0], [0], periodic=False)
    with pytest.raises(KeyError, match="did you mean 't"):
        observe(ds, "tt", [0], [0], periodic=False)
