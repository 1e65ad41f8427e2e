"""Optimal inputs are those of the closed forms where there are some, and obey the laws they are given."""

import keras
import numpy as np
import pytest
import xarray as xr

from physml.constraints import Conserve, NonNegative, Simplex
from physml.explain import Explainer, area_mean, backward_optimisation, field, on_tensors, zero
from physml.fields import FieldSpec

COEF = np.array([2.0, -1.0, 0.5])


@on_tensors
def linear(x):
    return keras.ops.sum(x * keras.ops.cast(COEF, x.dtype), -1, keepdims=True)


@pytest.fixture
def positive(ds):
    """Samples whose tracer is nowhere negative, and often little."""
    return ds.assign(tracer=abs(ds.tracer).assign_attrs(ds.tracer.attrs))


@pytest.fixture
def explainer(layout):
    return Explainer(linear, zero(layout), target=area_mean(), layout=layout)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((4, 6, 3)), dense(8, "gelu"), dense(8, "tanh"), dense(1)])


def slopes(ds, layout):
    """Return the gradient of the linear target in standardised inputs, and the standard deviations, by valid cell."""
    packed = layout.pack(ds, "inputs").astype("float64").values
    there = layout.valid("inputs")
    sd = np.sqrt(np.stack([packed[..., c].var(0)[there[..., c]].mean() for c in range(3)]))
    share = layout.weights / layout.weights.sum()
    g = (share[..., None] * COEF * sd)[there]
    return g, np.broadcast_to(sd, there.shape)[there], packed, there


def control(result, layout, sd, there):
    """Return the change of the inputs in standard deviations ``[sample, cell]``."""
    change = xr.concat([result[f"{n}_difference"] for n in ("tracer", "u", "v")], "channel")
    return change.transpose("time", "lat", "lon", "channel").values[:, there] / sd


@pytest.mark.parametrize(("aim", "sign"), [("greatest", 1), ("least", -1)])
def test_within_a_distance_a_linear_target_gains_the_length_of_its_gradient(explainer, ds, layout, aim, sign):
    g, sd, _, there = slopes(ds, layout)
    start = ds.isel(time=slice(2))
    found = explainer.backward_optimisation(start, aim, background=ds, within=0.5, steps=100)
    np.testing.assert_allclose(
        found.target_after - found.target_before, sign * 0.5 * g.size**0.5 * np.linalg.norm(g), rtol=1e-4
    )
    np.testing.assert_allclose(found.distance, 0.5, rtol=1e-6)
    expected = sign * 0.5 * g.size**0.5 * g / np.linalg.norm(g)
    np.testing.assert_allclose(control(found, layout, sd, there)[0], expected, atol=0.01 * abs(expected).max())
    assert found.converged.all()


def test_a_penalty_is_balanced_by_the_gradient(explainer, ds, layout):
    g, sd, _, there = slopes(ds, layout)
    found = explainer.backward_optimisation(ds.isel(time=[0]), background=ds, penalty=2.0, steps=200)
    expected = g.size * g / 2.0
    np.testing.assert_allclose(control(found, layout, sd, there)[0], expected, atol=0.01 * abs(expected).max())


def test_a_value_is_reached_by_the_shortest_way(explainer, ds, layout):
    g, sd, _, there = slopes(ds, layout)
    found = explainer.backward_optimisation(ds.isel(time=[3]), 1.5, background=ds, steps=200)
    assert float(found.target_after[0]) == pytest.approx(1.5, abs=1e-3)
    way = (1.5 - float(found.target_before[0])) * g / (g @ g)
    np.testing.assert_allclose(control(found, layout, sd, there)[0], way, atol=0.01 * abs(way).max())


def test_with_modes_the_change_looks_like_the_covariance_of_the_background_times_the_gradient(explainer, ds, layout):
    g, sd, packed, there = slopes(ds, layout)
    z = (packed - packed.mean(0))[:, there] / sd
    s, e = np.linalg.eigh(z.T @ z / len(z))
    s[:-3] = s[:-3].mean()
    b = (e * s) @ e.T
    found = explainer.backward_optimisation(ds.isel(time=[0]), background=ds, within=0.5, modes=3, steps=150)
    np.testing.assert_allclose(found.target_after - found.target_before, 0.5 * (g.size * (g @ b @ g)) ** 0.5, rtol=1e-4)
    way = 0.5 * g.size**0.5 * b @ g / (g @ b @ g) ** 0.5
    np.testing.assert_allclose(control(found, layout, sd, there)[0], way, atol=0.01 * abs(way).max())


def test_laws_hold_and_the_optimum_is_that_of_the_quadratic_programme(explainer, positive, layout):
    """Without a sum the programme falls apart into cells: each goes where the penalty sends it, or to its bound."""
    g, sd, packed, there = slopes(positive, layout)
    start = positive.isel(time=slice(3))
    settings = {"background": positive, "penalty": 1.0, "steps": 150}
    found = explainer.backward_optimisation(start, "least", laws=[NonNegative("tracer")], **settings)
    free = packed[:3][:, there] - g.size * g * sd
    tracer = np.broadcast_to(np.arange(3) == 0, there.shape)[there]
    expected = np.where(tracer, np.maximum(free, 0), free)
    got = packed[:3][:, there] + sd * control(found, layout, sd, there)
    np.testing.assert_allclose(got, expected, atol=0.02)
    assert float(found.tracer.min()) >= -1e-12 and (expected == 0).any()
    assert (found.left < 0.05).all()


def test_within_a_distance_and_bounds_the_optimum_is_a_clipped_gradient(explainer, positive, layout):
    """The conditions of Karush, Kuhn and Tucker: every cell goes along the gradient as far as its bound, all equally far."""
    g, sd, packed, there = slopes(positive, layout)
    found = explainer.backward_optimisation(
        positive.isel(time=[1]), "least", background=positive, laws=NonNegative("tracer"), within=1.0, steps=40
    )
    tracer = np.broadcast_to(np.arange(3) == 0, there.shape)[there]
    lowest = np.where(tracer, -packed[1][there] / sd, -np.inf)
    low, high = 0.0, 1e4
    for _ in range(60):
        c = 0.5 * (low + high)
        v = np.maximum(-c * g, lowest)
        low, high = (c, high) if (v**2).mean() < 1 else (low, c)
    assert (v == lowest).any() and float(found.distance[0]) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(control(found, layout, sd, there)[0], v, atol=0.02 * abs(v).max())
    assert found.converged.all() and float(found.tracer.min()) >= 0


def test_what_a_sum_holds_is_not_gained(explainer, positive, layout):
    start = positive.isel(time=slice(2))
    laws = [NonNegative("tracer"), Conserve("tracer", ("lat", "lon"), "cell_area")]
    found = explainer.backward_optimisation(start, background=positive, vary="tracer", laws=laws, within=0.5, steps=6)
    total = (start.tracer.astype("float64") * start.cell_area).sum(("lat", "lon"))
    np.testing.assert_allclose((found.tracer * start.cell_area).sum(("lat", "lon")), total, rtol=1e-6)
    np.testing.assert_allclose(found.target_after, found.target_before, rtol=1e-5)
    assert float(abs(found.u_difference).max()) == 0


@pytest.mark.parametrize("aim", ["greatest", pytest.param(0.1, marks=pytest.mark.long)])
def test_a_network_follows_its_gradient_and_blocks_do_not_matter(network, ds, layout, aim):
    explainer = Explainer(network, zero(layout), target=area_mean(), layout=layout)
    start = ds.isel(time=slice(5))
    settings = {"background": ds, "within": 0.4 if aim == "greatest" else 1.5, "steps": 40}
    eager = backward_optimisation(explainer, start, aim, **settings)
    if aim == "greatest":
        assert (eager.target_after > eager.target_before + 0.1).all()
    else:
        np.testing.assert_allclose(eager.target_after, 0.1, atol=5e-3)
    np.testing.assert_array_equal(eager.history.isel(step=0), eager.target_before)
    assert (eager.tracer.notnull() == ds.wet).all() and eager.tracer.attrs["units"] == "kg m-3"
    np.testing.assert_allclose(eager.tracer - eager.tracer_difference, start.tracer, atol=1e-6)
    lazy = backward_optimisation(explainer, start.chunk(time=2), aim, **settings)
    assert lazy.tracer.chunks is not None
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), eager.drop_attrs(), atol=1e-4)


def test_what_cannot_be_optimised_is_refused_by_name(explainer, ds, positive, layout):
    one = ds.isel(time=[0])
    for wrong, text in (
        ({}, r"nothing bounds the distance from the start.*Remedy: pass within=0\.5"),
        ({"aim": "most", "within": 1}, "aim 'most' is unknown"),
        ({"aim": float("nan")}, "aim nan is unknown. Expected: one of .*, or a finite value"),
        ({"aim": None, "within": 1}, "aim None is unknown"),
        ({"aim": 3.0, "within": -1}, "within is not positive"),
        ({"within": 1, "modes": 99}, "the background is too short for 99 modes"),
        ({"within": 1, "background": one}, "the background is too short. Expected: 2 samples or more. Received: 1"),
        ({"within": 1, "vary": []}, "no input may change"),
        ({"within": 1, "steps": 0}, "steps is out of range"),
        ({"within": 1, "laws": NonNegative("tracer")}, "the start breaks the laws"),
    ):
        with pytest.raises(ValueError, match=text):
            backward_optimisation(explainer, one, **{"background": ds, **wrong})
    with pytest.raises(KeyError, match="vary names the unknown input 'tracr'; did you mean 'tracer'"):
        backward_optimisation(explainer, one, background=ds, within=1, vary="tracr")
    with pytest.raises(KeyError, match="a law speaks of 'salt', which is no input"):
        backward_optimisation(explainer, one, background=ds, within=1, laws=NonNegative("salt"))
    whole = Explainer(linear, zero(layout), target=field(), layout=layout)
    with pytest.raises(ValueError, match="has no gradient to follow"):
        backward_optimisation(whole, one, background=ds, within=1)


def test_laws_apply_at_every_offset_their_inputs_share(positive):
    spec = FieldSpec(["tracer", "u"], "tracer", input_offsets={"tracer": (-1, 0), "u": (-1,)}, mask="wet")
    layout = spec.bind(positive)
    explainer = Explainer(
        on_tensors(lambda x: x[..., :1] + x[..., 1:2]), zero(layout), target=area_mean(), layout=layout
    )
    few = positive.isel(time=slice(4))
    settings = {"background": positive, "within": 1.0, "steps": 5}
    found = explainer.backward_optimisation(few, "least", laws=NonNegative("tracer"), **settings)
    assert found.tracer.sizes["lead"] == 2 and float(found.tracer.min()) >= 0
    assert (found.tracer_difference.min(("time", "lat", "lon")) < -0.1).all()
    apart = FieldSpec(["tracer", "u"], "tracer", input_offsets={"tracer": (0,), "u": (-1,)}, mask="wet").bind(positive)
    other = Explainer(on_tensors(lambda x: x[..., :1]), zero(apart), target=area_mean(), layout=apart)
    with pytest.raises(ValueError, match="binds inputs that never come together"):
        other.backward_optimisation(few, laws=Simplex(["tracer", "u"]), **settings)
