"""Shapley values of a model's prediction, for groups of its inputs.

An *estimator* knows nothing of models: it plans which coalitions are valued (a :class:`Design`) and turns their values
into Shapley values. The :class:`physml.explain.Explainer` values them with a model; :func:`attribute` labels the result.

References
----------
Shapley, L. S. (1953), A value for n-person games, doi:10.1515/9781400881970-018.
Mitchell, R. et al. (2022), Sampling permutations for Shapley value estimation, arXiv:2104.12199.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import xarray as xr

from physml._errors import closest, describe
from physml.explain.blocks import Block, over_samples, samples_at_a_time
from physml.explain.game import Request, coalition_values, default_rows
from physml.explain.result import Part, label

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer

EXACT_LIMIT = 12
"""Number of groups up to which all 2^G coalitions are valued by default."""


@dataclass(frozen=True, eq=False)
class Design:
    """Which coalitions are valued, and how their values make Shapley values.

    The empty and the full coalition are always valued, and not listed. Shapley values are a mean over replicates:
    ``phi_r = weights_r^T v_r + ends_r (v(all) - mean of v(none) over slots_r)``; their spread is the standard error.

    Attributes
    ----------
    coalitions
        Members, ``[row, group]`` booleans.
    slot
        Which of the sample's baseline rows fills the absent groups, ``[row]``.
    weights
        ``[row, group]``.
    bounds
        First row of each replicate, and the number of rows, ``[replicate + 1]``.
    ends
        ``[replicate, group]``.
    slots
        Baseline rows in each replicate, ``[replicate, n]``.
    """

    coalitions: np.ndarray
    slot: np.ndarray
    weights: np.ndarray
    bounds: np.ndarray
    ends: np.ndarray
    slots: np.ndarray


class Estimator(Protocol):
    """What plans the coalitions of each sample; its name and seed are recorded with the result."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def seed(self) -> int | str: ...  # noqa: D102
    def design(self, n_groups: int, n_slots: int, sample: int) -> Design:
        """Return the plan for one sample; all samples have the same number of rows."""


@dataclass(frozen=True)
class Exact:
    """All 2^G coalitions: the Shapley values themselves.

    Parameters
    ----------
    limit
        Largest number of groups that is accepted.
    """

    limit: int = EXACT_LIMIT
    name = "exact Shapley values"
    seed = "none"

    def design(self, n_groups: int, n_slots: int, sample: int = 0) -> Design:
        """Return all coalitions with every baseline row."""
        if n_groups > self.limit:
            raise ValueError(
                describe(
                    f"{n_groups} groups make {2**n_groups} coalitions for each sample and baseline row",
                    expected=f"at most {self.limit} groups for exact Shapley values",
                    received=n_groups,
                    remedy="merge groups (groups.merge({'new': [names]})), or method='permutations'",
                )
            )
        return _exact(n_groups, n_slots)


@functools.lru_cache(maxsize=4)
def _exact(n_groups: int, n_slots: int) -> Design:
    inner = slice(1, 2**n_groups - 1)
    coalitions = all_coalitions(n_groups)[inner]
    weights = shapley_matrix(n_groups)[:, inner].T / n_slots
    return Design(
        coalitions=np.tile(coalitions, (n_slots, 1)),
        slot=np.repeat(np.arange(n_slots), len(coalitions)),
        weights=np.tile(weights, (n_slots, 1)),
        bounds=np.array([0, n_slots * len(coalitions)]),
        ends=np.full((1, n_groups), 1 / n_groups),
        slots=np.arange(n_slots)[None],
    )


@dataclass(frozen=True)
class PairedPermutations:
    """Random orders of the groups, each with its reverse: unbiased, with a standard error, additive to round-off.

    Costs ``2 pairs (G - 1)`` model rows a sample. Each sample has its own orders. Several baseline rows are dealt evenly
    over the pairs, whose number is rounded up to a multiple of theirs.

    Parameters
    ----------
    pairs
        Number of orders drawn; at least 2, for the standard error. Below about ten its intervals are a little short.
    seed
        Seed of the draw.
    """

    pairs: int = 100
    seed: int = 0
    name = "Shapley values by paired permutations"

    def __post_init__(self) -> None:
        if self.pairs < 2:
            raise ValueError(
                describe(
                    "pairs are too few for a standard error",
                    expected=">= 2",
                    received=self.pairs,
                    remedy="pass pairs=100",
                )
            )

    def design(self, n_groups: int, n_slots: int, sample: int = 0) -> Design:
        """Return prefixes of random orders and of their reverses."""
        rng = np.random.default_rng([self.seed, sample])
        pairs = math.ceil(self.pairs / n_slots) * n_slots
        rank = rng.permuted(np.tile(np.arange(n_groups), (pairs, 1)), axis=1)
        both = np.stack([rank, n_groups - 1 - rank], axis=1)[:, :, None, :]
        size = np.arange(1, n_groups)[:, None]
        weights = 0.5 * (both == size - 1) - 0.5 * (both == size)
        slots = np.concatenate([rng.permutation(n_slots) for _ in range(pairs // n_slots)])
        rows = 2 * (n_groups - 1)
        return Design(
            coalitions=(both < size).reshape(-1, n_groups),
            slot=np.repeat(slots, rows),
            weights=weights.reshape(-1, n_groups),
            bounds=np.arange(pairs + 1) * rows,
            ends=0.5 * (rank == 0) + 0.5 * (rank == n_groups - 1),
            slots=slots[:, None],
        )


def all_coalitions(n_groups: int) -> np.ndarray:
    """Return every coalition as booleans ``[2^G, group]``; row T holds group i where bit i of T is set."""
    return (np.arange(2**n_groups)[:, None] >> np.arange(n_groups)) & 1 == 1


def shapley_matrix(n_groups: int) -> np.ndarray:
    """Return M with ``phi = M v``, ``[group, 2^G]``, for coalitions in the order of :func:`all_coalitions`.

    ``M_iT = (|T|-1)! (G-|T|)! / G!`` where T holds i, and ``-|T|! (G-|T|-1)! / G!`` where not.

    Examples
    --------
    >>> shapley_matrix(2) @ [0.0, 1.0, 2.0, 5.0]
    array([2., 3.])
    """
    members = all_coalitions(n_groups)
    share = np.array([1 / (n_groups * math.comb(n_groups - 1, k)) for k in range(n_groups)])
    size = members.sum(1, keepdims=True)
    return np.where(members, share[np.maximum(size - 1, 0)], -share[np.minimum(size, n_groups - 1)]).T


class Accumulator:
    """Shapley values of one sample, gathered from the values of its coalitions as they come.

    Parameters
    ----------
    design
        The plan.
    full
        Value of all groups together ``[out]``.
    empty
        Values of the baseline rows ``[slot, out]``.
    """

    def __init__(self, design: Design, full: np.ndarray, empty: np.ndarray) -> None:
        self.design, self.full, self.empty = design, full, empty
        shape = (design.ends.shape[1], full.size)
        self._partial, self._mean, self._squares = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._row = self._closed = 0

    def add(self, values: np.ndarray) -> None:
        """Take the values of the next rows of the design, ``[row, out]``."""
        while len(values):
            take = min(int(self.design.bounds[self._closed + 1]) - self._row, len(values))
            self._partial += self.design.weights[self._row : self._row + take].T @ values[:take]
            self._row += take
            values = values[take:]
            self._close()

    def _close(self) -> None:
        design = self.design
        while self._closed < len(design.ends) and self._row == design.bounds[self._closed + 1]:
            span = self.full - self.empty[design.slots[self._closed]].mean(0)
            phi = self._partial + design.ends[self._closed][:, None] * span
            self._closed += 1
            gap = phi - self._mean
            self._mean += gap / self._closed
            self._squares += gap * (phi - self._mean)
            self._partial[:] = 0

    @property
    def complete(self) -> bool:
        """Whether all rows of the design have come."""
        return self._row == len(self.design.coalitions)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return Shapley values and their standard errors, ``[group, out]``; zero error for one replicate."""
        self._close()
        n = self._closed
        return self._mean, np.sqrt(self._squares / max(n - 1, 1) / n)


def shapley_values(
    value: Callable[[np.ndarray], np.ndarray], n_players: int, estimator: Estimator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return Shapley values of any game and their standard errors, ``[player]`` or ``[player, out]``.

    Parameters
    ----------
    value
        Values ``[row]`` or ``[row, out]`` of coalitions ``[row, player]``.
    n_players
        Number of players.
    estimator
        Default: :class:`Exact`.

    Examples
    --------
    Two left gloves and one right one: a pair is worth 1.

    >>> phi, _ = shapley_values(lambda s: np.minimum(s[:, 0] | s[:, 1], s[:, 2]) * 1.0, 3)
    >>> (phi * 6).round(12)
    array([1., 1., 4.])
    """
    design = (estimator or Exact()).design(n_players, 1, 0)
    rows = np.vstack([np.ones(n_players, bool), np.zeros(n_players, bool), design.coalitions])
    values = np.asarray(value(rows), "float64")
    shape = values.shape[1:]
    values = values.reshape(len(rows), -1)
    gathered = Accumulator(design, values[0], values[1:2])
    gathered.add(values[2:])
    phi, stderr = gathered.result()
    return phi.reshape(n_players, *shape), stderr.reshape(n_players, *shape)


def attribute(
    explainer: Explainer,
    ds: xr.Dataset,
    method: str | Estimator = "auto",
    *,
    pairs: int = 100,
    seed: int = 0,
    batch_rows: int | None = None,
) -> xr.Dataset:
    """Return Shapley values; see :meth:`physml.explain.Explainer.shapley`."""
    players, measure, layout = explainer.players, explainer.measure, explainer.layout
    estimator = _estimator(method, len(players), pairs, seed)
    packed, beside = explainer.read(ds)
    slots = explainer.slots(packed)
    n_groups, n_samples = len(players), math.prod(packed.shape[: packed.get_axis_num(layout.spec.sample_dim) + 1])
    design = estimator.design(n_groups, slots, 0)
    each = 1 + len(design.coalitions)
    total = len(explainer.baseline.rows) + n_samples * each
    batch_rows = default_rows(4 * players.owner.size) if batch_rows is None else batch_rows
    if batch_rows < 1:
        raise ValueError(
            describe("batch_rows is not positive", expected=">= 1", received=batch_rows, remedy="leave it out")
        )
    parts = [
        Part("attribution", f"contribution to {measure.label}", {"group": n_groups}),
        Part("stderr", f"standard error of the contribution to {measure.label}", {"group": n_groups}),
        Part("residual", f"{measure.label} left over by the contributions"),
        Part("prediction", measure.label),
        Part("base_value", f"{measure.label} for the baseline"),
    ]
    depth = sum(p.depth for p in parts)
    at_a_time = samples_at_a_time(packed, layout.spec.sample_dim, depth * measure.valid.size)
    batch_rows = min(batch_rows, slots + at_a_time * each)
    values = over_samples(
        layout,
        packed,
        functools.partial(_explain, explainer, estimator, batch_rows),
        depth,
        measure.valid.size,
        baseline=explainer.baseline,
        beside=beside,
        at_a_time=at_a_time,
        title="Shapley values",
    )
    settings = {
        "method": estimator.name,
        "seed": estimator.seed,
        "replicates": len(design.ends),
        "baseline": explainer.baseline.name,
        "target": measure.label,
        "rows": total,
        "rows_per_sample": each,
    }
    return label(
        values,
        parts,
        layout=layout,
        measure=measure,
        packed=packed,
        coords=players.coords,
        settings=settings,
        attrs=ds.attrs,
        what=f"explained {measure.label} by {estimator.name}, baseline {explainer.baseline.name}",
    )


def _explain(explainer: Explainer, estimator: Estimator, batch_rows: int, block: Block) -> np.ndarray:
    """Return attribution, standard error, residual, prediction and base value of a block, ``[depth, sample, width]``."""
    measure, n_groups = explainer.measure, len(explainer.players)
    cells, n = np.flatnonzero(measure.valid), len(block.inputs)
    phi, stderr = np.full((2, n_groups, n, measure.valid.size), np.nan)
    prediction, base = np.full((2, n, measure.valid.size), np.nan)
    for s, done in _sweep(explainer, estimator, batch_rows, block):
        phi[:, s, cells], stderr[:, s, cells] = done.result()
        prediction[s, cells], base[s, cells] = done.full, done.empty.mean(0)
    return np.concatenate([phi, stderr, np.stack([prediction - base - phi.sum(0), prediction, base])])


def _sweep(
    explainer: Explainer, estimator: Estimator, batch_rows: int, block: Block
) -> Iterator[tuple[int, Accumulator]]:
    """Value the coalitions of every sample, and hand each sample on as soon as it is complete."""
    dtype = explainer.adapted.dtype or block.inputs.dtype
    background = block.rows.reshape(len(block.rows), -1).astype(dtype)
    n_groups, n_slots = len(explainer.players), block.index.shape[1]
    designs: dict[int, Design] = {}

    def requests() -> Iterator[Request]:
        nobody, all_rows = np.zeros((len(background), n_groups), bool), np.arange(len(background))
        yield Request(background[0], nobody, all_rows)
        for s, x in enumerate(block.inputs):
            design = designs[s] = estimator.design(n_groups, n_slots, int(block.numbers[s]))
            everybody = np.ones((1, n_groups), bool)
            slots = block.index[s][np.concatenate([[0], design.slot])]
            yield Request(x.ravel().astype(dtype), np.concatenate([everybody, design.coalitions]), slots)

    stream = coalition_values(
        requests(),
        background=background,
        owner=explainer.players.owner.ravel(),
        value=explainer.value,
        batch_rows=batch_rows,
    )
    empty: list[np.ndarray] = []
    gathered: dict[int, Accumulator] = {}
    for number, values in stream:
        s = number - 1
        if number == 0:
            empty.extend(values)
            continue
        if s not in gathered:
            gathered[s] = Accumulator(designs.pop(s), values[0], np.stack([empty[i] for i in block.index[s]]))
            values = values[1:]
        gathered[s].add(values)
        if gathered[s].complete:
            yield s, gathered.pop(s)


def interval(result: xr.Dataset, level: float = 0.95) -> xr.Dataset:
    """Return ``lower`` and ``upper`` ends of the attributions, by Student's t over the pairs; no width if exact."""
    from scipy import stats

    half = result.stderr * stats.t.ppf(0.5 + level / 2, max(int(result.attrs["replicates"]) - 1, 1))
    ends = {"lower": result.attribution - half, "upper": result.attribution + half}
    for name, end in ends.items():
        end.attrs = {**result.attribution.attrs, "long_name": f"{name} end of the {level:.0%} confidence interval"}
    return xr.Dataset(ends, attrs=result.attrs)


def _estimator(method: str | Estimator, n_groups: int, pairs: int, seed: int) -> Estimator:
    if not isinstance(method, str):
        return method
    known: dict[str, Estimator] = {"exact": Exact(), "permutations": PairedPermutations(pairs, seed)}
    known["auto"] = known["exact" if n_groups <= EXACT_LIMIT else "permutations"]
    if method not in known:
        raise ValueError(
            describe(
                f"method {method!r} is unknown{closest(method, known)}",
                expected="'auto', 'exact', 'permutations' or an estimator such as PairedPermutations(pairs=200)",
                received=repr(method),
                remedy="leave it out for 'auto'",
            )
        )
    return known[method]
