"""Scaling fits beside what was published from the same data, and how often the intervals hold.

    DSLLM_TEST_DATA=.../data python benchmarks/fit_scaling_published.py

reads the folder `scaling` beside DSLLM_TEST_DATA:
porian_*: Porian et al. 2024, arXiv:2406.19146 (MIT); openlm_gadre2024.csv: Gadre et al. 2024 (MIT).
"""

import csv
import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np

from dsllm.stages.fit_scaling.config import FitConfig
from dsllm.stages.fit_scaling.fit import analyse
from dsllm.stages.fit_scaling.laws import Bootstrap, fit_power_law, fit_with_interval
from dsllm.stages.fit_scaling.parametric import fit_surface
from dsllm.stages.fit_scaling.runs import Run

KEYS = ("file", "dataset", "hparams", "warmup", "decay", "param_count", "loss_kind")


def main() -> None:
    data = os.environ.get("DSLLM_TEST_DATA")
    if not data:
        sys.exit("set DSLLM_TEST_DATA to the folder with the corpora")
    folder = Path(data).parent / "scaling"
    compare_porian(folder)
    compare_open_lm(folder)
    measure_coverage()


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def make_run(compute: float, flops: float, loss: float) -> Run:
    return Run("", compute_flops=compute, flops_per_token=flops, n_tokens=compute / flops, loss=loss)


def compare_porian(folder: Path) -> None:
    pairs, points = (
        read_table(folder / f"porian_{name}.csv") for name in ("optimal_pairs", "isoflop_points")
    )
    print("Porian et al. 2024: exponent of N_opt")
    print(f"{'configuration':52} {'published':>9} {'ours on':>9} {'raw runs,':>9}  {'interval':15} held out")
    print(f"{'':52} {'weighted':>9} {'optima':>9} {'parabolas':>9}")
    largest_difference = 0.0
    for published in json.loads((folder / "porian_published_fits.json").read_text()):
        rows = [row for row in pairs if row["n"] and all(row[key] == published[key] for key in KEYS)]
        x, y, deviation = ([float(row[key]) for row in rows] for key in ("flops", "n", "n_star_std"))
        weighted = fit_power_law(x, y, [1 / value for value in deviation]).exponent
        for mine, theirs in ((weighted, "weighted"), (fit_power_law(x, y).exponent, "basic")):
            largest_difference = max(largest_difference, abs(mine - published[theirs]["n_exponent"]))
        runs = [
            make_run(float(row["flops"]), 6 * float(row["n"]), float(row["loss"]))
            for row in points
            if row["loss"] and all(row[key] == published[key] for key in KEYS)
        ]
        own = analyse(runs, "loss", FitConfig())["isoflop"]["flops_per_token"]["law"]
        low, high = own["exponent_interval"]
        print(
            f"{'/'.join(published[key] for key in KEYS[1:]):52} {published['weighted']['n_exponent']:9.4f} "
            f"{weighted:9.4f} {own['exponent']:9.4f}  {low:.3f} to {high:.3f}  "
            f"{own['held_out']['error_frac']:+.1%}"
        )
    print(f"largest difference of ours on their optima to the published: {largest_difference:.1e}\n")


def compare_open_lm(folder: Path) -> None:
    print(
        "open_lm (Gadre et al. 2024): loss = E + A / N^alpha + B / D^beta on C4, and by scipy's Nelder-Mead"
    )
    table = read_table(folder / "openlm_gadre2024.csv")
    for dataset in ("c4_original", "rpj", "rw_original"):
        rows = [row for row in table if row["dataset"] == dataset and row["loss_c4_val"]]
        n, d, loss = (
            np.array([float(row[key]) for row in rows]) for key in ("params", "tokens", "loss_c4_val")
        )
        started_s = time.perf_counter()
        surface, reason = fit_surface([make_run(a * b, a, c) for a, b, c in zip(n, d, loss, strict=True)])
        seconds = time.perf_counter() - started_s
        assert surface is not None, reason
        law = surface.law
        values = (law.a, law.b, law.e, law.alpha, law.beta)
        print(
            f"{dataset:12} {len(rows)} runs: {show(values)} huber {surface.huber:.9e} ({seconds:.2f} s)\n"
            f"{'':21}{fit_by_scipy(n, d, loss, values)}"
        )
    print()


def show(values: tuple[float, ...]) -> str:
    a, b, e, alpha, beta = values
    return f"A {a:.2f} B {b:.2f} E {e:.4f} alpha {alpha:.4f} beta {beta:.4f}"


def fit_by_scipy(n: np.ndarray, d: np.ndarray, loss: np.ndarray, start: tuple[float, ...]) -> str:
    try:
        from scipy.optimize import minimize
    except ImportError:
        return "(scipy is not installed)"

    def error(x: np.ndarray) -> float:
        predicted = np.exp(x[0]) / n ** x[3] + np.exp(x[1]) / d ** x[4] + np.exp(x[2])
        size = np.abs(np.log(predicted / loss))
        return float(np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum())

    generator, options = np.random.default_rng(0), {"maxiter": 40000, "maxfev": 40000, "fatol": 1e-17}
    first = np.array([*np.log(start[:3]), *start[3:]])
    found = min(
        (
            minimize(
                error,
                first * (1 + 0.03 * generator.standard_normal(5)),
                method="Nelder-Mead",
                options=options,
            )
            for _ in range(10)
        ),
        key=lambda result: result.fun,
    )
    return f"{show((*np.exp(found.x[:3]), *found.x[3:]))} huber {found.fun:.9e}"


def measure_coverage() -> None:
    print("How often the 95 % interval holds a planted exponent (1,000 trials, noise of 5 % on the optima)")
    generator = np.random.default_rng(0)
    for n_points in (4, 5, 6, 8, 12):
        x = np.geomspace(1e17, 3e20, n_points)
        n_held, width = 0, 0.0
        for trial in range(1000):
            y = 0.17 * x**0.52 * np.exp(0.05 * generator.standard_normal(n_points))
            interval = fit_with_interval(
                x.tolist(), y.tolist(), Bootstrap(500, 0.95, trial)
            ).exponent_interval
            assert interval is not None
            n_held += interval[0] <= 0.52 <= interval[1]
            width += interval[1] - interval[0]
        error = math.sqrt(0.95 * 0.05 / 1000)
        print(f"{n_points:3} budgets: {n_held / 1000:.1%} (+- {error:.1%}), mean width {width / 1000:.4f}")


if __name__ == "__main__":
    main()
