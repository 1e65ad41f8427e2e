"""All learners alike: fitted to what is for training, asked by name, saved to files that run nothing."""

import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import skops.io
import xarray as xr
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

import physml
from physml import FieldSpec, split_time
from physml.learners import (
    LEARNER_NAMES,
    Climatology,
    DampedPersistence,
    Forest,
    Learner,
    Linear,
    Persistence,
    Ridge,
    load,
)

SPEC = FieldSpec(["t", "wind"], "t", target_offsets=(1, 2), mask="wet")
MAKE = {
    "Climatology": lambda spec: Climatology(spec, spread=True),
    "DampedPersistence": lambda spec: DampedPersistence(spec, spread=True),
    "Forest": lambda spec: Forest(spec, n_trees=3, min_samples_leaf=5, spread=True),
    "Linear": lambda spec: Linear(spec),
    "Persistence": lambda spec: Persistence(spec, spread=True),
    "Ridge": lambda spec: Ridge(spec, 1.0, eofs=3, by="month"),
}


def test_every_learner_is_here():
    assert set(MAKE) == set(LEARNER_NAMES)


@pytest.mark.parametrize("name", MAKE)
def test_a_learner_is_fitted_predicts_and_comes_back_from_its_file(name, ocean, same, tmp_path):
    learner = MAKE[name](SPEC)
    with pytest.raises(RuntimeError, match=f"{name} is not fitted"):
        learner.predict(ocean)
    assert learner.fit(ocean) is learner
    assert isinstance(learner, Learner)
    out = physml.predict(learner, ocean.chunk(time=20))
    assert out.t.dims == ("time", "lead", "lat", "lon")
    assert out.t.chunks is not None
    assert bool(out.t.isnull().equals(out.t.isnull() | ~ocean.wet))
    assert out.attrs["title"] == "made up"
    assert f"predict with {name}" in out.attrs["history"]
    assert out.attrs["physml_model_learner"] == name
    learner.save(tmp_path / "l.learner")
    again = load(tmp_path / "l.learner")
    assert type(again) is type(learner)
    assert again.provenance == learner.provenance
    assert again.to_config() == learner.to_config()
    same(again.predict(ocean), learner.predict(ocean))


@pytest.mark.parametrize("name", MAKE)
def test_parts_that_judge_and_incomplete_data_are_refused(name, ocean):
    learner = MAKE[name](SPEC)
    split = split_time(ocean, ["2003-12"], SPEC)
    with pytest.raises(ValueError, match="these data are the validation part of a split"):
        learner.fit(split.validation)
    with pytest.raises(KeyError, match="'wind' is not in the Dataset"):
        learner.fit(ocean.drop_vars("wind"))
    with pytest.raises(ValueError, match="the training data are empty"):
        learner.fit(ocean.isel(time=slice(0, 0)))
    hole = ocean.copy(deep=True)
    hole["t"][20, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"'t.*' is missing on valid cells at time 2001-(09|08|07)-15"):
        learner.fit(hole)
    with pytest.raises(RuntimeError, match="is not fitted"):
        learner.layout  # noqa: B018
    learner.fit(split.train)
    assert "2003-12-15" in learner.provenance["period"]
    assert learner.predict(split.validation).sizes["time"] == split.validation.sizes["time"]


@pytest.mark.parametrize("name", ["DampedPersistence", "Forest", "Ridge"])
def test_inputs_missing_on_valid_cells_are_refused_when_they_are_predicted_from(name, ocean):
    learner = MAKE[name](SPEC).fit(ocean)
    hole = ocean.copy(deep=True)
    hole["t"][20, 0, 0] = np.nan
    out = learner.predict(hole.chunk(time=20))
    with pytest.raises(ValueError, match="input 't' is missing on valid cells"):
        out.compute()
    with pytest.raises(ValueError, match="other units than before"):
        learner.predict(ocean.assign(t=ocean.t.assign_attrs(units="m")))


def test_a_failed_fit_leaves_what_was_learned_before(ocean, same):
    learner = Climatology(SPEC).fit(ocean)
    before = learner.predict(ocean)
    with pytest.raises(ValueError, match="no sample in July"):
        learner.fit(ocean.isel(time=slice(0, 6)))
    same(learner.predict(ocean), before)


def rewritten(path, **changes):
    """Write a learner's file anew with some of its members changed."""
    with zipfile.ZipFile(path) as file:
        parts = {n: file.read(n) for n in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {**parts, **changes}.items():
            file.writestr(name, data)


def test_files_that_are_no_learners_are_refused(tmp_path, ocean):
    path = tmp_path / "a.learner"
    with pytest.raises(FileNotFoundError, match="no learner at"):
        load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"is no learner that can be read.*BadZipFile"):
        load(path)
    Climatology(SPEC).fit(ocean).save(path)
    with pytest.raises(FileNotFoundError, match=r"did you mean 'a.learner'"):
        load(tmp_path / "b.learner")
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read("learner.json"))
    rewritten(path, **{"learner.json": json.dumps(config | {"learner": "Climatolgy"})})
    with pytest.raises(ValueError, match="'Climatolgy'; did you mean 'Climatology'"):
        load(path)
    rewritten(path, **{"learner.json": json.dumps(config | {"format": 99})})
    with pytest.raises(ValueError, match="of a later version of physml"):
        load(path)
    buffer = io.BytesIO()
    np.savez(buffer, mean=np.array([print], dtype=object))
    rewritten(path, **{"learner.json": json.dumps(config), "state.npz": buffer.getvalue()})
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        load(path)


def test_forests_that_were_tampered_with_are_refused(tmp_path, ocean):
    path = tmp_path / "forest.learner"
    forest = Forest(SPEC, n_trees=2, min_samples_leaf=30).fit(ocean)

    def becomes(model):
        forest.save(path)
        data = model if isinstance(model, bytes) else skops.io.dumps(model)
        rewritten(path, **{"more/forest.skops": data})
        return pytest.raises(ValueError, match=r"not one that physml wrote|no learner that can be read")

    class Own(RandomForestRegressor):
        pass

    x, y = np.zeros((9, 2), "float32"), np.arange(18.0).reshape(9, 2)
    x[:, 0] = np.arange(9)
    with becomes(LinearRegression().fit(x, y)) as told:
        load(path)
    assert "a LinearRegression in place of a RandomForestRegressor" in str(told.value)
    with becomes(Own(2).fit(x, y)) as told:
        load(path)
    assert "types that a forest does not hold" in str(told.value)
    with becomes(RandomForestRegressor(2).fit(x[:, :1], y)) as told:
        load(path)
    assert "1 features and 2 outputs in place of 2 and 2" in str(told.value)
    with becomes(b"PK not an archive"):
        load(path)
    for field, value in (("left_child", 10**6), ("left_child", 0), ("feature", 7)):
        broken = RandomForestRegressor(2, random_state=0).fit(x, y)
        tree = broken.estimators_[1].tree_
        state = tree.__getstate__()
        state["nodes"][field][0] = value
        tree.__setstate__(state)
        with becomes(broken) as told:
            load(path)
        assert "nodes point out of it" in str(told.value)
    forest.save(path)
    assert load(path).predict(ocean).t.equals(forest.predict(ocean).t)


def test_data_without_space_are_learned_from_too(same):
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    ds = xr.Dataset({"x": ("time", x), "y": ("time", 2 * x + 1)}, {"time": np.arange(60)})
    spec = FieldSpec("x", "y", target_offsets=0)
    assert float(abs(Linear(spec).fit(ds).predict(ds).y - ds.y).max()) < 1e-12
    forest = Forest(spec, n_trees=5, spread=True).fit(ds)
    same(forest.predict(ds.chunk(time=7)), forest.predict(ds))


def test_a_spread_that_would_take_the_name_of_an_input_is_refused(ocean):
    ds = ocean.assign(t_std=ocean.wind)
    with pytest.raises(ValueError, match="would answer 't_std', which is the name of an input"):
        Climatology(FieldSpec(["t", "t_std"], "t", target_offsets=1, mask="wet"), spread=True).fit(ds).predict(ds)


def test_offsets_by_variable_levels_members_and_calendars_survive_the_file(same, tmp_path):
    rng = np.random.default_rng(0)
    time = xr.date_range("2000-01-01", periods=400, freq="D", calendar="noleap", use_cftime=True)
    ds = xr.Dataset(
        {
            "t": (("run", "time", "z", "x"), rng.normal(size=(2, 400, 2, 3)), {"units": "degC"}),
            "u": (("run", "time", "x"), rng.normal(size=(2, 400, 3)).astype("float32")),
        },
        {"time": time, "z": ["top", "deep"], "run": [1, 2]},
    )
    spec = FieldSpec(
        ["t", "u"], "t", input_offsets={"t": 0, "u": (-1, 0)}, target_offsets=("2D", "5D"), levels="z", members="run"
    )
    for learner in (
        Forest(spec, n_trees=2, max_rows=100),
        Forest(spec, samples="maps", n_trees=2),
        Ridge(spec, 1.0, by="month", samples="maps", eofs=2, harmonics=2),
        DampedPersistence(spec, per="month", spread=True),
    ):
        learner.fit(ds).save(tmp_path / "l.learner")
        out = learner.predict(ds)
        assert out.t.dims == ("run", "time", "lead", "z", "x")
        assert out.lead.values.tolist() == [2, 5]
        same(load(tmp_path / "l.learner").predict(ds.chunk(time=50, run=1)), out)


def test_a_fit_that_fails_leaves_what_was_fitted_before(ocean, same):
    learner = Linear(SPEC).fit(ocean)
    before = learner.predict(ocean)
    holed = ocean.isel(lon=slice(0, 3)).copy(deep=True)
    holed.t[30, 0, 0] = np.nan
    with pytest.raises(ValueError, match="missing on valid cells"):
        learner.fit(holed)
    same(learner.predict(ocean), before)
    fresh = Linear(SPEC)
    with pytest.raises(ValueError, match="missing on valid cells"):
        fresh.fit(holed)
    with pytest.raises(RuntimeError, match="Linear is not fitted"):
        fresh.predict(ocean)


def test_what_is_learned_of_members_is_learned_of_all_their_samples():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 40))
    ds = xr.Dataset(
        {"x": (("run", "time"), x), "y": (("run", "time"), x**2)}, {"time": np.arange(40), "run": [0, 1, 2]}
    )
    learner = Linear(FieldSpec("x", "y", members="run")).fit(ds)
    peer = LinearRegression().fit(x.reshape(-1, 1), x.reshape(-1) ** 2)
    np.testing.assert_allclose(learner.state["coef"].ravel(), peer.coef_, rtol=1e-10)


def test_learners_are_named_without_a_network_library_or_scikit_learn():
    code = (
        "import sys, physml.learners as l; [getattr(l, n) for n in (*l.LEARNER_NAMES, 'EOF', 'load')]; "
        "print(sorted({'keras', 'tensorflow', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
