"""Every form of solution gives the textbook analysis, its posterior and its gradient."""

import keras
import numpy as np
import pytest
import scipy.sparse
from keras import ops

from physml import _backend
from physml.assimilation import StateBLUE
from physml.assimilation.blue.choice import FORMS as KNOWN
from physml.assimilation.blue.estimate import estimate
from physml.assimilation.blue.iterative import conjugate_gradients
from physml.assimilation.blue.problems import BackgroundProblem
from physml.assimilation.errors.background import Background

SIZE, OBSERVED = 12, 7


def numbers(x):
    return np.asarray(ops.convert_to_numpy(x))


class Precise(Background):
    """A matrix that also offers its inverse as a sparse matrix."""

    def __init__(self, matrix):
        self.matrix, self.size, self.rank = matrix, len(matrix), len(matrix)
        self._root = np.linalg.cholesky(matrix)

    def root(self, c):
        return ops.matmul(c, self._root.T)

    def root_adjoint(self, x):
        return ops.matmul(x, self._root)

    @property
    def precision(self):
        return scipy.sparse.csc_matrix(np.linalg.inv(self.matrix))


class Members(Precise):
    """The same as the covariance of an ensemble."""

    @property
    def anomalies(self):
        return self._root.T


@pytest.fixture(scope="module")
def case():
    """A state of 12 elements, 7 observations of two elements each, one of them missing, and the textbook of it."""
    rng = np.random.default_rng(3)
    gap = np.abs(np.arange(SIZE)[:, None] - np.arange(SIZE))
    B = 0.9**2 * (1 + gap / 2) * np.exp(-gap / 2)
    index = rng.integers(0, SIZE, (OBSERVED, 2)).astype("int32")
    weights, r = rng.uniform(0.2, 1, (OBSERVED, 2)), rng.uniform(0.1, 0.4, OBSERVED)
    H = np.zeros((OBSERVED, SIZE))
    for k in range(2):
        np.add.at(H, (np.arange(OBSERVED), index[:, k]), weights[:, k])
    d, xf = rng.normal(size=(1, OBSERVED)), rng.normal(size=(3, SIZE))
    d[0, 2] = np.nan
    there = np.isfinite(d[0])
    S = H[there] @ B @ H[there].T + np.diag(r[there] ** 2)
    K = B @ H[there].T @ np.linalg.inv(S)
    xa = xf + (d[:, there] - xf @ H[there].T) @ K.T
    A = B - K @ H[there] @ B
    influence = np.full(OBSERVED, np.nan)
    influence[there] = np.diag(H[there] @ K)
    return dict(
        B=B, H=H, index=index, weights=weights, r=r, d=d, xf=xf, xa=xa, std=np.sqrt(np.diag(A)), influence=influence
    )


FORMS = {
    "observation": Precise,
    "state": Precise,
    "ensemble": Members,
    "pcg": Precise,
    "precision": Precise,
}
NAMES = {
    "observation": "observation space",
    "state": "state space",
    "ensemble": "ensemble",
    "pcg": "conjugate gradients",
    "precision": "precision",
}


def layer_of(case, method, operator=None, **options):
    operator = (case["index"], case["weights"]) if operator is None else operator
    B = FORMS[method](case["B"])
    return StateBLUE(B, shape=(SIZE, 1), operator=operator, method=method, rtol=1e-14, dtype="float64", **options)


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("operator", ["rows", "matrix", "sparse"])
def test_every_form_is_the_kalman_update(case, method, operator):
    H = {"rows": None, "matrix": case["H"], "sparse": scipy.sparse.csr_array(case["H"])}[operator]
    layer = layer_of(case, method, H, samples=512)
    given = {"values": case["d"], "error_std": case["r"]}
    with _backend.float64():
        found = layer.diagnose(ops.convert_to_tensor(case["xf"][..., None]), given)
        called = layer(ops.convert_to_tensor(case["xf"][..., None]), given)
        influence = layer.influence(given)
    assert layer.form == NAMES[method]
    assert np.abs(numbers(found.analysis)[..., 0] - case["xa"]).max() < 1e-12
    assert np.abs(numbers(called) - numbers(found.analysis)).max() < 1e-13
    d, there = case["d"] - case["xf"] @ case["H"].T, np.isfinite(case["d"][0])
    S = (case["H"] @ case["B"] @ case["H"].T + np.diag(case["r"] ** 2))[np.ix_(there, there)]
    chi2 = [e @ np.linalg.solve(S, e) / 6 for e in d[:, there]]
    assert np.allclose(numbers(found.chi2), chi2, rtol=1e-10) and numbers(found.used).tolist() == [6, 6, 6]
    assert np.allclose(numbers(found.innovation)[:, there], d[:, there], rtol=0, atol=1e-14)
    # Samples know the posterior as well as they are many; the other forms know it exactly.
    near = {"pcg": 4 * np.sqrt(0.5 / 512)}.get(method, 1e-11)
    assert np.abs(numbers(found.std)[..., 0] / case["std"] - 1).max() < near
    assert np.abs(numbers(influence.influence)[0] / case["influence"] - 1)[there].max() < 2 * near
    assert np.isnan(numbers(influence.influence)[0, 2])
    assert numbers(influence.signal)[0] == pytest.approx(np.nansum(case["influence"]), rel=2 * near)
    expected = np.sqrt(np.diag(S))
    assert np.abs(numbers(found.innovation_std)[0, there] / expected - 1).max() < near


def test_sampled_posteriors_err_as_they_say(case):
    layer = layer_of(case, "pcg", samples=200)
    with _backend.float64():
        std, error = layer.posterior({"values": case["d"], "error_std": case["r"]})
    z = (numbers(std)[0, :, 0] - case["std"]) / numbers(error)[0, :, 0]
    assert 0.2 < np.sqrt(np.mean(z**2)) < 2
    assert (numbers(error)[0, :, 0] < 0.051 * numbers(std)[0, :, 0]).all()


def along(function, x, direction, h=2e-3):
    low2, low, high, high2 = (function(x + k * h * direction) for k in (-2, -1, 1, 2))
    return (low2 - 8 * low + 8 * high - high2) / (12 * h)


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("what", ["forecast", "values", "error_std", "scale"])
def test_gradients_of_every_form_are_those_of_finite_differences(case, method, what):
    rng = np.random.default_rng(0)
    up, layer = rng.normal(size=(3, SIZE)), layer_of(case, method)
    bound = layer._bound

    class Scaled(Background):
        """exp(s) B: a parameter of B."""

        def __init__(self, s):
            self.s, self.size, self.rank = ops.convert_to_tensor(s, "float64"), SIZE, SIZE

        def root(self, c):
            return ops.exp(self.s / 2) * bound.root(c)

        def root_adjoint(self, x):
            return ops.exp(self.s / 2) * bound.root_adjoint(x)

        @property
        def anomalies(self):
            return ops.exp(self.s / 2) * bound.anomalies

        @property
        def precision(self):
            return bound.precision * np.exp(-float(numbers(self.s)))

    start = {"forecast": case["xf"], "values": np.nan_to_num(case["d"]), "error_std": case["r"][None], "scale": 0.3}
    start = np.asarray(start[what], "float64")

    def loss(x):
        given = {"values": case["d"], "error_std": case["r"][None], "index": case["index"][None]}
        given["weights"], forecast, s = case["weights"][None], case["xf"], 0.0
        if what == "forecast":
            forecast = x
        elif what == "scale":
            s = x
        else:
            given[what] = ops.where(np.isfinite(case["d"]), x, np.nan) if what == "values" else x
        problem = BackgroundProblem(lambda p: Scaled(p.get("s", 0.0)), {"s": s}, KNOWN[method], rtol=1e-15)
        return ops.sum(estimate(problem, ops.convert_to_tensor(forecast), given) * ops.convert_to_tensor(up))

    def number(x):
        with _backend.float64():
            return float(numbers(loss(ops.convert_to_tensor(x))))

    if what == "scale" and method == "precision" and keras.backend.backend() == "jax":
        pytest.skip("a sparse precision of a traced parameter has no values")
    value, gradient = _backend.value_and_gradient(loss, start)
    assert value == pytest.approx(number(start), rel=1e-12)
    direction = rng.normal(size=start.shape)
    assert np.sum(gradient * direction) == pytest.approx(along(number, start, direction), rel=1e-8, abs=1e-8)
    if what == "values":
        assert gradient[0, 2] == 0


def test_conjugate_gradients_solve_each_side_to_its_own_tolerance():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(9, 9))
    S = root @ root.T + np.eye(9)
    b = rng.normal(size=(1, 9, 3)) * np.array([1.0, 1e-6, 0.0])
    with _backend.float64():
        u = numbers(
            conjugate_gradients(lambda x: ops.matmul(ops.convert_to_tensor(S), x), ops.convert_to_tensor(b), 1e-12)
        )
    assert np.allclose(u[0, :, :2], np.linalg.solve(S, b[0, :, :2]), rtol=1e-9, atol=0) and not u[0, :, 2].any()
