"""Where a run that draws figures may write."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

from physml._errors import describe


def place_for(out: str | os.PathLike[str], holds: Iterable[str], *, command: str, what: str, overwrite: bool) -> Path:
    """Return the folder to be written, or say why it may not be.

    Parameters
    ----------
    out
        The folder.
    holds
        Names of files by which an earlier run of the kind is known; only such a folder is replaced.
    command, what
        The command, such as ``"physml demo"``, and what it writes, such as ``"demonstration"``.
    overwrite
        Whether an earlier run may be replaced.

    Raises
    ------
    FileExistsError
        Where the folder holds something, and is not to be replaced or holds no run of the kind.
    ImportError
        Where matplotlib is not installed.
    """
    target, known = Path(out).resolve(), sorted(holds)
    held = {p.name for p in target.iterdir()} if target.is_dir() else {target.name} if target.exists() else set()
    if held and overwrite and not set(known) <= held:
        raise FileExistsError(
            describe(
                f"--out {str(out)!r} holds no {what} that could be replaced",
                expected=f"a folder with {' and '.join(known)}, or none",
                received=", ".join(sorted(held)[:5]),
                remedy="choose another folder",
            )
        )
    if held and not overwrite:
        raise FileExistsError(
            describe(
                f"--out {str(out)!r} is there already",
                expected="a new or empty folder",
                received=f"{len(held)} entries",
                remedy="choose another folder, or --overwrite",
            )
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            describe(
                f"{command} draws figures",
                expected="matplotlib",
                received="not installed",
                remedy="pip install 'physml[plot]'",
            )
        )
    return target
