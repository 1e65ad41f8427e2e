"""What a kind of explanation is: its settings, what it needs, and what it makes of a block of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from physml.explain.blocks import Block
from physml.explain.gradients.work import Work

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer

Found = dict[str, np.ndarray]
"""By name: cells ``[sample, *space, channel]`` (or ``[sample, *space]``), or one number for each sample."""


def added_up(work: Work, block: Block, phi: np.ndarray) -> Found:
    """Return prediction, base value and what contributions leave over."""
    full, base = work.full(block)[:, 0], work.base(block)[:, 0]
    left = full - base - phi.reshape(len(phi), -1).sum(1)
    return {"prediction": full, "base_value": base, "residual": left}


@dataclass(frozen=True)
class Kind:
    """What one kind of explanation needs and gives.

    Attributes
    ----------
    method
        What it is called in the result.
    per_input
        Whether it is per unit of the inputs: a gradient, not a contribution.
    derivative, network, on_grid
        Whether it needs a model that can be differentiated, a Keras network, or one that keeps the grid.
    adds_up
        Whether it is held against ``f(x) - base value``.
    by_channel
        Whether its cells have channels; else they lie on space alone.
    compared
        Whether it needs the baseline.
    """

    method: ClassVar[str]
    per_input: ClassVar[bool] = False
    derivative: ClassVar[bool] = True
    network: ClassVar[bool] = False
    on_grid: ClassVar[bool] = False
    adds_up: ClassVar[bool] = True
    by_channel: ClassVar[bool] = True
    compared: ClassVar[bool] = True

    @property
    def cells(self) -> dict[str, str]:
        """Results by cell, and how they are called; ``{}`` stands for the target."""
        return {"attribution": "contribution to {}"}

    @property
    def numbers(self) -> dict[str, str]:
        """Results by sample that have the units of the target."""
        if not self.adds_up:
            return {"prediction": "{}"}
        return {
            "prediction": "{}",
            "base_value": "{} for the baseline",
            "residual": "{} left over by the contributions",
        }

    @property
    def counts(self) -> dict[str, tuple[str, str]]:
        """Results by sample without units, and their types."""
        return {}

    @property
    def seeded(self) -> int | str:
        """The seed, as it is recorded."""
        return getattr(self, "seed", "none")

    def rows(self, explainer: Explainer, slots: int) -> int:
        """Return the number of rows of one sample."""
        return 1

    def prepare(self, explainer: Explainer, shape: tuple[int | None, ...], dtype: str) -> dict[str, Any]:
        """Refuse what cannot be explained before anything is computed; return settings to record."""
        return {}

    def explain(self, work: Work, block: Block) -> Found:
        """Explain a block of samples."""
        raise NotImplementedError
