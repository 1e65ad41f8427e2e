"""Layouts that the tests of networks share."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec


def made(target="a", mask=None, **sizes):
    """Return a layout with the inputs a and b on a grid, and one of them, or an index, as the target."""
    rng = np.random.default_rng(0)
    ds = xr.Dataset(
        {n: (("time", *sizes), rng.normal(size=(3, *sizes.values()))) for n in ("a", "b")}, {"time": np.arange(3)}
    )
    ds["index"] = ("time", rng.normal(size=3))
    if mask is not None:
        ds["wet"] = (tuple(sizes), np.asarray(mask))
    spec = FieldSpec(["a", "b"], target, target_offsets=1, mask=None if mask is None else "wet")
    return spec.bind(ds)


@pytest.fixture(scope="session")
def layout_of():
    """Return the function that makes layouts."""
    return made


@pytest.fixture
def awake():
    """Return a function that gives all weights of a network, those that start at zero too, random values."""

    def wake(network, seed=3):
        rng = np.random.default_rng(seed)
        network.set_weights([np.abs(rng.normal(0, 0.3, w.shape)).astype(w.dtype) + 0.05 if w.ndim < 2 else rng.normal(0, 0.3, w.shape).astype(w.dtype) if not w.any() else w for w in network.get_weights()])  # fmt: skip
        return network

    return wake
