"""The finite-size filter against its published dual and primal cost functions."""

import numpy as np
import pytest
from keras import ops
from linear import Linear, call

from physml import _backend
from physml.assimilation import ETKF, EnKFN


def dual(zeta, s, v, eps, total):
    squares, vectors = np.linalg.eigh(s.T @ s * (len(s) - 1))
    fit = np.sum((v @ vectors) ** 2 / (1 + np.maximum(squares, 0) / zeta[:, None]), axis=1)
    return 0.5 * (fit + eps * zeta + total * np.log(total / zeta) - total)


@pytest.mark.parametrize("size", [0.3, 3.0, 20.0], ids=["small", "large", "huge"])
@pytest.mark.parametrize("corrected", [False, True], ids=["published", "mode corrected"])
def test_zeta_is_the_least_of_the_dual_and_stationary(corrected, size, rng):
    s, v = rng.normal(size=(7, 5)), size * rng.normal(size=5)
    method = EnKFN(mode_correction=corrected)
    with _backend.float64():
        zeta = float(method.zeta(ops.convert_to_tensor(s), ops.convert_to_tensor(v)))
        eps, total = (float(a) for a in method.hyperprior(ops.convert_to_tensor(s @ s.T)))
    if not corrected:
        assert (eps, total) == (1 + 1 / 7, 7.0)
    # Stationarity of the primal cost function: grad J(w) = -(v - w S') S'^T + (N + g) w / (eps + w w^T) = 0.
    raw = s * np.sqrt(6)
    w = np.linalg.solve(raw @ raw.T + zeta * np.eye(7), raw @ v)
    np.testing.assert_allclose(eps + w @ w, total / zeta, rtol=1e-11)
    np.testing.assert_allclose((v - w @ raw) @ raw.T, total * w / (eps + w @ w), rtol=0, atol=1e-11 * size)
    grid = np.exp(np.linspace(np.log(6e-4), np.log(total / eps), 20001))
    least = dual(grid, s, v, eps, total).min()
    np.testing.assert_allclose(dual(np.array([zeta]), s, v, eps, total)[0], least, rtol=1e-6)
    assert dual(np.array([zeta]), s, v, eps, total)[0] <= least + 1e-12


def test_observations_that_say_nothing_do_not_inflate(rng):
    s, v = 1e-4 * rng.normal(size=(7, 5)), 1e-4 * rng.normal(size=5)
    with _backend.float64():
        zeta = float(EnKFN().zeta(ops.convert_to_tensor(s), ops.convert_to_tensor(v)))
    np.testing.assert_allclose(np.sqrt(6 / zeta), 1.0, atol=1e-6)


def test_it_is_the_etkf_of_the_inflated_forecast():
    p = Linear(6, 8)
    ensemble = p.rng.normal(size=(5, 6))
    p.d *= 4
    found, out = call(EnKFN(rotate=False), p.problem, ensemble, p.seen())
    s = (out.forecast[0] - out.forecast[0].mean(0)) @ p.H.T / p.std / 2
    v = out.innovation[0] / p.std
    with _backend.float64():
        factor = np.sqrt(4 / float(EnKFN().zeta(ops.convert_to_tensor(s), ops.convert_to_tensor(v))))
    assert factor > 1.2
    inflated = ensemble.mean(0) + factor * (ensemble - ensemble.mean(0))
    expected = call(ETKF(rotate=False), p.problem, inflated, p.seen())[0]["ensemble"]
    np.testing.assert_allclose(found["ensemble"], expected, rtol=0, atol=1e-12)
