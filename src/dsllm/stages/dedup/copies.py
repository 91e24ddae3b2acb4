"""Documents of the same words: all but the first, in the order of the right to stay, are copies.

All documents may be copies of one, and are then in one partition: nothing here holds more of a partition than
the digests that it has, and the records of a chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.io.atomic import atomic_file
from dsllm.stages.dedup.corpus import Chunk, Corpus
from dsllm.stages.dedup.groups_compiled import mark_seen
from dsllm.stages.dedup.shuffle import Shuffle, find_firsts, make_seen, places_of_repeated

RECORD = np.dtype([("digest", "<u8", 2), ("priority", "<f8"), ("number", "<i8")])
COPY = np.dtype([("number", "<i8"), ("kept", "<i8")])
# What a partition takes in memory for a document, sorting included.
BYTES_PER_DOCUMENT = 4 * RECORD.itemsize
ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class SendDigests:
    """The task: send the digests of a chunk's documents to their partitions."""

    corpus: Corpus
    shuffle: Shuffle

    releases_lock = True

    def __call__(self, chunk: Chunk) -> None:
        """Write the chunk's file."""
        rows = self.corpus.chunk_rows(chunk)
        records = np.empty(len(rows), RECORD)
        records["digest"], records["priority"] = rows["digest"], rows["priority"]
        records["number"] = chunk.first_number + np.arange(len(rows))
        self.shuffle.write(chunk.index, np.ascontiguousarray(rows["digest"][:, 0]), records)


@dataclass(frozen=True)
class FindCopies:
    """The task: find the copies among the documents of a partition, written as COPY rows by number.

    Documents from number `n_own` on are indexed: they stay, copies or not.
    """

    shuffle: Shuffle
    n_own: int

    releases_lock = True

    def __call__(self, partition: int) -> Path:
        """Return the file."""
        path = self.shuffle.scratch / f"copies-of-{partition:05d}"
        if path.exists():
            return path
        keepers = self._find_keepers(partition)
        low, high = keepers["digest"].T.copy()
        with atomic_file(path) as file:
            for records in self._repeated(partition):
                places = np.searchsorted(low, records["digest"][:, 0])
                while (differs := high[places] != records["digest"][:, 1]).any():  # of two with one half
                    places[differs] += 1
                is_copy = keepers["number"][places] != records["number"]
                is_copy &= records["number"] < self.n_own
                copies = np.empty(int(is_copy.sum()), COPY)
                copies["number"] = records["number"][is_copy]
                copies["kept"] = keepers["number"][places[is_copy]]
                file.write(copies.data)
        return path

    def _find_keepers(self, partition: int) -> NDArray[Any]:
        """Give the record of each digest, in order, that stays; of those that occur once a few, by chance."""
        found = np.zeros(0, RECORD)
        waiting: list[NDArray[Any]] = []
        for records in self._repeated(partition):
            waiting.append(_take_keepers(records))
            if sum(map(len, waiting)) > len(found):  # seldom, so that each record is sorted a few times
                found = _take_keepers(np.concatenate([found, *waiting]))
                waiting.clear()
        return _take_keepers(np.concatenate([found, *waiting]))

    def _repeated(self, partition: int) -> Iterator[NDArray[Any]]:
        """Read the records of a partition, by chunk and number, whose digest occurs again."""
        seen = self._seen(partition)
        for records in self.shuffle.slices(partition):
            yield records[places_of_repeated(np.ascontiguousarray(records["digest"][:, 0]), seen)]

    def _seen(self, partition: int) -> NDArray[np.uint8]:
        seen = make_seen(self.shuffle.n_records(partition))
        for records in self.shuffle.slices(partition):
            mark_seen(np.ascontiguousarray(records["digest"][:, 0]), seen)
        return seen


def read_copies(path: Path) -> Iterator[NDArray[Any]]:
    """Read the COPY rows of a file, some at a time."""
    with path.open("rb") as file:
        while len(rows := np.fromfile(file, COPY, ROWS_AT_ONCE)):
            yield rows


def _take_keepers(records: NDArray[Any]) -> NDArray[Any]:
    """Sort records by digest, and take of equal ones that with the most right to stay."""
    low, high = records["digest"].T
    records = records[np.lexsort((records["number"], -records["priority"], high, low))]
    return records[find_firsts(records["digest"])[1]]
