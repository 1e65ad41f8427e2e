"""YAML by the rules of version 1.2, and overrides of its keys.

``1e-3`` is a number; ``no``, ``12:30`` and ``1989-12-31`` are text; a repeated key is an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from physml._errors import describe


def read(text: str, name: str) -> Any:
    """Return the content of a YAML text; errors name *name* and the line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(
            describe(
                f"{name} is no YAML{f', line {mark.line + 1}' if mark else ''}",
                expected="'key: value' lines",
                received=getattr(error, "problem", None) or str(error),
                remedy="check indentation, brackets and quotes there",
            )
        ) from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def write(content: Any) -> str:
    """Return the text from which :func:`read` makes the same content."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def absolute(value: Any, folder: Path) -> Any:
    """Return a path, or a list of paths, that counts from *folder*; addresses with "://" stay."""
    if isinstance(value, list):
        return [absolute(v, folder) for v in value]
    if not isinstance(value, str) or "://" in value:
        return value
    return str((folder / Path(value).expanduser()).resolve())


def set_key(content: dict[str, Any], override: str, paths: tuple[tuple[str, ...], ...] = ()) -> None:
    """Set one dotted key, ``training.epochs=5``; those among *paths* count from the working directory."""
    key, equals, text = override.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise ValueError(
            describe(
                f"override {override!r} cannot be read",
                expected="key=value, such as training.epochs=5",
                received=repr(override),
                remedy="write the dotted key, '=' and the value, without spaces",
            )
        )
    value = read(text, f"override {override!r}")
    if parts in paths:
        value = absolute(value, Path.cwd())
    place: Any = content
    for depth, part in enumerate(parts):
        index: Any = int(part) if isinstance(place, list) and part.isdigit() else part
        if not isinstance(place, dict) and not (isinstance(index, int) and index < len(place)):
            raise ValueError(
                describe(
                    f"override {override!r} leads nowhere",
                    expected=f"a section or an entry of a list at {'.'.join(parts[:depth])!r}",
                    received=f"{part!r} in {place!r}",
                    remedy="correct the dotted key",
                )
            )
        if depth == len(parts) - 1:
            place[index] = value
        elif isinstance(place, dict) and place.get(index) is None:
            place[index] = {}
        place = place[index]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, and no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [k.value for k, _ in node.value]
        repeated = next((n for n in names if names.count(n) > 1), None)
        if repeated is not None:
            raise ValueError(
                describe(
                    f"{repeated!r} stands twice in one section, line {node.start_mark.line + 1} and below",
                    expected="each key once",
                    received=f"{names.count(repeated)} times",
                    remedy="remove all but one",
                )
            )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what :class:`_Loader` would not read back as text."""


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in (
        ("null", r"~|null|Null|NULL|", "~nN"),
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("int", r"[-+]?[0-9]+", "-+0123456789"),
        (
            "float",
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            "-+.0123456789",
        ),
        ("merge", "<<", "<"),
    ):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first, *([""] if _tag == "null" else [])]
        )
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
