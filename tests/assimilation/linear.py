"""A linear problem with its textbook Kalman filter, and single calls of methods."""

import keras
import numpy as np
from keras import ops

from physml import _backend
from physml.assimilation.method import Geometry, Problem, Seen


class Linear:
    """x -> x M^T on a circle of n places, seen through a dense H [m, n]."""

    def __init__(self, n, m, times=1, seed=0, **problem):
        rng = np.random.default_rng(seed)
        self.M = np.linalg.qr(rng.normal(size=(n, n)))[0] * 0.95
        self.H = rng.normal(size=(m, n))
        self.std = rng.uniform(0.3, 1.5, m)
        self.d = rng.normal(size=(times, m))
        self.n, self.m, self.rng = n, m, rng
        self.places, self.sites = np.arange(n)[:, None] * 1.0, rng.uniform(0, n, (m, 1))
        geometry = Geometry(self.places, np.array([float(n)]))
        problem = {"geometry": geometry, **problem}
        self.problem = Problem(n, lambda x, k: x @ self.M.T, **problem)

    def seen(self, k=0, keep=None):
        """Return the observations of one time, ``[1, m]``; *keep* removes the others."""
        keep = np.arange(self.m) if keep is None else keep
        index = np.broadcast_to(np.arange(self.n, dtype="int32"), (1, len(keep), self.n))
        return Seen(self.d[k : k + 1, keep], self.std[None, keep], index, self.H[None, keep], self.sites[None, keep])

    def kalman(self, x, P, k, Q=0.0):
        """Return forecast and analysis, mean and covariance."""
        xf, Pf = self.M @ x, self.M @ P @ self.M.T + Q
        S = self.H @ Pf @ self.H.T + np.diag(self.std**2)
        K = Pf @ self.H.T @ np.linalg.inv(S)
        innovation = self.d[k] - self.H @ xf
        chi2 = innovation @ np.linalg.solve(S, innovation) / self.m
        return xf, Pf, xf + K @ innovation, Pf - K @ self.H @ Pf, np.sqrt(np.diag(S)), chi2


def quick(function):
    """Return the function compiled where single operations are slow, on JAX."""
    return _backend.traced(function) if keras.backend.backend() == "jax" else function


def call(method, problem, state, seen, draws=None):
    """Return state and output of one call as NumPy arrays, from an ensemble or a state."""
    with _backend.float64():
        if not isinstance(state, dict):
            state = method.start(problem, _tensor(state))
        state = {name: _tensor(a) for name, a in state.items()}
        draws = {name: _tensor(a) for name, a in (draws or {}).items()}
        seen = Seen(*[None if a is None else _tensor(a) for a in seen])
        state, output = quick(lambda *args: method(problem, *args))(state, seen, draws)
    arrays = [None if a is None else np.asarray(a) for a in output]
    return {name: np.asarray(a) for name, a in state.items()}, type(output)(*arrays)


def _tensor(a):
    return ops.convert_to_tensor(a)


def moments(ensemble):
    """Return mean and covariance of members by rows."""
    return ensemble.mean(0), np.cov(ensemble.T)
