"""`dsllm pretrain`: a token folder in, a Hugging Face model folder out."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dsllm.config import RunOptions
from dsllm.errors import ConfigError
from dsllm.io.folder import OutputFolder
from dsllm.model.folder import write_model
from dsllm.model.transformer import Transformer
from dsllm.parallel.estimate import device_bytes, estimate_run
from dsllm.parallel.mesh import Ranks, find_device, start_ranks
from dsllm.progress import Reporter, format_amount, format_duration
from dsllm.stages.pretrain.config import PretrainConfig
from dsllm.stages.pretrain.data import Tokens, Validation, open_tokens
from dsllm.stages.pretrain.recipe import Recipe, make_recipe
from dsllm.train.batches import TokenBatch, cut_micro, rank_part, read_batch, step_windows
from dsllm.train.loop import Job, LoopSettings, StepBatch, finish_checkpoints, train
from dsllm.train.losses import token_loss
from dsllm.train.optimizer import make_optimizer

STAGE = "pretrain"


def run(
    config: PretrainConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Train a model from random weights, or go on where the same command was stopped.

    Every rank that a launcher has started runs this; rank 0 alone writes and reports.

    Returns:
        The closing summary: the run's numbers, the losses at its start and end; empty but on rank 0.
    """
    tokens = open_tokens(config, list(inputs))
    recipe = make_recipe(config, tokens)
    with start_ranks(config.device) as ranks, ExitStack() as stack:
        if ranks.world_size > recipe.batch_seqs:
            raise ConfigError(
                f"{ranks.world_size} ranks, but a batch of {recipe.batch_seqs} sequences",
                hint=f"try --batch-seqs {ranks.world_size}, or fewer ranks",
            )
        reporter = reporter if ranks.is_first else Reporter(is_quiet=True)
        out = None
        if ranks.is_first:
            more_inputs = [
                config.valid,
                config.model if config.model and Path(config.model).exists() else None,
            ]
            folder = OutputFolder(
                output,
                stage=STAGE,
                config=config,
                inputs=inputs,
                options=options,
                more_inputs=more_inputs,
                is_on_disk=True,
            )
            out = stack.enter_context(folder)
        _say_start(recipe, config, reporter, ranks)
        job = _make_job(config, tokens, recipe, ranks)
        loop = LoopSettings.of(config, recipe.schedule, recipe.eval_every)
        summary = train(job, loop, Path(output), ranks=ranks, reporter=reporter)
        counts = recipe.counts() | summary
        if out is not None:
            write_model(job.model, tokens.path, out)
            out.finish(counts=counts, content={"kind": "model", "model": asdict(recipe.model)})
            finish_checkpoints(loop, out.path)
            _say_end(counts, output, reporter)
    return counts if ranks.is_first else {}


def plan(
    config: PretrainConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Say what `run` would do: its numbers, memory, disk and time on this machine."""
    tokens = open_tokens(config, list(inputs))
    recipe = make_recipe(config, tokens)
    device = find_device(config.device)
    estimate = estimate_run(
        recipe.model,
        n_tokens=recipe.n_tokens,
        micro_batch_seqs=recipe.micro_batch_seqs,
        dtype=config.dtype,
        device=device,
    )
    fits = "fits" if estimate.memory_bytes < device_bytes(device) else "does not fit"
    checkpoint_bytes = 12 * recipe.counts()["n_parameters"]
    disk_bytes = (config.n_checkpoints + 1) * checkpoint_bytes
    numbers = (
        recipe.counts() | asdict(estimate) | {"memory_bytes": estimate.memory_bytes, "disk_bytes": disk_bytes}
    )
    law = "the paper's law"
    rows = [
        ("parameters", f"{numbers['n_parameters']:,}"),
        ("FLOPs per token, M", f"{numbers['flops_per_token']:.4g}"),
        ("tokens, D", f"{recipe.n_tokens:,} ({numbers['n_epochs']:.2f} epochs)"),
        ("compute, C", f"{recipe.compute_flops:.4g} FLOPs"),
        ("steps", f"{recipe.schedule.n_steps:,} of {recipe.batch_tokens:,} tokens"),
        ("batch", law if config.batch_tokens is None and config.batch_seqs is None else "given"),
        ("lr_max", f"{recipe.schedule.lr_max:.3g} ({law if config.lr_max is None else 'given'})"),
        ("warm-up", f"{recipe.schedule.warmup_steps:,} steps"),
        (
            "memory a rank",
            f"about {format_amount(estimate.memory_bytes, 'bytes')}: {fits} into "
            f"{format_amount(device_bytes(device), 'bytes')} here",
        ),
        ("disk", f"up to {format_amount(disk_bytes, 'bytes')}"),
        ("time here", f"about {format_duration(estimate.run_s)}"),
    ]
    reporter.table(f"pretrain {tokens.path} -o {output}", ("what", "value"), rows)
    return numbers


def _make_job(config: PretrainConfig, tokens: Tokens, recipe: Recipe, ranks: Ranks) -> Job[TokenBatch]:
    model = Transformer(recipe.model)
    model.init_weights(config.seed)
    model.to(ranks.device)
    optimizer = make_optimizer(
        model, weight_decay=config.weight_decay, decay=config.decay, betas=(0.9, config.beta2)
    )
    validation = None
    if recipe.split.n_valid_windows:
        validation = Validation(
            tokens,
            recipe.split,
            seq_len=recipe.seq_len,
            micro_batch_seqs=recipe.micro_batch_seqs,
            mask_documents=config.mask_documents,
            ranks=ranks,
        )
    batch = partial(step_batch, config=config, tokens=tokens, recipe=recipe, ranks=ranks)
    return Job(model=model, optimizer=optimizer, batch=batch, loss=token_loss, evaluate=validation)


def step_batch(
    step: int, *, config: PretrainConfig, tokens: Tokens, recipe: Recipe, ranks: Ranks
) -> StepBatch[TokenBatch]:
    """Read this rank's part of a step: a function of the seed and the step alone."""
    windows = step_windows(step, batch_seqs=recipe.batch_seqs, n_windows=recipe.n_windows, seed=config.seed)
    mine = windows[np.array(rank_part(recipe.batch_seqs, ranks.rank, ranks.world_size))]
    document_end = tokens.eos_id if config.mask_documents else None
    batches = [
        read_batch(tokens.train, part, seq_len=recipe.seq_len, document_end=document_end)
        for part in cut_micro(mine, recipe.micro_batch_seqs)
    ]
    n_tokens = len(mine) * recipe.seq_len
    return StepBatch(micro_batches=batches, n_units=n_tokens, n_tokens=n_tokens)


def _say_start(recipe: Recipe, config: PretrainConfig, reporter: Reporter, ranks: Ranks) -> None:
    numbers = recipe.counts()
    by_law = "the paper's law at this compute"
    lr = by_law if config.lr_max is None else "given"
    batch = by_law if config.batch_tokens is None and config.batch_seqs is None else "given"
    reporter.say(
        f"{numbers['n_parameters']:,} parameters, {recipe.n_tokens:,} tokens "
        f"({numbers['n_epochs']:.2f} epochs), {recipe.compute_flops:.3g} FLOPs "
        f"on {ranks.world_size} x {ranks.device.type}, {config.dtype}"
    )
    reporter.say(
        f"{recipe.schedule.n_steps:,} steps of {recipe.batch_tokens:,} tokens ({batch}), "
        f"lr_max {recipe.schedule.lr_max:.3g} ({lr}), warm-up {recipe.schedule.warmup_steps:,} steps"
    )


def _say_end(counts: dict[str, Any], output: str, reporter: Reporter) -> None:
    rows = [("loss, first and last step", counts["initial_loss"], counts["loss"])]
    if "valid_loss" in counts:
        rows.append(("validation loss", counts["initial_valid_loss"], counts["valid_loss"]))
        name = "valid_bits_per_byte"
        rows.append(("validation bits per byte", counts[f"initial_{name}"], counts[name]))
    reporter.table(f"{output}: a model of {counts['n_parameters']:,} parameters", ("", "start", "end"), rows)
