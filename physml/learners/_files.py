"""Learners on disk: one zip file of plain values and arrays, from which nothing can be run."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from physml._atomic import replacing
from physml._errors import closest, describe
from physml.layout import Layout

FORMAT = 1
"""Of the files; raised when older versions could not read them."""
_CONFIG, _STATE, _LAYOUT, _MORE = "learner.json", "state.npz", "layout.npz", "more/"


def save(learner: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted learner to one file, beside its place first; see :func:`load`."""
    config = {
        "format": FORMAT,
        "learner": type(learner).__name__,
        "arguments": learner.to_config(),
        "layout": learner.layout.to_config(),
        "calendar": learner.calendar,
        "provenance": dict(learner.provenance),
    }
    text = json.dumps(config, indent=1)
    with replacing(Path(path)) as made, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(_CONFIG, text)
        file.writestr(_STATE, _npz(learner.state))
        file.writestr(_LAYOUT, _npz(learner.layout.arrays()))
        for name, data in learner.files().items():
            file.writestr(_MORE + name, data)


def load(path: str | os.PathLike[str]) -> Any:
    """Return the learner that ``learner.save(path)`` wrote.

    Parameters
    ----------
    path
        One file. It is read as numbers and text: no code in it is run, whoever wrote it.

    Raises
    ------
    FileNotFoundError, ValueError
        Where there is no such file, or it is no learner's, or holds anything but the known types.

    Examples
    --------
    >>> learner = load("forest.learner")  # doctest: +SKIP
    """
    from physml.learners import _fitted

    target = Path(path)
    if not target.exists():
        beside = [p.name for p in target.parent.glob("*")] if target.parent.is_dir() else []
        raise FileNotFoundError(
            describe(
                f"no learner at {str(target)!r}{closest(target.name, beside)}",
                expected="a file written by learner.save(path)",
                received="no such file",
                remedy="correct the path",
            )
        )
    try:
        with zipfile.ZipFile(target) as file:
            config = json.loads(file.read(_CONFIG))
            state, arrays = _arrays(file.read(_STATE)), _arrays(file.read(_LAYOUT))
            more = {n.removeprefix(_MORE): file.read(n) for n in file.namelist() if n.startswith(_MORE)}
        known = dict(_known())
        kind = config["learner"]
        if config["format"] > FORMAT:
            raise ValueError(f"format {config['format']}, of a later version of physml")
        cls = known.get(kind) or _fitted.LEARNERS.get(kind)
        if cls is None:
            raise ValueError(f"the learner {kind!r}{closest(kind, known)}, which is not known")
        learner = cls.from_config(config["arguments"])
        learner._layout = Layout.from_config(config["layout"], arrays)
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(
            describe(
                f"{str(target)!r} is no learner that can be read",
                expected="a whole file written by learner.save(path); a learner of your own must be imported before loading",
                received=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}",
                remedy="save or copy the file again",
            )
        ) from error
    learner.calendar, learner.provenance, learner.state = config["calendar"], config["provenance"], state
    learner.restore(more)
    return learner


def _known() -> dict[str, Any]:
    """Return physml's own learners by name."""
    from physml import learners

    return {n: getattr(learners, n) for n in learners.LEARNER_NAMES}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return {n: found[n] for n in found.files}
