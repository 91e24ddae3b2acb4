"""A fine-tuning or DPO run that is decided: model, tokenizer, samples, schedule, and what forms each step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from dsllm.config import RunOptions
from dsllm.errors import ConfigError
from dsllm.model.config import ModelConfig
from dsllm.model.flops import n_parameters
from dsllm.model.folder import open_folder
from dsllm.model.transformer import Transformer
from dsllm.parallel.mesh import Ranks
from dsllm.progress import Reporter
from dsllm.train.batches import Int64s, permute
from dsllm.train.loop import MicroBatch
from dsllm.train.losses import LossSum
from dsllm.train.sampler import cut_step, step_records, steps_per_epoch
from dsllm.train.samples import Encode, ReadSettings, Samples, read_samples
from dsllm.train.schedule import Schedule, default_warmup_steps
from dsllm.train.settings import AlignmentConfig

M = TypeVar("M", bound=MicroBatch)

_HELD_OUT_KEY = 0x76616C6964  # so that records held out are not those of an epoch's first batch


@dataclass(frozen=True, kw_only=True)
class Course:
    """A run that is decided: the data, the shape of the model, how many steps of what."""

    config: AlignmentConfig
    model: ModelConfig
    tokenizer: Path
    train: Samples
    valid: Samples | None
    schedule: Schedule

    @property
    def n_epoch_steps(self) -> int:
        """Steps in which every record comes once."""
        return steps_per_epoch(len(self.train), self.config.batch_seqs)

    def records(self, step: int) -> Int64s:
        """The records of a step."""
        config = self.config
        return step_records(
            step,
            n_records=len(self.train),
            batch_seqs=config.batch_seqs,
            seed=config.seed,
            order=config.order,
        )

    def micro_batches(self, step: int, ranks: Ranks) -> list[Int64s]:
        """The records of a step that are this rank's, by micro-batch."""
        return self._cut(self.records(step), self.train, ranks)

    def valid_batches(self, ranks: Ranks) -> list[Int64s]:
        """All records to validate on that are this rank's, by micro-batch."""
        if self.valid is None:
            return []
        return self._cut(np.arange(len(self.valid), dtype=np.int64), self.valid, ranks)

    def _cut(self, records: Int64s, samples: Samples, ranks: Ranks) -> list[Int64s]:
        return cut_step(
            records,
            samples.costs,
            rank=ranks.rank,
            world_size=ranks.world_size,
            micro_batch_seqs=self.config.micro_batch_seqs,
        )

    def counts(self) -> dict[str, Any]:
        """The numbers that the manifest and the plan give."""
        n_valid = 0 if self.valid is None else len(self.valid)
        n_epochs = self.schedule.n_steps / self.n_epoch_steps
        return {
            "n_parameters": n_parameters(self.model),
            **self.train.counts,
            "n_samples": len(self.train),
            "n_valid_samples": n_valid,
            "n_loss_tokens": int(self.train.n_learnt.sum()),
            "n_epochs": round(n_epochs, 4),
            "n_steps": self.schedule.n_steps,
        }


def plan_course(
    config: AlignmentConfig, inputs: Sequence[str], encode: Encode, *, options: RunOptions, reporter: Reporter
) -> Course:
    """Read and check model, tokenizer and data, and decide what is left open.

    Raises:
        DsllmError: anything that would make the run worthless: see `read_samples` and `conversations`.
    """
    shape, tokenizer = open_folder(config.model, config.tokenizer)
    folder = Path(config.tokenizer or config.model)
    if tokenizer.eos_id is None:
        raise ConfigError(f"{folder}: names no EOS token", hint="name it in tokenizer_config.json: eos_token")
    if config.seq_len is not None and config.seq_len > shape.seq_len:
        raise ConfigError(
            f"seq_len is {config.seq_len:,}, but the model reads {shape.seq_len:,} tokens",
            hint=f"give --seq-len {shape.seq_len} or less",
        )
    settings = ReadSettings(
        tokenizer=str(folder),
        encode=encode,
        seq_len=config.seq_len or shape.seq_len,
        on_error=config.on_error,
        on_long=config.on_long,
        on_empty=config.on_empty,
    )
    samples = read_samples(inputs, settings, options=options, reporter=reporter)
    valid = None
    if config.valid is not None:
        valid = read_samples([config.valid], settings, options=options, reporter=reporter)
    elif config.n_valid:
        samples, valid = _hold_out(samples, config)
    n_steps = config.n_steps or config.n_epochs * steps_per_epoch(len(samples), config.batch_seqs)
    warmup = default_warmup_steps(n_steps) if config.warmup_steps is None else config.warmup_steps
    schedule = Schedule(
        name=config.schedule,
        lr_max=config.lr_max,
        n_steps=n_steps,
        warmup_steps=warmup,
        lr_end_frac=config.lr_end_frac,
    )
    shape = replace(shape, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    return Course(config=config, model=shape, tokenizer=folder, train=samples, valid=valid, schedule=schedule)


def _hold_out(samples: Samples, config: AlignmentConfig) -> tuple[Samples, Samples]:
    """Split off `n_valid` records, drawn by the seed; both parts keep the order of the data."""
    if config.n_valid >= len(samples):
        raise ConfigError(
            f"n_valid is {config.n_valid:,}, but there are {len(samples):,} records",
            hint=f"try --n-valid {len(samples) // 10}",
        )
    records = np.arange(len(samples), dtype=np.int64)
    is_held_out = permute(records, len(samples), key=config.seed ^ _HELD_OUT_KEY) < config.n_valid
    train = samples.select(records[~is_held_out])
    return replace(train, counts=samples.counts, bad_lines=samples.bad_lines), samples.select(
        records[is_held_out]
    )


@dataclass(frozen=True, kw_only=True)
class Validation(Generic[M]):
    """The mean loss over records that are not trained on, and the means of what the loss logs.

    Args:
        batches: this rank's micro-batches.
        loss: summed over its units.
        n_units: of the whole set, over all ranks.
    """

    batches: Sequence[M]
    loss: Callable[[Transformer, M], LossSum]
    n_units: int
    ranks: Ranks

    def __call__(self, model: Transformer) -> dict[str, float]:
        """Go through all of it."""
        sums: dict[str, float] = {}
        for batch in self.batches:
            found = self.loss(model, batch.to(self.ranks.device))
            for name, value in {"loss": found.total, **found.metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        totals = self.ranks.sum_numbers(list(sums.values()))
        return {f"valid_{name}": total / self.n_units for name, total in zip(sums, totals, strict=True)}
