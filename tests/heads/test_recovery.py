"""A spread that varies is recovered from noisy data, and predicted distributions are calibrated on new ones."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import learners_heads


@pytest.mark.long
@pytest.mark.parametrize("loss", ["beta-NLL", "CRPS", "quantiles"])
def test_sigma_is_within_ten_percent_of_the_truth_and_the_interval_covers_what_it_says(loss):
    found = learners_heads.recovery(loss, n=8000, steps=3000)
    assert found["sigma"] < 0.1
    assert found["mean"] < 0.1
    assert found["coverage"] == pytest.approx(0.9, abs=0.02)
    assert float(abs(found["calibration"].frequency - found["calibration"].probability).max()) < 0.02
