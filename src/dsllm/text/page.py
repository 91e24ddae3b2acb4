"""A document's text and its parts, which the features are made of."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from dsllm.text import scan
from dsllm.text.terms import terms


class Page:
    """A document's text and its parts, each made at most once."""

    def __init__(self, text: str, language: str = "en") -> None:
        self.text = text
        self.language = language

    @cached_property
    def words(self) -> list[str]:
        """The words, in the case they are written in."""
        return scan.words(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank, stripped."""
        return [stripped for line in scan.lines(self.text) if (stripped := line.strip())]

    @cached_property
    def paragraphs(self) -> list[str]:
        """The paragraphs: runs of lines between blank ones."""
        return [paragraph.strip() for paragraph in scan.paragraphs(self.text)]

    @cached_property
    def terms(self) -> list[str]:
        """The words and marks of English."""
        return terms(self.text)

    @cached_property
    def raw_lines(self) -> list[str]:
        """The lines that are not blank, as they stand between line feeds."""
        return [line for line in self.text.split("\n") if line.strip()]

    @cached_property
    def grams(self) -> "RepeatedGrams":
        """The n-grams of words that occur more than once."""
        return RepeatedGrams(self.words)


class RepeatedGrams:
    """The n-grams that occur at least twice, for growing n.

    An n-gram can recur only where its first n - 1 words recur, so each n looks at few places.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.n_words = len(words)
        self.chars = [len(word) for word in words]
        numbers: dict[str, int] = {}
        self._words = [numbers.setdefault(word, len(numbers)) for word in words]
        self._found: dict[int, list[tuple[int, int]]] = {}

    def occurrences(self, n: int) -> list[tuple[int, int]]:
        """List (place, gram) of all n-grams that recur, n >= 2; equal grams have equal numbers."""
        if n not in self._found:
            self._found[n] = self._extend(n)
        return self._found[n]

    def _extend(self, n: int) -> list[tuple[int, int]]:
        shorter = list(enumerate(self._words)) if n == 2 else self.occurrences(n - 1)
        words, end = self._words, self.n_words - n
        grams = [(gram, words[at + n - 1]) for at, gram in shorter if at <= end]
        n_times = Counter(grams)
        numbers: dict[tuple[int, int], int] = {}
        places = (at for at, _ in shorter if at <= end)
        return [
            (at, numbers.setdefault(gram, len(numbers)))
            for at, gram in zip(places, grams, strict=True)
            if n_times[gram] > 1
        ]


def share(part: float, whole: float) -> float:
    """Divide; of nothing, a share is 0."""
    return part / whole if whole else 0.0
