"""`dsllm fit-scaling plan`: a ladder of runs, as JSON Lines and as a shell script."""

import sys
from collections.abc import Sequence
from typing import Any

from dsllm.config import RunOptions
from dsllm.io.folder import OutputFolder
from dsllm.progress import Reporter
from dsllm.stages.fit_scaling.config import LadderConfig
from dsllm.stages.fit_scaling.ladder import PlannedRun, complete_laws, plan_ladder, to_json_lines, to_script
from dsllm.stages.fit_scaling.predict import fitted_laws, read_fits


def run(
    config: LadderConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Lay out the runs of a ladder: `ladder.jsonl` and `ladder.sh` in the folder `output`.

    With `-` as output the JSON Lines go to standard output. The summary has the number of runs and their
    compute in all.
    """
    runs, warnings, summary = _lay_out(config)
    if output == "-":
        sys.stdout.buffer.write(to_json_lines(runs, config))
        sys.stdout.buffer.flush()
    else:
        with OutputFolder(
            output,
            stage="fit-scaling plan",
            config=config,
            inputs=inputs,
            options=options,
            more_inputs=[config.fits],
        ) as out:
            with out.create("ladder.jsonl", n_runs=len(runs)) as file:
                file.write(to_json_lines(runs, config))
            with out.create("ladder.sh") as file:
                file.write(to_script(runs, config))
            out.finish(counts=summary, content={"kind": "scaling-ladder"})
    _show_ladder(runs, warnings, reporter)
    return summary


def plan(
    config: LadderConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Show the ladder without writing it."""
    runs, warnings, summary = _lay_out(config)
    _show_ladder(runs, warnings, reporter)
    return summary


def _lay_out(config: LadderConfig) -> tuple[list[PlannedRun], list[str], dict[str, Any]]:
    own = fitted_laws(read_fits(config.fits), config.fits) if config.fits else None
    laws, filled = complete_laws(own)
    runs, warnings = plan_ladder(config, laws)
    if filled:
        warnings.append(f"{config.fits} has no law for {', '.join(filled)}: DeepSeek LLM's are taken")
    summary = {
        "n_runs": len(runs),
        "n_budgets": len(config.budget_list()),
        "compute_flops": sum(run.compute_flops for run in runs),
        "total_flops": sum(run.total_flops for run in runs),
        "n_tokens_most": max(run.n_tokens for run in runs),
    }
    return runs, warnings, summary


def _show_ladder(runs: Sequence[PlannedRun], warnings: Sequence[str], reporter: Reporter) -> None:
    rows = [
        [
            run.name,
            f"{run.compute_flops:.3g}",
            f"{run.flops_per_token:.3g}",
            f"{run.n_tokens:.3g}",
            run.n_steps,
            f"{run.batch_seqs} x {run.model.seq_len}",
            f"{run.lr_max:.3g}",
        ]
        for run in runs
    ]
    reporter.table("Ladder", ["run", "C", "M", "D", "steps", "batch", "lr_max"], rows)
    by_scale, in_all = (sum(getattr(run, name) for run in runs) for name in ("compute_flops", "total_flops"))
    reporter.say(f"{len(runs)} runs: {by_scale:.3g} FLOPs as M counts them, {in_all:.3g} with the vocabulary")
    for warning in warnings:
        reporter.say(f"warning: {warning}")
