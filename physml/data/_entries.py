"""Entries of the catalog: what is told of a data set, and the files that it means."""

from __future__ import annotations

import dataclasses
import re
import string
import textwrap
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from physml._errors import closest, describe


@dataclasses.dataclass(frozen=True)
class Variable:
    """One variable of a data set, as the file names it."""

    name: str
    units: str
    long_name: str


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One placeholder of an address, such as the year of a file."""

    meaning: str
    first: int | None = None
    last: int | None = None
    values: tuple[str, ...] | None = None
    default: int | str | None = None

    def allows(self, value: object) -> bool:
        """Tell whether a value can stand for the placeholder."""
        if self.values is not None:
            return value in self.values
        if self.first is None:
            return isinstance(value, str) and bool(re.fullmatch(r"[\w.-]+", value))
        inside = isinstance(value, int) and not isinstance(value, bool) and value >= self.first
        return inside and (self.last is None or value <= self.last)  # type: ignore[operator]

    def __str__(self) -> str:
        """Return what can stand here, in words."""
        if self.values is not None:
            return f"one of {', '.join(self.values)}"
        if self.first is None:
            return "text"
        return f"an integer from {self.first}" + ("" if self.last is None else f" to {self.last}")


@dataclasses.dataclass(frozen=True)
class File:
    """One file of a data set: where it is and how it is called here."""

    address: str
    name: str
    packed: bool = False

    def command(self, folder: Path) -> str:
        """Return the command that fetches the file by hand into *folder*."""
        target = folder / self.name
        if self.packed:
            return f"curl -fL --create-dirs -o '{target}.gz' '{self.address}' && gunzip -f '{target}.gz'"
        return f"curl -fL --create-dirs -o '{target}' '{self.address}'"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set of the catalog: what it holds, where it is, how it may be used and how it is opened.

    Its representation shows it all. The names of the fields are the keys of ``catalog.yaml``.
    """

    name: str
    title: str
    kind: str
    access: str
    homepage: str
    variables: tuple[Variable, ...]
    dims: tuple[str, ...]
    resolution: str
    period: str
    licence: str
    citation: str
    doi: tuple[str, ...]
    size: str
    engine: str
    urls: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = dataclasses.field(default_factory=dict)
    unpack: str | None = None
    sha256: str | None = None
    changes: bool = True
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    combine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    storage_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    by_hand: str | None = None
    note: str | None = None

    def __repr__(self) -> str:
        """Return everything that is known of the data set, in aligned lines."""
        checksum = (
            f"sha256 {self.sha256}"
            if self.sha256
            else "none: " + ("the data change with time" if self.changes else "the provider publishes none")
        )
        opened = [f"{key}={value!r}" for key, value in {**self.options, **self.storage_options}.items()]
        rows: list[tuple[str, str]] = [
            ("variables", "; ".join(f"{v.name} [{v.units}] {v.long_name}" for v in self.variables)),
            ("dimensions", ", ".join(self.dims)),
            ("resolution", self.resolution),
            ("period", self.period),
            ("size", self.size),
            ("access", "needs an account" if self.access != "open" else "offline" if self.kind == "sample" else "open"),
            *[("address", url) for url in self.urls],
            *[(f"  {{{name}}}", f"{p.meaning}: {p}" + _or(p.default)) for name, p in self.parameters.items()],
            ("homepage", self.homepage),
            ("checksum", checksum if self.kind == "files" else "none: made on the spot or opened in place"),
            ("opened with", ", ".join([self.engine, *opened])),
            ("licence", self.licence),
            ("cite", self.citation),
            *[("doi", f"https://doi.org/{doi}") for doi in self.doi],
            *([("by hand", self.by_hand)] if self.by_hand else []),
            *([("note", self.note)] if self.note else []),
        ]
        wide = {"subsequent_indent": " " * 14, "width": 110, "break_long_words": False, "break_on_hyphens": False}
        lines = [
            f"{label:<12}  {text}" if label == "address" else textwrap.fill(f"{label:<12}  {text}", **wide)  # type: ignore[arg-type]
            for label, text in rows
        ]
        return "\n".join([f"{self.name}: {self.title}", *lines])

    def files(self, values: Mapping[str, Any]) -> list[File]:
        """Return the files that the given values of the parameters mean; a value may be a sequence of values.

        Raises
        ------
        ValueError
            Where a value is missing, unknown or out of range.
        """
        unknown = next((name for name in values if name not in self.parameters), None)
        if unknown is not None:
            self._refuse(
                f"has no parameter {unknown!r}{closest(unknown, self.parameters)}",
                f"parameters among: {', '.join(self.parameters) or 'none'}",
                unknown,
                "remove or correct it",
            )
        each = {name: self._values(name, values) for name in self.parameters}
        found = []
        for chosen in product(*each.values()):
            for url in self.urls:
                found.append(self._file(url.format(**dict(zip(each, chosen, strict=True)))))
        return found

    def parse(self, text: str) -> tuple[str, list[int | str]]:
        """Return a parameter and its values from ``KEY=VALUE,VALUE``.

        Raises
        ------
        ValueError
            Where the text is none, or a value is no number where one is due.
        """
        key, equals, given = text.partition("=")
        if not equals:
            self._refuse(f"takes no {text!r}", "KEY=VALUE", text, "write such as year=2020")
        number = key in self.parameters and self.parameters[key].first is not None
        return key, [int(v) if number and v.strip().isdecimal() else v.strip() for v in given.split(",")]

    def _file(self, address: str) -> File:
        name = address.rsplit("/", 1)[1]
        return File(address, name.removesuffix(".gz") if self.unpack else name, bool(self.unpack))

    def _values(self, name: str, values: Mapping[str, Any]) -> list[Any]:
        parameter = self.parameters[name]
        value = values.get(name, parameter.default)
        if value is None:
            usual = parameter.values[0] if parameter.values else parameter.first
            shown = "'...'" if usual is None else repr(usual)
            self._refuse(f"needs {name}=, {parameter.meaning}", str(parameter), "nothing", f"pass {name}={shown}")
        several = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
        several = [int(v) if hasattr(v, "__index__") and not isinstance(v, bool) else v for v in several]
        for one in several:
            if not parameter.allows(one):
                self._refuse(f"has no {name}={one!r}", str(parameter), repr(one), "correct it")
        if not several:
            self._refuse(f"has an empty {name}", f"{parameter}, or several", repr(value), "name at least one")
        return several

    def patterns(self) -> list[str]:
        """Return the names of the files here, with a star for each placeholder."""
        starred = ["".join(text + ("*" if field is not None else "") for text, field in _parts(u)) for u in self.urls]
        return [self._file(url).name for url in starred] or ["*.nc"]

    def _refuse(self, what: str, expected: str, received: str, remedy: str) -> NoReturn:
        raise ValueError(describe(f"{self.name} {what}", expected=expected, received=received, remedy=remedy))


def _or(default: object) -> str:
    return "" if default is None else f" (default {default})"


def _parts(pattern: str) -> Iterator[tuple[str, str | None]]:
    for text, field, _, _ in string.Formatter().parse(pattern):
        yield text, field


def placeholders(pattern: str) -> list[str]:
    """Return the names of the placeholders in a pattern.

    Examples
    --------
    >>> placeholders("https://a.b/{year:04d}-{month:02d}.nc")
    ['year', 'month']
    """
    return [field for _, field in _parts(pattern) if field is not None]
