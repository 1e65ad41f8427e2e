"""Optimizers, schedules and descents by name, with their arguments: checked before Keras is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from physml._errors import closest, describe, refuse

DESCENTS = ("mini-batch", "batch", "stochastic")
"""What a step of the optimizer sees: a batch, the whole training set, one sample."""


class Argument(NamedTuple):
    """What an argument may be: a number between two ends, a whole one, or a switch."""

    kind: type[bool] | type[int] | type[float]
    default: Any
    low: float = 0.0
    high: float = math.inf
    open: bool = False
    """Whether the lower end itself is excluded."""

    def check(self, where: str, value: Any) -> Any:
        """Return the value, or refuse it."""
        right = {bool: (bool,), int: (int,), float: (int, float)}[self.kind]
        fits = isinstance(value, right) and (self.kind is bool or not isinstance(value, bool))
        if fits and self.kind is not bool:
            fits = (
                math.isfinite(value) and (self.low < value if self.open else self.low <= value) and value <= self.high
            )
        if not fits:
            remedy = f"correct {where}" if self.default is REQUIRED else f"correct {where}; {self.default} is usual"
            refuse(f"{where} has a wrong value", self.words(), f"{value!r} ({type(value).__name__})", remedy)
        return self.kind(value)

    def words(self) -> str:
        """Return what is expected."""
        if self.kind is bool:
            return "true or false"
        noun = "whole number" if self.kind is int else "number"
        low = f"above {self.low:g}" if self.open else f"of at least {self.low:g}"
        return f"a {noun} {low}" + (f", at most {self.high:g}" if math.isfinite(self.high) else "")


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()
"""Stands for the default of an argument that has none."""

_SHARE = Argument(float, 0.0, 0.0, 1.0)
_SMALL = Argument(float, 1e-7, open=True)
_DECAY = {"weight_decay": Argument(float, 0.0)}
_MOMENTS = {"beta_1": _SHARE._replace(default=0.9), "beta_2": _SHARE._replace(default=0.999), "epsilon": _SMALL}

OPTIMIZERS: dict[str, dict[str, Argument]] = {
    "sgd": {"momentum": _SHARE, "nesterov": Argument(bool, False), **_DECAY},
    "rmsprop": {
        "rho": _SHARE._replace(default=0.9),
        "momentum": _SHARE,
        "epsilon": _SMALL,
        "centered": Argument(bool, False),
        **_DECAY,
    },
    "adam": {**_MOMENTS, "amsgrad": Argument(bool, False), **_DECAY},
    "adamw": {**_MOMENTS, "amsgrad": Argument(bool, False), "weight_decay": Argument(float, 0.004)},
    "nadam": {**_MOMENTS, **_DECAY},
    "adamax": {**_MOMENTS, **_DECAY},
    "adagrad": {"initial_accumulator_value": Argument(float, 0.1), "epsilon": _SMALL, **_DECAY},
    "adadelta": {"rho": _SHARE._replace(default=0.95), "epsilon": _SMALL, **_DECAY},
    "lion": {"beta_1": _SHARE._replace(default=0.9), "beta_2": _SHARE._replace(default=0.99), **_DECAY},
}
"""Optimizers of Keras by name, and the arguments of each: defaults are those of Keras."""

_EPOCHS = Argument(float, REQUIRED, open=True)
_FACTOR = Argument(float, REQUIRED, 0.0, 1.0, open=True)

SCHEDULES: dict[str, dict[str, Argument]] = {
    "constant": {},
    "step": {"every": _EPOCHS, "factor": _FACTOR},
    "exponential": {"factor": _FACTOR},
    "cosine": {"to": _SHARE},
    "cosine_restarts": {
        "first": _EPOCHS,
        "longer": Argument(float, 1.0, 1.0),
        "lower": Argument(float, 1.0, 0.0, 1.0, open=True),
        "to": _SHARE,
    },
    "plateau": {
        "patience": Argument(int, REQUIRED, 1),
        "factor": _FACTOR,
        "min_delta": Argument(float, 0.0),
        "cooldown": Argument(int, 0),
        "least": Argument(float, 0.0),
    },
}
"""Courses of the learning rate by name, and the arguments of each.

``step``: times *factor* after every *every* epochs. ``exponential``: times *factor* in the course of every epoch. ``cosine``:
falls over all epochs to the part *to* of the first rate. ``cosine_restarts``: the same over the *first* epochs, and again from
*lower* times the rate before, each time over *longer* times as many epochs. ``plateau``: times *factor* when the validation loss
has not fallen by *min_delta* for *patience* epochs, then at rest for *cooldown* epochs, never below *least*.
"""


class Choice(NamedTuple):
    """A name, and all of its arguments."""

    type: str
    arguments: dict[str, Any]


def choose(value: Any, table: Mapping[str, Mapping[str, Argument]], where: str) -> Choice:
    """Return an optimizer or a schedule with all its arguments.

    Parameters
    ----------
    value
        A name, or ``{"type": name, argument: value, ...}``.
    table
        :data:`OPTIMIZERS` or :data:`SCHEDULES`.
    where
        What messages call it.

    Raises
    ------
    ValueError
        For names and arguments that are not known, are missing, or have a wrong value.

    Examples
    --------
    >>> choose({"type": "step", "every": 10, "factor": 0.5}, SCHEDULES, "schedule")
    Choice(type='step', arguments={'every': 10.0, 'factor': 0.5})
    """
    given = {"type": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
        refuse(
            f"{where} is not understood",
            "a name, or {type: name, ...} with its arguments",
            repr(value),
            f"{where}: {next(iter(table))}",
        )
    name, arguments = given["type"], {k: v for k, v in given.items() if k != "type"}
    name = name.lower() if name.lower() in table else name
    if name not in table:
        refuse(
            f"{where} {name!r} is not known{closest(name, table)}",
            f"one of {', '.join(table)}",
            repr(name),
            f"correct {where}",
        )
    known = table[name]
    for argument in arguments:
        if argument not in known:
            raise ValueError(
                describe(
                    f"{where} {name!r} has no argument {argument!r}{closest(argument, known)}",
                    expected=f"among {', '.join(known)}" if known else "none",
                    received=repr(argument),
                    remedy=f"correct or remove {argument}",
                )
            )
    lacking = [n for n, a in known.items() if a.default is REQUIRED and n not in arguments]
    if lacking:
        refuse(
            f"{where} {name!r} lacks {' and '.join(lacking)}",
            "; ".join(f"{n}: {known[n].words()}" for n in lacking),
            ", ".join(map(str, arguments)) or "the name alone",
            f"{where}: {{type: {name}, {', '.join(f'{n}: ...' for n in lacking)}}}",
        )
    return Choice(name, {n: a.check(f"{where}.{n}", arguments.get(n, a.default)) for n, a in known.items()})
