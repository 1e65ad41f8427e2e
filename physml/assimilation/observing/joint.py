"""Several kinds of observations together, of one or several variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from physml._errors import refuse
from physml.assimilation.observing.rows import Observations, Rows
from physml.assimilation.vector import StateVector


class JointObservations(Observations):
    """Observations of several kinds or variables, assimilated together; their errors are independent.

    Parameters
    ----------
    parts
        Any observations; those of several variables say which: ``variable=``.

    Examples
    --------
    >>> temperature = PointObservations([20.0], [0.0], [0.0], error_std=0.5, variable="t")
    >>> salinity = PointObservations([35.0], [0.0], [0.0], error_std=0.1, variable="s")
    >>> len(JointObservations([temperature, salinity]).parts)
    2
    """

    def __init__(self, parts: Sequence[Observations]) -> None:
        self.parts = tuple(parts)
        for part in self.parts:
            if not isinstance(part, Observations):
                refuse("JointObservations: a part is no observation", "PointObservations ...", part, "wrap it")
        if not self.parts:
            refuse("JointObservations: there are no parts", "at least one", "none", "pass None for a free run")

    def when(self) -> Any:
        """Return the times of the observations that are not missing."""
        parts = [part.when() for part in self.parts]
        return None if any(p is None for p in parts) else np.concatenate(parts)

    def rows(self, state: StateVector, times: Any, *, tolerance: Any = 0.0, outside: str = "drop") -> Rows:
        """Return the observations by analysis time, part after part; see :class:`Observations`."""
        parts = [part.rows(state, times, tolerance=tolerance, outside=outside) for part in self.parts]
        k = max(p.index.shape[-1] for p in parts)
        index, weights = (
            np.concatenate([np.pad(a, [(0, 0), (0, 0), (0, k - a.shape[-1])]) for a in arrays], axis=1)
            for arrays in ([p.index for p in parts], [p.weights for p in parts])
        )
        functions: list[Any] = []
        start = 0
        for p in parts:
            functions += [(slice(s.start + start, s.stop + start), f) for s, f in p.functions]
            start += p.values.shape[1]
        every = slice(None)
        cells = parts[0].cells if all(p.cells is not None and p.positions is None for p in parts) else None
        places = [None if cells is not None else p.places(every) for p in parts]
        known = [p for p in places if p is not None]
        return Rows(
            np.concatenate([p.values for p in parts], axis=1),
            np.concatenate([p.error_std for p in parts], axis=1),
            index,
            weights,
            np.concatenate(known, axis=1) if len(known) == len(parts) else None,
            sum((p.variables for p in parts), ()),
            sum((p.units for p in parts), ()),
            functions=tuple(functions),
            cells=cells,
            dropped=sum(p.dropped for p in parts),
            unused=sum(p.unused for p in parts),
        )
