import keras
import numpy as np
import pytest
import scipy.special
import xarray as xr
from keras import ops

from physml import _backend
from physml.assimilation import (
    Balance,
    Blocks,
    Dense,
    Diagonal,
    Diffusion,
    Ensemble,
    GaspariCohn,
    Gaussian,
    Hybrid,
    Kronecker,
    Matern,
    Plane,
    Regression,
    Sum,
    bind,
    draw,
    perturb,
    probed_variance,
)
from physml.assimilation.errors import kernels, normalisation
from physml.assimilation.method import Geometry

RNG = np.random.default_rng(5)
MASK = RNG.uniform(size=(6, 8)) > 0.25
STD = RNG.uniform(0.5, 2, MASK.shape)
WET = int(MASK.sum())
GLOBE = {"latitude": np.linspace(-75, 75, 6), "longitude": np.arange(8) * 45.0, "periodic": True, "mask": MASK}
FLAT = {"shape": MASK.shape, "mask": MASK}
PAIR = {**GLOBE, "channels": ("salt", "heat")}
MEMBERS = RNG.normal(size=(4, WET))
ROOT = RNG.normal(size=(WET, 5))


@keras.saving.register_keras_serializable(package="test")
def swapped(x):
    return x + 0.5 * x[..., ::-1]


ERRORS = {
    "number": (0.3, {"size": 5}),
    "matrix": (ROOT @ ROOT.T, GLOBE),
    "diagonal": (Diagonal(STD), GLOBE),
    "dense": (Dense(ROOT @ ROOT.T), FLAT),
    "gaussian": (Gaussian(2.0, 3e6), GLOBE),
    "matern": (Matern(STD, 3e6, nu=2.5), GLOBE),
    "gaspari_cohn": (GaspariCohn(STD, 4e6), GLOBE),
    "torus": (Plane(Matern(STD, 2.0), 1.0, True), FLAT),
    "channel": (Plane(Gaussian(STD, 1.5), (1.0, 2.0), (False, True)), FLAT),
    "diffusion": (Diffusion(STD, 3e6), GLOBE),
    "odd order": (Diffusion(STD, 3e6, order=3), GLOBE),
    "flat diffusion": (Diffusion(1.0, 1 + STD, order=4, spacing=(1, 2), periodic=(True, False)), FLAT),
    "ensemble": (Ensemble(MEMBERS), GLOBE),
    "localised": (Ensemble(MEMBERS, 4e6), GLOBE),
    "localised pair": (Ensemble(RNG.normal(size=(3, 2 * WET)), Diffusion(1.0, 3e6)), PAIR),
    "kronecker": (Kronecker([[1.0, 0.5], [0.5, 2.0]], Diffusion(STD, 3e6)), PAIR),
    "each channel": (Diffusion(np.stack([STD, 2 * STD], axis=-1), 3e6), PAIR),
    "blocks": (Blocks({"heat": Diagonal(0.1), "salt": Diffusion(STD, 3e6)}), PAIR),
    "balance": (Balance(Diffusion(STD, 3e6), (Regression("salt", "heat", STD), swapped)), PAIR),
    "sum": (Diffusion(STD, 3e6) + Gaussian(1.0, 4e6) + Diagonal(0.1), GLOBE),
    "hybrid": (Hybrid(Diffusion(STD, 3e6), Ensemble(MEMBERS, 4e6), 0.3), GLOBE),
}


def tensor(x):
    return ops.convert_to_tensor(np.asarray(x, "float64"))


def array(x):
    return np.asarray(ops.convert_to_numpy(x))


def dense(error, **where):
    with _backend.float64():
        return array(bind(error, **where).dense())


@pytest.mark.parametrize("name", ERRORS)
def test_products_roots_and_adjoints_are_of_one_symmetric_positive_matrix(name):
    error, where = ERRORS[name]
    with _backend.float64():
        b = bind(error, **where)
        B, U = array(b.dense()), array(b.root(tensor(np.eye(b.rank)))).T
        scale = np.abs(B).max()
        assert B.shape == (b.size, b.size) and U.shape == (b.size, b.rank)
        assert np.abs(B - B.T).max() < 1e-14 * scale * 10
        assert np.linalg.eigvalsh((B + B.T) / 2)[0] > -1e-13 * np.abs(B).sum(axis=1).max()
        assert np.abs(U @ U.T - B).max() < 1e-12 * scale
        assert np.allclose(array(b.diagonal()), np.diag(B), rtol=1e-12, atol=0)
        rng = np.random.default_rng(1)
        x, c = rng.normal(size=(2, 3, b.size)), rng.normal(size=(2, 3, b.rank))
        left, right = (array(y) for y in (b.root(tensor(c)), b.root_adjoint(tensor(x))))
        assert left.shape == x.shape and right.shape == c.shape
        assert np.sum(left * x) == pytest.approx(np.sum(c * right), rel=1e-12)
        assert np.allclose(array(b.times(tensor(x))), x @ B, rtol=0, atol=1e-12 * scale)
        if b.precision is not None:
            assert np.abs(b.precision @ B - np.eye(b.size)).max() < 1e-11
        if b.anomalies is not None:
            assert np.allclose(b.anomalies.T @ b.anomalies, B, rtol=0, atol=1e-14 * scale)
        assert array(draw(b, rng, 3)).shape == (3, b.size)


@pytest.mark.parametrize("name", ["torus", "diffusion", "odd order", "localised", "balance"])
def test_products_are_the_same_when_compiled_and_their_gradient_is_the_product(name):
    error, where = ERRORS[name]
    with _backend.float64():
        b, x = bind(error, **where), RNG.normal(size=(2, bind(error, **where).size))
        half = _backend.traced(lambda x: 0.5 * ops.sum(x * bind(error, **where).times(x)))
        value, gradient = _backend.value_and_gradient(half, tensor(x))
        product = array(b.times(tensor(x)))
        assert value == pytest.approx(0.5 * np.sum(x * product), rel=1e-12)
        assert np.allclose(gradient, product, rtol=0, atol=1e-12 * np.abs(product).max())
        # A layer is called with a batch whose size is not known.
        batch = keras.Input((b.size,), dtype="float64")
        for step, size in ((b.times, b.size), (lambda x: b.root(b.root_adjoint(x)), b.size), (b.root_adjoint, b.rank)):
            assert keras.layers.Lambda(step, dtype="float64")(batch).shape == (None, size)


@pytest.mark.parametrize(
    "name", ["gaussian", "matern", "gaspari_cohn", "torus", "channel", "diffusion", "odd order", "each channel"]
)
def test_the_diagonal_is_the_square_of_the_given_standard_deviation(name):
    error, where = ERRORS[name]
    std = error.kernel.std if name in ("torus", "channel") else error.std
    expected = np.broadcast_to(std, MASK.shape)[MASK] if np.ndim(std) < 3 else std[MASK].ravel()
    assert np.allclose(np.diag(dense(error, **where)), expected**2, rtol=1e-12, atol=0)


LEARNT = [
    ("matern", "std", ("times", "root")),
    ("matern", "length", ("times", "root")),
    ("gaspari_cohn", "length", ("times",)),
    ("torus", "kernel.length", ("times", "root_adjoint")),
    ("channel", "kernel.std", ("times",)),
    ("diffusion", "std", ("times",)),
    ("diffusion", "length", ("times", "root", "root_adjoint")),
    ("odd order", "length", ("times", "root")),
    ("flat diffusion", "length", ("times", "root")),
    ("hybrid", "weight", ("times", "root")),
    ("hybrid", "ensemble.localisation.length", ("times",)),
    ("sum", "parts.1.length", ("times",)),
]


@pytest.mark.parametrize(("name", "parameter", "products"), LEARNT)
def test_products_are_differentiable_in_their_parameters(name, parameter, products):
    error, where = ERRORS[name]
    rng = np.random.default_rng(2)
    start = np.asarray(error.parameters[parameter], "float64")
    along = start * rng.uniform(-1, 1, start.shape)
    with _backend.float64():
        b = bind(error, **where)
        for product in products:
            sizes = {"times": (b.size, b.size), "root": (b.rank, b.size), "root_adjoint": (b.size, b.rank)}[product]
            x, y = (rng.normal(size=(2, n)) for n in sizes)

            def function(p, product=product, x=x, y=y):
                p = p if hasattr(p, "ndim") and p.ndim else (float(p) if isinstance(p, np.ndarray) else p)
                changed = bind(error.with_parameters({parameter: p}), **where)
                return ops.sum(tensor(y) * getattr(changed, product)(tensor(x)))

            _, gradient = _backend.value_and_gradient(function, tensor(start))
            h = 1e-3
            low2, low, high, high2 = (float(array(function(start + k * h * along))) for k in (-2, -1, 1, 2))
            numeric = (low2 - 8 * low + 8 * high - high2) / (12 * h)
            assert np.sum(gradient * along) == pytest.approx(numeric, rel=1e-8, abs=1e-8 * abs(high))


def matern(r, length, nu):
    s = np.maximum(np.sqrt(2 * nu) * r / length, 1e-12)
    return 2 ** (1 - nu) / scipy.special.gamma(nu) * s**nu * scipy.special.kv(nu, s)


@pytest.mark.parametrize(
    ("order", "finest"),
    [pytest.param(2, 0.02, marks=pytest.mark.long), (3, 0.01), pytest.param(4, 0.007, marks=pytest.mark.long)],
)
def test_diffusion_tends_to_the_matern_correlation_with_the_square_of_the_spacing(order, finest):
    errors = []
    for refinement in (1, 2):
        n, h = 32 * refinement, 1 / refinement
        where = {"shape": (n, n)}
        error = Diffusion(1.0, 3.0, order=order, spacing=h, periodic=True)
        x = np.zeros(n * n)
        x[(n // 2) * n + n // 2] = 1
        with _backend.float64():
            row = array(bind(error, **where).times(tensor(x))).reshape(n, n)[n // 2]
        errors.append(np.abs(row - matern(h * np.abs(np.arange(n) - n // 2), 3.0, order - 1)).max())
    slope = np.log2(errors[0] / errors[1])
    # At order 2 the correlation has a logarithm in its second derivative at zero, and so has the error.
    assert errors[1] < finest and (slope > 1 if order == 2 else abs(slope - 2) < 0.15)


def test_diffusion_on_the_sphere_is_isotropic_up_to_the_pole():
    lat, lon = np.arange(-88.5, 90, 3.0), np.arange(120) * 3.0
    b = bind(Diffusion(1.0, 2e6, order=3), latitude=lat, longitude=lon, periodic=True)
    unit = np.moveaxis(np.stack(np.broadcast_arrays(*_unit(lat, lon))), 0, -1).reshape(-1, 3)
    for row in (29, 44, 56, 59):
        x = np.zeros(b.size)
        x[row * 120] = 1
        with _backend.float64():
            found = array(b.times(tensor(x)))
        distance = 6_371_229 * np.linalg.norm(unit - unit[row * 120], axis=1)
        # Spacing a sixth of the length: 0.005 as on a plane; the curvature adds some 0.002.
        assert np.abs(found - matern(distance, 2e6, 2)).max() < 0.007


def _unit(lat, lon):
    phi, lam = np.deg2rad(lat)[:, None], np.deg2rad(lon)[None]
    return np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi) + 0 * lam


def test_coasts_block_even_where_land_is_one_cell_wide():
    mask = np.ones((9, 11), bool)
    mask[:, 5] = False
    there, here = 4 * 10 + 5, 4 * 10 + 4
    error, where = Diffusion(1.0, 5.0, spacing=1, periodic=False), {"shape": (9, 11)}
    B = dense(error, **where, mask=mask)
    assert (B.reshape(9, 10, 9, 10)[:, :5, :, 5:] == 0).all()
    assert np.allclose(np.diag(B), 1, rtol=0, atol=1e-13)
    strait = mask.copy()
    strait[0, 5] = True
    through = dense(error, **where, mask=strait)
    open_sea = dense(error, **where)
    assert 0 < through[here + 1, there + 1] < 0.5 * open_sea[4 * 11 + 4, 4 * 11 + 6]
    # A kernel of distance, in contrast, knows no land.
    flat = dense(Plane(Matern(1.0, 5.0, nu=1.5), 1.0, False), **where, mask=mask)
    assert flat[here, there] > 0.8


@pytest.mark.parametrize("closes", [(False, True), (True, True), (False, False)])
def test_variances_by_nested_dissection_are_those_of_the_inverse(closes, monkeypatch):
    monkeypatch.setattr(normalisation, "PATCH", 12)
    mask = np.random.default_rng(3).uniform(size=(15, 22)) > 0.2
    area = {"shape": mask.shape, "mask": mask}
    for held in (10**6, 60):
        monkeypatch.setattr(normalisation, "HELD", held)
        for order in (2, 3):
            B = dense(Diffusion(1.0, 6.0, order=order, spacing=(1.0, 1.5), periodic=closes), **area)
            assert np.abs(np.diag(B) - 1).max() < 1e-12


def test_a_sea_of_one_cell_has_its_variance():
    mask = np.zeros((3, 4), bool)
    mask[1, 1] = mask[0, 3] = True
    assert np.allclose(dense(Diffusion(2.0, 3.0, spacing=1, periodic=False), shape=(3, 4), mask=mask), 4 * np.eye(2))


@pytest.mark.parametrize("closes", [(True, True), (False, True), (False, False)])
def test_spectra_are_the_kernels_summed_over_all_ways_round(closes):
    shape, spacing, kernel = (7, 10), (1.5, 1.0), Matern(1.0, 2.0)
    y, x = (
        a.ravel() for a in np.meshgrid(*[np.arange(n) * h for n, h in zip(shape, spacing, strict=True)], indexing="ij")
    )
    total = 0.0
    for i, j in np.ndindex(9, 9):
        if (closes[0] or i == 4) and (closes[1] or j == 4):
            dy, dx = y[:, None] - y + (i - 4) * 10.5, x[:, None] - x + (j - 4) * 10
            s = np.sqrt(3 * (dy**2 + dx**2)) / 2
            total = total + (1 + s) * np.exp(-s)
    expected = total / total[0, 0]
    assert np.abs(dense(Plane(kernel, spacing, closes), shape=shape) - expected).max() < 1e-12


def test_on_a_sphere_zonal_spectra_and_blocks_equal_the_matrix(monkeypatch):
    part = {**GLOBE, "longitude": np.arange(8) * 15.0, "periodic": False}
    uneven = {**part, "longitude": np.cumsum(np.linspace(10, 12, 8))}
    kernel = Matern(STD, 3e6)
    wanted = [dense(kernel, **where) for where in (GLOBE, part, uneven)]
    x = RNG.normal(size=(2, WET))
    slopes = []
    for small in (False, True):
        if small:
            monkeypatch.setattr(kernels, "LARGEST_DENSE", 10)
        with _backend.float64():
            for where in (GLOBE, uneven):

                def product(p, where=where):
                    bound = bind(kernel.with_parameters({"length": p}), **where)
                    return ops.sum(tensor(x[0]) * bound.times(tensor(x[1])))

                slopes.append(_backend.value_and_gradient(product, tensor(3e6))[1])
    assert np.allclose(slopes[:2], slopes[2:], rtol=1e-11, atol=0)
    for where, B in zip((GLOBE, part, uneven), wanted, strict=True):
        assert np.abs(dense(kernel, **where) - B).max() < 1e-12
    with _backend.float64():
        b = bind(kernel, **part)
        U = array(b.root(tensor(np.eye(b.rank)))).T
        assert np.abs(U @ U.T - wanted[1]).max() < 1e-11
        c = RNG.normal(size=(2, b.rank))
        assert np.sum(array(b.root(tensor(c))) * x) == pytest.approx(
            np.sum(c * array(b.root_adjoint(tensor(x)))), rel=1e-12
        )
        with pytest.raises(ValueError, match="the correlation of these points has no root"):
            bind(kernel, **uneven).root(tensor(x))


def test_distances_of_a_geometry_go_the_short_way_round():
    ring = Geometry(np.arange(12.0)[:, None], np.array([12.0]))
    gap = np.abs(np.subtract.outer(np.arange(12), np.arange(12)))
    expected = 4 * np.exp(-0.5 * (np.minimum(gap, 12 - gap) / 1.5) ** 2)
    assert np.abs(dense(Gaussian(2.0, 1.5), geometry=ring) - expected).max() < 1e-13


def test_composed_errors_are_the_matrices_of_the_textbook():
    within, other = (dense(e, **GLOBE) for e in (Diffusion(STD, 3e6), Gaussian(1.0, 4e6)))
    between = np.array([[1.0, 0.5], [0.5, 2.0]])
    assert np.allclose(dense(Kronecker(between, Diffusion(STD, 3e6)), **PAIR), np.kron(within, between), atol=1e-13)
    assert np.allclose(dense(Diffusion(STD, 3e6) + Gaussian(1.0, 4e6), **GLOBE), within + other, atol=1e-13)
    anomalies = (MEMBERS - MEMBERS.mean(axis=0)) / np.sqrt(3)
    schur = dense(GaspariCohn(1.0, 4e6), **GLOBE) * (anomalies.T @ anomalies)
    assert np.allclose(dense(Ensemble(MEMBERS, 4e6), **GLOBE), schur, atol=1e-13)
    hybrid = Hybrid(Gaussian(1.0, 4e6), Ensemble(MEMBERS), 0.25)
    assert np.allclose(dense(hybrid, **GLOBE), 0.75 * other + 0.25 * anomalies.T @ anomalies, atol=1e-13)
    salt_on_heat = np.eye(2 * WET)
    salt_on_heat[2 * np.arange(WET), 2 * np.arange(WET) + 1] = STD[MASK]
    K = np.kron(np.eye(WET), [[1.0, 0.5], [0.5, 1.0]]) @ salt_on_heat
    unbalanced = np.kron(within, np.eye(2))
    assert np.allclose(dense(ERRORS["balance"][0], **PAIR), K @ unbalanced @ K.T, atol=1e-12)


@pytest.mark.parametrize("name", [n for n, (e, _) in ERRORS.items() if hasattr(e, "get_config")])
def test_errors_survive_serialisation(name):
    import json

    error, where = ERRORS[name]
    text = json.dumps(keras.saving.serialize_keras_object(error))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(error)
    with _backend.float64():
        x = tensor(RNG.normal(size=bind(error, **where).size))
        assert (array(bind(again, **where).times(x)) == array(bind(error, **where).times(x))).all()


def test_parameters_are_found_and_replaced_by_name():
    error = Kronecker(np.eye(2), Diffusion(1.0, 2e6) + Gaussian(0.5, 1e6))
    names = ["within.parts.0.std", "within.parts.0.length", "within.parts.1.std", "within.parts.1.length"]
    assert list(error.parameters) == names
    assert error.with_parameters({"within.parts.1.length": 3e6}).parameters == {**error.parameters, names[-1]: 3e6}
    blocks = Blocks({"a": Diagonal(1.0)})
    assert blocks.with_parameters({"of.a.std": 2.0}).of["a"].std == 2.0
    assert isinstance(error.within, Sum) and len((error.within + Diagonal(1.0)).parts) == 3


def test_probed_variances_lie_within_their_standard_error():
    error, where = ERRORS["odd order"]
    estimate, exact = probed_variance(bind(error, **where), probes=400), STD[MASK] ** 2
    assert np.abs(estimate.variance / exact - 1).max() < 4.5 * np.sqrt(2 / 400)
    assert np.median(estimate.error / exact) == pytest.approx(np.sqrt(2 / 400), rel=0.15)
    from dataclasses import replace

    rough = np.diag(dense(replace(error, probes=400), **where)) / exact
    assert 0.02 < np.std(rough) < 0.2 and abs(np.mean(rough) - 1) < 0.05


def test_an_initial_ensemble_has_the_spread_and_the_correlation_of_the_errors():
    lat, lon = np.arange(-10, 11, 4.0), np.arange(0, 24, 4.0)
    land = np.zeros((6, 6), bool)
    land[2, 2:4] = True
    field = np.where(land, np.nan, 20.0).astype("float32")
    ds = xr.Dataset(
        {"sst": (("lat", "lon"), field, {"units": "degC"}), "sss": (("lat", "lon"), field + 15)},
        {"lat": ("lat", lon * 0 + lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})},
    )
    errors = {"sst": Matern(0.5, 1e6), "sss": Diagonal(0.1)}
    out = perturb(ds, errors, members=400, seed=3, mask=~land, periodic=False)
    assert out.sst.dims == ("member", "lat", "lon") and out.sst.dtype == "float32" and out.sst.attrs["units"] == "degC"
    assert np.isnan(out.sst.values[:, land]).all() and np.isfinite(out.sst.values[:, ~land]).all()
    assert float(out.sst.std("member").mean()) == pytest.approx(0.5, rel=0.05)
    assert float(out.sss.std("member").mean()) == pytest.approx(0.1, rel=0.05)
    near = np.corrcoef(out.sst.values[:, 5, 0], out.sst.values[:, 5, 1])[0, 1]
    assert near == pytest.approx(
        float(dense(Matern(1.0, 1e6), latitude=lat, longitude=lon, periodic=False)[30, 31]), abs=0.1
    )
    xr.testing.assert_identical(out.sst, perturb(ds, errors, members=400, seed=3, mask=~land, periodic=False).sst)
    one = perturb(ds, 0.1, members=2, variables=["sss"], mask=~land, periodic=False)
    assert one.sst.dims == ("lat", "lon") and one.sss.sizes["member"] == 2
    with pytest.raises(ValueError, match="the state has members already"):
        perturb(out, errors, members=2, mask=~land, periodic=False)


REFUSED = [
    (lambda: Dense([[1.0, 2.0], [0.0, 1.0]]), "B is not symmetric"),
    (lambda: Dense([[1.0, 2.0], [2.0, 1.0]]), "B is not positive semi-definite"),
    (lambda: Dense(np.ones((2, 3))), "B is no square matrix"),
    (lambda: Diffusion(1.0, 1e6, order=1), "the order is too low"),
    (lambda: Diffusion(1.0, -1e6), "Diffusion: length is not positive"),
    (lambda: Diffusion(1.0, 1e6, spacing=1e5), "spacing and periodic belong together"),
    (lambda: bind(Diffusion(1.0, 1e6), shape=(40,)), "Diffusion needs a grid of two dimensions"),
    (lambda: bind(Diffusion(1.0, 1e6), shape=(4, 4)), "the metric is not known"),
    (lambda: bind(Gaussian(1.0, 1e6), shape=(4, 4)), "needs distances and there are none"),
    (lambda: bind(Gaussian(1.0, 1e6), latitude=[0, 1], longitude=[0, 1]), "periodic is not given"),
    (lambda: bind(Gaussian(np.ones((3, 3)), 1e6), **GLOBE), "the standard deviation does not fit the grid"),
    (lambda: bind(Dense(np.eye(3)), **GLOBE), "Dense does not fit the state"),
    (lambda: bind(0.3), "the size of the state is not known"),
    (lambda: bind(0.3, shape=(2, 2), mask=np.zeros((2, 2), bool)), "the mask has no wet cell"),
    (lambda: Plane(Diagonal(1.0), 1.0, True), "Plane: unknown kernel"),
    (lambda: bind(Plane(Gaussian(1.0, 1.0), 1.0, True), shape=(2, 2, 2)), "too many dimensions"),
    (lambda: Ensemble(np.ones((1, 4))), "members have the wrong shape"),
    (lambda: Ensemble(np.array([[1.0, np.nan], [0.0, 1.0]])), "members are not finite"),
    (lambda: Kronecker([[1.0, 2.0], [2.0, 1.0]], Diagonal(1.0)), "between is not positive semi-definite"),
    (lambda: bind(Kronecker(np.eye(3), Diagonal(1.0)), **PAIR), "between does not fit the channels"),
    (lambda: bind(Blocks({"salt": Diagonal(1.0)}), **PAIR), "not every channel has a covariance"),
    (lambda: bind(Blocks({"sal": Diagonal(1.0)}), **PAIR), "'sal' is no channel of the state; did you mean 'salt'"),
    (lambda: Balance(Diagonal(1.0), "heat"), "Balance: unknown operator"),
    (lambda: Sum((Diagonal(1.0), 2.0)), "Sum: a part is no covariance"),
    (lambda: Hybrid(Diagonal(1.0), Diagonal(1.0), 1.5), "weight is not between 0 and 1"),
    (lambda: Gaussian(1.0, 1.0).with_parameters({"lenth": 2.0}), "is no parameter; did you mean 'length'"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_errors_without_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert all(word in str(caught.value) for word in ("Expected: ", "Received: ", "Remedy: "))
