"""Scores of classes: which was taken for which, and what the table of confusion says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.verify.matching import Dims, label_of, paired
from physml.verify.means import Terms, scored_dims, sums
from physml.verify.probabilities import classes_of, require_flags

BY_CLASS = {
    "precision": "part of the forecasts of the class that were right",
    "recall": "part of the class that was forecast",
    "frequency_bias": "forecasts of the class over its cases",
    "heidke_by_class": "Heidke skill score of the class",
    "peirce_by_class": "Peirce skill score of the class",
}
WHOLE = {
    "accuracy": "part of the cases whose class was right",
    "balanced_accuracy": "mean over the classes of the part that was right",
    "heidke": "Heidke skill score",
    "peirce": "Peirce skill score",
}


def confusion(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    values: Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
) -> xr.Dataset:
    """Return how often each class was forecast for each, and the scores of this table.

    Parameters
    ----------
    forecast, truth
        Numbers of classes, whose attributes flag_values and flag_meanings (CF) tell what they are. Cells where the truth is
        missing do not count; where a forecast is missing or no class, the result is NaN.
    dim, weights
        As in :func:`physml.verify.rmse`.
    values, names
        Numbers and names of the classes, in place of the attributes of the truth.

    Returns
    -------
    Dataset
        ``count`` on (truth_class, forecast_class), a sum of weights where there are some; on (class) ``precision``, ``recall``,
        ``frequency_bias``, ``heidke_by_class`` and ``peirce_by_class`` of each class against all others; ``accuracy``,
        ``balanced_accuracy`` (the mean recall of the classes that occur), ``heidke`` (0 for chance with the same frequencies)
        and ``peirce`` (0 for any constant forecast) of all classes together.

    Raises
    ------
    ValueError
        Where the classes are not told, the truth holds other values, the attributes of both differ, or the two do not fit.

    References
    ----------
    Gerrity, J. P. (1992), doi:10.1175/1520-0493(1992)120<2709:ANOGAM>2.0.CO;2. Wilks, D. S. (2019), Statistical Methods in the
    Atmospheric Sciences, section 9.2, doi:10.1016/C2017-0-03921-6.

    Examples
    --------
    >>> ice = {"flag_values": [0, 1], "flag_meanings": "water ice"}
    >>> truth = xr.DataArray([0, 0, 1, 1], dims="x", attrs=ice)
    >>> table = confusion(xr.DataArray([0, 1, 1, 1], dims="x", attrs=ice), truth)
    >>> table["count"].values.tolist(), table.accuracy.item(), table.peirce.item()
    ([[1.0, 1.0], [0.0, 2.0]], 0.75, 0.5)
    """
    known = classes_of(truth, values, names)
    if values is None and "flag_values" in forecast.attrs and (ours := classes_of(forecast)) != known:
        refuse(f"forecast and truth of {label_of(truth)} have different classes", known, ours, "name the classes alike")
    f, o = paired(forecast.drop_attrs(deep=False), truth.drop_attrs(deep=False))
    numbers = np.asarray(list(known.values()), "float64")
    o = require_flags(o, numbers.tolist()).assign_attrs(long_name=label_of(truth))
    absent = ~f.isin(numbers) & o.notnull()
    dims = scored_dims(Terms({}, absent, o), dim)
    labels = list(known)
    rows = []
    for true in numbers:
        cells = {str(i): (((o == true) & (f == said)) + 0.0).where(o.notnull()) for i, said in enumerate(numbers)}
        found = sums(Terms(cells, absent, o), dims, weights)
        rows.append(xr.concat([found[i] for i in cells], "forecast_class", coords="minimal", compat="override"))
    count = xr.concat(rows, "truth_class", coords="minimal", compat="override")
    if count.chunks is not None:
        count = count.chunk(truth_class=-1, forecast_class=-1)
    count = count.transpose(..., "truth_class", "forecast_class")
    out = _table_scores(count, len(labels))
    out["count"] = count.assign_attrs(long_name="number of cases" if weights is None else "sum of weights")
    if weights is None:
        out["count"].attrs["units"] = "1"
    elif "units" in weights.attrs:
        out["count"].attrs["units"] = weights.attrs["units"]
    out = out.assign_coords({d: (d, labels) for d in ("truth_class", "forecast_class", "class")})
    return out[["count", *WHOLE, *BY_CLASS]].assign_attrs(long_name=label_of(truth))


def _table_scores(count: xr.DataArray, size: int) -> xr.Dataset:
    """Return the scores of tables ``[..., truth, forecast]``, lazily where they are lazy."""
    core = ["truth_class", "forecast_class"]
    common: dict[str, Any] = {"input_core_dims": [core], "dask": "parallelized"}
    whole = xr.apply_ufunc(
        _of_all,
        count,
        output_core_dims=[["score"]],
        dask_gufunc_kwargs={"output_sizes": {"score": len(WHOLE)}},
        output_dtypes=["float64"],
        **common,
    )
    each = xr.apply_ufunc(
        _of_each,
        count,
        output_core_dims=[["score", "class"]],
        dask_gufunc_kwargs={"output_sizes": {"score": len(BY_CLASS), "class": size}},
        output_dtypes=["float64"],
        **common,
    )
    out = {}
    for found, names in ((whole, WHOLE), (each, BY_CLASS)):
        for i, (name, long_name) in enumerate(names.items()):
            out[name] = found.isel(score=i).assign_attrs(long_name=long_name, units="1")
    return xr.Dataset(out)


def _of_all(table: np.ndarray) -> np.ndarray:
    total = table.sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        right = np.trace(table, axis1=-2, axis2=-1) / total
        true, said = table.sum(-1) / total[..., None], table.sum(-2) / total[..., None]
        recall = np.diagonal(table, axis1=-2, axis2=-1) / table.sum(-1)
        occurs = true > 0
        balanced = np.where(occurs, recall, 0.0).sum(-1) / occurs.sum(-1)
        chance = (true * said).sum(-1)
        heidke = (right - chance) / (1 - chance)
        peirce = (right - chance) / (1 - (true**2).sum(-1))
    return np.stack([right, np.where(np.isnan(right), np.nan, balanced), heidke, peirce], -1)


def _of_each(table: np.ndarray) -> np.ndarray:
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    misses, false = table.sum(-1) - hits, table.sum(-2) - hits
    rest = table.sum((-2, -1))[..., None] - hits - misses - false
    names = ("precision", "recall", "frequency_bias", "heidke_skill_score", "peirce_skill_score")
    return np.stack(contingency(hits, misses, false, rest, names), -2)


def contingency(
    hits: np.ndarray, misses: np.ndarray, false: np.ndarray, rest: np.ndarray, names: Sequence[str]
) -> list[np.ndarray]:
    """Return scores of two-by-two tables, each a method of ``scores.categorical.BasicContingencyManager``."""
    from scores.categorical import BasicContingencyManager

    counts = {"tp_count": hits, "fn_count": misses, "fp_count": false, "tn_count": rest}
    counts["total_count"] = hits + misses + false + rest
    dims = [f"d{i}" for i in range(hits.ndim)]
    manager = BasicContingencyManager({k: xr.DataArray(np.asarray(v, "float64"), dims=dims) for k, v in counts.items()})
    methods: list[Callable[[], xr.DataArray]] = [getattr(manager, name) for name in names]
    with np.errstate(invalid="ignore", divide="ignore"):
        return [np.asarray(method().values, "float64") for method in methods]
