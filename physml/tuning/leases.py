"""Leases: which process works at which trial of a study on disk, so that a trial whose process died is taken over."""

from __future__ import annotations

import json
import os
import platform
import threading
from pathlib import Path

BEAT = 5.0
"""Seconds between two signs of life."""
SILENCE = 120.0
"""Seconds without one after which a process on another machine counts as dead."""
ATTEMPTS = 3
"""Times a trial may end with the death of its process."""

_held: set[str] = set()


def _host() -> str:
    try:  # containers may share a name, but not their process numbers
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return f"{platform.node()}:{space}"


class Leases:
    """The leases of a study: one file for each attempt at a trial, made by one process alone, touched while it lives.

    Parameters
    ----------
    folder
        Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._mine: dict[int, Path] = {}
        self._stop: threading.Event | None = None

    def take(self, number: int) -> bool:
        """Take a trial that nobody works at; tell whether it is ours now."""
        attempts = self._attempts(number)
        if attempts and not self._dead(attempts[-1]):
            return False
        return self._make(number, len(attempts))

    def deaths(self, number: int) -> int:
        """Return how many attempts at a trial ended with the death of their process."""
        return sum(self._dead(path) and not self._released(path) for path in self._attempts(number))

    def release(self, number: int) -> None:
        """Give a trial back unfinished; the next one to look for work takes it."""
        path = self._mine.pop(number, None)
        if path is not None:
            self._write(path, released=True)
            _held.discard(str(path))

    def finish(self, number: int) -> None:
        """Forget the attempts at a trial that has ended."""
        path = self._mine.pop(number, None)
        _held.discard(str(path))
        for each in self._attempts(number):
            each.unlink(missing_ok=True)

    def close(self) -> None:
        """Give everything back, and give no more signs of life."""
        for number in list(self._mine):
            self.release(number)
        if self._stop is not None:
            self._stop.set()
            self._stop = None

    def _attempts(self, number: int) -> list[Path]:
        return sorted(self.folder.glob(f"{number}.*.lease"), key=lambda p: int(p.name.split(".")[1]))

    def _make(self, number: int, attempt: int) -> bool:
        path = self.folder / f"{number}.{attempt}.lease"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        _held.add(str(path))
        self._mine[number] = path
        self._write(path, released=False)
        if self._stop is None:
            self._stop = threading.Event()
            threading.Thread(target=self._beat, args=(self._stop,), daemon=True).start()
        return True

    def _write(self, path: Path, released: bool) -> None:
        path.write_text(json.dumps({"host": _host(), "process": os.getpid(), "released": released}))

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT):
            for path in list(self._mine.values()):
                try:
                    os.utime(path)
                except OSError:
                    continue

    def _released(self, path: Path) -> bool:
        return bool(self._read(path).get("released"))

    def _dead(self, path: Path) -> bool:
        told = self._read(path)
        if told.get("released"):
            return True
        if told.get("host") == _host():
            if told["process"] == os.getpid():
                return str(path) not in _held
            if not _alive(told["process"]):
                return True
        try:
            return self._now() - path.stat().st_mtime > SILENCE
        except FileNotFoundError:
            return False

    def _now(self) -> float:
        """Return the time by the clock of the file system, which is the one of the signs of life."""
        path = self.folder / f"clock-{platform.node()}-{os.getpid()}"
        path.touch()
        try:
            return path.stat().st_mtime
        finally:
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> dict:
        try:
            return json.loads(path.read_text() or "{}")
        except (OSError, ValueError):
            return {}


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
