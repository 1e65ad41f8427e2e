"""Integrated gradients of a function with kinks are exact where its paths are cut at them."""

import keras
import numpy as np
import pytest
import xarray as xr

from physml.explain import Explainer, area_mean, on_tensors, samples, sanity, zero
from physml.explain.gradients.kinks import located
from physml.fields import FieldSpec

FREEZING = -0.4


def bent(x):
    """Return max(t, freezing)^3 + |u| v: cubic along any path between its kinks."""
    t, u, v = x[..., :1], x[..., 1:2], x[..., 2:]
    return keras.ops.maximum(t, FREEZING) ** 3 + keras.ops.abs(u) * v


def along(a, b, f, at):
    """Return the integral over the path from b to a of f, by fine mid-points between its kinks *at* of shape [..., piece]."""
    points = (np.arange(400) + 0.5) / 400
    ends = np.sort(np.clip(np.concatenate([np.zeros((*at.shape[:-1], 1)), at, np.ones((*at.shape[:-1], 1))], -1), 0, 1))
    t = ends[..., :-1, None] + np.diff(ends)[..., None] * points
    return (f(b[..., None, None] + t * (a - b)[..., None, None], t) * np.diff(ends)[..., None]).sum((-1, -2)) / 400


@pytest.fixture
def stacked(ds):
    return [ds[n].fillna(0).values.astype("float64") for n in ("tracer", "u", "v")]


def test_two_points_on_each_piece_are_exact_for_any_baseline(ds, layout, stacked):
    base = samples(ds, layout, 2, seed=0)
    explainer = Explainer(on_tensors(bent), base, None, area_mean(), layout=layout)
    few = ds.isel(time=slice(0, 5))
    kinks = {"tracer": [FREEZING], "u": xr.zeros_like(ds.cell_area)}
    result = explainer.gradients(few, "integrated", kinks=kinks, steps=2)
    assert abs(result.residual).max() < 2e-6
    assert abs(explainer.gradients(few, "integrated", steps=2).residual).max() > 1e-3
    truth = np.zeros((3, 5, 4, 6))
    for row in base.rows:
        (t, u, v), (t0, u0, v0) = (a[:5] for a in stacked), np.moveaxis(np.broadcast_to(row, (5, 4, 6, 3)), -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            cut = [
                np.nan_to_num((k - b) / (a - b), posinf=0, neginf=0)[..., None]
                for k, a, b in ((FREEZING, t, t0), (0, u, u0))
            ]
        truth[0] += (t - t0) * along(t, t0, lambda x, _: 3 * x**2 * (x > FREEZING), cut[0]) / 2
        u_slope = lambda x, s, v=v, v0=v0: np.sign(x) * (v0[..., None, None] + s * (v - v0)[..., None, None])  # noqa: E731
        truth[1] += (u - u0) * along(u, u0, u_slope, cut[1]) / 2
        truth[2] += (v - v0) * along(u, u0, lambda x, _: abs(x), cut[1]) / 2
    share = (ds.cell_area / ds.cell_area.sum()).values
    np.testing.assert_allclose(result.attribution.where(ds.wet, 0), truth * share, atol=2e-6)


def test_kinks_hold_at_all_offsets_and_at_their_own_levels_and_not_on_land(ds):
    deep = xr.concat([ds.tracer, ds.tracer + 1], xr.Variable("depth", [5.0, 50.0])).to_dataset(name="tracer")
    deep = deep.assign(wet=ds.wet, cell_area=ds.cell_area)
    spec = FieldSpec("tracer", "tracer", input_offsets=(-1, 0), levels={"depth": None}, mask="wet", area="cell_area")
    layout = spec.bind(deep)
    levels = xr.DataArray([0.25, np.nan], dims="depth")
    places, values = located({"tracer": levels}, layout)
    channel = places % 4
    assert sorted(set(channel.tolist())) == [0, 2] and len(places) == 2 * int(ds.wet.sum())
    assert set(values.tolist()) == {0.25}
    everywhere, _ = located({"tracer": [0.0, 0.25]}, layout)
    assert len(everywhere) == 2 * 4 * int(ds.wet.sum())


def test_tolerances_add_points_to_the_pieces_and_rows_tell_what_was_asked(ds, layout):
    explainer = Explainer(on_tensors(bent), zero(layout), None, area_mean(), layout=layout)
    few = ds.isel(time=slice(0, 3))
    once = explainer.gradients(few, "integrated", kinks={"tracer": [FREEZING]})
    more = explainer.gradients(few, "integrated", kinks={"tracer": [FREEZING]}, tol=1e-6)
    assert (more.steps == 2).all() and more.converged.all()  # three multiples of a row: one and then two points a piece
    np.testing.assert_array_equal(more.rows, 3 * once.rows)
    settled = sanity.convergence(
        lambda n: explainer.gradients(few, "integrated", kinks={"tracer": [FREEZING]}, steps=n), (1, 2)
    )
    np.testing.assert_allclose(settled.rows, [float(once.rows.mean()), 2 * float(once.rows.mean())])
    below = (few.tracer < FREEZING).sum(("lat", "lon"))
    np.testing.assert_array_equal(once.rows, 1 + below)


@pytest.mark.parametrize(
    "kinks, settings, text",
    [
        ([0.0], {}, r"kinks are not told by variable.*pass kinks=\{'tracer': \[0.0\]\}"),
        ({"trace": 0}, {}, "kinks name 'trace', which is no input; did you mean 'tracer'"),
        (
            {"u": "cold"},
            {},
            r"kinks of 'u' do not fit the inputs. Expected: numbers .*\(4, 6, 'kink'\). Received: 'cold'",
        ),
        ({"u": np.zeros((3, 1))}, {}, r"kinks of 'u' do not fit.*Received: shape \(3, 1\)"),
        ({"u": xr.DataArray(np.zeros(4), {"lat": [1, 2, 3, 4]})}, {}, "the labels of the inputs along 'lat'"),
        ({"u": xr.DataArray(np.zeros((2, 2)), dims=("a", "b"))}, {}, "one of the kinks"),
        ({"u": 0.0}, {"rule": "midpoint"}, "kinks need points of Gauss"),
    ],
)
def test_kinks_that_do_not_fit_are_refused(ds, layout, kinks, settings, text):
    explainer = Explainer(on_tensors(bent), zero(layout), None, area_mean(), layout=layout)
    with pytest.raises((ValueError, TypeError), match=text):
        explainer.gradients(ds, "integrated", kinks=kinks, **settings)
