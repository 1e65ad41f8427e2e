"""Trees and forests explained exactly for any number of groups: :mod:`physml.explain.shapley.trees`, labelled."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.explain.blocks import Block, over_samples, samples_at_a_time
from physml.explain.models.estimators import Rows
from physml.explain.result import Part, label
from physml.explain.shapley.trees import Paths, Tree, pair_values, paths_of, tree_values, trees_of

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer


@dataclass(frozen=True, eq=False)
class Forest:
    """The ways through all trees, and where their features stand among the inputs of a sample."""

    paths: list[Paths]
    columns: np.ndarray
    n_groups: int

    def values(self, inputs: np.ndarray, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return Shapley values ``[sample, group]`` of inputs ``[sample, cell]`` against rows ``[row, cell]``."""
        x, rows = inputs[:, self.columns], rows[:, self.columns]
        phi = np.zeros((len(x), self.n_groups))
        sets, member = np.unique(index, axis=0, return_inverse=True)
        for i, some in enumerate(sets):
            mine = np.flatnonzero(member.ravel() == i)
            for paths in self.paths:
                phi[mine] += tree_values(paths, self.n_groups, x[mine], rows[some])
        return phi


@dataclass(frozen=True, eq=False)
class CellForest:
    """Trees that are given the cells one by one, for a weighted sum over cells: each cell is a game of the groups that it has.

    Attributes
    ----------
    parts
        For cells that belong to the same groups: the ways through all trees, the cells, their weights.
    features
        Channels in the order of the features.
    n_channels, n_groups
        Numbers of channels and groups.
    """

    parts: list[tuple[list[Paths], np.ndarray, np.ndarray]]
    features: np.ndarray
    n_channels: int
    n_groups: int

    def values(self, inputs: np.ndarray, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return Shapley values ``[sample, group]`` of inputs ``[sample, cell]`` against rows ``[row, cell]``."""
        x, rows = (a.reshape(len(a), -1, self.n_channels)[..., self.features] for a in (inputs, rows))
        phi = np.zeros((len(x), self.n_groups))
        for (trees, cells, weights), (s, some) in itertools.product(self.parts, enumerate(index)):
            theirs = rows[some][:, cells]
            ours = np.broadcast_to(x[s, cells], theirs.shape)
            each = np.tile(weights / len(some), len(some))
            for paths in trees:
                phi[s] += pair_values(
                    paths, self.n_groups, ours.reshape(len(each), -1), theirs.reshape(len(each), -1), each
                )
        return phi


def forest_of(explainer: Explainer) -> Forest | CellForest | None:
    """Return the trees of an explainer's model where the target is one number that is linear in what they return."""
    call, measure = explainer.adapted.call, explainer.measure
    if not isinstance(call, Rows) or measure.weights is None:
        return None
    trees = trees_of(call.estimator)
    if trees is None:
        return None
    if call.cells is not None:
        return _of_cells(trees, call.features, measure.weights.reshape(call.cells.size, -1), explainer)
    weights = measure.weights if call.scatter is None else measure.weights[call.scatter.ravel()]
    group = explainer.players.owner.ravel()[call.features].astype(int)
    return Forest([paths_of(t, group, weights) for t in trees], call.features, len(explainer.players))


def _of_cells(trees: list[Tree], features: np.ndarray, weights: np.ndarray, explainer: Explainer) -> CellForest:
    """Return trees of cells; *weights* ``[cell, output]``."""
    n_channels = len(explainer.layout.inputs)
    owner = explainer.players.owner.reshape(-1, n_channels)[:, features].astype(int)
    parts = []
    for output in np.flatnonzero(weights.any(0)):
        cells = np.flatnonzero(weights[:, output])
        kinds, member = np.unique(owner[cells], axis=0, return_inverse=True)
        one = np.eye(weights.shape[1])[output]
        for i, group in enumerate(kinds):
            here = cells[member.ravel() == i]
            parts.append(([paths_of(t, group, one) for t in trees], here, weights[here, output]))
    return CellForest(parts, features, n_channels, len(explainer.players))


def refuse_trees(explainer: Explainer) -> NoReturn:
    """Refuse exact values of trees for anything else."""
    measure = explainer.measure
    refuse(
        f"method='trees' cannot explain {measure.label!r} of {explainer.adapted.name!r}",
        "a decision tree, random forest, extremely randomised trees, or gradient boosting for regression, of scikit-learn; "
        "groups without unions; one number that is linear in its output",
        type(getattr(explainer.adapted.call, "estimator", explainer.adapted.call)).__name__
        + ("" if measure.weights is not None else ", a target that is not linear"),
        "method='auto'",
    )


def attribute(
    explainer: Explainer,
    forest: Forest | CellForest,
    ds: xr.Dataset,
    packed: xr.DataArray,
    beside: xr.DataArray | None,
    level: float,
    progress: bool,
) -> xr.Dataset:
    """Return exact Shapley values of trees, labelled as those of any model; see :meth:`physml.explain.Explainer.shapley`."""
    players, measure, layout = explainer.players, explainer.measure, explainer.layout
    name, lead = measure.label, {"group": len(players)}
    parts = [
        Part("attribution", f"contribution to {name}", lead),
        Part("stderr", f"standard error of the contribution to {name}", lead),
        Part("residual", f"{name} left over by the contributions"),
        Part("prediction", name),
        Part("base_value", f"{name} for the baseline"),
        Part("rows", "model rows valued for the sample", units="1", each=False, dtype="int64"),
        Part("dof", "degrees of freedom of the standard error; 0: exact", units="1", each=False, dtype="int64"),
        Part("converged", "exact, or within the tolerance", units="1", each=False, dtype="bool"),
    ]
    depth = sum(p.depth for p in parts)
    values = over_samples(
        layout,
        packed,
        functools.partial(_explain, explainer, forest),
        depth,
        1,
        baseline=explainer.baseline,
        beside=beside,
        at_a_time=samples_at_a_time(packed, layout.spec.sample_dim, depth),
        title="Shapley values of trees",
        progress=progress,
    )
    method = "exact Shapley values of trees"
    settings = {
        "method": method,
        "seed": "none",
        "replicates": 1,
        "baseline": explainer.baseline.name,
        "target": name,
        "level": level,
        "rows_per_sample": 1,
    }
    return label(
        values,
        parts,
        layout=layout,
        measure=measure,
        packed=packed,
        coords=players.coords,
        settings=settings,
        attrs=ds.attrs,
        what=f"explained {name} by {method}, baseline {explainer.baseline.name}",
    )


def _explain(explainer: Explainer, forest: Forest | CellForest, block: Block) -> np.ndarray:
    """Return the parts of a result for a block, ``[depth, sample, 1]``."""
    dtype = explainer.adapted.dtype or block.inputs.dtype
    x = block.inputs.reshape(len(block.inputs), -1).astype(dtype)
    rows = block.rows.reshape(len(block.rows), -1).astype(dtype)
    phi = forest.values(x, rows, block.index).T
    prediction = explainer.value(x)[:, 0]
    base = explainer.value(rows)[block.index, 0].mean(1)
    told = [
        prediction - base - phi.sum(0),
        prediction,
        base,
        np.ones_like(base),
        np.zeros_like(base),
        np.ones_like(base),
    ]
    return np.concatenate([phi, np.zeros_like(phi), np.stack(told)])[..., None]
