"""Which of many keyed places in documents occur again: a shuffle from keys to partitions and back.

A task has written, for each source, the columns of `KEYS`: a key (a hash), the row of a document and a place
in it. Keys go to partitions by their hash; a partition says which places are marked; what it says goes back
to the sources as ranges of places (`RANGES`), by row and place. Every step writes files that are whole or
absent, and holds in memory a stretch of records, a partition, or what is marked in a chunk of documents.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.io.atomic import atomic_file, write_atomic
from dsllm.stages.dedup.corpus import Corpus, Numbers
from dsllm.stages.dedup.shuffle import Shuffle, count_partitions, find_firsts, find_repeated
from dsllm.workers.passes import Pass, column_path, read_column

KEYS = {"key": "<u8", "row": "<i8", "place": "<i4"}
RANGES = {"cut-row": "<i8", "cut-first": "<i4", "cut-end": "<i4"}
RECORD = np.dtype([("key", "<u8"), ("number", "<i8"), ("place", "<i4")])
STRETCH_RECORDS = 1 << 19
# What a partition takes in memory for a record, sorting included.
BYTES_PER_RECORD = 5 * RECORD.itemsize


def key_names(name: str) -> list[str]:
    """Name the columns that a task writes for `Repeats` of that name."""
    return [f"{name}-{column}" for column in KEYS]


@dataclass(frozen=True)
class Stretch:
    """Some records of one source: the unit of work on the way to the partitions."""

    index: int
    source_index: int
    first: int
    end: int


@dataclass(frozen=True)
class Repeats:
    """What is looked for among the places of one name.

    `width` is how far a place reaches: one that overlaps the first of its key is not marked. With
    `marks_first`, all places of a key that occurs twice are marked, however close.
    """

    corpus: Corpus
    name: str
    width: int
    marks_first: bool = False

    def find(self, work: Pass, memory_bytes: int) -> None:
        """Write the ranges of all sources; the columns that they come from are removed."""
        sources = range(len(self.corpus.paths))
        to_do = [source for source in sources if not self._column(source, "cut-row").exists()]
        if to_do:
            stretches = self._stretches()
            n_bytes = sum(stretch.end - stretch.first for stretch in stretches) * BYTES_PER_RECORD
            n_partitions = count_partitions(n_bytes, memory_bytes)
            shuffle = Shuffle(self.corpus.scratch, self.name, RECORD, len(stretches), n_partitions)
            to_send = [stretch for stretch in stretches if not shuffle.is_written(stretch.index)]
            work.do(_Send(self, shuffle), to_send)
            paths = work.do(_Mark(self, shuffle), range(n_partitions))
            work.do(_Return(self, tuple(paths)), to_do)
        for pattern in (f"{self.name}-[0-9]*", f"{self.name}-marked-*"):
            for path in list(self.corpus.scratch.glob(pattern)):
                path.unlink()
        for source in sources:
            for name in key_names(self.name):
                column_path(self.corpus.scratch, source, name).unlink(missing_ok=True)

    def _stretches(self) -> list[Stretch]:
        found: list[Stretch] = []
        for source in range(len(self.corpus.paths)):
            path = self._column(source, "key")
            n_records = path.stat().st_size // 8 if path.exists() else 0  # a source may have been passed over
            for first in range(0, n_records, STRETCH_RECORDS):
                found.append(Stretch(len(found), source, first, min(first + STRETCH_RECORDS, n_records)))
        return found

    def _column(self, source: int, column: str) -> Path:
        return column_path(self.corpus.scratch, source, f"{self.name}-{column}")


def has_ranges(scratch: Path, source_index: int, name: str) -> bool:
    """Tell whether anything is marked in a source."""
    path = column_path(scratch, source_index, f"{name}-cut-row")
    return path.exists() and path.stat().st_size > 0


def read_ranges(
    scratch: Path, source_index: int, name: str, rows: Numbers
) -> tuple[Numbers, NDArray[np.int32], NDArray[np.int32]]:
    """Read the ranges of some rows, ascending, of a source.

    Returns:
        (ends, firsts, lasts): where the ranges of each row end among all; where each begins, and ends.
    """
    row, first, last = (
        read_column(scratch, source_index, f"{name}-{column}", dtype) for column, dtype in RANGES.items()
    )
    starts, ends = np.searchsorted(row, rows), np.searchsorted(row, rows, side="right")
    counts = ends - starts
    ends_of_rows = np.cumsum(counts)
    places = np.repeat(starts - (ends_of_rows - counts), counts) + np.arange(counts.sum())
    return ends_of_rows, first[places], last[places]


@dataclass(frozen=True)
class _Send:
    """The task: send the records of a stretch to their partitions."""

    repeats: Repeats
    shuffle: Shuffle

    releases_lock = True

    def __call__(self, stretch: Stretch) -> None:
        corpus, name = self.repeats.corpus, self.repeats.name
        records = np.empty(stretch.end - stretch.first, RECORD)
        key, row, place = (
            read_column(corpus.scratch, stretch.source_index, f"{name}-{column}", dtype)[
                stretch.first : stretch.end
            ]
            for column, dtype in KEYS.items()
        )
        records["key"], records["place"] = key, place
        records["number"] = row + corpus.starts[stretch.source_index]
        self.shuffle.write(stretch.index, key, records)


@dataclass(frozen=True)
class _Mark:
    """The task: mark places of a partition; two files hold the numbers and places, ascending."""

    repeats: Repeats
    shuffle: Shuffle

    releases_lock = True

    def __call__(self, partition: int) -> Path:
        path = self.shuffle.scratch / f"{self.repeats.name}-marked-{partition:05d}"
        if path.exists():
            return path
        records = self.shuffle.read(partition)
        records = records[find_repeated(np.ascontiguousarray(records["key"]))]
        records = records[np.lexsort((records["place"], records["number"], records["key"]))]
        marked = records[self._is_marked(records)]
        marked = marked[np.lexsort((marked["place"], marked["number"]))]
        write_atomic(path.with_suffix(".places"), marked["place"].tobytes())
        write_atomic(path, marked["number"].tobytes())
        return path

    def _is_marked(self, records: NDArray[Any]) -> NDArray[np.bool_]:
        key, number, place = records["key"], records["number"], records["place"]
        first_of, is_first = find_firsts(key)
        if self.repeats.marks_first:
            is_alone: NDArray[np.bool_] = is_first & np.append(
                is_first[1:], np.ones(min(1, len(records)), bool)
            )
            return ~is_alone
        overlaps: NDArray[np.bool_] = place.astype(np.int64) - place[first_of] < self.repeats.width
        overlaps &= number == number[first_of]
        return ~overlaps  # the first one overlaps itself


@dataclass(frozen=True)
class _Return:
    """The task: bring what is marked in a source together, as ranges."""

    repeats: Repeats
    paths: Sequence[Path]

    releases_lock = True

    def __call__(self, source_index: int) -> None:
        corpus, name = self.repeats.corpus, self.repeats.name
        with ExitStack() as stack:
            files = [  # closed in reverse: the first one is the last to appear
                stack.enter_context(
                    atomic_file(column_path(corpus.scratch, source_index, f"{name}-{column}"))
                )
                for column in RANGES
            ]
            for chunk in corpus.chunks():
                if chunk.source_index != source_index:
                    continue
                end_number = chunk.first_number + chunk.end_row - chunk.first_row
                parts = [_read_marked(path, chunk.first_number, end_number) for path in self.paths]
                numbers = np.concatenate([part[0] for part in parts])
                places = np.concatenate([part[1] for part in parts])
                order = np.lexsort((places, numbers))
                rows = numbers[order] - int(corpus.starts[source_index])
                for file, column in zip(files, _merge(rows, places[order], self.repeats.width), strict=True):
                    file.write(column.tobytes())


def _read_marked(path: Path, first_number: int, end_number: int) -> tuple[Numbers, NDArray[np.int32]]:
    if not path.stat().st_size:
        return np.zeros(0, np.int64), np.zeros(0, np.int32)
    numbers = np.memmap(path, "<i8", "r")
    first, end = np.searchsorted(numbers, [first_number, end_number])
    places = np.memmap(path.with_suffix(".places"), "<i4", "r")
    return np.array(numbers[first:end]), np.array(places[first:end])


def _merge(rows: Numbers, places: NDArray[np.int32], width: int) -> tuple[NDArray[Any], ...]:
    """Join the ranges [place, place + width) that touch or overlap: (rows, firsts, ends)."""
    begins = np.ones(len(rows), bool)
    begins[1:] = (rows[1:] != rows[:-1]) | (np.diff(places) > width)
    lasts = np.append(begins[1:], np.ones(min(1, len(rows)), bool))
    return rows[begins], places[begins], places[lasts] + np.int32(width)
