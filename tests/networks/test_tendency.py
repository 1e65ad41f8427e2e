"""Tendency networks have the published number of weights, hold Lorenz 1996 exactly, know no place, and survive saving."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from physml import _backend, networks
from physml.testbeds import lorenz96

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def double_precision():
    with _backend.float64():
        yield


def numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


def trainable(network):
    return sum(int(np.prod(w.shape)) for w in network.trainable_variables)


def monomial(q, i, j):
    """Place of the monomial z_i z_j among the coefficients."""
    return [*zip(*np.triu_indices(q), strict=True)].index((min(i, j), max(i, j)))


def lorenz_coefficients(width=5, forcing=8.0):
    """z = (1, cells from -width // 2 on): (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F."""
    q, middle = width + 1, 1 + width // 2
    w = np.zeros((q * (q + 1) // 2, 1))
    terms = {(0, 0): forcing, (0, middle): -1.0, (middle + 1, middle - 1): 1.0, (middle - 2, middle - 1): -1.0}
    for (i, j), value in terms.items():
        w[monomial(q, i, j)] = value
    return w


def test_published_numbers_of_weights():
    assert trainable(networks.brajard_cnn([40], boundary=["periodic"])) == 9389
    assert trainable(networks.bilinear_tendency([40], boundary=["periodic"])) == 21
    assert trainable(networks.bilinear_tendency([40], boundary=["periodic"], products=6)) == 72


def test_monomials_hold_lorenz_1996_exactly():
    layer = networks.Bilinear(1, width=5, boundary=("periodic",), dtype="float64")
    layer.build((None, 40, 1))
    layer.coefficients.assign(lorenz_coefficients())
    x = RNG.normal(3, 4, (3, 40, 1))
    np.testing.assert_allclose(numpy(layer(x)), lorenz96.tendency(x), rtol=0, atol=1e-12)


def test_products_hold_lorenz_1996_exactly():
    layer = networks.Bilinear(1, width=5, boundary=("periodic",), products=2, dtype="float64")
    layer.build((None, 40, 1))
    a, b = np.zeros((2, 6, 2, 1))
    a[4, 0], a[1, 0], b[2, 0] = 1.0, -1.0, 1.0  # (x_{i+1} - x_{i-2}) x_{i-1}
    a[0, 1], b[3, 1], b[0, 1] = 1.0, -1.0, 8.0  # 1 (8 - x_i)
    layer.factors.assign(np.stack([a, b]))
    x = RNG.normal(3, 4, (3, 40, 1))
    np.testing.assert_allclose(numpy(layer(x)), lorenz96.tendency(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("products", [None, 3])
def test_in_two_dimensions_each_term_is_that_of_its_neighbours(products):
    layer = networks.Bilinear(2, width=3, boundary=("closed", "periodic"), products=products, dtype="float64")
    layer.build((None, 5, 6, 2))
    for v in layer.trainable_variables:
        v.assign(RNG.normal(size=v.shape))
    x = RNG.normal(size=(2, 5, 6, 2))
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    padded = np.concatenate([padded[:, :, -1:], padded, padded[:, :, :1]], axis=2)
    w = numpy(layer.matrix())
    for i, j in [(0, 0), (2, 5), (4, 3)]:
        z = np.concatenate([np.ones((2, 1)), padded[:, i : i + 3, j : j + 3].reshape(2, -1)], axis=1)
        expected = np.einsum("bp,pqk,bq->bk", z, w, z)
        np.testing.assert_allclose(numpy(layer(x))[:, i, j], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "network",
    [
        networks.bilinear_tendency([None], boundary=["periodic"], products=2),
        networks.brajard_cnn([None], boundary=["periodic"], filters=(3, 4)),
    ],
)
def test_networks_know_no_place_and_survive_saving(network, tmp_path):
    x = RNG.normal(size=(2, 9, 1)).astype("float32")
    y = numpy(network(x))
    np.testing.assert_allclose(numpy(network(np.roll(x, 2, 1))), np.roll(y, 2, 1), atol=1e-5)
    assert np.abs(y).max() > 1e-3
    network.save(tmp_path / "network.keras")
    np.testing.assert_allclose(numpy(keras.saving.load_model(tmp_path / "network.keras")(x)), y, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.bilinear_tendency([40], boundary=["around"]), "unknown boundary. Expected: one of"),
        (lambda: networks.bilinear_tendency([40, 3], boundary=["periodic"]), "the boundary does not fit the grid"),
        (lambda: networks.bilinear_tendency([40], boundary=["open"], width=4), "the stencil has no centre"),
        (lambda: networks.brajard_cnn([40], boundary=["open"], kernel_size=2), "the stencil has no centre"),
        (lambda: networks.Bilinear(1, width=3, boundary=["open"], products=0), "Bilinear: products is no count"),
    ],
)
def test_what_cannot_be_built_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
