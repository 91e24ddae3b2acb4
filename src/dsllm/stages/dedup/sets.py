"""Second pass: the whole sets of shingles of those documents that may be alike, and of no others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.io.atomic import atomic_file
from dsllm.io.documents import Batch, parse_line
from dsllm.stages.dedup.candidates import tied_numbers
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import Chunk, Corpus, Numbers
from dsllm.stages.dedup.sign import make_shingler
from dsllm.text.json_lines import lines_of, read_texts
from dsllm.text.shingles import Hashes
from dsllm.text.texts import Texts
from dsllm.workers.passes import Columns, column_path, read_column

COLUMNS = ("sets", "set_sizes")
# A row a document that is needed, a file a source: its row and its line.
NEEDED = np.dtype([("row", "<i8"), ("line", "<i8")])


def write_needed(corpus: Corpus, roots: NDArray[np.int64], more: Numbers) -> list[int]:
    """Write which documents are needed, those in components and `more`; returns the sources that have any."""

    def choose(chunk: Chunk) -> Numbers:
        end_number = chunk.first_number + chunk.end_row - chunk.first_row
        wanted = more[(more >= chunk.first_number) & (more < end_number)]
        return np.union1d(tied_numbers(roots, chunk), wanted)

    return write_chosen(corpus.own, choose, "needed")


def write_chosen(corpus: Corpus, choose: Callable[[Chunk], Numbers], name: str) -> list[int]:
    """Write the documents that are chosen in each chunk to columns; returns the sources that have any."""
    found = []
    for source_index, chunks in groupby(corpus.chunks(), key=attrgetter("source_index")):
        n_chosen = 0
        with atomic_file(column_path(corpus.scratch, source_index, name)) as file:
            for chunk in chunks:
                rows = choose(chunk) - chunk.first_number + chunk.first_row
                needed = np.empty(len(rows), NEEDED)
                needed["row"], needed["line"] = rows, corpus.rows(source_index)["line"][rows]
                file.write(needed.data)
                n_chosen += len(rows)
        if n_chosen:
            found.append(source_index)
    return found


@dataclass(frozen=True)
class FindSets:
    """The task: the distinct shingles of each document of a batch that is chosen, and how many they are.

    `chosen` names the columns that say which ones are.
    """

    scratch: Path
    config: DedupConfig
    chosen: str = "needed"

    releases_lock = True

    def __call__(self, batch: Batch) -> Columns:
        """Give the arrays by the names in COLUMNS."""
        needed = read_column(self.scratch, batch.source_index, self.chosen, NEEDED)["line"]
        starts, ends = lines_of(batch)
        first, end = np.searchsorted(needed, [batch.first_line, batch.first_line + len(ends)])
        places = needed[first:end] - batch.first_line
        texts = self._read(batch.lines, starts[places], ends[places])
        hashes, set_ends = make_shingler(self.config).shingle_sets(texts)
        return Columns({"sets": hashes, "set_sizes": np.diff(set_ends, prepend=0)})

    def _read(self, lines: bytes, starts: Numbers, ends: Numbers) -> Texts:
        text_field = self.config.text_field
        if found := read_texts(lines, text_field, bounds=(starts, ends)):
            return found.texts
        texts = []
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            fields = parse_line(lines[start:end], text_field)
            assert isinstance(fields, dict)  # the first pass has read it
            texts.append(fields[text_field].encode())
        return Texts.join(texts)


def gather_sets(corpus: Corpus, numbers: Numbers) -> tuple[Hashes, Numbers]:
    """Read the sets of some documents one after another; returns them and where each one ends.

    Of indexed documents there are the lower halves of the hashes: see `index.py`.
    """
    sizes = np.zeros(len(numbers), np.int64)
    found: list[tuple[NDArray[np.intp], NDArray[Any], Numbers, Numbers]] = []
    for source_index, places, rows in corpus.by_source(numbers):
        source_sets, ends, at = _find_places(corpus, source_index, rows)
        own_ends, own_starts = ends[at], np.where(at == 0, 0, ends[at - 1])
        sizes[places] = own_ends - own_starts
        found.append((places, source_sets, own_starts, own_ends))
    ends = np.cumsum(sizes)
    sets = np.empty(int(ends[-1]) if len(ends) else 0, np.uint64)
    for places, source_sets, own_starts, own_ends in found:
        for place, start, end in zip(places.tolist(), own_starts.tolist(), own_ends.tolist(), strict=True):
            sets[ends[place] - (end - start) : ends[place]] = source_sets[start:end]
    return sets, ends


def _find_places(
    corpus: Corpus, source_index: int, rows: Numbers
) -> tuple[NDArray[Any], NDArray[Any], Numbers]:
    """Give the sets of a source, where each ends, and which of them are those of some rows."""
    if source_index >= len(corpus.places) - corpus.n_indexed:  # all sets are there, a row a set
        sets, ends = (
            corpus.column(source_index, "sets", "<u4"),
            corpus.column(source_index, "set_ends", "<i8"),
        )
        return sets, ends, rows
    needed = corpus.column(source_index, "needed", NEEDED)["row"]
    ends = np.cumsum(corpus.column(source_index, "set_sizes", "<i8"))
    return corpus.column(source_index, "sets", "<u8"), ends, np.searchsorted(needed, rows)


def count_shingles(corpus: Corpus, roots: NDArray[np.int64], needed: Sequence[int]) -> int:
    """Count the shingles of the needed sets of the run's sources, and of the indexed ones in components."""
    n_shingles = sum(corpus.column(index, "sets", "<u8").size for index in needed)
    for chunk in corpus.chunks()[len(corpus.own.chunks()) :]:
        rows = tied_numbers(roots, chunk) - chunk.first_number + chunk.first_row
        ends = corpus.column(chunk.source_index, "set_ends", "<i8")
        n_shingles += int((ends[rows] - np.where(rows == 0, 0, ends[rows - 1])).sum())
    return n_shingles
