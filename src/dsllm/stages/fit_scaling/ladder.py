"""A ladder of runs: for each compute budget several model sizes, everything else from the laws.

Source: DeepSeek LLM, arXiv:2401.02954, section 3.2: 8 budgets from 1e17 to 3e20, about 10 allocations each,
the learning rate and the batch from equation 1.
"""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsllm.io.manifest import MANIFEST, read_manifest
from dsllm.model.config import ModelConfig
from dsllm.model.flops import exact_flops_per_token, flops_per_token
from dsllm.stages.fit_scaling.config import LadderConfig
from dsllm.stages.fit_scaling.laws import PowerLaw
from dsllm.stages.fit_scaling.published import DEEPSEEK, Laws
from dsllm.stages.fit_scaling.shapes import find_shape
from dsllm.train.schedule import default_warmup_steps

PAPER_BUDGETS = (1e17, 3e20)
PAPER_VOCAB_SIZE = 102400
FEW_STEPS = 100


@dataclass(frozen=True)
class PlannedRun:
    """One run of the ladder, in the words of `pretrain`."""

    name: str
    budget_flops: float  # asked for
    model: ModelConfig
    flops_per_token: int
    n_tokens: int
    n_steps: int
    warmup_steps: int
    batch_seqs: int
    lr_max: float

    @property
    def compute_flops(self) -> int:
        """C = M * D, as the run will have it: whole steps of whole sequences."""
        return self.flops_per_token * self.n_tokens

    @property
    def total_flops(self) -> int:
        """What the run costs with the output projection, which M leaves out: most of a tiny model's work."""
        return exact_flops_per_token(self.model, counts_vocabulary=True) * self.n_tokens

    def to_dict(self, config: LadderConfig) -> dict[str, Any]:
        """One line of `ladder.jsonl`."""
        return {
            "name": self.name,
            "budget_flops": self.budget_flops,
            "compute_flops": self.compute_flops,
            "total_flops": self.total_flops,
            "flops_per_token": self.flops_per_token,
            "n_tokens": self.n_tokens,
            "n_layers": self.model.n_layers,
            "d_model": self.model.d_model,
            "d_ff": self.model.d_ff,
            "n_heads": self.model.n_heads,
            "vocab_size": self.model.vocab_size,
            "seq_len": self.model.seq_len,
            "n_steps": self.n_steps,
            "warmup_steps": self.warmup_steps,
            "batch_seqs": self.batch_seqs,
            "batch_tokens": self.batch_seqs * self.model.seq_len,
            "lr_max": self.lr_max,
            "command": self.command(config),
        }

    def command(self, config: LadderConfig) -> str:
        """The command line that makes this run."""
        words: list[object] = ["dsllm", "pretrain", config.tokens, "-o", f"{config.runs}/{self.name}"]
        words += ["--n-layers", self.model.n_layers, "--d-model", self.model.d_model]
        words += ["--d-ff", self.model.d_ff, "--n-heads", self.model.n_heads, "--seq-len", self.model.seq_len]
        words += [
            "--n-steps",
            self.n_steps,
            "--batch-seqs",
            self.batch_seqs,
            "--lr-max",
            f"{self.lr_max:.4g}",
        ]
        words += ["--valid", config.valid] if config.valid else []
        return shlex.join(map(str, [*words, *shlex.split(config.more)]))


def complete_laws(laws: Laws | None) -> tuple[Laws, list[str]]:
    """Fill what the runs' own fits lack with DeepSeek LLM's laws, and say which were filled.

    M_opt and D_opt are taken together or not at all: half of each would not multiply to C.
    """
    if laws is None:
        return DEEPSEEK, []
    has_split = laws.flops_per_token is not None and laws.n_tokens is not None
    split = laws if has_split else DEEPSEEK
    filled = [] if has_split else ["M_opt and D_opt"]
    filled += [name for name in ("lr_max", "batch_tokens") if getattr(laws, name) is None]
    complete = Laws(
        name=laws.name,
        source=laws.source,
        lr_max=laws.lr_max or DEEPSEEK.lr_max,
        batch_tokens=laws.batch_tokens or DEEPSEEK.batch_tokens,
        flops_per_token=split.flops_per_token,
        n_tokens=split.n_tokens,
    )
    return complete, filled


def choose_vocab_size(config: LadderConfig) -> int:
    """The vocabulary that is given, else that of the token folder where there is one, else the paper's."""
    if config.vocab_size is not None:
        return config.vocab_size
    if (Path(config.tokens) / MANIFEST).exists():
        return int(read_manifest(config.tokens).content.get("vocab_size", PAPER_VOCAB_SIZE))
    return PAPER_VOCAB_SIZE


def plan_ladder(config: LadderConfig, laws: Laws) -> tuple[list[PlannedRun], list[str]]:
    """Lay out the runs, by budget and size, and list what their owner should know."""
    runs, warnings = [], []
    budgets = config.budget_list()
    for budget in budgets:
        planned = list(_plan_budget(config, laws, budget))
        runs += planned
        if len(planned) < config.n_allocations:
            warnings.append(
                f"{budget:.3g} FLOPs: {len(planned)} different sizes, not {config.n_allocations}: "
                "raise --span, or give fewer --n-allocations"
            )
        if few := [run for run in planned if run.n_steps < FEW_STEPS]:
            warnings.append(f"{budget:.3g} FLOPs: fewer than {FEW_STEPS} steps in {len(few)} of the runs")
    if laws is DEEPSEEK and (budgets[0] < PAPER_BUDGETS[0] or budgets[-1] > PAPER_BUDGETS[1]):
        warnings.append(
            f"the paper's laws come from {PAPER_BUDGETS[0]:.0e} to {PAPER_BUDGETS[1]:.0e} FLOPs: "
            "outside they are a guess to start from"
        )
    return runs, warnings


def _plan_budget(config: LadderConfig, laws: Laws, budget: float) -> Iterator[PlannedRun]:
    """The sizes of one budget, evenly apart in ln M, each shape once."""
    optimum = config.centre * _value(laws.flops_per_token, budget)
    batch_seqs = max(1, round(_value(laws.batch_tokens, budget) / config.seq_len))
    lr_max = float(f"{_value(laws.lr_max, budget):.4g}")  # as the command says it
    vocab_size = choose_vocab_size(config)
    seen: set[tuple[int, int]] = set()
    for index in range(config.n_allocations):
        position = index / (config.n_allocations - 1) * 2 - 1 if config.n_allocations > 1 else 0.0
        model = find_shape(optimum * config.span**position, vocab_size, config.seq_len)
        if (model.n_layers, model.d_model) in seen:
            continue
        seen.add((model.n_layers, model.d_model))
        scale = flops_per_token(model)
        n_steps = max(1, round(budget / (scale * batch_seqs * config.seq_len)))
        yield PlannedRun(
            name=f"c{budget:.3g}-n{model.n_layers}-d{model.d_model}".replace("+", ""),
            budget_flops=budget,
            model=model,
            flops_per_token=scale,
            n_tokens=n_steps * batch_seqs * config.seq_len,
            n_steps=n_steps,
            warmup_steps=default_warmup_steps(n_steps),
            batch_seqs=batch_seqs,
            lr_max=lr_max,
        )


def _value(law: PowerLaw | None, compute: float) -> float:
    assert law is not None  # complete_laws has filled it
    return law(compute)


def to_json_lines(runs: list[PlannedRun], config: LadderConfig) -> bytes:
    """`ladder.jsonl`: one run a line."""
    return b"".join(json.dumps(run.to_dict(config)).encode() + b"\n" for run in runs)


def to_script(runs: list[PlannedRun], config: LadderConfig) -> bytes:
    """`ladder.sh`: the commands, smallest first; a run that is complete is passed over."""
    lines = ["#!/bin/sh", "set -eu", ""]
    for run in sorted(runs, key=lambda run: run.compute_flops):
        done = shlex.quote(f"{config.runs}/{run.name}/manifest.json")
        lines.append(f"[ -e {done} ] || {run.command(config)}")
    fit = shlex.join(["dsllm", "fit-scaling", "fit", config.runs, "-o", f"{config.runs}-fits"])
    return "\n".join([*lines, "", fit, ""]).encode()
