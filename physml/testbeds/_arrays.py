"""The namespace of an array: NumPy's for NumPy arrays, ``keras.ops`` for tensors."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np


def namespace(x: Any) -> Any:
    """Return ``numpy`` for NumPy arrays and numbers, else ``keras.ops``, which is loaded only then."""
    return np if isinstance(x, np.ndarray | np.generic | float | int | list) else importlib.import_module("keras.ops")
