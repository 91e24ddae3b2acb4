"""A model that writes: loaded with its tokenizer, and read token by token as text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path

import torch

from dsllm.model.decoder import Decoder
from dsllm.model.folder import open_folder
from dsllm.model.generate import stream
from dsllm.model.hf import load_model, stop_ids
from dsllm.model.sampling import Sampling
from dsllm.model.transformer import Transformer
from dsllm.parallel.mesh import find_device
from dsllm.stages.generate.config import SamplingConfig
from dsllm.text.chat import Message, render_chat
from dsllm.text.stops import StopStrings, decode_pieces
from dsllm.text.tokenizer_files import LoadedTokenizer

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Speaker:
    """A model, its tokenizer, and how it chooses."""

    model: Transformer
    tokenizer: LoadedTokenizer
    sampling: Sampling
    seed: int
    stops: StopStrings

    @cached_property
    def decoder(self) -> Decoder:
        """The model, prepared once for all that is asked of it."""
        return Decoder(self.model)

    def answer(self, messages: Sequence[Message], *, turn: int = 0) -> Iterator[str]:
        """Yield the assistant's answer to a conversation, piece by piece, without its stop token.

        `turn` numbers the draws, so that the same question is not answered alike twice when drawing. Of a
        conversation that leaves no room the oldest messages are forgotten.
        """
        tokens = stream(self.decoder, self.fit(messages), self.sampling, seed=self.seed + turn)
        yield from self.stops.cut_pieces(self.read(tokens))

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

    def read(self, tokens: Iterable[int]) -> Iterator[str]:
        """Turn tokens into text as they come, up to a stop token."""
        spoken = takewhile(lambda token: token not in self.sampling.stop_ids, tokens)
        return decode_pieces(spoken, self.tokenizer)


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
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        stop_ids=frozenset(stops),
        repetition_penalty=config.repetition_penalty,
        no_repeat_ngram=config.no_repeat_ngram,
    )
    return Speaker(model, tokenizer, sampling, config.seed, StopStrings(tokenizer, config.stop))
