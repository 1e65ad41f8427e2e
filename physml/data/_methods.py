"""How a variable is scaled: the methods by name, and the transforms that come before the standardisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from physml._errors import closest, describe

METHODS = ("standard", "minmax", "robust", "log", "sqrt", "none")
_LINEAR_NEAR_ZERO = 1e-4
"""Where the square root is replaced by a line, in standard deviations of the root: its slope must not be infinite."""
_TINY = 1e-37
"""The least argument of a logarithm or a root; near the least normal float32."""
_ABOVE_POLE = 1e-4
"""How close to its pole the logarithm is taken at all, where a network predicts as low as -eps."""

Choice = str | Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """One method: ``x`` becomes ``(T(x) - offset) / scale``.

    Parameters
    ----------
    name
        ``"standard"`` (mean, standard deviation), ``"minmax"`` (least value, range), ``"robust"`` (median, interquartile
        range), ``"log"``: T(x) = log(1 + x / eps), which is log(x + eps) up to a constant, or log(x) where eps is 0;
        ``"sqrt"``: T(x) = sign(x) sqrt(abs(x)), ``"none"``: as it is. Transformed values are scaled by their mean and standard deviation.
    eps
        Of the logarithm, in the units of the variable: far below it the transform is a line, far above it a logarithm.
    """

    name: str = "standard"
    eps: float = 0.0

    @property
    def nonlinear(self) -> bool:
        """Whether there is a transform."""
        return self.name in ("log", "sqrt")

    @property
    def domain(self) -> str:
        """Where the transform is defined, in words."""
        return "all numbers" if self.name != "log" else "x >= 0" if self.eps else "x > 0"

    def outside(self, x: Any) -> Any:
        """Return which values lie outside the domain."""
        if self.name != "log":
            return x != x
        return x < 0 if self.eps else x <= 0

    def to_config(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return asdict(self)

    def forward(self, x: Any, scale: Any, xp: Any) -> Any:
        """Return T(x); *scale* is the standard deviation of T(x), *xp* is NumPy or ``keras.ops``.

        Far outside the domain, where a network may predict before it is trained, T is constant.
        """
        if self.name == "log" and self.eps:
            return xp.log1p(xp.maximum(x / self.eps, _ABOVE_POLE - 1.0))
        if self.name == "log":
            return xp.log(xp.maximum(x, _TINY))
        if self.name == "sqrt":
            return x / xp.sqrt(xp.maximum(xp.abs(x), _edge(scale)))
        return x

    def inverse(self, v: Any, scale: Any, xp: Any) -> Any:
        """Return the x of T(x) = v."""
        if self.name == "log":
            return xp.expm1(v) * self.eps if self.eps else xp.exp(v)
        if self.name == "sqrt":
            return v * xp.maximum(xp.abs(v), _edge(scale) ** 0.5)
        return v


def _edge(scale: Any) -> Any:
    return (_LINEAR_NEAR_ZERO * scale) ** 2 + _TINY


def choose(method: Choice | Mapping[str, Choice], names: Iterable[str], plain: Iterable[str] = ()) -> dict[str, Method]:
    """Return the method of every variable.

    Parameters
    ----------
    method
        A name for all variables, or names by variable; what is not named is "standard".
    names
        All variables.
    plain
        Those that one name for all does not mean: the calendar's.

    Raises
    ------
    ValueError
        For methods and variables that are not known.

    Examples
    --------
    >>> choose({"chl": "log:0.01"}, ["chl", "temp"])
    {'chl': Method(name='log', eps=0.01), 'temp': Method(name='standard', eps=0.0)}
    """
    names, plain = list(names), set(plain)
    if isinstance(method, str):
        found = parse(method)
        return {n: Method() if n in plain else found for n in names}
    strangers = [n for n in method if n not in names]
    if strangers:
        raise ValueError(
            describe(
                f"Scaling.fit: method names {strangers[0]!r}, which is neither input nor target"
                f"{closest(strangers[0], names)}",
                expected=f"variables among {', '.join(names)}",
                received=sorted(method),
                remedy="method={'variable': 'log:0.01'}; variables not named are standardised",
            )
        )
    return {n: parse(method[n]) if n in method else Method() for n in names}


def parse(choice: Choice) -> Method:
    """Return the method meant by ``"log:1e-6"`` or ``{"method": "log", "eps": 1e-6}``.

    Raises
    ------
    ValueError
        Where it is not understood.
    """
    given: dict[str, Any]
    if isinstance(choice, str):
        name, colon, eps = choice.partition(":")
        given = {"method": name, **({"eps": eps} if colon else {})}
    else:
        given = dict(choice)
    name, eps = given.pop("method", None), given.pop("eps", None)
    try:
        number = 0.0 if eps is None else float(eps)
    except (TypeError, ValueError):
        number = math.nan
    if name not in METHODS or given or (eps is not None and (name != "log" or not 0 < number < math.inf)):
        raise ValueError(
            describe(
                f"the scaling method is not understood{closest(str(name), METHODS) if name not in METHODS else ''}",
                expected=f"{', '.join(METHODS)}; 'log:eps' with eps > 0 in units of the variable",
                received=choice,
                remedy="method='standard', or method={'precipitation': {'method': 'log', 'eps': 1e-6}}",
            )
        )
    return Method(name, number)
