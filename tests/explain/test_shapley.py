"""Estimators solve games with known answers, whatever makes the values."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physml.explain import Exact, ExactOwen, PairedKernel, PairedPaths, PairedPermutations, shapley_values
from physml.explain.shapley.coalitions import kernel_mass, sizes_in_turn
from physml.explain.shapley.designs import all_coalitions
from physml.explain.shapley.exact import shapley_matrix
from physml.explain.shapley.permutations import spread_orders
from physml.explain.shapley.sweep import t_quantile


def table(values):
    """Return the game whose value for coalition T is ``values[T]``."""
    return lambda members: np.asarray(values)[members @ (1 << np.arange(members.shape[1]))]


def by_definition(values, n):
    """Return the mean marginal contribution over all orders."""
    phi = np.zeros(n)
    for order in itertools.permutations(range(n)):
        held = 0
        for i in order:
            phi[i] += values[held | 1 << i] - values[held]
            held |= 1 << i
    return phi / math.factorial(n)


def games(players=None):
    return (st.integers(1, 5) if players is None else players).flatmap(
        lambda n: st.lists(st.floats(-10, 10, width=32), min_size=2**n, max_size=2**n).map(np.array)
    )


def test_glove_game():
    phi, stderr = shapley_values(lambda s: np.minimum(s[:, 0] | s[:, 1], s[:, 2]) * 1.0, 3)
    np.testing.assert_allclose(phi, [1 / 6, 1 / 6, 4 / 6], rtol=1e-14)
    assert not stderr.any()


def test_interaction_is_shared_equally():
    phi, _ = shapley_values(lambda s: 6.0 * s[:, 0] * s[:, 1] * s[:, 2] + 1.0 * s[:, 3], 4)
    np.testing.assert_allclose(phi, [2, 2, 2, 1], rtol=1e-14)


@given(games())
def test_exact_values_are_the_mean_over_all_orders_and_efficient(values):
    n = int(math.log2(len(values)))
    phi, _ = shapley_values(table(values), n)
    np.testing.assert_allclose(phi, by_definition(values, n), atol=1e-12)
    np.testing.assert_allclose(phi.sum(), values[-1] - values[0], atol=1e-12)


@settings(max_examples=30)
@given(games(st.just(3)), st.floats(-3, 3))
def test_a_dummy_changes_nobody(values, worth):
    with_dummy = np.concatenate([values, values + worth])
    phi, _ = shapley_values(table(with_dummy), 4)
    np.testing.assert_allclose(phi, [*shapley_values(table(values), 3)[0], worth], atol=1e-12)


UNIONS = (("a", "b", "a", "b"),)


@pytest.mark.parametrize("unions", [(), UNIONS])
@settings(max_examples=20)
@given(games(st.just(4)), st.permutations(range(4)))
def test_names_do_not_matter(unions, values, order):
    exact = lambda u: ExactOwen(u) if u else Exact()  # noqa: E731
    renamed = table(values)(all_coalitions(4)[:, order])
    unions_renamed = tuple(tuple(np.array(level)[np.argsort(order)].tolist()) for level in unions)
    np.testing.assert_allclose(
        shapley_values(table(renamed), 4, exact(unions_renamed))[0],
        shapley_values(table(values), 4, exact(unions))[0][np.argsort(order)],
        atol=1e-12,
    )


ESTIMATORS = [
    Exact(),
    ExactOwen(UNIONS),
    PairedPermutations(3, 5),
    PairedPermutations(3, 5, UNIONS),
    PairedKernel(9, 5),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.name)
@settings(max_examples=12)
@given(games(st.just(4)), games(st.just(4)), st.floats(-3, 3))
def test_every_estimate_is_efficient_linear_and_gives_a_dummy_its_worth(estimator, a, b, scale):
    phi = {k: shapley_values(table(v), 4, estimator)[0] for k, v in {"a": a, "b": b, "both": a + scale * b}.items()}
    np.testing.assert_allclose(phi["a"].sum(), a[-1] - a[0], atol=1e-11)
    np.testing.assert_allclose(phi["both"], phi["a"] + scale * phi["b"], atol=1e-10)
    if not isinstance(estimator, PairedKernel):  # which gives it in the mean, with an error
        dummy = np.concatenate([a[:8], a[:8] + scale])
        np.testing.assert_allclose(shapley_values(table(dummy), 4, estimator)[0][3], scale, atol=1e-11)


@pytest.mark.parametrize("estimator", [PairedPermutations(2, 0), PairedKernel(12, 0)], ids=lambda e: e.name)
def test_pairs_are_exact_where_pairs_of_players_interact(estimator):
    def value(s):
        x = s * np.arange(1.0, 7.0)
        return x.sum(1) + x[:, 0] * x[:, 1] - 2 * x[:, 2] * x[:, 5]

    phi, stderr = shapley_values(value, 6, estimator)
    np.testing.assert_allclose(phi, shapley_values(value, 6)[0], rtol=1e-12)
    np.testing.assert_allclose(stderr, 0, atol=1e-12)


@pytest.mark.parametrize(
    "estimator, dof",
    [(PairedPermutations, lambda p: p - 1), (lambda p, s: PairedKernel(9 * p, s), lambda p: 9 * (p - 1))],
    ids=["permutations", "kernel"],
)
@pytest.mark.parametrize("pairs", [5, 20, 45])
def test_estimates_are_unbiased_and_their_intervals_cover(estimator, dof, pairs):
    n, draws = 10, 200
    rng = np.random.default_rng(0)
    inputs, hidden, out = rng.normal(size=n), rng.normal(size=(n, 32)) / 2, rng.normal(size=32)

    def network(members):
        return np.tanh((members * inputs) @ hidden) @ out

    truth = shapley_values(network, n)[0]
    drawn = np.array([shapley_values(network, n, estimator(pairs, seed)) for seed in range(draws)])
    error, stderr = drawn[:, 0] - truth, drawn[:, 1]
    assert (np.abs(error.mean(0)) < 4 * error.std(0) / np.sqrt(draws)).all()
    covered = np.abs(error) < t_quantile(dof(pairs), 0.95) * stderr
    assert 0.93 < covered.mean() < 0.97
    if pairs > 5:
        np.testing.assert_allclose((stderr**2).mean() / error.var(0).mean(), 1, atol=0.15)


def test_differences_between_baseline_rows_are_no_error_of_their_mean():
    """Each of three rows makes another additive game: dealt evenly, their mean is known exactly."""
    from physml.explain.shapley.gathering import Accumulator

    worth = np.array([[1.0, 2, 3], [-5, 0, 1], [2, 2, 9]])
    estimator = PairedPermutations(6, 0)
    design = estimator.design(3, 3)
    gathering = estimator.gathering(3, 3, 1)
    full = worth.sum(1).mean(keepdims=True)
    # v(all) is the same for all rows, so that v() differs.
    empty = full - worth.sum(1)[:, None]
    values = empty[design.slot] + (design.coalitions * worth[design.slot]).sum(1)[:, None]
    Accumulator(design, full, empty, gathering).add(values)
    phi, stderr, dof = gathering.result(full, empty)
    np.testing.assert_allclose(phi[:, 0], worth.mean(0), atol=1e-14)
    np.testing.assert_allclose(stderr, 0, atol=1e-14)
    assert dof == 3


def test_the_kernel_knows_that_baseline_rows_differ_in_what_there_is_to_share():
    from physml.explain.shapley.gathering import Accumulator

    worth = np.array([1.0, 2, 4, 8]) + np.array([[0.0], [-5], [20]])
    estimator = PairedKernel(12, 0)
    design, gathering = estimator.design(4, 3), estimator.gathering(4, 3, 1)
    empty = -worth.sum(1)[:, None]
    values = empty[design.slot] + (design.coalitions * worth[design.slot]).sum(1)[:, None]
    Accumulator(design, np.zeros(1), empty, gathering).add(values)
    phi, stderr, _ = gathering.result(np.zeros(1), empty)
    np.testing.assert_allclose(phi[:, 0], worth.mean(0), rtol=1e-13)
    np.testing.assert_allclose(stderr, 0, atol=1e-12)


def test_the_kernel_is_exact_with_all_coalitions_and_takes_none_twice():
    values = np.random.default_rng(0).normal(size=32)
    kernel = PairedKernel(15, 3)
    phi, stderr = shapley_values(table(values), 5, kernel)
    np.testing.assert_allclose(phi, shapley_values(table(values), 5)[0], rtol=1e-11)
    assert not stderr.any()
    assert len(np.unique(kernel.design(5, 1).coalitions, axis=0)) == 30
    parts = [kernel.design(6, 1, 4, pairs=n, start=s).coalitions for s, n in ((0, 9), (9, 4), (13, 18))]
    assert len(np.unique(np.concatenate(parts), axis=0)) == 62


@pytest.mark.parametrize("once", [True, False])
def test_more_coalitions_never_mean_fewer_of_one_size(once):
    shares = kernel_mass(9)
    np.testing.assert_allclose(shares * [8, 14, 18, 20], shares[0] * 8, rtol=1e-14)
    counts = np.array([np.bincount(sizes_in_turn(9, n, once), minlength=5)[1:] for n in range(1, 256)])
    assert (np.diff(counts, axis=0) >= 0).all()
    np.testing.assert_array_equal(counts.sum(1), np.arange(1, 256))
    if not once:
        assert (abs(counts - shares * np.arange(1, 256)[:, None]) < 1.5).all()


def test_coalitions_that_are_alike_have_no_error_that_is_known():
    kernel = PairedKernel(5, 0)
    design = kernel.design(5, 1)
    gathering = kernel.gathering(5, 1, 1)
    for _ in range(4):
        gathering.add(np.ones((1, 1, 1)), design, 0)
    phi, stderr, _ = gathering.result(np.array([3.0]), np.zeros((1, 1)))
    np.testing.assert_allclose(phi.sum(), 3, rtol=1e-14)
    assert np.isinf(stderr).all()


@pytest.mark.parametrize("estimator", [PairedPermutations(9), PairedKernel(60), PairedPaths(2)], ids=lambda e: e.name)
def test_plans_take_the_memory_they_say(estimator):
    design = estimator.design(40, 1, 0)
    held = design.coalitions.nbytes + design.weights.nbytes
    held += 0 if design.regressors is None else design.regressors.nbytes
    assert 0.3 < held / len(design.coalitions) / estimator.row_bytes(40) <= 1.1


def test_permutations_cost_what_they_say():
    design = PairedPermutations(7, 0).design(15, 1)
    assert len(design.coalitions) == 2 * 7 * (15 - 1)
    assert design.coalitions.any(1).all()
    assert not design.coalitions.all(1).any()


@pytest.mark.parametrize("n", [1, 5, 12])
def test_the_first_orders_bring_everyone_everywhere(n):
    orders = spread_orders(np.random.default_rng(0), 20, n)
    assert orders.shape == (20, n)
    first = PairedPermutations(20, 0).design(12, 1).coalitions.reshape(20, 2, 11, 12).sum(2)[:6].reshape(12, 12)
    np.testing.assert_array_equal(np.sort(first, axis=0), np.tile(np.arange(12)[:, None], 12))


def test_all_orders_are_as_likely():
    drawn = np.concatenate([spread_orders(np.random.default_rng(s), 2, 4).argsort(1) for s in range(1200)])
    _, count = np.unique(drawn, axis=0, return_counts=True)
    assert len(count) == 24
    assert (
        (count - 100) ** 2 / 100
    ).sum() < 50  # chi square with 23 degrees of freedom; pairs of orders exclude each other


def test_several_baseline_rows_are_dealt_evenly_and_values_stay_their_mean():
    dealt = PairedPermutations(10, 0).design(4, 4)
    np.testing.assert_array_equal(np.bincount(dealt.slots[:, 0]), [3, 3, 3, 3])
    every = Exact().design(4, 3)
    np.testing.assert_array_equal(np.bincount(every.slot), [14, 14, 14])
    inner = shapley_matrix(4)[:, 1:-1].T
    np.testing.assert_allclose(sum(every.weights[every.slot == i] for i in range(3)), inner, rtol=1e-14)


def test_rows_of_the_matrix_sum_to_zero_and_split_the_whole():
    m = shapley_matrix(5)
    np.testing.assert_allclose(m.sum(1), 0, atol=1e-15)
    np.testing.assert_allclose(m[:, -1], 0.2)


def test_too_many_players_and_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match=r"13 groups make 8192 coalitions.*at most 12.*merge groups.*permutations"):
        Exact().design(13, 1)
    with pytest.raises(ValueError, match="pairs are too few for a standard error"):
        PairedPermutations(1)
    with pytest.raises(ValueError, match=r"7 pairs are too few for the 8 unknowns.*pairs=80"):
        PairedKernel(7).design(8, 1)
