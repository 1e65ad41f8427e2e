"""Intervals of scores, and of the difference of two forecasts' scores, from resampled blocks of time.

Errors of forecasts that follow each other are alike, so that n forecasts tell less than n independent ones would. Drawing
whole blocks of time, each long enough to hold that memory, keeps it; drawing the same blocks for forecast, truth and
reference keeps what their errors have in common.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe, is_count, refuse
from physml.verify.deterministic import mse
from physml.verify.matching import Dims, common_times, dims_of, is_time
from physml.verify.means import (
    Measure,
    evaluate,
    means_of,
    measure_of,
    one_variable,
    require_alike,
    scored_dims,
    sums,
    variables,
)

SAMPLE = "sample"
LABELS = {
    "score": "{}",
    "low": "lower end of the interval of the {}",
    "high": "upper end of the interval of the {}",
    "reference": "{} of the reference",
    "difference": "{}, forecast minus reference",
    "difference_low": "lower end of the interval of the difference",
    "difference_high": "upper end of the interval of the difference",
    "p_value": "probability of a difference as large by chance",
    "significant": "whether the interval of the difference leaves zero out",
    "better": "1: significantly better than the reference, -1: worse, 0: neither",
}


def block_length(series: xr.DataArray, dim: str = "time") -> xr.DataArray:
    """Return the length of blocks for resampling the mean of a series, by the rule of Politis and White.

    It balances the bias of short blocks against the noise of few long ones: (2 G² / D)^(1/3) n^(1/3), with G and D from the
    autocovariances up to the lag where they vanish, at least 1 and at most min(3 n^(1/2), n / 3).

    Parameters
    ----------
    series
        What is averaged, such as squared errors, evenly spaced along *dim*; other dimensions are kept.
    dim
        The dimension.

    Returns
    -------
    DataArray
        Lengths in steps, not rounded; 1 where the series does not vary.

    Raises
    ------
    ValueError
        Where *dim* is no dimension.

    References
    ----------
    Politis, D. N. and White, H. (2004), doi:10.1081/ETR-120028836; corrected by Patton, A., Politis, D. N. and White, H.
    (2009), doi:10.1080/07474930802459016.

    Examples
    --------
    >>> noise = xr.DataArray(np.random.default_rng(0).normal(size=500), dims="time")
    >>> bool(block_length(noise) < 5 < block_length(noise.cumsum("time")))
    True
    """
    (core,) = dims_of(dim, series)
    data = series.chunk({core: -1}) if series.chunks is not None else series
    out = xr.apply_ufunc(_politis_white, data, input_core_dims=[[core]], dask="parallelized", output_dtypes=["float64"])
    out.attrs = {"long_name": "length of the blocks", "units": "1"}
    return out.rename("block")


def _politis_white(x: np.ndarray) -> np.ndarray:
    n = x.shape[-1]
    x = x.astype("float64")
    valid = np.isfinite(x)
    x = np.where(valid, x, 0.0)
    x = np.where(valid, x - x.sum(-1, keepdims=True) / np.maximum(valid.sum(-1, keepdims=True), 1), 0.0)
    run = max(5, int(np.ceil(np.sqrt(np.log10(n)))))
    furthest = min(int(np.ceil(np.sqrt(n))) + run, n - 1)
    longest = int(np.ceil(min(3 * np.sqrt(n), n / 3)))
    # Twice the length, so that no lag wraps around.
    power = np.abs(np.fft.rfft(x, 2 * n, axis=-1)) ** 2
    r = np.fft.irfft(power, 2 * n, axis=-1)[..., : furthest + 1] / n
    out = np.ones(x.shape[:-1])
    threshold = 2 * np.sqrt(np.log10(n) / n)
    lags = np.arange(1, furthest + 1)
    for at in np.ndindex(*out.shape):
        cov = r[at]
        if not cov[0] > 1e-300:
            continue
        loud = np.abs(cov[1:]) >= threshold * cov[0]
        # The last lag before the first run of lags without correlation.
        quiet = [m for m in range(furthest) if not loud[m : m + run].any()]
        width = min(2 * max(quiet[0] if quiet else furthest, 1), furthest)
        ratio = lags[:width] / width
        taper = np.clip(2 * (1 - ratio), 0.0, 1.0)
        slope = 2 * (taper * lags[:width] * cov[1 : width + 1]).sum()
        level = cov[0] + 2 * (taper * cov[1 : width + 1]).sum()
        if level != 0:
            out[at] = np.clip((1.5 * (slope / level) ** 2 * n) ** (1 / 3), 1.0, longest)
    return out


def block_bootstrap(
    score: Any,
    forecast: Any,
    truth: Any,
    dim: Dims = "time",
    weights: xr.DataArray | None = None,
    *,
    reference: Any = None,
    along: str | None = None,
    block: int | None = None,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    better: str | None = None,
    **arguments: Any,
) -> xr.Dataset:
    """Return a score with its interval from a circular moving-block bootstrap, and beside a reference if one is given.

    Parameters
    ----------
    score
        A function of :mod:`physml.verify`, or any function of forecast, truth, dim and weights that returns an array without
        the dimensions in *dim*. For those of :mod:`physml.verify` that are functions of means (rmse, mae, bias, acc, crps,
        brier, coverage, ...) each time's part is computed once and resampled; others are computed anew for every sample.
    forecast, truth
        As *score* takes them: arrays, or Datasets, whose variables are then laid along a dimension ``variable``.
    dim, weights
        Dimensions to average over, and weights; others (lead, space) are kept. All share the same samples.
    reference
        Another forecast, on the same samples: the difference of both scores gets an interval too.
    along
        The dimension of time that is resampled; by default the one of *dim*, or the one with dates.
    block
        Length of the blocks in steps. None: from the data, by :func:`block_length` of each time's influence on the score (and
        on the difference), at the length that three of four of the kept entries that vary do not exceed. Lazy data are then read.
    n, level, seed
        Number of samples, probability of the intervals, seed of the blocks.
    better
        For a function of one's own: ``"smaller"`` or ``"larger"``, which values are good.
    **arguments
        Further arguments of *score*.

    Returns
    -------
    Dataset
        ``score``, ``low`` and ``high``; with a reference ``reference``, ``difference`` (forecast minus reference; of absolute
        values for a bias, of departures from the level for a coverage), ``difference_low``, ``difference_high``, ``p_value``,
        ``significant``, and ``better`` (1, 0, -1). Lazy where the input is and *block* is given.

    Raises
    ------
    ValueError
        Where *along* is not averaged over, or a number does not fit; and as *score*.

    Notes
    -----
    Intervals are percentiles of the samples, expanded as Student's t is for as many numbers as there are blocks (Hesterberg
    2015). They are somewhat narrow still, the more the fewer blocks there are: of an rmse, intervals of 95 % held the truth
    in 92 % of records of fifty blocks, and in 88 % of records of twenty. Of many intervals at once, 1 - *level* leave zero out by chance.

    References
    ----------
    Künsch, H. R. (1989), doi:10.1214/aos/1176347265. Politis, D. N. and Romano, J. P. (1992), A circular block-resampling
    procedure for stationary data. Hesterberg, T. C. (2015),
    doi:10.1080/00031305.2015.1089789. Wilks, D. S. (1997), doi:10.1175/1520-0442(1997)010<0065:RHTFAF>2.0.CO;2.

    Examples
    --------
    >>> from physml import verify
    >>> truth = xr.DataArray(np.random.default_rng(0).normal(size=200), dims="time")
    >>> found = block_bootstrap(verify.rmse, truth + 0.5, truth, reference=0 * truth, block=5)
    >>> float(found.low), float(found.score.round(3)), bool(found.significant)
    (0.5, 0.5, True)
    """
    _check(n, level, block)
    if better not in (None, "smaller", "larger"):
        refuse("better says which values of the score are good", "'smaller' or 'larger'", better, "correct better")
    options = {"along": along, "block": block, "n": n, "level": level, "seed": seed, "better": better}
    if isinstance(truth, xr.Dataset):
        require_alike(forecast, truth)
        measure, _ = measure_of(score)
        names = variables(forecast, truth)
        found = []
        for name in names:
            ours, theirs = (one_variable(data, name, measure) for data in (forecast, reference))
            each = {k: v[name] if isinstance(v, xr.Dataset) else v for k, v in arguments.items()}
            found.append(_bootstrap(score, ours, truth[name], theirs, dim, weights, options, each))
        units = [str(f.score.attrs.pop("units", "")) for f in found]
        for f in found:
            for v in f.variables.values():
                v.attrs.pop("units", None)
        labels = xr.DataArray(list(map(str, names)), dims="variable")
        labels = labels.assign_coords(variable=labels)
        out = xr.concat(
            found, labels["variable"], coords="minimal", compat="override", combine_attrs="drop_conflicts", join="outer"
        )
        return out.assign_coords(units=("variable", units))
    return _bootstrap(score, forecast, truth, reference, dim, weights, options, arguments)


def _check(n: int, level: float, block: int | None) -> None:
    if not is_count(n, 2):
        refuse("the number of samples is none", "a whole number of 2 or more", n, "pass n=1000")
    if not 0 < level < 1:
        refuse("the level of the intervals is no probability", "0 < level < 1", level, "pass level=0.95")
    if block is not None and not is_count(block):
        refuse("the length of the blocks is none", "a whole number of steps, 1 or more", block, "leave block out")


def _bootstrap(
    score: Any,
    forecast: Any,
    truth: xr.DataArray,
    reference: Any,
    dim: Dims,
    weights: xr.DataArray | None,
    options: dict[str, Any],
    arguments: dict[str, Any],
) -> xr.Dataset:
    truth = common_times(truth, forecast, "forecast and truth")
    if reference is not None:
        truth = common_times(truth, reference, "reference and truth")
    along = along_of(dim, options["along"], truth)
    measure, held = measure_of(score)
    arguments = held | arguments
    forecasts = [forecast] if reference is None else [forecast, reference]
    if measure is None:
        values, drawn, block = _recomputed(score, forecasts, truth, dim, weights, along, options, arguments)
        kind, label = options["better"], getattr(score, "__name__", "score")
        attrs = {"long_name": values[0].attrs.get("long_name", label)}
        attrs |= {"units": u} if (u := values[0].attrs.get("units")) else {}
        level = None
    else:
        values, drawn, block = _resampled(measure, forecasts, truth, dim, weights, along, options, arguments)
        kind, level = measure.better, arguments.get("level", 0.9)
        attrs = measure.describe(values[0].copy(), truth).attrs
    blocks = truth.sizes[along] / block
    tail = expanded(0.5 * (1 - options["level"]), blocks)
    out = xr.Dataset({"score": values[0]} | ends_of("", drawn[0], tail))
    if reference is not None:
        ours, theirs = (compared(v, kind, level) for v in values)
        sample = compared(drawn[0], kind, level) - compared(drawn[1], kind, level)
        out = out.assign({"reference": values[1], "difference": ours - theirs} | ends_of("difference_", sample, tail))
        known = out.difference.notnull() & out.difference_low.notnull()
        sides = [((side) + 0.0).mean(SAMPLE) for side in (sample <= 0, sample >= 0)]
        size = options["n"]
        p = (np.minimum(sides[0], sides[1]) * size + 1) / (size + 1)
        p = xr.apply_ufunc(_contracted, p, kwargs={"blocks": blocks}, dask="parallelized", output_dtypes=["float64"])
        out["p_value"] = (2 * p).clip(max=1.0).where(known)
        out["significant"] = (out.difference_low > 0) | (out.difference_high < 0)
        if kind is not None:
            sign = 1 if kind == "larger" else -1
            out["better"] = (sign * np.sign(out.difference)).where(out.significant, 0).astype("int8")
    for name in out.data_vars:
        plain = name in ("p_value", "significant", "better")
        units = {"units": "1"} if plain else {k: v for k, v in attrs.items() if k == "units"}
        out[name].attrs = {"long_name": LABELS[str(name)].format(attrs["long_name"])} | units
    note = {"long_name": "length of the blocks", "units": "1"}
    return out.assign_coords(block=((), block, note))


def along_of(dim: Dims, along: str | None, truth: xr.DataArray) -> str:
    """Return the dimension of time among those that are averaged."""
    averaged = list(truth.dims) if dim is ... or dim is None else [dim] if isinstance(dim, str) else list(dim)
    if along is None:
        dates: list[Hashable] = [d for d in averaged if is_time(truth.indexes.get(d))]
        along = str(averaged[0] if len(averaged) == 1 else dates[0] if len(dates) == 1 else "time")
    if along not in averaged or along not in truth.dims:
        raise ValueError(
            describe(
                f"the bootstrap has no dimension {along!r} of time to resample{closest(along, averaged)}",
                expected=f"one of those that are averaged, {', '.join(map(str, averaged)) or 'none'}, in {truth.dims}",
                received=f"along={along!r}",
                remedy="name it: along=...",
            )
        )
    return along


def compared(value: xr.DataArray, kind: str | None, level: Any) -> xr.DataArray:
    """Return what two scores are compared by: how far from its best value one is that is best between others."""
    if kind == "level":
        nominal = xr.DataArray(np.asarray(level), dims="level") if np.ndim(level) else level
        return abs(value - nominal)
    return abs(value) if kind == "zero" else value


def ends_of(prefix: str, sample: xr.DataArray, tail: float) -> dict[str, xr.DataArray]:
    """Return both ends of the interval of samples, by name."""
    sample = sample.chunk({SAMPLE: -1}) if sample.chunks is not None else sample
    ends = sample.quantile([tail, 1 - tail], SAMPLE, skipna=False)
    return {f"{prefix}{name}": ends.isel(quantile=i, drop=True) for i, name in enumerate(("low", "high"))}


def expanded(tail: float, blocks: float) -> float:
    """Return the tail of the samples at which an interval ends, after Hesterberg (2015): Student's t for the few blocks."""
    from scipy import stats

    return float(stats.norm.cdf(-np.sqrt(blocks / (blocks - 1)) * stats.t.isf(tail, blocks - 1)))


def _contracted(share: np.ndarray, blocks: float) -> np.ndarray:
    """Return the tail whose interval would end at a share of the samples: the inverse of :func:`_expanded`."""
    from scipy import stats

    found: np.ndarray = stats.t.cdf(stats.norm.ppf(np.minimum(share, 0.5)) / np.sqrt(blocks / (blocks - 1)), blocks - 1)
    return found


def starts_of(size: int, block: int, n: int, seed: int) -> np.ndarray:
    """Return n circular resamplings ``[sample, time]`` of the numbers from 0 to size - 1, in blocks."""
    first = np.random.default_rng(seed).integers(0, size, (n, -(-size // block)))
    return ((first[..., None] + np.arange(block)) % size).reshape(n, -1)[:, :size]


def counts_of(along: str, size: int, block: int, n: int, seed: int) -> xr.DataArray:
    """Return how often each sample holds each time, on (sample, *along*)."""
    rows = starts_of(size, block, n, seed)
    counts = np.stack([np.bincount(row, minlength=size) for row in rows]).astype("float64")
    return xr.DataArray(counts, dims=(SAMPLE, along))


def _resampled(
    measure: Measure,
    forecasts: list[Any],
    truth: xr.DataArray,
    dim: Dims,
    weights: xr.DataArray | None,
    along: str,
    options: dict[str, Any],
    arguments: dict[str, Any],
) -> tuple[list[xr.DataArray], list[xr.DataArray], int]:
    """Return scores, scores of samples, and the block: from each time's sums."""
    parts = []
    for forecast in forecasts:
        terms = measure.terms(forecast, truth, **arguments)
        dims = scored_dims(terms, dim)
        parts.append(sums(terms, [d for d in dims if d != along], weights).drop_vars(along, errors="ignore"))
    block, size = options["block"], truth.sizes[along]
    if block is None:
        parts = [p.compute() for p in parts]
        block = block_of(_influences(measure, parts, along), along)
    require_blocks(block, size)
    drawn = counts_of(along, size, block, options["n"], options["seed"])
    values = [measure.score(means_of(p.sum(along, skipna=False))) for p in parts]
    return values, [measure.score(means_of(sampled(p, along, drawn))) for p in parts], block


def sampled(part: xr.Dataset, along: str, drawn: xr.DataArray) -> xr.Dataset:
    """Return sums over samples of sums by time: matrix products, in which a missing time makes every sample missing."""
    return part.map(lambda v: xr.dot(drawn, v, dim=along, optimize=True))


def _influences(measure: Measure, parts: list[xr.Dataset], along: str) -> list[xr.DataArray]:
    """Return how much the score, and its difference, change with the weight of each time."""
    small, each = 1e-5, []
    for part in parts:
        whole = part.sum(along, skipna=False)
        moved = whole + small * (part * part.sizes[along] - whole)
        each.append((measure.score(means_of(moved)) - measure.score(means_of(whole))) / small)
    return each if len(each) == 1 else [each[0], each[0] - each[1]]


def block_of(series: list[xr.DataArray], along: str) -> int:
    """Return the length that three of four entries of each series do not exceed."""
    longest = 1
    for each in series:
        lengths = block_length(each, along).values
        # Land and empty bins do not vary and have no memory to tell of.
        lengths = lengths[(each.std(along) > 0).transpose(*[d for d in each.dims if d != along]).values]
        longest = max(longest, int(np.ceil(np.quantile(lengths, 0.75) - 1e-9)) if lengths.size else 1)
    return longest


def require_blocks(block: int, size: int) -> None:
    """Refuse blocks of which there are not two."""
    if block > size // 2:
        what = f"the record of {size} steps does not hold two blocks"
        refuse(what, f"block <= {size // 2}", block, "pass a shorter block, or score a longer record")


def _recomputed(
    score: Any,
    forecasts: list[Any],
    truth: xr.DataArray,
    dim: Dims,
    weights: xr.DataArray | None,
    along: str,
    options: dict[str, Any],
    arguments: dict[str, Any],
) -> tuple[list[xr.DataArray], list[xr.DataArray], int]:
    """Return scores, scores of samples, and the block, by calling the score for every sample."""
    dates = {along: truth.indexes[along]} if is_time(truth.indexes.get(along)) else {}
    forecasts = [f.sel(dates) if along in f.dims else f for f in forecasts]
    values = [score(f, truth, dim, weights, **arguments) for f in forecasts]
    block, size = options["block"], truth.sizes[along]
    if block is None:
        if not all(isinstance(f, xr.DataArray) for f in forecasts):
            refuse(
                "the length of the blocks follows from errors of arrays alone",
                "block=..., for a score of one's own of a Dataset",
                "block=None",
                "pass block=, say the steps after which errors are independent",
            )
        rest = [d for d in dims_of(dim, truth) if d != along]
        errors = [evaluate(measure_of(mse)[0], f, truth, rest, weights).compute() for f in forecasts]  # type: ignore[arg-type]
        block = block_of(errors if len(errors) == 1 else [errors[0], errors[0] - errors[1]], along)
    require_blocks(block, size)

    def take(data: Any, rows: np.ndarray) -> Any:
        if not isinstance(data, xr.DataArray | xr.Dataset) or along not in data.dims:
            return data
        return data.isel({along: rows}).drop_vars([c for c in data.coords if along in data[c].dims])

    drawn: list[list[xr.DataArray]] = [[] for _ in forecasts]
    for rows in starts_of(size, block, options["n"], options["seed"]):
        known, heavy = take(truth, rows), take(weights, rows)
        more = {k: take(v, rows) for k, v in arguments.items()}
        for f, samples in zip(forecasts, drawn, strict=True):
            samples.append(score(take(f, rows), known, dim, heavy, **more))
    if along in drawn[0][0].dims:
        name = getattr(score, "__name__", "score")
        refuse(f"{name} keeps {along!r}", f"a score without {along!r}", drawn[0][0].dims, f"average over {along!r}")
    together = [xr.concat(s, SAMPLE, coords="minimal", compat="override") for s in drawn]
    return values, together, block
