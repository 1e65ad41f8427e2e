"""The truth of a target: what the targets of a data set hold of it, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.explain.effects.rows import Rows
from physml.explain.models.outputs import Fields, Given, Table
from physml.learners._points import targets

if TYPE_CHECKING:
    from physml.explain.models.adapting import Adapted
    from physml.explain.models.targets import Measure

Truth = Callable[[np.ndarray], np.ndarray]


def truth_of(
    ds: xr.Dataset, adapted: Adapted, measure: Measure, rows: Rows, memory: int, given: xr.DataArray | None = None
) -> Truth:
    """Return a function of sample numbers: the true target, ``[row, valid cell]`` float64, NaN where it is missing.

    Parameters
    ----------
    ds
        Inputs and targets.
    adapted, measure
        The model and its target.
    rows
        The inputs, packed with the whole window.
    memory
        Bytes up to which the targets are read at once.
    given
        The truth itself along the dimensions of the samples and of the target, for a model whose outputs are not the targets
        of its layout. Samples are matched by label.

    Raises
    ------
    ValueError
        Where the truth is not told by the layout, or what is given lies elsewhere.
    """
    if given is not None:
        return _given(given, measure, rows)
    layout, outputs = adapted.layout, adapted.outputs
    packed = layout.pack(ds, "targets", whole_window=True)
    read = Rows(packed, layout, memory, inputs=False)
    names = [str(c) for c in layout.targets]
    returned: list[Any] = list(outputs.template) if isinstance(outputs, Given) else _returned(outputs)
    if len(returned) == len(names) and (
        isinstance(outputs, Fields) or (not layout.shape and isinstance(outputs, Table))
    ):
        return lambda numbers: measure.reduce(read.take(numbers))
    if len(returned) == len(names) and layout.series and isinstance(outputs, Table):
        return lambda numbers: measure.reduce(targets(layout, read.take(numbers)))
    if isinstance(outputs, Fields) and set(names) < set(returned):
        # Beside the targets there is their spread, which has no truth.
        at = [returned.index(n) for n in names]

        def among(numbers: np.ndarray) -> np.ndarray:
            own = read.take(numbers)
            whole = np.full((*own.shape[:-1], len(returned)), np.nan, own.dtype)
            whole[..., at] = own
            return measure.reduce(whole)

        return among
    classes = _numbers(returned if isinstance(outputs, Table) else _flags(outputs, returned))
    if classes is not None and len(names) == 1 and (isinstance(outputs, Fields) or not layout.shape):
        return lambda numbers: measure.reduce((read.take(numbers) == classes).astype("float64"))
    if isinstance(outputs, Given) and set(outputs.template.data_vars) <= set(layout.spec.targets):
        sample, pack = layout.spec.sample_dim, outputs.pack

        def labelled(numbers: np.ndarray) -> np.ndarray:
            values = xr.DataArray(read.take(numbers), dims=(sample, *layout.space, "channel"))
            return measure.reduce(pack(layout.plain().unpack(values, "targets", predicted=True)))

        return labelled
    refuse(
        f"the truth of {measure.label!r} is not told by the targets {names}",
        "a model that returns the targets of its layout, or the classes of one",
        f"outputs {returned}",
        "pass truth=, a DataArray along the samples",
    )


def _returned(outputs: Fields | Table) -> list[Any]:
    return [str(c) for c in outputs.layout.targets] if isinstance(outputs, Fields) else list(outputs.names)


def _flags(outputs: Any, names: list[Any]) -> list[Any]:
    """Return the numbers of the classes whose probabilities a learner returns, else the names as they are."""
    known = outputs.layout.variables if isinstance(outputs, Fields) else {}
    return [known[n].attrs.get("flag_value", n) if n in known else n for n in names]


def _numbers(names: Sequence[Any]) -> np.ndarray | None:
    """Return the labels of classes as numbers, where they are."""
    try:
        return np.array([float(n) for n in names])
    except ValueError:
        return None


def _given(truth: xr.DataArray, measure: Measure, rows: Rows) -> Truth:
    sizes = dict(zip(rows.dims, rows.outer, strict=True)) | dict(zip(measure.dims, measure.valid.shape, strict=True))
    wanted = {d: rows.packed.indexes[d] for d in rows.dims if d in rows.packed.indexes and d in truth.indexes}
    lacking = [d for d, index in wanted.items() if not index.isin(truth.indexes[d]).all()]
    if set(truth.dims) == set(sizes) and not lacking:
        truth = truth.sel(wanted)
    if set(truth.dims) != set(sizes) or lacking or any(truth.sizes[d] != n for d, n in sizes.items()):
        refuse(
            f"truth lies elsewhere than {measure.label!r}",
            sizes,
            dict(truth.sizes) if not lacking else f"labels along {lacking[0]!r} are missing",
            "give it at the samples whose inputs and targets both lie in ds",
        )
    cells = np.flatnonzero(measure.valid)
    values = truth.transpose(*sizes).values.reshape(len(rows), -1)[:, cells].astype("float64")
    return lambda numbers: values[numbers]
