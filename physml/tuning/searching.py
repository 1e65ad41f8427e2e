"""Search of hyperparameters by grid, at random or Bayesian, judged by blocks of time left out."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from physml import calendar
from physml._errors import closest, describe, is_count, refuse
from physml._progress import _rich
from physml.data.folds import fold_time
from physml.data.split import refuse_judges
from physml.fields import FieldSpec
from physml.provenance import digest
from physml.tuning.evaluate import Job
from physml.tuning.result import RESULTS, SearchResult
from physml.tuning.sampling import METHODS, make_pruner
from physml.tuning.scores import Score, check_score
from physml.tuning.space import LISTED, Space
from physml.tuning.study import Study, quiet
from physml.tuning.work import Work, remote


def search(
    build: Callable[..., Any],
    space: Mapping[str, Any] | Callable[[Any], Any],
    data: xr.Dataset,
    *,
    spec: FieldSpec,
    method: str,
    n_trials: int | None = None,
    validation: str | int | Iterable[Sequence[xr.Dataset]] = "blocked",
    n_folds: int = 5,
    embargo: str | int = "window",
    score: str | Score = "val_loss",
    direction: str = "minimize",
    prune: Any = None,
    epochs: int = 50,
    batch_size: int = 32,
    patience: int | None = 5,
    learning_rate: float = 1e-3,
    scaling: Callable[[xr.Dataset, Any], Any] | None = None,
    batches: Mapping[str, Any] | None = None,
    seed: int = 0,
    study: str | os.PathLike[str] | None = None,
    resume: bool = True,
    workers: Any = None,
    timeout: float | str | None = None,
    budget: float | str | None = None,
    max_trials: int = 1000,
    max_failures: int = 5,
    progress: bool = True,
) -> SearchResult:
    """Search the parameters with which a model forecasts best the blocks of time that it was not trained on.

    Every trial is built, trained and scored on every fold; its score is the mean. Scalings are fitted to the training part of a
    fold alone, and nothing of the block that judges, nor of the embargo beside it, is trained on.

    Parameters
    ----------
    build
        ``build(params, scaling)``: returns a :class:`physml.FieldModel`, compiled or not, a bare network between scaled fields, or
        a learner with ``fit(train)`` and ``predict(ds)``. *params* is a dictionary; *scaling*, a :class:`physml.Scaling` of the
        fold, knows the layout. With a third argument it also gets the training part.
    space
        Names with lists of choices, :func:`physml.tuning.between` or ``range``: ``{"units": [16, 32], "learning_rate":
        between(1e-4, 1e-1, log=True)}``. Or a function of an ``optuna.Trial`` where parameters depend on others.
    data
        Data to choose on; keep what judges the choice out of it. Lazy data stay lazy.
    spec
        What the model reads and predicts.
    method
        ``"grid"``: every point of the listed values, in an order drawn from the seed. ``"random"``. ``"bayesian"``:
        tree-structured Parzen estimators (after ten trials at random).
    n_trials
        Number of trials; for a grid all by default. A larger number continues a study on disk.
    validation, n_folds, embargo
        How the blocks are chosen: see :func:`physml.data.folds.fold_time`.
    score
        ``"val_loss"``: the loss of the validation part (its least, with *patience*), of networks. ``"rmse"``, ``"mae"``: of the
        one target, weighted by area; ``"scaled_rmse"``: of several. Or a function of forecast and truth, two Datasets.
    direction
        ``"maximize"`` for a function whose larger values are better.
    prune
        ``"median"`` or ``"hyperband"`` end trials that fall behind others after as many folds, and with ``"val_loss"`` after as
        many epochs; or a pruner of Optuna.
    epochs, batch_size, patience, learning_rate
        Training of networks: at most so many epochs, until the validation loss has not improved for *patience* (None: never mind),
        with the best weights restored. Parameters of these names in the space take their place. The learning rate is that of
        Adam, for models that come uncompiled.
    scaling
        In place of ``Scaling.fit``: ``lambda train, layout: Scaling.fit(train, layout, by="month")``.
    batches
        Further arguments of :class:`physml.Batches`, such as ``{"missing": "mask"}``.
    seed
        Seed of the search. What a trial draws depends on it, its number and the trials before it alone; weights and batches
        on it, the number and the fold.
    study
        Folder that keeps the study. A killed search goes on from it: trials that ended are kept, those under way begin again
        with the same parameters. Several processes, on several machines, may work at one study at once.
    resume
        Whether to go on with the study that is there.
    workers
        A number: that many processes of a local dask cluster. A ``distributed.Client``: its workers. None: this process.
    timeout
        No trial begins after this time [s, or "2h"].
    budget
        The search ends with an error as soon as what is left will take longer than this [s, or "2h"], estimated from the
        trials so far.
    max_trials
        A search of more trials is refused before it begins.
    max_failures
        Trials that may end with an error in *build* or in training; they are recorded.
    progress
        Show a bar on a terminal.

    Returns
    -------
    SearchResult
        All trials as a Dataset, the best parameters, and what mattered.

    Raises
    ------
    TypeError, ValueError
        For spaces, folds, scores and methods that are not understood, searches that are too large, and the study of another
        search.
    RuntimeError
        After too many failures, where none was scored, and where the budget will not do.

    Notes
    -----
    TensorFlow keeps some memory of every network it trained, about three times its weights with Adam. For hundreds of large ones give
    *workers*: the processes of a cluster end with the search.

    References
    ----------
    Bergstra, J., Bengio, Y. (2012), Random search for hyper-parameter optimization, JMLR 13, 281-305. Akiba, T. et al. (2019),
    Optuna, doi:10.1145/3292500.3330701. Li, L. et al. (2018), Hyperband, JMLR 18(185), 1-52.

    Examples
    --------
    >>> from physml.tuning import between, search
    >>> found = search(
    ...     lambda params, scaling: networks.mlp(scaling.layout, hidden=(params["units"],)),
    ...     {"units": [16, 32, 64], "learning_rate": between(1e-4, 1e-1, log=True)},
    ...     train, spec=spec, method="bayesian", n_trials=30, prune="median", study="search",
    ... )  # doctest: +SKIP
    """
    refuse_judges(data)
    if method not in METHODS:
        refuse(f"search: unknown method {method!r}{closest(method, METHODS)}", f"one of {', '.join(map(repr, METHODS))}",
               repr(method), "method='random'")  # fmt: skip
    known = Space(space)
    taken = sorted(set(known.entries) & set(RESULTS))
    if taken:
        refuse(f"search: {taken[0]!r} cannot name a parameter", f"a name other than {', '.join(RESULTS)}", repr(taken[0]),
               "rename it in the space")  # fmt: skip
    check_score(score, direction)
    layout = spec.bind(data)
    data = calendar.complete(data, layout.spec.inputs, layout.spec.sample_dim)
    parts = fold_time(data, spec, validation, n_folds=n_folds, embargo=embargo)
    for name, value in {"epochs": epochs, "batch_size": batch_size, "max_trials": max_trials}.items():
        if not is_count(value):
            refuse(f"search: {name} is no number of them", ">= 1", repr(value), f"{name}=50")
    n = _count(known, method, n_trials, len(parts), max_trials)
    job = Job(build, parts, layout, score, int(seed), int(epochs), int(batch_size), patience, float(learning_rate), scaling,
              dict(batches or {}))  # fmt: skip
    make_pruner(prune, len(parts) * job.rungs)
    settings = _settings(job, known, method, direction, prune, data, spec)
    stop_at = None if timeout is None else time.time() + _seconds(timeout, "timeout")
    work = Work(job, known, method, n, prune, direction, settings, max_failures,
                None if budget is None else _seconds(budget, "budget"), stop_at)  # fmt: skip
    folder = None if study is None else Path(study)
    with quiet(), _cluster(workers) as client:
        trials = (
            _here(work, folder, resume, progress) if client is None else _there(work, folder, resume, progress, client)
        )
    if not any(t.state.name == "COMPLETE" for t in trials):
        raise RuntimeError(_none_scored(trials))
    return SearchResult(work, trials)


def _count(space: Space, method: str, n_trials: int | None, folds: int, max_trials: int) -> int:
    """Return the number of trials, or say that it is too large."""
    if n_trials is not None and not is_count(n_trials):
        refuse("search: n_trials is no number of trials", ">= 1", repr(n_trials), "n_trials=30")
    if method != "grid":
        if n_trials is None:
            refuse(f"search: a {method} search has no end of its own", "a number of trials", "None", "n_trials=30")
        n = int(n_trials)
    else:
        most = max_trials if n_trials is None else LISTED
        size = space.size(most)
        n = size if n_trials is None else min(size, int(n_trials))
        if size > LISTED and n_trials is not None:
            refuse(
                f"search: the grid is too large to draw {n_trials} of its points",
                f"at most {LISTED} points",
                f"{size} points" if space.function is None else f"more than {LISTED}",
                f"method='random' with n_trials={n_trials}",
            )
    if n > max_trials:
        more = " or more" if method == "grid" and space.function is not None else ""
        refuse(
            f"search: {n}{more} trials of {folds} folds are {n * folds}{more} trainings",
            f"at most {max_trials} trials",
            f"{n}{more} {'points of the grid' if method == 'grid' else 'trials'}",
            "fewer choices, method='random' with n_trials=..., or a larger max_trials",
        )
    return n


def _settings(
    job: Job, space: Space, method: str, direction: str, prune: Any, data: xr.Dataset, spec: FieldSpec
) -> dict[str, Any]:
    """Return what tells one search from another: arguments, and the data as far as a look at three steps tells."""
    dim, score = spec.sample_dim, job.score
    names = list(dict.fromkeys([*job.layout.spec.inputs, *job.layout.spec.targets]))
    looks = []
    for name in names:
        values = data[name]
        if dim in values.dims:
            size = values.sizes[dim]
            values = values.isel({dim: [0, size // 2, size - 1]})
        looks.append(np.ascontiguousarray(values.values).tobytes().hex())
    blocks = [[_ends(part, dim) for part in fold] for fold in job.folds]
    return {
        "method": method,
        "space": space.to_config(),
        "seed": job.seed,
        "spec": spec.to_config(),
        "folds": digest(blocks),
        "n_folds": len(job.folds),
        "score_name": score if isinstance(score, str) else _name(score),
        "direction": direction,
        "prune": prune if prune is None or isinstance(prune, str) else type(prune).__name__,
        "epochs": job.epochs,
        "batch_size": job.batch_size,
        "patience": job.patience,
        "learning_rate": job.learning_rate,
        "data": digest([dict(data[names].sizes), looks]),
    } | {
        # Named where they are given alone, so that studies without them stay what they are.
        k: v
        for k, v in {
            "batches": dict(job.batches),
            "scaling": None if job.scaling is None else _name(job.scaling),
        }.items()
        if v
    }


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def _ends(part: xr.Dataset, dim: str) -> list[Any]:
    labels = part[dim].values
    return [labels.size, str(labels[0]), str(labels[-1])]


def _here(work: Work, folder: Path | None, resume: bool, progress: bool) -> list[Any]:
    """Work in this process."""
    study = work.study(folder, resume)
    with _display(work, progress) as show:
        show(study)
        work.run(study, show)
    return study.trials(work.n_trials)


def _there(work: Work, folder: Path | None, resume: bool, progress: bool, client: Any) -> list[Any]:
    """Let the workers of a dask cluster work at a study on disk."""
    import distributed

    own = folder is None
    folder = Path(tempfile.mkdtemp(prefix="physml-search-")) if folder is None else folder
    try:
        study = work.study(folder, resume)
        work.workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        sent = client.scatter(work, hash=False)
        tasks = [client.submit(remote, sent, str(folder.absolute()), pure=False) for _ in range(work.workers)]
        with _display(work, progress) as show:
            pending = set(tasks)
            while pending:
                with contextlib.suppress(distributed.TimeoutError, TimeoutError):
                    distributed.wait(list(pending), timeout=1, return_when="FIRST_COMPLETED")
                pending = {t for t in pending if not t.done()}
                show(study)
        for task in tasks:
            task.result()
        work.run(study)  # what a worker that died has left
        return study.trials(work.n_trials)
    finally:
        if own:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _cluster(workers: Any) -> Iterator[Any]:
    """Give a client of dask for the time of a search, or None."""
    if workers is None or hasattr(workers, "scheduler_info"):
        yield workers
        return
    if not is_count(workers):
        refuse("search: workers are not understood", "None, a number of processes, or a distributed.Client", repr(workers),
               "workers=2")  # fmt: skip
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=int(workers), threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, Client(cluster) as client:
        yield client


@contextlib.contextmanager
def _display(work: Work, progress: bool) -> Iterator[Callable[[Study], None]]:
    """Show how many trials have ended, the best score, and how long the others will take; nothing off a terminal."""
    import sys

    if not progress or not sys.stderr.isatty():
        yield lambda study: None
        return
    with _rich() as shown:
        task = shown.add_task(f"{work.method} search", total=work.n_trials)

        def show(study: Study) -> None:
            trials = study.trials(work.n_trials)
            scores = [t.value for t in trials if t.state.name == "COMPLETE"]
            text = f"{work.method}: {work.n_trials} trials of {len(work.job.folds)} folds"
            if scores:
                text += f", best {min(scores) if work.direction == 'minimize' else max(scores):.4g}"
            if (told := work.estimate(study)) is not None:
                text += f", {told[0]:.3g} s a trial, about {pd.Timedelta(round(told[1]), 's')} left"
            shown.update(task, description=text, completed=sum(t.state.is_finished() for t in trials))

        yield show


def _seconds(length: float | str, what: str) -> float:
    try:
        found = pd.Timedelta(length).total_seconds() if isinstance(length, str) else float(length)
    except (TypeError, ValueError):
        found = -1.0
    if not found >= 0:
        refuse(f"search: {what} is no length of time", "seconds, or text such as '2h'", repr(length), f"{what}='2h'")
    return found


def _none_scored(trials: list[Any]) -> str:
    from physml.tuning.study import NOTE

    notes = [t.user_attrs.get(NOTE, {}) for t in trials]
    outcomes = [n.get("outcome", "running") for n in notes]
    counted = ", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes)) or "none"
    errors = [n["error"] for n in notes if n.get("error")]
    return describe(
        "search: no trial was scored",
        expected="at least one with a finite score on every fold",
        received=f"{counted}" + (f"; the last error: {errors[-1].rstrip('.')}" if errors else ""),
        remedy="call build with one choice of parameters and train that model first",
    )
