"""Explanations: what each named group of inputs contributes to a prediction, and how far that answer can be trusted.

>>> from physml.explain import Explainer, box_mean, climatology, groups
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physml.explain import sanity as sanity
    from physml.explain.effects.accumulated import ale as ale
    from physml.explain.effects.curves import ice as ice
    from physml.explain.effects.curves import partial_dependence as partial_dependence
    from physml.explain.effects.importance import permutation_importance as permutation_importance
    from physml.explain.explainer import Explainer as Explainer
    from physml.explain.inputs.optimal import backward_optimisation as backward_optimisation
    from physml.explain.inputs.reconstruction import novelty as novelty
    from physml.explain.models.adapting import on_tensors as on_tensors
    from physml.explain.models.targets import area_mean as area_mean
    from physml.explain.models.targets import box_mean as box_mean
    from physml.explain.models.targets import cell as cell
    from physml.explain.models.targets import field as field
    from physml.explain.players.baselines import Baseline as Baseline
    from physml.explain.players.baselines import climatology as climatology
    from physml.explain.players.baselines import given as given
    from physml.explain.players.baselines import normalised_zero as normalised_zero
    from physml.explain.players.baselines import persistence as persistence
    from physml.explain.players.baselines import reference_period as reference_period
    from physml.explain.players.baselines import samples as samples
    from physml.explain.players.baselines import zero as zero
    from physml.explain.players.groups import Groups as Groups
    from physml.explain.players.groups import groups as groups
    from physml.explain.shapley.attribution import interval as interval
    from physml.explain.shapley.exact import Exact as Exact
    from physml.explain.shapley.interactions import ExactInteractions as ExactInteractions
    from physml.explain.shapley.interactions import PairedPaths as PairedPaths
    from physml.explain.shapley.kernel import PairedKernel as PairedKernel
    from physml.explain.shapley.owen import ExactOwen as ExactOwen
    from physml.explain.shapley.permutations import PairedPermutations as PairedPermutations
    from physml.explain.shapley.summaries import mean_absolute as mean_absolute
    from physml.explain.shapley.summaries import summary as summary
    from physml.explain.shapley.values import shapley_values as shapley_values

_HOMES = {
    "effects.accumulated": ("ale",),
    "effects.curves": (
        "ice",
        "partial_dependence",
    ),
    "effects.importance": ("permutation_importance",),
    "explainer": ("Explainer",),
    "inputs.optimal": ("backward_optimisation",),
    "inputs.reconstruction": ("novelty",),
    "models.adapting": ("on_tensors",),
    "models.targets": (
        "area_mean",
        "box_mean",
        "cell",
        "field",
    ),
    "players.baselines": (
        "Baseline",
        "climatology",
        "given",
        "normalised_zero",
        "persistence",
        "reference_period",
        "samples",
        "zero",
    ),
    "players.groups": (
        "Groups",
        "groups",
    ),
    "shapley.attribution": ("interval",),
    "shapley.exact": ("Exact",),
    "shapley.interactions": (
        "ExactInteractions",
        "PairedPaths",
    ),
    "shapley.kernel": ("PairedKernel",),
    "shapley.owen": ("ExactOwen",),
    "shapley.permutations": ("PairedPermutations",),
    "shapley.summaries": (
        "mean_absolute",
        "summary",
    ),
    "shapley.values": ("shapley_values",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "sanity":
        return import_module(f"{__name__}.sanity")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "sanity"]
