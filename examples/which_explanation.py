"""Which explanation is right? A network learns a function whose attribution is known, and every method is held against it.

    python examples/which_explanation.py [--out which-explanation] [--short]

The target is a sum of functions of single cells of a field with the correlations of sea surface temperature: what each cell
contributes is known (Mamalakis et al. 2022, doi:10.1017/eds.2022.7; the data are made on the spot). On the function itself
Shapley values, occlusion and integrated gradients must be the truth; on the network each is off by its own error and by what the
network got wrong. Two further ways lower the latter: slopes averaged over training samples, where the network knows what it
does (accumulated local effects), and several networks.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend
from physml.testbeds import separable

WIDTHS = (512, 256, 128, 64, 32, 16)


def learn(train: xr.Dataset, seed: int, epochs: int, batch_size: int = 64):
    """Return the published network, trained on the target in standard deviations; larger batches take longer steps."""
    import keras

    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(width, "relu") for width in WIDTHS]
    network = keras.Sequential([keras.Input((18, 36, 1)), keras.layers.Flatten(), *layers, keras.layers.Dense(1)])
    network.compile(keras.optimizers.Adam(1e-3 * (batch_size / 64) ** 0.5), "mse", jit_compile=False)
    x = train.x.fillna(0).values[..., None].astype("float32")
    network.fit(x, (train.y / train.y.std()).values.astype("float32"), batch_size=batch_size, epochs=epochs, verbose=0)
    return network


def accumulated(explainer, known: xr.Dataset, test: xr.Dataset, bins: int = 12) -> xr.DataArray:
    """Return accumulated local effects at the samples: mean slopes over known samples by bins of x, summed up from zero."""
    from scipy.stats import norm

    slopes = explainer.gradients(known, "saliency").attribution.isel(channel=0, drop=True)
    edges = norm.ppf(np.linspace(0, 1, bins + 1))
    total = 0 * test.x
    for low, high in itertools.pairwise(edges):
        slope = slopes.where((known.x >= low) & (known.x < high)).mean("sample").fillna(0)
        total = total + slope * (test.x.clip(low, high) - np.clip(0, low, high))
    return total


def explanations(explainer, known: xr.Dataset, test: xr.Dataset, pairs: tuple[int, int]) -> dict:
    """Return maps of every method, and the rows they asked of the model for each sample; gradients count as one row."""

    def cells(kind: str, **settings):
        result = explainer.gradients(test, kind, **settings)
        if "group" in result.dims:
            return explainer.groups.paint(result).x, result.attrs["rows_per_sample"]
        return result.attribution.isel(channel=0), result.attrs["rows_per_sample"]

    def shapley(n: int):
        result = explainer.shapley(test, "permutations", pairs=n)
        return explainer.groups.paint(result).x, int(result.rows[0])

    from physml.explain import Explainer, samples

    found = {
        "gradient": cells("saliency"),
        "input x gradient": cells("input_x_gradient"),
        "LRP, epsilon": cells("lrp", epsilon=1e-3),
        "integrated gradients": cells("integrated", steps=32),
    }
    random = Explainer(
        explainer.model,
        samples(known, explainer.layout, 64, seed=0),
        layout=explainer.layout,
        outputs=explainer.adapted.outputs.names,
    )
    expected = random.gradients(test, "expected", replicates=16, steps=4)
    found["expected gradients"] = expected.attribution.isel(channel=0), expected.attrs["rows_per_sample"]
    found["occlusion"] = cells("occlusion")
    for n in pairs:
        found[f"Shapley, {n} pairs"] = shapley(n)
    found["accumulated effects"] = accumulated(explainer, known, test), f"{known.sizes['sample']} once"
    return {
        n: (m.drop_vars(["channel", "variable", "offset"], errors="ignore"), rows) for n, (m, rows) in found.items()
    }


def exact_on_the_function(test: xr.Dataset, layout) -> dict[str, float]:
    """Return the greatest error of exact methods on the function itself, relative to the greatest contribution."""
    from physml.explain import Explainer, groups, on_tensors, zero

    function = Explainer(
        on_tensors(separable.function(test)), zero(layout), groups(layout, cells=True), layout=layout, outputs=["y"]
    )
    one, kinks = test.isel(sample=[0]), separable.kinks(test)
    truth = separable.truth(one).attribution
    maps = {
        "Shapley values, 2 pairs": function.groups.paint(function.shapley(one, "permutations", pairs=2)).x,
        "occlusion": function.groups.paint(function.gradients(one, "occlusion")).x,
        "integrated gradients, 256 steps": function.gradients(one, "integrated", steps=256).attribution[0],
        "integrated gradients, cut at kinks": function.gradients(one, "integrated", kinks=kinks).attribution[0],
    }
    return {n: float(abs(m - truth).max() / abs(truth).max()) for n, m in maps.items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", default="which-explanation")
    options.add_argument("--short", action="store_true", help="3000 samples, two epochs, one network")
    chosen = options.parse_args()
    start_backend()
    from physml.explain import Explainer, groups, sanity, zero
    from physml.fields import FieldSpec

    n, epochs, networks, pairs = (3000, 2, 1, (2, 4)) if chosen.short else (20_000, 12, 3, (2, 8))
    clock = time.perf_counter()
    ds = separable.simulate(n + 1032)
    train, known = ds.isel(sample=slice(n)), ds.isel(sample=slice(2000))
    test = ds.isel(sample=slice(n + 1000, n + (1008 if chosen.short else 1024)))
    layout = FieldSpec("x", "x", sample_dim="sample", mask="ocean", area="cell_area").bind(ds)
    truth = separable.truth(test).attribution

    print("greatest error on the function itself, relative")
    for name, error in exact_on_the_function(test, layout).items():
        print(f"{name:<36}{error:10.1e}")

    maps, rows = {"truth": truth}, {}
    each: dict[str, list[xr.DataArray]] = {"Shapley": [], "accumulated": []}
    for seed in range(networks):
        model = learn(train, seed, epochs, batch_size=256)
        explainer = Explainer(model, zero(layout), groups(layout, cells=True), layout=layout, outputs=["y"])
        if seed == 0:
            held = ds.isel(sample=slice(n, n + 1000))
            left = held.y / train.y.std() - model.predict(held.x.fillna(0).values[..., None], verbose=0)[:, 0]
            skill = 1 - float((left**2).mean() / (held.y / train.y.std()).var())
            print(f"R2 of the network {skill:.3f}, after {time.perf_counter() - clock:.0f} s")
            for name, (field, cost) in explanations(explainer, known, test, pairs).items():
                maps[name], rows[name] = field, cost
            each["Shapley"].append(maps[f"Shapley, {pairs[1]} pairs"])
            each["accumulated"].append(maps["accumulated effects"])
        else:
            each["Shapley"].append(explainer.groups.paint(explainer.shapley(test, pairs=pairs[1])).x)
            each["accumulated"].append(accumulated(explainer, known, test))
    if networks > 1:
        for name, fields in each.items():
            maps[f"{name}, {networks} networks"] = sum(fields) / networks
        rows[f"Shapley, {networks} networks"] = networks * rows[f"Shapley, {pairs[1]} pairs"]
        rows[f"accumulated, {networks} networks"] = f"{networks * 2000} once"

    scores = sanity.agreement(maps, over=("lat", "lon")).pearson.sel(explanation="truth").drop_sel(other="truth")
    print(f"{'correlation with the truth':<28}{'mean':>7}{'10 %':>7}{'90 %':>7}   model rows a sample")
    for name in rows:
        r = scores.sel(other=name)
        low, high = np.quantile(r, [0.1, 0.9])
        print(f"{name:<28}{float(r.mean()):7.3f}{low:7.3f}{high:7.3f}   {rows[name]}")
    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    draw(maps, scores, rows, skill).savefig(out / "which_explanation.png", dpi=150)
    print(f"figure in {out}, after {time.perf_counter() - clock:.0f} s")


def plain(value) -> str:
    """Return a correlation as text, with a true minus sign."""
    return f"{float(value):.2f}".replace("-", "\N{MINUS SIGN}")


def draw(maps: dict[str, xr.DataArray], scores: xr.DataArray, rows: dict, skill: float):
    """Return the figure: maps of one sample, each in its own standard deviations, and the correlations with their cost."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(15, 7.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    columns = 3
    lines = -(-len(maps) // columns)
    axes = left.subplots(lines, columns, sharex=True, sharey=True)
    best = scores.sel(other=list(rows)[-1])
    sample = int(abs(best - best.median()).argmin("sample"))
    for axis in axes.flat[len(maps) :]:
        axis.remove()
    for axis, (name, field) in zip(axes.flat, maps.items(), strict=False):
        one = field.isel(sample=sample)
        image = axis.pcolormesh(one.lon, one.lat, one / one.std(), cmap="RdBu_r", vmin=-3, vmax=3, rasterized=True)
        axis.set_facecolor("0.82")
        r = "" if name == "truth" else f"   r = {plain(scores.sel(other=name).isel(sample=sample))}"
        axis.set_title(f"{name}{r}", fontsize=10, fontweight="bold" if name == "truth" else None)
        axis.set_xticks([0, 120, 240, 360], ["0°", "120°E", "120°W", "0°"])
        axis.set_yticks([-60, 0, 60], ["60°S", "0°", "60°N"])
    left.colorbar(
        image,
        ax=left.get_axes(),
        shrink=0.6,
        aspect=40,
        location="bottom",
        label="contribution over its standard deviation",
    )
    left.suptitle("What each cell contributes, by method, in one sample", fontsize=13)

    axis = right.subplots()
    names = list(rows)[::-1]
    means = [float(scores.sel(other=n).mean()) for n in names]
    ends = np.array([np.quantile(scores.sel(other=n), [0.1, 0.9]) for n in names]).T
    colours = ["#1f6fb4" if "Shapley" in n else "#e08a3c" if "accum" in n else "#b0b7c3" for n in names]
    error = np.abs(ends - means)
    axis.barh(names, means, xerr=error, color=colours, error_kw={"ecolor": "0.35", "capsize": 3, "lw": 1})
    for i, name in enumerate(names):
        cost = f"{rows[name]:,}".replace(",", " ") if isinstance(rows[name], int) else rows[name]
        axis.text(1.02, i, plain(means[i]), va="center", fontsize=10, fontweight="bold")
        axis.text(1.36, i, cost, va="center", fontsize=9, color="0.3")
    axis.text(1.02, len(names) - 0.35, "mean", fontsize=9)
    axis.text(1.36, len(names) - 0.35, "model rows\na sample", fontsize=9, color="0.3")
    axis.axvline(0, color="0.3", lw=0.8)
    axis.set(xlim=(min(-0.3, ends[0].min() - 0.03), 1.75), xlabel="correlation with the truth over the ocean")
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axis.spines[["top", "right"]].set_visible(False)
    right.suptitle(
        f"Mean of {scores.sizes['sample']} samples, bars from 10 to 90 %; network R² {skill:.2f}", fontsize=13
    )
    return figure


if __name__ == "__main__":
    main()
