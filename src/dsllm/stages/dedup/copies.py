"""Documents of the same words: all but the first, in the order of the right to stay, are copies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsllm.io.atomic import write_atomic
from dsllm.stages.dedup.corpus import Chunk, Corpus
from dsllm.stages.dedup.shuffle import Shuffle, find_firsts, find_repeated

RECORD = np.dtype([("digest", "<u8", 2), ("priority", "<f8"), ("number", "<i8")])
COPY = np.dtype([("number", "<i8"), ("kept", "<i8")])
# What a partition takes in memory for a document, sorting included.
BYTES_PER_DOCUMENT = 4 * RECORD.itemsize


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
        records = self.shuffle.read(partition)
        records = records[find_repeated(np.ascontiguousarray(records["digest"][:, 0]))]
        low, high = records["digest"].T
        records = records[np.lexsort((records["number"], -records["priority"], high, low))]
        first_of, is_first = find_firsts(records["digest"])
        goes = ~is_first & (records["number"] < self.n_own)
        copies = np.empty(int(goes.sum()), COPY)
        copies["number"] = records["number"][goes]
        copies["kept"] = records["number"][first_of[goes]]
        write_atomic(path, np.sort(copies, order="number").tobytes())
        return path
