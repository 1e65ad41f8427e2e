"""The space of a search: choices and ranges by name, drawn by Optuna, or listed point by point for a grid."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from physml._errors import is_count, refuse

LISTED = 100_000
"""Points of a grid, at most: all are listed before some are drawn."""
PLAIN = (bool, int, float, str, type(None))
"""Values that Optuna keeps as they are."""


@dataclass(frozen=True)
class Range:
    """A range of numbers; made by :func:`between`."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    points: int | None = None
    whole: bool = False

    def listed(self, name: str) -> list[Any]:
        """Return the numbers of a grid."""
        if self.points is not None:
            spaced = np.geomspace if self.log else np.linspace
            found = spaced(self.low, self.high, self.points)
            return list(dict.fromkeys(round(v) for v in found)) if self.whole else [float(v) for v in found]
        if self.step is not None or (self.whole and not self.log):
            step = self.step or 1
            count = math.floor((self.high - self.low) / step + 1e-9) + 1
            return [int(self.low + i * step) if self.whole else float(self.low + i * step) for i in range(count)]
        refuse(
            f"search: a grid needs listed values of {name!r}",
            "choices, or between(low, high, points=5)",
            f"a range from {self.low:g} to {self.high:g}",
            "say how many points, or method='random'",
        )

    def suggest(self, trial: Any, name: str) -> Any:
        """Return the number of a trial."""
        if self.whole:
            step = {} if self.log else {"step": int(self.step or 1)}
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log, **step)
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)


def between(
    low: float, high: float, *, log: bool = False, step: float | None = None, points: int | None = None
) -> Range:
    """Return a range of numbers for :func:`physml.tuning.search`: whole ones where both ends are integers.

    Parameters
    ----------
    low, high
        The ends, both of them in the range.
    log
        Draw the logarithm evenly.
    step
        Distance of the numbers drawn, where not all may be.
    points
        Numbers that a grid takes, evenly spaced, ends included.

    Raises
    ------
    ValueError
        For ends in the wrong order, and logarithms of what is not positive.

    Examples
    --------
    >>> between(1e-4, 1e-1, log=True, points=4).listed("learning_rate")
    [0.0001, 0.001, 0.01, 0.1]
    """
    ends = [v.item() if isinstance(v, np.generic) else v for v in (low, high)]
    wrong = None
    if not all(isinstance(v, numbers.Real) and not isinstance(v, bool) and math.isfinite(v) for v in ends):
        wrong = "two finite numbers"
    elif not ends[0] < ends[1]:
        wrong = "low < high"
    elif log and ends[0] <= 0:
        wrong = "low > 0 for a logarithm"
    elif log and step is not None:
        wrong = "a logarithm or a step, not both"
    elif step is not None and not step > 0:
        wrong = "step > 0"
    elif points is not None and not is_count(points, 2):
        wrong = "points >= 2"
    if wrong:
        refuse("between: this is no range", wrong, f"low={low}, high={high}, log={log}, step={step}, points={points}",
               "between(1e-4, 1e-1, log=True)")  # fmt: skip
    whole = all(isinstance(v, int) for v in ends) and (step is None or float(step).is_integer())
    return Range(ends[0], ends[1], bool(log), step, points, whole)


class Space:
    """What a search may choose: a mapping from names to choices and ranges, or a function of a trial.

    Parameters
    ----------
    space
        A mapping to lists of choices (of anything; a mapping from labels to values where they have no short name),
        :func:`between` and ``range``; or a function that asks an ``optuna.Trial`` (``trial.suggest_categorical(...)``) and returns
        the parameters, some of them depending on others.

    Raises
    ------
    TypeError, ValueError
        For empty spaces and entries of other kinds.
    """

    def __init__(self, space: Mapping[str, Any] | Callable[[Any], Any]) -> None:
        self.function: Callable[[Any], Any] | None = None
        self.entries: dict[str, Range | dict[Any, Any]] = {}
        if callable(space) and not isinstance(space, Mapping):
            self.function = space
            return
        if not isinstance(space, Mapping):
            raise TypeError(_words("search: space is none", space))
        if not space:
            refuse("search: the space is empty", "names with their choices", "{}", "space={'units': [16, 32, 64]}")
        for name, entry in space.items():
            if not isinstance(name, str) or not name:
                raise TypeError(_words(f"search: {name!r} is no name of a parameter", name))
            self.entries[name] = _entry(name, entry)

    def draw(self, trial: Any) -> dict[str, Any]:
        """Return the parameters of a trial, as *build* gets them."""
        if self.function is not None:
            found = self.function(trial)
            if found is not None and not isinstance(found, Mapping):
                raise TypeError(_words("search: the function of the space returned no parameters", found))
            return dict(trial.params if found is None else found)
        out = {}
        for name, entry in self.entries.items():
            if isinstance(entry, Range):
                out[name] = entry.suggest(trial, name)
            else:
                out[name] = entry[trial.suggest_categorical(name, list(entry))]
        return out

    def grid(self) -> list[dict[str, Any]]:
        """Return every point as what Optuna is to draw.

        Raises
        ------
        ValueError
            For ranges without listed values.
        """
        if self.function is not None:
            return list(_walk(self.function))
        listed = [e.listed(n) if isinstance(e, Range) else list(e) for n, e in self.entries.items()]
        return [dict(zip(self.entries, point, strict=True)) for point in itertools.product(*listed)]

    def size(self, most: int | None = None) -> int:
        """Return the number of points of the grid, without listing them where they are a product.

        Parameters
        ----------
        most
            Paths through a function are walked until there are more than these.
        """
        if self.function is not None:
            return sum(1 for _ in itertools.islice(_walk(self.function), None if most is None else most + 1))
        return math.prod(len(e.listed(n) if isinstance(e, Range) else e) for n, e in self.entries.items())

    def to_config(self) -> Any:
        """Return plain values that tell one space from another."""
        if self.function is not None:
            return f"function {getattr(self.function, '__qualname__', type(self.function).__name__)}"
        return {n: e.__dict__ if isinstance(e, Range) else [repr(k) for k in e] for n, e in self.entries.items()}


class _Asked:
    """Stands in for a trial: gives the answers planned, then the first choice, and notes what was asked."""

    def __init__(self, planned: Sequence[int]) -> None:
        self.planned, self.sizes, self.params = list(planned), [], {}  # type: ignore[var-annotated]

    def _give(self, name: str, choices: list[Any]) -> Any:
        if name not in self.params:
            at = self.planned[len(self.sizes)] if len(self.sizes) < len(self.planned) else 0
            self.sizes.append(len(choices))
            self.params[name] = choices[at]
        return self.params[name]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._give(name, list(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any:
        return self._give(name, Range(low, high, log, None if log else step, whole=True).listed(name))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return self._give(name, Range(low, high, log, step).listed(name))


def _walk(function: Callable[[Any], Any]) -> Iterator[dict[str, Any]]:
    """Yield the parameters of every path through a function of a trial."""
    planned: list[int] = []
    while True:
        asked = _Asked(planned)
        function(asked)
        yield asked.params
        at = [*planned, *[0] * (len(asked.sizes) - len(planned))][: len(asked.sizes)]
        while at and at[-1] + 1 >= asked.sizes[len(at) - 1]:
            at.pop()
        if not at:
            return
        planned = [*at[:-1], at[-1] + 1]


def _entry(name: str, entry: Any) -> Range | dict[Any, Any]:
    if isinstance(entry, Range):
        return entry
    if isinstance(entry, range):
        entry = list(entry)
    if isinstance(entry, np.ndarray):
        entry = entry.tolist()
    if isinstance(entry, Mapping):
        labelled = {str(k): v for k, v in entry.items()}
    elif isinstance(entry, list | tuple):
        values = [v.item() if isinstance(v, np.generic) else v for v in entry]
        labels: list[Any] = [v if isinstance(v, PLAIN) else _label(name, v) for v in values]
        repeated = [v for i, v in enumerate(labels) if any(v == w and type(v) is type(w) for w in labels[:i])]
        if repeated:
            refuse(f"search: the choices of {name!r} repeat {repeated[0]!r}", "each once", list(entry), "remove one")
        labelled = dict(zip(labels, values, strict=True))
        if len(labelled) < len(labels):
            refuse(
                f"search: choices of {name!r} cannot be told apart",
                "choices that differ by more than their type",
                list(entry),
                "give them labels: {'yes': True, 'one': 1}",
            )
    else:
        raise TypeError(_words(f"search: the space has no choices of {name!r}", entry))
    if not labelled:
        refuse(f"search: {name!r} has no choices", "one or more", entry, "name them, or leave the parameter out")
    return labelled


def _label(name: str, value: Any) -> str:
    label = repr(value)
    if " at 0x" in label:
        refuse(
            f"search: a choice of {name!r} has no name that another process would know",
            "plain values, or labels: {'small': value}",
            label,
            f"space={{{name!r}: {{'label': value, ...}}}}",
        )
    return label


def _words(what: str, received: Any) -> str:
    from physml._errors import describe

    return describe(
        what,
        expected="names with lists of choices, between(low, high) or range(...); or a function of a trial",
        received=f"{type(received).__name__} {received!r}"[:120],
        remedy="space={'units': [16, 32, 64], 'learning_rate': between(1e-4, 1e-1, log=True)}",
    )
