"""Kinds of explanation by derivatives: their settings, and what each makes of a block of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from physml._errors import refuse
from physml.explain.blocks import Block
from physml.explain.gradients import noise, paths
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

    def prepare(self, explainer: Explainer, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
        """Refuse what cannot be explained before anything is computed; return settings to record."""
        return {}

    def explain(self, work: Work, block: Block) -> Found:
        """Explain a block of samples."""
        raise NotImplementedError


@dataclass(frozen=True)
class Saliency(Kind):
    """The gradient of the target in every input, or its absolute value."""

    absolute: bool = False
    method: ClassVar[str] = "saliency (gradient)"
    per_input: ClassVar[bool] = True
    adds_up: ClassVar[bool] = False
    compared: ClassVar[bool] = False

    @property
    def cells(self) -> dict[str, str]:
        """The gradient."""
        return {"attribution": "absolute gradient of {}" if self.absolute else "gradient of {}"}

    def explain(self, work: Work, block: Block) -> Found:
        """Return the gradient at every sample."""
        found = noise.saliency(work.gradient, block.inputs, work.batch_rows)
        return {"attribution": np.abs(found) if self.absolute else found, "prediction": work.full(block)[:, 0]}


@dataclass(frozen=True)
class SmoothGrad(Kind):
    """The mean gradient over noisy copies of the sample, with its standard error.

    Attributes
    ----------
    noise
        Standard deviation of the noise: a number is the fraction of the range of each channel over the valid cells of the
        sample; an array ``[channel]`` or a mapping from variables is in the units of the inputs.
    copies, seed
        Number of copies, and seed of the noise.
    absolute
        Average the absolute gradient.
    """

    noise: Any = 0.15
    copies: int = 32
    seed: int = 0
    absolute: bool = False
    method: ClassVar[str] = "smoothgrad (mean gradient over noise)"
    per_input: ClassVar[bool] = True
    adds_up: ClassVar[bool] = False
    compared: ClassVar[bool] = False

    @property
    def cells(self) -> dict[str, str]:
        """The gradient and its standard error."""
        return {"attribution": "mean gradient of {} over noise", "stderr": "standard error of the mean gradient of {}"}

    def rows(self, explainer: Explainer, slots: int) -> int:
        """Return the number of copies."""
        return self.copies

    def prepare(self, explainer: Explainer, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
        """Check the noise."""
        if self.copies < 2:
            refuse("smoothgrad: copies are too few for a standard error", ">= 2", self.copies, "pass copies=32")
        names = [c.name for c in explainer.layout.inputs]
        known = isinstance(self.noise, Mapping) and set(self.noise) == set(names)
        if (isinstance(self.noise, Mapping) and not known) or np.shape(self._std(names)) not in ((), (len(names),)):
            refuse(
                "smoothgrad: noise does not fit the inputs",
                f"a fraction, or a standard deviation for each of {', '.join(dict.fromkeys(names))}",
                self.noise,
                "pass noise=0.15, or noise={'name': std in its units}",
            )
        if not (np.isfinite(self._std(names)).all() and (self._std(names) >= 0).all()):
            refuse("smoothgrad: noise is not a standard deviation", ">= 0", self.noise, "pass noise=0.15")
        return {"noise": str(self.noise), "replicates": self.copies}

    def _std(self, names: list[str]) -> np.ndarray:
        return np.asarray([self.noise[n] for n in names] if isinstance(self.noise, Mapping) else self.noise, float)

    def explain(self, work: Work, block: Block) -> Found:
        """Return the mean gradient around every sample."""
        std = self._std([c.name for c in work.layout.inputs])
        if std.ndim == 0:
            std = noise.spread(block.inputs, work.valid, float(std))
        mean, stderr = noise.smoothgrad(
            work.gradient,
            block.inputs,
            np.broadcast_to(std, (len(block.inputs), work.shape[-1])),
            work.valid,
            self.copies,
            self.seed,
            block.numbers,
            work.batch_rows,
            self.absolute,
        )
        return {"attribution": mean, "stderr": stderr, "prediction": work.full(block)[:, 0]}


@dataclass(frozen=True)
class InputXGradient(Kind):
    """The gradient times the difference from the mean of the baseline rows: first order, the residual tells how good."""

    method: ClassVar[str] = "(input - baseline) x gradient"

    def explain(self, work: Work, block: Block) -> Found:
        """Return the first-order contributions."""
        away = block.inputs - block.rows.astype("float64")[block.index].mean(1)
        phi = away * noise.saliency(work.gradient, block.inputs, work.batch_rows)
        return {"attribution": phi, **added_up(work, block, phi)}


@dataclass(frozen=True)
class Integrated(Kind):
    """Integrated gradients: Aumann-Shapley values, see :mod:`physml.explain.gradients.paths`.

    Attributes
    ----------
    steps
        Points on the path from each baseline row.
    rule
        ``"gauss"``, ``"midpoint"`` or ``"stratified"``.
    tol
        Double the steps of a sample until its residual is at most *tol* [units of the target]; None: do not.
    max_steps
        Where doubling ends, converged or not.
    seed
        For ``"stratified"``.
    """

    steps: int = 32
    rule: str = "gauss"
    tol: float | None = None
    max_steps: int = 1024
    seed: int = 0
    method: ClassVar[str] = "integrated gradients (Aumann-Shapley)"

    @property
    def seeded(self) -> int | str:
        """The seed, where points are drawn."""
        return self.seed if self.rule == "stratified" else "none"

    @property
    def counts(self) -> dict[str, tuple[str, str]]:
        """Whether the tolerance was met, and by how many steps."""
        if self.tol is None:
            return {}
        return {"converged": ("residual within the tolerance", "bool"), "steps": ("points on each path", "int32")}

    def rows(self, explainer: Explainer, slots: int) -> int:
        """Return the points on all paths of a sample."""
        return slots * self.steps

    def prepare(self, explainer: Explainer, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
        """Check steps and tolerance."""
        if not 1 <= self.steps <= self.max_steps:
            refuse("integrated: steps are out of range", f"1 to {self.max_steps}", self.steps, "pass steps=32")
        if self.tol is not None and not self.tol > 0:
            refuse("integrated: tol is not positive", "> 0, in units of the target", self.tol, "leave it out")
        paths.integrated_plan(np.zeros((0, 1), int), self.rule, 1, 0, np.zeros(0, int))
        return {"steps": self.steps, "rule": self.rule, "tol": "none" if self.tol is None else self.tol}

    def explain(self, work: Work, block: Block) -> Found:
        """Integrate, with more and more steps where the residual is too large."""
        n, steps = len(block.inputs), self.steps
        full, base = work.full(block)[:, 0], work.base(block)[:, 0]
        phi, left, used = np.zeros(block.inputs.shape), np.zeros(n), np.zeros(n)
        pending = np.arange(n)
        while pending.size:
            plan = paths.integrated_plan(block.index[pending], self.rule, steps, self.seed, block.numbers[pending])
            phi[pending], _ = paths.along(work.gradient, block.inputs[pending], block.rows, plan, work.batch_rows)
            left[pending] = (full - base)[pending] - phi[pending].reshape(len(pending), -1).sum(1)
            used[pending] = steps
            if self.tol is None or 2 * steps > self.max_steps:
                break
            steps *= 2
            pending = pending[np.abs(left[pending]) > self.tol]
        found = {"attribution": phi, "prediction": full, "base_value": base, "residual": left}
        if self.tol is not None:
            found |= {"converged": (np.abs(left) <= self.tol).astype(float), "steps": used}
        return found


@dataclass(frozen=True)
class Expected(Kind):
    """Expected gradients: Aumann-Shapley values over random baseline rows, with standard errors.

    Attributes
    ----------
    replicates, steps
        The estimate is the mean of *replicates* alike ones, each with one random point in each of *steps* parts of the path.
    seed
        Of the draw.
    """

    replicates: int = 16
    steps: int = 8
    seed: int = 0
    method: ClassVar[str] = "expected gradients (Aumann-Shapley)"

    @property
    def cells(self) -> dict[str, str]:
        """The contribution and its standard error."""
        return {"attribution": "contribution to {}", "stderr": "standard error of the contribution to {}"}

    def rows(self, explainer: Explainer, slots: int) -> int:
        """Return the points of a sample."""
        return self.replicates * self.steps

    def prepare(self, explainer: Explainer, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
        """Check the numbers."""
        if self.replicates < 2 or self.steps < 1:
            refuse(
                "expected: replicates are too few for a standard error",
                "replicates >= 2, steps >= 1",
                f"replicates={self.replicates}, steps={self.steps}",
                "leave them out",
            )
        return {"steps": self.steps, "replicates": self.replicates}

    def explain(self, work: Work, block: Block) -> Found:
        """Average over random points and baseline rows."""
        plan = paths.expected_plan(block.index, self.steps, self.replicates, self.seed, block.numbers)
        phi, stderr = paths.along(work.gradient, block.inputs, block.rows, plan, work.batch_rows)
        return {"attribution": phi, "stderr": stderr, **added_up(work, block, phi)}
