"""Settings of `dsllm tokenize train`, `dsllm tokenize encode` and `dsllm tokenize decode`."""

from dataclasses import dataclass
from typing import Literal

from dsllm.config import Settings, parse_bytes, parse_weights, setting
from dsllm.errors import ConfigError

MIN_MEMORY_BYTES, PROGRAM_BYTES = 300_000_000, 200_000_000
PAD_VOCAB_TO = 4096
N_BYTES_IN_UTF8 = 243  # of the 256 byte values, 13 never occur in UTF-8


@dataclass(frozen=True, kw_only=True)
class _ReadConfig(Settings):
    """How documents are read; none are written, so there is no format."""

    text_field: str = setting("text", "Name of the field that holds the text.")
    on_error: Literal["stop", "skip"] = setting(
        "stop", "At a line that is no document: stop, or skip it and set it aside."
    )


@dataclass(frozen=True, kw_only=True)
class TokenizeTrainConfig(_ReadConfig):
    """What the tokenizer becomes."""

    vocab_size: int = setting(
        100_000,
        "Words to learn, single bytes included; 15 special tokens come on top.",
        min=N_BYTES_IN_UTF8,
        max=10_000_000,
    )
    pad_vocab_to: int = setting(
        PAD_VOCAB_TO,
        "The model's vocabulary is the next multiple of this: 102,400 for 100,015.",
        unit="words",
        min=1,
    )
    min_frequency: int = setting(2, "Times that a pair must occur to become a word.", min=1)
    max_token_length: int | None = setting(
        None, "Words of several bytes stay shorter than this; without it they do not.", unit="bytes", min=3
    )
    weights: tuple[str, ...] = setting(
        (),
        "Learn from a sample with these shares of each source's text, NAME=SHARE, scaled to add up to one; "
        "rest=SHARE is for all others together.",
    )
    sample: str | None = setting(
        None, "Text to learn from, such as 2GB, drawn from all; without it, as much as the weights allow."
    )
    source_field: str = setting("source", "Field that names a document's source.")
    seed: int = setting(0, "Seed of the choice of documents.", min=0, max=2**63 - 1)
    memory: str = setting(
        "2GB",
        "Memory to stay within, such as 500MB; the rest goes through files. The rarest pieces of text "
        "are left out where their number is too large for it.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_bytes < MIN_MEMORY_BYTES:
            raise ConfigError(f"memory is {self.memory}, less than 300MB", hint="try --memory 1GB")
        if self.sample_bytes == 0:
            raise ConfigError(f"sample is {self.sample}: nothing", hint="try --sample 100MB")
        parse_weights(self.weights, "weights")

    @property
    def memory_bytes(self) -> int:
        """`memory` as a number."""
        return parse_bytes(self.memory, flag="--memory")

    @property
    def working_bytes(self) -> int:
        """What is left of the memory for pieces and pairs."""
        return self.memory_bytes - PROGRAM_BYTES

    @property
    def sample_bytes(self) -> int | None:
        """`sample` as a number."""
        return None if self.sample is None else parse_bytes(self.sample, flag="--sample")


@dataclass(frozen=True, kw_only=True)
class TokenizeEncodeConfig(_ReadConfig):
    """What the token shards become."""

    tokenizer: str = setting(help="Folder with the tokenizer.")
    shard_tokens: int = setting(
        1 << 26, "A shard ends at the document that reaches this.", unit="tokens", min=1
    )
    parse_special: bool = setting(
        False, "Read the names of special tokens in a document as those tokens; else they are plain text."
    )
    pad_vocab_to: int = setting(
        PAD_VOCAB_TO,
        "For a tokenizer that dsllm did not train: the model's vocabulary is the next multiple of this.",
        unit="words",
        min=1,
    )
    format: Literal["dsllm", "megatron", "npy"] = setting(
        "dsllm",
        "Of the shards: as `dsllm pretrain` reads them, Megatron-LM's indexed datasets, or .npy arrays.",
    )
    compare: str | None = setting(
        None, "Folder of another tokenizer: count the tokens that it takes for the same texts."
    )


@dataclass(frozen=True, kw_only=True)
class TokenizeDecodeConfig(Settings):
    """What the documents become."""

    format: Literal["jsonl.zst", "jsonl.gz", "jsonl", "parquet"] = setting(
        "jsonl.zst", "Of the shards; lines to standard output are plain."
    )
