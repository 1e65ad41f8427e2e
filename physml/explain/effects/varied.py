"""Inputs with a chosen part of them at other values, and what a model makes of them.

The *coordinate* of a sample is the mean of the chosen cells, weighted by area: for one cell, or an input that is the same in all of
them, such as an index or the month, its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe, refuse
from physml.explain.blocks import BLOCK_BYTES
from physml.explain.effects.resampling import Length, block_numbers, bootstrap_counts, percentiles
from physml.explain.effects.rows import MEMORY, Answers, Rows
from physml.explain.models.adapting import adapt
from physml.explain.models.targets import bind
from physml.provenance import stamp

if TYPE_CHECKING:
    from physml.explain.players.groups import Groups
    from physml.layout import Layout


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some input cells of a model, and the name and unit of what they hold.

    Attributes
    ----------
    name
        Of the coordinate.
    mask
        The cells ``[*space, channel]``.
    share
        Weight of each of them, ``[chosen cell]``; they add up to 1.
    attrs
        ``long_name`` and ``units``.
    """

    name: str
    mask: np.ndarray
    share: np.ndarray
    attrs: Mapping[str, str]

    def coordinate(self, rows: np.ndarray) -> np.ndarray:
        """Return the weighted mean of the chosen cells, ``[row]`` float64."""
        values = rows[:, self.mask].astype("float64")
        mean = values @ self.share
        # Rounding must not move a number that all cells share.
        return np.where((values == values[:, :1]).all(1), values[:, 0], mean)

    def shifted(self, rows: np.ndarray, to: np.ndarray) -> np.ndarray:
        """Return *rows* with all chosen cells moved alike, so that their coordinate becomes *to*, ``[row]``."""
        values = rows[:, self.mask].astype("float64")
        moved = values + (to - self.coordinate(rows))[:, None]
        return self._put(rows, np.where((values == values[:, :1]).all(1)[:, None], to[:, None], moved))

    def moved(self, rows: np.ndarray, by: float) -> np.ndarray:
        """Return *rows* with *by* added to all chosen cells."""
        return self._put(rows, rows[:, self.mask].astype("float64") + by)

    def at(self, rows: np.ndarray, value: float) -> np.ndarray:
        """Return *rows* with all chosen cells at one value."""
        return self._put(rows, value)

    def _put(self, rows: np.ndarray, values: Any) -> np.ndarray:
        out = rows.copy()
        out[:, self.mask] = values
        return out


def choose(layout: Layout, over: str, groups: Groups | None = None) -> Chosen:
    """Return the inputs named *over*.

    Parameters
    ----------
    layout
        Of the model.
    over
        A group of *groups*; an input variable, at all its offsets and levels; or one input channel, such as ``"sst -1"`` or ``"sst +0"``.
    groups
        Named groups.

    Raises
    ------
    KeyError
        For an unknown name; the nearest is offered.
    ValueError
        Where the chosen inputs have different units.
    """
    channels = layout.inputs
    known = {c.name: np.array([c.name == d.name for d in channels]) for c in channels}
    own = [
        f"{c} +0" if str(c) in known else str(c) for c in channels
    ]  # a variable has the name of its channel at offset 0
    known |= {name: np.array([c == d for d in channels]) for name, c in zip(own, channels, strict=True)}
    if groups is not None and over in groups.names:
        mask = groups.owner == groups.names.index(over)
    elif over in known:
        mask = layout.valid("inputs") & known[over]
    else:
        names = [*(groups.names if groups is not None else ()), *known]
        raise KeyError(
            describe(
                f"over names the unknown input {over!r}{closest(over, names)}",
                expected=", ".join(names),
                received=repr(over),
                remedy="name a variable, a channel, or a group and pass groups=",
            )
        )
    held = {
        channels[i].name: layout.variables[channels[i].name].attrs for i in np.flatnonzero(mask.any(layout_axes(mask)))
    }
    units = {attrs.get("units") for attrs in held.values()}
    if len(units) > 1:
        said = ", ".join(f"{n} [{attrs.get('units', 'no unit')}]" for n, attrs in held.items())
        refuse(f"{over!r} mixes units, so that it has no value", "inputs of one unit", said, "choose one variable")
    about = {} if units == {None} else {"units": str(units.pop())}
    names = [str(attrs.get("long_name", n)) for n, attrs in held.items()]
    long_name = names[0] if over in held else f"mean of {over}" if mask.sum() > 1 else over
    area = np.ones(layout.shape) if layout.spec.area is None else layout.static(layout.spec.area)[..., 0]
    weights = np.broadcast_to(area[..., None], mask.shape)[mask]
    weights = np.where(np.isfinite(weights), weights, 0)
    weights = weights if weights.sum() > 0 else np.ones(len(weights))
    return Chosen(over, mask, weights / weights.sum(), {"long_name": long_name, **about})


def layout_axes(mask: np.ndarray) -> tuple[int, ...]:
    """Return the axes of space of an array ``[*space, channel]``."""
    return tuple(range(mask.ndim - 1))


class Case:
    """A model, a target, samples and the inputs that are varied.

    Attributes
    ----------
    chosen
        What is varied, one or two.
    values
        Coordinate of each sample, ``[chosen, sample]``.
    counts
        How often each sample counts, ``[1 + resample, sample]``; in the first, once.
    """

    def __init__(
        self,
        model: Any,
        ds: xr.Dataset,
        over: str | Sequence[str],
        target: Any,
        groups: Groups | None,
        *,
        each: int,
        batch_rows: int | None,
        block: Length = None,
        n_bootstrap: int = 0,
        seed: int = 0,
        memory: int = MEMORY,
        layout: Layout | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self.adapted = adapt(model, layout, None, outputs)
        self.layout = self.adapted.layout
        self.measure = bind(target, self.adapted.outputs)
        names = (over,) if isinstance(over, str) else tuple(over)
        if len(names) not in (1, 2) or len(set(names)) < len(names):
            refuse("over names no one or two inputs", "a name, or two different ones", names, "name each once")
        self.chosen = [choose(self.layout, n, groups) for n in names]
        if len(names) == 2 and (self.chosen[0].mask & self.chosen[1].mask).any():
            refuse(f"{names[0]!r} and {names[1]!r} share cells", "inputs apart", "a common cell", "choose others")
        self.rows = Rows(self.layout.pack(ds, "inputs"), self.layout, memory)
        self.answers = Answers(self.adapted, self.measure, self.rows.each, each * len(self.rows), batch_rows)
        blocks = block_numbers(self.rows.packed, self.layout.spec.sample_dim, block)
        drawn = bootstrap_counts(np.random.default_rng([seed, 2]), blocks, n_bootstrap)
        self.counts = np.concatenate([np.ones((1, len(self.rows)), drawn.dtype), drawn])
        self.attrs = ds.attrs
        self.settings = {
            "target": self.measure.label,
            "over": ", ".join(names),
            "samples": len(self.rows),
            "block": "single samples" if block is None else f"{block} ({blocks[-1] + 1} blocks)",
            "seed": seed if n_bootstrap else "none",
        }
        self._values: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """Coordinates of all samples; they are read once for it."""
        if self._values is None:
            parts = []
            for numbers in self.rows.blocks():
                rows = self.rows.take(numbers)
                parts.append(np.stack([c.coordinate(rows) for c in self.chosen]))
            self._values = np.concatenate(parts, axis=1)
        return self._values

    @property
    def width(self) -> int:
        """Number of valid cells of the target."""
        return int(self.measure.valid.sum())

    def blocks(self, copies: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield sample numbers and inputs, as many as may be held with some *copies* of them and of the answers."""
        most = max(1, BLOCK_BYTES * self.rows.each // max(self.rows.each, 8 * self.width))
        for numbers in self.rows.blocks(copies + 1, most):
            yield numbers, self.rows.take(numbers)

    def result(
        self,
        parts: Mapping[str, tuple[np.ndarray, str]],
        grids: Sequence[np.ndarray],
        counts: np.ndarray | None,
        level: float,
        settings: Mapping[str, Any],
    ) -> xr.Dataset:
        """Return effects ``[1 + resample, *grids, width]`` by name, the first of all samples, as a Dataset.

        Parameters
        ----------
        parts
            Effects and what they are called.
        grids
            Values of each coordinate.
        counts
            Samples near each value, if they are told.
        level
            Probability of the interval.
        settings
            How it was made.
        """
        measure, names = self.measure, [c.name for c in self.chosen]
        units = {} if measure.units is None else {"units": measure.units}
        dims = (*names, *measure.dims)
        out = xr.Dataset()
        for name, (values, what) in parts.items():
            found = {name: (values[0], what)}
            if len(values) > 1 and name == "effect":
                low, high = percentiles(values[1:], level)
                found |= {"lower": (low, f"lower end of the {level:.0%} interval of the {what}")}
                found |= {"upper": (high, f"upper end of the {level:.0%} interval of the {what}")}
            for key, (flat, label) in found.items():
                whole = np.full((*flat.shape[:-1], measure.valid.size), np.nan)
                whole[..., np.flatnonzero(measure.valid)] = flat
                shaped = whole.reshape(*flat.shape[:-1], *measure.valid.shape)
                out[key] = (dims, shaped, {"long_name": label, **units})
        if counts is not None:
            out["counts"] = (tuple(names), counts, {"long_name": "samples near the value", "units": "1"})
        outer = tuple(self.rows.dims)
        rug = self.values.reshape(len(names), *self.rows.outer)
        held = {c.attrs.get("units") for c in self.chosen}
        about = {"long_name": "values in the data"} | (
            {"units": str(*held)} if len(held) == 1 and None not in held else {}
        )
        if len(names) == 1:
            out["rug"] = (outer, rug[0], about)
        else:
            out["rug"] = (("variable", *outer), rug, about)
            out = out.assign_coords(variable=("variable", names, {"long_name": "variable"}))
        grid = {c.name: (c.name, g, dict(c.attrs)) for c, g in zip(self.chosen, grids, strict=True)}
        space = {n: c for n, c in self.layout.statics.coords.items() if set(c.dims) <= set(measure.dims) and c.dims}
        sample = {
            n: c for n, c in self.rows.packed.coords.items() if n != "channel" and set(c.dims) <= set(outer) and c.dims
        }
        out = out.assign_coords(space | sample | dict(measure.coords) | grid)
        if any(len(values) > 1 for values, _ in parts.values()):
            settings = {
                **settings,
                "interval": f"{level:.0%} percentile interval of {len(self.counts) - 1} resamples of blocks",
            }
        out.attrs = {**self.attrs, **self.settings, **settings, "rows": self.answers.rows}
        return stamp(out, f"{settings['method']} of {measure.label} over {self.settings['over']}")
