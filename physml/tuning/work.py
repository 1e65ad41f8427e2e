"""Working at a study: take a trial, evaluate it, note how it ended; until there is none, or time or patience is over."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physml._errors import describe
from physml.tuning.evaluate import Diverged, Job, Measured, Pruned, evaluate
from physml.tuning.sampling import make_pruner, make_sampler
from physml.tuning.space import Space
from physml.tuning.study import NOTE, Study, quiet


@dataclass
class Work:
    """A search as it travels to the processes that work at it."""

    job: Job
    space: Space
    method: str
    n_trials: int
    prune: Any
    direction: Any
    settings: Mapping[str, Any]
    max_failures: int
    budget: float | None
    stop_at: float | None
    workers: int = 1

    def study(self, folder: Path | None, resume: bool = True) -> Study:
        """Return the study of this search."""
        points = self.space.grid() if self.method == "grid" else None
        sampler = make_sampler(self.method, self.job.seed, points)
        pruner = make_pruner(self.prune, len(self.job.folds) * self.job.rungs)
        return Study(folder, self.settings, self.direction, sampler, pruner, resume)

    def run(self, study: Study, after: Callable[[Study], None] = lambda study: None) -> None:
        """Work until nothing is left to start.

        Raises
        ------
        RuntimeError
            After too many failures, and where the search will take longer than its budget.
        """
        failures = 0
        try:
            while self.stop_at is None or time.time() < self.stop_at:
                trial = study.take(self.n_trials)
                if trial is None:
                    return
                error = self._one(study, trial)
                after(study)
                failures += error is not None
                if failures > self.max_failures:
                    raise RuntimeError(_too_many(failures, trial.number, error)) from error
                self._afford(study)
        finally:
            study.close()

    def _one(self, study: Study, trial: Any) -> Exception | None:
        """Evaluate one trial and record how it ended; return the error it failed with."""
        measured, value, failed = Measured(), None, None
        note: dict[str, Any] = {}
        try:
            params = self.space.draw(trial)

            def report(step: int, score: float) -> bool:
                if self.prune is None:
                    return False
                if step not in study.optuna._storage.get_trial(trial._trial_id).intermediate_values:
                    trial.report(score, step)
                return trial.should_prune()

            value = evaluate(self.job, params, trial.number, report, measured)
            outcome = "complete"
        except Pruned:
            outcome = "pruned"
        except Diverged as error:
            outcome, note["error"] = "diverged", str(error)
        except Exception as error:
            outcome, note["error"], failed = "failed", f"{type(error).__name__}: {error}"[:1000], error
        scores = [s if math.isfinite(s) else None for s in measured.scores]
        note |= {"scores": scores, "epochs": measured.epochs, "seconds": measured.seconds}
        study.finish(trial, outcome, note, value)
        return failed

    def estimate(self, study: Study) -> tuple[float, float] | None:
        """Return the mean seconds of a trial so far, and those still to come; None before the first."""
        notes = [t.user_attrs[NOTE] for t in study.trials(self.n_trials) if NOTE in t.user_attrs]
        told = [n["seconds"] for n in notes if n.get("seconds")]
        if not told:
            return None
        each = sum(told) / len(told)
        return each, each * (self.n_trials - len(notes)) / self.workers

    def _afford(self, study: Study) -> None:
        told = self.estimate(study)
        if self.budget is None or told is None or told[1] <= self.budget:
            return
        each, left = told
        finished = sum(t.state.is_finished() for t in study.trials(self.n_trials))
        raise RuntimeError(
            describe(
                f"search: {self.n_trials - finished} trials of {len(self.job.folds)} folds are left, at {each:.3g} s a trial "
                f"on {self.workers} worker(s)",
                expected=f"at most {self.budget:.3g} s",
                received=f"about {left:.3g} s",
                remedy="fewer choices, method='random' with n_trials=..., workers=..., or a larger budget; what is done is kept "
                "in the study if it has a folder",
            )
        )


def remote(work: Work, folder: str) -> None:
    """Work at a study on disk, in another process."""
    with quiet():
        work.run(work.study(Path(folder)))


def _too_many(failures: int, number: int, error: Any) -> str:
    return describe(
        f"search: {failures} trials failed, the last one (trial {number}) with {type(error).__name__}: {error}",
        expected="trials that end with a score",
        received=f"{failures} failures",
        remedy="correct build, or a larger max_failures; failed trials of a study on disk keep their numbers",
    )
