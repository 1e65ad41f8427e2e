"""Leading patterns of rows that come block by block: exact where they fit into memory, else by random projections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

Rows = Callable[[], Iterator[np.ndarray]]


def patterns(
    rows: Rows, n: int, width: int, modes: int, memory: int, seed: int, passes: int = 4
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the leading right singular vectors ``[width, mode]``, the singular values and the sum of all squares.

    Parameters
    ----------
    rows
        Gives all rows, ``[row, width]`` float64, each time it is called.
    n, width, modes
        Number of rows, of columns, of patterns.
    memory
        Bytes up to which all rows are held, and the result is exact.
    seed, passes
        Beyond: random numbers, and how often the data are read twice more to sharpen the patterns (Halko, Martinsson and Tropp
        2011, doi:10.1137/090771806).

    Notes
    -----
    The sign is such that the largest entry of each pattern is positive.
    """
    if 8 * n * width <= memory:
        v, s, total = _exact(np.concatenate(list(rows())), modes)
    else:
        v, s, total = _random(rows, width, modes, seed, passes)
    sign = np.sign(v[np.abs(v).argmax(0), np.arange(v.shape[1])])
    return v * np.where(sign == 0, 1.0, sign), s, total


def _exact(x: np.ndarray, modes: int) -> tuple[np.ndarray, np.ndarray, float]:
    total = float(np.square(x).sum())
    tall = x.shape[0] > x.shape[1]
    values, vectors = np.linalg.eigh(x.T @ x if tall else x @ x.T)
    s = np.sqrt(np.maximum(values[::-1][:modes], 0))
    lead = vectors[:, ::-1][:, :modes]
    if tall:
        return lead, s, total
    v = x.T @ lead / np.where(s > 0, s, 1.0)
    return v, s, total


def _random(rows: Rows, width: int, modes: int, seed: int, passes: int) -> tuple[np.ndarray, np.ndarray, float]:
    start = np.random.default_rng(seed).normal(size=(width, min(width, modes + 10)))
    basis, _ = np.linalg.qr(start)
    total = 0.0
    for _ in range(passes):
        product, total = np.zeros_like(basis), 0.0
        for block in rows():
            product += block.T @ (block @ basis)
            total += float(np.square(block).sum())
        basis, _ = np.linalg.qr(product)
    small = np.zeros((basis.shape[1], basis.shape[1]))
    for block in rows():
        inner = block @ basis
        small += inner.T @ inner
    values, vectors = np.linalg.eigh(small)
    s = np.sqrt(np.maximum(values[::-1][:modes], 0))
    return basis @ vectors[:, ::-1][:, :modes], s, total
