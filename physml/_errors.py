"""Wording of errors: every message says what, where, expected, received and the remedy."""

from __future__ import annotations

import difflib
import inspect
import numbers
from collections.abc import Callable, Iterable
from typing import Any, NoReturn


def describe(what: str, *, expected: object, received: object, remedy: str) -> str:
    """Return one message in the house form.

    Parameters
    ----------
    what
        What is wrong and where, as a clause without a full stop.
    expected, received
        What was asked for, and what came.
    remedy
        What the reader can do about it.

    Examples
    --------
    >>> describe("batch_size is not positive", expected=">= 1", received=0, remedy="pass batch_size=32")
    'batch_size is not positive. Expected: >= 1. Received: 0. Remedy: pass batch_size=32.'
    """
    what += "" if what.endswith("?") else "."
    return f"{what} Expected: {expected}. Received: {received}. Remedy: {remedy}."


def refuse(what: str, expected: object, received: object, remedy: str) -> NoReturn:
    """Raise a ValueError in the house form; arguments as for :func:`describe`."""
    raise ValueError(describe(what, expected=expected, received=received, remedy=remedy))


def closest(name: str, names: Iterable[object]) -> str:
    """Return "; did you mean 'x'?" for the nearest of *names*, or an empty string.

    Examples
    --------
    >>> closest("tracr", ["tracer", "u"])
    "; did you mean 'tracer'?"
    """
    match = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def is_count(value: object, least: int = 1) -> bool:
    """Return whether a value is a whole number of at least *least*; booleans are none.

    Examples
    --------
    >>> is_count(3), is_count(2.5), is_count(True), is_count(0)
    (True, False, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least


def misfits(call: Callable[..., Any], arguments: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the parameters of a callable, the arguments among those given that it does not take, and those it lacks."""
    parameters = inspect.signature(call).parameters
    given = list(arguments)
    unknown = [a for a in given if a not in parameters]
    lacking = [p for p, v in parameters.items() if v.default is inspect.Parameter.empty and p not in given]
    return list(parameters), unknown, lacking
