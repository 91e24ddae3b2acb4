"""The life of a fine-tuning or DPO run, from model folder to model folder; each stage adds its own loss."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dsllm.config import RunOptions
from dsllm.io.folder import OutputFolder
from dsllm.model.flops import n_parameters
from dsllm.model.folder import write_model
from dsllm.model.hf import load_model
from dsllm.model.transformer import Transformer
from dsllm.parallel.estimate import estimate_run
from dsllm.parallel.mesh import Ranks, find_device, start_ranks
from dsllm.progress import Reporter, format_amount, format_duration
from dsllm.text.chat import DEEPSEEK_TEMPLATE
from dsllm.text.tokenizer_files import CHAT_TEMPLATE, load_tokenizer
from dsllm.train.course import Course, plan_course
from dsllm.train.loop import Job, LoopSettings, finish_checkpoints, train
from dsllm.train.metrics import read_metrics
from dsllm.train.optimizer import make_optimizer
from dsllm.train.sampler import MICRO_BATCH_TOKENS
from dsllm.train.samples import Encode
from dsllm.train.settings import AlignmentConfig


@dataclass(frozen=True, kw_only=True)
class Work:
    """The place of a run: its ranks, who reports, the folder, and on rank 0 what writes it."""

    ranks: Ranks
    reporter: Reporter
    folder: Path
    out: OutputFolder | None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What sets fine-tuning and DPO apart.

    Args:
        name: of the stage.
        encode: a record's sequences.
        make_job: puts the model, its optimizer, batches and loss together.
        closing_metrics: numbers of the last step that the manifest keeps.
        more_inputs: files that the stage reads besides.
    """

    name: str
    encode: Encode
    make_job: Callable[[Course, Transformer, Work], Job[Any]]
    closing_metrics: tuple[str, ...] = ()
    more_inputs: tuple[str | None, ...] = ()


def run_stage(
    stage: Stage,
    config: AlignmentConfig,
    inputs: Sequence[str],
    output: str,
    *,
    options: RunOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Train from a model folder to a model folder, or go on where the same command was stopped.

    Every rank that a launcher has started runs this; rank 0 alone writes and reports.

    Returns:
        The closing summary: counts of the data, the losses at the start and the end; empty but on rank 0.
    """
    with start_ranks(config.device) as ranks, ExitStack() as stack:
        reporter = reporter if ranks.is_first else Reporter(is_quiet=True)
        course = plan_course(config, inputs, stage.encode, options=options, reporter=reporter)
        out = None
        if ranks.is_first:
            out = stack.enter_context(
                OutputFolder(
                    output,
                    stage=stage.name,
                    config=config,
                    inputs=inputs,
                    options=options,
                    more_inputs=[config.model, config.tokenizer, config.valid, *stage.more_inputs],
                    is_on_disk=True,
                )
            )
            _set_aside(course, out)
        folder = Path(output) if out is None else out.path
        work = Work(ranks=ranks, reporter=reporter, folder=folder, out=out)
        _say_start(course, work)
        model = load_model(config.model, device=ranks.device)
        model.config = course.model
        job = stage.make_job(course, model, work)
        loop = LoopSettings.of(config, course.schedule, config.eval_every)
        counts = course.counts() | train(job, loop, folder, ranks=ranks, reporter=reporter)
        if out is not None:
            _write_model(model, course, out)
            last = [line for line in read_metrics(folder) if "loss" in line][-1]
            counts |= {name: last[name] for name in stage.closing_metrics}
            out.finish(counts=counts, content={"kind": "model", "model": asdict(course.model)})
            finish_checkpoints(loop, folder)
            _say_end(counts, stage.closing_metrics, output, reporter)
    return counts if ranks.is_first else {}


def plan_stage(
    stage: Stage,
    config: AlignmentConfig,
    inputs: Sequence[str],
    output: str,
    *,
    options: RunOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Say what `run_stage` would do. The data is read and checked as it would be; nothing is written."""
    course = plan_course(config, inputs, stage.encode, options=options, reporter=reporter)
    longest = int(course.train.lengths.max())
    n_tokens = round(int(course.train.lengths.sum()) * course.schedule.n_steps / course.n_epoch_steps)
    n_rows = max(1, MICRO_BATCH_TOKENS // longest)
    micro_batch_seqs = (config.micro_batch_seqs or n_rows) * course.train.n_parts
    estimate = estimate_run(
        replace(course.model, seq_len=longest),
        n_tokens=n_tokens,
        micro_batch_seqs=micro_batch_seqs,
        dtype=config.dtype,
        device=find_device(config.device),
    )
    disk_bytes = (config.n_checkpoints + 1) * 12 * n_parameters(course.model)
    numbers = course.counts() | {"longest": longest, "n_tokens": n_tokens, **asdict(estimate)}
    numbers |= {"memory_bytes": estimate.memory_bytes, "disk_bytes": disk_bytes}
    rows = [
        ("records", f"{len(course.train):,}, the longest of {longest:,} tokens"),
        ("tokens read", f"{n_tokens:,}"),
        ("steps", f"{course.schedule.n_steps:,} of up to {config.batch_seqs:,} records"),
        (
            "learning rate",
            f"{config.lr_max:g}, {config.schedule}, warm-up {course.schedule.warmup_steps:,} steps",
        ),
        ("memory a rank", f"about {format_amount(estimate.memory_bytes, 'bytes')}"),
        ("disk", f"up to {format_amount(disk_bytes, 'bytes')}"),
        ("time here", f"about {format_duration(estimate.run_s)}"),
    ]
    reporter.table(f"{stage.name} {config.model} -o {output}", ("what", "value"), rows)
    return numbers


def make_adamw(course: Course, model: Transformer) -> torch.optim.Optimizer:
    """The optimizer that the settings ask for."""
    return make_optimizer(model, weight_decay=course.config.weight_decay, betas=(0.9, course.config.beta2))


def _set_aside(course: Course, out: OutputFolder) -> None:
    """Write down the lines that were no records."""
    if course.train.bad_lines:
        with out.create("skipped.jsonl") as file:
            file.write(b"".join(line.to_json() for line in course.train.bad_lines))


def _write_model(model: Transformer, course: Course, out: OutputFolder) -> None:
    """Write the model and, where the tokenizer has no chat template, DeepSeek's."""
    write_model(model, course.tokenizer, out)
    if load_tokenizer(course.tokenizer).chat_template is None:
        with out.create(CHAT_TEMPLATE) as file:
            file.write(DEEPSEEK_TEMPLATE.encode())


def _say_start(course: Course, work: Work) -> None:
    counts, config, ranks = course.counts(), course.config, work.ranks
    work.reporter.say(
        f"{counts['n_samples']:,} records, {counts['n_loss_tokens']:,} tokens to learn; "
        f"{course.schedule.n_steps:,} steps of up to {config.batch_seqs:,} records "
        f"({counts['n_epochs']:g} epochs) on {ranks.world_size} x {ranks.device.type}, {config.dtype}"
    )
    for name, what in (
        ("n_cut", "were cut to seq_len"),
        ("n_dropped_long", "were dropped: longer than seq_len"),
        ("n_dropped_empty", "were dropped: nothing left to learn within seq_len"),
        ("n_skipped", "were no records and are in skipped.jsonl"),
    ):
        if counts.get(name):
            work.reporter.say(f"{counts[name]:,} {what}")


def _say_end(
    counts: dict[str, Any], closing_metrics: tuple[str, ...], output: str, reporter: Reporter
) -> None:
    names = [name for name in counts if f"initial_{name}" in counts]
    rows = [(name, counts[f"initial_{name}"], counts[name]) for name in names]
    rows += [(name, None, counts[name]) for name in closing_metrics]
    reporter.table(f"{output}: a model of {counts['n_parameters']:,} parameters", ("", "start", "end"), rows)
