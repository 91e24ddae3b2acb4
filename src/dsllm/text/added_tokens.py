"""Tokens that are looked for in the text itself, before it is cut: a tokenizer's `added_tokens`.

As Hugging Face `tokenizers` does it: first those that are not `normalized`, then in what lies between the
others; from left to right, of several at a place the longest. A special token that is to be plain text is
found too, and left as it is.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.text.added_tokens_compiled import N_HEAD_WORDS, note_heads, note_texts
from dsllm.text.texts import Texts

Span = tuple[int, int]  # where in a text it ends, and the id that it stands for; -1 for text
Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class AddedTokens:
    """Looks for added tokens; the special ones among them only if `parse_special`.

    Args:
        tokens: `added_tokens` as a tokenizer.json has them.
        parse_special: whether the name of a special token is that token.
    """

    tokens: Sequence[dict[str, Any]]
    parse_special: bool = False
    _ids: dict[bytes, int] = field(init=False, repr=False)
    _patterns: list[re.Pattern[bytes]] = field(init=False, repr=False)
    _heads: NDArray[np.uint64] = field(init=False, repr=False)
    _n_head: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        wanted = [token for token in self.tokens if self.parse_special or not token["special"]]
        ids = {token["content"].encode(): int(token["id"]) for token in wanted if token["content"]}
        phases = [
            sorted(
                {t["content"].encode() for t in self.tokens if t["content"] and t["normalized"] is is_late},
                key=lambda name: (-len(name), name),
            )
            for is_late in (False, True)
        ]
        heads, n_head = np.zeros(N_HEAD_WORDS, np.uint64), min(4, *map(len, ids), 4)
        names = Texts.join(list(ids))
        if ids:
            note_heads(names.data, names.ends, n_head, heads)
        object.__setattr__(self, "_ids", ids)
        object.__setattr__(
            self, "_patterns", [re.compile(b"|".join(map(re.escape, each))) for each in phases if each]
        )
        object.__setattr__(self, "_heads", heads)
        object.__setattr__(self, "_n_head", n_head)

    def places(self, texts: Texts) -> list[int]:
        """Say which texts may have any of them."""
        if not self._ids or not len(texts.ends):
            return []
        is_there = np.zeros(len(texts.ends), np.bool_)
        note_texts(texts.data, texts.ends, self._n_head, self._heads, is_there)
        return [int(place) for place in np.flatnonzero(is_there)]

    def spans(self, text: bytes) -> list[Span]:
        """Cut a text into tokens and what lies between."""
        found: list[Span] = [(len(text), -1)] if text else []
        for pattern in self._patterns:
            start = 0
            parts: list[Span] = []
            for end, identity in found:
                parts += [(end, identity)] if identity >= 0 else self._cut(pattern, text, start, end)
                start = end
            found = parts
        return found

    def _cut(self, pattern: re.Pattern[bytes], text: bytes, start: int, end: int) -> Iterator[Span]:
        for match in pattern.finditer(text, start, end):
            identity = self._ids.get(match[0], -1)
            if identity >= 0:
                if match.start() > start:
                    yield match.start(), -1
                yield match.end(), identity
                start = match.end()
        if start < end:
            yield end, -1


def unknown_manner(tokens: Sequence[dict[str, Any]], vocabulary: Mapping[str, int]) -> str | None:
    """Say what is asked of the first token that is looked for in a manner not known here.

    The library gives a token that is no word of the vocabulary the next free id, whatever the file says.
    """
    n_words = len(vocabulary)
    for token in tokens:
        for manner in ("single_word", "lstrip", "rstrip"):
            if token.get(manner):
                return f"it asks for {manner} of {token['content']!r}"
        identity = vocabulary.get(token["content"], n_words)
        if token["id"] != identity:
            return f"it gives {token['content']!r} the id {token['id']}, not {identity}"
        n_words += identity == n_words
    return None
