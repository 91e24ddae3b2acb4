"""Features made of the terms of `terms.py` and of raw lines, in plain Python: the definition of each.

These are what datatrove 0.10.1 computes for its Gopher and FineWeb filters, whose bounds are known to work: a
raw line has its white space, blank ones left out, and the term is spaCy's word. English only; where no
character is between words these say nothing.
"""

from collections.abc import Callable, Sequence
from functools import partial

from dsllm.text import scan
from dsllm.text.page import Page, share
from dsllm.text.stop_words import STOP_WORDS
from dsllm.text.terms import SYMBOL, sentences, term_classes

STOPS = tuple(".?!。．！？｡؟۔।॥።։។၊။")  # what ends a sentence, in any script
SHORT_RAW_LINE_CHARS = 30


def n_term_words(page: Page) -> float:
    """Number of terms that are not symbols only."""
    return len(_term_words(page))


def mean_term_chars(page: Page) -> float:
    """Characters per term that is not symbols only."""
    words = _term_words(page)
    return share(sum(map(len, words)), len(words))


def hash_per_term(page: Page) -> float:
    """Hash signs per term."""
    return share(page.text.count("#") + page.text.count("＃"), len(page.terms))


def ellipsis_per_term(page: Page) -> float:
    """Threes of stops, and characters for an ellipsis, per term."""
    return share(page.text.count("...") + page.text.count("…"), len(page.terms))


def alphabetic_term_frac(page: Page) -> float:
    """Share of the terms that have a letter; marks have none."""
    return share(sum(any(map(str.isalpha, term)) for term in page.terms), len(page.terms))


def n_stop_terms(page: Page) -> float:
    """Number of different stop words of English in lower case."""
    return len(STOP_WORDS["en"].intersection(page.terms))


def line_feed_per_term(page: Page) -> float:
    """Line feeds per term."""
    return share(page.text.count("\n"), len(page.terms))


def n_line_sentences(page: Page) -> float:
    """Number of sentences, a line that is not blank having at least one."""
    return sum(map(sentences, scan.lines(page.text)))


def duplicate_raw_line_frac(page: Page) -> float:
    """Share of the raw lines that an earlier one equals."""
    return share(len(page.raw_lines) - len(set(page.raw_lines)), len(page.raw_lines))


def duplicate_raw_line_char_frac(page: Page) -> float:
    """Share of the characters that stand in raw lines which an earlier one equals."""
    return share(_duplicate_chars(page.raw_lines), len(page.text))


def duplicate_raw_line_text_frac(page: Page) -> float:
    """The same out of the characters that are no line feeds."""
    return share(_duplicate_chars(page.raw_lines), len(page.text) - page.text.count("\n"))


def stop_raw_line_frac(page: Page) -> float:
    """Share of the raw lines that end in a full stop, a question or exclamation mark of any script."""
    return share(sum(line.endswith(STOPS) for line in page.raw_lines), len(page.raw_lines))


def short_raw_line_frac(page: Page) -> float:
    """Share of the raw lines of at most 30 characters."""
    return share(sum(len(line) <= SHORT_RAW_LINE_CHARS for line in page.raw_lines), len(page.raw_lines))


def top_term_char_frac(page: Page, n: int) -> float:
    """Share of the characters in the most frequent n-gram of terms, at all its places.

    The terms are counted with a space between them, so the share is cut at 1. Of equally frequent ones the
    first counts, even if it occurs once.
    """
    counts: dict[tuple[str, ...], int] = {}
    for gram in _grams(page.terms, n):
        counts[gram] = counts.get(gram, 0) + 1
    if not counts:
        return 0.0
    top = max(counts, key=counts.__getitem__)
    return min(1.0, share(len(" ".join(top)) * counts[top], len(page.text)))


def duplicate_term_char_frac(page: Page, n: int) -> float:
    """Share of the characters in n-grams of terms that have occurred before.

    Such an n-gram is counted and jumped over; those that begin within it have not occurred.
    """
    seen: set[tuple[str, ...]] = set()
    place = n_chars = 0
    grams = _grams(page.terms, n)
    while place < len(grams):
        if grams[place] in seen:
            n_chars += sum(map(len, grams[place]))
            place += n
        else:
            seen.add(grams[place])
            place += 1
    return share(n_chars, len(page.text))


def _term_words(page: Page) -> list[str]:
    classes = term_classes()
    return [term for term in page.terms if not all(int(classes[ord(each)]) & SYMBOL for each in term)]


def _grams(terms: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(terms[at : at + n]) for at in range(len(terms) - n + 1)]


def _duplicate_chars(parts: Sequence[str]) -> int:
    return sum(map(len, parts)) - sum(map(len, set(parts)))


TERM_FEATURES: dict[str, Callable[[Page], float]] = {
    **{
        feature.__name__: feature
        for feature in (
            *(n_term_words, mean_term_chars, hash_per_term, ellipsis_per_term, alphabetic_term_frac),
            *(n_stop_terms, line_feed_per_term, n_line_sentences, duplicate_raw_line_frac),
            *(duplicate_raw_line_char_frac, duplicate_raw_line_text_frac, stop_raw_line_frac),
            *(short_raw_line_frac,),
        )
    },
    **{f"top_{n}_term_char_frac": partial(top_term_char_frac, n=n) for n in (2, 3, 4)},
    **{f"duplicate_{n}_term_char_frac": partial(duplicate_term_char_frac, n=n) for n in range(5, 11)},
}
