"""A study: trials in Optuna's storage, in memory or in a folder that several processes and later ones share."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from physml._errors import describe
from physml.tuning.leases import ATTEMPTS, Leases

SETTINGS, JOURNAL, LEASES = "search.json", "journal.log", "leases"
NOTE = "physml"
"""Attribute of a trial that holds what a search noted of it."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from telling of every trial, and give its logger back as it was."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


class Study:
    """An Optuna study that gives out its trials one by one, each to one process, and unfinished ones again.

    Parameters
    ----------
    folder
        Where it is kept; None keeps it in memory.
    settings
        What tells one search from another, as JSON holds it.
    direction
        ``"minimize"`` or ``"maximize"``.
    sampler, pruner
        Those of Optuna.
    resume
        Whether to go on with what is there.

    Raises
    ------
    FileExistsError
        Where *folder* holds a study and *resume* is false.
    ValueError
        Where it holds another search, or something else.
    """

    def __init__(
        self,
        folder: Path | None,
        settings: Mapping[str, Any],
        direction: Any,
        sampler: Any = None,
        pruner: Any = None,
        resume: bool = True,
    ) -> None:
        import optuna

        storage: Any = None
        self.folder, self.leases = folder, None
        if folder is not None:
            from optuna.storages.journal import JournalFileBackend

            _settle(folder, settings, resume)
            _mend(folder / JOURNAL)
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
            self.leases = Leases(folder / LEASES)
        self.optuna = optuna.create_study(
            storage=storage,
            sampler=sampler,
            pruner=pruner or optuna.pruners.NopPruner(),
            study_name="physml",
            direction=direction,
            load_if_exists=True,
        )

    def take(self, n_trials: int) -> Any:
        """Return the next trial to work at: an unfinished one whose process is gone, or a new one; None where there is none."""
        import optuna

        while True:
            if self.leases is not None:
                running = (optuna.trial.TrialState.RUNNING,)
                for known in self.optuna.get_trials(deepcopy=False, states=running):
                    if known.number < n_trials and self._mine(known):
                        if NOTE in known.user_attrs:  # it died between the note and the end
                            note = known.user_attrs[NOTE]
                            self.finish(known, note["outcome"], note, note.get("value"))
                            continue
                        if self.leases.deaths(known.number) < ATTEMPTS:
                            return optuna.trial.Trial(self.optuna, known._trial_id)
                        error = f"its process died {ATTEMPTS} times (too little memory?)"
                        self.finish(known, "failed", {"error": error})
            if len(self.optuna.get_trials(deepcopy=False)) >= n_trials:
                return None
            trial = self.optuna.ask()
            if trial.number >= n_trials:  # another process was faster; a longer search will find it unfinished
                return None
            if self.leases is None or self._mine(trial):
                return trial

    def _mine(self, trial: Any) -> bool:
        """Take a trial that nobody works at and nobody ended meanwhile."""
        assert self.leases is not None
        if not self.leases.take(trial.number):
            return False
        ended = self.optuna.get_trials(deepcopy=False)[trial.number].state.is_finished()
        if ended:
            self.leases.finish(trial.number)
        return not ended

    def finish(self, trial: Any, outcome: str, note: Mapping[str, Any], value: float | None = None) -> None:
        """Record how a trial ended: ``"complete"``, ``"pruned"``, ``"diverged"`` or ``"failed"``."""
        import optuna

        states = optuna.trial.TrialState
        # Optuna learns from a pruned trial that its parameters are bad, and nothing from a failed one.
        state = {"complete": states.COMPLETE, "failed": states.FAIL}.get(outcome, states.PRUNED)
        try:
            self.optuna._storage.set_trial_user_attr(
                trial._trial_id, NOTE, {**note, "outcome": outcome, "value": value}
            )
            self.optuna.tell(trial.number, value, state, skip_if_finished=True)
        except optuna.exceptions.UpdateFinishedTrialError:
            pass  # taken over while this process was held up; both have the same numbers
        if self.leases is not None:
            self.leases.finish(trial.number)

    def trials(self, n_trials: int) -> list[Any]:
        """Return the trials by number, as Optuna keeps them."""
        return [t for t in self.optuna.get_trials(deepcopy=False) if t.number < n_trials]

    def close(self) -> None:
        """Give back what is unfinished."""
        if self.leases is not None:
            self.leases.close()


def _settle(folder: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Write the settings of a new study, or compare those of the one that is there."""
    wanted = json.loads(json.dumps(settings, default=str))
    target = folder / SETTINGS
    if folder.exists() and not folder.is_dir():
        raise ValueError(_no_study(folder, "a file"))
    if folder.is_dir() and not target.exists() and any(folder.iterdir()):
        raise ValueError(_no_study(folder, "a folder of other files"))
    if not resume and target.exists():
        raise FileExistsError(
            describe(
                f"search: there is a study in {str(folder)!r}",
                expected="none, with resume=False",
                received=f"{target.name}",
                remedy="another folder, or resume=True to go on with it",
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        # Several jobs may start at once: the first link wins, and the others compare.
        handle, name = tempfile.mkstemp(dir=folder.parent, prefix=".physml-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(wanted, file, indent=1)
            with contextlib.suppress(FileExistsError):
                os.link(name, target)
        finally:
            os.unlink(name)
    there = json.loads(target.read_text())
    differ = [k for k in {**wanted, **there} if there.get(k) != wanted.get(k)]
    if differ:
        k = differ[0]
        raise ValueError(
            describe(
                f"search: the study in {str(folder)!r} is another search; {', '.join(differ)} differ",
                expected=f"{k} {_short(there.get(k))}",
                received=f"{k} {_short(wanted.get(k))}",
                remedy="give this search a folder of its own, or the same arguments",
            )
        )


def _no_study(folder: Path, received: str) -> str:
    return describe(
        f"search: {str(folder)!r} is no study",
        expected="a folder that a search made, an empty one, or none",
        received=received,
        remedy="study='another/folder'",
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _mend(journal: Path) -> None:
    """Cut off what a machine that went down left of its last line."""
    if not journal.exists() or not journal.stat().st_size:
        return
    with journal.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
    from optuna.storages.journal import JournalFileSymlinkLock

    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        whole = journal.read_bytes()
        os.truncate(journal, whole.rfind(b"\n") + 1)
    finally:
        lock.release()
