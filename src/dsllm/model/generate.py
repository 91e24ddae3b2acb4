"""Generation: from prompts to tokens, one forward pass a token."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch
from torch import Tensor

from dsllm.errors import ConfigError, InputError
from dsllm.model.cache import KVCache
from dsllm.model.transformer import Transformer


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_ids: Sequence[int] = (),
    seed: int | Sequence[int] = 0,
    batch_seqs: int = 32,
    is_ended: Callable[[Sequence[int]], bool] | None = None,
) -> list[list[int]]:
    """Continue every prompt.

    A prompt's continuation does not depend on the prompts beside it, save for rounding: batches of prompts of
    any lengths are padded, and the padding is seen by nobody.

    Args:
        model: the weights; they decide the dtype and the device.
        prompts: token ids, at least one each, at most `model.config.seq_len`.
        max_new_tokens: where to end at the latest. The text ends at the model's `seq_len` too; a prompt of
            that length gets one token.
        temperature: divides the logits before the softmax; 0 takes the likeliest token.
        top_k: draw from that many likeliest tokens only.
        top_p: draw from the likeliest tokens whose probabilities first add up to this.
        stop_ids: a text ends with the first of these.
        seed: of the draws. A number: request i draws by (seed, i). A sequence: one number for each request.
        batch_seqs: prompts in one forward pass.
        is_ended: looks at the new tokens of a text after each one and says whether it ends there.

    Returns:
        For each prompt its new tokens, the stopping one included.

    Raises:
        InputError: a prompt that is empty, too long, or of tokens that the model does not have.
        ConfigError: a sampling setting outside its range.
    """
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, frozenset(stop_ids))
    requests = _requests(model, prompts, seed)
    results: list[list[int]] = [[] for _ in requests]
    # Longest first: prompts of like length share a batch, and what does not fit the memory fails at once.
    order = sorted(requests, key=lambda request: -len(request.prompt))
    for begin in range(0, len(order), batch_seqs):
        ended: set[int] = set()
        for step in _continue(model, order[begin : begin + batch_seqs], sampling, ended):
            for request, token in step:
                results[request.index].append(token)
                if is_ended is not None and is_ended(results[request.index]):
                    ended.add(request.index)
    return results


def stream(
    model: Transformer, prompt: Sequence[int], sampling: "Sampling", *, seed: int = 0
) -> Iterator[int]:
    """Yield the continuation of one prompt token by token: the same tokens as `generate` gives."""
    for step in _continue(model, _requests(model, [prompt], seed), sampling):
        for _, token in step:
            yield token


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token and when to end: the arguments of `generate` of the same names."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    stop_ids: frozenset[int] = frozenset()

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


@dataclass(frozen=True)
class _Request:
    """One prompt, its place among the results, and the source of its draws."""

    index: int
    prompt: Sequence[int]
    generator: torch.Generator


def _requests(
    model: Transformer, prompts: Sequence[Sequence[int]], seed: int | Sequence[int]
) -> list[_Request]:
    seeds = [f"{seed}/{index}" for index in range(len(prompts))] if isinstance(seed, int) else map(str, seed)
    requests = []
    for index, (prompt, own_seed) in enumerate(zip(prompts, seeds, strict=True)):
        _check_prompt(model, prompt, index)
        digest = hashlib.sha256(own_seed.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        requests.append(_Request(index, prompt, generator))
    return requests


def _check_prompt(model: Transformer, prompt: Sequence[int], index: int) -> None:
    config = model.config
    if not prompt:
        raise InputError(
            f"prompt {index} is empty",
            hint="begin it with the token that begins a document, or with some text",
        )
    if len(prompt) > config.seq_len:
        raise InputError(
            f"prompt {index} has {len(prompt):,} tokens, but the model reads {config.seq_len:,}",
            hint="shorten the prompt, or use a model with a longer seq_len",
        )
    strange = [token for token in prompt if not 0 <= token < config.vocab_size]
    if strange:
        raise InputError(
            f"prompt {index} holds token {strange[0]}, but the vocabulary has {config.vocab_size:,}",
            hint="use the tokenizer that belongs to the model",
        )


@torch.no_grad()
def _continue(
    model: Transformer, requests: list[_Request], sampling: Sampling, ended: AbstractSet[int] = frozenset()
) -> Iterator[list[tuple[_Request, int]]]:
    """Run one batch; yield each step's tokens with the requests that they continue.

    The reader may put a request's index into `ended`: it is not continued.
    """
    weight = model.output_weight
    longest = max(len(request.prompt) for request in requests)
    n_padded = torch.tensor([longest - len(request.prompt) for request in requests], device=weight.device)
    cache = KVCache(model.config, n_padded, weight.dtype)
    padded = [[0] * (longest - len(request.prompt)) + list(request.prompt) for request in requests]
    tokens = torch.tensor(padded, device=weight.device)
    running = requests
    n_new = 0
    while running:
        logits = model.project(model.hidden(tokens, cache=cache)[:, -1]).float()  # (batch, vocab_size)
        chosen = choose(logits, [request.generator for request in running], sampling)
        n_new += 1
        drawn = chosen.tolist()
        yield list(zip(running, drawn, strict=True))

        rows = [
            row
            for row, (request, token) in enumerate(zip(running, drawn, strict=True))
            if token not in sampling.stop_ids
            and request.index not in ended
            and n_new < sampling.max_new_tokens
            and len(request.prompt) + n_new < model.config.seq_len
        ]
        if len(rows) < len(running):
            running = [running[row] for row in rows]
            index = torch.tensor(rows, dtype=torch.int64, device=weight.device)
            cache.keep_rows(index)
            chosen = chosen[index]
        tokens = chosen[:, None]


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
