"""Scores of probabilities of events and of classes: the Brier score and its parts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import describe, refuse
from physml.verify.matching import Dims, checked, label_of, paired
from physml.verify.means import COUNT, Measure, Terms, counting, evaluate, means_of, measures, scored_dims, sums

CATEGORY = "category"
"""The dimension of the probabilities of classes, as :class:`physml.heads.classes.Classes` answers."""


def classes_of(
    flags: xr.DataArray, values: Sequence[Any] | None = None, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return numbers of classes by name, from the attributes flag_values and flag_meanings unless they are given.

    Raises
    ------
    ValueError
        Where neither tells the numbers, or there are not as many names.
    """
    found = flags.attrs.get("flag_values") if values is None else values
    if found is None:
        raise ValueError(
            describe(
                f"{label_of(flags)} does not tell its classes",
                expected="the attributes flag_values and flag_meanings (CF), or values=[...]",
                received=", ".join(map(str, flags.attrs)) or "no attributes",
                remedy="truth.attrs.update(flag_values=[0, 1], flag_meanings='water ice')",
            )
        )
    numbers = np.atleast_1d(np.asarray(found)).tolist()
    told = flags.attrs.get("flag_meanings") if names is None and values is None else names
    labels = told.split() if isinstance(told, str) else list(map(str, numbers if told is None else told))
    if len(labels) != len(numbers):
        refuse("names and numbers of the classes do not pair", f"{len(numbers)} names", labels, "correct flag_meanings")
    return dict(zip(labels, numbers, strict=True))


def require_flags(truth: xr.DataArray, numbers: Sequence[Any]) -> xr.DataArray:
    """Return flags after all were seen to be classes or missing, when they are computed if they are lazy."""

    def check(block: np.ndarray) -> None:
        odd = ~np.isin(block, numbers) & ~np.isnan(block)
        if odd.any():
            received = sorted(set(block[odd].tolist()))[:5]
            expected, remedy = f"NaN or one of {list(numbers)}", "correct flag_values, or mask what is no class"
            refuse(f"{label_of(truth)} holds values that are no class", expected, received, remedy)

    return checked(truth, check)


def events_of(
    probability: xr.DataArray, truth: xr.DataArray, category: str = CATEGORY
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return probabilities, and 1 where the event came true and 0 where not, both NaN where the truth is missing.

    With a dimension of classes in the probabilities alone, the truth holds the numbers of classes.

    Raises
    ------
    ValueError
        Where a probability lies outside 0 to 1, the truth holds other values than 0 and 1 or the classes, or the two do not fit.
    """
    bare = truth.drop_attrs(deep=False)
    p, o = paired(probability.drop_attrs(deep=False), bare)

    def check(block: np.ndarray) -> None:
        odd = (block < -1e-6) | (block > 1 + 1e-6)
        if odd.any():
            received = f"{block[odd].min():g} to {block[odd].max():g}"
            refuse("the probabilities are none", "0 to 1", received, "pass probabilities, not percent nor logits")

    p = checked(p, check)
    if category in p.dims and category not in truth.dims:
        o = _onehot(p, o, truth, category)
    else:
        o = require_flags(o, [0.0, 1.0])
    return p, o.where(o.notnull())


def _onehot(p: xr.DataArray, flags: xr.DataArray, truth: xr.DataArray, category: str) -> xr.DataArray:
    labels = p[category].values.tolist() if category in p.coords else list(range(p.sizes[category]))
    known = classes_of(truth) if "flag_values" in truth.attrs else {}
    plain = {"_".join(name.split()): number for name, number in known.items()}
    numbers = []
    for label in labels:
        number = plain.get("_".join(str(label).split()), label if not isinstance(label, str) else None)
        if number is None:
            refuse(
                f"the class {label!r} of the probabilities is none of {label_of(truth)}",
                ", ".join(known) or "flag_values and flag_meanings in the attributes of the truth",
                ", ".join(map(str, labels)),
                "name the classes of both alike",
            )
        numbers.append(number)
    flags = require_flags(flags, numbers)
    along = xr.DataArray(np.asarray(numbers, "float64"), dims=category)
    if category in p.coords:
        along = along.assign_coords({category: p[category]})
    return (flags == along).astype("float64").where(flags.notnull()).transpose(..., category)


def _brier_terms(probability: xr.DataArray, truth: xr.DataArray, *, category: str = CATEGORY) -> Terms:
    from scores.probability import brier_score

    p, o = events_of(probability, truth, category)
    value = brier_score(p, o, preserve_dims="all", check_args=False)
    absent = p.isnull() & o.notnull()
    if category in p.dims and category not in truth.dims:
        value, absent = value.sum(category, skipna=False), absent.any(category)
    return Terms({"value": value}, absent, truth)


BRIER = Measure("Brier score", _brier_terms, units="1", probability=True)


@measures(BRIER)
def brier(
    probability: xr.DataArray | xr.Dataset,
    truth: xr.DataArray | xr.Dataset,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    category: str = CATEGORY,
) -> Any:
    """Return the mean square error of probabilities.

    Parameters
    ----------
    probability
        Of an event, from 0 to 1; or of classes, along *category*: the squares are then summed over the classes, from 0 to 2. A
        Dataset may hold NAME_probability for the truth NAME, as :class:`physml.heads.classes.Classes` answers.
    truth
        1 where the event came true and 0 where not; or the number of the class, whose attributes flag_values and flag_meanings
        tell which of the classes, by name, it is.
    dim, weights
        As in :func:`physml.verify.rmse`.
    category
        Dimension of the classes.

    Returns
    -------
    DataArray or Dataset
        Smaller is better.

    Raises
    ------
    ValueError
        Where a probability lies outside 0 to 1, the truth is no event or class, or as :func:`physml.verify.rmse`.

    References
    ----------
    Brier, G. W. (1950), doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.

    Examples
    --------
    >>> brier(xr.DataArray([0.5, 1.0], dims="x"), xr.DataArray([0, 1], dims="x")).item()
    0.125
    """
    return evaluate(BRIER, probability, truth, dim, weights, category=category)


def bin_edges(bins: int | Sequence[float]) -> np.ndarray:
    """Return the ends of bins of probability.

    Raises
    ------
    ValueError
        Where they do not ascend from 0 to 1.
    """
    edges = np.linspace(0, 1, bins + 1) if isinstance(bins, int) else np.asarray(bins, "float64")
    if len(edges) < 2 or edges[0] != 0 or edges[-1] != 1 or not (np.diff(edges) > 0).all():
        refuse("the bins do not divide all probabilities", "a number, or ends from 0 to 1", bins, "pass bins=10")
    return edges


def binned_sums(
    p: xr.DataArray,
    o: xr.DataArray,
    truth: xr.DataArray,
    dims: Sequence[Hashable],
    weights: xr.DataArray | None,
    edges: np.ndarray,
    products: bool = False,
) -> xr.Dataset:
    """Return weighted sums by bin of probability: of cases, probabilities and events, and of their products."""
    absent, valid = p.isnull() & o.notnull(), o.notnull()
    found = []
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = (p >= low) & ((p < high) | (i == len(edges) - 2))
        inside = inside | ((p < 0) & (i == 0))
        terms = {"cases": inside.astype("float64").where(valid), "p": p.where(inside, 0.0).where(valid)}
        terms["o"] = o.where(inside, 0.0).where(valid)
        if products:
            terms |= {"pp": terms["p"] * p, "po": terms["p"] * o}
        totals = sums(Terms(terms, absent, truth), dims, weights)
        number = sums(Terms({"n": terms["cases"]}, absent, truth), dims, counting(weights))
        found.append(totals.assign(n=number["n"]))
    return xr.concat(found, "bin", coords="minimal", compat="override")


def brier_decomposition(
    probability: xr.DataArray,
    truth: xr.DataArray,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    bins: int | Sequence[float] = 10,
    category: str = CATEGORY,
) -> xr.Dataset:
    """Return the Brier score and its parts: brier = reliability - resolution + uncertainty + within.

    Parameters
    ----------
    probability, truth, dim, weights, category
        As in :func:`brier`; each class is an event of its own here, and kept.
    bins
        Number of bins of probability, or their ends.

    Returns
    -------
    Dataset
        ``brier``; ``reliability``, how far probabilities are from the frequency of the event when they are said (0 is best);
        ``resolution``, how far these frequencies are from that of all cases (larger is better); ``uncertainty``, that of the
        event itself; ``within``, what the bins hide: zero where all probabilities in a bin are alike.

    Raises
    ------
    ValueError
        As :func:`brier`.

    References
    ----------
    Murphy, A. H. (1973), doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2. Stephenson, D. B. et al. (2008),
    doi:10.1175/2007WAF2006116.1.

    Examples
    --------
    >>> p, o = xr.DataArray([0.2, 0.2, 0.8, 0.8], dims="x"), xr.DataArray([0, 1, 1, 1], dims="x")
    >>> parts = brier_decomposition(p, o)
    >>> [round(float(parts[k]), 4) for k in ("brier", "reliability", "resolution", "uncertainty", "within")]
    [0.19, 0.065, 0.0625, 0.1875, 0.0]
    """
    p, o = events_of(probability, truth, category)
    absent = p.isnull() & o.notnull()
    dims = scored_dims(Terms({}, absent, truth), dim)
    totals = binned_sums(p, o, truth, dims, weights, bin_edges(bins), products=True)
    count = totals[COUNT].isel(bin=0)
    count = count.where(count > 0)
    part = totals["cases"] / count
    filled = totals["cases"].where(totals["cases"] > 0)
    mean_p, mean_o = totals["p"] / filled, totals["o"] / filled
    base = totals["o"].sum("bin", skipna=False) / count
    pp, po = totals["pp"] / filled - mean_p**2, totals["po"] / filled - mean_p * mean_o
    kept: dict[str, Any] = {"skipna": True, "min_count": 1}
    lost = totals["p"].isnull().any("bin")
    out = {
        "reliability": (part * (mean_p - mean_o) ** 2).sum("bin", **kept),
        "resolution": (part * (mean_o - base) ** 2).sum("bin", **kept),
        "uncertainty": base * (1 - base),
        "within": (part * (pp - 2 * po)).sum("bin", **kept),
    }
    values = Terms({"value": (p - o) ** 2}, absent, truth)
    out = {"brier": means_of(sums(values, dims, weights))["value"]} | out
    names = {
        "brier": "Brier score",
        "reliability": "reliability part of the Brier score",
        "resolution": "resolution part of the Brier score",
        "uncertainty": "uncertainty of the event",
        "within": "part of the Brier score within bins",
    }
    described = {
        k: v.where(~lost).assign_attrs(long_name=f"{names[k]} of {label_of(truth)}", units="1") for k, v in out.items()
    }
    return xr.Dataset(described)
