"""Writing beside the place and moving when whole, so that nothing half-written is left behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Give an empty folder next to *target*, on the same disk, that is gone afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".physml-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give the path of a file or folder to make; without an error it takes the place of *target*."""
    with beside(target) as folder:
        made = folder / target.name
        yield made
        put(made, target)


def put(made: Path, target: Path) -> None:
    """Move *made* to *target*, on the same disk; what stood there is left beside *made*, under the name ``old``."""
    if not target.is_dir():
        os.replace(made, target)
        return
    # A folder cannot be replaced in one move: the old one steps aside, and comes back if the new one cannot follow.
    old = made.parent / "old"
    os.replace(target, old)
    try:
        os.replace(made, target)
    except OSError:
        os.replace(old, target)
        raise


@contextlib.contextmanager
def adding_to(target: Path) -> Iterator[Path]:
    """Give a folder to fill; without an error its files are moved into the folder *target*."""
    with beside(target) as folder:
        yield folder
        for file in folder.iterdir():
            os.replace(file, target / file.name)
