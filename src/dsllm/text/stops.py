"""Stop strings: where a text of tokens ends, whatever the tokens' borders."""

from collections.abc import Iterable, Iterator, Sequence

from dsllm.errors import ConfigError
from dsllm.text.tokenizer_files import LoadedTokenizer

REPLACEMENT = "\ufffd"  # what bytes that are no whole character yet are decoded to
MAX_HELD = 4  # tokens: a character has at most four bytes, so more of them is no character at all


class StopStrings:
    """Texts that end a generation at their first occurrence; they are not part of it.

    Args:
        tokenizer: a byte-level one: a token stands for a byte or more, special ones for nothing.
        stop: none of them empty.

    Raises:
        ConfigError: an empty one.
    """

    def __init__(self, tokenizer: LoadedTokenizer, stop: Sequence[str]) -> None:
        if "" in stop:
            raise ConfigError("a stop string is empty", hint="leave it out, or give some text")
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        # Tokens that may hold a stop string, and a character more that is cut at the front.
        self._n_last = max((len(text.encode()) for text in stop), default=0) + MAX_HELD
        self._special = frozenset(tokenizer.special_tokens.values())

    def is_ended(self, tokens: Sequence[int]) -> bool:
        """Say whether a stop string is complete at the end of `tokens`, seen after each new one."""
        if not self._stop:
            return False
        tail: list[int] = []
        for token in reversed(tokens):
            if token not in self._special:
                tail.append(token)
                if len(tail) == self._n_last:
                    break
        text = self._tokenizer.decode(tail[::-1], skip_special=True)
        return any(stop in text for stop in self._stop)

    def cut(self, text: str) -> str:
        """Return what stands before the first occurrence of any stop string."""
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text

    def cut_pieces(self, pieces: Iterable[str]) -> Iterator[str]:
        """Pass a text on piece by piece up to the first stop string, holding back what may begin one."""
        held = ""
        for piece in pieces:
            held += piece
            kept = self.cut(held)
            if len(kept) < len(held):
                yield kept
                return
            n_held = max((_overlap(held, stop) for stop in self._stop), default=0)
            if n_held < len(held):
                yield held[: len(held) - n_held]
                held = held[len(held) - n_held :]
        if held:
            yield held


def decode_pieces(tokens: Iterable[int], tokenizer: LoadedTokenizer) -> Iterator[str]:
    """Turn tokens into text as they come; tokens are held back until a character is whole."""
    held: list[int] = []
    for token in tokens:
        held.append(token)
        text = tokenizer.decode(held, skip_special=True)
        if not text.endswith(REPLACEMENT) or len(held) >= MAX_HELD:
            yield text
            held.clear()
    if held:
        yield tokenizer.decode(held, skip_special=True)


def _overlap(text: str, stop: str) -> int:
    """Measure the longest end of `text` that begins `stop` without being all of it."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-n:]):
            return n
    return 0
