"""Lorenz's systems keep what they must keep, converge at the order of their scheme, and have the published statistics."""

import keras
import numpy as np
import pytest
import xarray as xr

from physml.testbeds import _integrate, lorenz63, lorenz96, lorenz96_two_scale, setups

SYSTEMS = {
    "lorenz63": (lorenz63.tendency, lorenz63.simulate, 0.01),
    "lorenz96": (lorenz96.tendency, lorenz96.simulate, 0.05),
    "cubic": (
        lambda x: lorenz96.tendency(x, **setups.mooc2023.TRUTH),
        lambda n, **k: lorenz96.simulate(n, **setups.mooc2023.TRUTH, **k),
        0.05,
    ),
    "two scales": (lorenz96_two_scale.tendency, lorenz96_two_scale.simulate, 0.005),
}


def state(name: str, members: int | None = None) -> np.ndarray:
    """Return states on the attractor, ``[*member, site, channel]``."""
    ds = SYSTEMS[name][1](0, members=members, spin_up=5.0).isel(time=0)
    return np.concatenate([ds.x.values[..., None], *([ds.y.values] if "y" in ds else [])], axis=-1)


@pytest.mark.parametrize("name", SYSTEMS)
def test_tensors_and_arrays_have_the_same_tendency(name):
    x = state(name, members=2).astype("float32")
    with_tensors = np.asarray(SYSTEMS[name][0](keras.ops.convert_to_tensor(x)))
    np.testing.assert_allclose(with_tensors, SYSTEMS[name][0](x), rtol=1e-5, atol=1e-5 * abs(with_tensors).max())


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_scheme_converges_with_order_four(name):
    tendency, _, dt = SYSTEMS[name]
    x, span = state(name), 8 * dt
    ends = [_integrate.integrate(tendency, x, span / n, n)[-1] for n in (8, 16, 32, 512)]
    errors = [np.linalg.norm(end - ends[-1]) for end in ends[:-1]]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert abs(slopes[-1] - 4) < 0.1


def test_the_products_of_lorenz_1996_keep_the_energy():
    x = np.random.default_rng(0).integers(-9, 10, (5, 40, 1)).astype(float)
    products = lorenz96.tendency(x, 0.0) + x
    assert (np.sum(x * products, axis=-2) == 0).all()
    cubic = lorenz96.tendency(x, 0.0, cubic=1.0) - lorenz96.tendency(x, 0.0)
    assert (cubic.sum(axis=-2) == 0).all()
    assert abs(cubic).max() > 100


def test_the_cubic_term_is_the_published_one_site_by_site():
    x = np.random.default_rng(1).normal(size=9)
    expected = [
        x[i - 2] * x[i] * (x[(i + 1) % 9] - x[i - 3]) - x[i - 1] * x[(i + 1) % 9] * (x[(i + 2) % 9] - x[i - 2])
        for i in range(9)
    ]
    found = lorenz96.tendency(x[:, None], 3.0, cubic=1.0, friction=2.0)[:, 0]
    linear = [(x[(i + 1) % 9] - x[i - 2]) * x[i - 1] - 2 * x[i] + 3 for i in range(9)]
    np.testing.assert_allclose(found, np.add(linear, expected), rtol=1e-13)


def test_products_and_coupling_of_two_scales_keep_the_energy_together():
    x = np.random.default_rng(0).integers(-9, 10, (5, 36, 11)).astype(float)
    damping = np.where(np.arange(11) == 0, 1.0, 4.0)
    rest = lorenz96_two_scale.tendency(x, 0.0, h=2.0, c=4.0, b=2.0) + damping * x
    assert (np.sum(x * rest, axis=(-2, -1)) == 0).all()
    assert abs(rest).max() > 100


def test_the_fast_variables_follow_each_other_round_the_circle():
    x = np.zeros((4, 3))
    x[1, 1], x[1, 2], x[2, 1] = 2.0, 3.0, 5.0  # Y_{1,1}, Y_{2,1} and then Y_{1,2}
    rate = lorenz96_two_scale.tendency(x, 0.0, h=0.0, c=1.0, b=1.0)
    # At Y_{2,1}: (Y_{1,1} - Y_{2,2}) Y_{1,2} - Y_{2,1}.
    assert rate[1, 2] == 2.0 * 5.0 - 3.0


def test_no_coupling_leaves_the_slow_scale_to_the_one_scale_model():
    x = np.random.default_rng(0).normal(size=(36, 11))
    slow = lorenz96_two_scale.tendency(x, 8.0, h=0.0)[:, :1]
    assert (slow == lorenz96.tendency(x[:, :1], 8.0)).all()


def test_lorenz_1996_has_its_published_mean_and_spread_and_balances_its_energy():
    x = lorenz96.simulate(4000, members=8).x
    # Lorenz and Emanuel (1998): 2.3 and 3.6.
    assert float(x.mean()) == pytest.approx(2.34, abs=0.03)
    assert float(x.std()) == pytest.approx(3.64, abs=0.03)
    # d/dt of half the energy is F x - x^2: over a long time both means agree but for the ends.
    ends = 0.5 * ((x**2).isel(time=-1) - (x**2).isel(time=0)).mean() / 200.0
    work = (8 * x - x**2).isel(time=slice(1, -1)).mean()
    assert float(work) == pytest.approx(float(ends), abs=0.01)


def test_the_truth_of_the_course_has_its_published_mean_and_spread():
    x = lorenz96.simulate(2000, members=8, **setups.mooc2023.TRUTH).x
    assert float(x.mean()) == pytest.approx(2.12, abs=0.03)
    assert float(x.std()) == pytest.approx(3.53, abs=0.03)


def test_lorenz_1963_obeys_the_means_of_its_own_equations():
    x = lorenz63.simulate(2000, members=200, spin_up=20.0).x
    mean = x.mean(("time", "member"))
    square = (x.sel(component="x") ** 2).mean()
    product = (x.sel(component="x") * x.sel(component="y")).mean()
    assert float(mean.sel(component="z")) == pytest.approx(23.55, abs=0.1)
    assert float(product) == pytest.approx(float(square), rel=5e-3)
    assert float(product) == pytest.approx(8 / 3 * float(mean.sel(component="z")), rel=5e-3)


@pytest.mark.parametrize("name", ["lorenz63", "lorenz96", "two scales"])
def test_members_are_labelled_differ_and_come_again_from_their_seed(name):
    simulate = SYSTEMS[name][1]
    a, b, c = (simulate(6, members=3, every=2, seed=seed, spin_up=0.1) for seed in (1, 1, 2))
    xr.testing.assert_equal(a, b)
    assert a.x.dims[:2] == ("member", "time")
    assert a.x.attrs["units"] == a.time.attrs["units"] == "1"
    np.testing.assert_allclose(a.time, 2 * a.attrs["dt"] * np.arange(4), rtol=1e-14)
    assert abs(a.x.diff("member")).min("time").max() > 0.01 and abs(a.x - c.x).max() > 0.01


@pytest.mark.parametrize("name", ["lorenz63", "lorenz96", "two scales"])
def test_a_given_first_state_is_where_the_run_starts(name):
    first = state(name)
    given = first if name == "two scales" else first[..., 0]
    ds = SYSTEMS[name][1](4, initial=given, spin_up=0.0, every=4)
    start = np.concatenate([ds.x.values[0][:, None], *([ds.y.values[0]] if "y" in ds else [])], axis=-1)
    assert ds.x.dims[0] == "time" and np.array_equal(start, first)
    several = SYSTEMS[name][1](0, initial=np.stack([given, given]), members=2, spin_up=0.0)
    assert (several.x.isel(member=1) == several.x.isel(member=0)).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: lorenz96.simulate(3, n=3), "n is too small"),
        (lambda: lorenz96.simulate(3, every=2), "n_steps a multiple of every=2"),
        (lambda: lorenz96.simulate(3, dt=0.0), "dt is not positive"),
        (lambda: lorenz96.simulate(3, every=0), "the number of steps is no count"),
        (lambda: lorenz96.simulate(3, initial=np.ones(7)), r"Expected: \[40\], or \[members, 40\]"),
        (lambda: lorenz96_two_scale.simulate(3, n=3), "n_fast >= 1"),
        (lambda: setups.sakov2008.twin(cycles=0), "cycles is no count"),
    ],
)
def test_bad_arguments_are_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_a_step_too_long_is_told_of():
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="take a smaller dt"):
        lorenz96.simulate(200, dt=0.5, spin_up=0.0)


@pytest.mark.parametrize("name", ["sakov2008", "bocquet2013", "sakov2012", "brajard2020", "mooc2023"])
def test_a_published_twin_sees_what_its_paper_says(name):
    setup = getattr(setups, name)
    twin = setup.twin(seed=5, cycles=200, members=20)
    later = twin.truth.x.isel(time=slice(1, None))
    assert (twin.observations.time == later.time).all()
    assert float(later.time[1] - later.time[0]) == pytest.approx(setup.EVERY * setup.DT)
    error = (twin.observations - later).values
    share = np.isfinite(error).mean()
    assert share == (0.5 if name in ("brajard2020", "mooc2023") else 1.0)
    # The standard deviation of n normal numbers is known to 1 / sqrt(2 n): four of these.
    assert np.nanstd(error) == pytest.approx(setup.ERROR_STD, rel=4 / np.sqrt(2 * np.isfinite(error).sum()))
    assert twin.observations.attrs["error_std"] == setup.ERROR_STD
    assert twin.initial.x.dims[0] == "member" and all(0 < v < 5 for v in setup.RMSE.values())
    mean = setup.twin(seed=5, cycles=20, members=None)
    assert mean.initial.x.ndim == 1
    xr.testing.assert_identical(mean.observations, twin.observations.isel(time=slice(20)))


def test_the_places_of_brajard_are_drawn_anew_and_evenly():
    seen = setups.brajard2020.twin(cycles=400).observations.notnull()
    assert (seen.sum("site") == 20).all()
    assert abs(seen.mean("time") - 0.5).max() < 0.1
    both = (seen.values[1:] & seen.values[:-1]).mean()
    assert both == pytest.approx(0.25, abs=0.02)
