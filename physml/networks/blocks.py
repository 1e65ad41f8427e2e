"""What the layers of one network share: activation by name, norm, dropout, weight decay, boundary and mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from physml._errors import closest, refuse
from physml.layout import Layout
from physml.networks.choices import (
    ACTIVATIONS,
    CONVOLUTIONS,
    activation,
    choice,
    count,
    counts,
    decay,
    ends_on,
    outputs_of,
    per_dimension,
    share,
    start_of,
)
from physml.networks.padding import Pad
from physml.networks.partial import PartialConv, Valid
from physml.networks.sampling import PadTo, Pool
from physml.networks.whole import GlobalPool, ValidBatchNorm, ValidGroupNorm

__all__ = [
    "ACTIVATIONS", "CONVOLUTIONS", "NORMS", "Blocks", "Maps", "activation", "choice", "count", "counts", "decay", "ends_on",
    "masked", "outputs_of", "per_dimension", "share", "start_of",
]  # fmt: skip

DROPOUTS = {1: keras.layers.SpatialDropout1D, 2: keras.layers.SpatialDropout2D, 3: keras.layers.SpatialDropout3D}
POOLINGS = {
    "average": {1: keras.layers.AveragePooling1D, 2: keras.layers.AveragePooling2D, 3: keras.layers.AveragePooling3D},
    "max": {1: keras.layers.MaxPooling1D, 2: keras.layers.MaxPooling2D, 3: keras.layers.MaxPooling3D},
}
GLOBAL = {
    "average": {
        1: keras.layers.GlobalAveragePooling1D,
        2: keras.layers.GlobalAveragePooling2D,
        3: keras.layers.GlobalAveragePooling3D,
    },
    "max": {
        1: keras.layers.GlobalMaxPooling1D,
        2: keras.layers.GlobalMaxPooling2D,
        3: keras.layers.GlobalMaxPooling3D,
    },
}
NORMS = (None, "batch", "layer", "group")
"""None; over the batch; over the channels of a cell; over groups of 8 channels and the whole map."""


class Maps(NamedTuple):
    """Values ``[batch, *space, channel]`` and where they are valid ``[batch, *space, 1]``."""

    values: Any
    valid: Any


class Blocks:
    """The layers of one network, with what they share said once.

    All methods take and return tensors ``[batch, *space, channel]``, or :class:`Maps` under a mask.

    Parameters
    ----------
    ends
        Boundary of every space dimension; none for vectors.
    activation
        Name of the activation.
    norm
        None, ``"batch"``, ``"layer"`` or ``"group"``.
    dropout
        Share of the channels (of maps) or units (of vectors) left out in training.
    weight_decay
        Weight of the L2 penalty on the kernels, see :func:`decay`.
    seed
        Of the initial weights and the dropout.

    Raises
    ------
    ValueError
        For names that are not known and shares outside [0, 1).

    Examples
    --------
    >>> blocks = Blocks(("open", "periodic"), activation="swish", norm="batch", dropout=0.1, seed=1)
    >>> blocks.block(keras.Input((5, 8, 2)), 16, (3, 3)).shape
    (None, 5, 8, 16)
    """

    def __init__(
        self,
        ends: Sequence[str],
        *,
        activation: str = "relu",
        norm: str | None = None,
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.ends, self.activation = tuple(ends), _known(activation)
        if norm not in NORMS:
            refuse(
                f"unknown norm {norm!r}{closest(str(norm), NORMS[1:])}", f"one of {NORMS}", repr(norm), "norm='batch'"
            )
        self.norm, self.dropout = norm, share(dropout)
        self.regularizer = decay(weight_decay)
        self._seeds, self._drops = np.random.default_rng(seed), np.random.default_rng([seed, 1])

    def initializer(self) -> Any:
        """Return the initialiser of the next kernel (He et al. 2015, doi:10.1109/ICCV.2015.123)."""
        return keras.initializers.HeNormal(int(self._seeds.integers(2**31)))

    def convolve(self, x: Any, filters: int, size: Sequence[int], *, apart: bool = False) -> Any:
        """Pad by the boundaries and convolve, or convolve blocks of cells *apart*; under a mask by :class:`PartialConv`."""
        strides = tuple(size) if apart else (1,) * len(self.ends)
        pad: Any = Pad([n // 2 for n in size], self.ends) if max(size) > 1 and not apart else lambda v: v
        shared = {"kernel_initializer": self.initializer(), "kernel_regularizer": self.regularizer}
        if isinstance(x, Maps):
            return Maps(*PartialConv(filters, tuple(size), strides, **shared)(pad(x.values), pad(x.valid)))
        return CONVOLUTIONS[len(self.ends)](filters, tuple(size), strides, **shared)(pad(x))

    def normalise(self, x: Any) -> Any:
        """Apply the norm, if there is one; under a mask ``"batch"`` and ``"group"`` take the mean and variance of valid cells."""
        if self.norm is None:
            return x
        values = x.values if isinstance(x, Maps) else x
        channels = int(values.shape[-1])
        if self.norm == "batch":
            if isinstance(x, Maps):
                return Maps(ValidBatchNorm()(x.values, x.valid), x.valid)
            layer = keras.layers.BatchNormalization()
        elif self.norm == "layer":
            layer = keras.layers.LayerNormalization()
        else:
            groups = max(1, channels // 8) if channels % 8 == 0 else 1
            if isinstance(x, Maps):
                return Maps(ValidGroupNorm(groups)(x.values, x.valid), x.valid)
            layer = keras.layers.GroupNormalization(groups)
        return _on_values(x, layer)

    def activate(self, x: Any) -> Any:
        """Apply the activation."""
        return _on_values(x, keras.layers.Activation(self.activation))

    def drop(self, x: Any) -> Any:
        """Leave out whole channels of maps, or single units of vectors, in training."""
        if not self.dropout:
            return x
        values = x.values if isinstance(x, Maps) else x
        layer = DROPOUTS.get(len(values.shape) - 2, keras.layers.Dropout)
        return _on_values(x, layer(self.dropout, seed=int(self._drops.integers(2**31))))

    def block(self, x: Any, filters: int, size: Sequence[int]) -> Any:
        """Convolve, normalise, activate, drop."""
        return self.drop(self.activate(self.normalise(self.convolve(x, filters, size))))

    def dense(self, x: Any, units: int) -> Any:
        """Apply a dense layer to the channels, normalise, activate, and drop single units."""
        layer = keras.layers.Dense(units, kernel_initializer=self.initializer(), kernel_regularizer=self.regularizer)
        x = self.activate(self.normalise(layer(x)))
        return keras.layers.Dropout(self.dropout, seed=int(self._drops.integers(2**31)))(x) if self.dropout else x

    def add(self, x: Any, y: Any) -> Any:
        """Return the sum; valid is what is valid in the second, which has seen further."""
        if isinstance(x, Maps):
            return Maps(keras.layers.add([x.values, y.values]), y.valid)
        return keras.layers.add([x, y])

    def pool(self, x: Any, size: Sequence[int], kind: str) -> Any:
        """Take the average or the greatest value over blocks of cells; blocks cut by a closed or open end hold fewer."""
        size = tuple(size)
        if max(size) == 1:
            return x
        sizes = (x.values if isinstance(x, Maps) else x).shape[1:-1]
        whole = all(n is not None and n % s == 0 for n, s in zip(sizes, size, strict=True))
        if isinstance(x, Maps):
            if not whole:
                pad = PadTo(size, ("closed",) * len(size))
                x = Maps(pad(x.values), pad(x.valid))
            return Maps(*Pool(size, kind)(*x))
        return POOLINGS[kind][len(size)](size, padding="valid" if whole else "same")(x)

    def gather(self, x: Any, kind: str) -> Any:
        """Return one vector for the whole map: all its cells, or the average or the greatest value of each channel."""
        if kind == "flatten":
            return keras.layers.Flatten()(x.values if isinstance(x, Maps) else x)
        if isinstance(x, Maps):
            return GlobalPool(kind)(*x)
        return GLOBAL[kind][len(self.ends)]()(x)

    def answer(self, x: Any, channels: int, final: str = "linear") -> Any:
        """Return the output: one cell's channels through a kernel that starts at zero, in single precision."""
        values = x.values if isinstance(x, Maps) else x
        final = _known(final, "final_activation")
        shared = {"kernel_initializer": "zeros", "kernel_regularizer": self.regularizer, "dtype": "float32"}
        act = None if final == "linear" else final
        space = len(values.shape) - 2
        if space in CONVOLUTIONS:
            return CONVOLUTIONS[space](channels, 1, activation=act, **shared)(values)
        return keras.layers.Dense(channels, act, **shared)(values)


_known = activation


def _on_values(x: Any, layer: Any) -> Any:
    return Maps(layer(x.values), x.valid) if isinstance(x, Maps) else layer(x)


def masked(x: Any, layout: Layout, partial: bool | str, any_size: bool) -> Any:
    """Return an input with its valid cells, as *partial* names them; the input itself for False.

    Parameters
    ----------
    x
        ``[batch, *space, input channel]``.
    layout
        Its mask is used for True.
    partial
        False; True: the mask of the layout's inputs; ``"nan"``: cells that are not NaN; the name of an input that is positive
        (in scaled units: above its mean) on valid cells.
    any_size
        Whether maps of any size may come.

    Raises
    ------
    ValueError
        For True without a mask or with maps of any size, and names that are no input.
    """
    if partial is False:
        return x
    if partial is True:
        if layout.spec.mask is None:
            refuse("partial=True without a mask", "FieldSpec(mask=...)", "a layout without mask", "partial='nan', or name the input that holds the mask")  # fmt: skip
        if any_size:
            refuse("partial=True holds the mask of the grid", "maps of the grid", "any_size=True", "partial='nan', or name the input that holds the mask")  # fmt: skip
        valid = layout.valid("inputs")
        same = (valid == valid[..., :1]).all()
        return Maps(*Valid(valid[..., 0] if same else valid)(x))
    if partial == "nan":
        return Maps(*Valid("nan")(x))
    names = [c.name for c in layout.inputs]
    if partial not in names:
        refuse(f"partial={partial!r} names no input{closest(str(partial), [*names, 'nan'])}", f"False, True, 'nan' or one of {sorted(set(names))}", repr(partial), "partial=True")  # fmt: skip
    return Maps(*Valid(channel=names.index(partial))(x))
