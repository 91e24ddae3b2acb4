"""Second pass: the whole sets of shingles of those documents that may be alike, and of no others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.io.atomic import atomic_file
from dsllm.io.documents import Batch, parse_line
from dsllm.stages.dedup.candidates import tied_numbers
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import Corpus, Numbers
from dsllm.stages.dedup.sign import make_shingler
from dsllm.text.json_lines import find_lines
from dsllm.text.shingles import Hashes
from dsllm.text.texts import Texts
from dsllm.workers.passes import Columns, column_path, read_column

COLUMNS = ("sets", "set_sizes")
# A row a document that is needed, a file a source: its row and its line.
NEEDED = np.dtype([("row", "<i8"), ("line", "<i8")])


def write_needed(corpus: Corpus, roots: NDArray[np.int64], more: Numbers) -> list[int]:
    """Write which documents are needed, those in components and `more`; returns the sources that have any."""
    parts: dict[int, list[NDArray[Any]]] = {}
    for chunk in corpus.chunks():
        end_number = chunk.first_number + chunk.end_row - chunk.first_row
        wanted = more[(more >= chunk.first_number) & (more < end_number)]
        numbers = np.union1d(tied_numbers(roots, chunk), wanted)
        rows = numbers - int(corpus.starts[chunk.source_index])
        needed = np.empty(len(rows), NEEDED)
        needed["row"], needed["line"] = rows, corpus.rows(chunk.source_index)["line"][rows]
        if len(rows):
            parts.setdefault(chunk.source_index, []).append(needed)
    for source_index, found in parts.items():
        with atomic_file(column_path(corpus.scratch, source_index, "needed")) as file:
            file.writelines(part.tobytes() for part in found)
    return list(parts)


@dataclass(frozen=True)
class FindSets:
    """The task: the distinct shingles of each document of a batch that is needed, and how many they are."""

    scratch: Path
    config: DedupConfig

    releases_lock = True

    def __call__(self, batch: Batch) -> Columns:
        """Give the arrays by the names in COLUMNS."""
        needed = read_column(self.scratch, batch.source_index, "needed", NEEDED)["line"]
        starts, ends = find_lines(batch.lines)
        first, end = np.searchsorted(needed, [batch.first_line, batch.first_line + len(ends)])
        texts = []
        for place in (needed[first:end] - batch.first_line).tolist():
            fields = parse_line(batch.lines[starts[place] : ends[place]], self.config.text_field)
            assert isinstance(fields, dict)  # the first pass has read it
            texts.append(fields[self.config.text_field].encode())
        hashes, set_ends = make_shingler(self.config).shingle_sets(Texts.join(texts))
        return Columns({"sets": hashes, "set_sizes": np.diff(set_ends, prepend=0)})


def gather_sets(corpus: Corpus, numbers: Numbers) -> tuple[Hashes, Numbers]:
    """Read the sets of some documents one after another; returns them and where each one ends."""
    sizes = np.zeros(len(numbers), np.int64)
    found: list[tuple[NDArray[np.intp], Hashes, Numbers, Numbers]] = []
    for source_index, places, rows in corpus.by_source(numbers):
        needed = corpus.column(source_index, "needed", NEEDED)["row"]
        ends = np.cumsum(corpus.column(source_index, "set_sizes", "<i8"))
        own_ends = ends[np.searchsorted(needed, rows)]
        own_starts = np.where(rows == needed[0], 0, ends[np.searchsorted(needed, rows) - 1])
        sizes[places] = own_ends - own_starts
        found.append((places, corpus.column(source_index, "sets", "<u8"), own_starts, own_ends))
    ends = np.cumsum(sizes)
    sets = np.empty(int(ends[-1]) if len(ends) else 0, np.uint64)
    for places, source_sets, own_starts, own_ends in found:
        for place, start, end in zip(places.tolist(), own_starts.tolist(), own_ends.tolist(), strict=True):
            sets[ends[place] - (end - start) : ends[place]] = source_sets[start:end]
    return sets, ends
