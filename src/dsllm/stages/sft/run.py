"""`dsllm sft`: conversations and a model folder in, a chat model's folder out."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from dsllm.config import RunOptions
from dsllm.model.transformer import Transformer
from dsllm.parallel.mesh import Ranks
from dsllm.progress import Reporter
from dsllm.stages.sft.config import SftConfig
from dsllm.train.alignment import Stage, Work, make_adamw, plan_stage, run_stage
from dsllm.train.batches import TokenBatch
from dsllm.train.conversations import encode_conversation
from dsllm.train.course import Course, Validation
from dsllm.train.loop import Job, StepBatch
from dsllm.train.losses import token_loss


def run(
    config: SftConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Fine-tune; the loss is on the assistant's tokens and the stop tokens, each weighing the same."""
    return run_stage(_STAGE, config, inputs, output, options=options, reporter=reporter)


def plan(
    config: SftConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Say what `run` would do: steps, memory, disk and time on this machine."""
    return plan_stage(_STAGE, config, inputs, output, options=options, reporter=reporter)


def step_batch(step: int, *, course: Course, ranks: Ranks) -> StepBatch[TokenBatch]:
    """Make this rank's part of a step: a function of the seed and the step alone."""
    samples, parts = course.train, course.micro_batches(step, ranks)
    return StepBatch(
        micro_batches=[samples.batch(part) for part in parts],
        n_units=sum(int(samples.n_learnt[part].sum()) for part in parts),
        n_tokens=sum(int(samples.lengths[part].sum()) for part in parts),
    )


def _make_job(course: Course, model: Transformer, work: Work) -> Job[TokenBatch]:
    validation = None
    if course.valid is not None:
        validation = Validation(
            batches=[course.valid.batch(part) for part in course.valid_batches(work.ranks)],
            loss=token_loss,
            n_units=int(course.valid.n_learnt.sum()),
            ranks=work.ranks,
        )
    batch = partial(step_batch, course=course, ranks=work.ranks)
    optimizer = make_adamw(course, model)
    return Job(model=model, optimizer=optimizer, batch=batch, loss=token_loss, evaluate=validation)


_STAGE = Stage(name="sft", encode=encode_conversation, make_job=_make_job)
