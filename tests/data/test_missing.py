"""Samples that lack values are refused, left out or masked, as the user says, and each time for the right cells."""

import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec, Loader


@pytest.fixture(params=["memory", "store"])
def holed(request, tmp_path):
    """Return 12 maps of 2 x 5 cells, one of them land, with 0 to 9 values missing at some times."""
    rng = np.random.default_rng(0)
    ds = xr.Dataset(
        {
            "x": (("time", "lat", "lon"), rng.normal(size=(12, 2, 5)).astype("float32")),
            "y": (("time", "lat", "lon"), rng.normal(size=(12, 2, 5)).astype("float32")),
            "wet": (("lat", "lon"), np.array([[False] + [True] * 4, [True] * 5])),
        },
        {"time": np.arange(12)},
    )
    ds["x"] = ds.x.where(ds.wet)
    ds["y"] = ds.y.where(ds.wet)
    ds["y"][2, 0, 1] = np.nan
    ds["y"][5] = np.nan
    ds["x"][8, 1, 0:3] = np.nan
    if request.param == "memory":
        return ds
    ds.to_zarr(tmp_path / "a.zarr", consolidated=False, encoding={n: {"chunks": (5, 2, 3)} for n in "xy"})
    return xr.open_zarr(tmp_path / "a.zarr", consolidated=False)


SPEC = FieldSpec("x", "y", mask="wet")
MEMORY = 12 * 10 * 4 * 2 - 1


def whole(loader):
    with loader:
        return tuple(np.concatenate(p) for p in zip(*loader, strict=True))


def test_a_missing_value_is_an_error_unless_said_otherwise(holed):
    with pytest.raises(ValueError, match="target 'y' is missing on valid cells at time 2"):
        whole(Loader(holed, SPEC, 4, memory=MEMORY))


def test_samples_that_lack_a_value_are_dropped(holed):
    loader = Loader(holed, SPEC, 4, missing="drop", memory=MEMORY)
    assert loader.n_samples == 9
    x, _, w = whole(loader)
    kept = [t for t in range(12) if t not in (2, 5, 8)]
    np.testing.assert_array_equal(x[..., 0], np.nan_to_num(holed.x.values[kept]))
    assert (w == w[0]).all()


def test_windows_that_touch_a_gap_are_dropped_too(holed):
    loader = Loader(
        holed,
        FieldSpec("x", "y", mask="wet", input_offsets=(-1, 0), target_offsets=1),
        4,
        missing="drop",
        memory=MEMORY,
    )
    with loader:
        times = np.concatenate([loader.labels(i).time.values for i in range(len(loader))])
        assert times.tolist() == [2, 3, 5, 6, 7, 10]
        assert len(whole(loader)[0]) == 6


def test_missing_values_are_masked_and_weigh_nothing(holed):
    x, y, w = whole(Loader(holed, SPEC, 4, missing="mask", memory=MEMORY))
    assert len(x) == 12
    gone = ~np.isfinite(holed.y.values)
    assert not w[gone].any()
    assert (w[~gone] > 0).all()
    assert not y[gone].any()
    assert not x[~np.isfinite(holed.x.values)].any()
    x, _, _ = whole(Loader(holed, SPEC, 4, missing="mask", fill=np.nan, memory=MEMORY))
    np.testing.assert_array_equal(np.isnan(x[..., 0]), ~np.isfinite(holed.x.values))


def test_samples_with_too_few_valid_cells_are_dropped_by_rule(holed):
    for least, expected in ((0.0, 12), (0.5, 11), (0.75, 10), (0.95, 9)):
        loader = Loader(holed, SPEC, 4, missing="mask", min_valid=least, memory=MEMORY)
        assert loader.n_samples == expected, least
        loader.close()


def test_weights_differ_by_channel_where_gaps_do(holed):
    ds = holed.assign(z=holed.y.fillna(0.0).where(holed.wet))
    _, y, w = whole(Loader(ds, FieldSpec("x", ["y", "z"], mask="wet"), 4, missing="mask", memory=MEMORY))
    assert w.shape == y.shape
    assert not w[5, ..., 0].any()
    assert w[5, ..., 1][holed.wet.values].all()
    np.testing.assert_allclose(w[0].mean(), 1, rtol=1e-6)


def test_nothing_left_is_an_error(holed):
    loader = Loader(holed.isel(time=[5]), SPEC, 4, missing="drop")
    with pytest.raises(ValueError, match=r"holds no batch.*Received: 0 samples"):
        len(loader)
