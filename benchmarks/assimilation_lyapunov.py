"""The Lyapunov spectra of the test beds, beside published ones.

    python benchmarks/assimilation_lyapunov.py [--time 12000]

prints one JSON line per system: the exponents with their standard errors, their sum, which is known exactly, the Kaplan-Yorke
dimension, and the seconds it took. Lorenz 1996: n = 40, F = 8, Runge-Kutta steps of 0.05, sixteen orbits at once; published
spectrum 1.691 1.482 1.308 1.152 1.011 .875 .744 .618 .496 .374 .258 .143 .029 0 ..., sum -40, dimension 27.05. Lorenz 1963:
0.906, 0, -14.572 (Sprott 2003, ISBN 978-0-19-850840-3). The truth of the
course on model error: a Lyapunov time of 0.82, doubling of errors in 0.57.
"""

import argparse
import json
import time

import numpy as np

from physml.run.quiet import start_backend

start_backend()

from physml.assimilation import RK4, lyapunov_spectrum  # noqa: E402  after the start-up messages
from physml.testbeds import lorenz63, lorenz96  # noqa: E402
from physml.testbeds.setups import mooc2023  # noqa: E402

LORENZ96 = [1.691, 1.482, 1.308, 1.152, 1.011, 0.875, 0.744, 0.618, 0.496, 0.374, 0.258, 0.143, 0.029]
MOOC = [1 / 0.82]  # the Lyapunov time that the course prints
LORENZ63 = [0.906, 0.0, -14.572]
ORBITS = 16


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--time", type=float, default=12000.0, help="model time of all orbits together")
    total = options.parse_args().time

    def truth(x):
        return lorenz96.tendency(x, **mooc2023.TRUTH)

    systems = {
        "Lorenz 1996": (lorenz96.tendency, lorenz96.simulate, {}, 0.05, 4, LORENZ96, -40.0),
        "Lorenz 1996 with the cubic term": (truth, lorenz96.simulate, mooc2023.TRUTH, 0.05, 4, MOOC, None),
        "Lorenz 1963": (lorenz63.tendency, lorenz63.simulate, {}, 0.01, 20, LORENZ63, -41 / 3),
    }
    for name, (tendency, simulate, parameters, dt, every, published, exact) in systems.items():
        initial = simulate(0, members=ORBITS, spin_up=20.0, **parameters).x.isel(time=0)
        steps = every * round(total / ORBITS / dt / every)
        began = time.perf_counter()
        found = lyapunov_spectrum(RK4(tendency, dt, dtype="float64"), initial, steps, every=every)
        line = {
            "system": name,
            "exponents": found.exponent.values.round(4).tolist(),
            "stderr_leading": round(float(found.stderr[0]), 4),
            "largest_departure_from_published": round(
                float(np.abs(found.exponent.values[: len(published)] - published).max()), 4
            ),
            "sum": round(float(found.exponent.sum()), 4),
            "sum_expected": exact,
            "kaplan_yorke": round(float(found.kaplan_yorke), 3),
            "model_time": total,
            "seconds": round(time.perf_counter() - began, 1),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
