"""Requests: questions as token ids, cut to the model's length as lm-evaluation-harness does.

A request is a row of tokens whose last `n_scored` are asked for. Spaces at the end of a context go to the
continuation; the continuation's ids are those of both together behind those of the context; of what is too
long the last `max_length` inputs are kept. A document is scored in windows: the first begins with BOS (EOS
where there is none), each later one is filled up on the left with what came before, and every token is scored
exactly once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dsllm.errors import InputError
from dsllm.text.chat import render_chat, render_completion
from dsllm.text.tokenizer_files import LoadedTokenizer


@dataclass(frozen=True)
class Request:
    """The model reads `tokens[:-1]`; the last `n_scored` of `tokens` are its targets."""

    tokens: tuple[int, ...]
    n_scored: int


@dataclass(frozen=True)
class Encoder:
    """Text to ids.

    Args:
        tokenizer: the model's.
        start_id: the token that stands for "nothing before": BOS, else EOS.
        adds_start: whether a prompt begins with it.
        chat: whether a prompt is put into the chat template, as a user's message.
        max_length: most tokens that the model reads.
    """

    tokenizer: LoadedTokenizer
    start_id: int
    adds_start: bool
    chat: bool
    max_length: int

    def prompt(self, context: str) -> list[int]:
        """Encode a prompt that the model is to go on from."""
        if self.chat:
            messages = [{"role": "user", "content": context}]
            return render_chat(messages, self.tokenizer, add_generation_prompt=True).token_ids
        return [self.start_id] * self.adds_start + self.tokenizer.encode(context)


def pair_request(context: str, continuation: str, encoder: Encoder, *, where: str) -> Request:
    """Ask how likely a continuation is.

    Raises:
        InputError: the continuation has no tokens of its own, or more than the model can read.
    """
    make = _chat_parts if encoder.chat else _plain_parts
    before, scored = make(context, continuation, encoder)
    if not scored:
        raise InputError(
            f"{where}: {continuation!r} adds no token to its context",
            hint="begin it with a space, or mend the item",
        )
    if len(scored) > encoder.max_length:
        raise InputError(
            f"{where}: an answer of {len(scored):,} tokens, but the model reads {encoder.max_length:,}",
            hint="use a model with longer sequences, or leave the item out",
        )
    return Request(tuple((before + scored)[-(encoder.max_length + 1) :]), len(scored))


def _plain_parts(context: str, continuation: str, encoder: Encoder) -> tuple[list[int], list[int]]:
    kept = context.rstrip()
    context, continuation = kept, context[len(kept) :] + continuation
    if not context:
        return [encoder.start_id], encoder.tokenizer.encode(continuation)
    before = encoder.prompt(context)
    return before, encoder.prompt(context + continuation)[len(before) :]


def _chat_parts(context: str, continuation: str, encoder: Encoder) -> tuple[list[int], list[int]]:
    """Take the tokens that the template gives an answer, but for the stop token behind it."""
    prompt = [{"role": "user", "content": context}]
    answer = [{"role": "assistant", "content": continuation.strip()}]
    whole = render_completion(prompt, answer, encoder.tokenizer)
    n_before = whole.loss_mask.index(True) if True in whole.loss_mask else len(whole.token_ids)
    stop_id = encoder.tokenizer.eos_id
    end = next((at for at in range(n_before, len(whole.token_ids)) if whole.token_ids[at] == stop_id), None)
    return whole.token_ids[:n_before], whole.token_ids[n_before:end]


def document_requests(text: str, encoder: Encoder) -> Iterator[Request]:
    """Cut a document into windows that together score each of its tokens once."""
    tokens = [encoder.start_id, *encoder.tokenizer.encode(text)]
    for start in range(1, len(tokens), encoder.max_length):
        end = min(len(tokens), start + encoder.max_length)
        yield Request(tuple(tokens[max(0, end - encoder.max_length - 1) : end]), end - start)


def generation_prompt(context: str, encoder: Encoder, *, max_new_tokens: int, where: str) -> list[int]:
    """Encode the prompt of a generation, leaving room for what is generated; its last tokens are kept.

    Raises:
        InputError: there is no room for any prompt.
    """
    room = encoder.max_length - max_new_tokens
    if room < 1:
        raise InputError(
            f"{where}: {max_new_tokens:,} new tokens wanted, but the model holds {encoder.max_length:,}",
            hint=f"write max_new_tokens = {encoder.max_length // 2} into the task's file",
        )
    return (encoder.prompt(context) or [encoder.start_id])[-room:]


def group_inputs(requests: Sequence[Request]) -> dict[tuple[int, ...], list[int]]:
    """Group requests whose inputs are equal: they go through the model once, longest inputs first."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(request.tokens[:-1], []).append(index)
    return dict(sorted(groups.items(), key=lambda group: -len(group[0])))


def cut_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[range]:
    """Cut rows of falling length into batches of one or more, padded to at most `batch_tokens`."""
    start = 0
    while start < len(lengths):
        n_rows = max(1, batch_tokens // max(1, lengths[start]))
        end = min(len(lengths), start + n_rows)
        yield range(start, end)
        start = end
