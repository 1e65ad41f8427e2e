"""Fields far beyond their bounds still reach their sums: groups without a free cell are left in a few steps."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from keras import ops

from physml import Bounds, Budget, Constraints, FieldSpec

SPEC = FieldSpec("truth", "a")


def tensors(ds):
    return {n: ops.convert_to_tensor(ds[n].values[..., None].astype("float32")) for n in ("truth", "a")}


def fields(distance, filled, shape=(3, 6, 5)):
    """Fields below zero by *distance*, beside a truth with few positive cells."""
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(shape) < filled, rng.random(shape), 0.0)
    start = -distance * rng.uniform(0.5, 2.0, shape)
    dims = ("time", "lat", "lon")
    return xr.Dataset({"truth": (dims, truth), "a": (dims, start)}, {"time": np.arange(shape[0])})


@pytest.mark.parametrize("distance", [0.1, 10.0, 1e4])
@pytest.mark.parametrize("over", [("lon",), ("lat", "lon")])
def test_a_sum_is_reached_from_far_below_the_bound(distance, over):
    ds = fields(distance, 0.1)
    laws = Constraints([Budget({"a": 1.0}, over, equals={"truth": 1.0}), Bounds("a", lower=0.0)])
    layout = laws.bind(SPEC.bind(ds))
    x = tensors(ds)
    y = np.asarray(laws.project({"a": x["a"]}, x, layout)["a"], "float64")
    assert y.min() >= 0
    axes = tuple(1 + ("lat", "lon").index(d) for d in over)
    np.testing.assert_allclose(y.sum(axes), ds.truth.values.sum(tuple(a for a in axes))[..., None], atol=1e-6)
    moved = y > 0  # the nearest point moves all cells that are free by the same amount
    shift = np.where(moved, y - np.asarray(x["a"], "float64"), np.nan)
    spread = np.nanmax(shift, axes, initial=-np.inf) - np.nanmin(shift, axes, initial=np.inf)
    assert np.where(np.isfinite(spread), spread, 0).max() < 1e-6 * max(distance, 1)


@pytest.mark.parametrize("distance", [0.1, 10.0])
def test_rows_and_columns_are_reached_together(distance):
    ds = fields(distance, 0.5)
    sums = [Budget({"a": 1.0}, d, equals={"truth": 1.0}, name=d) for d in ("lat", "lon")]
    laws = Constraints([Bounds("a", lower=0.0), sums[0], sums[1]])
    layout = laws.bind(SPEC.bind(ds))
    x = tensors(ds)
    y = np.asarray(laws.project({"a": x["a"]}, x, layout)["a"], "float64")[..., 0]
    assert y.min() >= 0
    for axis in (1, 2):
        np.testing.assert_allclose(y.sum(axis), ds.truth.values.sum(axis), atol=2e-6)
