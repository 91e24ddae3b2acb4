"""The training loop that pre-training, fine-tuning and DPO share.

One step: the micro-batches of this rank forward and backward, each loss divided by the units of the whole
global batch; gradients summed over ranks; clipping; one AdamW update. The state after a step is a function
of the state before it and of (seed, step), so a run that was killed and goes on from a checkpoint ends with
the weights of an undisturbed one, bit for bit on a CPU with the same number of threads.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import torch

from dsllm.errors import ConfigError, DsllmError
from dsllm.model.transformer import Transformer
from dsllm.parallel.estimate import measure_flops_per_s
from dsllm.parallel.mesh import Ranks
from dsllm.progress import Bar, Reporter
from dsllm.text.compiled import announce_compiling
from dsllm.train.checkpoint import (
    TrainState,
    clear_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    share_state,
    thin_checkpoints,
)
from dsllm.train.interrupt import StopRequest, watch_signals
from dsllm.train.losses import LossSum
from dsllm.train.metrics import MetricsFile
from dsllm.train.optimizer import clip_gradients, set_learning_rate
from dsllm.train.schedule import Schedule, learning_rate
from dsllm.train.settings import LoopConfig
from dsllm.workers.heap import keep_freed_memory

Dtype = Literal["bf16", "fp32"]


class MicroBatch(Protocol):
    """Anything that can be moved to the device."""

    def to(self, device: torch.device) -> Self:
        """The same batch on `device`."""


M = TypeVar("M", bound=MicroBatch)


@dataclass(frozen=True, kw_only=True)
class StepBatch(Generic[M]):
    """This rank's part of one step's global batch.

    Args:
        micro_batches: what goes through the model, one after the other.
        n_units: what the loss is divided by once summed over ranks: labels that count, or pairs.
        n_tokens: tokens read, for progress and rates.
    """

    micro_batches: Sequence[M]
    n_units: int
    n_tokens: int


@dataclass(frozen=True, kw_only=True)
class Job(Generic[M]):
    """What is trained on what.

    Args:
        model: updated in place; fp32 weights on the device of the ranks.
        optimizer: from `make_optimizer(model, ...)`.
        batch: the part of step s that is this rank's: a pure function of s (0 <= s < n_steps).
        loss: the loss of one micro-batch, summed over its units.
        evaluate: numbers to log every so often, equal on every rank; must not change anything.
    """

    model: Transformer
    optimizer: torch.optim.Optimizer
    batch: Callable[[int], StepBatch[M]]
    loss: Callable[[Transformer, M], LossSum]
    evaluate: Callable[[Transformer], dict[str, float]] | None = None


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how a job is trained; see the settings of the stages for each."""

    schedule: Schedule
    grad_clip: float | None = 1.0
    dtype: Dtype = "bf16"
    seed: int = 0
    eval_every: int | None = None
    save_every_steps: int | None = None
    save_every_s: float | None = 300.0
    keep_every_steps: int | None = None
    n_checkpoints: int = 2
    compile: bool = False

    @property
    def n_steps(self) -> int:
        """Updates in the whole run."""
        return self.schedule.n_steps

    @classmethod
    def of(cls, config: LoopConfig, schedule: Schedule, eval_every: int | None) -> Self:
        """Take a stage's settings over."""
        return cls(
            schedule=schedule,
            grad_clip=config.grad_clip,
            dtype=config.dtype,
            seed=config.seed,
            eval_every=eval_every,
            save_every_steps=config.save_every_steps,
            save_every_s=config.save_every_s,
            keep_every_steps=config.keep_every_steps,
            n_checkpoints=config.n_checkpoints,
            compile=config.compile,
        )


def train(
    job: Job[M], settings: LoopSettings, folder: Path, *, ranks: Ranks, reporter: Reporter
) -> dict[str, float]:
    """Train until `settings.n_steps`, from the newest checkpoint in `folder` if there is one.

    Returns:
        n_steps, n_tokens, `loss` of the last step and `initial_loss` of the first, and the same two for each
        number that `job.evaluate` gives. The weights are in `job.model`.

    Raises:
        DsllmError: a loss or gradient that is infinite or not a number, with the step.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after a checkpoint.
    """
    run = _Run(job, settings, folder, ranks=ranks, reporter=reporter)
    if ranks.device.type == "cpu":
        keep_freed_memory(of_any_size=True)
    with watch_signals() as stop, announce_compiling(reporter.say):
        return run.go(stop)


def finish_checkpoints(settings: LoopSettings, folder: Path) -> None:
    """Remove the checkpoints of a run whose result is written, but for those to keep."""
    clear_checkpoints(folder, keep_every_steps=settings.keep_every_steps)


def autocast(device: torch.device, dtype: Dtype) -> "torch.autocast | nullcontext[None]":
    """bf16 in the matrix products with fp32 weights and sums, or fp32 throughout."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bf16" else nullcontext()


class _Run:
    """One call of `train`: its state, metrics and clock."""

    def __init__(
        self, job: Job[Any], settings: LoopSettings, folder: Path, *, ranks: Ranks, reporter: Reporter
    ) -> None:
        self.job, self.settings, self.folder = job, settings, folder
        self.ranks, self.reporter = ranks, reporter
        self.state = TrainState(seed=settings.seed, schedule=asdict(settings.schedule))
        self.saved_at_s = time.monotonic()
        self.metrics: MetricsFile | None = None

    def go(self, stop: StopRequest) -> dict[str, float]:
        self._resume()
        self._say_slow_dtype()
        if self.settings.compile:
            compile_blocks(self.job.model)
        if self.ranks.is_first:
            self.metrics = MetricsFile(self.folder, step=self.state.step)
        try:
            n_left = self.settings.n_steps - self.state.step
            with self.reporter.bar("train", total=n_left, unit="steps") as bar:
                self._loop(bar, stop)
        finally:
            if self.metrics is not None:
                self.metrics.close()
        return self.state.summary | {"n_steps": self.state.step, "n_tokens": self.state.n_tokens}

    def _resume(self) -> None:
        """Go on from the newest checkpoint; rank 0 reads it, the others are told."""
        path = latest_checkpoint(self.folder) if self.ranks.is_first else None
        if path is not None:
            self.state = load_checkpoint(path, self.job.model, self.job.optimizer)
            self.reporter.say(
                f"going on from {path.name}: step {self.state.step:,} of {self.settings.n_steps:,}"
            )
        state = self.ranks.share_object(self.state)
        assert isinstance(state, TrainState)
        self.state = state
        share_state(self.job.model, self.job.optimizer, n_updates=state.step, ranks=self.ranks)

    def _say_slow_dtype(self) -> None:
        """Tell the owner of a processor that has no bf16 units: torch then takes ten times as long."""
        device = self.ranks.device
        if device.type != "cpu" or self.settings.dtype != "bf16" or self.reporter.is_quiet:
            return
        bf16, fp32 = (measure_flops_per_s(device, d, probe_s=0.05) for d in (torch.bfloat16, torch.float32))
        if bf16 < fp32:
            self.reporter.say(
                f"this processor does {bf16 / 1e9:,.0f} GFLOP/s in bf16 and {fp32 / 1e9:,.0f} in fp32: "
                "try --dtype fp32"
            )

    def _loop(self, bar: Bar, stop: StopRequest) -> None:
        self.job.model.train()
        self._evaluate_if_due()
        while self.state.step < self.settings.n_steps:
            is_stopping = self._update(bar, stop)
            if is_stopping or self._is_save_due():
                self._save()
            if is_stopping:
                self.reporter.say(f"stopped at step {self.state.step:,}: the same command goes on from there")
                raise KeyboardInterrupt
            self._evaluate_if_due()

    def _update(self, bar: Bar, stop: StopRequest) -> bool:
        """Do one step; return whether some rank has been asked to stop."""
        started_s = time.monotonic()
        step, model, optimizer = self.state.step, self.job.model, self.job.optimizer
        batch = self.job.batch(step)
        n_units, n_tokens, n_stops, n_idle = self.ranks.sum_numbers(
            [batch.n_units, batch.n_tokens, stop.is_set, not batch.micro_batches]
        )
        if n_idle or not n_units:
            raise ConfigError(
                f"step {step + 1:,}: {n_idle:.0f} of {self.ranks.world_size} ranks have no sequence, "
                f"and {n_units:,.0f} labels count",
                hint="try a larger --batch-seqs, or fewer ranks",
            )
        means = self._accumulate(batch, n_units)
        self.ranks.sum_gradients(model.parameters())
        norm = clip_gradients(model.parameters(), self.settings.grad_clip)
        self._check_finite(means["loss"], norm)
        lr = learning_rate(self.settings.schedule, step)
        set_learning_rate(optimizer, lr)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        loss, step_s = means["loss"], time.monotonic() - started_s
        summary = {"initial_loss": loss} | self.state.summary | {"loss": loss}
        self.state = replace(
            self.state, step=step + 1, n_tokens=self.state.n_tokens + int(n_tokens), summary=summary
        )
        self._log(means | {"lr": lr, "grad_norm": norm, "tokens_per_s": n_tokens / step_s, "step_s": step_s})
        bar.advance(1, f"loss {loss:.3f}, {n_tokens / step_s:,.0f} tokens/s")
        return n_stops > 0

    def _accumulate(self, batch: StepBatch[Any], n_units: float) -> dict[str, float]:
        """Add up the gradients of this rank's micro-batches; return the step's means over all ranks."""
        sums: dict[str, torch.Tensor] = {}
        for micro_batch in batch.micro_batches:
            with autocast(self.ranks.device, self.settings.dtype):
                loss = self.job.loss(self.job.model, micro_batch.to(self.ranks.device))
            (loss.total / n_units).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": loss.total.detach(), **loss.metrics}.items():
                sums[name] = sums.get(name, 0) + value.double()
        totals = self.ranks.sum_numbers([value.item() for value in sums.values()])
        return {name: total / n_units for name, total in zip(sums, totals, strict=True)}

    def _check_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        raise DsllmError(
            f"step {self.state.step + 1:,}: the loss is {loss} and the gradient's norm is {norm}",
            hint=f"try a lower --lr-max than {self.settings.schedule.lr_max:g}, a longer --warmup-steps, "
            "or --dtype fp32, with another output folder",
        )

    def _evaluate_if_due(self) -> None:
        """Evaluate before the first step, every `eval_every` steps, and after the last."""
        step, every = self.state.step, self.settings.eval_every
        is_due = step in (0, self.settings.n_steps) or (every is not None and step % every == 0)
        if self.job.evaluate is None or not is_due:
            return
        started_s = time.monotonic()
        self.job.model.eval()
        with torch.no_grad(), autocast(self.ranks.device, self.settings.dtype):
            numbers = self.job.evaluate(self.job.model)
        self.job.model.train()
        initial = {f"initial_{name}": value for name, value in numbers.items()}
        self.state = replace(self.state, summary=initial | self.state.summary | numbers)
        self._log(numbers | {"eval_s": time.monotonic() - started_s})
        shown = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        self.reporter.say(f"step {step:,}: {shown}")

    def _log(self, numbers: dict[str, float]) -> None:
        if self.metrics is not None:
            self.metrics.append({"step": self.state.step, "n_tokens": self.state.n_tokens, **numbers})

    def _is_save_due(self) -> bool:
        """By steps, by the clock, where a permanent checkpoint is wanted, and before the last evaluation."""
        step, settings = self.state.step, self.settings
        by_clock = (
            settings.save_every_s is not None and time.monotonic() - self.saved_at_s >= settings.save_every_s
        )
        every = (settings.save_every_steps, settings.keep_every_steps)
        return by_clock or step == settings.n_steps or any(n is not None and step % n == 0 for n in every)

    def _save(self) -> None:
        """Write a checkpoint on rank 0; the other ranks meet it again at the next sum."""
        if self.ranks.is_first:
            save_checkpoint(self.folder, self.job.model, self.job.optimizer, self.state)
            thin_checkpoints(
                self.folder,
                n_kept=self.settings.n_checkpoints,
                keep_every_steps=self.settings.keep_every_steps,
            )
        self.saved_at_s = time.monotonic()


def compile_blocks(model: Transformer) -> None:
    """Let `torch.compile` fuse each transformer block, in place; names of weights stay as they are."""
    for block in model.layers:
        block.compile()
