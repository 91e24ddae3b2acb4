"""What the string level cuts, in plain Python: the definition for `strings.py`.

The texts are those of the documents that stay, in the order of the corpus. What occurs first stays; an
earlier occurrence counts whether or not it is cut itself, which loses nothing: what it consists of occurred
earlier still.
"""

import re
from collections.abc import Sequence

from dsllm.text.scan import line_spans, paragraph_spans, words

Ranges = list[tuple[int, int]]  # (first, end), ascending, apart from each other


def repeated_words(texts: Sequence[Sequence[str]], n_span_words: int) -> list[Ranges]:
    """Find the words of each text that are in an N-gram which occurred earlier.

    One that overlaps the first occurrence, in the same text, does not count: "a a a" repeats nothing.
    """
    first_of: dict[tuple[str, ...], tuple[int, int]] = {}
    found = []
    for number, text in enumerate(texts):
        is_cut = [False] * len(text)
        for place in range(len(text) - n_span_words + 1):
            span = tuple(text[place : place + n_span_words])
            first_number, first_place = first_of.setdefault(span, (number, place))
            if first_number != number or place - first_place >= n_span_words:
                is_cut[place : place + n_span_words] = [True] * n_span_words
        found.append(_ranges(is_cut))
    return found


def repeated_lines(texts: Sequence[str]) -> list[Ranges]:
    """Find the lines of each text whose normal form occurred earlier."""
    return _repeated([[text[start:end] for start, end in line_spans(text)] for text in texts])


def repeated_paragraphs(texts: Sequence[str]) -> list[Ranges]:
    """Find the paragraphs of each text whose normal form occurred earlier."""
    return _repeated([[text[start:end] for start, end in paragraph_spans(text)] for text in texts])


def normal_form(text: str) -> str:
    """Give the folded words of a line or paragraph, joined by a space, with each decimal digit as 0.

    Source: Wenzek et al. 2020 (CCNet), arXiv:1911.00359, whose paragraphs are lines; accents stay here.
    """
    return re.sub(r"\d", "0", " ".join(words(text, fold=True)))


def _repeated(texts: Sequence[Sequence[str]]) -> list[Ranges]:
    seen = {""}  # what has no words is never cut
    found = []
    for text in texts:
        is_cut = []
        for piece in text:
            form = normal_form(piece)
            is_cut.append(bool(form) and form in seen)
            seen.add(form)
        found.append(_ranges(is_cut))
    return found


def _ranges(is_cut: Sequence[bool]) -> Ranges:
    edges = [
        place
        for place, (before, own) in enumerate(zip([False, *is_cut], [*is_cut, False], strict=True))
        if before != own
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))
