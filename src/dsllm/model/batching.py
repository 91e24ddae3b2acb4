"""Continuous batching: texts join and leave a running batch at every step, as pages and places allow."""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from dsllm.errors import ConfigError
from dsllm.model.cache import PAGE_TOKENS, PagedCache, Prefix
from dsllm.model.decoder import Decoder, Part
from dsllm.model.sampling import Repeats, Sampling, choose, limit_repeats

MAX_READ_TOKENS = 4096  # tokens of new prompts in one step; a longer prompt is read alone
UNBOUNDED_PAGES = 1 << 40


@dataclass(eq=False)
class Text:
    """One prompt and what is added to it.

    Attributes:
        index: its number.
        tokens: the prompt, then the new tokens.
        n_prompt: tokens of the prompt.
        max_tokens: length, prompt included, at which it ends at the latest.
        generator: the source of its draws.
        repeats: what it has said, where that is limited.
        is_ended: its last token has come.
        pages: of the cache, in order.
        n_cached: tokens whose keys and values are in them.
    """

    index: int
    tokens: list[int]
    n_prompt: int
    max_tokens: int
    generator: torch.Generator
    repeats: Repeats | None
    is_ended: bool = False
    pages: list[int] = field(default_factory=list)
    n_cached: int = 0

    @property
    def new_tokens(self) -> list[int]:
        """What was added to the prompt."""
        return self.tokens[self.n_prompt :]


def make_text(
    index: int, prompt: Sequence[int], *, seed: str, n_new: int, seq_len: int, sampling: Sampling
) -> Text:
    """Begin a text; it ends after `n_new` tokens or at `seq_len`, and has one new token at least."""
    digest = hashlib.sha256(seed.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    limits_repeats = sampling.repetition_penalty != 1 or sampling.no_repeat_ngram is not None
    return Text(
        index=index,
        tokens=list(prompt),
        n_prompt=len(prompt),
        max_tokens=max(len(prompt) + 1, min(len(prompt) + n_new, seq_len)),
        generator=generator,
        repeats=Repeats(prompt, sampling.no_repeat_ngram) if limits_repeats else None,
    )


class Batch:
    """Texts that a model continues together.

    A text waits its turn until fewer than `batch_seqs` run and the cache has room for its prompt. When
    running texts need more pages than there are, the one that joined last gives its own back and waits at
    the front of the queue; it is read again later and goes on from where it was.

    Args:
        decoder: the model.
        sampling: how to choose, and the tokens that end a text.
        batch_seqs: most texts at once.
        cache_tokens: most tokens whose keys and values are kept at once, in whole pages; None: as many as
            `batch_seqs` texts can have.
    """

    def __init__(
        self, decoder: Decoder, sampling: Sampling, *, batch_seqs: int, cache_tokens: int | None
    ) -> None:
        if batch_seqs < 1:
            raise ConfigError(f"batch_seqs is {batch_seqs}", hint="give at least one text at once")
        max_pages = UNBOUNDED_PAGES if cache_tokens is None else cache_tokens // PAGE_TOKENS
        self.decoder, self.sampling, self.batch_seqs = decoder, sampling, batch_seqs
        self.cache: PagedCache = decoder.make_cache(max_pages)
        self.waiting: deque[Text] = deque()
        self.running: list[Text] = []  # in the order in which they joined
        self.n_read = 0  # tokens that went through the model

    @property
    def n_texts(self) -> int:
        """Texts that run or wait."""
        return len(self.running) + len(self.waiting)

    def add(self, text: Text) -> None:
        """Put a text at the end of the queue.

        Raises:
            ConfigError: it may become longer than the whole cache.
        """
        # the last token is chosen and never read
        n_pages = -(-(text.max_tokens - 1) // PAGE_TOKENS)
        if n_pages > self.cache.max_pages:
            raise ConfigError(
                f"cache_tokens holds {self.cache.max_pages * PAGE_TOKENS:,} tokens, but prompt {text.index} "
                f"may become {text.max_tokens:,}",
                hint=f"give cache_tokens {n_pages * PAGE_TOKENS} or more, or fewer max_new_tokens",
            )
        self.waiting.append(text)

    def steps(self) -> Iterator[list[Text]]:
        """Go on until no text is left; yield after each step the texts that got a token.

        The reader may set `is_ended` of any of them, and may `add` others.
        """
        while self.waiting or self.running:
            yield self._step()
            for text in self.running:
                if text.is_ended:
                    self._release(text)
            self.running = [text for text in self.running if not text.is_ended]

    @torch.inference_mode()
    def _step(self) -> list[Text]:
        self._make_room()
        parts, kept = self._join()
        self.n_read += sum(len(part.tokens) for part in parts)
        logits = self.decoder.read(parts, self.cache)
        self.cache.give_back(kept)
        stepped = list(self.running)
        limited = [text.repeats for text in stepped if text.repeats is not None]
        if limited:
            limit_repeats(logits, limited, self.sampling)
        chosen = choose(logits, [text.generator for text in stepped], self.sampling).tolist()
        for text, token in zip(stepped, chosen, strict=True):
            text.n_cached = len(text.tokens)
            text.tokens.append(token)
            if text.repeats is not None:
                text.repeats.add(token)
            text.is_ended = token in self.sampling.stop_ids or len(text.tokens) >= text.max_tokens
        return stepped

    def _make_room(self) -> None:
        """Give each running text the page that its next token goes to, the ones that joined first first."""
        place = 0
        while place < len(self.running):
            text = self.running[place]
            if len(text.tokens) <= len(text.pages) * PAGE_TOKENS:
                place += 1
                continue
            pages = self.cache.take(1)
            if pages is not None:
                text.pages += pages
                continue
            last = self.running.pop()
            self._release(last)
            self.waiting.appendleft(last)

    def _join(self) -> tuple[list[Part], list[int]]:
        """Let waiting texts join; list what each running text has new, and pages to be kept for the step."""
        parts = [Part(text.tokens[text.n_cached :], text.n_cached, text.pages) for text in self.running]
        n_read, kept = 0, list[int]()
        while self.waiting and len(self.running) < self.batch_seqs:
            text = self.waiting[0]
            prefix = self.cache.find(text.tokens)
            n_new = len(text.tokens) - len(prefix.pages) * PAGE_TOKENS - prefix.n_copied
            if n_read and n_read + n_new > MAX_READ_TOKENS:
                break
            # While a page is copied from, nobody may get it: without the copy, one page less is needed.
            part = self._begin(text, prefix) or self._begin(
                text, replace(prefix, copied_page=None, n_copied=0)
            )
            if part is None:
                break
            if part.copied_page is not None:
                kept.append(part.copied_page)
            n_read += len(part.tokens)
            parts.append(part)
            self.running.append(self.waiting.popleft())
        return parts, kept

    def _begin(self, text: Text, prefix: Prefix) -> Part | None:
        """Take the pages of a text that begins with a known prefix; None if there are not so many."""
        shared = [*prefix.pages, *([] if prefix.copied_page is None else [prefix.copied_page])]
        self.cache.share(shared)
        own = self.cache.take(-(-len(text.tokens) // PAGE_TOKENS) - len(prefix.pages))
        if own is None:
            self.cache.give_back(shared)
            return None
        text.pages = [*prefix.pages, *own]
        text.n_cached = len(prefix.pages) * PAGE_TOKENS + prefix.n_copied
        self.cache.remember(text.tokens[: text.n_prompt], text.pages, prefix)
        new = text.tokens[text.n_cached :]
        return Part(new, text.n_cached, text.pages, prefix.copied_page, prefix.n_copied)

    def _release(self, text: Text) -> None:
        self.cache.give_back(text.pages)
        text.pages, text.n_cached = [], 0
