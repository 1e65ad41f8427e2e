"""Finite volumes on the wet cells of a grid: areas, and how easily something diffuses from a cell to its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse

from physml._errors import refuse
from physml.assimilation.errors.domain import Domain
from physml.grid import EARTH_RADIUS


@dataclass(frozen=True, eq=False)
class Mesh:
    """Wet cells and the faces between them; nothing passes a face of land or of the edge of the grid."""

    area: np.ndarray
    """Of the cells ``[cells]`` [m2]."""
    ends: np.ndarray
    """Cells on both sides of the faces ``[2, faces]``."""
    ratio: np.ndarray
    """Length of the faces over the distance of the two centres ``[faces]``."""
    row: np.ndarray
    column: np.ndarray
    """Of the cells in the grid ``[cells]``."""
    spacing: np.ndarray
    """Distance between the columns in each row of the grid [m]."""
    row_spacing: float
    """Least distance between the rows [m]."""
    shape: tuple[int, int]
    closes: tuple[bool, bool]
    """Whether the first and the last row, and column, are neighbours."""

    @cached_property
    def difference(self) -> Any:
        """Differences across the faces, sparse ``[faces, cells]``."""
        faces = np.arange(self.ratio.size)
        signs = np.repeat([1.0, -1.0], faces.size)
        return scipy.sparse.csr_array(
            (signs, (np.tile(faces, 2), self.ends.ravel())), shape=(faces.size, self.area.size)
        )

    def laplacian(self, square: np.ndarray) -> Any:
        """Return minus the integral over cells of div(square grad), square ``[faces]``: sparse, symmetric, not negative."""
        w, (i, j), n = self.ratio * square, self.ends, self.area.size
        rows, columns, values = np.r_[i, j, i, j], np.r_[j, i, i, j], np.r_[-w, -w, w, w]
        return scipy.sparse.coo_array((values, (rows, columns)), shape=(n, n)).tocsc()


def sphere(domain: Domain) -> Mesh:
    """Return the mesh of a grid of latitude and longitude, with the true metric of the sphere."""
    lat, lon = np.deg2rad(domain.latitude), np.deg2rad(domain.longitude)
    for name, axis in (("latitude", lat), ("longitude", lon)):
        steps = np.diff(axis)
        if not steps.size or not ((steps > 0).all() or (steps < 0).all()):
            refuse(f"Diffusion: {name} is not in order", "ascending or descending", f"{axis.size} points", "sort it")
    edges = [np.clip(_edges(lat), -np.pi / 2, np.pi / 2), _edges(lon)]
    if domain.periodic:
        around = np.sign(lon[-1] - lon[0]) * 2 * np.pi
        between = (lon + np.roll(lon, -1)) / 2
        between[-1] = (lon[-1] + lon[0] + around) / 2
        edges[1] = np.r_[between[-1] - around, between]
    sines, height, width = np.abs(np.diff(np.sin(edges[0]))), np.abs(np.diff(edges[0])), np.abs(np.diff(edges[1]))
    # Mean cosine of the row: not zero in a row that is centred on a pole.
    cosine = sines / height
    area = EARTH_RADIUS**2 * sines[:, None] * width
    east = np.abs(np.diff(lon, append=lon[0] + (np.sign(lon[-1] - lon[0]) * 2 * np.pi)))
    to_east = height[:, None] / (cosine[:, None] * east)
    # At a pole the face between a row and what lies beyond has no length, and there is none.
    to_north = np.cos(edges[0][1:-1])[:, None] * width / np.abs(np.diff(lat))[:, None]
    spacing = EARTH_RADIUS * cosine * east[:-1].min()
    rows = EARTH_RADIUS * np.abs(np.diff(lat)).min()
    return _mesh(domain, area, to_east, to_north, (False, bool(domain.periodic)), spacing, rows)


def plane(domain: Domain, spacing: tuple[float, float], periodic: tuple[bool, bool]) -> Mesh:
    """Return the mesh of a regular plane grid; *periodic*: whether the first and the last row, and column, are neighbours."""
    dy, dx = (float(d) for d in spacing)
    area, ones = np.full(domain.shape, dx * dy), np.ones(domain.shape)
    return _mesh(domain, area, ones * dy / dx, ones * dx / dy, periodic, np.full(domain.shape[0], dx), dy)


def _edges(centres: np.ndarray) -> np.ndarray:
    middle = (centres[1:] + centres[:-1]) / 2
    return np.r_[2 * centres[0] - middle[0], middle, 2 * centres[-1] - middle[-1]]


def _mesh(
    domain: Domain,
    area: np.ndarray,
    to_east: np.ndarray,
    to_north: np.ndarray,
    periodic: tuple[bool, bool],
    spacing: np.ndarray,
    row_spacing: float,
) -> Mesh:
    wet, ny, nx = domain.mask, *domain.shape
    number = domain.slot.reshape(ny, nx)
    ends, ratios = [], []
    for axis, ratio, closes in ((1, to_east, periodic[1]), (0, to_north, periodic[0])):
        there, beyond = np.roll(wet, -1, axis), np.roll(number, -1, axis)
        open_face = wet & there
        # A dimension of two cells would have two faces between the same cells, which add up.
        if not closes:
            open_face[(slice(None),) * axis + (-1,)] = False
        ends.append(np.stack([number[open_face], beyond[open_face]]))
        full = ratio if ratio.shape == wet.shape else np.concatenate([ratio, ratio[:1]], axis=0)
        ratios.append(full[open_face])
    row, column = np.nonzero(wet)
    faces = np.concatenate(ends, axis=1).astype("int64")
    return Mesh(area[wet], faces, np.concatenate(ratios), row, column, spacing, row_spacing, (ny, nx), periodic)
