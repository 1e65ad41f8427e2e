"""Refine eddies six-fold: the sharp fields of a conditional GAN against the smooth ones of a U-Net, both with the block means kept.

    python examples/downscaling_gan.py [--out gan-run] [--short]

A coarse map does not tell where every filament lies. A U-Net trained by least squares answers the mean of all that may be there,
which is smoother than anything that ever is; a generator that also reads noise, and is trained against a critic (WGAN with
gradient penalty), answers one of the fields that may be there, and another with other noise. Both answer through one law: every
block of 6 x 6 cells has exactly the mean of its coarse cell. For the generator it holds while it is trained, so that the critic
never sees a field that breaks it.

The truth is surface quasi-geostrophic turbulence, stirred at large scales, simulated here: monthly sea surface temperature of two
degrees (examples/downscaling.py) is told almost whole by its coarse fields, which leaves nothing to draw. It is given in units of
its standard deviation at large scales, on runs that training has not seen.

Measured on 28 maps, all in these units: the spectrum of the U-Net lies 2.35 from the truth, that of the GAN 0.56 (the rms
difference of the logarithms of the isotropic spectra over all wavenumbers that the coarse cells do not resolve); the block means
hold to 1e-7. The continuous ranked probability score of 8 draws is 0.38, that of the U-Net, its mean absolute error, 0.46. What it
costs: the rms error of the mean of 8 draws is 0.69, that of the U-Net 0.60. (The generator begins as the trained U-Net and sees the
maps as many times again; least squares would stay smooth, whatever its budget.) How close the spectrum comes depends on where the
training stops: the U-Net is always the smooth one, but runs twice as long, or with two steps of the critic for each of the generator,
ended between 0.30 and 0.95.
"""

import argparse
from pathlib import Path

import numpy as np
import scipy.fft
import xarray as xr

from physml.run.quiet import start_backend

CELLS, FACTOR = 48, 6
ENDS = {"y": "periodic", "x": "periodic"}


def turbulence(runs: int, maps: int, seed: int, step: float = 0.006, every: float = 0.5) -> xr.DataArray:
    """Return surface temperature stirred by its own flow, psi(k) = theta(k) / |k|, once in each time *every*.

    Adams and Bashforth's third-order scheme on twice as many cells, averaged over pairs of them; a filter takes away what
    gathers at the least scales, a drag what gathers at the largest, and the variance at wavenumbers 3 to 5 is held at 1.
    """
    n = 2 * CELLS
    k, m = np.fft.fftfreq(n, 1 / n)[:, None].astype("float32"), np.arange(n // 2 + 1, dtype="float32")[None]
    size = np.hypot(k, m)
    band, over = (size >= 2.5) & (size <= 5.5), np.divide(1, size, out=np.zeros_like(size), where=size > 0)
    keep = np.where(size < 0.3 * n, 1, np.exp(-18 * ((size - 0.3 * n) / (0.2 * n)) ** 4)) * np.where(
        size < 2.5, 1 - 0.5 * step, 1
    )

    def grid(z: np.ndarray) -> np.ndarray:
        return scipy.fft.irfft2(z, workers=2)

    def tendency(z: np.ndarray) -> np.ndarray:
        return scipy.fft.rfft2(
            grid(1j * k * over * z) * grid(1j * m * z) - grid(1j * m * over * z) * grid(1j * k * z), workers=2
        )

    theta = scipy.fft.rfft2(np.random.default_rng(seed).normal(size=(runs, n, n)).astype("float32")) * band
    found, slopes = [], []
    for i in range(round((3 + every * (maps - 1)) / step) + 1):
        if i * step > 3 + every * len(found) - step / 2:
            found.append(grid(theta).reshape(runs, CELLS, 2, CELLS, 2).mean((2, 4)))
        held = grid(theta * band).std((1, 2), keepdims=True)
        theta = np.where(band, theta / held, theta).astype("complex64")
        slopes = [tendency(theta), *slopes[:2]]
        weights = {1: (1,), 2: (1.5, -0.5), 3: (23 / 12, -16 / 12, 5 / 12)}[len(slopes)]
        theta = (theta + step * sum(w * s for w, s in zip(weights, slopes, strict=True))) * keep
    axis = (np.arange(CELLS) + 0.5) / CELLS
    return xr.DataArray(
        np.stack(found, 1).astype("float32"),
        dims=("run", "time", "y", "x"),
        coords={"run": np.arange(runs), "time": np.arange(maps), "y": axis, "x": axis},
        attrs={"units": "1", "long_name": "surface temperature"},
    )


def spectrum(field: xr.DataArray) -> xr.DataArray:
    """Return the variance by wavenumber, summed over all directions, averaged over all maps."""
    z = field.stack(map=[d for d in field.dims if d not in ("y", "x")]).transpose("map", "y", "x").values
    power = (np.abs(np.fft.fft2(z)) ** 2).mean(0) / CELLS**4
    k = np.fft.fftfreq(CELLS, 1 / CELLS)
    ring = np.hypot(k[:, None], k[None]).round().astype(int).ravel()
    found = np.bincount(ring, power.ravel())[1 : CELLS // 2 + 1]
    return xr.DataArray(found, dims="wavenumber", coords={"wavenumber": np.arange(1, CELLS // 2 + 1)})


def block_means(field: xr.DataArray) -> xr.DataArray:
    """Return the means over blocks of cells, repeated on the fine grid."""
    means = field.astype("float64").coarsen(y=FACTOR, x=FACTOR).mean()
    return means.reindex_like(field, method="nearest").transpose(*field.dims)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", default="gan-run")
    options.add_argument("--short", action="store_true", help="few maps and steps: that it runs, not what it learns")
    chosen = options.parse_args()
    start_backend()
    import keras
    from scores.probability import crps_for_ensemble

    import physml
    from physml.learners import generate, with_noise, with_noise_inputs
    from physml.networks import WGAN, build, critic

    keras.utils.set_random_seed(0)
    runs, maps, filters, epochs, turns = (3, 2, 4, 2, 1) if chosen.short else (14, 14, 12, 14, 14)
    theta = turbulence(runs, maps, seed=0)
    ds = xr.Dataset({"theta": theta, "coarse": block_means(theta).astype("float32").assign_attrs(units="1")})
    held_out = 1 if chosen.short else 2
    train, test = ds.isel(run=slice(held_out, None)), ds.isel(run=slice(held_out))

    laws = [physml.BlockMean("theta", "coarse", {"y": FACTOR, "x": FACTOR})]
    plain = physml.FieldSpec("coarse", "theta", members="run")
    scaling = physml.Scaling.fit(train, plain)
    shape = {"boundary": ENDS, "filters": filters, "depth": 2}
    smooth = physml.FieldModel(build("unet", scaling.layout, **shape), scaling=scaling, constraints=laws)
    batches = physml.Batches(train, plain, 8, shuffle=True)
    smooth.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, epochs * len(batches))), "mse")
    smooth.fit(batches, epochs=epochs, verbose=0)

    spec = with_noise_inputs(plain, channels=2)
    noisy = with_noise(train, spec, seed=0)
    scaling = physml.Scaling.fit(noisy, spec)
    network = build("unet", scaling.layout, **shape)
    # The generator begins as the U-Net, in whose first kernel the noise has random weights.
    first, *rest = smooth.network.get_weights()
    mixed = network.get_weights()[0]
    mixed[:, :, :1] = first
    network.set_weights([mixed, *rest])
    generator = physml.FieldModel(network, scaling=scaling, constraints=laws)
    judge = critic(scaling.layout, boundary=ENDS, filters=(16, 32, 64))
    gan = WGAN(
        generator,
        judge,
        n_critic=1,
        content="crps",
        members=2,
        content_weight=5.0,
        learning_rate=keras.optimizers.schedules.CosineDecay(1e-3, turns * len(batches)),
        betas=(0.5, 0.9),
    )
    history = gan.fit(physml.Batches(noisy, spec, 8, shuffle=True), epochs=turns)
    print(f"distance by epoch: {' '.join(f'{d:.2f}' for d in history['distance'])}")

    truth = test.theta
    drawn = generate(generator, test, members=8, seed=1).theta
    found = {"U-Net": physml.predict(smooth, test).theta.expand_dims(member=[0]), "GAN": drawn}
    spectra = {"truth": spectrum(truth), "coarse": spectrum(test.coarse)} | {n: spectrum(f) for n, f in found.items()}
    fine = slice(CELLS // FACTOR // 2 + 1, None)
    print(f"{'':<8}{'spectra apart':>16}{'rmse':>8}{'crps':>8}{'worst block mean':>20}")
    scores = {}
    for name, field in found.items():
        apart = np.log(spectra[name]) - np.log(spectra["truth"])
        crps = crps_for_ensemble(
            field, truth, ensemble_member_dim="member", method="ecdf" if name == "U-Net" else "fair"
        )
        scores[name] = {
            "apart": float(np.sqrt((apart.sel(wavenumber=fine) ** 2).mean())),
            "rmse": float(physml.verify.rmse(field.mean("member"), truth)),
            "crps": float(crps.mean()),
            "worst": float(abs(block_means(field) - test.coarse).max()),
        }
        s = scores[name]
        print(f"{name:<8}{s['apart']:16.2f}{s['rmse']:8.3f}{s['crps']:8.3f}{s['worst']:20.1g}")
    print("rmse of the mean of 8 members; crps of the ensemble, of the U-Net its mean absolute error")
    assert all(s["worst"] < 2e-6 for s in scores.values()), "every block keeps its mean to the rounding of float32"
    if not chosen.short:
        assert scores["GAN"]["apart"] < 0.5 * scores["U-Net"]["apart"], "the spectrum of the GAN is that of the truth"
    draw(test, found, spectra, scores, Path(chosen.out))


def draw(test: xr.Dataset, found: dict, spectra: dict, scores: dict, folder: Path) -> None:
    """Draw maps of one time, and the spectra."""
    from matplotlib.figure import Figure

    from physml import plot

    at = {"run": 0, "time": -1}
    one = found["GAN"].isel(at)
    maps = {
        "coarse": test.coarse.isel(at),
        "truth": test.theta.isel(at),
        "U-Net": found["U-Net"].isel(at).isel(member=0),
        "GAN, one draw": one.isel(member=0),
        "GAN, another": one.isel(member=1),
        f"mean of {one.sizes['member']} draws": one.mean("member"),
    }
    figure = Figure(figsize=(17, 7.6), layout="constrained", dpi=150)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    left, right = figure.subfigures(1, 2, width_ratios=(1.55, 1))
    panels = left.subplots(2, 3)
    limit = float(abs(maps["truth"]).max())
    for ax, (name, field) in zip(panels.flat, maps.items(), strict=True):
        image = ax.imshow(field, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
        ax.set_title(name, fontsize=16, color="#222222", loc="left")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("#636363")
    bar = left.colorbar(image, ax=panels, shrink=0.75, pad=0.02)
    bar.set_label("surface temperature [standard deviations of the eddies]", fontsize=13, color="#222222")
    bar.ax.tick_params(labelsize=12)
    bar.outline.set_visible(False)

    ax = right.subplots()
    colours = dict(zip(("truth", "U-Net", "GAN"), ("#222222", *plot.palette("ab").values()), strict=True))
    coarsest = CELLS / FACTOR / 2
    ax.axvspan(coarsest, CELLS / 2, color="#F3F3F1", zorder=0)
    for name, colour in colours.items():
        width = 4.5 if name == "truth" else 2.6
        ax.loglog(
            spectra[name].wavenumber, spectra[name], color=colour, linewidth=width, alpha=0.45 if name == "truth" else 1
        )
    for name, colour in colours.items():
        told = name if name == "truth" else f"{name}: {scores[name]['apart']:.2f} from the truth"
        ax.plot(
            [],
            [],
            color=colour,
            linewidth=4 if name == "truth" else 2.6,
            alpha=0.45 if name == "truth" else 1,
            label=told,
        )
    ax.legend(fontsize=14, frameon=False, loc="lower left")
    ax.text(
        coarsest * 1.06,
        0.97,
        "finer than the coarse cells",
        transform=ax.get_xaxis_transform(),
        fontsize=13,
        color="#636363",
        va="top",
    )
    ax.set_title("Variance by wavenumber", fontsize=16, color="#222222", loc="left")
    ax.set_xlabel("wavenumber [waves across the map]", fontsize=14, color="#222222")
    ax.set_ylabel("variance [1]", fontsize=14, color="#222222")
    ax.set_xticks([1, 2, 4, 8, 16, 24], ["1", "2", "4", "8", "16", "24"])
    ax.minorticks_off()
    ax.set_xlim(1, CELLS / 2)
    ax.tick_params(labelsize=12, colors="#222222")
    ax.spines[["top", "right"]].set_visible(False)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "downscaling_gan.png")
    print(f"figure in {folder}")


if __name__ == "__main__":
    main()
