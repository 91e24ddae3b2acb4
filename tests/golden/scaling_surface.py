"""Make scaling_surface.json: a noisy loss surface and its Huber fit by scipy, from many starts.

Made with scipy 1.17.1 and numpy 2.4.6: python tests/golden/scaling_surface.py
"""

import json
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

PLANTED = {"A": 482.0, "B": 2085.0, "E": 1.8, "alpha": 0.348, "beta": 0.366}
THRESHOLD = 1e-3


def main() -> None:
    generator = np.random.default_rng(7)
    n, d = 10 ** generator.uniform(7, 10, 40), 10 ** generator.uniform(8, 11, 40)
    p = PLANTED
    loss = (p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"]) * np.exp(
        0.004 * generator.standard_normal(40)
    )
    n, d, loss = (np.array([float(f"{value:.6g}") for value in values]) for values in (n, d, loss))

    def error(x: np.ndarray) -> float:
        a, b, e, alpha, beta = x
        residual = np.log(np.exp(a) / n**alpha + np.exp(b) / d**beta + np.exp(e)) - np.log(loss)
        size = np.abs(residual)
        return float(np.where(size <= THRESHOLD, residual**2 / 2, THRESHOLD * (size - THRESHOLD / 2)).sum())

    start = np.array([np.log(p["A"]), np.log(p["B"]), np.log(p["E"]), p["alpha"], p["beta"]])
    options = {"maxiter": 40000, "maxfev": 40000, "xatol": 1e-11, "fatol": 1e-18}
    found = [
        minimize(
            error, start * (1 + 0.05 * generator.standard_normal(5)), method="Nelder-Mead", options=options
        )
        for _ in range(20)
    ]
    best = min(found, key=lambda result: result.fun)
    a, b, e, alpha, beta = best.x
    fit = {"A": np.exp(a), "B": np.exp(b), "E": np.exp(e), "alpha": alpha, "beta": beta, "huber": best.fun}
    points = [{"n_parameters": x, "n_tokens": y, "loss": z} for x, y, z in zip(n, d, loss, strict=True)]
    values = {
        "planted": PLANTED,
        "scipy": {name: float(value) for name, value in fit.items()},
        "points": points,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
