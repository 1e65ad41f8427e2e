"""Sanity checks: additivity, convergence, agreement of two explanations, and dependence on what the network has learned.

None of them proves an explanation right; each can prove one wrong.

>>> from physml.explain import sanity
>>> agreement = sanity.agreement({"shapley": a, "integrated": b}, weights=ds.cell_area)  # doctest: +SKIP
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import xarray as xr

from physml._errors import describe, refuse
from physml.explain.checks.randomisation import randomise as randomise
from physml.explain.checks.ranks import pearson, sign_agreement, spearman, top_overlap

__all__ = ["additivity", "agreement", "convergence", "randomise"]

ROUNDINGS = 16
"""Roundings of the model's own type that a sum of contributions may be off by."""

Result = xr.Dataset | xr.DataArray


def additivity(result: xr.Dataset, *, dtype: str = "float32", roundings: float = ROUNDINGS) -> xr.Dataset:
    """Return whether contributions add up to the prediction less that of the baseline, to the precision of the model.

    Parameters
    ----------
    result
        From an explainer: ``attribution``, ``prediction``, ``base_value`` and ``residual``.
    dtype
        Type the model computes in.
    roundings
        How many roundings of the largest quantity in the balance are let pass.

    Returns
    -------
    xarray.Dataset
        As ``prediction``: ``tolerance = roundings * eps * (|prediction| + |base_value| + sum |attribution|)``, ``ratio =
        |residual| / tolerance`` and ``additive``, whether it is at most 1. Over all: ``rms_residual``, ``greatest_residual`` and
        ``share``, the part of the samples that is additive. Lazy where *result* is. Methods that are additive by construction
        have no excuse; integrated gradients have their steps.

    Raises
    ------
    KeyError
        Where *result* lacks one of the four.
    """
    _needs(result, ("attribution", "prediction", "base_value", "residual"), "additivity")
    over = _features(result)
    size = abs(result.prediction) + abs(result.base_value) + abs(result.attribution).sum(over)
    tolerance = (roundings * float(np.finfo(dtype).eps) * size).where(result.residual.notnull())
    off = abs(result.residual)
    units = {"units": u} if (u := result.residual.attrs.get("units")) else {}
    out = xr.Dataset({"residual": result.residual, "tolerance": tolerance})
    out["ratio"] = xr.where(off > 0, off / tolerance, 0.0).where(off.notnull())
    out["additive"] = (out.ratio <= 1) | off.isnull()
    out["rms_residual"] = (result.residual**2).mean() ** 0.5
    out["greatest_residual"] = off.max()
    out["share"] = (out.ratio <= 1).where(off.notnull()).mean()
    about = {
        "tolerance": ("what the sum may be off by rounding", units),
        "ratio": ("residual over its tolerance", {"units": "1"}),
        "additive": ("whether the contributions add up", {}),
        "rms_residual": ("rms of what the contributions leave over", units),
        "greatest_residual": ("greatest of what the contributions leave over", units),
        "share": ("share of the samples whose contributions add up", {"units": "1"}),
    }
    for name, (long_name, attrs) in about.items():
        out[name].attrs = {"long_name": long_name, **attrs}
    out.attrs = {**result.attrs, "dtype": dtype, "roundings": roundings}
    return out


def agreement(
    results: Mapping[str, Result],
    *,
    weights: xr.DataArray | None = None,
    top: int | float = 0.1,
    over: Sequence[Hashable] | None = None,
) -> xr.Dataset:
    """Return how far explanations of the same predictions agree, each with each.

    Parameters
    ----------
    results
        Explanations by name: results of an explainer, or arrays such as the truth of a test bed.
    weights
        Weights of the cells, such as their area; for Pearson, Spearman and sign.
    top
        Number, or share, of the contributions of greatest size that are compared.
    over
        Dimensions over which contributions are compared; default those that contributions have and predictions have not:
        groups, or cells.

    Returns
    -------
    xarray.Dataset
        On (explanation, other, members, sample): ``pearson``; ``spearman``, that of the ranks; ``sign``, the (weighted) share of
        contributions with the same sign; ``top``, the share of the greatest that both name. NaN where one does not vary. Missing
        contributions count in no pair. Lazy where *results* are.

    Raises
    ------
    ValueError
        For fewer than two explanations, others than of the same samples and inputs, or a *top* out of range.
    KeyError
        Where a result has no ``attribution``.
    """
    if len(results) < 2:
        refuse(
            "there is nothing to compare",
            "two explanations or more, by name",
            len(results),
            "agreement({'a': a, 'b': b})",
        )
    if not top > 0 or (isinstance(top, float) and top > 1):
        refuse("top is out of range", "a number >= 1, or a share in (0, 1]", top, "pass top=0.1")
    if over is None:
        over = next((o for r in results.values() if (o := _features(r))), None)
        if over is None:
            refuse(
                "over is not told",
                "one explanation with a prediction, or the dimensions to compare over",
                f"arrays on {[_values(r, n).dims for n, r in results.items()]}",
                "pass over=('lat', 'lon')",
            )
    named = {name: _values(r, name) for name, r in results.items()}
    named = _alike(named, over)
    first = next(iter(named.values()))
    ones = xr.DataArray(np.ones([first.sizes[d] for d in over]), {d: first[d] for d in over if d in first.coords}, over)
    w = ones if weights is None else (ones * weights.reset_coords(drop=True)).compute()
    measures: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
        "pearson": ("correlation of two explanations", pearson),
        "spearman": ("rank correlation of two explanations", spearman),
        "sign": ("share of contributions with the same sign", sign_agreement),
        "top": ("share of the greatest contributions that both name", lambda a, b, w: top_overlap(a, b, top)),
    }
    rows: dict[str, dict[tuple[str, str], xr.DataArray]] = {m: {} for m in measures}
    for a, b in itertools.combinations_with_replacement(named, 2):
        for m, (_, measure) in measures.items():
            rows[m][a, b] = rows[m][b, a] = _compare(measure, named[a], named[b], w, over)
    names = xr.Variable("explanation", list(named)), xr.Variable("other", list(named))
    out = xr.Dataset()
    for m, (long_name, _) in measures.items():
        square = [xr.concat([rows[m][a, b] for b in named], names[1]) for a in named]
        out[m] = xr.concat(square, names[0]).assign_attrs(long_name=long_name, units="1")
    out.attrs = {"top": top, "over": " ".join(map(str, over)), "weights": str(getattr(weights, "name", None) or "none")}
    return out


def convergence(
    explain: Callable[[int], xr.Dataset], budgets: Sequence[int], reference: Result | None = None
) -> xr.Dataset:
    """Return how an explanation settles as the model is asked more often.

    Parameters
    ----------
    explain
        From a budget to a result: ``lambda pairs: explainer.shapley(ds, "permutations", pairs=pairs)``.
    budgets
        Numbers of pairs, steps, samples ..., increasing.
    reference
        What it should settle at; default the largest budget, which then has no difference of its own.

    Returns
    -------
    xarray.Dataset
        On ``budget``: ``rows``, model rows for each sample; ``stderr``, rms of the standard errors; ``difference``, rms from the
        reference, and ``scaled``, that over the rms of the reference. ``order``: the slope of log difference against log budget,
        near -1/2 for independent random draws, steeper for good designs.

    Raises
    ------
    ValueError
        For fewer than two budgets, or budgets that do not increase.
    """
    if len(budgets) < 2 or any(b <= a for a, b in itertools.pairwise(budgets)) or budgets[0] < 1:
        refuse(
            "budgets do not increase", "two or more increasing numbers >= 1", list(budgets), "pass budgets=(4, 8, 16)"
        )
    runs = [explain(b) for b in budgets]
    for run in runs:
        _needs(run, ("attribution",), "convergence")
    target = runs[-1].attribution if reference is None else _values(reference, "reference")
    scale = (target**2).mean() ** 0.5
    found: dict[str, list[xr.DataArray]] = {"stderr": [], "difference": []}
    for run in runs:
        error = run.stderr if "stderr" in run else run.attribution * np.nan
        found["stderr"].append((error**2).mean() ** 0.5)
        found["difference"].append(((run.attribution - target) ** 2).mean() ** 0.5)
    if reference is None:
        found["difference"][-1] = found["difference"][-1] * np.nan
    budget = xr.Variable("budget", list(budgets), {"long_name": "budget", "units": "1"})
    out = xr.Dataset({n: xr.concat(v, budget) for n, v in found.items()})
    units = {"units": u} if (u := runs[0].attribution.attrs.get("units")) else {}
    out["stderr"].attrs = {"long_name": "rms standard error", **units}
    out["difference"].attrs = {"long_name": "rms difference from the reference", **units}
    out["scaled"] = (out.difference / scale).assign_attrs(
        long_name="difference over the rms of the reference", units="1"
    )
    rows = [float(run.attrs.get("rows_per_sample", run.rows.mean() if "rows" in run else np.nan)) for run in runs]
    out["rows"] = ("budget", rows, {"long_name": "model rows for each sample", "units": "1"})
    known = out.difference > 0
    x, y = np.log(out.budget.where(known)), np.log(out.difference.where(known))
    x, y = x - x.mean(), y - y.mean()
    out["order"] = ((x * y).sum() / (x**2).sum()).assign_attrs(
        long_name="slope of log difference against log budget", units="1"
    )
    out.attrs = {**runs[0].attrs, "reference": "largest budget" if reference is None else "given"}
    return out


def _compare(
    measure: Callable[..., np.ndarray], a: xr.DataArray, b: xr.DataArray, w: xr.DataArray, over: Sequence[Hashable]
) -> xr.DataArray:
    def flat(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> np.ndarray:
        a, b = (x.reshape(*x.shape[: x.ndim - len(over)], -1) for x in (a, b))
        return measure(a, b, w.ravel())

    return xr.apply_ufunc(
        flat, a, b, w, input_core_dims=[list(over)] * 3, dask="parallelized", output_dtypes=["float64"], join="exact"
    ).reset_coords(drop=True)


def _features(result: Result) -> list[Hashable]:
    """Return the dimensions along which one prediction has several contributions."""
    if isinstance(result, xr.Dataset) and {"attribution", "prediction"} <= set(result.data_vars):
        return [d for d in result.attribution.dims if d not in result.prediction.dims]
    return []


def _values(result: Result, name: str) -> xr.DataArray:
    if isinstance(result, xr.DataArray):
        return result
    _needs(result, ("attribution",), f"explanation {name!r}")
    return result.attribution


def _needs(result: xr.Dataset, names: Sequence[str], what: str) -> None:
    missing = [n for n in names if n not in result]
    if missing:
        raise KeyError(
            describe(
                f"{what}: the result lacks {missing[0]!r}",
                expected=", ".join(names),
                received=", ".join(map(str, result.data_vars)) or "no variables",
                remedy="pass what Explainer.shapley or Explainer.gradients returned",
            )
        )


def _alike(named: dict[str, xr.DataArray], over: Sequence[Hashable]) -> dict[str, xr.DataArray]:
    """Return explanations with dimensions in one order, refusing different ones; a single channel may be left out."""
    first = next(iter(named.values()))
    dims = set(first.dims)
    for name, a in named.items():
        try:
            xr.align(first, a, join="exact", copy=False)
        except ValueError:
            same = False
        else:
            same = set(a.dims) == dims
        if not same or not set(over) <= set(a.dims):
            refuse(
                f"explanation {name!r} is not of the same samples and inputs as {next(iter(named))!r}",
                f"sizes {dict(first.sizes)}, compared over {[str(d) for d in over]}, with equal labels",
                f"sizes {dict(a.sizes)}",
                "select the same samples, and sum or paint both to the same groups or cells",
            )
    return {n: a.transpose(*first.dims) for n, a in named.items()}
