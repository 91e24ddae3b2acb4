"""Cut out of a document what the string level has found."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from dsllm.io.documents import parse_line
from dsllm.io.edit import replace_text
from dsllm.stages.dedup.repeats import RANGES
from dsllm.stages.dedup.string_definition import Ranges
from dsllm.text.scan import (
    LETTER,
    MARK,
    character_classes,
    find_words,
    has_words,
    paragraph_spans,
)
from dsllm.workers.passes import column_path, read_column

KINDS = ("spans", "lines", "paragraphs")


@dataclass
class Cuts:
    """What is cut of one document: ranges of its words, lines and paragraphs, by number, ascending."""

    spans: Ranges = field(default_factory=list)
    lines: Ranges = field(default_factory=list)
    paragraphs: Ranges = field(default_factory=list)


def read_cuts(scratch: Path, source_index: int, first_row: int, end_row: int) -> dict[int, Cuts]:
    """Read the cuts of some rows of a source, by row; documents of which nothing is cut are not in it."""
    found: dict[int, Cuts] = {}
    for kind in KINDS:
        if not column_path(scratch, source_index, f"{kind}-cut-row").exists():
            continue
        rows, firsts, ends = (
            read_column(scratch, source_index, f"{kind}-{column}", dtype) for column, dtype in RANGES.items()
        )
        own = slice(*np.searchsorted(rows, [first_row, end_row]).tolist())
        for row, *places in zip(rows[own].tolist(), firsts[own].tolist(), ends[own].tolist(), strict=True):
            getattr(found.setdefault(row, Cuts()), kind).append(tuple(places))
    return found


def cut_line(line: bytes, cuts: Cuts, *, text_field: str, punctuation: bool) -> bytes | None:
    """Cut a document's text where it stands in the document's line; None where no word is left of it.

    All else in the line stays byte for byte, but where the text's field cannot be found by its plain name.
    """
    fields = parse_line(line, text_field)
    assert isinstance(fields, dict)  # the first pass has read it
    text = cut_text(fields[text_field], cuts, punctuation=punctuation)
    if not has_words(text, punctuation=punctuation):
        return None
    return replace_text(line, text_field, text)


def cut_text(text: str, cuts: Cuts, *, punctuation: bool = False) -> str:
    """Cut words, lines and paragraphs out of a text.

    Words go from the start of the first up to the next one that stays, lines with their line feed,
    paragraphs with the blank lines behind them. Where letters would meet, a space keeps them apart.
    """
    ranges: Ranges = []
    if cuts.spans:
        words = find_words(text, punctuation=punctuation)
        ranges += _pick((found.start() for found in words), cuts.spans, len(text))
    if cuts.lines:
        ends = (found.end() for found in re.finditer("\n", text))
        ranges += _pick(chain([0], ends), cuts.lines, len(text))
    if cuts.paragraphs:
        spans = paragraph_spans(text)
        ranges += _pick((start for start, _ in spans), cuts.paragraphs, len(text))
    return "".join(_apart(_outside(text, sorted(ranges))))


def _pick(starts: Iterable[int], numbered: Ranges, end: int) -> Ranges:
    """Say where ranges of pieces are, given where the pieces start: a long text has too many for a list."""
    numbers = np.array(numbered).ravel()
    found = np.full(len(numbers), end)
    place = 0
    for number, start in enumerate(starts):
        while place < len(numbers) and numbers[place] == number:
            found[place] = start
            place += 1
    return [(int(first), int(last)) for first, last in found.reshape(-1, 2)]


def _outside(text: str, ranges: Ranges) -> Iterator[str]:
    place = 0
    for start, end in ranges:
        if start > place:
            yield text[place:start]
        place = max(place, end)
    if place < len(text):
        yield text[place:]


def _apart(pieces: Iterator[str]) -> Iterator[str]:
    before = ""
    for piece in pieces:
        if before and _is_in_word(before[-1]) and _is_in_word(piece[0]):
            yield " "
        yield piece
        before = piece


def _is_in_word(character: str) -> bool:
    return int(character_classes()[ord(character)]) in (LETTER, MARK)
