"""Generation: from prompts to tokens, many prompts at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from dsllm.errors import InputError
from dsllm.model.batching import Batch, make_text
from dsllm.model.config import ModelConfig
from dsllm.model.decoder import Decoder
from dsllm.model.sampling import Sampling
from dsllm.model.transformer import Transformer


@dataclass(frozen=True)
class Prompt:
    """What is continued.

    Attributes:
        tokens: one or more, at most the model's `seq_len`.
        seed: of the draws; equal prompts with equal seeds get equal texts.
        max_new_tokens: instead of the `Sampling`'s, where it ends at the latest.
    """

    tokens: Sequence[int]
    seed: int | str = 0
    max_new_tokens: int | None = None


def generate(
    model: Transformer | Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int | None = None,
    stop_ids: Sequence[int] = (),
    seed: int | Sequence[int] = 0,
    batch_seqs: int = 32,
    cache_tokens: int | None = None,
    is_ended: Callable[[Sequence[int]], bool] | None = None,
) -> list[list[int]]:
    """Continue every prompt.

    A prompt's continuation depends on that prompt and its seed alone, save for rounding: not on the prompts
    beside it, nor on their order. Tokens that prompts begin with in common go through the model once.

    Args:
        model: the weights; they decide the dtype and the device. Of a `Decoder` nothing is prepared anew.
        prompts: token ids, at least one each, at most `model.config.seq_len`.
        max_new_tokens: where to end at the latest; a sequence: one number for each prompt. The text ends at
            the model's `seq_len` too; a prompt of that length gets one token.
        temperature: divides the logits before the softmax; 0 takes the likeliest token.
        top_k: draw from that many likeliest tokens only.
        top_p: draw from the likeliest tokens whose probabilities first add up to this.
        repetition_penalty: above 1 makes tokens of the text less likely: see `limit_repeats`.
        no_repeat_ngram: no run of so many tokens comes twice in a text, its prompt included.
        stop_ids: a text ends with the first of these.
        seed: of the draws. A number: prompt i draws by (seed, i). A sequence: one number for each prompt.
        batch_seqs: most texts that run at once; the others wait their turn.
        cache_tokens: most tokens whose keys and values are kept at once; None: what `batch_seqs` texts need.
        is_ended: looks at the new tokens of a text after each one and says whether it ends there.

    Returns:
        For each prompt its new tokens, the stopping one included.

    Raises:
        InputError: a prompt that is empty, too long, or of tokens that the model does not have.
        ConfigError: a setting outside its range, or a cache that is too small for a prompt.
    """
    seeds = [f"{seed}/{index}" for index in range(len(prompts))] if isinstance(seed, int) else map(str, seed)
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    sampling = Sampling(
        max_new_tokens=max_new_tokens if isinstance(max_new_tokens, int) else min(max_new_tokens, default=1),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_ids=frozenset(stop_ids),
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
    )
    for index, prompt in enumerate(prompts):
        _check_prompt(model.config, prompt, index)
    if not prompts:
        return []
    results = generate_each(
        model,
        [Prompt(*values) for values in zip(prompts, seeds, limits, strict=True)],
        sampling,
        batch_seqs=batch_seqs,
        cache_tokens=cache_tokens,
        is_ended=is_ended,
    )
    return [tokens for _, tokens in sorted(results)]


def generate_each(
    model: Transformer | Decoder,
    prompts: Iterable[Prompt],
    sampling: Sampling,
    *,
    batch_seqs: int = 32,
    cache_tokens: int | None = None,
    is_ended: Callable[[Sequence[int]], bool] | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Continue prompts as they come; yield each text when it ends: the prompt's number and its new tokens.

    A prompt is asked for when a place is free. The arguments and errors are those of `generate`.
    """
    batch = Batch(_decoder(model), sampling, batch_seqs=batch_seqs, cache_tokens=cache_tokens)
    coming = enumerate(prompts)
    _fill(batch, coming)
    for stepped in batch.steps():
        for text in stepped:
            if is_ended is not None and not text.is_ended:
                text.is_ended = is_ended(text.new_tokens)
            if text.is_ended:
                yield text.index, text.new_tokens
        _fill(batch, coming, n_leaving=sum(text.is_ended for text in stepped))


def stream(
    model: Transformer | Decoder, prompt: Sequence[int], sampling: Sampling, *, seed: int = 0
) -> Iterator[int]:
    """Yield the continuation of one prompt token by token: the same tokens as `generate` gives."""
    batch = Batch(_decoder(model), sampling, batch_seqs=1, cache_tokens=None)
    _fill(batch, iter([(0, Prompt(prompt, f"{seed}/0"))]))
    for (text,) in batch.steps():
        yield text.tokens[-1]


def _decoder(model: Transformer | Decoder) -> Decoder:
    return model if isinstance(model, Decoder) else Decoder(model)


def _fill(batch: Batch, prompts: Iterator[tuple[int, Prompt]], n_leaving: int = 0) -> None:
    """Queue as many prompts as there are places."""
    config, sampling = batch.decoder.config, batch.sampling
    while batch.n_texts - n_leaving < batch.batch_seqs:
        index, prompt = next(prompts, (-1, None))
        if prompt is None:
            return
        _check_prompt(config, prompt.tokens, index)
        n_new = sampling.max_new_tokens if prompt.max_new_tokens is None else prompt.max_new_tokens
        batch.add(
            make_text(
                index,
                prompt.tokens,
                seed=str(prompt.seed),
                n_new=n_new,
                seq_len=config.seq_len,
                sampling=sampling,
            )
        )


def _check_prompt(config: ModelConfig, prompt: Sequence[int], index: int) -> None:
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
