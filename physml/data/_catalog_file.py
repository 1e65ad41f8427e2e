"""The strict reading of ``catalog.yaml``.

A key that is not known, one that is missing, a value of another type and keys that contradict each other are refused
with the entry's name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from physml import _yaml
from physml._errors import closest, describe
from physml.data._entries import Entry, Parameter, Variable, placeholders

KINDS = ("files", "zarr", "sample")
ACCESS = ("open", "account")
ENGINES = ("netcdf4", "zarr", "argo-index", "testbed")
_DOI = re.compile(r"10\.\d{4,9}/\S+")


def catalog_file() -> Path:
    """Return the path of ``catalog.yaml``: in the package, or in the repository that it is developed in."""
    here = Path(__file__).resolve().parent
    places = [here / "catalog.yaml", here.parents[1] / "datasets" / "catalog.yaml"]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        describe(
            "the catalog of data sets is not there",
            expected=f"{places[0]} (installed) or {places[1]} (repository)",
            received="neither",
            remedy="reinstall physml",
        )
    )


@cache
def entries() -> Mapping[str, Entry]:
    """Return the entries of the catalog by name."""
    path = catalog_file()
    return read(path.read_text(encoding="utf-8"), path.name)


def read(text: str, source: str) -> dict[str, Entry]:
    """Return the entries of a YAML text.

    Raises
    ------
    ValueError
        Where the text is no YAML, or an entry has an unknown, missing, wrong or inconsistent key.
    """
    content = _yaml.read(text, source)
    if not isinstance(content, dict) or not content:
        _wrong(source, "holds no entries", "a name and its keys, for each data set", type(content).__name__)
    return {str(name): _entry(str(name), keys, f"{source}, {name}") for name, keys in content.items()}


def _entry(name: str, keys: Any, where: str) -> Entry:
    if not isinstance(keys, dict):
        _wrong(where, "has no keys", "a mapping", repr(keys))
    given = dict(keys)
    if isinstance(given.get("variables"), dict):
        given["variables"] = [
            _build(Variable, {"name": v, **_mapping(more, f"{where}.variables.{v}")}, f"{where}.variables.{v}")
            for v, more in given["variables"].items()
        ]
    if isinstance(given.get("parameters"), dict):
        given["parameters"] = {
            p: _build(Parameter, _mapping(more, f"{where}.parameters.{p}"), f"{where}.parameters.{p}")
            for p, more in given["parameters"].items()
        }
    entry = _build(Entry, {"name": name, **given}, where)
    _consistent(entry, where)
    return entry


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _wrong(where, "has no keys", "a mapping", repr(value))
    return value


def _build(kind: Any, given: dict[str, Any], where: str) -> Any:
    """Return a dataclass of *given*, each key known, each value of its field's type."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in given:
        if key not in fields:
            _wrong(where, f"has an unknown key {key!r}{closest(key, fields)}", f"one of {', '.join(fields)}", repr(key))
    made = {}
    for key, field in fields.items():
        if key not in given:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                _wrong(where, f"lacks {key!r}", f"{key}: {field.type}", "nothing")
            continue
        value = given[key]
        value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, str(field.type)):
            _wrong(where, f"has a wrong {key!r}", str(field.type), f"{value!r} ({type(value).__name__})")
        made[key] = value
    return kind(**made)


def _fits(value: Any, annotation: str) -> bool:
    """Tell whether a value is of the type that a field's annotation spells."""
    for one in annotation.split(" | "):
        if one == "None" and value is None:
            return True
        if one == "str" and isinstance(value, str) and value.strip():
            return True
        if one in ("int", "bool") and type(value).__name__ == one:
            return True
        if one.startswith("Mapping") and isinstance(value, dict):
            return True
        if one.startswith("tuple") and isinstance(value, tuple):
            inner = one[6:].partition(",")[0]
            if all(type(v).__name__ == inner for v in value):
                return True
    return False


def _consistent(entry: Entry, where: str) -> None:
    """Refuse an entry whose keys contradict each other."""
    for key, allowed in (("kind", KINDS), ("access", ACCESS), ("engine", ENGINES), ("unpack", (None, "gzip"))):
        value = getattr(entry, key)
        if value not in allowed:
            _wrong(where, f"has a wrong {key!r}", f"one of {allowed}", repr(value))
    bad = [doi for doi in entry.doi if not _DOI.fullmatch(doi)]
    if bad:
        _wrong(where, "has a DOI that is none", "10.NNNN/...", bad[0])
    used = {name for url in entry.urls for name in placeholders(url)}
    if used != set(entry.parameters):
        _wrong(where, "has other placeholders than parameters", f"parameters {sorted(used)}", f"{[*entry.parameters]}")
    rules = (
        (bool(entry.variables) and bool(entry.dims), "lacks variables or dimensions"),
        (entry.kind != "sample" or (not entry.urls and entry.engine == "testbed"), "is a sample with an address"),
        (entry.kind == "sample" or bool(entry.doi), "has no DOI to cite"),
        (entry.kind != "zarr" or (len(entry.urls) == 1 and not used), "is a zarr store without its one address"),
        (entry.access == "open" or entry.by_hand is not None, "needs an account and does not say how to fetch"),
        (entry.access != "open" or entry.kind == "sample" or bool(entry.urls), "is open and has no address"),
        (
            entry.sha256 is None or not (entry.changes or used or len(entry.urls) > 1),
            "has a checksum and more than one file, or one that changes",
        ),
    )
    for good, what in rules:
        if not good:
            _wrong(where, what, "keys that agree", f"kind {entry.kind}, access {entry.access}")


def _wrong(where: str, what: str, expected: str, received: str) -> NoReturn:
    raise ValueError(
        describe(f"{where} {what}", expected=expected, received=received, remedy="correct the catalog there")
    )
