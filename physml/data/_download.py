"""Fetching one file: whole and checked, or not at all, with one error that says how to do it by hand."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from physml._errors import describe
from physml.data._entries import File

_CHUNK = 1 << 18  # bytes


def download(file: File, folder: Path, *, sha256: str | None, check: Callable[[Path], None], progress: bool) -> Path:
    """Fetch a file into *folder*, in place of an older one of its name.

    The file comes into a folder beside, is unpacked and checked there, and is moved when it is whole; that folder is
    gone afterwards, whatever happens.

    Parameters
    ----------
    file
        What to fetch.
    folder
        Where it will lie, made if need be.
    sha256
        Checksum of the file as it lies at its address, if it is known.
    check
        Called with the path of the unpacked file; it raises where the file cannot be read.
    progress
        Show a progress bar on the error stream.

    Raises
    ------
    ConnectionError
        Where the address refuses, cannot be reached or breaks off.
    ValueError
        Where what came is not what was asked for: another checksum, a file cut short, a page of a login.
    """
    import pooch
    import requests

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    with tempfile.TemporaryDirectory(dir=folder, prefix=".physml-") as beside:
        came = Path(beside) / "came"
        try:
            with _bar(file.name, progress) as bar:
                pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK)(file.address, str(came), None)
        except requests.RequestException as error:
            if error.response is not None:
                error.response.close()
            raise ConnectionError(_by_hand(file, folder, "could not be fetched", reason(error))) from error
        received = pooch.file_hash(str(came), alg="sha256") if sha256 else None
        if received != sha256:
            size = came.stat().st_size
            raise ValueError(
                _by_hand(file, folder, "is not the file that is known", f"sha256 {received}, {size} bytes", sha256)
            )
        try:
            made = _unpacked(came, Path(beside) / file.name) if file.packed else came.rename(came.with_name(file.name))
            check(made)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            left = came if came.exists() else came.with_name(file.name)
            raise ValueError(
                _by_hand(file, folder, "came damaged, cut short or as something else", f"{_told(left)}: {error}")
            ) from error
        os.replace(made, target)
    return target


def reason(error: BaseException) -> str:
    """Return the last line of what went wrong below: the inmost cause says it, the outer ones wrap it."""
    inmost: BaseException = error
    seen = {id(inmost)}
    while True:
        inner = inmost.__cause__ or inmost.__context__
        if inner is None or id(inner) in seen or not str(inner):
            break
        inmost = inner
        seen.add(id(inmost))
    text = str(error) if _says_status(error) else str(inmost) or str(error)
    return f"{type(error).__name__}: {' '.join(text.split())[:200]}"


def _says_status(error: BaseException) -> bool:
    return getattr(error, "response", None) is not None


def _told(path: Path) -> str:
    """Return the size of a file, and whether it is a page for people: a login, a notice."""
    with path.open("rb") as start:
        page = start.read(200).lstrip().lower().startswith((b"<!doctype", b"<html"))
    return f"{path.stat().st_size} bytes{' of an HTML page' if page else ''}"


def _by_hand(file: File, folder: Path, what: str, received: str, sha256: str | None = None) -> str:
    return describe(
        f"{file.name} {what} from {file.address}",
        expected=f"the file with sha256 {sha256}" if sha256 else "the whole file",
        received=received,
        remedy=f"try again, or fetch it by hand where the network allows, so that it lies at {folder / file.name}: "
        f"{file.command(folder)}",
    )


def _unpacked(packed: Path, target: Path) -> Path:
    """Return the unpacked file; some servers unpack on the way, then there is nothing to do."""
    with packed.open("rb") as start:
        magic = start.read(2)
    if magic != b"\x1f\x8b":
        return packed.rename(target)
    with gzip.open(packed) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, _CHUNK)
    return target


@contextlib.contextmanager
def _bar(title: str, show: bool) -> Iterator[Any]:
    """Give what pooch takes for a progress bar, drawn by rich."""
    if not show:
        yield False
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as drawn:
        yield _Bar(drawn, drawn.add_task(title, total=None))


class _Bar:
    """The four calls that pooch makes, on a task of rich."""

    def __init__(self, drawn: Any, task: Any):
        self._drawn, self._task = drawn, task
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    @total.setter
    def total(self, value: int) -> None:
        self._total = value
        self._drawn.update(self._task, total=value or None)

    def update(self, n: int) -> None:
        self._drawn.advance(self._task, n)

    def reset(self) -> None:
        self._drawn.update(self._task, completed=0)

    def close(self) -> None:
        """Do nothing: the bar is closed with its context."""
