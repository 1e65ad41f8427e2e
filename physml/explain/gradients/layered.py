"""Kinds of explanation that look inside a Keras network: Grad-CAM and layer-wise relevance propagation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from physml.explain.blocks import Block
from physml.explain.gradients.kinds import Found, Kind
from physml.explain.gradients.rows import in_batches
from physml.explain.gradients.work import Work, gradient_scale, keras_of

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer


@dataclass(frozen=True)
class GradCam(Kind):
    """Grad-CAM: where the features of one layer speak for the target, see :mod:`physml.explain.gradients.cam`.

    Attributes
    ----------
    layer
        Name of the layer; None: the last convolution.
    """

    layer: str | None = None
    method: ClassVar[str] = "Grad-CAM"
    network: ClassVar[bool] = True
    on_grid: ClassVar[bool] = True
    adds_up: ClassVar[bool] = False
    by_channel: ClassVar[bool] = False
    compared: ClassVar[bool] = False

    @property
    def cells(self) -> dict[str, str]:
        """A map."""
        return {"attribution": "Grad-CAM of {}"}

    def prepare(self, explainer: Explainer, shape: tuple[int | None, ...], dtype: str) -> dict[str, Any]:
        """Find the layer."""
        from physml.explain.gradients.cam import choose

        return {"layer": choose(_inner(explainer.adapted.network), shape, dtype, self.layer)[0].name}

    def explain(self, work: Work, block: Block) -> Found:
        """Return the map of every sample."""
        maps = work.late("maps", partial(_compile_map, work.explainer, self.layer, work.shape, work.dtype))
        found = in_batches(maps, lambda k: block.inputs[k], len(block.inputs), work.batch_rows)
        return {"attribution": np.concatenate([m for _, m in found]), "prediction": work.full(block)[:, 0]}


def _inner(network: Any) -> Any:
    """Return the network of a FieldModel, or the network itself."""
    return network.network if hasattr(network, "through") else network


def _compile_map(explainer: Explainer, layer: str | None, shape: tuple[int, ...], dtype: str) -> Any:
    from physml.explain.gradients.cam import activation_map

    model, weights = explainer.adapted.network, explainer.measure.weights
    assert weights is not None

    def through(x: Any, network: Callable[[Any], Any]) -> Any:
        if not hasattr(model, "through"):
            return network(x)
        return model.through(x, lambda z, training=None: network(z), penalties=False)

    scale = gradient_scale(explainer, dtype)
    return activation_map(_inner(model), through, weights, layer, list(model.variables), shape, dtype, scale)


@dataclass(frozen=True)
class Lrp(Kind):
    """Layer-wise relevance propagation, see :mod:`physml.explain.gradients.lrp`.

    Attributes
    ----------
    rule
        ``"epsilon"`` or ``"zplus"``.
    epsilon
        Stabiliser of the former, in units of the network's activations.
    """

    rule: str = "epsilon"
    epsilon: float = 1e-6
    method: ClassVar[str] = "layer-wise relevance propagation"
    network: ClassVar[bool] = True
    compared: ClassVar[bool] = False

    @property
    def numbers(self) -> dict[str, str]:
        """Prediction, base value and residual."""
        return {
            "prediction": "{}",
            "base_value": "{} where inputs and output of the network are at their means",
            "residual": "{} left over by the relevance: what biases and the stabiliser take",
        }

    def prepare(self, explainer: Explainer, shape: tuple[int | None, ...], dtype: str) -> dict[str, Any]:
        """Refuse layers that relevance cannot pass."""
        from physml.explain.gradients import lrp

        rule = lrp.rule(self.rule, self.epsilon)
        cells = _cells(explainer)
        lrp.inspect(keras_of(explainer.adapted), shape if cells is None else (None, cells.size), dtype)
        return {"rule": rule.name, **({"epsilon": rule.epsilon} if rule.name == "epsilon" else {})}

    def explain(self, work: Work, block: Block) -> Found:
        """Return the relevance of every input."""
        how = partial(_compile_relevance, work.explainer, self.rule, self.epsilon, work.shape, work.dtype)
        found = in_batches(work.late("relevance", how), lambda k: block.inputs[k], len(block.inputs), work.batch_rows)
        parts, bases = zip(*(f for _, f in found), strict=True)
        phi, base, full = np.concatenate(parts), np.concatenate(bases), work.full(block)[:, 0]
        left = full - base - phi.reshape(len(phi), -1).sum(1)
        return {"attribution": phi, "prediction": full, "base_value": base, "residual": left}


def _compile_relevance(explainer: Explainer, rule: str, epsilon: float, shape: tuple[int, ...], dtype: str) -> Any:
    from physml.explain.gradients import lrp

    weights = explainer.measure.weights
    assert weights is not None
    model, cells = keras_of(explainer.adapted), _cells(explainer)
    return lrp.relevance(model, weights, lrp.rule(rule, epsilon), shape, dtype, cells)


def _cells(explainer: Explainer) -> np.ndarray | None:
    """Return where the features of a model of ``[row, n]`` stand among the inputs; None for one of ``[row, *space, channel]``."""
    adapted = explainer.adapted
    if adapted.network is not None or len(keras_of(adapted).inputs) != 1:
        return None
    return np.flatnonzero(adapted.layout.valid("inputs"))
