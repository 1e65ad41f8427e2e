"""Patches: parts of a map as samples, at random or side by side, where enough cells are valid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from physml._errors import closest, describe

Cut = tuple[tuple[slice, ...], tuple[slice, ...]]
"""Where a piece lies in the patch, and where in the map."""


@dataclass(frozen=True)
class Patches:
    """How maps are cut into patches.

    Parameters
    ----------
    size
        Cells along each space dimension that is cut; the others stay whole.
    per_sample
        Patches drawn at random from every sample and epoch. None: the map is tiled, the same way for every sample.
    overlap
        Cells that neighbouring tiles share, by dimension.
    periodic
        Dimensions whose ends meet: patches reach across the seam.
    min_valid
        Least part of the cells of a patch that are valid in the mask (0 to 1).
    margin
        Cells at every cut edge that carry no weight in the loss: a stencil sees across them only in part.

    Raises
    ------
    ValueError
        For sizes, overlaps and margins that do not fit each other.

    Examples
    --------
    >>> patches = Patches({"lat": 2, "lon": 3}, overlap={"lon": 1}, periodic="lon")
    >>> patches.origins(("lat", "lon"), np.ones((4, 6), bool)).tolist()
    [[0, 0], [0, 2], [0, 4], [2, 0], [2, 2], [2, 4]]
    """

    size: Mapping[str, int]
    per_sample: int | None = None
    overlap: Mapping[str, int] | int = 0
    periodic: Sequence[str] | str = ()
    min_valid: float = 0.0
    margin: Mapping[str, int] | int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", {str(d): int(n) for d, n in self.size.items()})
        object.__setattr__(
            self, "periodic", (self.periodic,) if isinstance(self.periodic, str) else tuple(self.periodic)
        )
        for what in ("overlap", "margin"):
            value = getattr(self, what)
            by_dim = dict(value) if isinstance(value, Mapping) else {d: value for d in self.size}
            object.__setattr__(self, what, {d: int(by_dim.get(d, 0)) for d in self.size})
            _refuse_names(by_dim, self.size, what)
        wrong: tuple[str, str, object] | None = None
        if not self.size or min(self.size.values()) < 1:
            wrong = "size", "one cell or more along each dimension that is cut", dict(self.size)
        elif self.per_sample is not None and self.per_sample < 1:
            wrong = "per_sample", ">= 1, or None for tiles", self.per_sample
        elif self.per_sample is not None and any(self.overlap.values()):  # type: ignore[union-attr]
            wrong = "overlap", "none: patches drawn at random overlap as they fall", self.overlap
        elif any(not 0 <= o < self.size[d] for d, o in self.overlap.items()):  # type: ignore[union-attr]
            wrong = "overlap", f"at least 0 and less than the size {self.size}", self.overlap
        elif any(not 0 <= 2 * m < self.size[d] for d, m in self.margin.items()):  # type: ignore[union-attr]
            wrong = "margin", f"at least 0 and less than half of the size {self.size}", self.margin
        elif not 0 <= self.min_valid <= 1:
            wrong = "min_valid", "0 to 1", self.min_valid
        if wrong:
            what, expected, received = wrong
            raise ValueError(
                describe(
                    f"Patches: {what} does not fit", expected=expected, received=received, remedy=f"correct {what}"
                )
            )

    @property
    def random(self) -> bool:
        """Whether patches are drawn anew for every sample."""
        return self.per_sample is not None

    def shape(self, space: Sequence[str], shape: Sequence[int]) -> tuple[int, ...]:
        """Return the cells of a patch along every space dimension of a map.

        Raises
        ------
        ValueError
            For dimensions the map does not have, and patches larger than the map.
        """
        _refuse_names(self.size, space, "size")
        _refuse_names(self.periodic, space, "periodic")
        sizes = tuple(self.size.get(d, n) for d, n in zip(space, shape, strict=True))
        large = {d: (p, n) for d, p, n in zip(space, sizes, shape, strict=True) if p > n}
        if large:
            raise ValueError(
                describe(
                    "Patches are larger than the map",
                    expected=f"at most { ({d: n for d, (_, n) in large.items()}) } cells",
                    received={d: p for d, (p, _) in large.items()},
                    remedy="use smaller patches, or leave the dimension whole",
                )
            )
        return sizes

    def origins(self, space: Sequence[str], valid: np.ndarray) -> np.ndarray:
        """Return the first cells of all patches that may be used, ``[patch, dimension]``.

        Parameters
        ----------
        space
            Names of the space dimensions.
        valid
            Valid cells ``[*space]``.

        Raises
        ------
        ValueError
            Where no patch has enough valid cells.
        """
        size = self.shape(space, valid.shape)
        axes = [self._starts(d, n, s) for d, n, s in zip(space, valid.shape, size, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(space))
        if self.min_valid == 0:
            return grid
        counts = self._counts(space, valid, size)[tuple(grid.T)]
        enough = counts >= self.min_valid * np.prod(size) - 1e-9
        if not enough.any():
            raise ValueError(
                describe(
                    "Patches: no patch has enough valid cells",
                    expected=f"min_valid={self.min_valid:g} of {int(np.prod(size))} cells",
                    received=f"{counts.max() / np.prod(size):.2g} at best",
                    remedy="use smaller patches or a smaller min_valid",
                )
            )
        return grid[enough]

    def _starts(self, dim: str, n: int, size: int) -> np.ndarray:
        if size == n:
            return np.arange(n) if self.random and dim in self.periodic else np.array([0])
        wraps = dim in self.periodic
        if self.random:
            return np.arange(n if wraps else n - size + 1)
        step = size - self.overlap.get(dim, 0)  # type: ignore[union-attr]
        if wraps:
            return np.arange(0, n, step)
        starts = np.arange(0, n - size + 1, step)
        # The last tile ends where the map does, and overlaps its neighbour by more than was asked.
        return starts if starts[-1] + size == n else np.append(starts, n - size)

    def _counts(self, space: Sequence[str], valid: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Return the valid cells of the patch at every origin, from a summed-area table."""
        counts = valid.astype("int64")
        for axis, (dim, s) in enumerate(zip(space, size, strict=True)):
            n = valid.shape[axis]
            if dim in self.periodic:
                counts = np.concatenate([counts, np.take(counts, np.arange(s - 1), axis=axis)], axis=axis)
            table = np.insert(np.cumsum(counts, axis=axis), 0, 0, axis=axis)
            m = table.shape[axis] - s
            counts = np.take(table, np.arange(s, s + m), axis=axis) - np.take(table, np.arange(m), axis=axis)
            counts = np.take(counts, np.arange(min(m, n)), axis=axis)
        return counts

    def weight(
        self, space: Sequence[str], shape: Sequence[int], origin: Sequence[int], full: Sequence[int]
    ) -> np.ndarray:
        """Return 1 inside and 0 in the margin of a patch ``[*patch]``; ends of the map have no margin."""
        inside = np.ones(tuple(shape))
        for axis, (dim, size, start, n) in enumerate(zip(space, shape, origin, full, strict=True)):
            m = self.margin.get(dim, 0)  # type: ignore[union-attr]
            if m == 0 or size == n:
                continue
            at: list[slice] = [slice(None)] * len(shape)
            if start > 0 or dim in self.periodic:
                at[axis] = slice(0, m)
                inside[tuple(at)] = 0
            if start + size < n or dim in self.periodic:
                at[axis] = slice(size - m, size)
                inside[tuple(at)] = 0
        return inside


def cuts(origin: Sequence[int], size: Sequence[int], full: Sequence[int]) -> Iterator[Cut]:
    """Yield the pieces of a patch; one across a seam comes in two.

    Examples
    --------
    >>> [(a[0], b[0]) for a, b in cuts([4], [3], [6])]
    [(slice(0, 2, None), slice(4, 6, None)), (slice(2, 3, None), slice(0, 1, None))]
    """
    if not size:
        yield (), ()
        return
    first, n, s = int(origin[0]), int(full[0]), int(size[0])
    head = min(s, n - first)
    along = [(slice(0, head), slice(first, first + head))]
    if head < s:
        along.append((slice(head, s), slice(0, s - head)))
    for inner in cuts(origin[1:], size[1:], full[1:]):
        for a, b in along:
            yield (a, *inner[0]), (b, *inner[1])


def _refuse_names(
    names: Sequence[str] | Mapping[str, int], known: Sequence[str] | Mapping[str, int], what: str
) -> None:
    strange = [d for d in names if d not in known]
    if strange:
        raise ValueError(
            describe(
                f"Patches: {what} names {strange[0]!r}, which is not cut{closest(strange[0], known)}",
                expected=f"among {tuple(known)}",
                received=repr(strange[0]),
                remedy=f"correct {what}",
            )
        )
