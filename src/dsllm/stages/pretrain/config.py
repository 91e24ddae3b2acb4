"""Settings of `dsllm pretrain`."""

import math
from dataclasses import dataclass
from typing import Literal

from dsllm.config import setting
from dsllm.errors import ConfigError
from dsllm.train.settings import LoopConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(LoopConfig):
    """What is trained, on how much, and how; what is not given follows the paper."""

    model: str | None = setting(
        None, "Named size (7b, 67b, 0.3m, ...), or a config.json or model folder whose shape is taken."
    )
    n_layers: int | None = setting(None, "Transformer blocks, instead of the named size's.", min=1)
    d_model: int | None = setting(None, "Width of the residual stream.", min=2)
    d_ff: int | None = setting(None, "Width inside the MLP; not given: 8/3 of d_model, rounded up.", min=1)
    n_heads: int | None = setting(None, "Query heads; not given: as many as d_model holds.", min=1)
    n_kv_heads: int | None = setting(None, "Key and value heads; not given: as many as query heads.", min=1)
    head_dim: int | None = setting(None, "Width of one head.", min=2)
    vocab_size: int | None = setting(
        None,
        "Rows of the embedding; not given: config.json's, or the token folder's for a named size.",
        min=1,
    )
    init_std: float = setting(0.006, "Standard deviation of the initial weights.", above=0)
    seq_len: int | None = setting(
        None, "Tokens in one sequence; not given: the model's longest.", unit="tokens", min=1
    )
    batch_tokens: int | None = setting(
        None, "Global batch; not given: the paper's law at this run's compute.", unit="tokens", min=1
    )
    batch_seqs: int | None = setting(None, "Global batch in sequences, instead of batch_tokens.", min=1)
    micro_batch_seqs: int | None = setting(
        None, "Sequences per rank per forward; not given: about 8,192 tokens.", min=1
    )
    n_tokens: int | None = setting(
        None, "Tokens to train on; not given: one pass over the data.", unit="tokens", min=1
    )
    n_steps: int | None = setting(None, "Updates to do, instead of n_tokens.", min=1)
    lr_max: float | None = setting(
        None, "Peak learning rate; not given: the paper's law at this run's compute.", above=0
    )
    schedule: Literal["multi-step", "cosine", "constant"] = setting(
        "multi-step", "Learning rate after the warm-up; multi-step: 31.6 % from 80 %, 10 % from 90 % on."
    )
    warmup_steps: int | None = setting(
        None, "Steps of linear warm-up; not given: 2000, or 5 % of the run if that is fewer.", min=0
    )
    weight_decay: float = setting(0.1, "AdamW's weight decay.", min=0)
    decay: Literal["matrices", "all", "none"] = setting("matrices", "Which weights decay.")
    mask_documents: bool = setting(False, "Documents packed into one sequence do not see each other.")
    valid: str | None = setting(None, "Token folder to validate on, instead of the end of TOKENS.")
    n_valid_tokens: int | None = setting(
        None, "Tokens held out at the end of TOKENS; not given: 1 %, at most 1,048,576.", unit="tokens", min=0
    )
    eval_every: int | None = setting(
        None, "Steps between validations; not given: ten of them over the run.", unit="steps", min=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for one, other in (
            ("batch_tokens", "batch_seqs"),
            ("n_tokens", "n_steps"),
            ("valid", "n_valid_tokens"),
        ):
            values = getattr(self, one), getattr(self, other)
            if None not in values:
                raise ConfigError(
                    f"{one} is {values[0]} and {other} is {values[1]}: one says the other",
                    hint=f"give only one of --{one.replace('_', '-')} and --{other.replace('_', '-')}",
                )
        if math.isinf(self.weight_decay):
            raise ConfigError("weight_decay is inf", hint="the paper's is --weight-decay 0.1")
