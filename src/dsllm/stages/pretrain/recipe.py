"""What a run will be: the settings, what the token folder says, and the paper where both are silent."""

import math
from dataclasses import dataclass
from typing import Any

from dsllm.errors import ConfigError
from dsllm.model.config import ModelConfig
from dsllm.model.flops import flops_per_token, n_parameters
from dsllm.stages.pretrain.config import PretrainConfig
from dsllm.stages.pretrain.data import Split, Tokens, split_tokens
from dsllm.stages.pretrain.shape import choose_model
from dsllm.train.batches import count_windows
from dsllm.train.laws import optimal_batch_of_steps, optimal_batch_tokens, optimal_lr
from dsllm.train.schedule import Schedule, default_warmup_steps

MICRO_BATCH_TOKENS = 8192
N_EVALUATIONS = 10


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that the settings left open, decided."""

    model: ModelConfig
    split: Split
    batch_seqs: int
    micro_batch_seqs: int
    schedule: Schedule
    eval_every: int

    @property
    def seq_len(self) -> int:
        """Tokens in one sequence."""
        return self.model.seq_len

    @property
    def n_windows(self) -> int:
        """Windows to train on."""
        return count_windows(self.split.n_train_tokens, self.seq_len)

    @property
    def batch_tokens(self) -> int:
        """Tokens in one step."""
        return self.batch_seqs * self.seq_len

    @property
    def n_tokens(self) -> int:
        """Tokens in the whole run, D."""
        return self.schedule.n_steps * self.batch_tokens

    @property
    def compute_flops(self) -> int:
        """The run's C = M * D."""
        return flops_per_token(self.model) * self.n_tokens

    def counts(self) -> dict[str, Any]:
        """The numbers that the manifest and the plan give."""
        model = self.model
        return {
            "n_layers": model.n_layers,
            "d_model": model.d_model,
            "d_ff": model.d_ff,
            "n_heads": model.n_heads,
            "n_kv_heads": model.n_kv_heads,
            "vocab_size": model.vocab_size,
            "seq_len": model.seq_len,
            "n_parameters": n_parameters(model),
            "flops_per_token": flops_per_token(model),
            "compute_flops": self.compute_flops,
            "n_steps": self.schedule.n_steps,
            "n_tokens": self.n_tokens,
            "n_epochs": self.schedule.n_steps * self.batch_seqs / self.n_windows,
            "batch_tokens": self.batch_tokens,
            "batch_seqs": self.batch_seqs,
            "micro_batch_seqs": self.micro_batch_seqs,
            "lr_max": self.schedule.lr_max,
            "warmup_steps": self.schedule.warmup_steps,
        }


def make_recipe(config: PretrainConfig, tokens: Tokens) -> Recipe:
    """Decide everything that the settings leave open.

    Raises:
        ConfigError: settings that do not fit each other or the tokens.
        InputError: fewer tokens than one window.
    """
    model = choose_model(config, tokens)
    split = split_tokens(config, tokens, model.seq_len)
    n_epoch_tokens = count_windows(split.n_train_tokens, model.seq_len) * model.seq_len
    batch_seqs = _choose_batch(config, model, config.n_tokens or n_epoch_tokens)
    n_steps = config.n_steps or max(1, (config.n_tokens or n_epoch_tokens) // (batch_seqs * model.seq_len))
    compute_flops = float(flops_per_token(model) * n_steps * batch_seqs * model.seq_len)
    schedule = Schedule(
        name=config.schedule,
        lr_max=optimal_lr(compute_flops) if config.lr_max is None else config.lr_max,
        n_steps=n_steps,
        warmup_steps=default_warmup_steps(n_steps) if config.warmup_steps is None else config.warmup_steps,
    )
    micro_batch_seqs = config.micro_batch_seqs or max(1, MICRO_BATCH_TOKENS // model.seq_len)
    return Recipe(
        model=model,
        split=split,
        batch_seqs=batch_seqs,
        micro_batch_seqs=min(batch_seqs, micro_batch_seqs),
        schedule=schedule,
        eval_every=config.eval_every or math.ceil(n_steps / N_EVALUATIONS),
    )


def _choose_batch(config: PretrainConfig, model: ModelConfig, n_tokens: int) -> int:
    """Take the batch that is given, or the law's, in sequences."""
    if config.batch_seqs is not None:
        return config.batch_seqs
    if config.batch_tokens is None:
        scale = flops_per_token(model)
        by_law = (
            optimal_batch_tokens(scale * n_tokens)
            if config.n_steps is None
            else optimal_batch_of_steps(scale, config.n_steps)
        )
        return max(1, round(by_law / model.seq_len))
    if config.batch_tokens % model.seq_len:
        nearest = max(1, round(config.batch_tokens / model.seq_len)) * model.seq_len
        raise ConfigError(
            f"batch_tokens is {config.batch_tokens:,}, not a multiple of seq_len, {model.seq_len:,}",
            hint=f"try --batch-tokens {nearest}",
        )
    return config.batch_tokens // model.seq_len
