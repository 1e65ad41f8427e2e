"""What a search found: every trial on one labelled Dataset, the best one, and what mattered."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import closest, refuse
from physml.provenance import record, stamp
from physml.tuning.evaluate import built, is_network, scaling_of, seed_of, train
from physml.tuning.study import NOTE, quiet
from physml.tuning.work import Work

EVALUATORS = ("fanova", "ped_anova")
RESULTS = ("score", "score_fold", "score_spread", "best", "duration", "best_epoch", "state", "error")


class SearchResult:
    """The trials of a search.

    Attributes
    ----------
    dataset
        Along ``trial``: the parameters by name (missing where a trial had none of them), ``score``, its ``score_spread`` over the
        folds (standard deviation), ``score_fold`` [trial, fold], ``best`` score so far, ``duration`` [s], ``best_epoch`` [trial, fold]
        of networks, ``state`` (complete, pruned, diverged, failed or running) and ``error``. Its attributes tell of the search.
    """

    def __init__(self, work: Work, trials: list[Any]) -> None:
        self.work, self.trials = work, trials
        self.dataset = to_dataset(work, trials)

    @property
    def best_trial(self) -> int:
        """Number of the trial with the best mean score."""
        score = self.dataset.score.values
        return int(np.nanargmin(score) if self.work.direction == "minimize" else np.nanargmax(score))

    @property
    def best_score(self) -> float:
        """Its mean score over the folds."""
        return float(self.dataset.score[self.best_trial])

    @property
    def best(self) -> dict[str, Any]:
        """Its parameters, as *build* gets them."""
        return self.parameters(self.best_trial)

    def parameters(self, trial: int) -> dict[str, Any]:
        """Return the parameters of a trial, as *build* gets them."""
        from optuna.trial import FixedTrial

        return self.work.space.draw(FixedTrial(self.trials[trial].params, number=trial))

    def refit(self, train_part: xr.Dataset, validation: xr.Dataset | None = None) -> Any:
        """Return a model with the best parameters, trained on all of *train_part*.

        Parameters
        ----------
        train_part
            Data to train on; the scaling is fitted to them.
        validation
            Data for early stopping of a network. Without them it trains for the mean of the best epochs of the folds.
        """
        job, params, number = self.work.job, self.best, self.best_trial
        scaling = scaling_of(job, train_part)
        seed = seed_of(job.seed, number, len(job.folds))
        model = built(job, params, scaling, train_part, seed)
        if not is_network(model):
            return model.fit(train_part) or model
        epochs = None
        if validation is None:
            epochs = max(1, round(float(self.dataset.best_epoch[number].mean())))
        train(job, model, params, train_part, validation, seed, lambda rung, loss: False, epochs)
        return model

    def importance(self, method: str = "fanova") -> xr.DataArray:
        """Return the share of each parameter in the variance of the score over the space, largest first; they add up to 1.

        Parameters
        ----------
        method
            ``"fanova"`` (Hutter et al. 2014), of parameters that every trial has; ``"ped_anova"`` (Watanabe et al. 2023), of
            all, for the better tenth of the space.

        Raises
        ------
        ValueError
            For unknown methods, and with fewer than four trials that were scored.

        References
        ----------
        Hutter, F., Hoos, H., Leyton-Brown, K. (2014), PMLR 32, 754-762. Watanabe, S., Bansal, A., Hutter, F. (2023),
        doi:10.24963/ijcai.2023/488.
        """
        if method not in EVALUATORS:
            refuse(
                f"importance: unknown method {method!r}{closest(method, EVALUATORS)}",
                " or ".join(map(repr, EVALUATORS)),
                repr(method),
                "method='fanova'",
            )
        scored = [t for t in self.trials if t.state.name == "COMPLETE"]
        if len(scored) < 4:
            refuse("importance: too few trials were scored", "4 or more", len(scored), "more trials")
        with quiet():
            import optuna

            study = optuna.create_study(direction=self.work.direction)
            study.add_trials(scored)
            evaluators = optuna.importance
            chosen = (
                evaluators.FanovaImportanceEvaluator(seed=self.work.job.seed)
                if method == "fanova"
                else evaluators.PedAnovaImportanceEvaluator()
            )
            found = evaluators.get_param_importances(study, evaluator=chosen)
        names = sorted(found, key=lambda n: -found[n])
        return xr.DataArray(
            [found[n] for n in names],
            {"parameter": names},
            "parameter",
            "importance",
            {"long_name": "share of the variance of the score", "units": "1", "method": method},
        )

    def to_netcdf(self, path: str | os.PathLike[str]) -> Path:
        """Write the Dataset; the figures of :mod:`physml.plot` take it as well as the result."""
        self.dataset.to_netcdf(path)
        return Path(path)

    def __repr__(self) -> str:
        scored = int(self.dataset.score.notnull().sum())
        return (
            f"<SearchResult: {self.work.method}, {len(self.trials)} trials, {scored} scored; "
            f"best {self.best_score:.4g} in trial {self.best_trial}: {self.best}>"
        )


def to_dataset(work: Work, trials: list[Any]) -> xr.Dataset:
    """Return trials as a Dataset along ``trial``."""
    notes = [t.user_attrs.get(NOTE, {}) for t in trials]
    n, folds = len(trials), len(work.job.folds)
    by_fold, epochs = np.full((n, folds), np.nan), np.full((n, folds), np.nan)
    for i, note in enumerate(notes):
        for values, key in ((by_fold, "scores"), (epochs, "epochs")):
            for k, v in enumerate(note.get(key, ())[:folds]):
                values[i, k] = np.nan if v is None else v
    states = [note.get("outcome", "running") for note in notes]
    whole = np.array([s == "complete" for s in states], bool)
    score = np.where(whole, by_fold.mean(1), np.nan)
    rising = np.minimum if work.direction == "minimize" else np.maximum
    best = rising.accumulate(np.where(whole, score, np.inf if rising is np.minimum else -np.inf)) if n else score
    out = xr.Dataset(
        {
            "score": ("trial", score, {"long_name": _label(work), "units": _units(work)}),
            "score_spread": (
                "trial",
                np.where(whole, by_fold.std(1), np.nan),
                {"long_name": "standard deviation of the score over the folds", "units": _units(work)},
            ),
            "score_fold": (("trial", "fold"), by_fold, {"long_name": "score of each fold", "units": _units(work)}),
            "best": (
                "trial",
                np.where(np.isfinite(best), best, np.nan),
                {"long_name": "best score so far", "units": _units(work)},
            ),
            "duration": ("trial", [note.get("seconds", np.nan) for note in notes], {"units": "s"}),
            "best_epoch": (("trial", "fold"), epochs, {"long_name": "epoch of the score", "units": "1"}),
            "state": ("trial", np.array(states, dtype=object)),
            "error": ("trial", np.array([note.get("error", "") for note in notes], dtype=object)),
        },
        {"trial": ("trial", np.arange(n), {"long_name": "trial"}), "fold": np.arange(folds)},
    )
    for name in dict.fromkeys(k for t in trials for k in t.params):
        if name in RESULTS:
            refuse(f"search: {name!r} cannot name a parameter", f"a name other than {', '.join(RESULTS)}", repr(name),
                   "rename it in the space")  # fmt: skip
        scale = next((d for t in trials if (d := t.distributions.get(name)) is not None), None)
        out[name] = ("trial", _column([t.params.get(name) for t in trials], [name in t.params for t in trials]))
        out[name].attrs = {"role": "parameter", "log": int(getattr(scale, "log", False))}
    told = {k: v for k, v in work.settings.items() if isinstance(v, str | int | float) and not isinstance(v, bool)}
    out.attrs = {"title": f"{work.method} search", **told, **record(dict(work.settings))}
    return stamp(out, f"{work.method} search of {n} trials")


def _column(values: list[Any], given: list[bool]) -> np.ndarray:
    """Return the values of a parameter as numbers where all are, else as text."""
    kinds = {type(v) for v, g in zip(values, given, strict=True) if g}
    if kinds == {int} and all(given):
        return np.array(values, "int64")
    if kinds <= {int, float}:
        return np.array([v if g else np.nan for v, g in zip(values, given, strict=True)], "float64")
    return np.array([str(v) if g else "" for v, g in zip(values, given, strict=True)], dtype=object)


def _label(work: Work) -> str:
    score: Mapping[str, str] | Any = work.job.score
    named = {"val_loss": "validation loss", "rmse": "root mean square error", "mae": "mean absolute error",
             "scaled_rmse": "root mean square error over standard deviation"}  # fmt: skip
    return named.get(score, "") if isinstance(score, str) else getattr(score, "__name__", "score").strip("<>")


def _units(work: Work) -> str:
    layout = work.job.layout
    if work.job.score in ("rmse", "mae"):
        return layout.units(layout.spec.targets[0]) or "1"
    return "1"
