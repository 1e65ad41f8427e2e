"""3D-Var against the Kalman update, conjugate gradients against Cholesky, and the minimum against its definition."""

import numpy as np
import pytest
from keras import ops

from physml import _backend
from physml.assimilation import ThreeDVar
from physml.assimilation.errors.background import Dense
from physml.assimilation.method import Problem, Seen
from physml.assimilation.methods.gauss_newton import LeastSquares, conjugate_gradients
from physml.assimilation.methods.runner import drive

N, M = 7, 4
KEEP = ("forecast", "analysis", "std", "forecast_std", "innovation", "innovation_std", "chi2", "used", "rejected")


def cubic(y):
    """A nonlinear H whose values on JAX are in double precision, unlike those of ``ops.tanh``."""
    return y + 0.1 * y * y * y


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(5)
    a, H = rng.normal(size=(N, N)), rng.normal(size=(M, N))
    index = np.tile(np.arange(N, dtype="int32"), (1, M, 1))
    seen = Seen(rng.normal(size=(1, M)), rng.uniform(0.1, 1, (1, M)), index, H[None])
    return a @ a.T + 0.1 * np.eye(N), H, seen, rng.normal(size=(2, N))


@pytest.mark.parametrize("limit", [500, M, 0])
def test_3dvar_is_the_kalman_update(case, limit):
    """By columns, by rows and by conjugate gradients, for two runs at once."""
    B, H, seen, x = case
    method = ThreeDVar(background_error=Dense(B), iterations=2, dense_limit=limit, inner_tolerance=1e-13)
    out = drive(method, Problem(N, lambda x, k: 0.5 * x), x, seen, keep=KEEP)
    S = H @ B @ H.T + np.diag(seen.error_std[0] ** 2)
    K = np.linalg.solve(S, H @ B).T
    v = seen.values - 0.5 * x @ H.T
    np.testing.assert_allclose(out["analysis"][0], 0.5 * x + v @ K.T, atol=1e-10)
    np.testing.assert_allclose(out["std"][0], np.sqrt(np.diag(B - K @ H @ B)), atol=1e-10)
    np.testing.assert_allclose(out["forecast_std"][0], np.sqrt(np.diag(B)), atol=1e-12)
    np.testing.assert_allclose(out["innovation"][0], v.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(out["chi2"][0], np.mean(np.sum(v * np.linalg.solve(S, v.T).T, -1)) / M, rtol=1e-9)
    if limit:
        np.testing.assert_allclose(out["innovation_std"][0], np.sqrt(np.diag(S)), rtol=1e-10)


@pytest.mark.parametrize("limit", [500, 0])
def test_a_nonlinear_operator_takes_several_outer_loops(case, limit):
    """At the minimum, B^-1 (x - xf) = H'^T R^-1 (d - H(x))."""
    B, H, seen, x = case
    B = 0.1 * B
    problem = Problem(N, lambda x, k: x, observe=lambda x, at: cubic(ops.matmul(x, H.T)))
    at = seen._replace(values=cubic(0.3 * seen.values), index=None, weights=None)
    gaps = []
    for iterations in (1, 40):
        method = ThreeDVar(
            background_error=Dense(B),
            iterations=iterations,
            tolerance=1e-13,
            dense_limit=limit,
            inner_tolerance=1e-12,
        )
        xa = drive(method, problem, x[:1], at, keep=("analysis",))["analysis"][0, 0]
        y = H @ xa
        pull = H.T @ ((1 + 0.3 * y**2) * (at.values[0] - cubic(y)) / at.error_std[0] ** 2)
        gaps.append(np.abs(np.linalg.solve(B, xa - x[0]) - pull).max())
    assert gaps[1] < 1e-6 < 1e-2 < gaps[0]


def test_a_gross_error_is_set_aside(case):
    B, _, seen, x = case
    wild = seen.values.copy()
    wild[0, 1] = 1e3
    missing = seen.values.copy()
    missing[0, 1] = np.nan
    method = ThreeDVar(background_error=Dense(B))
    problem = Problem(N, lambda x, k: x, gross_error=6.0)
    a = drive(method, problem, x, seen._replace(values=wild), keep=KEEP)
    b = drive(method, problem, x, seen._replace(values=missing), keep=KEEP)
    assert a["rejected"].tolist() == [1] and b["rejected"].tolist() == [0]
    assert a["used"].tolist() == b["used"].tolist() == [3]
    np.testing.assert_array_equal(a["analysis"], b["analysis"])


def test_conjugate_gradients_yield_the_eigenvalues_and_inverse_root_of_the_operator():
    rng = np.random.default_rng(6)
    a = rng.normal(size=(2, 9, 3))
    A = np.eye(9) + a @ np.swapaxes(a, 1, 2)
    b = rng.normal(size=(2, 9))
    with _backend.float64():
        x, pairs = conjugate_gradients(
            lambda v: ops.einsum("npq,nq->np", A, v), ops.convert_to_tensor(b), 8, 1e-12, keep=True
        )
        half = np.asarray(pairs.half_inverse(ops.tile(ops.eye(9, dtype="float64")[None], (2, 1, 1))))
    np.testing.assert_allclose(np.asarray(x), np.linalg.solve(A, b[..., None])[..., 0], atol=1e-10)
    top = np.sort(np.asarray(pairs.values))[:, -3:]
    np.testing.assert_allclose(top, np.linalg.eigvalsh(A)[:, -3:], rtol=1e-10)
    np.testing.assert_allclose(half @ half, np.linalg.inv(A), atol=1e-9)


def test_the_hessian_of_the_cost_is_symmetric_and_that_of_its_gradient():
    rng = np.random.default_rng(8)
    H, d = rng.normal(size=(5, 3)), rng.normal(size=5)
    with _backend.float64():
        x, scale, z = (ops.convert_to_tensor(a) for a in (np.zeros((1, 3)), np.full(5, 1.5), rng.normal(size=(1, 3))))
        cost = LeastSquares(lambda x, z: cubic(ops.matmul(x + z, H.T)), x, ops.convert_to_tensor(d), scale, 3)
        hessian = np.asarray(cost.hessian(z))[0]
        step = 1e-5 * np.eye(3)
        slopes = [np.asarray(cost.gradient(z + s) - cost.gradient(z - s))[0] / 2e-5 for s in step]
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    np.testing.assert_allclose(hessian, slopes, atol=1e-8)
