"""Flows round a grid that is periodic in both dimensions: what no streamfunction of one value has.

A flow without divergence has such a streamfunction when as much water goes through a section along x one way as the other,
and along y likewise. Two more flows make up for the rest: loops through the water that close around the grid, spread over it
by the streamfunction that makes the sum of their squares least. They have no divergence and cross no coast, as exactly as
the streamfunction's.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csgraph, diags
from scipy.sparse.linalg import spsolve

from physml.constraints._cgrid import open_faces

Array = np.ndarray


def round_flows(wet: Array, coast: Array) -> Array:
    """Return the flows round y and round x, ``[2, (along y, along x), y, x]``; zero where land leaves no way.

    The first has a mean of 1 along y, over all faces and closed ones too, and of 0 along x; the second the other way round.
    Where land lets water round in one oblique direction alone, that flow stands in the place of its larger part.

    Parameters
    ----------
    wet
        Valid cells ``[y, x]`` of a grid periodic in both.
    coast
        From :func:`physml.constraints._coasts.corner_coasts`.
    """
    if wet.all():
        return np.eye(2)[:, :, None, None] * np.ones((2, 2, *wet.shape))
    found = np.zeros((2, 2, *wet.shape))
    loops = _loops(wet)
    if not loops:
        return found
    turns = sorted(loops, key=lambda t: (abs(t[0]) + abs(t[1]), -t[1], -t[0]))
    first = turns[0]
    second = min(
        (t for t in turns if first[0] * t[1] != first[1] * t[0]),
        key=lambda t: abs(first[0] * t[1] - first[1] * t[0]),
        default=None,
    )
    flows = {t: _spread(loops[t], coast) for t in (first, second) if t is not None}
    if second is None:
        place = int(abs(first[1]) > abs(first[0]))
        found[place] = flows[first] * (wet.shape[1 - place] / first[place])
        return found
    weights = np.linalg.inv(np.array([first, second], "float64"))
    for place in range(2):
        mixed = weights[place, 0] * flows[first] + weights[place, 1] * flows[second]
        found[place] = mixed * wet.shape[1 - place]
    return found


def _loops(wet: Array) -> dict[tuple[int, int], Array]:
    """Return unit flows ``[2, y, x]`` along loops through water, by how often they go round y and x."""
    index, opens = np.arange(wet.size).reshape(wet.shape), [open_faces(wet, axis, True) for axis in (0, 1)]
    here = np.concatenate([index[o] for o in opens])
    there = np.concatenate([np.roll(index, -1, axis)[o] for axis, o in enumerate(opens)])
    along = np.repeat([0, 1], [int(o.sum()) for o in opens])
    last = [np.arange(n) == n - 1 for n in wet.shape]
    seam = np.zeros((here.size, 2), "int64")
    seam[along == 0, 0] = last[0][here[along == 0] // wet.shape[1]]
    seam[along == 1, 1] = last[1][here[along == 1] % wet.shape[1]]
    graph = coo_matrix((np.ones(here.size), (here, there)), shape=(wet.size, wet.size)).tocsr()
    by_pair: dict[tuple[int, int], tuple[int, int]] = {}
    for f, (a, b) in enumerate(zip(here.tolist(), there.tolist(), strict=True)):
        by_pair.setdefault((a, b), (f, 1))
        by_pair.setdefault((b, a), (f, -1))
    parent, turns = np.full(wet.size, -1, "int64"), np.zeros((wet.size, 2), "int64")
    seen = np.zeros(wet.size, dtype=bool)
    for root in np.flatnonzero(wet):
        if seen[root]:
            continue
        order, before = csgraph.breadth_first_order(graph, root, directed=False)
        seen[order], parent[order] = True, before[order]
        for cell in order[1:].tolist():
            f, sign = by_pair[int(before[cell]), cell]
            turns[cell] = turns[before[cell]] + sign * seam[f]
    closing = turns[here] + seam - turns[there]
    found: dict[tuple[int, int], Array] = {}
    for f in np.flatnonzero(closing.any(axis=1)).tolist():
        turn = (int(closing[f, 0]), int(closing[f, 1]))
        if turn in found or (-turn[0], -turn[1]) in found:
            continue
        flow = np.zeros(here.size)
        flow[f] += 1
        for cell, way in ((int(here[f]), 1), (int(there[f]), -1)):
            while (up := int(parent[cell])) >= 0:  # from the root to the face and back
                g, sign = by_pair[up, cell]
                flow[g] += way * sign
                cell = up
        grid = np.zeros((2, wet.size))
        grid[along, here] = flow
        found[turn] = grid.reshape(2, *wet.shape)
    return found


def _spread(loop: Array, coast: Array) -> Array:
    """Return the flow of least squares that differs from *loop* by a streamfunction, constant on every coast."""
    shape, open_water = coast.shape, coast == 0
    unknowns = np.where(
        open_water, np.cumsum(open_water.reshape(-1)).reshape(shape) - 1, int(open_water.sum()) + coast - 2
    )
    psi = unknowns.reshape(-1)
    rows = np.arange(psi.size)
    parts = []
    for axis, turn in ((1, 1), (0, -1)):  # along y: psi less the one behind along x; along x: the other way round
        behind = np.roll(unknowns, 1, axis).reshape(-1)
        entries = np.concatenate([np.full(psi.size, turn), np.full(psi.size, -turn)])
        parts.append(coo_matrix((entries, (np.tile(rows, 2), np.concatenate([psi, behind])))).tocsr())
    n = int(unknowns.max()) + 1
    for part in parts:
        part.resize((psi.size, n))
    normal = sum(p.T @ p for p in parts) + diags(np.where(np.arange(n) == 0, 1.0, 0.0))  # of psi only differences count
    right = -sum(p.T @ flow.reshape(-1) for p, flow in zip(parts, loop, strict=True))
    values = np.atleast_1d(spsolve(normal.tocsc(), right))[unknowns]
    return loop + np.stack([values - np.roll(values, 1, 1), np.roll(values, 1, 0) - values])
