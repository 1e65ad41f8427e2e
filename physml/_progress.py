"""Progress bars for passes over data: drawn by rich on a terminal, silent everywhere else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

Item = TypeVar("Item")


@contextlib.contextmanager
def bar(title: str, total: int | None = None, *, show: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a bar while the context lasts; what it gives is called with the number of pieces just done.

    Parameters
    ----------
    title
        What is being done.
    total
        Pieces in all, or None where that is not known.
    show
        Whether to draw at all. Nothing is drawn where the standard error is no terminal.

    Examples
    --------
    >>> with bar("reading", 3) as done:
    ...     done(1)
    """
    if not show or not sys.stderr.isatty():
        yield lambda n: None
        return
    with _rich() as shown:
        task = shown.add_task(title, total=total)
        yield lambda n: shown.advance(task, n)


def track(items: Iterable[Item], title: str, total: int | None = None, *, show: bool = True) -> Iterator[Item]:
    """Yield the *items*, with a bar.

    Examples
    --------
    >>> list(track([1, 2], "counting"))
    [1, 2]
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(title, total, show=show) as done:
        for item in items:
            yield item
            done(1)


@contextlib.contextmanager
def computing(title: str, *, show: bool = True) -> Iterator[None]:
    """Show the tasks of what dask computes within the context; a distributed cluster has its own display.

    Examples
    --------
    >>> with computing("statistics"):
    ...     pass
    """
    if not show or not sys.stderr.isatty():
        yield
        return
    from dask.callbacks import Callback

    with _rich() as shown:
        task = shown.add_task(title, total=None)

        def start(graph: Any, state: Any) -> None:
            shown.update(task, total=sum(len(state[k]) for k in ("ready", "waiting")), completed=0)

        def advance(*args: Any) -> None:
            shown.advance(task, 1)

        with Callback(start_state=start, posttask=advance):
            yield


def _rich() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
