"""Several laws hold at once, at the nearest field, with its true gradient: checked against all active sets, and by its optimality."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from physml import (
    BlockMean,
    Bounds,
    Budget,
    Closure,
    Conserve,
    Constraints,
    FieldSpec,
    Monotone,
    NonNegative,
    Simplex,
    _backend,
)

JAX = keras.backend.backend() == "jax"
LAT, LON, LEVELS, BATCH = 4, 6, 5, 3


@pytest.fixture(scope="module")
def ocean():
    """Maps and columns of several variables, with area, thickness, basins and a land mask."""
    rng = np.random.default_rng(0)
    n = BATCH + 1

    def maps(units="W m-2"):
        return ("time", "lat", "lon"), rng.normal(size=(n, LAT, LON)), {"units": units}

    def columns(units):
        return ("time", "lat", "lon", "level"), rng.normal(size=(n, LAT, LON, LEVELS)), {"units": units}

    wet = np.ones((LAT, LON), bool)
    wet[1, 2:4] = False
    ds = xr.Dataset(
        {name: maps() for name in ("a", "b", "c", "d", "known")}
        | {"heating": columns("K s-1"), "moistening": columns("kg kg-1 s-1"), "rho": columns("kg m-3")}
        | {"dp": (("time", "lat", "lon", "level"), rng.uniform(5e3, 2e4, (n, LAT, LON, LEVELS)), {"units": "Pa"})},
        {
            "time": np.arange(n),
            "lat": np.arange(LAT) * 10.0,
            "lon": np.arange(LON) * 10.0,
            "level": np.arange(LEVELS) * 1.0,
        },
    )
    ds["ceiling"] = ds.known**2 + 0.1
    ds["ceiling"].attrs["units"] = "W m-2"
    ds["area"] = (("lat", "lon"), rng.uniform(1, 3, (LAT, LON)), {"units": "m2"})
    ds["basin"] = (("lat", "lon"), np.where(wet, np.arange(LON) // 3, -1))
    return ds.assign(wet=(("lat", "lon"), wet))


def bound(ocean, laws, inputs, targets, mask="wet", **options):
    laws = Constraints(laws, **options)
    spec = FieldSpec(
        inputs,
        targets,
        levels="level" if {*inputs, *targets} & {"heating", "rho", "dp"} else None,
        mask=mask,
        area="area",
    )
    return laws, laws.bind(spec.bind(ocean))


def drawn(layout, seed=0, scale=1.0, dtype="float64"):
    """Return random outputs and inputs by variable, as arrays."""
    rng = np.random.default_rng(seed)
    y = scale * rng.normal(size=(BATCH, *layout.shape, len(layout.targets))) * layout.valid("targets")
    x = rng.uniform(0.5, 2, size=(BATCH, *layout.shape, len(layout.inputs)))
    return layout.split(y.astype(dtype), "targets"), layout.split(x.astype(dtype), "inputs")


def project(laws, layout, y, x):
    with _backend.float64():
        tensors = [{n: ops.convert_to_tensor(v) for n, v in part.items()} for part in (y, x)]
        return {n: np.asarray(v) for n, v in laws.project(*tensors, layout).items()}


def worst(laws, layout, y, x):
    with _backend.float64():
        tensors = [{n: ops.convert_to_tensor(v) for n, v in part.items()} for part in (y, x)]
        return {k: np.abs(np.asarray(r)).max() for k, r in laws.residuals(*tensors, layout).items()}


def nearest_by_enumeration(z, m, C, b, low, high):
    """Return the nearest point of a small problem: the best feasible one over all sets of cells at their bounds."""
    best = None
    for state in itertools.product(range(3), repeat=len(z)):
        at = np.array(state)
        if (np.isinf(low[at == 1])).any() or (np.isinf(high[at == 2])).any():
            continue
        fixed = np.where(at == 1, low, np.where(at == 2, high, 0.0))
        free = at == 0
        A = C[:, free]
        gram = A / m[free] @ A.T
        v = np.linalg.pinv(gram) @ (A @ z[free] + C[:, ~free] @ fixed[~free] - b)
        y = fixed.copy()
        y[free] = z[free] - A.T @ v / m[free]
        if (np.abs(C @ y - b) < 1e-9).all() and (y >= low - 1e-11).all() and (y <= high + 1e-11).all():
            value = 0.5 * (m * (y - z) ** 2).sum()
            if best is None or value < best[0]:
                best = value, y
    return best[1]


LAWS = [
    Closure("c", sources="known", sinks=("a", "b")),
    Closure("d", sources="c", sinks={"a": 0.5}),
    NonNegative("a"),
    Bounds("b", -0.5, 0.75),
]


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_two_laws_and_bounds_meet_at_the_nearest_point(ocean, seed, scale):
    laws, layout = CACHE(
        "cells",
        lambda: bound(
            ocean, LAWS, ["known"], ["a", "b", "c", "d"], metric=dict(zip("abcd", (1, 2, 3, 4.0), strict=True))
        ),
    )
    y, x = drawn(layout, seed, scale)
    moved = project(laws, layout, y, x)
    C = np.array([[1, 1, 1, 0], [0.5, 0, -1, 1]])
    low, high = np.array([0, -0.5, -np.inf, -np.inf]), np.array([np.inf, 0.75, np.inf, np.inf])
    for cell in ((0, 0, 0), (1, 2, 3), (2, 3, 5)):
        z = np.array([y[n][cell][0] for n in "abcd"])
        want = nearest_by_enumeration(z, np.arange(1.0, 5), C, np.array([x["known"][cell][0], 0]), low, high)
        np.testing.assert_allclose([moved[n][cell][0] for n in "abcd"], want, rtol=0, atol=1e-11 * max(scale, 1))


_made: dict = {}


def CACHE(key, make):
    """Make a set of laws once: compiling it takes longer than running it."""
    if key not in _made:
        _made[key] = make()
    return _made[key]


MIXED = {
    "cells and the globe": (
        [
            *LAWS,
            Conserve("b", ("lat", "lon"), "area", equals=2.0),
            Budget({"a": 1, "d": 2}, ("lat", "lon"), "area", equals=30.0),
        ],
        ["known"],
        ["a", "b", "c", "d"],
    ),
    "rows and columns of the map": (
        [
            Conserve("a", "lat", "area", equals=2.0),
            Conserve("a", "lon", "area", equals=3.0),
            Bounds("a", -5, 5),
            Budget(["a", "b"], equals=0.5),
        ],
        ["known"],
        ["a", "b"],
    ),
    "an order, a closure and a basin": (
        [
            Bounds("a", upper="b"),
            NonNegative("a"),
            Closure("c", sources="b", sinks="a"),
            Budget(["b"], groups="basin", weights="area", equals=4.0),
        ],
        ["known"],
        ["a", "b", "c"],
    ),
    "a stable column that conserves": (
        [Monotone("rho", "level"), Conserve("rho", "level", equals=3.0), Bounds("rho", 0, 2)],
        ["known"],
        ["rho"],
    ),
    "blocks of the map within a ceiling": (
        [BlockMean("a", "known", {"lat": 2, "lon": 3}, "area"), NonNegative("a"), Bounds("a", upper="ceiling")],
        ["known", "ceiling"],
        ["a"],
    ),
    "fractions": ([Simplex(("a", "b", "c")), Bounds("a", upper=0.6)], ["known"], ["a", "b", "c"]),
}
"""Laws whose groups differ, solved by conjugate gradients, and others; inputs and targets."""


def mixed(ocean, key):
    laws, inputs, targets = MIXED[key]
    if key == "blocks of the map within a ceiling":
        # the block mean must lie below the ceiling of its cells
        return CACHE(key, lambda: bound(ocean, laws, inputs, targets))
    return CACHE(key, lambda: bound(ocean, laws, inputs, targets, mask=None if "rows" in key else "wet"))


def case(ocean, key, seed=0, scale=1.0):
    laws, layout = mixed(ocean, key)
    y, x = drawn(layout, seed, scale)
    if "ceiling" in x:
        x["known"] = np.full_like(x["known"], 0.8) + 0.1 * x["ceiling"].mean((1, 2), keepdims=True)
        x["ceiling"] = x["ceiling"] + 0.6
    return laws, layout, y, x


# The first stands for all every day; each of the others takes its own compilation.
MIXED_KEYS = [pytest.param(k, marks=[pytest.mark.long] * (i > 0)) for i, k in enumerate(MIXED)]


@pytest.mark.parametrize("key", MIXED_KEYS)
def test_all_laws_hold_together_and_again_changes_nothing(ocean, key):
    laws, layout, y, x = case(ocean, key)
    y = {n: v * np.array([0.3, 1.0, 5.0]).reshape(-1, 1, 1, 1) for n, v in y.items()}
    assert max(worst(laws, layout, y, x).values()) > 0.05
    moved = project(laws, layout, y, x)
    found = worst(laws, layout, moved, x)
    assert max(found.values()) < 2e-12, found
    again = project(laws, layout, moved, x)
    for n in moved:
        np.testing.assert_allclose(again[n], moved[n], rtol=0, atol=1e-11)


@pytest.mark.parametrize("key", MIXED_KEYS)
def test_no_other_point_of_the_set_is_nearer(ocean, key):
    """The projection is the one point y with (z - y, p - y)_M <= 0 for every p of the set."""
    laws, layout, y, x = case(ocean, key)
    moved = project(laws, layout, y, x)
    (part,) = laws.plan(layout)
    cost = {n: np.where(d > 0, 1 / np.where(d > 0, d, 1), 0) for n, d in part.problem.mobility.items()}
    for seed in range(1, 6):
        other = project(laws, layout, case(ocean, key, seed, scale=2.0)[2], x)
        products = sum((cost[n] * (y[n] - moved[n]) * (other[n] - moved[n])).sum((1, 2, 3)) for n in cost)
        assert (products < 1e-9).all(), products
        assert sum(np.abs(other[n] - moved[n]).max() for n in cost) > 0.1


@pytest.mark.long
@pytest.mark.parametrize("key", ["cells and the globe"])
def test_the_order_of_the_laws_does_not_matter(ocean, key):
    laws, layout, y, x = case(ocean, key)
    moved = project(laws, layout, y, x)
    turned = Constraints(list(laws)[::-1])
    other = project(turned, turned.bind(layout), y, x)
    for n in moved:
        np.testing.assert_allclose(other[n], moved[n], rtol=0, atol=1e-11)


@pytest.mark.long
def test_the_scale_of_the_fields_does_not_matter(ocean):
    laws, layout, y, x = case(ocean, "fractions")
    moved = project(laws, layout, y, x)
    small = Constraints([Simplex(("a", "b", "c"), total=1e-5), Bounds("a", upper=0.6e-5)])
    tiny = project(small, small.bind(layout), {n: v * 1e-5 for n, v in y.items()}, x)
    for n in moved:
        np.testing.assert_allclose(tiny[n], moved[n] * 1e-5, rtol=1e-10, atol=1e-20)


@pytest.mark.long
def test_cells_may_be_listed_in_any_order(ocean):
    laws, layout, y, x = case(ocean, "fractions")
    moved = project(laws, layout, y, x)
    shuffle = np.random.default_rng(1).permutation(LON)
    turned = ocean.isel(lon=shuffle)
    layout = laws.bind(FieldSpec(["known"], ["a", "b", "c"], mask="wet", area="area").bind(turned))
    other = project(
        laws, layout, {n: v[:, :, shuffle] for n, v in y.items()}, {n: v[:, :, shuffle] for n, v in x.items()}
    )
    for n in moved:
        np.testing.assert_allclose(other[n], moved[n][:, :, shuffle], rtol=0, atol=1e-13)


# the gradient ---------------------------------------------------------------------------------------------------------


def gradients(laws, layout, y, x, g):
    """Return the gradients of ``sum(g * projection)`` in outputs and inputs."""
    names, needs = list(y), list(x)

    def value(*args):
        parts = dict(zip(names, args, strict=False)), dict(zip(needs, args[len(names) :], strict=True))
        moved = laws.project(*parts, layout)
        return sum(ops.sum(ops.convert_to_tensor(g[n]) * moved[n]) for n in names)

    args = [*(y[n] for n in names), *(x[n] for n in needs)]
    if JAX:
        import jax

        with _backend.float64():
            found = jax.grad(value, argnums=tuple(range(len(args))))(*(jax.numpy.asarray(a) for a in args))
    else:
        import tensorflow as tf

        args = [tf.constant(a) for a in args]
        with tf.GradientTape() as tape:
            tape.watch(args)
            out = value(*args)
        found = tape.gradient(out, args, unconnected_gradients="zero")
    found = [np.asarray(f) for f in found]
    return dict(zip(names, found, strict=False)), dict(zip(needs, found[len(names) :], strict=True))


WEIGHTED = {
    "enthalpy of columns of their own thickness": (
        [
            Budget({"heating": (1004.0, "J kg-1 K-1"), "moistening": (2.5e6, "J kg-1"), "known": -1}, "level", "dp/g"),
            Bounds("heating", -0.002, 0.002),
        ],
        ["known", "dp"],
        ["heating", "moistening"],
    ),
}


@pytest.mark.parametrize("key", [*MIXED_KEYS, *WEIGHTED])
def test_the_gradient_is_that_of_finite_differences(ocean, key):
    if key in WEIGHTED:
        ds = ocean.assign(known=ocean.known * 50)
        laws, layout = CACHE(key, lambda: bound(ds, *WEIGHTED[key]))
        y, x = drawn(layout, 1)
        y = {"heating": y["heating"] * 0.002, "moistening": y["moistening"] * 1e-6}
        x = {"known": x["known"] * 50, "dp": x["dp"] * 1e4}
    else:
        laws, layout, y, x = case(ocean, key, seed=3)
    rng = np.random.default_rng(2)
    g = {n: rng.normal(size=v.shape) for n, v in y.items()}
    wet = layout.valid("targets").any(-1, keepdims=True)
    dy, dx = gradients(laws, layout, y, x, g)
    for part, grads in ((y, dy), (x, dx)):
        for n, v in part.items():
            for trial in range(2):
                direction = np.random.default_rng(trial).normal(size=v.shape) * np.abs(v).mean()
                direction = direction * wet  # fields on land lie at their bounds
                step = 1e-6
                ends = []
                for sign in (1, -1):
                    shifted = {**y, **x, n: v + sign * step * direction}
                    moved = project(laws, layout, {k: shifted[k] for k in y}, {k: shifted[k] for k in x})
                    ends.append(sum((g[k] * moved[k]).sum() for k in y))
                numeric, exact = (ends[0] - ends[1]) / (2 * step), (grads[n] * direction).sum()
                size = np.abs(grads[n] * direction).sum() + sum(np.abs(g[k] * y[k]).sum() for k in y)
                assert abs(numeric - exact) < 1e-8 * size, (n, numeric, exact)


@pytest.mark.long
def test_cells_at_a_bound_learn_as_the_policy_says(ocean):
    y, x = drawn(bound(ocean, [NonNegative("a")], ["known"], ["a"])[1], 4)
    rng = np.random.default_rng(0)
    g = {"a": rng.normal(size=y["a"].shape)}
    stuck = y["a"] < 0
    for laws in ([NonNegative("a")], [NonNegative("a"), Budget(["a"], ("lat", "lon"), "area", equals=9.0)]):
        found = {}
        for policy in ("exact", "leaky", "straight-through"):
            these, layout = bound(ocean, laws, ["known"], ["a"], gradient=policy)
            moved = project(these, layout, y, x)
            assert moved["a"].min() >= 0
            found[policy] = gradients(these, layout, y, x, g)[0]["a"]
            at_bound = (moved["a"] == 0) & stuck
        np.testing.assert_array_equal(found["straight-through"], g["a"])
        assert (found["exact"][at_bound] == 0).all()
        assert (found["leaky"][at_bound] != 0).all()
        assert np.abs(found["leaky"][at_bound]).max() < 0.1 * np.abs(g["a"]).max()


# metric, exclusion, masks, what cannot be -----------------------------------------------------------------------------


def test_excluded_cells_stay_and_still_count(ocean):
    law = Budget({"heating": 1}, "level", equals=2.0)
    laws, layout = bound(
        ocean, [law, Bounds("heating", -1, 1)], ["known"], ["heating"], exclude={"heating": {"level": [0.0, 3.0]}}
    )
    y, x = drawn(layout, scale=2.0)
    moved = project(laws, layout, y, x)["heating"]
    np.testing.assert_array_equal(moved[..., [0, 3]], y["heating"][..., [0, 3]])
    inside = np.abs(y["heating"][..., [0, 3]].sum(-1) - 2) < 3
    wet = ocean.wet.values & inside
    np.testing.assert_allclose(moved.sum(-1)[wet], 2.0, atol=1e-12)
    assert np.abs(moved[..., [1, 2, 4]]).max() <= 1


@pytest.mark.long
def test_a_metric_decides_who_gives_way(ocean):
    law = Budget(["a", "b"], equals=1.0)
    for metric, share in (({"a": 1.0, "b": 3.0}, 0.75), ({"a": "area", "b": 1.0}, None)):
        laws, layout = bound(ocean, [law], ["known"], ["a", "b"], metric=metric)
        y, x = drawn(layout)
        moved = project(laws, layout, y, x)
        gap = (1.0 - y["a"] - y["b"])[..., 0]
        expected = share if share is not None else 1 / (1 + ocean.area.values)
        wet = ocean.wet.values
        np.testing.assert_allclose((moved["a"] - y["a"])[..., 0][:, wet], (gap * expected)[:, wet], atol=1e-13)


def test_land_takes_no_part_and_stays(ocean):
    laws, layout, y, x = case(ocean, "cells and the globe")
    land = ~ocean.wet.values
    y = {n: v + 7.0 * land[..., None] for n, v in y.items()}
    moved = project(laws, layout, y, x)
    for n in ("c", "d"):
        np.testing.assert_array_equal(moved[n][:, land], y[n][:, land])
    assert max(worst(laws, layout, moved, x).values()) < 1e-11


@pytest.mark.long
@pytest.mark.parametrize("wanted", [-3.0, 500.0])
def test_what_cannot_be_reached_ends_at_the_bounds(ocean, wanted):
    laws, layout = bound(
        ocean, [Simplex(("a", "b", "c")), Budget(["a"], ("lat", "lon"), equals=wanted)], ["known"], ["a", "b", "c"]
    )
    y, x = drawn(layout)
    moved = project(laws, layout, y, x)
    total = moved["a"].sum((1, 2, 3))
    wet = int(ocean.wet.sum())
    np.testing.assert_allclose(total, 0 if wanted < 0 else wet, atol=1e-6)
    assert all(np.isfinite(v).all() for v in moved.values())
    assert all(v.min() >= 0 for v in moved.values())


def test_float32_closes_to_its_own_rounding(ocean):
    laws, layout, y, x = case(ocean, "cells and the globe")
    y, x = ({n: (100 * v).astype("float32") for n, v in part.items()} for part in (y, x))
    moved = {n: np.asarray(v) for n, v in laws.project(y, x, layout).items()}
    assert all(v.dtype == np.float32 for v in moved.values())
    size = max(np.abs(v).max() for v in moved.values())
    closure = (moved["c"] - x["known"] + moved["a"] + moved["b"])[:, ocean.wet.values]
    assert np.abs(closure.astype("float64")).max() < 2.5 * np.spacing(np.float32(size))
    assert moved["a"].min() >= 0


@pytest.mark.long
def test_leads_and_levels_are_separate_problems(ocean):
    ds = ocean.assign(time=np.arange(BATCH + 1))
    laws = Constraints([Budget({"heating": 1, "rho": (1, "K s-1 m3 kg-1")}, equals=1.0), NonNegative("rho")])
    one = laws.bind(FieldSpec("known", ["heating", "rho"], levels="level", mask="wet").bind(ds))
    two = laws.bind(FieldSpec("known", ["heating", "rho"], levels="level", mask="wet", target_offsets=(0, 1)).bind(ds))
    y, x = drawn(one)
    alone = project(laws, one, y, x)
    both = project(laws, two, {n: np.concatenate([v, 2 * v], -1) for n, v in y.items()}, x)
    for n in alone:
        np.testing.assert_allclose(both[n][..., :LEVELS], alone[n], atol=1e-13)
        assert np.abs(both[n][..., LEVELS:] - alone[n]).max() > 0.1
    total = both["heating"] + both["rho"]
    np.testing.assert_allclose(total[:, ocean.wet.values], 1.0, atol=1e-12)
