"""The test of model randomisation: an explanation that survives the loss of what the network has learned explains nothing.

References
----------
Adebayo, J. et al. (2018), Sanity checks for saliency maps, arXiv:1810.03292.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from physml._errors import closest, describe, refuse
from physml.explain.checks.ranks import spearman
from physml.explain.models.adapting import adapt, on_tensors
from physml.explain.models.outputs import Table
from physml.explain.models.valued import valued
from physml.provenance import stamp

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer

HOW = ("cascading", "independent")


def randomise(
    explainer: Explainer,
    ds: xr.Dataset,
    explain: Callable[[Explainer, xr.Dataset], xr.Dataset],
    *,
    how: Literal["cascading", "independent"] = "cascading",
    layers: list[str] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Return how alike explanations are before and after layers of the network have lost what they learned.

    The weights of a layer are replaced by normal numbers of the mean and the standard deviation of each weight, in a copy: the
    model itself is never touched. Where the rank correlation stays high although the predictions have changed, the explanation
    shows the input and not the network.

    Parameters
    ----------
    explainer
        Of a Keras model.
    ds
        Samples to explain.
    explain
        What is tested: ``lambda e, ds: e.gradients(ds, "integrated")``.
    how
        ``"cascading"``: from the output to the input, each layer on top of those before. ``"independent"``: each alone.
    layers
        Names of layers to randomise; default all that have trainable weights.
    seed
        Seed of the new weights.

    Returns
    -------
    xarray.Dataset
        On (layer, members, sample): ``spearman``, rank correlation of the contributions before and after; ``spearman_size``,
        that of their sizes; ``change``, prediction after less before. The coordinate ``layer`` is in the order of
        randomisation, from the output to the input. Lazy where *ds* is.

    Raises
    ------
    TypeError
        Where the model is no Keras model.
    ValueError, KeyError
        For unknown *how* and *layers*, and for a network without trainable weights.
    """
    if how not in HOW:
        refuse(f"how={how!r} is unknown{closest(str(how), HOW)}", f"one of {HOW}", repr(how), "how='cascading'")
    network = explainer.adapted.network
    if network is None:
        raise TypeError(
            describe(
                "only a Keras model can be randomised",
                expected="an explainer of a FieldModel, or of another Keras model or layer",
                received=explainer.adapted.name,
                remedy="randomise the model yourself, and compare by sanity.agreement",
            )
        )
    known = [layer.path for layer in _learned(network)]
    if not known:
        refuse("nothing can be randomised", "layers with trainable weights", "none", "unfreeze them in a copy first")
    names = {p: p.rsplit("/", 1)[-1] for p in known}
    unique = {p: n if list(names.values()).count(n) == 1 else p for p, n in names.items()}
    for layer in layers or ():
        if layer not in unique.values():
            raise KeyError(
                describe(
                    f"layers names the unknown {layer!r}{closest(layer, unique.values())}",
                    expected=", ".join(unique.values()),
                    received=repr(layer),
                    remedy="correct the name",
                )
            )
    chosen = [i for i, p in reversed(list(enumerate(known))) if layers is None or unique[p] in layers]
    before = explain(explainer, ds)
    over = [d for d in before.attribution.dims if d not in before.prediction.dims]
    parts = []
    for k, i in enumerate(chosen):
        lost = chosen[: k + 1] if how == "cascading" else [i]
        after = explain(_without(explainer, lost, seed), ds)
        parts.append(
            xr.Dataset(
                {
                    "spearman": _alike(before.attribution, after.attribution, over),
                    "spearman_size": _alike(abs(before.attribution), abs(after.attribution), over),
                    "change": after.prediction - before.prediction,
                }
            )
        )
    out = xr.concat(parts, xr.Variable("layer", [unique[known[i]] for i in chosen]))
    units = {"units": u} if (u := before.prediction.attrs.get("units")) else {}
    out["spearman"].attrs = {"long_name": "rank correlation with the explanation of the trained network", "units": "1"}
    out["spearman_size"].attrs = {"long_name": "rank correlation of the sizes of the contributions", "units": "1"}
    out["change"].attrs = {"long_name": "prediction with random weights less that of the trained network", **units}
    out["layer"].attrs = {
        "long_name": "layer whose weights are random" + (", with those before" * (how == "cascading"))
    }
    out.attrs = {**before.attrs, "how": how, "randomisation_seed": seed}
    return stamp(out, f"explain.sanity.randomise, {how}, {len(chosen)} layers, seed {seed}")


def with_model(explainer: Explainer, model: Any) -> Explainer:
    """Return the same questions asked of another model with the same inputs and outputs."""
    other = copy.copy(explainer)
    outputs = explainer.adapted.outputs
    names = outputs.names if isinstance(outputs, Table) else None
    other.model = model
    other.adapted = replace(
        adapt(model, explainer.layout, explainer.baseline.rows[:1], names), dtype=explainer.adapted.dtype
    )
    other.value = valued(other.adapted, explainer.measure)
    return other


def _without(explainer: Explainer, lost: list[int], seed: int) -> Explainer:
    """Return the explainer of a network whose layers, by their places, hold random weights."""
    network = explainer.adapted.network
    try:
        fresh = copy.deepcopy(network)
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        # A class that Keras cannot make again lends its function instead, with other weights in place of its own.
        values = _random(_learned(network), lost, seed)
        return with_model(explainer, on_tensors(_with_values(network, values)))
    for weight, value in _random(_learned(fresh), lost, seed):
        weight.assign(value)
    return with_model(explainer, fresh)


def _learned(network: Any) -> list[Any]:
    """Return the innermost layers with trainable weights, from input to output; models in models are opened."""

    def walk(layer: Any) -> Iterator[Any]:
        inner = getattr(layer, "layers", None)
        if inner:
            for each in inner:
                yield from walk(each)
        elif layer.trainable_weights:
            yield layer

    return list({id(layer): layer for layer in walk(network)}.values())


def _random(layers: list[Any], lost: list[int], seed: int) -> list[tuple[Any, np.ndarray]]:
    """Return random values for the weights of some layers: the same for a layer wherever it is lost."""
    found = []
    for i in lost:
        for k, weight in enumerate(layers[i].trainable_weights):
            old = np.asarray(weight.value, "float64")
            spread = old.std() or abs(old).max()
            drawn = old.mean() + spread * np.random.default_rng([seed, i, k]).standard_normal(old.shape)
            found.append((weight, drawn.astype(weight.dtype)))
    return found


def _with_values(network: Any, values: list[tuple[Any, np.ndarray]]) -> Callable[[Any], Any]:
    """Return the function of tensors that a network would be with other values of its weights."""
    import keras

    from physml import _backend

    def function(x: Any) -> Any:
        with keras.StatelessScope(state_mapping=[(w, keras.ops.convert_to_tensor(v)) for w, v in values]):
            return network(x)

    return _backend.traced(function, variables=list(network.variables))


def _alike(a: xr.DataArray, b: xr.DataArray, over: list[Any]) -> xr.DataArray:
    return xr.apply_ufunc(
        functools.partial(_flat, len(over)),
        a,
        b,
        input_core_dims=[over, over],
        dask="parallelized",
        output_dtypes=["float64"],
        join="exact",
    ).reset_coords(drop=True)


def _flat(n: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x.reshape(*x.shape[: x.ndim - n], -1) for x in (a, b))
    return spearman(a, b, np.ones(a.shape[-1]))
