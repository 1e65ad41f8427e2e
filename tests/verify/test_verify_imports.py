"""Scores need no network library and no drawing, and scores is imported when it is used."""

from __future__ import annotations

import subprocess
import sys

from physml import verify

CODE = """
import sys
from physml import verify
for name in verify.__all__:
    getattr(verify, name)
loaded = {"keras", "tensorflow", "jax", "matplotlib", "scores", "sklearn"} & set(sys.modules)
assert not loaded, loaded
"""


def test_all_of_verify_is_imported_without_keras_matplotlib_and_scores():
    subprocess.run([sys.executable, "-c", CODE], check=True)


def test_every_public_name_has_its_home():
    assert all(callable(getattr(verify, name)) for name in verify.__all__)
    assert set(verify.__all__) <= set(dir(verify))
