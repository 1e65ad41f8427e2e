"""Groups: the players of the game, named sets of input cells that together are every valid input.

A group is a choice of channels (variable, lag, level) times a choice of cells (region, box, coordinates, patch). Groups are
true players: all cells of a group are present, or absent, together, so that an interaction inside a group is the group's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from physml.explain.players._players import Groups as Groups
from physml.explain.players._product import product, splits
from physml.explain.players._selecting import box_cells as box_cells
from physml.explain.players._selecting import layout_of, light
from physml.explain.players._selecting import locate as locate
from physml.explain.players._selecting import nearest_cell as nearest_cell
from physml.explain.players._selecting import region_cells as region_cells
from physml.explain.players._selecting import space_coordinate as space_coordinate
from physml.explain.players._splitting import Choice, Edges

if TYPE_CHECKING:
    from physml.fields import FieldSpec


def groups(
    source: Any,
    variable: Choice = True,
    lag: Choice = None,
    level: Choice = None,
    region: Any = None,
    box: Mapping[str, Mapping[str, slice]] | None = None,
    rest: str | None = None,
    *,
    coordinates: Mapping[str, Edges] | None = None,
    patches: Mapping[str, int] | None = None,
    cells: bool = False,
    spec: FieldSpec | None = None,
) -> Groups:
    """Return the product of the choices given, as players of a game.

    Parameters
    ----------
    source
        Layout of the inputs: a FieldModel, a Layout (``spec.bind(ds)``), or a Dataset with *spec*.
    variable
        True: one group for each input variable. ``{"currents": ["u", "v"], ...}``: these. None: not split by variable.
    lag
        True: one group for each input offset. ``{"today": [0], "before": [-2, -1]}``: these offsets [steps].
    level
        True: one group for each level. ``{"upper": slice(0, 100), "deep": [500.0, 1000.0]}``: these labels. Variables
        without levels stay apart.
    region
        Boolean fields over space by name; or one field that tells regions apart: integers, named by the CF attributes
        ``flag_values`` and ``flag_meanings`` where they are there, names, or booleans along a dimension of regions; or
        outlines, ``regionmask.Regions``. Missing values and values without a flag lie in no region.
    box
        Coordinate ranges by name, both ends included: ``{"tropics": dict(lat=slice(-20, 20))}``. A range of longitudes
        may cross the date line or Greenwich.
    rest
        Name of the region outside all of *region* and *box*.
    coordinates
        Parts along each coordinate of space or dimension of levels, and their product: edges
        ``{"lat": [-90, -30, 30, 90]}``, where an edge belongs to the part above it, the last to the last part; slices by name
        ``{"lat": {"south": slice(-90, -30), ...}}``, both ends included; or True, every value.
    patches
        Cells along each dimension of space that make one player: ``{"lat": 3, "lon": 4}``; the last patch may be smaller.
    cells
        Every valid cell of space a player; with ``variable=None`` all channels of a cell are one player.
    spec
        For a Dataset: what the model reads.

    Returns
    -------
    Groups
        Named ``"variable, lag, level, region, coordinates, patch"``, as far as these are split; combinations without a valid
        cell are left out.

    Raises
    ------
    KeyError
        For unknown variables and coordinates; the nearest name is offered.
    ValueError
        Where groups overlap, leave a valid cell out, or select nothing.
    TypeError
        For a Dataset without *spec*, and for regions that are no masks.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> from physml.fields import FieldSpec
    >>> ds = xr.Dataset({n: (("time", "lat"), np.ones((3, 4))) for n in "uv"}, {"lat": [-30.0, -10.0, 10.0, 30.0]})
    >>> spec = FieldSpec(inputs=["u", "v"], targets="u")
    >>> groups(ds, box={"south": {"lat": slice(-90, 0)}, "north": {"lat": slice(0, 90)}}, spec=spec).names
    ('u, south', 'u, north', 'v, south', 'v, north')
    >>> groups(ds, variable=None, patches={"lat": 2}, spec=spec).names
    ('lat -30 to -10', 'lat 10 to 30')
    """
    layout = layout_of(source, spec)
    cuts = splits(layout, variable, lag, level, region, box, rest, coordinates, patches, cells)
    names, owner, parts = product(layout, cuts, layout.valid("inputs"))
    return Groups(names, owner, parts, light(layout))
