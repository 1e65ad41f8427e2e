"""Which coalitions are valued, and how their values make the quantities that are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np

from physml._errors import closest, refuse

DESIGN_BYTES = 16 * 2**20
"""Weights and coalitions that one design holds at a time; long plans come as several designs."""


@dataclass(frozen=True, eq=False)
class Design:
    """Coalitions, in replicates of one size, and how their values make a quantity such as the Shapley values.

    The empty and the full coalition are always valued, and not listed. Each replicate estimates the quantity on its own::

        q_r = weights_r^T v_r + full_r v(all) + empty_r (mean of v(none) over slots_r)

    Attributes
    ----------
    coalitions
        Members, ``[row, group]`` booleans.
    slot
        Which of the sample's baseline rows fills the absent groups, ``[row]``.
    weights
        ``[row, k]``, in units of *scale*: whole numbers take less memory.
    full, empty
        ``[replicate, k]``.
    slots
        Baseline rows in each replicate, ``[replicate, n]``.
    scale
        Factor of the weights.
    regressors
        What the quantity is regressed on, ``[replicate, group]``, by estimators that do so.
    """

    coalitions: np.ndarray
    slot: np.ndarray
    weights: np.ndarray
    full: np.ndarray
    empty: np.ndarray
    slots: np.ndarray
    scale: float = 1.0
    regressors: np.ndarray | None = None

    @property
    def replicates(self) -> int:
        """Number of replicates."""
        return len(self.full)

    @property
    def size(self) -> int:
        """Rows of each replicate."""
        return len(self.coalitions) // len(self.full)


class Gathering(Protocol):
    """What becomes of the replicates of one sample."""

    def add(self, found: np.ndarray, design: Design, first: int) -> None:
        """Take replicates ``[replicate, k, out]`` of *design*, from number *first* on."""

    def result(self, full: np.ndarray, empty: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Return estimate and standard error, ``[quantity, out]``, and degrees of freedom; 0 where there is no error.

        *full* ``[out]`` and *empty* ``[slot, out]`` are the values of the full and of the empty coalition.
        """


class Estimator(Protocol):
    """What plans the coalitions of each sample. It knows nothing of models; its name and seed are recorded."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def seed(self) -> int | str: ...  # noqa: D102
    @property
    def pairs(self) -> int | None:
        """Replicates that are drawn before the first decision to stop; None: there is but one, without error."""

    def rows_each(self, n_groups: int, n_slots: int) -> int:
        """Return the model rows of one replicate."""

    def row_bytes(self, n_groups: int) -> int:
        """Return the bytes that coalition and weights of one row take."""

    def fewest(self, n_groups: int) -> int:
        """Return the least number of replicates that make an estimate with an error."""

    def most(self, n_groups: int, n_slots: int) -> float:
        """Return the greatest number of replicates that differ."""

    def design(self, n_groups: int, n_slots: int, sample: int, *, pairs: int | None = None, start: int = 0) -> Design:
        """Return a plan for one sample: *pairs* replicates, after *start* that it had before."""

    def gathering(self, n_groups: int, n_slots: int, n_out: int) -> Gathering:
        """Return what takes the replicates."""


class Whole:
    """What estimators share that value one fixed set of coalitions: a single replicate, without error."""

    seed = "none"
    pairs = None

    def row_bytes(self, n_groups: int) -> int:
        """Return the bytes of one row: a coalition and a weight for each group."""
        return 9 * n_groups

    def fewest(self, n_groups: int) -> int:
        """Return 1."""
        return 1

    def most(self, n_groups: int, n_slots: int) -> float:
        """Return no bound."""
        return math.inf


def accept_draw(pairs: int, seed: int, least: int, usual: int) -> None:
    """Refuse numbers of replicates and seeds that no draw can be made with.

    Parameters
    ----------
    pairs, seed
        As given.
    least, usual
        Number of replicates that a standard error takes, and that is proposed.
    """
    if isinstance(pairs, bool) or not isinstance(pairs, int | np.integer) or pairs < least:
        refuse("pairs are too few for a standard error", f"a whole number >= {least}", pairs, f"pass pairs={usual}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        refuse("seed starts no draw", "a whole number >= 0", repr(seed), "pass seed=0")


def refuse_method(method: str, known: tuple[str, ...], such: str) -> NoReturn:
    """Say which methods there are, beside estimators *such* as one."""
    refuse(
        f"method {method!r} is unknown{closest(method, known)}",
        f"{', '.join(map(repr, known))} or an estimator such as {such}",
        repr(method),
        "leave it out for 'auto'",
    )


def all_coalitions(n_groups: int) -> np.ndarray:
    """Return every coalition as booleans ``[2^G, group]``; row T holds group i where bit i of T is set."""
    return (np.arange(2**n_groups)[:, None] >> np.arange(n_groups)) & 1 == 1


def every_slot(coalitions: np.ndarray, weights: np.ndarray, n_slots: int) -> Design:
    """Return one replicate in which all *coalitions*, with *weights*, are valued with every baseline row.

    The full and the empty coalition may be among them.
    """
    held = coalitions.sum(1)
    inner = (held > 0) & (held < coalitions.shape[1])
    return Design(
        coalitions=np.tile(coalitions[inner], (n_slots, 1)),
        slot=np.repeat(np.arange(n_slots), inner.sum()),
        weights=np.tile(weights[inner] / n_slots, (n_slots, 1)),
        full=weights[held == coalitions.shape[1]].sum(0)[None],
        empty=weights[held == 0].sum(0)[None],
        slots=np.arange(n_slots)[None],
    )


def deal(rng: np.random.Generator, pairs: int, n_slots: int) -> np.ndarray:
    """Return the baseline row of each pair ``[pair]``, all equally often where *pairs* is a multiple of their number."""
    return np.concatenate([rng.permutation(n_slots) for _ in range(-(-pairs // n_slots))])[:pairs]
