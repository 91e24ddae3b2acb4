"""Records on their way from chunks to partitions, through files: what bounds the memory of a run.

Each chunk writes one file with its records by partition; a partition reads its slice of every file. All
records of a key are in one partition, in the order of the chunks.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dsllm.io.atomic import atomic_file
from dsllm.stages.dedup.groups_compiled import mark_seen, select_repeated, sort_by_part
from dsllm.text.shingles import Hashes

N_TASKS_AT_ONCE = 4  # that share the memory, whatever the number of workers
_WORTH_BYTES = 1 << 22  # less is not worth a partition of its own, if only for workers to share the work
_N_SHARED = 8


def count_partitions(n_bytes: int, memory_bytes: int) -> int:
    """Choose into how many partitions so many bytes are cut.

    Those at work at once fit the memory, and there are some for the workers to share.
    """
    return max(1, -(-n_bytes * N_TASKS_AT_ONCE // memory_bytes), min(_N_SHARED, n_bytes // _WORTH_BYTES))


@dataclass(frozen=True)
class Shuffle:
    """Files `NAME-00000` in a folder, one a chunk, of records of whole 32-bit words."""

    scratch: Path
    name: str
    dtype: DTypeLike
    n_chunks: int
    n_partitions: int

    def write(self, chunk: int, keys: Hashes, records: NDArray[Any]) -> None:
        """Write the records of a chunk; the hash of its key says which partition a record goes to."""
        partitions = ((keys >> np.uint64(32)) * np.uint64(self.n_partitions)) >> np.uint64(32)
        n_words = np.dtype(self.dtype).itemsize // 4
        words = np.ascontiguousarray(records).view(np.uint32).reshape(len(records), n_words)
        ends, sorted_words = np.empty(self.n_partitions + 1, np.int64), np.empty_like(words)
        sort_by_part(words, partitions.view(np.int64), ends, sorted_words)
        with atomic_file(self._path(chunk)) as file:
            file.write(ends.data)
            file.write(sorted_words.data)

    def is_written(self, chunk: int) -> bool:
        """Tell whether a chunk's file is there, from a run that was interrupted."""
        return self._path(chunk).exists()

    def read(self, partition: int) -> NDArray[Any]:
        """Read the records of a partition."""
        return np.concatenate([np.zeros(0, self.dtype), *self.slices(partition)])

    def remove(self) -> None:
        """Remove the files: what they held is known."""
        for chunk in range(self.n_chunks):
            self._path(chunk).unlink(missing_ok=True)

    def n_records(self, partition: int) -> int:
        """Count the records of a partition."""
        return sum(end - first for _, first, end in self._places(partition))

    def slices(self, partition: int) -> Iterator[NDArray[Any]]:
        """Read the records of a partition, those of a chunk at a time."""
        dtype = np.dtype(self.dtype)
        head = 8 * (self.n_partitions + 1)
        for path, first, end in self._places(partition):
            yield np.fromfile(path, dtype, end - first, offset=head + first * dtype.itemsize)

    def _places(self, partition: int) -> Iterator[tuple[Path, int, int]]:
        """Say where the records of a partition are: file, first, end."""
        for chunk in range(self.n_chunks):
            with self._path(chunk).open("rb") as file:
                first, end = np.frombuffer(os.pread(file.fileno(), 16, 8 * partition), "<i8").tolist()
            yield self._path(chunk), first, end

    def _path(self, chunk: int) -> Path:
        return self.scratch / f"{self.name}-{chunk:05d}"


def find_firsts(keys: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of keys in order, (n,) or (n, width): the place of each one's first equal, and whether it is that."""
    is_first = np.ones(len(keys), bool)
    differs = keys[1:] != keys[:-1]
    is_first[1:] = differs if differs.ndim == 1 else differs.any(axis=1)
    return np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0)), is_first


def find_repeated(keys: Hashes) -> NDArray[np.int64]:
    """Give the places of the keys that occur more than once, in order; of others a few, by chance.

    Sorting what is left gives the groups: most keys occur once, and are not worth sorting.
    """
    seen = make_seen(len(keys))
    mark_seen(keys, seen)
    return places_of_repeated(keys, seen)


def places_of_repeated(keys: Hashes, seen: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Give the places of the keys whose slot of `seen` was met more than once, in order."""
    places = np.empty(len(keys), np.int64)
    return places[: select_repeated(keys, seen, places)].copy()


def make_seen(n_keys: int) -> NDArray[np.uint8]:
    """Make the table by which `mark_seen` and `select_repeated` tell so many keys apart."""
    return np.zeros(1 << max(6, int(4 * n_keys).bit_length()), np.uint8)
