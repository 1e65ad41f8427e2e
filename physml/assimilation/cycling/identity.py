"""What a run follows from, as digests: a run is resumed with what it was begun with, or not at all."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import xarray as xr

_EMPTY = types.CellType()
PLAIN = (bool, int, float, str, np.ndarray, np.generic, Mapping, list, tuple)


def digest(thing: Any) -> str:
    """Return a digest of arrays, numbers, dataclasses, layers with their weights, and functions with what they enclose.

    Of a function its code, the global numbers it names, what it encloses and what it is a method of are told, not what it
    calls.
    """
    found = hashlib.sha256()
    _add(found, thing, 0)
    return found.hexdigest()


def _add(found: Any, thing: Any, depth: int) -> None:
    # What refers to itself is told down to here.
    if depth > 12:
        return
    parts: list[Any] = []
    if isinstance(thing, xr.Dataset):
        thing = {str(n): v for n, v in thing.variables.items()}
    if isinstance(thing, xr.DataArray | xr.Variable):
        thing = [thing.dims, thing.values, thing.attrs]
    if thing is None or isinstance(thing, str | int | float | bool | slice | type):
        found.update(repr(thing).encode())
    elif isinstance(thing, np.ndarray | np.generic):
        a = np.asarray(thing)
        found.update(f"{a.dtype}{a.shape}".encode())
        found.update(np.ascontiguousarray(a).tobytes() if a.dtype != object else repr(a.tolist()).encode())
    elif isinstance(thing, Mapping):
        parts = [p for key in sorted(thing, key=str) for p in (str(key), thing[key])]
    elif isinstance(thing, list | tuple):
        parts = list(thing)
    elif isinstance(thing, set | frozenset):
        parts = sorted(thing, key=repr)
    elif is_dataclass(thing):
        parts = [type(thing).__qualname__, {f.name: getattr(thing, f.name) for f in fields(thing)}]
    elif isinstance(thing, functools.partial):
        parts = [thing.func, thing.args, thing.keywords]
    elif isinstance(thing, types.CodeType):
        # Names tell sin from cos, whose codes are the same; nested functions are constants.
        parts = [thing.co_code, thing.co_names, thing.co_consts]
    elif isinstance(thing, bytes | complex):
        found.update(repr(thing).encode())
    elif hasattr(thing, "__code__"):
        cells = [c.cell_contents for c in thing.__closure__ or () if c != _EMPTY]
        code = thing.__code__
        known = getattr(thing, "__globals__", {})
        numbers = {n: known[n] for n in code.co_names if isinstance(known.get(n), PLAIN)}
        own = getattr(thing, "__self__", None)
        parts = [thing.__qualname__, code, cells, thing.__defaults__, thing.__kwdefaults__, numbers, own]
    elif hasattr(thing, "get_weights"):
        parts = [type(thing).__qualname__, thing.get_weights(), _attributes(thing)]
    elif hasattr(thing, "__array__"):
        parts = [np.asarray(thing)]
    else:
        parts = [type(thing).__qualname__, getattr(thing, "__name__", ""), _attributes(thing)]
    for part in parts:
        _add(found, part, depth + 1)


def _attributes(thing: Any) -> dict[str, Any]:
    """Return what the user gave an object; what Keras counts from one process to the next is not among it."""
    own = {k: v for k, v in getattr(thing, "__dict__", {}).items() if not k.startswith("_")}
    keep = {
        k: v for k, v in own.items() if k not in COUNTED and (isinstance(v, PLAIN) or callable(v) or is_dataclass(v))
    }
    return {k: v for k, v in keep.items() if not hasattr(v, "__self__")}


COUNTED = (
    "name",
    "dtype_policy",
    "supports_jit",
    "built",
    "autocast",
    "input_spec",
    "optimizer",
    "loss",
    "quantization_mode",
    # Of Keras: methods that it wraps, names that it counts, and what training and the last call left.
    "build",
    "quantize",
    "input_names",
    "output_names",
    "train_function",
    "test_function",
    "predict_function",
    "stop_training",
    "form",
)
