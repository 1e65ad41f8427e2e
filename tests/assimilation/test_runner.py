"""Running a method: windows, blocks, what is told, and a published experiment in short."""

from dataclasses import dataclass

import numpy as np
import pytest
from keras import ops
from linear import Linear

from physml import _backend
from physml.assimilation import ETKF, LETKF, RK4, ExtendedKalman, Runner, drive
from physml.assimilation.method import Geometry, Method, Output, Problem, Seen
from physml.testbeds import lorenz96
from physml.testbeds.setups import sakov2008


@dataclass(frozen=True, eq=False, kw_only=True)
class Shown(Method):
    """Tells the observations of its window, so that one sees which they were."""

    @property
    def count(self):
        return 2

    @property
    def lag(self):
        return 1

    @property
    def first(self):
        return 3

    def __call__(self, problem, state, seen, draws):
        count = seen.values.shape[0] - (self.lag if "ran" in state else 0)
        x = state["ensemble"]
        many = ops.broadcast_to(x, (count, *x.shape))
        one = ops.ones((count,), dtype="float64")
        window = ops.broadcast_to(ops.sum(seen.values[:, 0]), (count,))
        told = Output(many, many, seen.values[-count:], seen.values[-count:], window, one, one)
        return {"ensemble": x, "ran": one[0]}, told


def test_windows_give_each_time_once_and_earlier_ones_again():
    p = Linear(6, 4, times=11)
    seen = p.seen()._replace(values=p.d, index=p.seen().index[0], weights=p.seen().weights[0])
    out = drive(Shown(), p.problem, np.zeros((2, 6)), seen, keep=("innovation", "chi2"), fused=False)
    np.testing.assert_array_equal(out["innovation"], p.d)
    edges = [(0, 3), (2, 5), (4, 7), (6, 9), (8, 11)]
    sums = np.repeat([p.d[a:b, 0].sum() for a, b in edges], [3, 2, 2, 2, 2])
    np.testing.assert_allclose(out["chi2"], sums, rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match=r"do not fill the windows.*3 \+ a multiple of 2"):
        drive(Shown(), p.problem, np.zeros((2, 6)), seen._replace(values=p.d[:10]))


def test_calls_in_a_block_are_calls_one_by_one_and_a_restart_goes_on_alike():
    p = Linear(6, 4, times=7)
    seen = p.seen()._replace(values=p.d, positions=p.sites, index=p.seen().index[0], weights=p.seen().weights[0])
    ensemble, method = p.rng.normal(size=(5, 6)), ETKF(inflation=1.1)
    whole = drive(method, p.problem, ensemble, seen, seed=4, keep=("analysis", "mean", "spread", "used"))
    runner = Runner(method, p.problem, seed=4)
    state, analyses = runner.start(ensemble), []
    for k in range(7):
        if k == 4:
            state = {name: np.array(a) for name, a in state.items()}
        state, out = runner.call(state, p.seen(k), runner.draws(k, 5, 6, 4, 1))
        analyses.append(np.asarray(out.analysis)[0])
    np.testing.assert_allclose(whole["analysis"], analyses, rtol=0, atol=1e-14)
    np.testing.assert_allclose(whole["spread"], np.std(analyses, axis=1, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(whole["mean"], np.mean(analyses, axis=1), rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="unknown part of the output"):
        drive(method, p.problem, ensemble, seen, keep=("skill",))


def test_a_propagation_by_a_loop_is_differentiated_like_its_steps():
    p = Linear(4, 3, times=2)

    def step(x):
        return x + 0.1 * (x @ p.M.T) ** 3

    def looped(x, k):
        return _backend.scan(lambda c, i: (step(c), i), x, ops.zeros(3))[0]

    seen = p.seen()._replace(values=p.d, positions=None, index=p.seen().index[0], weights=p.seen().weights[0])
    start, method = p.rng.normal(size=(2, 4)), ExtendedKalman(initial_error=0.5)
    found = [drive(method, Problem(4, f), start, seen) for f in (looped, lambda x, k: step(step(step(x))))]
    for name in ("mean", "spread", "chi2"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=0, atol=1e-13)


def test_short_run_of_the_published_experiment():
    """After 40 cycles of spin-up the errors of 60 stay near those published for long runs, 0.18 and 0.22."""
    truth, observations, initial = sakov2008.twin(seed=3000, cycles=100, members=24)
    step, sites = RK4(lorenz96.tendency, 0.05, dtype="float64"), np.arange(40)[:, None]
    geometry = Geometry(sites * 1.0, np.array([40.0]))
    problem = Problem(40, lambda x, k: step(x[..., None])[..., 0], geometry=geometry)
    seen = Seen(observations.values, 1.0, sites, np.ones((40, 1)), sites)
    rmse = {}
    for method, members in ((ETKF(inflation=1.013), 24), (LETKF(radius=4.0, inflation=1.04), 7)):
        out = drive(method, problem, initial.x.values[:members], seen)
        error = np.sqrt(np.mean((out["mean"] - truth.x.values[1:]) ** 2, axis=1))[40:].mean()
        rmse[type(method)] = error
        np.testing.assert_allclose(out["spread"][40:].mean(), error, rtol=0.3)
        np.testing.assert_allclose(out["chi2"][40:].mean(), 1.0, atol=0.1)
    assert rmse[ETKF] < 0.23 and rmse[LETKF] < 0.27, rmse
