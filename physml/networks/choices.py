"""What a builder is told, checked: activations by name, shares, counts, sizes by dimension, boundaries on a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from physml._errors import closest, is_count, refuse
from physml.layout import Layout
from physml.networks.padding import boundaries, check_poles

CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}
ACTIVATIONS = (
    "linear tanh relu sigmoid leaky_relu swish silu gelu elu softmax selu softplus softsign exponential mish relu6 "
    "hard_sigmoid hard_silu hard_tanh celu log_sigmoid log_softmax squareplus".split()
)
"""Activations by name. ``leaky_relu`` has the slope 0.2; ``swish`` is ``silu``; ``softmax`` is over the channels."""


def activation(name: str, what: str = "activation") -> str:
    """Return the name of an activation.

    Raises
    ------
    ValueError
        For unknown names; the nearest is offered.

    Examples
    --------
    >>> activation("swish")
    'swish'
    """
    if name not in ACTIVATIONS:
        refuse(
            f"unknown {what} {name!r}{closest(str(name), ACTIVATIONS)}",
            f"one of {', '.join(ACTIVATIONS)}",
            repr(name),
            f"{what}='relu'",
        )
    return name


def share(value: float, what: str = "dropout") -> float:
    """Return a share in [0, 1).

    Raises
    ------
    ValueError
        For numbers outside.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        refuse(f"{what} is no share", "0 <= share < 1", value, f"{what}=0.1")
    return float(value)


def decay(weight: float) -> Any:
    """Return the regulariser that adds ``weight * sum(kernel ** 2)`` to the loss, or None for 0.

    This is the L2 penalty. Under Adam it is not the decay of weights decoupled from the gradient (Loshchilov and Hutter 2019,
    doi:10.48550/arXiv.1711.05101), which belongs to the optimizer: ``keras.optimizers.AdamW(weight_decay=...)``.

    Raises
    ------
    ValueError
        For negative weights.
    """
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight < float("inf"):
        refuse("weight_decay is no weight", "a number >= 0", weight, "weight_decay=1e-4")
    return keras.regularizers.L2(float(weight)) if weight else None


def count(value: Any, what: str, least: int = 1) -> int:
    """Return a whole number of at least *least*.

    Raises
    ------
    ValueError
        For anything else.
    """
    if not is_count(value, least):
        refuse(f"{what} is no count", f"a whole number >= {least}", value, f"{what}={max(least, 2)}")
    return int(value)


def counts(values: Any, what: str, least: int = 1) -> tuple[int, ...]:
    """Return a sequence of whole numbers; one alone is a sequence of one."""
    return tuple(count(v, what, least) for v in (values if isinstance(values, list | tuple) else (values,)))


def per_dimension(value: Any, space: Sequence[str], what: str, *, odd: bool = False) -> tuple[int, ...]:
    """Return a whole number for every space dimension: of all, in their order, or by name.

    Raises
    ------
    ValueError
        For numbers that are no counts, even ones where they must be odd, and other dimensions.

    Examples
    --------
    >>> per_dimension({"lat": 3, "lon": 5}, ("lat", "lon"), "kernel_size", odd=True)
    (3, 5)
    """
    if isinstance(value, Mapping):
        unknown = [d for d in value if d not in space]
        if set(value) != set(space):
            hint = closest(str(unknown[0]), space) if unknown else ""
            refuse(
                f"{what} names other dimensions{hint}",
                f"a size for each of {tuple(space)}",
                dict(value),
                f"{what}=3 for all",
            )
        value = [value[d] for d in space]
    sizes = list(value) if isinstance(value, list | tuple) else [value] * len(space)
    if len(sizes) != len(space) or not all(is_count(n) for n in sizes) or (odd and any(n % 2 == 0 for n in sizes)):
        expected = f"a whole number >= 1 for each of {tuple(space)}" + (" and odd kernels" if odd else "")
        refuse(f"{what} does not fit", expected, value, "use 3, 5 or 7" if odd else f"{what}=2")
    return tuple(int(n) for n in sizes)


def choice(value: Any, what: str, known: Sequence[str]) -> str:
    """Return one of the words that are known.

    Raises
    ------
    ValueError
        For others; the nearest is offered.
    """
    if value not in known:
        refuse(
            f"unknown {what} {value!r}{closest(str(value), known)}",
            f"one of {tuple(known)}",
            repr(value),
            f"{what}={known[0]!r}",
        )
    return str(value)


def start_of(layout: Layout, any_size: bool = False) -> Any:
    """Return the input of a network ``[batch, *space, input channel]``."""
    return keras.Input((*((None,) * len(layout.shape) if any_size else layout.shape), len(layout.inputs)))


def outputs_of(layout: Layout, outputs: int | None) -> int:
    """Return the number of output channels: those said, or the targets of the layout.

    Raises
    ------
    ValueError
        Where what is said is no count.
    """
    return len(layout.targets) if outputs is None else count(outputs, "outputs")


def ends_on(layout: Layout, boundary: Mapping[str, str], any_size: bool, what: str) -> tuple[str, ...]:
    """Return the boundaries of the space dimensions of a layout.

    Raises
    ------
    ValueError
        For boundaries that do not fit the grid, and grids of none or more than three dimensions.
    """
    ends = boundaries(boundary, layout.space)
    if len(layout.space) not in CONVOLUTIONS:
        remedy = "name further dimensions in levels or members; mlp takes samples without space"
        refuse(f"{what} cannot be built", "one to three space dimensions", f"space {layout.space}", remedy)
    check_poles(ends, layout.space, layout.shape, layout.statics.coords)
    if any_size and "pole" in ends:
        remedy = "any_size=False, or close the latitude"
        refuse(
            "a part of the sphere has no pole",
            "maps of the whole grid, where a boundary is 'pole'",
            "any_size=True",
            remedy,
        )
    return ends
