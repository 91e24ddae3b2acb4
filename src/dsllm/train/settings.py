"""Settings that the training stages share. Nothing heavy is imported here: `--help` reads them."""

from dataclasses import dataclass
from typing import Literal

from dsllm.config import Settings, setting


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Settings):
    """How the training loop runs, whatever it trains."""

    beta2: float = setting(0.95, "AdamW's second beta.", min=0, max=1)
    grad_clip: float = setting(1.0, "Largest norm of the gradient; inf: no clipping.", above=0)
    dtype: Literal["bf16", "fp32"] = setting(
        "bf16", "Precision of products; weights, sums and AdamW are fp32 in both."
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "Where to train; auto: a GPU if there is one.")
    compile: bool = setting(
        False, "Let torch.compile fuse each block: half a minute at the start, then faster on long runs."
    )
    seed: int = setting(0, "Seed of the order of the data, and of weights that begin at random.", min=0)
    save_every_s: float = setting(
        300.0, "Time between checkpoints; inf: none by the clock.", unit="seconds", above=0
    )
    save_every_steps: int | None = setting(None, "Steps between checkpoints, besides.", unit="steps", min=1)
    keep_every_steps: int | None = setting(
        None, "Checkpoints at multiples of this stay for good.", unit="steps", min=1
    )
    n_checkpoints: int = setting(2, "Newest checkpoints kept while the run goes on.", min=1)


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(LoopConfig):
    """How a model that exists is trained further; each stage has defaults of its own."""

    model: str = setting(help="Model folder to start from.")
    tokenizer: str | None = setting(None, "Tokenizer folder, instead of the model folder's own files.")
    n_epochs: int = setting(4, "Passes over the data.", min=1)
    n_steps: int | None = setting(None, "Updates to do, instead of n_epochs.", min=1)
    batch_seqs: int = setting(64, "Records in one update.", min=1)
    micro_batch_seqs: int | None = setting(
        None, "Records per rank per forward; not given: as many as make about 8,192 tokens.", min=1
    )
    seq_len: int | None = setting(
        None, "Longest sequence; not given: the model's longest.", unit="tokens", min=2
    )
    on_long: Literal["cut", "drop", "stop"] = setting(
        "cut", "At a longer sequence: keep its beginning, drop its record, or stop."
    )
    on_empty: Literal["stop", "drop"] = setting(
        "stop", "At a cut that leaves nothing to learn: stop, or drop the record."
    )
    on_error: Literal["stop", "skip"] = setting(
        "stop", "At a line that is no record: stop, or skip it and set it aside."
    )
    order: Literal["shuffled", "given"] = setting("shuffled", "Order of the records in each epoch.")
    lr_max: float = setting(1e-5, "Peak learning rate.", above=0)
    schedule: Literal["multi-step", "cosine", "constant"] = setting(
        "cosine", "Learning rate after the warm-up."
    )
    warmup_steps: int | None = setting(
        None, "Steps of linear warm-up; not given: 5 % of the run, at most 2000.", min=0
    )
    lr_end_frac: float = setting(0.0, "Where cosine ends, as a share of lr_max.", min=0, max=1)
    weight_decay: float = setting(0.0, "AdamW's weight decay, of matrices.", min=0)
    valid: str | None = setting(None, "File or folder of records to validate on.")
    n_valid: int = setting(0, "Records held out at random to validate on.", min=0)
    eval_every: int | None = setting(
        None, "Steps between validations; not given: at the start and the end.", unit="steps", min=1
    )
