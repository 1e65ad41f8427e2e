"""Between labelled maps and the matrices of a regression, both ways: cells as rows, or maps through patterns and numbers."""

from __future__ import annotations

import numpy as np

from physml.fields import Role
from physml.layout import Layout
from physml.learners import _features, _points
from physml.learners._features import Anomalies
from physml.learners._fitted import Fitted
from physml.learners._points import cells_of
from physml.learners.climatology import dates, expected


def every_offset(layout: Layout) -> tuple[int, ...]:
    """Return the offsets of inputs and targets."""
    spec = layout.spec
    offsets = {o for n in spec.inputs for o in spec.offsets("inputs", n)}
    return tuple(sorted(offsets | set(spec.offsets("targets", spec.targets[0]))))


class Regressed(Fitted, kind=True):
    """A learner that reads features of inputs and answers what is regressed of targets.

    Attributes
    ----------
    samples, eofs_out, by, harmonics
        See :class:`physml.learners.Ridge`.
    """

    samples: str
    eofs_out: int | None
    by: str | None
    harmonics: int

    @property
    def _departs(self) -> bool:
        """Whether departures from a climatology are read: always of maps, where an overall mean changes nothing."""
        return self.samples == "maps" or self.by is not None

    def _dated(self, role: Role) -> tuple[str, ...]:
        return _features.read_by(self.layout, tuple(getattr(self.layout.spec, role)))

    def date_offsets(self) -> tuple[int, ...]:
        """Return the offsets of inputs and targets."""
        return every_offset(self.layout)

    def _read(self, x: np.ndarray) -> np.ndarray:
        """Return the features of inputs: ``[row and cell, channel]``, or ``[row, feature]``."""
        layout, spec = self.layout, self.layout.spec
        if self.samples == "cells":
            if self.by is not None:
                x = self._departures(x)
            extra = set(self.extra_inputs(layout)) - set(self.spec.inputs)
            own = [i for i, c in enumerate(layout.inputs) if c.name not in extra]
            return x[:, self._cells][..., own].reshape(-1, len(own)).astype("float64")
        parts, dated = dates(self, x), self._dated("inputs")
        anomalies, mean = Anomalies(self, "inputs", dated), self.state.get("inputs_mean")
        extra = set(self.extra_inputs(layout)) - set(self.spec.inputs)
        components, numbers = [], []
        for name in spec.inputs:
            if name in extra:
                continue
            for offset in spec.offsets("inputs", name):
                at = layout.where("inputs", name, offset)
                if name not in dated:
                    numbers.append(self._plain(x, name, at))
                    continue
                assert mean is not None
                found = anomalies.of(x, mean, parts, name, offset)
                if found.ndim == 2 or not layout.space:
                    numbers.append(found.reshape(len(x), -1))
                    continue
                values = found[:, layout.valid("inputs")[..., at]]
                into = self.state.get(f"inputs_into_{name}")
                components.append(values if into is None else values @ into)
        if self.harmonics:
            season = _features.waves(layout, x, self.harmonics)
            known = components or numbers
            components = [*components, *(k * w[:, None] for w in season.T for k in known), season]
        return np.concatenate([*components, *numbers], axis=1).astype("float64")

    def _plain(self, x: np.ndarray, name: str, at: slice) -> np.ndarray:
        layout = self.layout
        if set(layout.space) & set(layout.variables[name].dims):
            return x[..., at][:, layout.valid("inputs")[..., at]]
        return _points.numbers(layout, "inputs", x, at)

    def _departures(self, x: np.ndarray) -> np.ndarray:
        """Return inputs of cells with departures in place of what has a climatology."""
        layout, spec = self.layout, self.layout.spec
        anomalies, mean, parts = (
            Anomalies(self, "inputs", self._dated("inputs")),
            self.state["inputs_mean"],
            dates(self, x),
        )
        out = x.astype("float64")
        for name in anomalies.names:
            for offset in spec.offsets("inputs", name):
                found = anomalies.of(x, mean, parts, name, offset)
                if found.ndim == 2 and layout.space:
                    found = found.reshape(len(x), *(1 for _ in layout.space), -1)
                out[..., layout.where("inputs", name, offset)] = found
        return out

    def _expected(self, x: np.ndarray) -> np.ndarray | float:
        """Return the climatology of the targets, ``[row, *space, target channel]`` or ``[row, target channel]``."""
        return expected(self, x, self.state["targets_mean"]) if self._departs else 0.0

    def _forth(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return what is regressed of targets ``[row, *space, channel]``: ``[row, target]``, or ``[row and cell, channel]``."""
        layout, spec = self.layout, self.layout.spec
        found = _points.targets(layout, y) - self._expected(x)
        if self.samples == "cells":
            return found[:, self._cells].reshape(-1, found.shape[-1])
        if layout.series or not layout.space:
            return found
        valid = layout.valid("targets")
        if not self.eofs_out:
            return found[:, valid]
        parts = []
        for name in spec.targets:
            for offset in spec.offsets("targets", name):
                at = layout.where("targets", name, offset)
                parts.append(found[..., at][:, valid[..., at]] @ self.state[f"targets_into_{name}"])
        return np.concatenate(parts, axis=1)

    def _back(self, found: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return answers ``[row, *space, channel]`` of what was regressed."""
        layout, spec = self.layout, self.layout.spec
        if self.samples == "maps" and (layout.series or not layout.space):
            return found + self._expected(x)
        out = np.zeros((len(x), *layout.shape, len(layout.targets)))
        valid = layout.valid("targets")
        if self.samples == "cells":
            out[:, self._cells] = found.reshape(len(x), -1, found.shape[-1])
        elif not self.eofs_out:
            out[:, valid] = found
        else:
            start = 0
            for name in spec.targets:
                back = self.state[f"targets_back_{name}"]
                for offset in spec.offsets("targets", name):
                    at = layout.where("targets", name, offset)
                    part = np.zeros((len(x), *valid[..., at].shape))
                    part[:, valid[..., at]] = found[:, start : start + len(back)] @ back
                    out[..., at] = part
                    start += len(back)
        return out + self._expected(x)

    @property
    def _cells(self) -> np.ndarray:
        return cells_of(self.layout, self.name)
