"""Random forests on labelled fields: cell by cell or map by map, from a lazy Dataset within a bound on memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe, is_count
from physml.fields import FieldSpec
from physml.heads import _flags
from physml.heads._answers import along_quantiles
from physml.layout import Layout
from physml.learners import _classes, _leaves, _trees
from physml.learners._fitted import Fitted, with_spread
from physml.learners._stacking import Stacking

KINDS = ("regression", "classification")
SAMPLES = ("cells", "maps")
_OURS = {"n_estimators": "n_trees", "random_state": "seed"}


class Forest(Fitted):
    """A random forest of scikit-learn.

    Parameters
    ----------
    spec
        What it reads and predicts.
    kind
        ``"regression"``, or ``"classification"``: the targets hold numbers of classes, and the answer is the most likely one, with
        the CF attributes flag_values and flag_meanings, and ``NAME_probability`` along ``category``.
    samples
        ``"cells"``: every valid cell of every time is a row, its channels are the features: offsets, levels, static fields, parts of
        the date. ``"maps"``: every time is a row, all valid cells are features, numbers are read once.
    n_trees
        Number of trees, ``n_estimators`` in scikit-learn.
    values, labels
        Numbers and names of the classes; by default flag_values and flag_meanings of the target, else the numbers in the training
        data.
    spread
        Of regression: answer ``NAME_std`` too, the standard deviation of the training values that share leaves with a row
        (Meinshausen 2006), which holds what is noise as well as what the trees disagree on.
    quantiles
        Of regression: answer these quantiles of the same distribution in place of the mean, along ``quantile``: those of one training
        value from the leaf of each tree, so that a hundred trees tell the tails to a hundredth or so.
    max_rows
        Rows drawn at random, with equal chances and without repetition; None: all. Which, is a matter of *seed* alone.
    memory
        Bytes that features and targets may take; more rows are refused. Fitting takes some more.
    area_weights
        Whether cells count with their area.
    seed
        Of the rows that are drawn and of the trees, ``random_state`` in scikit-learn.
    name
        What it is called.
    **options
        Those of ``sklearn.ensemble.RandomForestRegressor`` or ``RandomForestClassifier`` by their names: ``max_depth``,
        ``min_samples_leaf``, ``max_features``, ``max_samples``, ``oob_score``, ``n_jobs``, ...

    Attributes
    ----------
    estimator
        The fitted estimator of scikit-learn.

    Raises
    ------
    ValueError
        For options that scikit-learn does not have.

    Notes
    -----
    The out-of-bag score (``oob_score=True``) is that of rows a tree has not seen, whose neighbours in space and time it has: on
    fields it is better than the score of another year.

    References
    ----------
    Breiman, L. (2001), Random forests, doi:10.1023/A:1010933404324.
    Meinshausen, N. (2006), Quantile regression forests, https://www.jmlr.org/papers/v7/meinshausen06a.html.

    Examples
    --------
    >>> ds = xr.Dataset({"x": ("time", np.arange(8.0)), "y": ("time", np.arange(8.0) > 3)}, {"time": np.arange(8)})
    >>> forest = Forest(FieldSpec("x", "y"), kind="classification", n_trees=10).fit(ds)
    >>> forest.predict(ds).y.values
    array([0., 0., 0., 0., 1., 1., 1., 1.], dtype=float32)
    """

    arguments = (
        "kind",
        "samples",
        "n_trees",
        "values",
        "labels",
        "spread",
        "quantiles",
        "max_rows",
        "memory",
        "area_weights",
        "seed",
    )

    def __init__(
        self,
        spec: FieldSpec,
        kind: str = "regression",
        samples: str = "cells",
        n_trees: int = 100,
        *,
        values: Sequence[float] | None = None,
        labels: Sequence[str] | None = None,
        spread: bool = False,
        quantiles: Sequence[float] | None = None,
        max_rows: int | None = None,
        memory: int = 4 * 2**30,
        area_weights: bool = False,
        seed: int = 0,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(spec, name)
        for what, value, known in (("kind", kind, KINDS), ("samples", samples, SAMPLES)):
            if value not in known:
                self._refuse(
                    f"{what}={value!r} is not understood{closest(str(value), known)}",
                    " or ".join(map(repr, known)),
                    repr(value),
                    f"{what}={known[0]!r}",
                )
        if not is_count(n_trees) or (max_rows is not None and not is_count(max_rows)):
            self._refuse("n_trees or max_rows does not count", ">= 1", (n_trees, max_rows), "n_trees=100")
        if kind == "classification" and (spread or quantiles is not None):
            self._refuse("classes have no spread", "neither spread nor quantiles", "one", "the probabilities tell it")
        if quantiles is not None:
            ends = [0.0, *np.asarray(quantiles, "float64").ravel().tolist(), 1.0]
            if spread or len(ends) < 3 or not all(a < b for a, b in pairwise(ends)):
                self._refuse(
                    "quantiles do not fit",
                    "levels that increase between 0 and 1, without spread",
                    f"quantiles={quantiles}, spread={spread}",
                    "quantiles=[0.05, 0.5, 0.95]",
                )
        if kind == "regression" and (values is not None or labels is not None):
            self._refuse("values and labels are of classes", "neither", "both or one", "kind='classification'")
        self.kind, self.samples, self.n_trees = kind, samples, int(n_trees)
        self.values = None if values is None else [_flags.number(v) for v in np.asarray(values).tolist()]
        self.labels = None if labels is None else [str(v) for v in labels]
        self.spread, self.max_rows, self.memory = bool(spread), max_rows, int(memory)
        self.quantiles = None if quantiles is None else [float(q) for q in quantiles]
        self.area_weights, self.seed, self.options = bool(area_weights), int(seed), dict(options)
        self.estimator: Any = None
        self._made()

    def _refuse(self, what: str, expected: object, received: object, remedy: str) -> None:
        raise ValueError(describe(f"Forest: {what}", expected=expected, received=received, remedy=remedy))

    def _made(self) -> Any:
        """Return a new estimator of scikit-learn; refuse options it does not have."""
        try:
            from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
        except ImportError as error:
            raise ImportError(
                describe(
                    "Forest: scikit-learn grows the trees",
                    expected="scikit-learn and skops",
                    received=str(error),
                    remedy="pip install 'physml[learn]'",
                )
            ) from error

        cls = RandomForestClassifier if self.kind == "classification" else RandomForestRegressor
        known = [p for p in cls().get_params() if p not in _OURS]
        for option in self.options:
            if option in _OURS:
                self._refuse(f"{option} is said otherwise", _OURS[option], option, f"{_OURS[option]}=...")
            if option not in known:
                self._refuse(
                    f"scikit-learn's {cls.__name__} has no option {option!r}{closest(option, known)}",
                    ", ".join(known),
                    repr(option),
                    "correct its name",
                )
        return cls(n_estimators=self.n_trees, random_state=self.seed, **self.options)

    @property
    def classes(self) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """Numbers and names of the classes."""
        self.layout  # noqa: B018  refuses a learner that is not fitted
        numbers = tuple(_flags.number(v) for v in self.state["classes"].tolist())
        return numbers, tuple(self.state["names"].tolist())

    @property
    def answers(self) -> Layout:
        """Layout of what it answers: targets with their spread, or classes with their probabilities."""
        if self.kind == "classification":
            return _classes.answers(self.layout, *self.classes)
        if self.quantiles is not None:
            return along_quantiles(self.layout, self.quantiles, who="learner")
        return with_spread(self.layout) if self.spread else self.layout

    @property
    def oob_score(self) -> float:
        """Score of rows that a tree has not seen: R2, or the share of right classes; needs the option ``oob_score=True``."""
        self.layout  # noqa: B018
        if not hasattr(self.estimator, "oob_score_"):
            self._refuse(
                "there is no out-of-bag score", "oob_score=True", "no such option", "Forest(..., oob_score=True)"
            )
        return float(self.estimator.oob_score_)

    def learn(self, train: xr.Dataset) -> None:
        """Stack the rows and grow the trees."""
        stacking = self.stacking
        x, y, weights = stacking.stack(
            train, self.name, memory=self.memory, max_rows=self.max_rows, seed=self.seed, area=self.area_weights
        )
        if self.kind == "classification":
            y = self._numbered(y)
        estimator = self._made()
        estimator.fit(x, y[:, 0] if y.shape[1] == 1 else y, weights)
        # Blocks are predicted in threads of dask; the sum over trees then has one order.
        self.estimator = estimator.set_params(n_jobs=None)
        if self.spread:
            self.state |= _leaves.moments(estimator, x, y)
        if self.quantiles is not None:
            self.state |= _leaves.drawn(estimator, x, y, self.seed)

    def _numbered(self, y: np.ndarray) -> np.ndarray:
        """Return the classes of targets ``[row, target]`` by position, and remember what they are called."""
        names = list(self.layout.spec.targets)
        of = None if self.values else _flags.told(names[0], self.layout.variables[names[0]], "Forest")
        numbers: Sequence[float] = self.values or (of[0] if of else _classes.found(y))
        labels = self.labels or (of[1] if of else tuple(map(str, numbers)))
        _flags.check_classes(names[0], numbers, labels, "Forest")
        self.state |= {"classes": np.asarray(numbers), "names": np.asarray(labels, dtype=str)}
        return _classes.numbered(y, numbers, names[0])

    @property
    def stacking(self) -> Stacking:
        """Where features and targets stand in the layout."""
        return Stacking.of(self.layout, self.samples, self.name)

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return what the trees say of inputs ``[row, *space, channel]``."""
        stacking = self.stacking
        table = stacking.table(x)
        n = len(stacking.targets)
        if self.kind == "classification":
            p = stacking.back(self.probabilities(table), len(x))
            likely = np.asarray(self.state["classes"], "float64")[p.argmax(-1)]
            return np.concatenate([likely, p.reshape(*p.shape[:-2], -1)], axis=-1)
        if self.quantiles is not None:
            found = stacking.back(_leaves.quantiles(self.estimator, self.state, table, self.quantiles), len(x))
            return found.reshape(*found.shape[:-2], -1)
        found = stacking.back(self.estimator.predict(table).reshape(-1, n), len(x))
        if not self.spread:
            return found
        std = _leaves.spread(self.estimator, self.state, table)
        return np.concatenate([found, stacking.back(std, len(x))], axis=-1)

    def probabilities(self, table: np.ndarray) -> np.ndarray:
        """Return the probability of each class for features ``[row, feature]``: ``[row, target, class]``."""
        found, classes = self.estimator.predict_proba(table), self.estimator.classes_
        if not isinstance(found, list):
            found, classes = [found], [classes]
        out = np.zeros((len(table), len(found), len(self.state["classes"])))
        for i, (p, there) in enumerate(zip(found, classes, strict=True)):
            out[:, i, there.astype(int)] = p
        return out

    def dressed(self, fields: xr.Dataset) -> xr.Dataset:
        """Say in which type classes are stored in a file."""
        if self.kind == "classification":
            for n in self.layout.spec.targets:
                kind, missing = _flags.storage(self.layout.variables[n], self.classes[0])
                fields[n].encoding.update(dtype=kind, _FillValue=np.dtype(kind).type(missing))
        return fields

    def importances(self, groups: Mapping[str, Sequence[str] | str] | None = None) -> xr.Dataset:
        """Return how much splits on each input lower the impurity, as shares that add up to 1.

        Parameters
        ----------
        groups
            Names of variables, or of channels (``"sst -3"``), by the name of a group.

        Returns
        -------
        xarray.Dataset
            ``importance`` along (channel) and ``variable_importance`` along (variable), with their standard deviations over the trees,
            ``importance_std`` and ``variable_importance_std``; with *groups* ``group_importance`` too. Of maps also ``value_importance``
            along (channel, *space).

        Notes
        -----
        Inputs of many different values win over those of few, and the training data are judged by what was fitted to them:
        :func:`physml.explain.permutation_importance` on other years is the check.
        """
        from physml.learners._importances import importances

        return importances(self, groups)

    def to_config(self) -> dict[str, Any]:
        """Return the arguments it is made of, as plain values."""
        return {**super().to_config(), **self.options}

    def files(self) -> dict[str, bytes]:
        """Return the trees as skops writes them."""
        return {"forest.skops": _trees.dump(self.estimator)}

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Read the trees, and nothing else."""
        stacking = self.stacking
        self.estimator = _trees.restore(
            files.get("forest.skops", b""), self.kind, len(stacking.features), len(stacking.targets)
        )
        if self.spread or self.quantiles is not None:
            _leaves.check(self.estimator, self.state)
