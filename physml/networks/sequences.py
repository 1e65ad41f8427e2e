"""The channels of a layout as a sequence over its input offsets, for networks that pass along time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from physml._errors import describe, refuse
from physml.calendar import virtual
from physml.layout import Layout
from physml.networks.padding import Pad
from physml.reach import Reach


def sequence(layout: Layout) -> np.ndarray:
    """Return the positions of the input channels as ``[step, feature]``, from the earliest offset to the latest.

    Inputs that vary in time stand at their offset. Those that do not, and parts of the date at one offset alone, are repeated
    at every step.

    Raises
    ------
    ValueError
        Where inputs that vary in time have different offsets.

    Examples
    --------
    >>> import xarray as xr
    >>> from physml import FieldSpec
    >>> ds = xr.Dataset({"a": ("time", np.zeros(4)), "b": ("time", np.zeros(4))}, {"time": np.arange(4)})
    >>> sequence(FieldSpec(["a", "b"], "a", input_offsets=(-1, 0), target_offsets=1).bind(ds)).tolist()
    [[0, 2], [1, 3]]
    """
    spec = layout.spec
    dated = set(virtual(spec.inputs, spec.sample_dim))
    offsets = {n: spec.offsets("inputs", n) for n in spec.inputs}
    varying = [n for n in spec.inputs if n not in dated and spec.sample_dim in layout.variables[n].dims]
    shared = offsets[(varying or list(spec.inputs))[0]]
    for name in spec.inputs:
        once = name not in varying and len(offsets[name]) == 1
        if offsets[name] != shared and not once:
            raise ValueError(
                describe(
                    f"the inputs make no sequence: {name!r} stands at other steps than the others",
                    expected=f"offsets {shared}, as {(varying or list(spec.inputs))[0]!r} has",
                    received=f"offsets {offsets[name]}",
                    remedy="give all inputs that vary in time the same input_offsets",
                )
            )
    rows = []
    for at in shared:
        parts = [layout.where("inputs", n, at if offsets[n] == shared else offsets[n][0]) for n in spec.inputs]
        rows.append([i for part in parts for i in range(part.start, part.stop)])
    return np.array(rows)


class _Ordered(keras.layers.Layer):
    """Holds an order of channels, and a network for what comes of it."""

    def __init__(self, order: Any, network: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = np.asarray(order, dtype="int32")
        self.network = (
            keras.saving.deserialize_keras_object(network)
            if isinstance(network, dict) and "class_name" in network
            else network
        )

    def steps(self, x: Any) -> Any:
        """Return ``[..., step, feature]`` of ``[..., channel]``."""
        sizes = ops.shape(x)[:-1]
        return ops.reshape(ops.take(x, self.order.reshape(-1), axis=-1), (*sizes, *self.order.shape))

    def maps(self, x: Any) -> Any:
        """Return ``[batch, step, *space, feature]`` of ``[batch, *space, channel]``."""
        space = range(1, len(x.shape) - 1)
        last = len(x.shape) - 1
        return ops.transpose(self.steps(x), (0, last, *space, last + 1))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        own: dict[str, Any] = {"order": self.order.tolist()}
        if self.network is not None:
            own["network"] = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="physml")
class Steps(_Ordered):
    """Sort the channels into steps.

    Parameters
    ----------
    order
        Positions of the channels ``[step, feature]``, from :func:`sequence`.

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    ``[batch, step, *space, feature]``.
    """

    def call(self, x: Any) -> Any:
        """Return the steps."""
        return self.maps(x)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the steps."""
        steps, features = self.order.shape
        return (input_shape[0], steps, *input_shape[1:-1], features)


@keras.saving.register_keras_serializable(package="physml")
class CellSequences(_Ordered):
    """Apply a network to the sequence of every cell alike.

    Parameters
    ----------
    order
        Positions of the channels ``[step, feature]``, from :func:`sequence`.
    network
        Maps ``[row, step, feature]`` to ``[row, output]``.

    Input shape
    -----------
    ``[batch, *space, channel]``, of any size.

    Output shape
    ------------
    ``[batch, *space, output]``.
    """

    receptive_field = 0

    def build(self, input_shape: Any) -> None:
        """Nothing is left to build: the network is made before."""
        self.built = True

    def call(self, x: Any) -> Any:
        """Return the output of every cell."""
        y = self.network(ops.reshape(self.steps(x), (-1, *self.order.shape)))
        return ops.reshape(y, (*ops.shape(x)[:-1], y.shape[-1]))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape with the outputs as channels."""
        return (*input_shape[:-1], self.network.output_shape[-1])


@keras.saving.register_keras_serializable(package="physml")
class MapSequences(_Ordered):
    """Apply a network to the sequence of maps.

    Parameters
    ----------
    order
        Positions of the channels ``[step, feature]``, from :func:`sequence`.
    network
        Maps ``[batch, step, *space, feature]`` to ``[batch, *space, output]``.
    sees
        Cells that an output cell sees on either side.
    boundary
        Boundary of each dimension of space, as for :class:`physml.networks.Pad`.

    Input shape
    -----------
    ``[batch, *space, channel]``.

    Output shape
    ------------
    ``[batch, *space, output]``.
    """

    def __init__(self, order: Any, network: Any, sees: int, boundary: Sequence[str], **kwargs: Any) -> None:
        super().__init__(order, network, **kwargs)
        self.sees, self.boundary = int(sees), tuple(boundary)

    def build(self, input_shape: Any) -> None:
        """Nothing is left to build: the network is made before."""
        self.built = True

    def call(self, x: Any) -> Any:
        """Return the output of the last step."""
        return self.network(self.maps(x))

    def receptive_field(self) -> list[Reach]:
        """Return what an output cell sees: those of the other end where the boundary is periodic."""
        ends = Pad(1, self.boundary).receptive_field()
        return [replace(Reach.window(self.sees, self.sees, wraps=r.wraps), crosses=r.crosses) for r in ends]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape with the outputs as channels."""
        return (*input_shape[:-1], self.network.output_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "sees": self.sees, "boundary": self.boundary}


@keras.saving.register_keras_serializable(package="physml")
class EachStep(keras.layers.Layer):
    """Apply a network to every step alike.

    Parameters
    ----------
    network
        Maps ``[batch, *space, feature]`` to ``[batch, output]``.

    Input shape
    -----------
    ``[batch, step, *space, feature]``.

    Output shape
    ------------
    ``[batch, step, output]``.
    """

    def __init__(self, network: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = keras.saving.deserialize_keras_object(network) if isinstance(network, dict) else network

    def build(self, input_shape: Any) -> None:
        """Nothing is left to build: the network is made before."""
        self.built = True

    def call(self, x: Any) -> Any:
        """Return the output of every step."""
        y = self.network(ops.reshape(x, (-1, *x.shape[2:])))
        return ops.reshape(y, (-1, x.shape[1], y.shape[-1]))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the outputs."""
        return (*input_shape[:2], self.network.output_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network)}


def free_sizes(layout: Layout, any_size: bool, whole: str | None = None) -> tuple[int | None, ...]:
    """Return the shape of the input ``[*space, channel]``; *whole* says why a network needs the whole map, if it does."""
    if any_size and whole is not None:
        refuse(f"the network takes no maps of any size: {whole}", "any_size=False", True, "leave any_size out")
    return (*((None,) * len(layout.shape) if any_size else layout.shape), len(layout.inputs))


def check_norm(norm: str | None, what: str) -> None:
    """Refuse norms that a recurrent network does not have."""
    if norm not in (None, "layer"):
        refuse(f"{what}: unknown norm {norm!r}", "None or 'layer'", repr(norm), "norm='layer'")
