"""Completion: one output takes what the others leave, exactly, whatever the network said of it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from keras import ops

from physml import (
    Budget,
    Closure,
    Completion,
    Constraints,
    FieldModel,
    FieldSpec,
    NonNegative,
    Scaling,
    _backend,
    load,
    networks,
)

LEVELS = [100.0, 500.0, 900.0]
LAW = Budget({"heat": 2.0, "moist": 3.0, "flux": -1.0}, over="level", weights="dp", name="column")


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    shape = (6, 4, 3)
    level = xr.Variable("level", LEVELS)
    ds = xr.Dataset(
        {n: (("case", "x", "level"), rng.normal(size=shape)) for n in ("heat", "moist")}
        | {
            "dp": (("case", "x", "level"), rng.uniform(0.5, 1.5, shape)),
            "flux": (("case", "x"), rng.normal(size=(6, 4))),
        },
        {"case": np.arange(6), "x": np.arange(4), "level": level},
    )
    return ds.astype("float64")


SPEC = FieldSpec(["dp", "flux"], ["heat", "moist"], sample_dim="case", levels="level")


def tensors(ds, names):
    return {n: ops.convert_to_tensor(ds[n].values.reshape(6, 4, -1)) for n in names}


def project(ds, laws):
    laws = Constraints(laws)
    layout = laws.bind(SPEC.bind(ds))
    with _backend.float64():
        x, y = tensors(ds, ("dp", "flux")), tensors(ds, ("heat", "moist"))
        out = laws.project(y, x, layout)
        return {n: np.asarray(v) for n, v in out.items()}, np.asarray(
            laws.residuals(out, x, layout)["completion_column"]
        )


def test_one_level_of_one_variable_takes_the_whole_residual(columns):
    out, residual = project(columns, Completion(LAW, "moist", level=500.0))
    np.testing.assert_array_equal(out["heat"], columns.heat)
    np.testing.assert_array_equal(out["moist"][..., [0, 2]], columns.moist[..., [0, 2]])
    others = (2 * columns.dp * columns.heat).sum("level") + (3 * columns.dp * columns.moist).isel(level=[0, 2]).sum(
        "level"
    )
    np.testing.assert_allclose(out["moist"][..., 1], (columns.flux - others) / (3 * columns.dp[..., 1]), rtol=1e-12)
    assert np.abs(residual).max() < 1e-13


def test_what_the_network_said_of_it_does_not_matter(columns):
    one, _ = project(columns, Completion(LAW, "heat", level=900.0))
    two, _ = project(
        columns.assign(heat=columns.heat.where(columns.level != 900, 77.0)), Completion(LAW, "heat", 900.0)
    )
    for n in one:
        np.testing.assert_allclose(one[n], two[n], rtol=1e-11)


def test_its_gradient_is_that_of_finite_differences(columns):
    laws = Constraints(Completion(LAW, "moist", level=500.0))
    layout = laws.bind(SPEC.bind(columns))
    upstream = {n: np.random.default_rng(k).normal(size=(6, 4, 3)) for k, n in enumerate(("heat", "moist"))}

    def value(packed):
        with _backend.float64():
            x = tensors(columns, ("dp",)) | {"flux": packed[..., 6:]}
            out = laws.project({"heat": packed[..., :3], "moist": packed[..., 3:6]}, x, layout)
            return sum(ops.sum(out[n] * ops.convert_to_tensor(g)) for n, g in upstream.items())

    at = np.concatenate([columns.heat, columns.moist, columns.flux.values[..., None]], axis=-1)
    with _backend.float64():
        _, gradient = _backend.value_and_gradient(value, at)
        for k in range(3):
            step = 1e-5 * np.random.default_rng(10 + k).normal(size=at.shape)
            change = float(value(ops.convert_to_tensor(at + step))) - float(value(ops.convert_to_tensor(at - step)))
            np.testing.assert_allclose((gradient * step).sum(), change / 2, rtol=1e-7)


def test_in_every_cell_it_is_the_definition_of_the_residual(columns):
    a, b = (columns.heat.isel(level=k, drop=True) for k in (0, 1))
    ds = xr.Dataset({"flux": columns.flux, "a": a, "b": b, "net": columns.flux * 0})
    law = Completion(Closure("net", sources="flux", sinks=("a", "b")), "net")
    out = law.apply(ds[["a", "b", "net"]], ds[["flux"]], sample_dim="case")
    xr.testing.assert_allclose(out.net, ds.flux - ds.a - ds.b)
    xr.testing.assert_identical(out.a, ds.a)


def test_a_saved_model_completes_as_before(columns, tmp_path):
    ds = columns.astype("float32")
    scaling = Scaling.fit(ds, SPEC)
    law = Completion(LAW, "moist", level=900.0)
    model = FieldModel(networks.mlp(scaling.layout), scaling=scaling, constraints=law)
    x = scaling.layout.pack(ds, "inputs").values
    model.save(tmp_path / "m.keras")
    again = load(tmp_path / "m.keras")
    assert list(again.constraints) == [law]
    np.testing.assert_array_equal(again.predict_on_batch(x), model.predict_on_batch(x))
    assert repr(Constraints.from_config(Constraints([law]).to_config())) == repr(Constraints([law]))


@pytest.mark.parametrize(
    ("law", "error", "words"),
    [
        (Completion(LAW, "flux", 100.0), KeyError, r"Completion of 'column': 'flux' is no output.*\('heat', 'moist'\)"),
        (
            Completion(LAW, "heat"),
            ValueError,
            r"does not know which value of 'heat' along 'level'.*\[100.0, 500.0, 900.0\]",
        ),
        (
            Completion(Budget({"heat": 1.0, "moist": 1.0}), "heat", 100.0),
            ValueError,
            r"sums over no dimension.*leave level out",
        ),
        (
            Completion(Budget({"heat": 1.0}, over=("x", "level")), "heat", 100.0),
            ValueError,
            r"no single value.*the projection",
        ),
        (
            Completion(Budget({"heat": "none", "moist": 1.0}, over="level"), "heat", 500.0),
            ValueError,
            r"'heat' cannot close it, its coefficient is zero.*0 in 1 of 4 sums.*another variable or level",
        ),
    ],
)
def test_what_cannot_close_a_budget_is_refused(columns, law, error, words):
    columns["none"] = columns.dp[0].drop_vars("case") * (columns.x != 2)
    with pytest.raises(error, match=words):
        Constraints(law).bind(SPEC.bind(columns))


def test_a_budget_of_unknown_type_is_refused():
    with pytest.raises(ValueError, match=r"unknown budget 'Closur'; did you mean 'Closure'\?"):
        Completion({"type": "Closur"}, "a")


def test_a_bound_on_the_completed_variable_that_opens_the_budget_is_told(columns):
    laws = Constraints([Completion(LAW, "moist", level=500.0), NonNegative("moist")])
    with pytest.raises(ValueError, match=r"completion_column cannot be satisfied together with the other laws"):
        laws.apply(columns[["heat", "moist"]], columns[["dp", "flux"]], sample_dim="case", levels="level")
