"""Studies on disk: one for each search, taken over from the dead, mended, and never worked at twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from damped import SPEC, build, data

from physml.tuning import between, leases, search
from physml.tuning.leases import Leases

HERE = Path(__file__).parent
SPACE = {"damping": between(0.0, 1.0, points=6), "idle": ["a", "b"]}


def found(folder, n_trials=6, space=SPACE, ds=None, make=build, **more):
    options = {"spec": SPEC, "method": "random", "validation": 2, "score": "rmse", **more}
    return search(make, space, data() if ds is None else ds, n_trials=n_trials, study=folder, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(space={"damping": [0.5]}), "is another search; space differ"),
        (dict(ds=data(seed=1)), "is another search; data differ"),
        (dict(seed=1), "seed differ. Expected: seed 0. Received: seed 1"),
        (dict(method="bayesian"), "method differ"),
        (dict(embargo=5), "folds differ"),
        (dict(score="mae"), "score_name differ"),
        (dict(batches={"missing": "mask"}), "batches differ. Expected: batches null"),
        (dict(scaling=lambda train, layout: None), "scaling differ"),
    ],
)
def test_the_study_of_another_search_is_refused(change, message, tmp_path):
    found(tmp_path / "s", 2)
    with pytest.raises(ValueError, match=message):
        found(tmp_path / "s", **change)


def test_a_study_is_not_gone_on_with_unasked(tmp_path):
    found(tmp_path / "s", 2)
    with pytest.raises(FileExistsError, match="there is a study in"):
        found(tmp_path / "s", resume=False)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is no study.*a folder of other files"):
        found(tmp_path / "t")


def test_what_is_done_is_not_done_again(tmp_path):
    first = found(tmp_path / "s")

    def never(params, scaling):
        raise AssertionError("built")

    again = found(tmp_path / "s", make=never)
    np.testing.assert_array_equal(first.dataset.score_fold, again.dataset.score_fold)
    assert not list((tmp_path / "s" / "leases").iterdir())


def test_an_interrupted_trial_begins_again_with_the_same_parameters(tmp_path):
    built = []

    def interrupted(params, scaling):
        built.append(params)
        if len(built) == 6:
            raise KeyboardInterrupt
        return build(params, scaling)

    with pytest.raises(KeyboardInterrupt):
        found(tmp_path / "s", make=interrupted)
    resumed = found(tmp_path / "s")
    assert resumed.parameters(2) == built[-1]
    np.testing.assert_array_equal(resumed.dataset.score_fold, found(None).dataset.score_fold)


def test_a_trial_that_only_lacks_its_end_is_not_built_again(tmp_path, monkeypatch):
    def dies(self, *args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("optuna.study.Study.tell", dies)
        found(tmp_path / "s", 1)

    def never(params, scaling):
        raise AssertionError("built")

    again = found(tmp_path / "s", 1, make=never).dataset
    np.testing.assert_array_equal(again.score, found(None, 1).dataset.score)


def test_the_half_written_line_of_a_crash_is_cut_off(tmp_path):
    whole = found(tmp_path / "s")
    with (tmp_path / "s" / "journal.log").open("a") as file:
        file.write('{"op_code": 5, "worker')
    longer = found(tmp_path / "s", 8)
    np.testing.assert_array_equal(longer.dataset.score[:6], whole.dataset.score)


def test_a_trial_is_leased_to_one(tmp_path):
    one, two = Leases(tmp_path), Leases(tmp_path)
    assert one.take(0)
    assert not two.take(0)
    one.release(0)
    assert two.take(0)
    assert two.deaths(0) == 0
    two.finish(0)
    assert not list(tmp_path.iterdir())
    one.close()
    two.close()


def test_the_trials_of_the_dead_are_taken_and_those_of_the_living_are_not(tmp_path, monkeypatch):
    mine = Leases(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = leases._host()
    for number, (where, process) in enumerate([(host, dead.pid), (host, os.getppid()), ("elsewhere", dead.pid)]):
        told = {"host": where, "process": process, "released": False}
        (tmp_path / f"{number}.0.lease").write_text(json.dumps(told))
    assert mine.take(0)
    assert mine.deaths(0) == 1
    assert not mine.take(1)
    assert not mine.take(2), "its machine gave a sign of life just now"
    old = time.time() - 2 * leases.SILENCE
    os.utime(tmp_path / "2.0.lease", (old, old))
    assert mine.take(2)
    mine.close()


def test_a_trial_that_kills_its_process_every_time_is_given_up(tmp_path, monkeypatch):
    """Three processes died at trial 0: the search goes on without it."""
    stopped = found(tmp_path / "s", 1, timeout=None)
    assert stopped.dataset.sizes["trial"] == 1

    def interrupted(params, scaling):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found(tmp_path / "s", 3, make=interrupted)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for attempt in range(3):
        told = {"host": leases._host(), "process": dead.pid, "released": False}
        (tmp_path / "s" / "leases" / f"1.{attempt}.lease").write_text(json.dumps(told))
    ds = found(tmp_path / "s", 3).dataset
    assert ds.state.values.tolist() == ["complete", "failed", "complete"]
    assert "its process died 3 times" in str(ds.error[1].values)


SCRIPT = """
    import sys, time
    sys.path.insert(0, {here!r})
    from damped import SPEC, build, data
    from physml.tuning import between, search

    def slow(params, scaling):
        time.sleep({pause})
        return build(params, scaling)

    search(slow, {{"damping": between(0.0, 1.0, points=6), "idle": ["a", "b"]}}, data(), spec=SPEC, method={method!r},
           n_trials={n}, validation=2, score="rmse", study={folder!r})
"""


def start(folder, method, n, pause):
    text = textwrap.dedent(SCRIPT).format(here=str(HERE), folder=str(folder), method=method, n=n, pause=pause)
    return subprocess.Popen([sys.executable, "-c", text])


@pytest.mark.long
@pytest.mark.parametrize("method", ["grid", "random", "bayesian"])
def test_a_killed_search_resumes_and_is_the_one_that_was_never_killed(method, tmp_path):
    folder, n = tmp_path / "s", 12
    kept = 0
    for _ in range(2):
        process = start(folder, method, n, 0.3)
        deadline = time.time() + 120
        while time.time() < deadline and finished(folder) < kept + 3:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert finished(folder) >= kept + 3
        kept = finished(folder)
    assert kept < n
    built = []

    def counting(params, scaling):
        built.append(params)
        return build(params, scaling)

    resumed = found(folder, n, method=method, make=counting).dataset
    assert len(built) == 2 * (n - kept), "what had ended is not built again"
    whole = found(None, n, method=method).dataset
    for name in ("damping", "idle", "score_fold", "state"):
        np.testing.assert_array_equal(whole[name], resumed[name])


def finished(folder):
    journal = folder / "journal.log"
    return journal.read_text().count('"outcome"') if journal.exists() else 0


@pytest.mark.long
def test_several_processes_work_at_one_study_and_no_trial_twice(tmp_path):
    folder = tmp_path / "s"
    jobs = [start(folder, "random", 16, 0.2) for _ in range(3)]
    assert [j.wait(240) for j in jobs] == [0, 0, 0]

    def never(params, scaling):
        raise AssertionError("built")

    ds = found(folder, 16, make=never).dataset
    assert ds.state.values.tolist() == ["complete"] * 16
    np.testing.assert_array_equal(ds.score_fold, found(None, 16).dataset.score_fold)


@pytest.mark.long
@pytest.mark.parametrize("on_disk", [True, False])
def test_the_workers_of_a_cluster_share_the_trials(on_disk, tmp_path):
    found_there = found(tmp_path / "s" if on_disk else None, 12, workers=2).dataset
    np.testing.assert_array_equal(found_there.score_fold, found(None, 12).dataset.score_fold)
