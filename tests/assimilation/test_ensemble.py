"""Ensemble filters against the Kalman filter, brute force and finite differences."""

import dataclasses
import itertools

import numpy as np
import pytest
from keras import ops
from linear import Linear, call, moments, quick

from physml import _backend
from physml.assimilation import ETKF, LETKF, EnKF, EnKFN, EnSRF, Kalman, Runner, gaspari_cohn
from physml.assimilation.errors.background import bind
from physml.assimilation.method import Problem, Seen
from physml.assimilation.methods import _members, letkf


def drawn(method, members, m, noise=0):
    return method.draws(np.random.default_rng(1), members, 6, m, 1, noise)


@pytest.mark.parametrize("m", [4, 20])
@pytest.mark.parametrize("method", [ETKF(rotate=False), ETKF(), EnSRF(), EnSRF(radius=np.inf)], ids=str)
def test_square_root_filters_are_the_kalman_filter_of_their_moments(method, m):
    p = Linear(6, m, times=3)
    ensemble = p.rng.normal(size=(11, 6))
    x, P = moments(ensemble)
    for k in range(3):
        state, out = call(method, p.problem, ensemble, p.seen(k), drawn(method, 11, m))
        ensemble = state["ensemble"]
        _, _, x, P, std, chi2 = p.kalman(x, P, k)
        np.testing.assert_allclose(moments(ensemble)[0], x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(moments(ensemble)[1], P, rtol=0, atol=1e-12)
        np.testing.assert_allclose(out.innovation_std[0], std, rtol=1e-12)
        np.testing.assert_allclose(out.chi2[0], chi2, rtol=1e-11)


def test_enkf_tends_to_the_kalman_filter_as_one_over_the_root_of_the_members():
    p = Linear(6, 4)
    x, P = np.zeros(6), np.cov(p.rng.normal(size=(6, 12)))
    _, Pf, best, Pa, *_ = p.kalman(x, P, 0)
    # The inputs of a call are the forecast itself: 200 independent draws are one compiled loop.
    method, root, draws = EnKF(), np.linalg.cholesky(Pf), 200
    runner = Runner(method, lambda forecast: Problem(6, lambda x, k: forecast), keep=("analysis",), fused=False)
    seen = Seen(*[None if a is None else np.tile(a[None], (draws, *[1] * a.ndim)) for a in p.seen()])
    sizes, errors = np.array([20, 80, 320]), []
    for members in sizes:
        forecasts = p.rng.normal(size=(draws, members, 6)) @ root.T
        e = [runner.draws(i, members, 6, 4, 1)["perturbation"] for i in range(draws)]
        state = {"ensemble": forecasts[0]}
        analyses = np.asarray(runner.calls(state, seen, {"perturbation": np.stack(e)}, forecasts)[1]["analysis"])[:, 0]
        covariances = np.stack([np.cov(a.T) for a in analyses])
        errors.append([np.sqrt(np.mean((analyses.mean(1) - best) ** 2)), np.sqrt(np.mean((covariances - Pa) ** 2))])
    slopes = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    np.testing.assert_allclose(slopes, -0.5, atol=0.05)


def test_rotations_keep_mean_and_covariance_and_are_uniform():
    rng, members = np.random.default_rng(0), 7
    found = np.stack([_members.rotation(rng, members) for _ in range(2000)])
    np.testing.assert_allclose(found @ np.swapaxes(found, 1, 2), np.broadcast_to(np.eye(7), found.shape), atol=1e-14)
    np.testing.assert_allclose(found.sum(axis=2), 1.0, atol=1e-14)
    # Haar on the complement of the mean: E[O] = 1 1^T / N, and the trace has variance 1.
    np.testing.assert_allclose(found.mean(axis=0), 1 / 7, atol=0.05)
    np.testing.assert_allclose(np.trace(found, axis1=1, axis2=2).var(), 1.0, atol=0.1)

    p = Linear(6, 4)
    ensemble = p.rng.normal(size=(7, 6))
    plain, turned = (
        call(m, p.problem, ensemble, p.seen(), drawn(m, 7, 4))[0]["ensemble"] for m in (ETKF(rotate=False), ETKF())
    )
    for a, b in zip(moments(plain), moments(turned), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)
    assert np.abs(plain - turned).max() > 0.1


def weight(gap, period, radius):
    with _backend.float64():
        return np.asarray(gaspari_cohn(np.minimum(gap, period - gap), radius * np.sqrt(10 / 3)))


def local_by_brute_force(p, ensemble, radius):
    forecast = ensemble @ p.M.T
    mean, members = forecast.mean(0), len(forecast)
    A = forecast - mean
    Y, innovation = A @ p.H.T, p.d[0] - mean @ p.H.T
    analysis = np.empty_like(forecast)
    for j, place in enumerate(p.problem.geometry.positions[:, 0]):
        gap = np.abs(place - p.sites[:, 0])
        rho = weight(gap, p.n, radius)
        values, V = np.linalg.eigh((Y * rho / p.std**2) @ Y.T + (members - 1) * np.eye(members))
        w = V / values @ V.T @ (Y * rho / p.std**2) @ innovation
        T = V / np.sqrt(values / (members - 1)) @ V.T
        analysis[:, j] = mean[j] + w @ A[:, j] + T @ A[:, j]
    return analysis


@pytest.mark.parametrize("places", [None, [0.0, 1, 1, 2, 4, 4, 4, 7, 7]], ids=["one element", "several elements"])
def test_letkf_is_one_analysis_for_each_place(places, monkeypatch):
    p = Linear(9, 12, seed=3)
    if places:
        geometry = dataclasses.replace(p.problem.geometry, positions=np.array(places)[:, None])
        p.problem = dataclasses.replace(p.problem, geometry=geometry)
    ensemble, method = p.rng.normal(size=(5, 9)), LETKF(radius=0.8, rotate=False)
    expected = local_by_brute_force(p, ensemble, 0.8)
    found = call(method, p.problem, ensemble, p.seen())[0]["ensemble"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    # Enough of the nearest reach as far as the taper does: the others count for nothing.
    gap = np.abs(p.problem.geometry.positions - p.sites.T)
    needed = int((np.minimum(gap, 9 - gap) < 2 * 0.8 * np.sqrt(10 / 3)).sum(1).max())
    assert needed < 12
    nearest = dataclasses.replace(method, nearest=needed)
    np.testing.assert_allclose(call(nearest, p.problem, ensemble, p.seen())[0]["ensemble"], expected, atol=1e-12)
    monkeypatch.setattr(letkf, "BLOCK", 2 * 25)
    blocks = call(method, p.problem, ensemble, p.seen())[0]["ensemble"]
    np.testing.assert_allclose(blocks, expected, rtol=0, atol=1e-12)


def test_letkf_of_infinite_radius_is_the_etkf():
    p = Linear(6, 8)
    ensemble = p.rng.normal(size=(5, 6))
    draws = drawn(ETKF(), 5, 8)
    a, b = (call(m, p.problem, ensemble, p.seen(), draws)[0]["ensemble"] for m in (ETKF(), LETKF(radius=np.inf)))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", [EnKF(radius=1.5), EnSRF(radius=1.5)], ids=["EnKF", "EnSRF"])
def test_localised_covariances(method):
    p = Linear(6, 4)
    ensemble = p.rng.normal(size=(5, 6))
    draws = drawn(method, 5, 4)
    state, out = call(method, p.problem, ensemble, p.seen(), draws)
    forecast = ensemble @ p.M.T
    P = np.cov(forecast.T)

    def rho(a, b):
        gap = np.abs(a - b.T)
        return weight(gap, 6, 1.5)

    S = p.H @ P @ p.H.T * rho(p.sites, p.sites) + np.diag(p.std**2)
    K = P @ p.H.T * rho(p.places, p.sites) @ np.linalg.inv(S)
    innovation = p.d[0] - forecast.mean(0) @ p.H.T
    np.testing.assert_allclose(moments(state["ensemble"])[0], forecast.mean(0) + K @ innovation, rtol=0, atol=1e-12)
    np.testing.assert_allclose(out.chi2[0], innovation @ np.linalg.solve(S, innovation) / 4, rtol=1e-12)
    if isinstance(method, EnKF):
        expected = forecast + (p.d[0] + p.std * draws["perturbation"][0] - forecast @ p.H.T) @ K.T
        np.testing.assert_allclose(state["ensemble"], expected, rtol=0, atol=1e-12)


def curved(x):
    return x / ops.sqrt(1.0 + x * x)


METHODS = [
    EnKF(),
    EnKF(radius=1.5),
    EnSRF(),
    EnSRF(radius=1.5),
    ETKF(rotate=False),
    LETKF(radius=1.5, rotate=False),
    LETKF(radius=1.5, nearest=3, rotate=False),
    EnKFN(rotate=False),
]


@pytest.mark.parametrize("members", [4, 9])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_missing_observations_are_removed_ones_and_none_leave_the_forecast(method, members):
    p = Linear(6, 5, gross_error=4.0)
    ensemble, keep = p.rng.normal(size=(members, 6)), np.array([0, 3, 4])
    p.d[0, 1], p.d[0, 2], p.std[1] = np.nan, 1e3, np.nan
    draws = drawn(method, members, 5)
    less = {name: a[..., keep] if name == "perturbation" else a for name, a in draws.items()}
    state, out = call(method, p.problem, ensemble, p.seen(), draws)
    fewer, other = call(method, p.problem, ensemble, p.seen(keep=keep), less)
    np.testing.assert_allclose(state["ensemble"], fewer["ensemble"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(out.chi2, other.chi2, rtol=1e-11)
    assert out.used[0] == 3 and out.rejected[0] == 1
    assert np.array_equal(np.isnan(out.innovation_std[0]), [False, True, False, False, False])
    p.d[0] = np.nan
    state, out = call(method, p.problem, ensemble, p.seen(), draws)
    np.testing.assert_allclose(state["ensemble"], out.forecast[0], rtol=0, atol=1e-14)
    assert np.isnan(out.chi2[0]) and out.used[0] == 0


@pytest.mark.parametrize(
    "method, members", [*itertools.product(METHODS, (4, 9)), (Kalman(initial_error=0.7), 1)], ids=str
)
def test_gradients_through_an_analysis(method, members):
    """In the ensemble, the observations, their error and the model: degenerate eigenvalues are among the cases."""
    p = Linear(6, 5, model_error=None)
    p.d[0, 1] = np.nan
    draws, upstream = drawn(method, members, 5), p.rng.normal(size=(members, 6))
    x0 = np.concatenate([p.rng.normal(size=upstream.size), np.nan_to_num(p.d[0]), p.std, [1.0]])
    size = upstream.size

    @quick
    def loss(x):
        ensemble = ops.reshape(x[:size], upstream.shape)
        values = ops.where(np.isfinite(p.d), x[None, size : size + 5], np.nan)
        seen = p.seen()._replace(values=values, error_std=x[None, size + 5 : size + 10])
        problem = dataclasses.replace(p.problem, propagate=lambda e, k: x[-1] * curved(e @ p.M.T))
        state, out = method(problem, method.start(problem, ensemble), seen, draws)
        return ops.sum(upstream * state["ensemble"]) + out.chi2[0]

    direction = p.rng.normal(size=x0.shape)
    _, gradient = _backend.value_and_gradient(loss, x0)
    assert np.isfinite(gradient).all() and gradient[size + 1] == 0

    def at(step):
        with _backend.float64():
            return float(loss(ops.convert_to_tensor(x0 + step * direction)))

    h = 2e-3
    slope = (45 * (at(h) - at(-h)) - 9 * (at(2 * h) - at(-2 * h)) + (at(3 * h) - at(-3 * h))) / (60 * h)
    np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-6)


def test_inflation_relaxation_and_model_error():
    p = Linear(6, 4, model_error=bind(0.5, 6))
    ensemble = p.rng.normal(size=(8, 6))
    methods = [ETKF(rotate=False, **how) for how in ({}, {"inflation": 1.2}, {"relaxation": 1.0}, {"relaxation": 0.3})]
    noise = drawn(methods[0], 8, 4, noise=6)
    outs = [call(m, p.problem, ensemble, p.seen(), noise)[1] for m in methods]
    np.testing.assert_allclose(outs[0].forecast[0], ensemble @ p.M.T + 0.5 * noise["model_error"][0], atol=1e-14)
    spreads = [out.analysis[0].std(0) for out in outs]
    before = outs[0].forecast[0].std(0)
    np.testing.assert_allclose(spreads[1], 1.2 * spreads[0], rtol=1e-12)
    np.testing.assert_allclose(spreads[2], before, rtol=1e-12)
    np.testing.assert_allclose(spreads[3], 0.7 * spreads[0] + 0.3 * before, rtol=1e-12)
    for out in outs:
        np.testing.assert_allclose(out.analysis[0].mean(0), outs[0].analysis[0].mean(0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", [EnSRF(radius=1.5), LETKF(radius=1.5, rotate=False), LETKF(radius=1.5, nearest=3)])
def test_a_missing_observation_may_have_no_place(method):
    p = Linear(6, 4)
    ensemble = p.rng.normal(size=(5, 6))
    seen, draws = p.seen(), drawn(method, 5, 4)
    values, positions = np.array(seen.values), np.array(seen.positions)
    values[0, 1] = np.nan
    seen = seen._replace(values=values)
    positions[0, 1] = np.nan
    placed, lost = (call(method, p.problem, ensemble, s, draws)[0] for s in (seen, seen._replace(positions=positions)))
    np.testing.assert_array_equal(lost["ensemble"], placed["ensemble"])


def test_localisation_without_places_is_refused():
    p = Linear(6, 4)
    seen = p.seen()._replace(positions=None)
    with pytest.raises(ValueError, match=r"localisation needs distances.*no positions of the observations"):
        call(LETKF(radius=1.0, rotate=False), p.problem, p.rng.normal(size=(4, 6)), seen)
    with pytest.raises(ValueError, match="radius is not positive"):
        LETKF(radius=0.0)
    with pytest.raises(ValueError, match="nearest is no number"):
        LETKF(radius=1.0, nearest=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ETKF(inflation=-1.0), "ETKF: inflation is not positive"),
        (lambda: LETKF(radius=1.0, relaxation=60), "LETKF: relaxation is not between 0 and 1"),
        (lambda: EnSRF(radius=-2.0), "EnSRF: radius is not positive"),
    ],
)
def test_parameters_beyond_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
