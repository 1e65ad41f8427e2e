"""Descent to the optimal input: projected gradient steps with Adam's moments, the second one a single number for each sample.

With one for each cell, as in the training of a network, the steps would end elsewhere than at the optimum as soon as anything
is projected.

References
----------
Boyle, J. P. and Dykstra, R. L. (1986), A method for finding projections onto the intersection of convex sets in Hilbert spaces,
doi:10.1007/978-1-4613-9940-7_3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from physml._errors import refuse
from physml.explain.blocks import Block
from physml.explain.inputs.metric import Metric

BETAS = (0.9, 0.99)
ROUNDS = 20
"""Alternating projections onto the laws and the distance, at most."""
PROBE = 0.01
"""Distance of the step by which it is judged whether anything is left to gain."""


@dataclass(frozen=True)
class Goal:
    """What is minimised besides the penalty: *sign* times the target, or half its squared distance from *value*."""

    sign: float = -1.0
    value: float | None = None

    def slope(self, f: np.ndarray) -> np.ndarray:
        """Return the derivative of what is minimised in the target f."""
        return np.full_like(f, self.sign) if self.value is None else f - self.value

    def objective(self, f: np.ndarray) -> np.ndarray:
        """Return what is minimised, without the penalty."""
        return self.sign * f if self.value is None else 0.5 * (f - self.value) ** 2


@dataclass(frozen=True)
class Descent:
    """How the optimum is sought.

    Attributes
    ----------
    goal
        What is minimised besides the penalty.
    metric
        Units of the inputs, and the control vector.
    projection
        Function of inputs and start that moves inputs onto laws, or None.
    within
        Greatest distance from the start, or None.
    penalty, steps, rate
        Weight of half the squared distance, number of steps, length of the first.
    """

    goal: Goal
    metric: Metric
    projection: Any
    within: float | None
    penalty: float
    steps: int
    rate: float

    def nearest(self, v: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return the nearest v on the laws and within the distance, by Dykstra's alternating projections.

        The last step keeps both: on the way back to a lawful start all is lawful where laws are convex.
        """
        if self.projection is None:
            return self._near(v)
        near, off_laws, off_ball = v, np.zeros_like(v), np.zeros_like(v)
        for _ in range(ROUNDS if self.within is not None else 0):
            lawful = self._lawful(near + off_laws, start)
            off_laws = near + off_laws - lawful
            near = self._near(lawful + off_ball)
            off_ball = lawful + off_ball - near
            if self.metric.distance(near - lawful).max(initial=0) < 1e-4:
                break
        return self._near(self._lawful(near, start))

    def _lawful(self, v: np.ndarray, start: np.ndarray) -> np.ndarray:
        x = self.metric.inputs(v, start)
        return self.metric.control(self.projection(x, start), start)

    def _near(self, v: np.ndarray) -> np.ndarray:
        if self.within is None:
            return v
        d = self.metric.distance(v)
        return v * np.minimum(1, self.within / np.maximum(d, 1e-30))[:, None]


def descend(descent: Descent, gradient: Any, rows: int, block: Block) -> np.ndarray:
    """Return optimal inputs, history, target before and after, distance, and the part of the gradient left, by sample."""
    n, goal, metric = len(block.inputs), descent.goal, descent.metric
    start = block.inputs.astype("float64")

    def ask(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = metric.inputs(v, start)
        f, g = gradient(np.concatenate([x, np.repeat(x[-1:], rows - n, axis=0)]))
        if not (np.isfinite(f[:n]).all() and np.isfinite(g[:n]).all()):
            refuse(
                "the target or its gradient is not finite on the way",
                "finite values",
                "missing or infinite ones",
                "set within=... so that inputs stay in the range of the training data",
            )
        return f[:n].astype("float64"), metric.pull(g[:n].astype("float64"))

    v = np.zeros((n, metric.size))
    if descent.projection is not None:
        _lawful(metric.control(descent.projection(start, start), start), metric)
    momentum, size = np.zeros_like(v), np.zeros(n)
    best, lowest, history = v, np.full(n, np.inf), []
    for k in range(descent.steps + 1):
        f, g = ask(v)
        history.append(f)
        objective = goal.objective(f) + 0.5 * descent.penalty * metric.distance(v) ** 2
        best = np.where((objective < lowest)[:, None], v, best)
        lowest = np.minimum(objective, lowest)
        if k == descent.steps:
            break
        slope = goal.slope(f)[:, None] * g + descent.penalty * v / metric.size
        momentum = BETAS[0] * momentum + (1 - BETAS[0]) * slope
        size = BETAS[1] * size + (1 - BETAS[1]) * (slope**2).mean(1)
        shrunk = descent.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * k / descent.steps)))
        length = np.sqrt(size / (1 - BETAS[1] ** (k + 1))) + 1e-30
        v = descent.nearest(v - shrunk / (1 - BETAS[0] ** (k + 1)) * momentum / length[:, None], start)
    f, g = ask(best)
    slope = goal.slope(f)[:, None] * g
    whole = np.sqrt((g**2).mean(1)) * (1.0 if goal.value is None else np.abs(goal.slope(history[0])))
    step = PROBE / np.maximum(whole, 1e-30)[:, None]
    probe = descent.nearest(best - step * (slope + descent.penalty * best / metric.size), start)
    left = metric.distance(probe - best) / PROBE
    x = metric.inputs(best, start)
    if descent.projection is not None:  # rounding has its way into v and back
        x = np.where(metric.cells, descent.projection(x, start), start)
    told = [*history, history[0], f, metric.distance(best), left]
    return np.concatenate([x.reshape(n, -1).T, np.stack(told)])[..., None]


def _lawful(v: np.ndarray, metric: Metric) -> None:
    off = metric.distance(v)
    if off.max(initial=0) > 1e-3:
        refuse(
            "the start breaks the laws",
            "inputs that obey them",
            f"inputs up to {off.max():.3g} standard deviations (rms) from the nearest that do",
            "start from Constraints(laws).apply(start)",
        )
