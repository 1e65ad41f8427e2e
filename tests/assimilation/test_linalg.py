"""Functions of symmetric matrices: values, and gradients where eigenvalues coincide."""

import numpy as np
import pytest
import scipy.linalg
from keras import ops

from physml import _backend
from physml.assimilation.methods import _linalg


def spread_out(rng):
    a = rng.normal(size=(5, 9))
    return a @ a.T + np.eye(5)


def with_equal_eigenvalues(rng):
    a = rng.normal(size=(5, 2))
    return a @ a.T + np.eye(5)


def identity(rng):
    return np.eye(5)


@pytest.mark.parametrize("matrix", [spread_out, with_equal_eigenvalues, identity])
@pytest.mark.parametrize("name", ["inverse_and_root", "inverse_and_reduced"])
def test_functions_and_their_gradients(name, matrix, rng):
    function, a = getattr(_linalg, name), matrix(rng)
    root = scipy.linalg.sqrtm(a)
    second = np.linalg.inv(root) if name == "inverse_and_root" else np.linalg.inv(a + root)
    with _backend.float64():
        pair = np.asarray(function(ops.convert_to_tensor(a)))
    np.testing.assert_allclose(pair, [np.linalg.inv(a), second], rtol=0, atol=1e-13)

    upstream, direction = rng.normal(size=(2, 5, 5)), rng.normal(size=(5, 5))
    direction = direction + direction.T

    def loss(x):
        return ops.sum(function(x) * upstream)

    def at(step):
        with _backend.float64():
            return float(loss(ops.convert_to_tensor(a + step * direction)))

    gradient = _backend.value_and_gradient(loss, a)[1]
    # Fourth-order differences: their own error is about 1e-11.
    h = 1e-3
    slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-8)
    np.testing.assert_allclose(gradient, gradient.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize("members, m", [(4, 9), (9, 4)])
def test_the_transform_is_the_same_in_either_space(members, m, rng):
    s, v = rng.normal(size=(members, m)), rng.normal(size=m)
    c = np.eye(members) + s @ s.T
    with _backend.float64():
        w, t, square = (np.asarray(a) for a in _linalg.transform(ops.convert_to_tensor(s), ops.convert_to_tensor(v)))
    np.testing.assert_allclose(w, np.linalg.solve(c, s @ v), rtol=0, atol=1e-13)
    np.testing.assert_allclose(t, np.linalg.inv(scipy.linalg.sqrtm(c)), rtol=0, atol=1e-13)
    np.testing.assert_allclose(square, v @ np.linalg.solve(np.eye(m) + s.T @ s, v), rtol=1e-12)
