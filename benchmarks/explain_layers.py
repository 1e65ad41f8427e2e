"""Which kinds of Keras layers can be explained, beside shap's DeepExplainer on the same models; each of its tries in a process of its own.

    python benchmarks/explain_layers.py

prints one JSON line per claim. A kind counts as explained where the contributions add up to 1e-4 of the change that they explain,
and an unrelated model still trains in that process afterwards.
"""

import json
import subprocess
import sys

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

start_backend()

import keras  # noqa: E402  after the start-up messages

L = keras.layers
SHAPE = (8, 12)
NAMES = ("a", "b", "c")
KINDS = (
    "ReLU",
    "GELU",
    "LeakyReLU",
    "SiLU",
    "LayerNormalization",
    "bilinear upsampling",
    "LSTM",
    "attention",
    "a layer of one's own",
)


class Gate(L.Layer):
    """A layer of the user's own."""

    def call(self, x):
        """Return the input, gated by its first channel."""
        return x * keras.ops.sigmoid(x[..., :1])


def report(claim: str, measured: float, unit: str, target: float, peer: str, peer_measured: float | None, holds: bool):
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target, "peer": peer}
    print(json.dumps({**line, "peer_measured": peer_measured, "holds": bool(holds)}), flush=True)


def model(kind: str) -> keras.Model:
    """Return a small network with one output around a layer of this kind."""
    keras.utils.set_random_seed(1)
    x = start = keras.Input((*SHAPE, len(NAMES)))
    if kind == "LSTM":
        x = L.LSTM(8)(L.Reshape((SHAPE[0], -1))(x))
    elif kind == "attention":
        x = L.Reshape((-1, len(NAMES)))(x)
        x = L.Flatten()(L.MultiHeadAttention(2, 4)(x, x))
    else:
        x = L.Conv2D(8, 3, padding="same")(x)
        layer = {
            "ReLU": lambda: L.Activation("relu"),
            "GELU": lambda: L.Activation("gelu"),
            "LeakyReLU": lambda: L.LeakyReLU(),
            "SiLU": lambda: L.Activation("silu"),
            "LayerNormalization": lambda: L.LayerNormalization(),
            "bilinear upsampling": lambda: L.UpSampling2D(2, interpolation="bilinear"),
            "a layer of one's own": lambda: Gate(),
        }[kind]()
        x = L.Flatten()(layer(x))
    return keras.Model(start, L.Dense(1)(x))


def data(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, *SHAPE, len(NAMES))).astype("float32")


def trains() -> bool:
    """Fit a model that has nothing to do with the explained one."""
    other = keras.Sequential([keras.Input((3,)), L.Dense(4, activation="silu"), L.Dense(1)])
    other.compile("sgd", "mse")
    x = np.ones((8, 3), "float32")
    return bool(np.isfinite(other.fit(x, x[:, :1], verbose=0).history["loss"][0]))


def ours(kind: str) -> dict:
    from physml import FieldSpec
    from physml.explain import Explainer, groups, samples

    x = data(12)
    ds = xr.Dataset(
        {n: (("time", "lat", "lon"), x[..., i]) for i, n in enumerate(NAMES)},
        {"time": np.arange(12), "lat": np.linspace(-70, 70, SHAPE[0]), "lon": np.arange(SHAPE[1]) * 30.0},
    )
    layout = FieldSpec(NAMES, "a").bind(ds)
    halves = {"south": {"lat": slice(-90, 0)}, "north": {"lat": slice(0, 90)}}
    explainer = Explainer(
        model(kind),
        samples(ds.isel(time=slice(4, 12)), layout, 8, 0),
        groups(layout, box=halves),
        layout=layout,
        outputs=["y"],
    )
    found = explainer.shapley(ds.isel(time=slice(0, 4)), progress=False)
    change = found.prediction - found.base_value
    error = float(abs(found.attribution.sum("group") - change).max() / abs(change).max())
    return {"error": error, "trains": trains()}


def words_of(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join((str(error).strip() or ' ').splitlines()[-1].split())[:120]}"


def theirs(kind: str) -> dict:
    import shap

    network, x, told = model(kind), data(12), {"version": shap.__version__}
    try:
        phi = np.asarray(shap.DeepExplainer(network, x[4:]).shap_values(x[:4], check_additivity=False))
        total = phi.reshape(4, -1).sum(1)
        value = network(x).numpy()[:, 0]
        change = value[:4] - value[4:].mean()
        told |= {"error": float(abs(total - change).max() / abs(change).max())}
    except Exception as error:  # whatever it raises is the result
        told |= {"raised": words_of(error)}
    try:
        told["trains"] = trains()
    except Exception as error:
        told |= {"trains": False, "then": words_of(error)}
    return told


def apart(kind: str) -> dict:
    """Run the peer in another process."""
    run = subprocess.run([sys.executable, __file__, kind], capture_output=True, text=True, timeout=600)
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"raised": f"process ended with {run.returncode}", "trains": False}


def main() -> None:
    mine = {kind: ours(kind) for kind in KINDS}
    peer = {kind: apart(kind) for kind in KINDS}
    name = f"shap {next((p['version'] for p in peer.values() if 'version' in p), '')} DeepExplainer".replace("  ", " ")
    for kind in KINDS:
        said = peer[kind]
        words = name + (f" raised {said['raised']}" if "raised" in said else "")
        words += "" if said["trains"] else f"; then fit() of another model: {said.get('then', 'failed')}"
        error = mine[kind]["error"]
        report(
            f"sum of contributions, relative error: {kind}", error, "1", 1e-5, words, said.get("error"), error <= 1e-5
        )

    def good(found: dict) -> int:
        return sum(f.get("error", 1) <= 1e-4 and f["trains"] for f in found.values())

    def clean(found: dict) -> int:
        return sum(f["trains"] for f in found.values())

    n = len(KINDS)
    report("kinds of layers explained, of nine", good(mine), "1", n, name, good(peer), good(mine) == n)
    report("another model trains afterwards, of nine", clean(mine), "1", n, name, clean(peer), clean(mine) == n)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(theirs(sys.argv[1])), flush=True)
    else:
        main()
