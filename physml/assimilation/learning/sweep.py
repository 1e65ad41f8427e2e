"""One pass of a method over all observations of a prepared course, again and again with other weights but compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from physml import _backend
from physml._errors import describe
from physml.assimilation.cycling.course import Course
from physml.assimilation.learning.noise import Scaled
from physml.assimilation.method import Output, Problem, State
from physml.assimilation.methods.runner import Runner, in_blocks

LARGEST = 20_000_000
"""Values of ensembles that a compiled block tells at most."""


class Found(NamedTuple):
    """What a pass tells, by analysis time."""

    mean: np.ndarray
    """Analyses ``[time, n]``; of a smoother the smoothed ones."""
    std: np.ndarray
    """Their spread ``[time, n]``."""
    innovation: np.ndarray
    """``[time, m]``, NaN where missing."""
    innovation_std: np.ndarray
    """As the method expects it."""
    chi2: np.ndarray
    """``[time]``."""

    def statistics(self, burn_in: int = 0) -> dict[str, float]:
        """Return rms of the innovations, the same as expected, chi2 and spread, after the first *burn_in* times."""
        there = np.isfinite(self.innovation[burn_in:])
        if not there.any():
            return {}
        return {
            "innovation": float(np.sqrt(np.mean(self.innovation[burn_in:][there] ** 2))),
            "expected": float(np.sqrt(np.mean(self.innovation_std[burn_in:][there] ** 2))),
            "chi2": float(np.nanmean(self.chi2[burn_in:])),
            "spread": float(np.sqrt(np.mean(self.std[burn_in:] ** 2))),
        }


class Sweep:
    """A course with a model error of its own, its calls compiled once for all passes.

    Parameters
    ----------
    course
        From :meth:`Cycle.course`.
    noise
        Q of the passes.
    variables
        Keras variables that change between passes.
    """

    def __init__(self, course: Course, noise: Scaled, variables: Sequence[Any]) -> None:
        self.course, self.noise = course, noise
        self.runner = Runner(course.method, self._problem, variables=list(variables), fused=course.runner.fused)

    def _problem(self, inputs: Any) -> Problem:
        return replace(self.course.problem(inputs), model_error=self.noise)

    def pass_over(self, seed: tuple[int, ...], times: int | None = None) -> Found:
        """Return the analyses of the first *times* (None: all) under the random numbers of a seed.

        Raises
        ------
        ValueError
            Where the forecast is not finite.
        """
        course = self.course
        count = len(course.rows.values) if times is None else min(times, len(course.rows.values))
        windows = [w for w in course.windows if w[1] - w[2] < count]
        members, size = course.ensemble.shape
        self.runner.seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        start, stop, _ = windows[0]
        state = self.runner.start(course.ensemble, course.inputs(start, stop))
        parts: list[dict[str, np.ndarray]] = []
        for calls in in_blocks(windows, max(1, min(40, LARGEST // (members * size)))):
            seen = [course.seen(start, stop) for _, start, stop, _ in calls]
            drawn = [
                self.runner.draws(number, members, size, course.rows.values.shape[1], new, self.noise.rank)
                for number, _, _, new in calls
            ]
            held: list[Any] = [course.inputs(start, stop) for _, start, stop, _ in calls]
            try:
                state, output = self.runner.calls(
                    state,
                    type(seen[0])(*[None if a[0] is None else np.stack(a) for a in zip(*seen, strict=True)]),
                    {name: np.stack([d[name] for d in drawn]) for name in drawn[0]},
                    None if course.held is None else np.stack(held),
                )
                parts.append(_summary(output))
                lost, cause = not np.isfinite(parts[-1]["mean"]).all(), None
            except Exception as error:
                # Eigenvalues and Cholesky factors of NaN fail before the output can be looked at.
                if not _backend.is_not_finite(error):
                    raise
                lost, cause = True, error
            if lost:
                when = course.labels.times[min(calls[0][1], count - 1)]
                text = describe(
                    f"the forecast is not finite after {when}",
                    expected="a step that stays bounded",
                    received="NaN or inf",
                    remedy="train it longer on the first states, or on more of them",
                )
                raise ValueError(text) from cause
        found = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        if "smoothed" in found:
            found |= _smoothed(found, state)
        return Found(*[found[name][:count] for name in Found._fields])


def _summary(output: Output) -> dict[str, np.ndarray]:
    """Return mean and spread of the ensembles, and the statistics, of a block of calls as one run of times."""

    def flat(a: Any) -> np.ndarray:
        a = np.asarray(a)
        return a.reshape(-1, *a.shape[2:])

    analysis = flat(output.analysis)
    parts = {"mean": analysis.mean(axis=1)}
    parts["std"] = analysis.std(axis=1, ddof=1) if output.std is None else flat(output.std)
    for name in ("innovation", "innovation_std", "chi2"):
        parts[name] = flat(getattr(output, name))
    if output.smoothed is not None:
        smoothed = flat(output.smoothed)
        parts |= {"smoothed": smoothed.mean(axis=1), "smoothed_std": smoothed.std(axis=1, ddof=1)}
    return parts


def _smoothed(found: dict[str, np.ndarray], state: State) -> dict[str, np.ndarray]:
    """Return the smoothed analyses at their own times: what a call told is late, what is left stands in the state."""
    past = np.asarray(state["past"])
    lag, times = len(past), len(found["mean"])
    mean = np.concatenate([found["smoothed"][lag:], past.mean(axis=1)])[-times:]
    std = np.concatenate([found["smoothed_std"][lag:], past.std(axis=1, ddof=1)])[-times:]
    return {"mean": mean, "std": std}
