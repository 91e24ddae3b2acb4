"""The choice of the next token: repetition limits, temperature, top-k, top-p."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsllm.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token and when to end: the arguments of `generate` of the same names."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    stop_ids: frozenset[int] = frozenset()
    repetition_penalty: float = 1.0
    no_repeat_ngram: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}", hint="ask for at least one token")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature is {self.temperature}", hint="give 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k is {self.top_k}", hint="give 1 or more, or leave it out")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(
                f"top_p is {self.top_p}", hint="give a number above 0, up to 1, or leave it out"
            )
        if not self.repetition_penalty > 0:
            raise ConfigError(
                f"repetition_penalty is {self.repetition_penalty}",
                hint="give 1 (none) or more; 1.1 to 1.3 are common",
            )
        if self.no_repeat_ngram is not None and self.no_repeat_ngram < 1:
            raise ConfigError(
                f"no_repeat_ngram is {self.no_repeat_ngram}", hint="give 1 or more, or leave it out"
            )


def choose(logits: Tensor, generators: Sequence[torch.Generator], sampling: Sampling) -> Tensor:
    """Choose the next token of each row of `logits`, fp32, shape (batch, vocab_size); int64, shape (batch,).

    Draws by inverting the distribution function with one number in [0, 1) from each row's own generator, so a
    row's token depends on that row alone.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    kept = logits / sampling.temperature
    order = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape)
    n_kept = min(sampling.top_k or logits.shape[1], logits.shape[1])
    if sampling.top_k is not None or sampling.top_p is not None:
        kept, order = kept.topk(n_kept, dim=-1)  # likeliest first
    totals = kept.double().softmax(dim=-1).cumsum(dim=-1)
    if sampling.top_p is not None:
        n_within = (totals < sampling.top_p).sum(dim=-1, keepdim=True).clamp(max=n_kept - 1)
        limit = totals.gather(1, n_within)
    else:
        limit = totals[:, -1:]
    draws = [torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators]
    place = (totals <= torch.stack(draws).to(logits.device) * limit).sum(dim=-1, keepdim=True)
    return order.gather(1, place.clamp(max=n_kept - 1)).squeeze(1)


class Repeats:
    """What a text has said so far: its distinct tokens, and what followed its runs of n - 1 tokens.

    Args:
        tokens: the prompt; the limits count it too.
        ngram: n, or None.
    """

    def __init__(self, tokens: Sequence[int], ngram: int | None) -> None:
        self.seen: dict[int, None] = {}
        self._ngram = ngram
        self._run: tuple[int, ...] = ()
        self._followers: dict[tuple[int, ...], list[int]] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """Count one more token of the text."""
        self.seen[token] = None
        if self._ngram is None:
            return
        if len(self._run) == self._ngram - 1:
            self._followers.setdefault(self._run, []).append(token)
        self._run = (*self._run, token)[1 - self._ngram :] if self._ngram > 1 else ()

    @property
    def banned(self) -> list[int]:
        """Tokens that would end an n-gram that the text has already."""
        return self._followers.get(self._run, []) if self._ngram is not None else []


def limit_repeats(logits: Tensor, texts: Sequence[Repeats], sampling: Sampling) -> None:
    """Make what was said less likely, in place: `logits` fp32, shape (batch, vocab_size), a text each row.

    The logit of every token that the text holds, its prompt included, is divided by `repetition_penalty` if
    it is positive and multiplied if it is negative. A token that would complete an n-gram a second time gets
    minus infinity. Both as `transformers` does by its settings `repetition_penalty` and
    `no_repeat_ngram_size`, the penalty first, before the temperature.

    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1, which divides whatever the sign; Paulus et al.
    2017, arXiv:1705.04304, section 2.5.
    """
    if sampling.repetition_penalty != 1:
        rows, tokens = _places([list(text.seen) for text in texts], logits.device)
        said = logits[rows, tokens]
        factor = sampling.repetition_penalty
        logits[rows, tokens] = torch.where(said > 0, said / factor, said * factor)
    if sampling.no_repeat_ngram is not None:
        rows, tokens = _places([text.banned for text in texts], logits.device)
        logits[rows, tokens] = -torch.inf


def _places(tokens_of: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    rows = [row for row, tokens in enumerate(tokens_of) for _ in tokens]
    tokens = [token for tokens in tokens_of for token in tokens]
    return torch.tensor(rows, dtype=torch.int64).to(device), torch.tensor(tokens, dtype=torch.int64).to(
        device
    )
