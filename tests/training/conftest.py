"""Small data and networks: a regression with noise, so that there is something to overfit."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr

from physml import Batches, FieldModel, FieldSpec, Scaling


def noisy(n: int, seed: int) -> xr.Dataset:
    """Return fields of three cells, one of them masked, with a target that the input tells in part."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    ds = xr.Dataset(
        {"a": (("time", "i"), x), "b": (("time", "i"), 2 * x + x**2 + rng.normal(size=x.shape))},
        {"time": np.arange(n), "wet": ("i", [True, False, True])},
    )
    return ds.reset_coords("wet")


SPEC = FieldSpec("a", "b", mask="wet")


@pytest.fixture(scope="session")
def data():
    """Data for training and validation; 29 is prime, so that no batch size divides it."""
    return noisy(29, 0), noisy(16, 1)


@pytest.fixture(scope="session")
def scaling(data):
    return Scaling.fit(data[0], SPEC)


@pytest.fixture
def make(scaling):
    """Return a function that makes the same model anew, with dropout where asked."""

    def model(dropout: float = 0.0, units: int = 8) -> FieldModel:
        start = keras.Input((3, 1))
        x = keras.layers.Dense(units, "tanh", kernel_initializer=keras.initializers.GlorotUniform(0))(start)
        x = keras.layers.Dropout(dropout)(x) if dropout else x
        end = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(1))(x)
        return FieldModel(keras.Model(start, end), scaling=scaling)

    return model


@pytest.fixture
def batches(data, scaling):
    """Return a function that makes batches for training, and for validation."""

    def made(size: int = 8, part: int = 0, **options) -> Batches:
        return Batches(data[part], scaling.layout, size, **options)

    return made
