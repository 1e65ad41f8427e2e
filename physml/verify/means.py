"""Scores that are functions of means over cases: computed once, summed lazily, and summed by time for the bootstrap."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import xarray as xr

from physml._errors import closest, describe
from physml.verify.matching import Dims, checked_weights, dims_of, label_of

COUNT = "_weight"
"""Name of the sum of weights among the sums of terms."""


class Terms(NamedTuple):
    """What is averaged for a score: at every case, NaN where the truth is missing.

    Attributes
    ----------
    values
        Terms by name, on all dimensions of the cases.
    absent
        Cases with a truth and without a forecast.
    truth
        The truth, for its name and units.
    """

    values: Mapping[str, xr.DataArray]
    absent: xr.DataArray
    truth: xr.DataArray


@dataclass(frozen=True)
class Measure:
    """A score as a function of weighted means.

    Attributes
    ----------
    label
        What it is, before "of sea surface temperature".
    terms
        Function of forecast, truth and further arguments that returns :class:`Terms`.
    finish
        Function of the Dataset of means that returns the score; None for the one mean itself.
    better
        ``"smaller"``, ``"larger"`` or ``"zero"``: which values are good.
    units
        Units of the score; None: those of the truth.
    distribution
        Whether a forecast may be a Dataset that holds NAME and NAME_std.
    probability
        Whether it scores NAME_probability, in a Dataset that has it.
    """

    label: str
    terms: Callable[..., Terms]
    finish: Callable[[xr.Dataset], xr.DataArray] | None = None
    better: str = "smaller"
    units: str | None = None
    distribution: bool = False
    probability: bool = False

    def score(self, means: xr.Dataset) -> xr.DataArray:
        """Return the score of means."""
        return means["value"] if self.finish is None else self.finish(means)

    def describe(self, score: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
        """Return the score with its long name and units."""
        units = truth.attrs.get("units") if self.units is None else self.units
        if self.units == "squared":
            units = f"({u})2" if (u := truth.attrs.get("units")) not in (None, "1") else u
        score.attrs = {"long_name": f"{self.label} of {label_of(truth)}"} | ({"units": units} if units else {})
        return score


MEASURES: dict[Callable[..., Any], Measure] = {}
"""Public functions whose scores are functions of means."""


def measures(measure: Measure) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that tells which measure a public function computes."""

    def tell(function: Callable[..., Any]) -> Callable[..., Any]:
        MEASURES[function] = measure
        return function

    return tell


def measure_of(score: Any) -> tuple[Measure | None, dict[str, Any]]:
    """Return the measure of a public function and the arguments that a partial of it holds; None for other callables."""
    held: dict[str, Any] = {}
    while isinstance(score, functools.partial):
        held = {**score.keywords, **held}
        score = score.func
    return MEASURES.get(score), held


def sums(terms: Terms, dims: Iterable[Hashable], weights: xr.DataArray | None) -> xr.Dataset:
    """Return weighted sums of the terms over *dims* and the sum of the weights, NaN where a forecast is absent."""
    like = next(iter(terms.values.values()))
    dims, absent = [d for d in dims if d in like.dims], terms.absent
    valid = like.notnull()
    if weights is None:
        found = {name: term.fillna(0.0).sum(dims) for name, term in terms.values.items()}
        found[COUNT] = valid.sum(dims).astype("float64")
    else:
        weights = checked_weights(weights, like).astype("float64")
        found = {name: (term * weights).fillna(0.0).sum(dims) for name, term in terms.values.items()}
        found[COUNT] = weights.where(valid, 0.0).sum(dims)
        absent = absent & (weights > 0)
    lost = absent.any([d for d in dims if d in absent.dims])
    return xr.Dataset({name: total if name == COUNT else total.where(~lost) for name, total in found.items()})


def counting(weights: xr.DataArray | None) -> xr.DataArray | None:
    """Return weights by which cases are numbered: 1 each, 0 for those that weigh nothing."""
    return None if weights is None else (weights > 0).astype("float64").where(weights.notnull())


def means_of(totals: xr.Dataset) -> xr.Dataset:
    """Return means of weighted sums; NaN where nothing was counted."""
    count = totals[COUNT]
    return totals.drop_vars(COUNT) / count.where(count > 0)


def variables(forecast: xr.Dataset, truth: xr.Dataset) -> list[Hashable]:
    """Return the names to score: those of the forecast but for NAME_std and NAME_probability, which tell how sure NAME is.

    Raises
    ------
    KeyError
        Where the truth lacks one.
    """
    names: list[Hashable] = []
    for found in forecast.data_vars:
        name = found if found in truth.data_vars else _owner(found, forecast, truth)
        if name is not None and name not in names:
            names.append(name)
    for name in names:
        if name not in truth.data_vars:
            raise KeyError(
                describe(
                    f"the truth has no variable {name!r}{closest(str(name), truth.data_vars)}",
                    expected=", ".join(map(str, forecast.data_vars)),
                    received=", ".join(map(str, truth.data_vars)) or "no variables",
                    remedy="rename it, or select the forecast's variables to score",
                )
            )
    return names


def _owner(name: Hashable, forecast: xr.Dataset, truth: xr.Dataset) -> Hashable | None:
    """Return the variable that a forecast's variable is scored for; None where another of its variables is."""
    for suffix in ("_std", "_probability"):
        bare = str(name).removesuffix(suffix)
        if bare != name and bare in forecast.data_vars:
            return None
        if bare != name and suffix == "_probability" and bare in truth.data_vars:
            return bare
    return name


def require_alike(forecast: Any, truth: Any) -> None:
    """Refuse a Dataset beside an array."""
    if type(forecast) is not type(truth) or not isinstance(truth, xr.Dataset | xr.DataArray):
        raise TypeError(
            describe(
                "forecast and truth are of different types",
                expected="two DataArrays or two Datasets",
                received=f"{type(forecast).__name__} and {type(truth).__name__}",
                remedy="select one variable of the Dataset by name",
            )
        )


def one_variable(data: Any, name: Hashable, measure: Measure | None) -> Any:
    """Return what a measure scores of a Dataset: the variable, it and its standard deviation, or its probability."""
    if not isinstance(data, xr.Dataset):
        return data
    both = [name, f"{name}_std"]
    if measure is not None and measure.probability and f"{name}_probability" in data.data_vars:
        return data[f"{name}_probability"]
    return data[both] if measure is not None and measure.distribution and both[1] in data.data_vars else data[name]


def evaluate(
    measure: Measure, forecast: Any, truth: Any, dim: Dims, weights: xr.DataArray | None, **arguments: Any
) -> Any:
    """Return the score of arrays, or of Datasets by variable."""
    if isinstance(truth, xr.Dataset):
        require_alike(forecast, truth)
        scored = {}
        for name in variables(forecast, truth):
            each = {k: v[name] if isinstance(v, xr.Dataset) else v for k, v in arguments.items()}
            pair = one_variable(forecast, name, measure), truth[name]
            scored[name] = evaluate(measure, *pair, dim, weights, **each)
        return xr.Dataset(scored, attrs=forecast.attrs)
    if not (measure.distribution and isinstance(forecast, xr.Dataset)):
        require_alike(forecast, truth)
    terms = measure.terms(forecast, truth, **arguments)
    score = measure.score(means_of(sums(terms, scored_dims(terms, dim), weights)))
    plain = isinstance(forecast, xr.DataArray) and not measure.probability
    name = forecast.name if plain else truth.name
    return measure.describe(score, terms.truth).rename(name)


def scored_dims(terms: Terms, dim: Dims) -> list[Hashable]:
    """Return the dimensions to average over: all those of the cases by default."""
    return dims_of(dim, terms.absent)
