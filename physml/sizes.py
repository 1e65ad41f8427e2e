"""Maps of other sizes than the grid a model was made for: which parts of a FieldModel still hold there, and how masks do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keras import ops

from physml._errors import describe
from physml.layout import Layout

if TYPE_CHECKING:
    from physml.model import FieldModel


def sizes_of(network: Any, layout: Layout) -> tuple[int | None, ...]:
    """Return the sizes of the maps a network takes, None where any will do; those of the layout where it says nothing.

    Examples
    --------
    >>> import keras, xarray as xr
    >>> ds = xr.Dataset({"x": (("time", "i"), [[1.0, 3.0], [3.0, 5.0]])})
    >>> from physml import FieldSpec
    >>> sizes_of(keras.Sequential([keras.Input((None, 1)), keras.layers.Dense(1)]), FieldSpec("x", "x").bind(ds))
    (None,)
    """
    takes = getattr(network, "input_shape", None) if getattr(network, "inputs", None) else None
    if not isinstance(takes, tuple) or len(takes) != len(layout.shape) + 2:
        return layout.shape
    return tuple(None if have is None else size for have, size in zip(takes[1:-1], layout.shape, strict=True))


def reads_gaps(network: Any) -> bool:
    """Return whether a network tells masked cells by NaN: whether a layer of it says so by an attribute ``reads_gaps``.

    Examples
    --------
    >>> from physml.networks import Valid
    >>> reads_gaps(Valid("nan")), reads_gaps(Valid(channel=0))
    (True, False)
    """
    if getattr(network, "reads_gaps", False):
        return True
    return any(reads_gaps(layer) for layer in getattr(network, "layers", None) or ())


def whole_grid_reason(model: FieldModel) -> str | None:
    """Return why an output cell depends on the whole grid whatever the network, or None."""
    if model.head is not None and not model.head.local:
        return f"the head {type(model.head).__name__}, which holds the masks of the grid"
    summed = [law for law in model.constraints if not law.local()]
    return f"{summed[0]}, a law with fields of the whole grid" if summed else None


def refuse_whole_grid(model: FieldModel) -> None:
    """Refuse what cannot hold on a part of the grid.

    Raises
    ------
    ValueError
        For a head, and for laws, hard or soft, that are sums over the grid.
    """
    soft = [law for law in model.penalties if not law.local()]
    reason = whole_grid_reason(model) or (f"{soft[0]}, a law with fields of the whole grid" if soft else None)
    if reason is not None:
        raise ValueError(
            describe(
                "a network for maps of any size cannot be joined to what needs the whole grid",
                expected="laws that hold cell by cell, such as NonNegative, and no head",
                received=reason,
                remedy="build the network on keras.Input((*layout.shape, channels)), or leave it out and apply it to whole "
                "predictions: Constraints(...).apply(fields, ds)",
            )
        )


def on_grid(
    model: FieldModel, x: Any, then: Callable[[Any], Any], otherwise: Callable[[Any], Any] | None = None
) -> Any:
    """Return ``then(x)`` for maps ``[batch, *space, channel]`` on the whole grid, else ``otherwise(x)``: *x* by default."""
    otherwise = otherwise or (lambda v: v)
    pairs = list(zip(x.shape[1:-1], model.layout.shape, strict=True))
    if any(have is not None and have != want for have, want in pairs):
        return otherwise(x)
    open_axes = [axis for axis, (have, _) in enumerate(pairs, start=1) if have is None]
    if not open_axes:
        return then(x)
    # A compiled graph may not know the sizes before it runs.
    whole = ops.all(ops.stack([ops.equal(ops.shape(x)[a], model.layout.shape[a - 1]) for a in open_axes]))
    return ops.cond(whole, lambda: then(x), lambda: otherwise(x))


def valid_cells(model: FieldModel, x: Any) -> Any:
    """Return the valid cells of inputs, or None where all are: the layout's mask on its grid, cells not NaN elsewhere."""
    mask = model._valid_in
    if not model.free_size:
        return mask

    def by_layout(v: Any) -> Any:
        return ops.ones_like(v, dtype="bool") if mask is None else ops.logical_and(mask, ops.ones_like(v, dtype="bool"))

    return on_grid(model, x, by_layout, ops.isfinite)
