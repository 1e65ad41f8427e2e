"""Plain-text settings of an explanation: targets, baselines, groups and samples as they are written on a command line.

A call is written as in Python, with ranges as ``low:high``: ``box_mean(sst, lat=-5:5, lon=190:240)``, ``samples(20)``,
``climatology(by=month)``. Groups are words, ``variable, lag``, or a mapping in YAML, ``{box: {north: {lat: 0:90}}, rest: south}``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from physml import _yaml
from physml._errors import closest, refuse
from physml.timeaxis import as_label

if TYPE_CHECKING:
    from physml.layout import Layout

WORDS = ("variable", "lag", "level", "cells")
"""Choices of groups that may be written as words alone."""


@dataclass(frozen=True)
class Call:
    """A name, and what stands in its brackets."""

    name: str
    positional: tuple[Any, ...]
    named: Mapping[str, Any]


def read_call(setting: Any, what: str) -> Call:
    """Return ``name(value, key=value)``, a bare name, or ``{name: {key: value}}``, taken apart.

    Raises
    ------
    ValueError
        Where it is neither; *what* says which setting it is.

    Examples
    --------
    >>> read_call("box_mean(sst, lat=-5:5)", "target")
    Call(name='box_mean', positional=('sst',), named={'lat': slice(-5, 5, None)})
    """
    if isinstance(setting, Mapping) and len(setting) == 1:
        ((name, inside),) = setting.items()
        if inside is None or isinstance(inside, Mapping):
            return Call(str(name), (), {str(k): value_of(v) for k, v in (inside or {}).items()})
        return Call(str(name), tuple(value_of(v) for v in (inside if isinstance(inside, list) else [inside])), {})
    match = (
        re.fullmatch(r"\s*([A-Za-z_][\w.-]*)\s*(?:\((.*)\))?\s*", setting, re.S) if isinstance(setting, str) else None
    )
    if match is None:
        refuse(
            f"{what} cannot be read",
            "a name, name(value, key=value), or {name: {key: value}}",
            repr(setting),
            "for instance box_mean(sst, lat=-5:5, lon=190:240); mind the brackets and quote it for the shell",
        )
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for part in _parts(match[2] or "", what):
        key, equals, text = part.partition("=")
        if equals and re.fullmatch(r"\s*\w+\s*", key):
            named[key.strip()] = value_of(_scalar(text, what))
        elif named:
            refuse(
                f"{what} names a value before {part.strip()!r}", "key=value", part.strip(), "write its name before it"
            )
        else:
            positional.append(value_of(_scalar(part, what)))
    return Call(match[1], tuple(positional), named)


def value_of(value: Any) -> Any:
    """Return a value with its ranges: ``"-5:5"`` as a slice, at any depth of lists and mappings.

    Examples
    --------
    >>> value_of({"lat": "-5:5", "lag": [-1, 0], "period": "1961:1990-12"})
    {'lat': slice(-5, 5, None), 'lag': [-1, 0], 'period': slice('1961', '1990-12', None)}
    """
    if isinstance(value, Mapping):
        return {k: value_of(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [value_of(v) for v in value]
    if not isinstance(value, str) or value.count(":") != 1:
        return value
    ends = [_yaml.read(end, "a range") if end.strip() else None for end in value.split(":")]
    if not all(end is None or isinstance(end, int | float) for end in ends):
        ends = [end.strip() or None for end in value.split(":")]
    return slice(*ends)


def make(call: Call, known: Mapping[str, Callable[..., Any]], given: Mapping[str, Any], what: str) -> Any:
    """Return what a call makes: the function of its name, with *given* for the parameters of these names.

    Raises
    ------
    ValueError
        Where the name or an argument is unknown, or one is missing; the nearest name is offered.
    """
    if call.name not in known:
        remedy = "correct the name"
        refuse(f"{what} {call.name!r} is unknown{closest(call.name, known)}", ", ".join(known), repr(call.name), remedy)
    function = known[call.name]
    parameters = inspect.signature(function).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    ours = {n: v for n, v in given.items() if n in parameters and n not in call.named}
    free = [n for n, p in parameters.items() if n not in ours and p.kind is not p.VAR_KEYWORD]
    if len(call.positional) > len(free):
        received, remedy = f"{len(call.positional)} values", "name the others: key=value"
        refuse(f"{what} {call.name!r} takes fewer values", ", ".join(free) or "none", received, remedy)
    taken = dict(zip(free, call.positional, strict=False))
    twice = [n for n in taken if n in call.named]
    unknown = [n for n in call.named if n not in parameters and not anything]
    for name in [*twice, *unknown][:1]:
        how = "is given twice" if name in twice else f"is unknown{closest(name, free)}"
        refuse(f"{name!r} of {what} {call.name!r} {how}", ", ".join(free) or "no argument", name, "correct it")
    missing = [
        n
        for n, p in parameters.items()
        if p.default is p.empty and n in free and n not in taken and n not in call.named
    ]
    if missing:
        received, remedy = "nothing", f"write {call.name}({missing[0]}=...)"
        refuse(f"{what} {call.name!r} lacks {missing[0]!r}", ", ".join(missing), received, remedy)
    return function(**ours, **taken, **call.named)


def read_target(setting: Any) -> Any:
    """Return the target a setting names: ``box_mean(...)``, ``area_mean(...)``, ``cell(...)``, ``field(...)``, or an output."""
    from physml import explain

    if setting is None:
        return None
    call = read_call(setting, "target")
    known = {n: getattr(explain, n) for n in ("area_mean", "box_mean", "cell", "field")}
    if call.name not in known and not (call.positional or call.named):
        return call.name if not closest(call.name, known) else make(call, known, {}, "target")
    ranged = {k: slice(*v) if _is_pair(v) else v for k, v in call.named.items()}
    return make(Call(call.name, call.positional, ranged), known, {}, "target")


def check(target: Any, baseline: Any, groups: Any, method: Any) -> None:
    """Refuse settings that cannot be read, before anything heavy is loaded."""
    read_target(target)
    read_call(baseline, "baseline")
    read_call(method, "method")
    _choices(groups)


def read_groups(setting: Any, data: xr.Dataset, layout: Layout) -> Any:
    """Return the groups a setting names.

    Parameters
    ----------
    setting
        Words (``variable, lag``), a mapping of the arguments of :func:`physml.explain.groups`, its YAML, or the path of a
        YAML file. ``region`` names variables of the data. ``nested`` lists parts whose unions are the outer levels of a
        nested game.
    data
        Data that hold the masks of regions.
    layout
        Layout of the inputs.

    Raises
    ------
    ValueError, KeyError
        For unknown choices and names; the nearest is offered.
    """
    from physml.explain import groups

    choices = _choices(setting)
    known = [n for n in inspect.signature(groups).parameters if n not in ("layout", "source", "spec")]
    for name in choices:
        if name not in (*known, "nested"):
            expected = ", ".join([*known, "nested"])
            refuse(f"groups have no choice {name!r}{closest(name, known)}", expected, repr(name), "correct the name")
    nested = choices.pop("nested", None)
    asked = value_of(choices)
    for kind in ("box", "coordinates", "level"):
        if isinstance(asked.get(kind), Mapping):
            asked[kind] = {n: _ranges(v) for n, v in asked[kind].items()} if kind == "box" else asked[kind]
    if "region" in asked:
        asked["region"] = _regions(asked["region"], data)
    found = groups(layout, **asked)
    if nested:
        found = found.nested(*([nested] if isinstance(nested, str) else nested))
    return found


def pick_samples(axis: pd.Index, setting: Any) -> np.ndarray:
    """Return the positions of the samples that a setting names, along the axis of all samples.

    Parameters
    ----------
    axis
        Labels of the samples that have their whole window of inputs.
    setting
        A number of samples, evenly spaced; a range ``first:last`` or one label, such as a year; None for all.

    Raises
    ------
    ValueError
        Where nothing is left, or the number is not positive.

    Examples
    --------
    >>> pick_samples(pd.date_range("2000", periods=24, freq="MS"), "2001:2001-02")
    array([12, 13])
    >>> pick_samples(pd.RangeIndex(10), 4)
    array([0, 3, 6, 9])
    """
    every = np.arange(axis.size)
    if setting is None:
        return every
    if isinstance(setting, str):
        # A number alone is a number of samples; what is a year or a date stands on its own with a colon: 2015:2015.
        ranged = value_of(setting.strip())
        setting = ranged if isinstance(ranged, slice) else _yaml.read(setting, "samples")
    if isinstance(setting, int) and not isinstance(setting, bool) and setting > 0:
        return np.unique(np.linspace(0, axis.size - 1, min(setting, axis.size)).round().astype(int))
    ends = (setting.start, setting.stop) if isinstance(setting, slice) else (setting, setting)
    try:
        found = every[axis.slice_indexer(*(None if e is None else as_label(axis, e) for e in ends))]
    except (TypeError, ValueError, KeyError):
        found = every[:0]
    if not found.size:
        expected = (
            f"a positive number, or a range within {axis[0]} to {axis[-1]}" if axis.size else "data with whole windows"
        )
        refuse(
            "samples select nothing", expected, repr(setting), "for instance --samples 24, or --samples 2015:2016-06"
        )
    return found


def _choices(setting: Any) -> dict[str, Any]:
    if setting is None:
        return {"variable": True}
    if isinstance(setting, str) and setting.endswith((".yaml", ".yml")):
        path = Path(setting)
        if not path.is_file():
            refuse(f"no groups at {setting!r}", "a YAML file", "nothing there", "correct the path")
        return _mapping(_yaml.read(path.read_text(encoding="utf-8"), path.name), path.name)
    if isinstance(setting, str) and setting.lstrip().startswith("{"):
        return _mapping(_yaml.read(setting, "groups"), "groups")
    if isinstance(setting, str):
        words = [w.strip() for w in setting.split(",") if w.strip()]
        for word in words:
            if word not in WORDS:
                expected = f"words among {', '.join(WORDS)}, a mapping in YAML, or the path of a YAML file"
                remedy = "write {box: {north: {lat: 0:90}}, rest: south} for what needs more than a word"
                refuse(f"groups have no word {word!r}{closest(word, WORDS)}", expected, repr(setting), remedy)
        return {"variable": "variable" in words} | {w: True for w in words}
    return _mapping(setting, "groups")


def _mapping(content: Any, what: str) -> dict[str, Any]:
    if not isinstance(content, Mapping) or not content:
        received, remedy = repr(content), "write {variable: true, lag: true}"
        refuse(f"{what} are no choices of groups", "a mapping of choices", received, remedy)
    return {str(k): v for k, v in content.items()}


def _regions(asked: Any, data: xr.Dataset) -> Any:
    """Return the variables of the data that names of regions stand for."""
    from physml import grid

    if isinstance(asked, str):
        return grid.variable(data, asked, "region").load()
    if not isinstance(asked, Mapping):
        return asked
    return {n: grid.variable(data, v, f"region {n!r}").load() if isinstance(v, str) else v for n, v in asked.items()}


def _ranges(box: Any) -> Any:
    return {k: slice(*v) if _is_pair(v) else v for k, v in box.items()} if isinstance(box, Mapping) else box


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)


def _parts(text: str, what: str) -> list[str]:
    """Return what commas part, but not those in brackets or quotes."""
    found, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not quote and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    if depth or quote:
        refuse(f"{what} has an open bracket or quote", "as many closing as opening", repr(text), "close it")
    return [p for p in found if p.strip()]


def _scalar(text: str, what: str) -> Any:
    text = text.strip()
    # A range is no YAML value: its ends are read apart.
    return text if re.fullmatch(r"[^\s\[\]{}'\"]*:[^\s\[\]{}'\"]*", text) else _yaml.read(text, what)
