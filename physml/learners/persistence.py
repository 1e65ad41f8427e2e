"""Persistence: what is now stays, or its departure from the climatology does, damped or not."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import xarray as xr

from physml._errors import closest, describe
from physml.fields import FieldSpec, Role
from physml.layout import Layout
from physml.learners import _blocks, _cycle, _points
from physml.learners._fitted import Fitted, with_spread
from physml.learners.climatology import climate, dates, expected

_PER = ("lead", "month")


class Persistence(Fitted):
    """The present state, or the present departure from the climatology on top of the climatology of the date to come.

    Parameters
    ----------
    spec
        Its targets have to be among its inputs, at offset 0.
    anomaly
        True: the departure from the climatology persists. False: the state does.
    by
        Of which climatology: ``"month"``, ``"dayofyear"``, or None for one mean of all times.
    spread
        Answer the standard deviation of the error too, ``NAME_std``, for every cell and lead.
    per
        ``"lead"``: one standard deviation all year; ``"month"``: one for each month a forecast starts in.
    name
        What it is called.

    Notes
    -----
    Standard deviations are those of the errors on the training data, enlarged for what was fitted to these: the squares are summed
    over ``n - p`` and multiplied by ``1 + p/n`` for *n* forecasts and *p* numbers of the climatology and of the regression (Akaike
    1969, doi:10.1007/BF02532251).

    Examples
    --------
    >>> ds = xr.Dataset({"t": ("time", [1.0, 2.0, 4.0])}, {"time": [0, 1, 2]})
    >>> Persistence(FieldSpec("t", "t", target_offsets=1), anomaly=False).fit(ds).predict(ds).t.values
    array([1., 2., 4.])
    """

    arguments: ClassVar[tuple[str, ...]] = ("anomaly", "by", "spread", "per")
    damped = False

    def __init__(
        self,
        spec: FieldSpec,
        anomaly: bool = True,
        *,
        by: str | None = "month",
        spread: bool = False,
        per: str = "lead",
        name: str | None = None,
    ) -> None:
        super().__init__(spec, name)
        _cycle.check_by(by)
        if per not in _PER:
            raise ValueError(
                describe(
                    f"per={per!r} is not understood{closest(str(per), _PER)}",
                    expected="'lead' or 'month'",
                    received=repr(per),
                    remedy="per='lead'",
                )
            )
        if per == "month" and (by != "month" or not anomaly):
            raise ValueError(
                describe(
                    "per='month' goes with departures from a monthly climatology",
                    expected="by='month'",
                    received=f"by={by!r}" + ("" if anomaly else ", anomaly=False"),
                    remedy="by='month', or per='lead'",
                )
            )
        self.anomaly, self.by = bool(anomaly), by if anomaly else None
        self.spread, self.per = bool(spread), per

    @property
    def answers(self) -> Layout:
        """Layout of forecasts and, with spread, standard deviations."""
        return with_spread(self.layout) if self.spread else self.layout

    def extra_inputs(self, layout: Layout) -> tuple[str, ...]:
        """Return the parts of the date."""
        spec = layout.spec
        strangers = [n for n in spec.targets if n not in spec.inputs or 0 not in spec.offsets("inputs", n)]
        if strangers:
            raise ValueError(
                describe(
                    f"{self.name}: the present state of {strangers[0]!r} is not known",
                    expected="every target among the inputs, at offset 0",
                    received=f"inputs {', '.join(spec.inputs)}",
                    remedy=f"FieldSpec(inputs=[..., {strangers[0]!r}])",
                )
            )
        return _cycle.names(layout, self.by, spec.offsets("targets", spec.targets[0]))

    def needed(self) -> tuple[str, ...]:
        """Return the targets and the parts of the date."""
        return (*self.layout.spec.targets, *self.extra_inputs(self.layout))

    def learn(self, train: xr.Dataset) -> None:
        """Find the climatology and what forecasts of the training data miss."""
        layout = self.layout
        self.state = climate(layout, train, self.by) if self.anomaly else {}
        if not (self.damped or self.spread):
            return
        roles: tuple[Role, Role] = ("inputs", "targets")
        sums: dict[str, np.ndarray] = {}
        for piece in _blocks.blocks(_blocks.packed(layout, self._unread(train), roles), layout, roles):
            x, y = piece.arrays[0], _points.targets(layout, piece.arrays[1])
            now, then = self._now(x), y
            if self.anomaly:
                now, then = now - expected(self, x, now=True), then - expected(self, x)
            group, n = self._start(x), 12 if self.per == "month" else 1
            part = {
                "n": np.bincount(group, minlength=n).astype("float64"),
                **{
                    k: _by_group(v, group, n) for k, v in {"xx": now * now, "xy": now * then, "yy": then * then}.items()
                },
            }
            sums = part if not sums else {k: sums[k] + part[k] for k in part}
        slope = np.ones_like(sums["xx"])
        if self.damped:
            with np.errstate(invalid="ignore", divide="ignore"):
                slope = np.where(sums["xx"] > 0, sums["xy"] / sums["xx"], 0.0)
        self.state["slope"] = slope
        count = sums["n"].reshape(-1, *(1 for _ in slope.shape[1:]))
        missed = np.maximum(sums["yy"] - 2 * slope * sums["xy"] + slope**2 * sums["xx"], 0)
        p = ((self.state["count"] > 0).sum() / len(sums["n"]) if self.anomaly else 0) + self.damped
        with np.errstate(invalid="ignore", divide="ignore"):
            self.state["std"] = np.where(count > p, np.sqrt(missed / (count - p) * (1 + p / count)), np.nan)

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return the present state carried on, and the standard deviation of its error."""
        now, group = self._now(x), self._start(x) if self.state.get("slope") is not None else None
        slope = 1.0 if not self.damped else self.state["slope"][group]
        found = now
        if self.anomaly:
            found = slope * (now - expected(self, x, now=True)) + expected(self, x)
        if not self.spread:
            return found
        return np.concatenate([found, self.state["std"][group]], axis=-1)

    def _now(self, x: np.ndarray) -> np.ndarray:
        """Return the state at offset 0 for every target channel, ``[row, *space, target channel]``."""
        layout = self.layout
        at = [
            np.arange(len(layout.inputs))[layout.where("inputs", n, 0)]
            for n in layout.spec.targets
            for _ in layout.spec.offsets("targets", n)
        ]
        channels = np.concatenate(at)
        if layout.series:
            return _points.numbers(layout, "inputs", x, channels).astype("float64")
        return x[..., channels].astype("float64")

    def _start(self, x: np.ndarray) -> np.ndarray:
        """Return the group of regressions that each row belongs to."""
        if self.per == "lead":
            return np.zeros(len(x), int)
        return _cycle.ahead(self.layout, self.by, dates(self, x), 0, self.calendar)


class DampedPersistence(Persistence):
    """The present departure from the climatology, times a coefficient for each cell and lead that least squares finds.

    Parameters
    ----------
    spec
        Its targets have to be among its inputs, at offset 0.
    by
        Of which climatology: ``"month"``, ``"dayofyear"``, or None for one mean of all times.
    per
        ``"lead"``: one coefficient all year; ``"month"``: one for each month a forecast starts in, which is harder to beat where
        memory changes with the season.
    spread
        Answer the standard deviation of the error too; see :class:`Persistence`.
    name
        What it is called.

    References
    ----------
    Lorenz, E. N. (1973), On the existence of extended range predictability, doi:10.1175/1520-0450(1973)012<0543:OTEOER>2.0.CO;2.
    """

    arguments = ("by", "per", "spread")
    damped = True

    def __init__(
        self,
        spec: FieldSpec,
        by: str | None = "month",
        *,
        per: str = "lead",
        spread: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(spec, True, by=by, spread=spread, per=per, name=name)


def _by_group(values: np.ndarray, group: np.ndarray, n: int) -> np.ndarray:
    found = np.zeros((n, *values.shape[1:]))
    for g in np.unique(group):
        found[g] = values[group == g].sum(0)
    return found
