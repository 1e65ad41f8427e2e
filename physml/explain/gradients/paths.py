"""Gradients along straight paths from baseline to sample: integrated and expected gradients.

``phi_i = mean over baselines b of (x_i - b_i) * integral over t in [0, 1] of df/dx_i (b + t (x - b)) dt``

These are the Aumann-Shapley values of the game in which every input comes in at one rate, not Shapley values: the two agree
where f is a sum of functions of one input each, and for products of inputs that are symmetric. The attributions of a sample
add up to ``f(x) - mean f(b)`` as far as the integral is exact; what is missing is the completeness residual.

References
----------
Sundararajan, M., A. Taly and Q. Yan, 2017: Axiomatic attribution for deep networks. ICML. doi:10.48550/arXiv.1703.01365
Erion, G. et al., 2021: Improving performance of deep learning models with axiomatic attribution priors and expected
gradients. Nature Machine Intelligence 3, 620-631. doi:10.1038/s42256-021-00343-w
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from physml._errors import closest, describe
from physml.explain.gradients.rows import Moments, Rows, in_batches, spans

STEPS = ("gauss", "midpoint", "stratified")


@dataclass(frozen=True)
class Plan:
    """Points on the paths of every sample, ``[sample, replicate, point]``.

    Attributes
    ----------
    at
        Position on the path: 0 at the baseline, 1 at the sample.
    weight
        Weights of the points; those of a replicate add up to one.
    row
        Baseline row at which the path begins.
    """

    at: np.ndarray
    weight: np.ndarray
    row: np.ndarray


@functools.lru_cache(maxsize=16)
def nodes(rule: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points in [0, 1] and weights of a rule of integration: ``"gauss"`` (Legendre) or ``"midpoint"``.

    Gauss-Legendre with n points is exact where f is a polynomial of degree 2 n along the path; midpoints are as good for networks with
    kinks (ReLU), whose gradient jumps.

    Examples
    --------
    >>> at, weight = nodes("gauss", 2)
    >>> float((weight * at**3).sum().round(12))
    0.25
    """
    if rule == "midpoint":
        return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    at, weight = np.polynomial.legendre.leggauss(steps)
    return (at + 1) / 2, weight / 2


def integrated_plan(index: np.ndarray, rule: str, steps: int, seed: int, numbers: np.ndarray) -> Plan:
    """Return *steps* points on the path from every baseline row of every sample.

    Parameters
    ----------
    index
        Baseline rows of each sample ``[sample, slot]``.
    rule, steps
        ``"gauss"``, ``"midpoint"`` or ``"stratified"`` (one random point in each of *steps* equal parts), and how many points.
    seed, numbers
        For ``"stratified"``: seed, and number of each sample among all.
    """
    n, slots = index.shape
    if rule not in STEPS:
        raise ValueError(
            describe(
                f"steps by {rule!r} are unknown{closest(rule, STEPS)}",
                expected=" or ".join(map(repr, STEPS)),
                received=repr(rule),
                remedy="leave it out for 'gauss'",
            )
        )
    if rule == "stratified":
        drawn = [np.random.default_rng((seed, int(k))).random((slots, steps)) for k in numbers]
        at = (np.arange(steps) + np.array(drawn)) / steps
        weight = np.full_like(at, 1 / steps)
    else:
        at, weight = (np.broadcast_to(a, (n, slots, steps)) for a in nodes(rule, steps))
    whole = (n, 1, slots * steps)
    return Plan(at.reshape(whole), weight.reshape(whole) / slots, np.repeat(index, steps, axis=1).reshape(whole))


def expected_plan(index: np.ndarray, steps: int, replicates: int, seed: int, numbers: np.ndarray) -> Plan:
    """Return random points for expected gradients: a baseline row drawn for each, and one point in each of *steps* equal parts.

    Replicates are drawn alike and independently, so that their spread gives the standard error of their mean. Within one, the
    baseline rows are dealt evenly: with as many steps as rows each comes once.
    """
    shape = (replicates, steps)
    at, rows = np.zeros((len(index), *shape)), np.zeros((len(index), *shape), int)
    for s, (number, own) in enumerate(zip(numbers, index, strict=True)):
        rng = np.random.default_rng((seed, int(number)))
        rounds = -(-steps // len(own))
        dealt = rng.permuted(np.tile(own, (replicates, rounds, 1)), axis=2).reshape(replicates, -1)[:, :steps]
        # Shuffled once more, or the rows of a round would meet one end of the path together.
        rows[s] = rng.permuted(dealt, axis=1)
        at[s] = (np.arange(steps) + rng.random(shape)) / steps
    return Plan(at, np.full(at.shape, 1 / steps), rows)


def along(
    gradient: Rows, inputs: np.ndarray, rows: np.ndarray, plan: Plan, batch_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return attributions and standard errors ``[sample, *space, channel]`` in float64.

    Parameters
    ----------
    gradient
        Gradient of rows ``[batch_rows, *space, channel]``.
    inputs
        Samples ``[sample, *space, channel]``.
    rows
        Baseline rows ``[row, *space, channel]``.
    plan
        Points on the paths.
    batch_rows
        Rows in a batch.
    """
    inputs, rows = inputs.astype("float64"), rows.astype("float64")
    n, replicates, points = plan.at.shape
    each = replicates * points
    at, weight, row = (a.reshape(-1) for a in (plan.at, plan.weight, plan.row))
    found = [Moments(inputs.shape[1:]) for _ in range(n)]
    partial = np.zeros(inputs.shape[1:])
    column = (-1, *(1 for _ in inputs.shape[1:]))

    def make(numbers: np.ndarray) -> np.ndarray:
        start = rows[row[numbers]]
        return start + at[numbers].reshape(column) * (inputs[numbers // each] - start)

    for numbers, slopes in in_batches(gradient, make, n * each, batch_rows):
        for key, here in spans(numbers // points):
            own = numbers[here]
            path = inputs[key // replicates] - rows[row[own]]
            path *= weight[own].reshape(column)
            partial += np.einsum("r...,r...->...", path, slopes[here])
            if own[-1] % points == points - 1:
                found[key // replicates].add(partial)
                partial = np.zeros(inputs.shape[1:])
    return np.array([m.mean for m in found]), np.array([m.stderr for m in found])
