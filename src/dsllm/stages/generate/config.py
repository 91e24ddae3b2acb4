"""Settings of `dsllm generate` and `dsllm chat`."""

from dataclasses import dataclass
from typing import Literal

from dsllm.config import Settings, setting


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Settings):
    """How a model's next token is chosen; greedy, as the paper's evaluations, unless told otherwise."""

    tokenizer: str | None = setting(None, "Tokenizer folder, instead of the model folder's own files.")
    max_new_tokens: int = setting(256, "Where an answer ends at the latest.", unit="tokens", min=1)
    temperature: float = setting(
        0.0, "0 takes the likeliest token; more draws, the flatter the larger.", min=0
    )
    top_k: int | None = setting(None, "Draw from that many likeliest tokens only.", min=1)
    top_p: float | None = setting(
        None, "Draw from the likeliest tokens that together have this probability.", above=0, max=1
    )
    repetition_penalty: float = setting(
        1.0, "Above 1 makes tokens less likely that the text or its prompt has already.", above=0
    )
    no_repeat_ngram: int | None = setting(
        None, "No run of so many tokens comes twice, the prompt included.", unit="tokens", min=1
    )
    stop: tuple[str, ...] = setting((), "Text that ends an answer, and is left out. May be repeated.")
    seed: int = setting(0, "Seed of the draws.", min=0)
    dtype: Literal["fp32", "bf16"] = setting("fp32", "Precision of the model.")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "Where the model runs.")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(SamplingConfig):
    """What is continued."""

    prompt: str | None = setting(None, "Text to continue; not given: each line of standard input.")
    chat: bool = setting(False, "Put each prompt into the chat template, as a user's message.")
    bos: Literal["auto", "always", "never"] = setting(
        "auto",
        "Begin with the BOS token; auto: where the tokenizer does so by itself, and for an empty prompt.",
    )
    batch_seqs: int = setting(
        16, "Most prompts that go through the model at once; others join as these end.", min=1
    )
    cache_tokens: int | None = setting(
        None,
        "Most tokens kept in memory at once. Not given: what that many prompts need.",
        unit="tokens",
        min=1,
    )
    n_samples: int = setting(1, "Continuations of each prompt.", min=1)


@dataclass(frozen=True, kw_only=True)
class ChatConfig(SamplingConfig):
    """How the model answers."""

    system: str | None = setting(None, "System message at the beginning; the paper advises against one.")
