"""Forests of scikit-learn on disk: read back through skops from a fixed list of types, and every node of every tree checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from physml._errors import describe

TRUSTED = ("sklearn.tree._tree.Tree",)
"""The only type beyond those skops knows to be harmless; its nodes are checked here, since scikit-learn does not."""


def dump(forest: Any) -> bytes:
    """Return a forest as skops writes it."""
    import skops.io

    return skops.io.dumps(forest)


def restore(data: bytes, kind: str, features: int, outputs: int) -> Any:
    """Return the forest that :func:`dump` wrote.

    Parameters
    ----------
    data
        What was read from the file.
    kind
        ``"regression"`` or ``"classification"``.
    features, outputs
        How many the forest has to have.

    Raises
    ------
    ValueError
        For any other type in it, and for trees whose nodes point out of the tree, as only tampering makes them.
    """
    import skops.io
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        strange = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED))
        if strange:
            _refuse(f"types that a forest does not hold: {', '.join(strange)}")
        forest = skops.io.loads(data, trusted=list(TRUSTED))
    except UntrustedTypesFoundException as error:
        _refuse(str(error).splitlines()[0], error)
    except ValueError:
        raise
    except Exception as error:  # whatever a broken archive provokes
        _refuse(f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}", error)
    wanted, member = (
        (RandomForestClassifier, DecisionTreeClassifier)
        if kind == "classification"
        else (RandomForestRegressor, DecisionTreeRegressor)
    )
    if type(forest) is not wanted:
        _refuse(f"a {type(forest).__name__} in place of a {wanted.__name__}")
    if forest.n_features_in_ != features or forest.n_outputs_ != outputs:
        _refuse(
            f"{forest.n_features_in_} features and {forest.n_outputs_} outputs in place of {features} and {outputs}"
        )
    for tree in forest.estimators_:
        if type(tree) is not member or tree.n_outputs_ != outputs or not _sound(tree.tree_, features, outputs):
            _refuse("a tree whose nodes point out of it")
    return forest


def _sound(tree: Any, features: int, outputs: int) -> bool:
    """Return whether all ways through a tree end in a leaf of it: children stand after their parents."""
    left, right, feature = np.asarray(tree.children_left), np.asarray(tree.children_right), np.asarray(tree.feature)
    n = len(left)
    at = np.arange(n)
    leaf = left == -1
    inside = ~leaf
    return bool(
        n >= 1
        and tree.n_features == features
        and tree.n_outputs == outputs
        and (right[leaf] == -1).all()
        and (left[inside] > at[inside]).all()
        and (right[inside] > at[inside]).all()
        and (left[inside] < n).all()
        and (right[inside] < n).all()
        and (feature[inside] >= 0).all()
        and (feature[inside] < features).all()
    )


def _refuse(received: str, error: Exception | None = None) -> Any:
    raise ValueError(
        describe(
            "the forest in this file is not one that physml wrote",
            expected="a random forest of scikit-learn, and nothing else",
            received=received,
            remedy="do not use the file; save the forest again where it was fitted",
        )
    ) from error
