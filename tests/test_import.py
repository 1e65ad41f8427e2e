"""Importing physml is cheap, and every public name is there."""

import statistics
import subprocess
import sys

import pytest

import physml

HEAVY = ("keras", "tensorflow", "jax", "matplotlib", "sklearn", "scores", "pint")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_loads_nothing_heavy_and_adds_little_to_xarray():
    code = (
        "import sys, time, xarray; before = set(sys.modules); start = time.perf_counter(); import physml; "
        f"print(time.perf_counter() - start, [m for m in {HEAVY} if m in set(sys.modules) - before])"
    )
    seconds = []
    for _ in range(5):
        took, loaded = run(code).split(" ", 1)
        assert loaded == "[]"
        seconds.append(float(took))
    assert statistics.median(seconds) <= 0.2


def test_plain_work_on_labels_needs_no_network_library():
    code = (
        "import sys, physml, xarray as xr, numpy as np\n"
        "from physml.testbeds import gyre\n"
        "ds = gyre.simulate(n_runs=1, n_steps=4, shape=(12, 16))\n"
        "spec = physml.FieldSpec(['tracer', 'u'], 'tracer', members='run', target_offsets=1, mask='wet')\n"
        "parts = physml.split_time(ds, ['2000-01-02'], spec)\n"
        "physml.Scaling.fit(ds, spec).layout.pack(ds, 'inputs')\n"
        "print([m for m in ('keras', 'tensorflow', 'jax', 'matplotlib') if m in sys.modules])"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize("name", physml.__all__)
def test_public_names_are_there(name):
    assert getattr(physml, name) is not None
    assert name in dir(physml)


@pytest.mark.parametrize("room", ["assimilation", "constraints", "data", "explain", "networks"])
def test_rooms_export_what_they_say(room):
    module = getattr(physml, room)
    for name in module.__all__:
        value = getattr(module, name)
        assert callable(value) or isinstance(value, dict), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        physml.nothing  # noqa: B018
