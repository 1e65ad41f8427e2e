"""Coalitions stream through a model in batches of one size."""

import numpy as np
import pytest

from physml.explain.models.valued import default_rows
from physml.explain.shapley.game import Request, coalition_values


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("batch_rows", [1, 4, 7, 100])
def test_streaming_mixes_rows_and_calls_with_one_shape(batch_rows, fixed):
    rng = np.random.default_rng(0)
    background, owner = rng.normal(size=(2, 5)), np.array([0, 1, 1, -1, 2])
    requests = [
        Request(rng.normal(size=5), rng.random((k, 3)) < 0.5, rng.integers(0, 2, k)) for k in (3, 0, 9, 1)
    ]  # 13 rows
    shapes = set()

    def value(rows):
        shapes.add(rows.shape)
        assert rows.all()  # never a row of zeros that nobody asked for
        return rows.copy()

    got = {i: np.zeros((0, 5)) for i in range(4)}
    for number, values in coalition_values(
        iter(requests), background=background, owner=owner, value=value, batch_rows=batch_rows, fixed=fixed
    ):
        got[number] = np.concatenate([got[number], values])
    assert shapes == ({(batch_rows, 5)} if fixed else {(n, 5) for n in (batch_rows, 13 % batch_rows) if 0 < n <= 13})
    for number, request in enumerate(requests):
        members = np.column_stack([request.coalitions, np.zeros(len(request.coalitions), bool)])
        expected = np.where(members[:, owner], request.inputs, background[request.slots])
        np.testing.assert_array_equal(got[number], expected)


def test_default_batches_are_bounded_by_bytes():
    assert default_rows(10) == 1024
    assert default_rows(32 * 64 * 3 * 4) == 64
    assert default_rows(10**6) == 8
    assert default_rows(10**9) == 1
