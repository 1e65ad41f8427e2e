"""Keys of a configuration in words, and errors that name them."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from physml._errors import closest, describe


class Key(NamedTuple):
    """One key of RUN.yaml."""

    path: str
    type: str
    default: str
    meaning: str


def keys(model: type[BaseModel], prefix: str = "", within: str = "") -> Iterator[Key]:
    """Return every key of a configuration, sections resolved, in the order of their definition."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = _model_in(field.annotation)
        if inner is not None and not _is_open(inner):
            yield from keys(inner, f"{path}.", within or ("" if _is_required(field) else path))
            continue
        required = f"required in {within}" if within else "required"
        default = required if field.is_required() else in_words(field.default)
        yield Key(path, in_words(field.annotation), default, field.description or "")


def _is_required(field: FieldInfo) -> bool:
    """Tell whether a section must be there, or is made of defaults; not so one that is none by default."""
    return field.is_required() or field.default is not None


def in_words(kind: Any) -> str:
    """Return a type, or a default value, in words."""
    words = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "anything"}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "{type, ...}"
    if isinstance(kind, Hashable) and kind in words:
        return words[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return in_words(args[0])
    if origin is Literal:
        return " | ".join(args)
    if origin is tuple:
        return f"list of {in_words(args[0])}" if args[-1] is ... else f"[{', '.join(map(in_words, args))}]"
    if origin is dict:
        return f"{{{in_words(args[0])}: {in_words(args[1])}}}"
    if args:
        label = {str, int, float} <= set(args)
        rest = [a for a in args if a is not type(None) and not (label and a in (str, int, float))]
        return " | ".join(dict.fromkeys([*(["label"] if label else []), *map(in_words, rest)]))
    return "none" if kind is None else json.dumps(kind)


def _model_in(kind: Any) -> type[BaseModel] | None:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((m for m in map(_model_in, get_args(kind)) if m is not None), None)


def _is_open(model: type[BaseModel]) -> bool:
    return model.model_config.get("extra") == "allow"


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one message for each key that is wrong."""
    found: dict[str, list[Any]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_locate(detail["loc"], model)[0], []).append(detail)
    return [_message(path, details, model) for path, details in found.items()]


def _message(path: str, details: list[Any], model: type[BaseModel]) -> str:
    detail = details[0]
    section, _, name = path.rpartition(".")
    every = {k.path: k for k in keys(model)}
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"]).removesuffix(".")
    if detail["type"] == "missing":
        what, received, remedy = "is missing", "nothing", f"add {path}"
        expected = f"{every[path].type}: {every[path].meaning}" if path in every else _inside(path, every)
    elif detail["type"] == "extra_forbidden":
        known = _locate(detail["loc"], model)[1]
        elsewhere = [p for p in every if p.rpartition(".")[2] == name]
        hint = closest(name, known) or (f"; did you mean {elsewhere[0]!r}?" if elsewhere else "")
        what = f"is not a key of {section or 'the configuration'}{hint}"
        expected, received, remedy = f"one of {', '.join(known)}", name, f"correct or remove {path}"
    else:
        what, value = "has a wrong value", detail["input"]
        value = list(value) if isinstance(value, tuple) else value
        by_rule = detail["type"] in ("greater_than", "greater_than_equal", "literal_error", "finite_number")
        said = " or ".join(
            dict.fromkeys(re.sub("^Input should be ", "", d["msg"]).replace("tuple", "list") for d in details)
        )
        expected = every[path].type if path in every and not by_rule else said
        expected = _inside(path, every) if detail["type"] == "model_type" else expected
        received, remedy = f"{value!r} ({type(value).__name__})", f"correct {path}"
    return describe(f"{path} {what}", expected=expected, received=received, remedy=remedy).removesuffix(".")


def _inside(path: str, every: Iterable[str]) -> str:
    """Return the keys of a section."""
    inner = dict.fromkeys(p[len(path) + 1 :].partition(".")[0] for p in every if p.startswith(f"{path}."))
    return f"a section with {', '.join(inner)}" if inner else "a mapping with type and arguments"


def _locate(loc: Sequence[Any], root: type[BaseModel]) -> tuple[str, list[str]]:
    """Return the dotted path of an error, and the names that are known at its place."""
    model: type[BaseModel] | None = root
    path: list[str] = []
    known: list[str] = []
    kind: Any = None
    for part in loc:
        if isinstance(part, str) and model is None and not (_is_mapping(kind) and "[" not in part):
            break  # from here on pydantic names the alternatives of a union
        path.append(str(part))
        if isinstance(part, int):
            continue
        if model is None:
            kind = None
            continue
        known = list(model.model_fields)
        kind = model.model_fields[part].annotation if part in known else None
        model = _model_in(kind)
    return ".".join(path), known


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) is dict or any(map(_is_mapping, get_args(kind)))
