"""Exact diagonals of the inverse of a diffusion operator and of its powers, without the inverse.

With F_k = A^-1 (D A^-1)^(k-1), the inverse of A + t D is the series sum over k of (-t)^(k-1) F_k. Its entries on the pattern of
the factor of A follow from that factor alone (Takahashi's equations). Both are done here by nested dissection in dense blocks, for
the first terms of the series at once: a line of cells parts the others into two that do not touch, and so on. With s such a line
(or a last patch of cells), u the cells around what it parts, and M the matrix after all within is eliminated,

    up:    W = M_ss^-1,   G = W M_su,   M_uu - M_us G goes to the next larger part;
    down:  Z_su = -G Z_uu,   Z_ss = W - Z_su G^T,   with Z_uu, entries of the inverse, from there.

The work grows as n^(3/2).

References
----------
Erisman, A. M. and Tinney, W. F. (1975), On computing certain elements of the inverse of a sparse matrix,
doi:10.1145/360680.360704.
George, A. (1973), Nested dissection of a regular finite element mesh, doi:10.1137/0710032.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.linalg.lapack
from threadpoolctl import threadpool_limits

PATCH = 120
"""Number of cells that are not parted further."""

HELD = 50_000
"""Number of cells whose blocks are held at once."""


@dataclass(eq=False)
class _Part:
    """A line s of cells, and the parts it parts."""

    cells: np.ndarray
    children: list[_Part] = field(default_factory=list)
    around: Any = None
    inverse: Any = None
    gain: Any = None


def chain_diagonals(mesh: Any, matrix: Any, count: int) -> np.ndarray:
    """Return the diagonals of F_1 to F_count, ``[count, cells]``.

    Parameters
    ----------
    mesh
        With the area D, row and column of each cell, and whether rows and columns close.
    matrix
        A, sparse and symmetric, connecting neighbours in the grid.
    """
    at = np.stack([mesh.row, mesh.column])
    rest, first = np.arange(mesh.area.size), []
    for axis, closed in enumerate(mesh.closes):
        if closed:
            # One line across a closed dimension opens it.
            cut = at[axis, rest] == 0
            first.append(rest[cut])
            rest = rest[~cut]
    tree = _dissect(rest, at)
    for line in reversed(first):
        tree = _Part(line, [tree])
    order = _postorder(tree)
    position = np.empty(mesh.area.size, "int64")
    position[np.concatenate([p.cells for p in order])] = np.arange(mesh.area.size)
    work = _Elimination(matrix.tocsr(), mesh.area, position, count)
    out = np.empty((count, mesh.area.size))
    # Thousands of small products: threads that wait for each other make them forty times slower on a busy machine.
    with threadpool_limits(limits=1, user_api="blas"):
        # What large parts hold within is forgotten on the way up and found again on the way down: less memory, some more work.
        for head in _heads(tree):
            inside = _postorder(head)
            work.up(inside)
            for part in inside:
                part.inverse = part.gain = None
        work.up([p for p in order if p.around is None])
        work.down(tree, out)
    return out * (-1.0) ** np.arange(count)[:, None]


def _heads(tree: _Part) -> list[_Part]:
    """Return the largest parts that hold at most :data:`HELD` cells."""
    size: dict[int, int] = {}
    for part in _postorder(tree):
        size[id(part)] = part.cells.size + sum(size[id(c)] for c in part.children)
    heads: list[_Part] = []
    stack = [tree] if size[id(tree)] > HELD else []
    while stack:
        part = stack.pop()
        if size[id(part)] <= HELD:
            heads.append(part)
        else:
            stack += part.children
    return heads


def _dissect(cells: np.ndarray, at: np.ndarray) -> _Part:
    """Return a tree of parts of *cells*, whose rows and columns are ``at [2, all]``."""
    if cells.size <= PATCH:
        return _Part(cells)
    places = at[:, cells]
    along = places[int(np.argmax(np.ptp(places, axis=1)))]
    middle = int(np.median(along))
    sides = [_dissect(cells[side], at) for side in (along < middle, along > middle) if side.any()]
    return _Part(cells[along == middle], sides)


def _postorder(tree: _Part) -> list[_Part]:
    """Return all parts, children before parents."""
    out, stack = [], [tree]
    while stack:
        part = stack.pop()
        out.append(part)
        stack += part.children
    return out[::-1]


class _Elimination:
    """The two sweeps over the tree, for a matrix in the order *position* of its cells."""

    def __init__(self, matrix: Any, area: np.ndarray, position: np.ndarray, count: int) -> None:
        self.matrix, self.area, self.position, self.count = matrix, area, position, count
        self.updates: dict[int, list[np.ndarray]] = {}
        self.local = np.empty(area.size, "int64")

    def up(self, order: list[_Part]) -> None:
        """Give each part its ``around``, ``inverse`` W and ``gain`` G, children before parents."""
        position, local = self.position, self.local
        for part in order:
            s, size = part.cells, part.cells.size
            rows, start = self.matrix[s], position[s].min(initial=position.size)
            row, column, value = np.repeat(np.arange(size), np.diff(rows.indptr)), rows.indices, rows.data
            later = position[column] >= start
            row, column, value = row[later], column[later], value[later]
            outer = np.concatenate([column, *[c.around for c in part.children]])
            part.around = outer = np.setdiff1d(outer, s)
            front = np.concatenate([s, outer])
            local[front] = np.arange(front.size)
            series = [np.zeros((front.size, front.size)) for _ in range(self.count)]
            series[0][row, local[column]] = value
            far = local[column] >= size
            series[0][local[column[far]], row[far]] = value[far]
            if self.count > 1:
                series[1][np.arange(size), np.arange(size)] = self.area[s]
            for child in part.children:
                place = np.ix_(local[child.around], local[child.around])
                for term, update in zip(series, self.updates.pop(id(child)), strict=True):
                    term[place] += update
            # Copies, so that the whole front can be freed.
            part.inverse = _inverse([m[:size, :size] for m in series])
            across = [m[:size, size:] for m in series]
            part.gain = _product(part.inverse, across)
            lost = _product([a.T for a in across], part.gain)
            self.updates[id(part)] = [m[size:, size:] - x for m, x in zip(series, lost, strict=True)]

    def down(self, tree: _Part, out: np.ndarray) -> None:
        """Write the diagonals of the inverse, part after part from the whole down."""
        # With each part go the entries of the inverse among the cells of the part above and around it.
        stack: list[tuple[_Part, list[np.ndarray], np.ndarray]] = [(tree, [], np.empty(0, "int64"))]
        local = np.empty(out.shape[1], "int64")
        while stack:
            part, above, front = stack.pop()
            if part.inverse is None:
                self.up(_postorder(part))
            s = part.cells
            local[front] = np.arange(front.size)
            place = np.ix_(local[part.around], local[part.around])
            outer = [z[place] for z in above] or [np.empty((0, 0))] * len(out)
            cross = [-z for z in _product(part.gain, outer)]
            back = _product(cross, [g.T for g in part.gain])
            inner = [w - z for w, z in zip(part.inverse, back, strict=True)]
            out[:, s] = [np.diag(z) for z in inner]
            part.inverse = part.gain = None
            if part.children:
                whole = [np.block([[a, b], [b.T, c]]) for a, b, c in zip(inner, cross, outer, strict=True)]
                stack += [(c, whole, np.concatenate([s, part.around])) for c in part.children]


def _product(a: list[np.ndarray], b: list[np.ndarray]) -> list[np.ndarray]:
    """Return the product of two power series of matrices, to the same order."""
    return [sum(a[i] @ b[k - i] for i in range(k + 1)) for k in range(len(a))]


def _inverse(series: list[np.ndarray]) -> list[np.ndarray]:
    """Return the inverse of a symmetric positive power series, to the same order."""
    if not series[0].size:
        # A part may have nothing in it, of which LAPACK would complain on the screen.
        return series
    factor, _ = scipy.linalg.lapack.dpotrf(series[0], lower=1)
    half, _ = scipy.linalg.lapack.dpotri(factor, lower=1)
    first = np.tril(half) + np.tril(half, -1).T
    out = [first]
    for k in range(1, len(series)):
        out.append(-first @ sum(series[j] @ out[k - j] for j in range(1, k + 1)))
    return out
