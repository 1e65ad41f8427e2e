"""Heads that predict a distribution of every target: its parameters as named fields, and the losses it is trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from physml._errors import closest, describe
from physml.data._scaling_graph import ScalingGraph
from physml.heads.base import Head
from physml.layout import Layout, Variable


class Distribution(Head, kind=True):
    """A head whose model answers the parameters of a distribution of each target channel, in physical units.

    Subclasses say what the channels are called (:meth:`answers`), how the network's output becomes physical
    (:meth:`physical`), and how both sides look to a loss: the truth as ``[..., target channel]``, the answer as
    ``[..., target channel, parameter]``.

    Attributes
    ----------
    losses
        Losses by name: functions of truth ``[..., target channel]`` and parameters ``[..., target channel, parameter]`` that
        return ``[..., target channel]``. The first is the one a model is compiled with unless another is named.
    """

    losses: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    local = True

    def bind(self, layout: Layout, unit: np.ndarray | None = None) -> None:
        """Let the network see every input."""
        self.seen = np.ones(len(layout.inputs), "float32")

    def physical(self, n: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the answer ``[batch, *space, answer channel]`` of the network's output and the physical inputs."""
        raise NotImplementedError

    def scaled(self, y: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the parameters ``[..., target channel, parameter]`` of an answer of :meth:`physical`, in scaled units."""
        raise NotImplementedError

    def truth(self, y: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the targets ``[..., target channel]`` as losses compare them: by default in scaled units."""
        return scale.targets(y, x)

    def point(self, parameters: Any) -> Any:
        """Return the one number ``[..., target channel]`` that metrics compare with the truth: by default the first parameter."""
        return parameters[..., 0]

    def loss(self, name: Any = None, **arguments: Any) -> Any:
        """Return the loss of that name, or the first; a loss of one's own is taken as it is.

        Raises
        ------
        ValueError
            For losses that need other outputs than this head has.
        """
        if name is None:
            name = next(iter(self.losses))
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
        return HeadLoss(name, type(self).__name__, arguments)


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
        """Return the loss ``[..., target channel]`` of ``[..., target channel, 1]`` and ``[..., target channel, parameter]``."""
        from physml.heads.base import head_class

        return head_class(self.head).losses[self.loss](y_true[..., 0], y_pred, **self.arguments)  # type: ignore[attr-defined]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "loss": self.loss, "head": self.head, "arguments": self.arguments}


def answering(layout: Layout, variables: Mapping[str, Variable], order: Sequence[str] | None = None) -> Layout:
    """Return a layout with other targets, at the same offsets: what a head answers.

    Parameters
    ----------
    layout
        Layout of inputs and targets.
    variables
        The answered variables; one that is also an input keeps, in the result, what is remembered of it as a target.
    order
        Their order; by default that of *variables*.

    Raises
    ------
    ValueError
        Where a new name is taken by another variable.
    """
    spec = layout.spec
    taken = [n for n in variables if n in layout.variables and n not in spec.targets]
    if taken:
        raise ValueError(
            describe(
                f"the head would answer {taken[0]!r}, which is the name of an input",
                expected="a name of its own",
                received=repr(taken[0]),
                remedy="rename the input",
            )
        )
    return replace(
        layout,
        spec=replace(spec, targets=tuple(order or variables)),
        variables={**layout.variables, **variables},
    )
