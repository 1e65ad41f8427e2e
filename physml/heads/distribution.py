"""Heads that predict a distribution of every target: its parameters as named fields, and the losses it is trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import keras
import numpy as np
import xarray as xr
from keras import ops

from physml._errors import closest, describe
from physml.data._scaling_graph import ScalingGraph
from physml.fields import FieldSpec
from physml.heads.base import Head
from physml.layout import Layout


class Distribution(Head, kind=True):
    """A head whose model answers the parameters of a distribution of each target channel, in physical units.

    Subclasses say what the channels are called (:meth:`answers`), how the network's output becomes physical
    (:meth:`physical`), and how both sides look to a loss: the truth as ``[..., truth channel]``, the answer as
    ``[..., truth channel, parameter]``. The truth channels are those of the targets, unless several targets tell one truth.

    Attributes
    ----------
    losses
        Losses by name: functions of truth ``[..., truth channel]`` and parameters ``[..., truth channel, parameter]`` that
        return ``[..., truth channel]``. The first is the one a model is compiled with unless another is named.
    cellwise
        Whether a target without space dimensions may be answered by a network that answers in every cell: the mean over the map
        is then its answer.
    """

    losses: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    local = True
    cellwise = True

    def bind(self, layout: Layout, unit: np.ndarray | None = None) -> None:
        """Let the network see every input."""
        self.seen = np.ones(len(layout.inputs), "float32")

    def fit(self, train: xr.Dataset, spec: FieldSpec | Layout) -> Distribution:
        """Return the head with what it takes from training data, in one pass; by default nothing."""
        return self

    def physical(self, n: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the answer ``[batch, *space, answer channel]`` of the network's output and the physical inputs."""
        raise NotImplementedError

    def scaled(self, y: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the parameters ``[..., truth channel, parameter]`` of an answer of :meth:`physical`, in scaled units."""
        raise NotImplementedError

    def truth(self, y: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the truth ``[..., truth channel]`` as losses compare it: by default the targets in scaled units."""
        return scale.targets(y, x)

    def per_truth(self, values: Any) -> Any:
        """Return for each truth channel what is given for each target channel ``[..., target channel]``: masks, weights."""
        return values

    def check(self, targets: np.ndarray, weights: np.ndarray, layout: Layout) -> None:
        """Refuse targets ``[batch, *space, target channel]`` that no such distribution has, where they carry weight."""

    def point(self, parameters: Any) -> Any:
        """Return what metrics compare with the truth, ``[..., truth channel, 1]``: by default the first parameter."""
        return parameters[..., :1]

    def states(self, layout: Layout) -> np.ndarray | None:
        """Return which channels of the answer stand for the targets, so that a forecast goes on from them; None: none do."""
        return None

    def forecast(self, fields: xr.Dataset) -> xr.Dataset:
        """Return the one forecast of each target that scores compare with the truth, from labelled answers."""
        return fields

    def finish(self, fields: xr.Dataset, averaged: bool = False) -> xr.Dataset:
        """Return labelled answers with what is said about how they are to be stored; *averaged* over tiles that overlap."""
        return fields

    def loss_arguments(self) -> dict[str, Any]:
        """Return what the losses need to know of the head, as plain values."""
        return {}

    def loss(self, name: Any = None, **arguments: Any) -> Any:
        """Return the loss of that name, or the first; a loss of one's own is taken as it is.

        Raises
        ------
        ValueError
            For losses that need other outputs than this head has.

        Examples
        --------
        >>> from physml.heads import Gaussian
        >>> Gaussian().loss("beta_nll", beta=1.0).arguments
        {'beta': 1.0}
        """
        if name is None:
            name = next(iter(self.losses))
        if isinstance(name, HeadLoss):
            if name.head != type(self).__name__:
                raise ValueError(
                    describe(
                        f"the loss {name.loss!r} belongs to another head",
                        expected=f"a loss of {type(self).__name__}: {', '.join(self.losses)}",
                        received=f"one of {name.head}",
                        remedy="leave the loss out: the head brings its own",
                    )
                )
            name, arguments = name.loss, {**name.arguments, **arguments}
        if not isinstance(name, str):
            return name
        if name not in self.losses:
            raise ValueError(
                describe(
                    f"the head {type(self).__name__} has no loss {name!r}{closest(name, self.losses)}",
                    expected=f"one of {', '.join(self.losses)}",
                    received=repr(name),
                    remedy="leave the loss out: the head brings its own",
                )
            )
        return HeadLoss(name, type(self).__name__, {**self.loss_arguments(), **arguments})


@keras.saving.register_keras_serializable(package="physml")
class HeadLoss(keras.losses.Loss):
    """A loss of a :class:`Distribution`, averaged over cells and channels with the weights of the batches.

    Parameters
    ----------
    loss
        Its name among those of the head.
    head
        Name of the class of the head.
    arguments
        Further arguments of the loss.
    """

    def __init__(
        self, loss: str, head: str, arguments: Mapping[str, Any] | None = None, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(name=name or loss, **kwargs)
        self.loss, self.head, self.arguments = loss, head, dict(arguments or {})

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the weighted mean; weights may lack the axis of the channels."""
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight)
            if len(sample_weight.shape) == len(y_true.shape) - 2:
                sample_weight = ops.expand_dims(sample_weight, -1)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss ``[..., truth channel]`` of ``[..., truth channel, 1]`` and ``[..., truth channel, parameter]``."""
        from physml.heads.base import head_class

        return head_class(self.head).losses[self.loss](y_true[..., 0], y_pred, **self.arguments)  # type: ignore[attr-defined]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "loss": self.loss, "head": self.head, "arguments": self.arguments}


def each(function: Callable[[Any, Any], Any], values: Any, x: Any) -> Any:
    """Return ``function(v, x)`` for every entry v of the last axis of *values*, ``[..., target channel, entry]``."""
    return ops.stack([function(values[..., k], x) for k in range(values.shape[-1])], axis=-1)


def unfolded(values: Any, entries: int) -> Any:
    """Return ``[..., target channel * entry]`` as ``[..., target channel, entry]``."""
    return ops.reshape(values, (*_sizes(values), values.shape[-1] // entries, entries))


def folded(values: Any) -> Any:
    """Return ``[..., target channel, entry]`` as ``[..., target channel * entry]``."""
    return ops.reshape(values, (*_sizes(values, 2), values.shape[-2] * values.shape[-1]))


def _sizes(values: Any, last: int = 1) -> tuple[Any, ...]:
    """Return the leading sizes, that of the batch as it will be known."""
    fixed = values.shape[:-last]
    if sum(n is None for n in fixed) <= 1:
        return tuple(-1 if n is None else n for n in fixed)
    there = ops.shape(values)
    return tuple(there[i] if n is None else n for i, n in enumerate(fixed))
