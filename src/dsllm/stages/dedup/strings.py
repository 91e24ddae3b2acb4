"""The string level: what occurs again within and across the documents that stay, to be cut out of them.

Spans (runs of words covered by repeated N-grams), lines and paragraphs, as `string_definition.py` says, up to
equal hashes of 64 bits. Two readings of the inputs at most:

1. The keys of all lines and paragraphs, and the minimisers of all N-grams: some 2 of `n_span_words / 2`
   words. Two equal N-grams have equal minimisers, so one whose minimiser occurs once occurs once.
2. The hashes of those N-grams whose minimiser occurs again.

What occurs again is found by partition (repeats.py). A killed run goes on from the last whole file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.io.atomic import atomic_file
from dsllm.io.documents import Batch, parse_line
from dsllm.io.sources import Source
from dsllm.stages.dedup.corpus import Corpus, Numbers
from dsllm.stages.dedup.repeats import Repeats, has_ranges, key_names, read_ranges
from dsllm.stages.dedup.strings_compiled import find_minimisers, find_spans, minimiser_words
from dsllm.text.json_lines import lines_of
from dsllm.text.scan import paragraph_spans
from dsllm.text.shingles import Hashes
from dsllm.text.texts import Texts
from dsllm.text.word_hashes_compiled import hash_normal_forms, hash_texts
from dsllm.workers.passes import Columns, Pass, column_path, read_column

MINIMISERS, SPANS, LINES, PARAGRAPHS = "minimisers", "spans", "lines", "paragraphs"
# A row a document that stays, a file a source: its line and its row.
STAYING = {"staying-line": "<i8", "staying-row": "<i8"}


@dataclass(frozen=True, kw_only=True)
class StringSettings:
    """What is cut, and what a word is in spans: lines and paragraphs are folded, without punctuation."""

    n_span_words: int | None = None
    lines: bool = False
    paragraphs: bool = False
    fold: bool = True
    punctuation: bool = False
    text_field: str = "text"
    memory_bytes: int = 2_000_000_000


def find_cuts(
    corpus: Corpus,
    stays: NDArray[np.bool_],
    settings: StringSettings,
    sources: Sequence[Source],
    work: Pass,
) -> None:
    """Write what is to be cut of each source's documents, for `cuts.read_cuts`.

    Args:
        corpus: what the first pass has written.
        stays: by document number: which documents take part; nothing is cut of the others.
        settings: what is looked for.
        sources: those of the corpus; standard input is read from its copy.
        work: the run's passes, with the scratch folder of the corpus.
    """
    sources = work.spooled(sources)
    _write_staying(corpus, stays)
    wholes = [name for name in (LINES, PARAGRAPHS) if getattr(settings, name)]
    names = ([MINIMISERS] if settings.n_span_words else []) + wholes
    if not names:
        return
    columns = [column for name in names for column in key_names(name)]
    work.write_columns(
        FindKeys(corpus.scratch, settings), sources, columns, label="dedup: strings", mark="strings-done"
    )
    for name in wholes:
        Repeats(corpus, name, width=1).find(work, settings.memory_bytes)
    if settings.n_span_words:
        Repeats(corpus, MINIMISERS, width=1, marks_first=True).find(work, settings.memory_bytes)
        work.write_columns(
            FindSpans(corpus.scratch, settings),
            [source for source in sources if has_ranges(corpus.scratch, source.index, MINIMISERS)],
            key_names(SPANS),
            label="dedup: spans",
            mark="spans-done",
        )
        Repeats(corpus, SPANS, width=settings.n_span_words).find(work, settings.memory_bytes)


def _write_staying(corpus: Corpus, stays: NDArray[np.bool_]) -> None:
    for source_index, start in enumerate(corpus.starts[:-1].tolist()):
        line_path, row_path = (column_path(corpus.scratch, source_index, name) for name in STAYING)
        if line_path.exists():
            continue
        with atomic_file(line_path) as line_file, atomic_file(row_path) as row_file:
            for chunk in corpus.chunks():
                if chunk.source_index != source_index:
                    continue
                rows = chunk.first_row + np.flatnonzero(
                    stays[start + chunk.first_row : start + chunk.end_row]
                )
                line_file.write(np.ascontiguousarray(corpus.rows(source_index)["line"][rows]).tobytes())
                row_file.write(rows.astype("<i8").tobytes())


@dataclass(frozen=True)
class _Staying:
    """The lines of a batch whose documents stay, and their rows."""

    lines: list[bytes]
    rows: Numbers

    @classmethod
    def of(cls, batch: Batch, scratch: Path) -> "_Staying":
        numbers, rows = (
            read_column(scratch, batch.source_index, name, dtype) for name, dtype in STAYING.items()
        )
        starts, ends = lines_of(batch)
        first, end = np.searchsorted(numbers, [batch.first_line, batch.first_line + len(ends)])
        places = (numbers[first:end] - batch.first_line).tolist()
        return cls([batch.lines[starts[place] : ends[place]] for place in places], np.array(rows[first:end]))

    def texts(self, text_field: str) -> list[str]:
        texts = []
        for line in self.lines:
            fields = parse_line(line, text_field)
            assert isinstance(fields, dict)  # the first pass has read it
            texts.append(fields[text_field])
        return texts


@dataclass(frozen=True)
class FindKeys:
    """The task: keys of minimisers, lines and paragraphs of the documents of a batch that stay."""

    scratch: Path
    settings: StringSettings

    releases_lock = True

    def __call__(self, batch: Batch) -> Columns:
        """Give the columns of all that the settings look for."""
        staying = _Staying.of(batch, self.scratch)
        texts = staying.texts(self.settings.text_field)
        arrays: dict[str, Any] = {}
        if self.settings.n_span_words:
            words, ends = _hash_words(texts, self.settings)
            room = _Room(len(words))
            n_span_words = self.settings.n_span_words
            n_found = find_minimisers(words, ends, n_span_words, minimiser_words(n_span_words), *room.arrays)
            arrays |= room.columns(MINIMISERS, n_found, staying.rows)
        if self.settings.lines:
            arrays |= _key_lines(texts, staying.rows)
        if self.settings.paragraphs:
            arrays |= _key_paragraphs(texts, staying.rows)
        return Columns(arrays)


@dataclass(frozen=True)
class FindSpans:
    """The task: the keys of those N-grams of a batch whose minimiser occurs again."""

    scratch: Path
    settings: StringSettings

    releases_lock = True

    def __call__(self, batch: Batch) -> Columns:
        """Give the columns of the N-grams."""
        n_span_words = self.settings.n_span_words
        assert n_span_words is not None
        staying = _Staying.of(batch, self.scratch)
        range_ends, firsts, lasts = read_ranges(self.scratch, batch.source_index, MINIMISERS, staying.rows)
        needed = np.flatnonzero(np.diff(range_ends, prepend=0))
        staying = _Staying([staying.lines[place] for place in needed.tolist()], staying.rows[needed])
        words, ends = _hash_words(staying.texts(self.settings.text_field), self.settings)
        room = _Room(len(words))
        n_found = find_spans(
            words, ends, n_span_words, minimiser_words(n_span_words),
            range_ends[needed], firsts, lasts, *room.arrays,
        )  # fmt: skip
        return Columns(room.columns(SPANS, n_found, staying.rows))


class _Room:
    """What the compiled loops fill: at most one entry a word."""

    def __init__(self, n_words: int) -> None:
        self.arrays = np.empty(n_words, np.uint64), np.empty(n_words, np.int64), np.empty(n_words, np.int32)

    def columns(self, name: str, n_found: int, rows: Numbers) -> dict[str, Any]:
        """Give what was filled, by the names of the columns."""
        keys, texts, places = (array[:n_found] for array in self.arrays)
        return dict(zip(key_names(name), (keys.copy(), rows[texts], places.copy()), strict=True))


def _hash_words(texts: Sequence[str], settings: StringSettings) -> tuple[Hashes, Numbers]:
    packed = Texts.join([text.encode() for text in texts])
    return hash_texts(packed, fold=settings.fold, punctuation=settings.punctuation)


def _key_lines(texts: Sequence[str], rows: Numbers) -> dict[str, Any]:
    """Hash the lines of texts: they touch, so the texts need only be cut at more places, without a copy."""
    packed = Texts.join([text.encode() for text in texts])
    n_bytes = int(packed.ends[-1]) if len(texts) else 0
    ends = np.union1d(np.flatnonzero(packed.data[:n_bytes] == ord("\n")) + 1, packed.ends)
    if len(ends) and ends[0] == 0:  # of empty texts, which have no lines
        ends = ends[1:]
    counts = np.diff(np.searchsorted(ends, packed.ends, side="right"), prepend=0)
    return _key_pieces(LINES, Texts(packed.data, ends), counts, rows)


def _key_paragraphs(texts: Sequence[str], rows: Numbers) -> dict[str, Any]:
    pieces: list[bytes] = []
    counts = np.zeros(len(texts), np.int64)
    for index, text in enumerate(texts):
        spans = paragraph_spans(text)
        counts[index] = len(spans)
        pieces.extend(text[start:end].encode() for start, end in spans)
    return _key_pieces(PARAGRAPHS, Texts.join(pieces), counts, rows)


def _key_pieces(name: str, pieces: Texts, counts: Numbers, rows: Numbers) -> dict[str, Any]:
    """Hash the pieces that have words, `counts` of each text; their place is their number in the text."""
    keys, n_words = hash_normal_forms(pieces)
    places = np.arange(len(pieces.ends)) - np.repeat(np.cumsum(counts) - counts, counts)
    has_words = n_words > 0
    found = keys[has_words], np.repeat(rows, counts)[has_words], places[has_words].astype(np.int32)
    return dict(zip(key_names(name), found, strict=True))
