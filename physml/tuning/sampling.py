"""How the parameters of a trial are drawn, as a function of the seed, its number and the trials before it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from physml._errors import closest, refuse

METHODS = ("grid", "random", "bayesian")
PRUNERS = ("median", "hyperband")
STARTUP = 10
"""Trials of a Bayesian search that are drawn at random."""


def seed_of(*numbers: int) -> int:
    """Return a seed of 32 bits that belongs to these numbers.

    Examples
    --------
    >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
    (True, False)
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Seeded(BaseSampler):
    """A sampler made anew for each trial, so that what it draws does not depend on which process drew before.

    Parameters
    ----------
    make
        Returns a sampler for a seed.
    seed
        Seed of the search.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self.make, self.seed = make, seed
        self.inner = make(seed)

    def before_trial(self, study: Any, trial: Any) -> None:
        """Make the sampler of this trial."""
        self.inner = self.make(seed_of(self.seed, trial.number))
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        """Return what is drawn together."""
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Return what is drawn together."""
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: BaseDistribution) -> Any:
        """Return one parameter."""
        return self.inner.sample_independent(study, trial, param_name, param_distribution)


class Listed(BaseSampler):
    """The points of a grid in an order drawn from the seed, one for each number of a trial."""

    def __init__(self, points: Sequence[Mapping[str, Any]], seed: int) -> None:
        order = np.random.default_rng([seed, len(points)]).permutation(len(points))
        self.points = [points[i] for i in order]

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        """Return nothing: all is known."""
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Return nothing: all is known."""
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: BaseDistribution) -> Any:
        """Return the parameter of the point."""
        return self.points[trial.number][param_name]


def make_sampler(method: str, seed: int, points: Sequence[Mapping[str, Any]] | None) -> BaseSampler:
    """Return the sampler of a method: points of a grid, random numbers, or tree-structured Parzen estimators.

    References
    ----------
    Bergstra, J., Bardenet, R., Bengio, Y., Kegl, B. (2011), Algorithms for hyper-parameter optimization, NIPS 24.
    """
    if method == "grid":
        return Listed(points or [], seed)
    if method == "random":
        return Seeded(lambda s: RandomSampler(seed=s), seed)
    return Seeded(_parzen, seed)


def _parzen(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        # Whether drawing all parameters together counts as an experiment depends on the version of Optuna.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)


def make_pruner(prune: Any, rungs: int) -> BasePruner | None:
    """Return the pruner of that name for trials of so many reports, or the one given.

    Raises
    ------
    ValueError
        For unknown names.
    """
    if prune is None or isinstance(prune, BasePruner):
        return prune
    if prune == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=0)
    if prune == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=max(rungs, 2), reduction_factor=3)
    refuse(
        f"search: unknown pruning {prune!r}{closest(prune, PRUNERS)}",
        f"None, {', '.join(map(repr, PRUNERS))}, or a pruner of Optuna",
        repr(prune),
        "prune='median'",
    )
