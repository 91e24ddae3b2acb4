"""A model that writes: loaded with its tokenizer, and read token by token as text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dsllm.model.folder import open_folder
from dsllm.model.generate import Sampling, stream
from dsllm.model.hf import load_model, stop_ids
from dsllm.model.transformer import Transformer
from dsllm.parallel.mesh import find_device
from dsllm.stages.generate.config import SamplingConfig
from dsllm.text.chat import Message, render_chat
from dsllm.text.tokenizer_files import LoadedTokenizer

REPLACEMENT = "\ufffd"  # what bytes that are no whole character yet are decoded to
MAX_HELD = 4  # tokens: a character has at most four bytes, so more of them is no character at all

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Speaker:
    """A model, its tokenizer, and how it chooses."""

    model: Transformer
    tokenizer: LoadedTokenizer
    sampling: Sampling
    seed: int

    def answer(self, messages: Sequence[Message], *, turn: int = 0) -> Iterator[str]:
        """Yield the assistant's answer to a conversation, piece by piece, without its stop token.

        `turn` numbers the draws, so that the same question is not answered alike twice when drawing. Of a
        conversation that leaves no room the oldest messages are forgotten.
        """
        prompt = self.fit(messages)
        yield from self._decode(stream(self.model, prompt, self.sampling, seed=self.seed + turn))

    def fit(self, messages: Sequence[Message]) -> list[int]:
        """Encode a conversation up to where the assistant speaks, in at most what leaves room for an answer.

        The system message and the last message stay; if that is too long, its last tokens.
        """
        seq_len = self.model.config.seq_len
        room = max(1, seq_len - min(self.sampling.max_new_tokens, seq_len // 2))
        n_system = int(messages[0]["role"] == "system")
        forgotten = 0
        while True:
            kept = [*messages[:n_system], *messages[n_system + forgotten :]]
            tokens = render_chat(kept, self.tokenizer, add_generation_prompt=True).token_ids
            if len(tokens) <= room:
                return tokens
            if len(kept) <= n_system + 1:
                return tokens[-room:]
            forgotten += 2 if len(kept) > n_system + 2 else 1

    def _decode(self, tokens: Iterator[int]) -> Iterator[str]:
        """Turn tokens into text as they come; tokens are held back until a character is whole."""
        held: list[int] = []
        for token in tokens:
            if token in self.sampling.stop_ids:
                break
            held.append(token)
            text = self.tokenizer.decode(held, skip_special=True)
            if not text.endswith(REPLACEMENT) or len(held) >= MAX_HELD:
                yield text
                held.clear()
        if held:
            yield self.tokenizer.decode(held, skip_special=True)


def load_speaker(folder: str, config: SamplingConfig) -> Speaker:
    """Load a model folder.

    Raises:
        InputError: no model or no tokenizer there.
        ConfigError: the two do not fit each other.
    """
    _, tokenizer = open_folder(folder, config.tokenizer)
    device = find_device(config.device)
    model = load_model(folder, dtype=_DTYPES[config.dtype], device=device).eval()
    stops = {*stop_ids(Path(folder))}
    if tokenizer.eos_id is not None:
        stops.add(tokenizer.eos_id)
    sampling = Sampling(
        config.max_new_tokens, config.temperature, config.top_k, config.top_p, frozenset(stops)
    )
    return Speaker(model, tokenizer, sampling, config.seed)
