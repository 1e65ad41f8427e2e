"""From maps to one vector: convolutions with pooling and dense layers, for targets without space dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from physml._errors import refuse
from physml.layout import Layout
from physml.networks.blocks import Blocks, choice, counts

GATHERS = ("flatten", "average", "max")
"""All cells; their average; the greatest value of each channel."""


def check_circles(what: str, layout: Layout, ends: Sequence[str], steps: Sequence[int], size: Sequence[int]) -> None:
    """Refuse pooling that leaves a map too small, or does not divide a circle or the way from pole to pole.

    Parameters
    ----------
    what
        Name of the builder.
    layout, ends
        The grid and the boundary of every space dimension.
    steps
        Cells pooled to one, level after level.
    size
        Odd sizes of the stencils.

    Raises
    ------
    ValueError
        Naming the dimension and its size.
    """
    for dim, cells, end, width in zip(layout.space, layout.shape, ends, size, strict=True):
        n = cells
        for step in steps:
            if end in ("periodic", "pole") and n % step:
                remedy = f"pool by divisors of {n}, or fewer times; or another boundary"
                refuse(f"{what}: pooling does not divide {dim!r}, whose ends meet", f"a multiple of {step} cells", f"{n} of {cells} cells", remedy)  # fmt: skip
            n = -(-n // step)
            if "pole" in ends and end == "periodic" and n % 2:
                refuse(f"{what}: pooling leaves an odd number of {dim!r}", "an even one at every level: half of it lies opposite, across the poles", f"{n} of {cells} cells", "pool less, or close the latitude")  # fmt: skip
            least = width // 2 if end in ("periodic", "pole") else 1
            if n < max(least, 1) or (n == 1 and cells == 1 and step > 1):
                refuse(f"{what}: the grid is too small for its pooling", f"at least {max(least, 1)} cells of {dim!r} at the coarsest level", f"{n} of {cells} cells", "pool less")  # fmt: skip


def dense_end(blocks: Blocks, x: Any, gather: str, dense: Sequence[int], channels: int, final: str) -> Any:
    """Return ``[batch, channels]`` of maps: gathered, and through dense layers; the last starts at zero."""
    x = blocks.gather(x, gather)
    for units in counts(dense, "dense"):
        x = blocks.dense(x, units)
    return blocks.answer(x, channels, final)


def pooled(
    start: Any,
    x: Any,
    made: Blocks,
    layout: Layout,
    *,
    filters: Sequence[int],
    blocks: int,
    sizes: tuple[Sequence[int], Sequence[int]],
    pooling: Any,
    pool: str,
    gather: str,
    dense: Sequence[int],
    channels: int,
    final: str,
    any_size: bool,
) -> keras.Model:
    """Return convolutions and pooling, level after level, and dense layers; see :func:`physml.networks.cnn`."""
    if not layout.series:
        refuse("cnn: pooling leaves the grid of the targets", "targets without space dimensions", f"targets on {layout.space}", "pooling=None, or networks.unet, which comes back to the grid")  # fmt: skip
    choice(pool, "pool", ("max", "average"))
    choice(gather, "gather", GATHERS)
    if gather == "flatten" and any_size:
        refuse(
            "cnn: maps of any size have no fixed number of cells",
            "gather='average' or 'max'",
            gather,
            "gather='average'",
        )
    steps = counts(pooling, "pooling")
    steps = steps * len(filters) if len(steps) == 1 else steps
    if len(steps) != len(filters):
        refuse(
            "cnn: pooling does not fit the levels",
            f"one number, or one for each of {len(filters)} levels",
            pooling,
            "pooling=2",
        )
    check_circles("cnn", layout, made.ends, steps, sizes[1])
    size = sizes[0]
    for width, step in zip(filters, steps, strict=True):
        for _ in range(blocks):
            x = made.block(x, width, size)
            size = sizes[1]
        x = made.pool(x, (step,) * len(made.ends), pool)
    return keras.Model(start, dense_end(made, x, gather, dense, channels, final), name="cnn")
