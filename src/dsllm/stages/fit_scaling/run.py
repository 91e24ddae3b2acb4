"""`dsllm fit-scaling fit`: finished runs in; laws, intervals and pictures out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsllm.config import RunOptions
from dsllm.io.folder import OutputFolder
from dsllm.progress import Reporter
from dsllm.stages.fit_scaling.config import FitConfig
from dsllm.stages.fit_scaling.fit import analyse, law_of
from dsllm.stages.fit_scaling.predict import FITS, LAW_NAMES, SYMBOLS, law_path
from dsllm.stages.fit_scaling.published import CHINCHILLA, DEEPSEEK
from dsllm.stages.fit_scaling.runs import expand_inputs, read_runs


def run(
    config: FitConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Fit all laws that the runs allow; write `fits.json` and pictures into the folder `output`.

    Args:
        config: how to fit.
        inputs: files of results, `pretrain` folders, or folders of such folders.
        output: the folder to write.
        options: where an existing output may be replaced.
        reporter: shows the laws and the warnings.

    Returns:
        The manifest's counts: the numbers of runs and budgets, and each law's coefficient and exponent.
    """
    inputs = expand_inputs(inputs)
    with OutputFolder(output, stage="fit-scaling fit", config=config, inputs=inputs, options=options) as out:
        runs, metric = read_runs(inputs, config.metric)
        fits = analyse(runs, metric, config)
        with out.create(FITS) as file:
            file.write((json.dumps(fits, indent=1) + "\n").encode())
        if config.pictures != "none":
            from dsllm.stages.fit_scaling.plot import draw_all

            for name, picture in draw_all(fits, config.pictures).items():
                with out.create(name) as file:
                    file.write(picture)
        counts = summarise(fits)
        out.finish(counts=counts, content={"kind": "scaling-fits", "metric": metric})
    _show_fits(fits, reporter)
    return counts


def plan(
    config: FitConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Say which runs would be read and by what they would be judged; write nothing."""
    runs, metric = read_runs(expand_inputs(inputs), config.metric)
    compute = sorted(run.compute_flops for run in runs)
    summary = {
        "n_runs": len(runs),
        "metric": metric,
        "lowest_compute_flops": compute[0],
        "highest_compute_flops": compute[-1],
        "writes": [str(Path(output) / FITS)],
    }
    reporter.table("fit-scaling fit would read", ["what", "value"], [[k, str(v)] for k, v in summary.items()])
    return summary


def summarise(fits: dict[str, Any]) -> dict[str, Any]:
    """The counts of the manifest: each law in short, None where there is none."""
    laws: dict[str, Any] = {}
    for name in LAW_NAMES:
        law = law_of(fits, *law_path(name))
        laws[name] = {"coefficient": law.coefficient, "exponent": law.exponent} if law else None
    return {
        "n_runs": fits["n_runs"],
        "n_budgets": len(fits["budgets"]),
        "laws": laws,
        "exponent_sum": fits["isoflop"].get("exponent_sum"),
        "n_warnings": len(fits["warnings"]),
    }


def _show_fits(fits: dict[str, Any], reporter: Reporter) -> None:
    rows = []
    for name in LAW_NAMES:
        law, own = law_of(fits, *law_path(name)), fits
        for key in law_path(name):
            own = own.get(key) or {}
        values = own.get("law") or {}
        published = [getattr(laws, name) for laws in (DEEPSEEK, CHINCHILLA)]
        rows.append(
            [
                SYMBOLS[name],
                str(law) if law else "none",
                _interval(values),
                _error(values.get("held_out")),
                *(str(law) if law else "" for law in published),
            ]
        )
    columns = ["", "these runs", "exponent within", "largest left out", DEEPSEEK.name, CHINCHILLA.name]
    reporter.table(f"{fits['n_runs']} runs by {fits['metric']}", columns, rows)
    if fits["isoflop"].get("exponent_sum") is not None:
        reporter.say(f"a + b = {fits['isoflop']['exponent_sum']:.4f} (1 where C = M D holds)")
    for warning in fits["warnings"]:
        reporter.say(f"warning: {warning}")


def _interval(law: dict[str, Any]) -> str:
    if interval := law.get("exponent_interval"):
        return f"{interval[0]:.4f} to {interval[1]:.4f}"
    return "too few budgets" if law else ""


def _error(held_out: dict[str, float] | None) -> str:
    return f"{held_out['error_frac']:+.1%}" if held_out else ""
