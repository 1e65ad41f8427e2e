"""Exact diagonals of the inverse of a diffusion operator and of its powers, without the inverse.

With F_k = A^-1 (D A^-1)^(k-1), the inverse of A + t D is the series sum over k of (-t)^(k-1) F_k. Its diagonal blocks follow from
two sweeps over the lines of a grid, where A is block tridiagonal (Takahashi's way, in blocks): forward S_i = T_i - C_i^T S_(i-1)^-1
C_i, and R_i the same from the other end; then the block of line i is (S_i + R_i - T_i)^-1. The sweeps carry the first terms of the
series, so that one pass gives the diagonals of all F_k wanted.

A large grid is cut into tiles with a margin. What lies beyond a distance d changes a variance by the correlation at 2 d, so that a
margin of eight scales l leaves some 1e-6 of it.

References
----------
Erisman, A. M. and Tinney, W. F. (1975), On computing certain elements of the inverse of a sparse matrix,
doi:10.1145/360680.360704.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

MARGIN = 8.0
"""Width of the margin of a tile, in scales l = length / sqrt(2 nu)."""


def chain_diagonals(mesh: Any, matrix: Any, reach: float, count: int) -> np.ndarray:
    """Return the diagonals of F_1 to F_count, ``[count, cells]``.

    Parameters
    ----------
    mesh
        With area D, row and column of each cell, and the distances between rows and columns [m].
    matrix
        A, sparse, connecting neighbours in the grid.
    reach
        The largest scale l [m].
    """
    out = np.zeros((count, mesh.area.size))
    ny, nx = mesh.shape
    number = np.full((ny, nx), -1, "int64")
    number[mesh.row, mesh.column] = np.arange(mesh.area.size)
    rows_margin = int(np.ceil(MARGIN * reach / mesh.row_spacing))
    for rows, wide_rows in _pieces(ny, rows_margin, mesh.closes[0]):
        margin = int(np.ceil(MARGIN * reach / mesh.spacing[wide_rows].min()))
        for columns, wide_columns in _pieces(nx, margin, mesh.closes[1]):
            cells = number[wide_rows][:, wide_columns]
            core = np.zeros(cells.shape, bool)
            core[np.ix_(np.isin(wide_rows, rows), np.isin(wide_columns, columns))] = True
            there = cells >= 0
            if not (core & there).any():
                continue
            whole = (len(wide_rows) == ny, len(wide_columns) == nx)
            line = _lines(cells.shape, [a and b for a, b in zip(mesh.closes, whole, strict=True)])
            order = np.argsort(line[there], kind="stable")
            chosen, kept = cells[there][order], core[there][order]
            values = _tridiagonal(matrix[chosen][:, chosen].tocsr(), mesh.area[chosen], line[there][order], count)
            out[:, chosen[kept]] = values[:, kept]
    return out


def _pieces(size: int, margin: int, periodic: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield parts of a dimension and the same with a margin on both sides, where there is so much."""
    width = max(2 * margin, 16)
    if width + 2 * margin >= size:
        yield np.arange(size), np.arange(size)
        return
    for start in range(0, size, width):
        part = np.arange(start, min(start + width, size))
        wide = np.arange(start - margin, part[-1] + 1 + margin)
        yield part, wide % size if periodic else wide[(wide >= 0) & (wide < size)]


def _lines(shape: tuple[int, int], closes: list[bool]) -> np.ndarray:
    """Return a number for every cell such that neighbours differ by one at most, with few cells of each number."""
    # A closed dimension is folded: its lines are taken two by two from where it is cut.
    lines, sizes = [], []
    for axis, closed in enumerate(closes):
        line = np.indices(shape)[axis]
        lines.append(np.minimum(line, shape[axis] - 1 - line) if closed else line)
        sizes.append(shape[1 - axis] * (2 if closed else 1))
    return lines[int(np.argmin(sizes))]


def _tridiagonal(matrix: Any, area: np.ndarray, line: np.ndarray, count: int) -> np.ndarray:
    """Return the diagonals of F_1 to F_count of a block tridiagonal matrix whose cells are sorted by line."""
    starts = np.flatnonzero(np.r_[True, np.diff(line) != 0])
    ends = np.r_[starts[1:], line.size]
    parts = [slice(i, j) for i, j in zip(starts, ends, strict=True)]
    blocks = [matrix[p][:, p].toarray() for p in parts]
    # Lines that a strip of land parts are not coupled: the product below is then zero.
    couplings = [matrix[p][:, q] for p, q in itertools.pairwise(parts)]

    def sweep(order: list[int], coupling: Any) -> dict[int, list[np.ndarray]]:
        """Return S_i as a series in t for each line."""
        found: dict[int, list[np.ndarray]] = {}
        inverse: list[np.ndarray] = []
        for place, i in enumerate(order):
            series = [blocks[i].copy(), np.diag(area[parts[i]])][:count]
            series += [np.zeros_like(blocks[i]) for _ in range(count - len(series))]
            if place:
                c = coupling(i)
                for term, known in zip(series, inverse, strict=True):
                    term -= c @ (c @ known.T).T
            found[i] = series
            if place + 1 < len(order):
                inverse = _inverse(series)
        return found

    lines = range(len(parts))
    down = sweep(list(lines), lambda i: couplings[i - 1].T.tocsr())
    up = sweep(list(reversed(lines)), lambda i: couplings[i])
    out = np.empty((count, line.size))
    for i, part in enumerate(parts):
        total = [s + r for s, r in zip(down.pop(i), up.pop(i), strict=True)]
        total[0] -= blocks[i]
        if count > 1:
            total[1][np.diag_indices(len(blocks[i]))] -= area[part]
        diagonals = _inverse_diagonals(total)
        out[:, part] = diagonals * (-1.0) ** np.arange(count)[:, None]
    return out


def _inverse(series: list[np.ndarray]) -> list[np.ndarray]:
    """Return the inverse of a matrix that is a power series, to the same order."""
    first = np.linalg.inv(series[0])
    out = [first]
    for k in range(1, len(series)):
        out.append(-first @ sum(series[j] @ out[k - j] for j in range(1, k + 1)))
    return out


def _inverse_diagonals(series: list[np.ndarray]) -> np.ndarray:
    """Return the diagonals of the inverse of a series; the last term costs no full product."""
    inverse = _inverse(series[:-1] if len(series) > 1 else series)
    out = [np.diag(m) for m in inverse]
    if len(series) > 1:
        k = len(series) - 1
        rest = sum(series[j] @ inverse[k - j] for j in range(1, k + 1))
        out.append(-np.einsum("ij,ji->i", inverse[0], rest))
    return np.stack(out)
