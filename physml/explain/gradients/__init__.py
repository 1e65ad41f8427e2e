"""Explanations cell by cell: gradients, integrated and expected gradients, Grad-CAM, relevance propagation, occlusion.

:func:`attribute` is what ``Explainer.gradients(ds, kind=...)`` calls; the kinds and their settings:

- ``"saliency"``, ``"smoothgrad"``, ``"input_x_gradient"``: :mod:`.local`
- ``"integrated"``, ``"expected"``: :mod:`.path_kinds`
- ``"grad_cam"``, ``"lrp"``: :mod:`.layered`
- ``"occlusion"``: :mod:`.occlusion`
"""

from physml.explain.gradients.attributing import attribute as attribute

__all__ = ["attribute"]
