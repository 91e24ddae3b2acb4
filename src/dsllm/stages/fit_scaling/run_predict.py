"""`dsllm fit-scaling predict`: what a compute budget needs, on standard error as a table."""

from collections.abc import Sequence
from typing import Any

from dsllm.config import RunOptions
from dsllm.errors import ConfigError
from dsllm.progress import Reporter
from dsllm.stages.fit_scaling.config import PredictConfig
from dsllm.stages.fit_scaling.predict import LAW_NAMES, SYMBOLS, predict_all, read_fits


def run(
    config: PredictConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Show what a compute budget needs, by the fits in `inputs` (none or one) and by the published laws.

    Nothing is written: `output` and `options` are there because every stage has them.
    """
    if len(inputs) > 1:
        raise ConfigError(f"{len(inputs)} fits are given, one is read", hint=f"try {inputs[0]} alone")
    result = predict_all(config, read_fits(inputs[0]) if inputs else None)
    rows = [
        [
            row["name"],
            *(_short(row[name]) for name in LAW_NAMES),
            "" if row["overtraining"] is None else f"{row['overtraining']:.2f} x",
        ]
        for row in result["predictions"]
    ]
    title = f"C = {result['compute_flops']:.4g} FLOPs"
    reporter.table(title, ["law", *(SYMBOLS[name] for name in LAW_NAMES), "D / D_opt"], rows)
    if inputs:
        beyond = result["times_largest_budget"]
        if beyond > 1:
            reporter.say(f"that is {beyond:,.3g} times the largest budget these laws were fitted to")
        if result["loss"] is not None:
            reporter.say(f"{result['metric']}: {result['loss']:.4f} by these runs")
    return result


plan = run
"""It reads one small file and writes nothing, so there is nothing to say beforehand."""


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
