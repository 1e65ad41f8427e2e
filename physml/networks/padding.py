"""Padding by boundary: what a stencil sees beyond the ends of each dimension is said, never assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from physml._errors import closest, describe, is_count, refuse
from physml.reach import Reach, shifted

KINDS = ("periodic", "closed", "open", "pole")


def boundaries(boundary: Mapping[str, str], space: Sequence[str]) -> tuple[str, ...]:
    """Return the boundary of every space dimension, in order.

    Raises
    ------
    ValueError
        Where one is missing or unknown, and for a pole without a circle of longitudes.

    Examples
    --------
    >>> boundaries({"lon": "periodic", "lat": "pole"}, ("lat", "lon"))
    ('pole', 'periodic')
    """
    unknown = [d for d in boundary if d not in space]
    bad = [b for b in boundary.values() if b not in KINDS]
    if unknown or bad or set(boundary) != set(space):
        hint = closest(unknown[0], space) if unknown else closest(str(bad[0]), KINDS) if bad else ""
        raise ValueError(
            describe(
                f"the boundary does not fit the grid{hint}",
                expected=f"one of {KINDS} for each of {tuple(space)}",
                received=dict(boundary),
                remedy="say for every space dimension what lies beyond its ends",
            )
        )
    ends = tuple(boundary[d] for d in space)
    circle_of(ends)
    return ends


def circle_of(ends: Sequence[str]) -> int | None:
    """Return which dimension is the circle round the poles, or None where there is no pole.

    Raises
    ------
    ValueError
        For more than one dimension with poles, and where not exactly one other is periodic.
    """
    if "pole" not in ends:
        return None
    if list(ends).count("pole") > 1:
        refuse("more than one dimension has poles", "one: the latitude", tuple(ends), "close or open the others")
    circles = [i for i, k in enumerate(ends) if k == "periodic"]
    if len(circles) != 1:
        expected = "exactly one 'periodic' dimension beside it: the longitude, all round"
        remedy = "{'lat': 'pole', 'lon': 'periodic'}; or close the latitude"
        refuse("a pole needs the circle of longitudes", expected, tuple(ends), remedy)
    return circles[0]


def check_poles(
    ends: Sequence[str], space: Sequence[str], shape: Sequence[int], coordinates: Mapping[Any, Any]
) -> None:
    """Refuse a grid that does not reach the poles it is said to have.

    Parameters
    ----------
    ends, space, shape
        Boundary, name and size of every space dimension.
    coordinates
        Coordinates by name; a latitude in degrees is checked.

    Raises
    ------
    ValueError
        For an odd number of longitudes, for rows on the poles, and for maps that end before them.
    """
    circle = circle_of(ends)
    if circle is None:
        return
    _check_circle(shape[circle])
    dim = space[list(ends).index("pole")]
    at = coordinates.get(dim)
    if at is None or not str(getattr(at, "attrs", {}).get("units", "")).startswith("degree") or len(at) < 2:
        return
    rows = np.asarray(at, "float64")
    for end, inner in ((rows[0], rows[1]), (rows[-1], rows[-2])):
        gap = 90 - abs(end)
        if not 1e-3 < gap <= abs(end - inner) * 1.01:
            expected = "a last row within one row of the pole, and none on it: 89.5 for rows of one degree"
            remedy = f"say 'closed' or 'open' for {dim!r}, or leave out the rows on the poles"
            refuse(
                f"the rows of {dim!r} do not lie round the poles",
                expected,
                f"{float(end)} and {float(inner)} degrees",
                remedy,
            )


def _check_circle(cells: int | None) -> None:
    if cells is not None and cells % 2:
        remedy = "regrid the longitude to an even number, or close the latitude"
        refuse("a pole needs an even number of longitudes", "an even size: half of it lies opposite", cells, remedy)


def ends_of(width: Any, space: int) -> tuple[tuple[int, int], ...]:
    """Return the cells added before and after along every dimension.

    Raises
    ------
    ValueError
        For widths that are no counts, or of other dimensions.

    Examples
    --------
    >>> ends_of(1, 2), ends_of((2, (0, 1)), 2)
    (((1, 1), (1, 1)), ((2, 2), (0, 1)))
    """
    parts = [width] * space if is_count(width, 0) else list(width) if isinstance(width, tuple | list) else [None]
    pairs = [tuple(p) if isinstance(p, tuple | list) else (p, p) for p in parts]
    if len(pairs) != space or any(len(p) != 2 or not all(is_count(n, 0) for n in p) for p in pairs):
        expected = f"a whole number >= 0, or one (or a pair) for each of {space} dimensions"
        refuse("Pad: width is no number of cells", expected, width, "width=1, or width=(0, 2), or width=(1, (0, 3))")
    return tuple((int(a), int(b)) for a, b in pairs)


@keras.saving.register_keras_serializable(package="physml")
class Pad(keras.layers.Layer):
    """Pad the space dimensions by their boundaries.

    Parameters
    ----------
    width
        Cells added at both ends: of every dimension, or one number for each, or a pair ``(before, after)`` for each.
    boundary
        For each space dimension: ``"periodic"`` (the other end), ``"closed"`` (zero: in scaled units the mean, as on masked
        cells), ``"open"`` (the nearest cell repeated) or ``"pole"``: beyond the last row of latitude lie, from the pole
        outwards, the same rows half of the longitudes away. A pole lies half a row beyond the last one, and needs one periodic
        dimension of even size.
    flip
        Channels that change their sign across a pole: components of vectors on the inputs, whose unit vectors turn round there.

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    The same with the cells of *width* more along every space dimension. Sizes may be unknown until the layer runs.

    Examples
    --------
    >>> x = np.arange(8.0).reshape(1, 2, 4, 1)
    >>> np.asarray(Pad((1, 0), ("pole", "periodic"))(x))[0, :, :, 0].tolist()
    [[2.0, 3.0, 0.0, 1.0], [0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [6.0, 7.0, 4.0, 5.0]]
    """

    def __init__(self, width: Any, boundary: Sequence[str], flip: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.boundary = tuple(boundary)
        bad = [b for b in self.boundary if b not in KINDS]
        if bad or isinstance(boundary, str):
            refuse(f"Pad: unknown boundary{closest(str(bad[0]), KINDS) if bad else ''}", f"one of {KINDS} for each dimension", boundary, "boundary=('closed', 'periodic')")  # fmt: skip
        self.width, self.flip = width, tuple(flip)
        self.ends = ends_of(width, len(self.boundary))
        self.circle = circle_of(self.boundary)
        if self.flip and self.circle is None:
            refuse("Pad: flip without a pole", "a 'pole' among the boundaries", self.boundary, "leave flip out")

    def build(self, input_shape: Any) -> None:
        """Refuse sizes that do not fit, where they are known."""
        self._check(input_shape)
        self.built = True

    def call(self, x: Any) -> Any:
        """Return the padded tensor."""
        self._check(x.shape)
        # Half of the longitudes are counted before the circle is padded itself.
        order = sorted(range(len(self.boundary)), key=lambda i: self.boundary[i] != "pole")
        for i in order:
            if any(self.ends[i]):
                x = self._along(x, i + 1, self.boundary[i], *self.ends[i])
        return x

    def _check(self, shape: Any) -> None:
        for size, kind, ends in zip(shape[1:-1], self.boundary, self.ends, strict=True):
            if kind in ("periodic", "pole") and size is not None and max(ends) > size:
                what = f"Pad: a {'periodic ' if kind == 'periodic' else ''}dimension of {size} cells is shorter than the stencil reaches"
                refuse(what, f"at least {max(ends)} cells", size, "use a smaller kernel")
        if self.circle is not None and any(self.ends[self.boundary.index("pole")]):
            _check_circle(shape[self.circle + 1])

    def _along(self, x: Any, axis: int, kind: str, before: int, after: int) -> Any:
        if kind == "closed":
            pads = [[0, 0] for _ in x.shape]
            pads[axis] = [before, after]
            return ops.pad(x, pads)

        def cells(start: int | None, stop: int | None) -> Any:
            at: list[Any] = [slice(None)] * len(x.shape)
            at[axis] = slice(start, stop)
            return x[tuple(at)]

        # Counted from the end, so that maps of any size pass.
        if kind == "periodic":
            first, last = [cells(-before, None)] * (before > 0), [cells(0, after)] * (after > 0)
        elif kind == "open":
            first, last = [cells(0, 1)] * before, [cells(-1, None)] * after
        else:
            first = [self._opposite(cells(0, before), axis)] * (before > 0)
            last = [self._opposite(cells(-after, None), axis)] * (after > 0)
        return ops.concatenate([*first, x, *last], axis=axis)

    def _opposite(self, rows: Any, axis: int) -> Any:
        assert self.circle is not None
        circle = self.circle + 1
        rows = ops.flip(rows, axis)
        half = rows.shape[circle]
        half = half // 2 if half is not None else ops.shape(rows)[circle] // 2
        head: list[Any] = [slice(None)] * len(rows.shape)
        tail = list(head)
        head[circle], tail[circle] = slice(half, None), slice(0, half)
        rows = ops.concatenate([rows[tuple(head)], rows[tuple(tail)]], axis=circle)
        if not self.flip:
            return rows
        sign = np.ones(int(rows.shape[-1]))
        sign[list(self.flip)] = -1
        return rows * ops.cast(sign, rows.dtype)

    def receptive_field(self) -> list[Reach]:
        """Return what the padded cells see: those of the other end where the boundary is periodic, the far side across a pole."""
        found = []
        for (before, after), kind in zip(self.ends, self.boundary, strict=True):
            padded = before + after > 0
            found.append(
                shifted(-before, wraps=padded and kind == "periodic", clamps=padded and kind in ("open", "pole"))
            )
        if self.circle is not None and any(self.ends[self.boundary.index("pole")]):
            found[self.circle] = replace(found[self.circle], crosses=True)
        return found

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the padded shape."""
        inner = [None if s is None else s + a + b for s, (a, b) in zip(input_shape[1:-1], self.ends, strict=True)]
        return (input_shape[0], *inner, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        flip = {"flip": self.flip} if self.flip else {}
        return {**super().get_config(), "width": self.width, "boundary": self.boundary, **flip}


@keras.saving.register_keras_serializable(package="physml")
class Inside(keras.layers.Layer):
    """Append a channel of ones.

    Padded with zeros, it lets a stencil tell a closed end from a cell whose fields are at their mean.

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    ``[batch, *space, channel + 1]``.
    """

    receptive_field = 0

    def call(self, x: Any) -> Any:
        """Return the tensor with one more channel."""
        return ops.concatenate([x, ops.ones_like(x[..., :1])], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape with one more channel."""
        return (*input_shape[:-1], input_shape[-1] + 1)
