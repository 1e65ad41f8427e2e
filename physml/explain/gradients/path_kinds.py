"""Kinds of explanation along paths from the baseline: integrated and expected gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from physml._errors import is_count, refuse
from physml.explain.blocks import Block
from physml.explain.gradients.kinds import Found, Kind, added_up
from physml.explain.gradients.kinks import located, piecewise
from physml.explain.gradients.paths import along, expected_plan, integrated_plan
from physml.explain.gradients.work import Work

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer


@dataclass(frozen=True)
class Integrated(Kind):
    """Integrated gradients: Aumann-Shapley values, see :mod:`physml.explain.gradients.paths`.

    Attributes
    ----------
    steps
        Points on the path from each baseline row; default 32. The error falls exponentially for smooth layers (GELU, tanh), and like
        one over the steps for layers with kinks (ReLU). With *kinks*, points on each piece; default 1.
    rule
        ``"gauss"``, ``"midpoint"`` or ``"stratified"``.
    tol
        Double the steps of a sample until its residual is at most *tol* [units of the target]; None: do not.
    max_steps
        Where doubling ends, converged or not.
    seed
        For ``"stratified"``.
    kinks
        Values of inputs at which the model is not smooth, by variable and in its units, such as a freezing point: numbers, an array
        that broadcasts to ``[*space, kink]``, or a DataArray. Each path is cut where an input crosses one, which makes the result
        exact for models that are linear between (``steps=1``), or of degree 4 along the path (``steps=2``). One row of the model for each
        crossing: meant for kinks of the inputs themselves, not of the layers inside a network. ``"gauss"`` only.
    """

    steps: int | None = None
    rule: str = "gauss"
    tol: float | None = None
    max_steps: int = 1024
    seed: int = 0
    kinks: Mapping[str, Any] | None = None
    method: ClassVar[str] = "integrated gradients (Aumann-Shapley)"

    @property
    def points(self) -> int:
        """Points on a path, or on each piece of it."""
        return self.steps if self.steps is not None else 32 if self.kinks is None else 1

    @property
    def seeded(self) -> int | str:
        """The seed, where points are drawn."""
        return self.seed if self.rule == "stratified" else "none"

    @property
    def counts(self) -> dict[str, tuple[str, str]]:
        """Whether the tolerance was met, and by how many steps."""
        on = "path" if self.kinks is None else "piece of a path"
        counts = {} if self.kinks is None else {"rows": ("points on all paths of the sample", "int32")}
        if self.tol is None:
            return counts
        return {
            "converged": ("residual within the tolerance", "bool"),
            "steps": (f"points on each {on}", "int32"),
            **counts,
        }

    def rows(self, explainer: Explainer, slots: int) -> int:
        """Return the points on all paths of a sample; with kinks, the most there can be."""
        pieces = 1 if self.kinks is None else 1 + len(located(self.kinks, explainer.layout)[0])
        return slots * self.points * pieces

    def prepare(self, explainer: Explainer, shape: tuple[int | None, ...], dtype: str) -> dict[str, Any]:
        """Check steps and tolerance."""
        if not (is_count(self.points) and is_count(self.max_steps) and self.points <= self.max_steps):
            whole, received = (
                "whole numbers, 1 <= steps <= max_steps",
                f"steps={self.points!r}, max_steps={self.max_steps!r}",
            )
            refuse("integrated: steps are out of range", whole, received, "leave them out")
        if self.kinks is not None and self.rule != "gauss":
            refuse("integrated: kinks need points of Gauss", "rule='gauss'", repr(self.rule), "leave rule out")
        if self.tol is not None and not self.tol > 0:
            refuse("integrated: tol is not positive", "> 0, in units of the target", self.tol, "leave it out")
        integrated_plan(np.zeros((0, 1), int), self.rule, 1, 0, np.zeros(0, int))
        told = {"steps": self.points, "rule": self.rule, "tol": "none" if self.tol is None else self.tol}
        if self.kinks is None:
            return told
        return {**told, "kinks": ", ".join(map(str, self.kinks))}

    def explain(self, work: Work, block: Block) -> Found:
        """Integrate, with more and more steps where the residual is too large."""
        n, steps = len(block.inputs), self.points
        full, base = work.full(block)[:, 0], work.base(block)[:, 0]
        phi, left, used, rows = np.zeros(block.inputs.shape), np.zeros(n), np.zeros(n), np.zeros(n)
        pending = np.arange(n)
        kinks = None if self.kinks is None else located(self.kinks, work.layout)
        while pending.size:
            inputs, index = block.inputs[pending], block.index[pending]
            if kinks is not None:
                phi[pending], found = piecewise(work.gradient, inputs, block.rows, index, kinks, steps, work.batch_rows)
                rows[pending] += found
            else:
                plan = integrated_plan(index, self.rule, steps, self.seed, block.numbers[pending])
                phi[pending], _ = along(work.gradient, inputs, block.rows, plan, work.batch_rows)
            left[pending] = (full - base)[pending] - phi[pending].reshape(len(pending), -1).sum(1)
            used[pending] = steps
            if self.tol is None or 2 * steps > self.max_steps:
                break
            steps *= 2
            pending = pending[np.abs(left[pending]) > self.tol]
        made = {"attribution": phi, "prediction": full, "base_value": base, "residual": left, "rows": rows}
        return made | {"converged": (np.abs(left) <= (self.tol or 0)).astype(float), "steps": used}


@dataclass(frozen=True)
class Expected(Kind):
    """Expected gradients: Aumann-Shapley values over random baseline rows, with standard errors.

    Attributes
    ----------
    replicates
        The estimate is the mean of so many independent ones; their spread is the standard error.
    steps
        Points of each, one in each equal part of the path; by default as many as baseline rows, within 8 and 64.
    seed
        Of the draw.
    """

    replicates: int = 10
    steps: int | None = None
    seed: int = 0
    method: ClassVar[str] = "expected gradients (Aumann-Shapley)"

    @property
    def cells(self) -> dict[str, str]:
        """The contribution and its standard error."""
        return {"attribution": "contribution to {}", "stderr": "standard error of the contribution to {}"}

    def points(self, slots: int) -> int:
        """Return the points of a replicate for that many baseline rows."""
        return min(max(slots, 8), 64) if self.steps is None else self.steps

    def rows(self, explainer: Explainer, slots: int) -> int:
        """Return the points of a sample."""
        return self.replicates * self.points(slots)

    def prepare(self, explainer: Explainer, shape: tuple[int | None, ...], dtype: str) -> dict[str, Any]:
        """Check the numbers."""
        if not (is_count(self.replicates, 2) and is_count(self.points(1))):
            refuse(
                "expected: replicates are too few for a standard error, or steps for a path",
                "whole numbers, replicates >= 2, steps >= 1",
                f"replicates={self.replicates!r}, steps={self.steps!r}",
                "leave them out",
            )
        return {"replicates": self.replicates}

    def explain(self, work: Work, block: Block) -> Found:
        """Average over random points and baseline rows."""
        steps = self.points(block.index.shape[1])
        plan = expected_plan(block.index, steps, self.replicates, self.seed, block.numbers)
        phi, stderr = along(work.gradient, block.inputs, block.rows, plan, work.batch_rows)
        return {"attribution": phi, "stderr": stderr, **added_up(work, block, phi)}
