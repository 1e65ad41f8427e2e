"""Tables of numbers as Datasets, and functions of them as models: what importance and curves are known for in closed form."""

import numpy as np
import xarray as xr

from physml.explain.models.adapting import Adapted
from physml.explain.models.outputs import outputs_of
from physml.fields import FieldSpec


def table(x, y=None, **attrs):
    """Return columns ``[sample, variable]`` named a, b, c ... with the target y along months."""
    time = xr.date_range("2000-01-01", periods=len(x), freq="MS")
    ds = xr.Dataset({"abcdefgh"[i]: ("time", x[:, i], attrs) for i in range(x.shape[1])}, {"time": time})
    ds["y"] = ("time", np.zeros(len(x)) if y is None else y, {"units": "K"})
    return ds, FieldSpec(list("abcdefgh"[: x.shape[1]]), "y").bind(ds)


def model(function, layout):
    """Return a function of rows ``[row, *space, variable]`` with values ``[row]`` or fields as a model."""
    shape = np.shape(function(np.ones((1, *layout.shape, len(layout.inputs)))))[1:]
    return Adapted(
        "made", layout, outputs_of(shape or (1,), layout), lambda x: np.reshape(function(x), (len(x), *(shape or (1,))))
    )


def orthogonal(n, k, seed=0):
    """Return columns of mean zero, exactly uncorrelated, each of variance 1."""
    x = np.random.default_rng(seed).normal(size=(n, k))
    q, _ = np.linalg.qr(x - x.mean(0))
    return q * np.sqrt(n)


def shifts(n):
    """Return all cyclic orders: together they pair every sample with every other, and itself, once."""
    return (np.arange(n)[:, None] + np.arange(n)) % n
