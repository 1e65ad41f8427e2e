import functools

import keras
import numpy as np
import pytest
import xarray as xr

from physml.assimilation import Gaussian
from physml.assimilation.cycling.identity import digest


def scaled(factor):
    return lambda x: factor * x


FIELD = xr.DataArray([1.0, 2.0], dims="x", attrs={"units": "m"})


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (FIELD, FIELD.copy(), FIELD + 1),
        (FIELD.to_dataset(name="a"), FIELD.copy().to_dataset(name="a"), FIELD.to_dataset(name="b")),
        (scaled(1.0), scaled(1.0), scaled(2.0)),
        (functools.partial(scaled, 1), functools.partial(scaled, 1), functools.partial(scaled, 2)),
        (lambda x: x + 1, lambda x: x + 1, lambda x: x + 2),
        (np.sin, np.sin, np.cos),
        (Gaussian(1.0, 2.0), Gaussian(1.0, 2.0), Gaussian(1.0, 3.0)),
        ({"b", "a"}, {"a", "b"}, {"a"}),
        (np.float32(1), np.float32(1), np.float64(1)),
    ],
)
def test_what_is_alike_has_one_digest_and_what_differs_another(one, same, other):
    assert digest(one) == digest(same) != digest(other)


def test_a_network_is_told_by_its_weights_and_a_recursive_function_ends():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    before = digest(network)
    assert digest(network) == before
    network.set_weights([w + 1 for w in network.get_weights()])
    assert digest(network) != before

    def again(x):
        return again(x)

    assert len(digest(again)) == 64
