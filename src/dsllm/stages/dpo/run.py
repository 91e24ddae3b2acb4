"""`dsllm dpo`: preference pairs and a model folder in, an aligned model's folder out."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from dsllm.config import RunOptions
from dsllm.model.transformer import Transformer
from dsllm.parallel.mesh import Ranks
from dsllm.progress import Reporter
from dsllm.stages.dpo.config import DpoConfig
from dsllm.stages.dpo.reference import Logps, reference_logps
from dsllm.train.alignment import Stage, Work, make_adamw, plan_stage, run_stage
from dsllm.train.batches import Int64s
from dsllm.train.conversations import encode_preference
from dsllm.train.course import Course, Validation
from dsllm.train.loop import Job, StepBatch
from dsllm.train.losses import PreferenceBatch, dpo_loss
from dsllm.train.samples import Samples

CLOSING_METRICS = ("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy")


def run(
    config: DpoConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Train on preferences, held to the model that it starts from by that model's log-probabilities.

    Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7.
    """
    return run_stage(_stage(config), config, inputs, output, options=options, reporter=reporter)


def plan(
    config: DpoConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Say what `run` would do: steps, memory, disk and time on this machine, without the reference's pass."""
    return plan_stage(_stage(config), config, inputs, output, options=options, reporter=reporter)


def preference_batch(samples: Samples, pairs: Int64s, logps: Logps) -> PreferenceBatch:
    """Put pairs into one micro-batch: chosen answers first, then the rejected ones."""
    reference = torch.from_numpy(logps[pairs].T.copy()).flatten()
    return PreferenceBatch(sequences=samples.batch(pairs), reference_logps=reference)


def step_batch(step: int, *, course: Course, ranks: Ranks, logps: Logps) -> StepBatch[PreferenceBatch]:
    """Make this rank's part of a step: a function of the seed and the step alone."""
    samples, parts = course.train, course.micro_batches(step, ranks)
    return StepBatch(
        micro_batches=[preference_batch(samples, part, logps) for part in parts],
        n_units=sum(map(len, parts)),
        n_tokens=sum(int(samples.lengths[part].sum()) for part in parts),
    )


def _stage(config: DpoConfig) -> Stage:
    return Stage(
        name="dpo",
        encode=encode_preference,
        make_job=partial(_make_job, config),
        closing_metrics=CLOSING_METRICS,
        more_inputs=(config.reference,),
    )


def _make_job(config: DpoConfig, course: Course, model: Transformer, work: Work) -> Job[PreferenceBatch]:
    logps = reference_logps(course, model, work, config.reference)
    loss = partial(dpo_loss, beta=config.beta)
    validation = None
    if course.valid is not None:
        parts = course.valid_batches(work.ranks)
        validation = Validation(
            batches=[preference_batch(course.valid, part, logps["valid"]) for part in parts],
            loss=loss,
            n_units=len(course.valid),
            ranks=work.ranks,
        )
    batch = partial(step_batch, course=course, ranks=work.ranks, logps=logps["train"])
    optimizer = make_adamw(course, model)
    return Job(model=model, optimizer=optimizer, batch=batch, loss=loss, evaluate=validation)
