"""Explanations: what each named group of inputs contributes to a prediction.

>>> from physml.explain import Explainer, box_mean, climatology, groups
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Loaded at once, since the function has the name of its module, which would otherwise take its place here.
from physml.explain.groups import Groups as Groups
from physml.explain.groups import groups as groups

if TYPE_CHECKING:
    from physml.explain.accumulated import ale as ale
    from physml.explain.attribution import interval as interval
    from physml.explain.baselines import Baseline as Baseline
    from physml.explain.baselines import climatology as climatology
    from physml.explain.baselines import given as given
    from physml.explain.baselines import normalised_zero as normalised_zero
    from physml.explain.baselines import persistence as persistence
    from physml.explain.baselines import reference_period as reference_period
    from physml.explain.baselines import samples as samples
    from physml.explain.baselines import zero as zero
    from physml.explain.curves import ice as ice
    from physml.explain.curves import partial_dependence as partial_dependence
    from physml.explain.exact import Exact as Exact
    from physml.explain.explainer import Explainer as Explainer
    from physml.explain.importance import permutation_importance as permutation_importance
    from physml.explain.interactions import ExactInteractions as ExactInteractions
    from physml.explain.interactions import PairedPaths as PairedPaths
    from physml.explain.kernel import PairedKernel as PairedKernel
    from physml.explain.models import on_tensors as on_tensors
    from physml.explain.optimal import backward_optimisation as backward_optimisation
    from physml.explain.owen import ExactOwen as ExactOwen
    from physml.explain.permutations import PairedPermutations as PairedPermutations
    from physml.explain.reconstruction import novelty as novelty
    from physml.explain.shapley import shapley_values as shapley_values
    from physml.explain.summaries import mean_absolute as mean_absolute
    from physml.explain.summaries import summary as summary
    from physml.explain.targets import area_mean as area_mean
    from physml.explain.targets import box_mean as box_mean
    from physml.explain.targets import cell as cell
    from physml.explain.targets import field as field

_HOMES = {
    "accumulated": ("ale",),
    "attribution": ("interval",),
    "baselines": (
        "Baseline",
        "climatology",
        "given",
        "normalised_zero",
        "persistence",
        "reference_period",
        "samples",
        "zero",
    ),
    "curves": (
        "ice",
        "partial_dependence",
    ),
    "exact": ("Exact",),
    "explainer": ("Explainer",),
    "importance": ("permutation_importance",),
    "interactions": (
        "ExactInteractions",
        "PairedPaths",
    ),
    "kernel": ("PairedKernel",),
    "models": ("on_tensors",),
    "optimal": ("backward_optimisation",),
    "owen": ("ExactOwen",),
    "permutations": ("PairedPermutations",),
    "reconstruction": ("novelty",),
    "shapley": ("shapley_values",),
    "summaries": (
        "mean_absolute",
        "summary",
    ),
    "targets": (
        "area_mean",
        "box_mean",
        "cell",
        "field",
    ),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_MODULES, "Groups", "groups"])


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
