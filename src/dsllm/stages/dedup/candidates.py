"""Which documents may be alike: those that share a band, and what hangs together by shared bands.

Bands go to partitions by their hash, and equal ones meet there. A document is tied to the first of each of
its groups; what is tied together, directly or not, is a component. Whatever a document may be compared with
is in its component, so components are judged one by one. A tie says nothing about likeness yet.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsllm.io.atomic import write_atomic
from dsllm.stages.dedup.bands import band_keys
from dsllm.stages.dedup.corpus import Chunk, Corpus, Numbers
from dsllm.stages.dedup.groups_compiled import UNTIED, flatten, join
from dsllm.stages.dedup.shuffle import Shuffle, find_firsts, find_repeated
from dsllm.text.shingles import Hashes, fmix64

KEY = np.dtype([("key", "<u8"), ("number", "<i8")])
MEMBER = np.dtype([("root", "<i8"), ("number", "<i8")])
# What a partition takes in memory for a band of a document, sorting included.
BYTES_PER_BAND = 4 * KEY.itemsize
_WITHOUT_HASH = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class SendBands:
    """The task: send the bands of a chunk's documents to their partitions; copies have none."""

    corpus: Corpus
    bands: tuple[int, int]
    shuffle: Shuffle
    is_copy: Path

    releases_lock = True

    def __call__(self, chunk: Chunk) -> None:
        """Write the chunk's file."""
        end_number = chunk.first_number + chunk.end_row - chunk.first_row
        has_words = self.corpus.chunk_rows(chunk)["n_words"] > 0
        is_copy = np.memmap(self.is_copy, bool, "r")[chunk.first_number : end_number]
        places = np.flatnonzero(has_words & ~is_copy)
        signatures = self.corpus.signatures(chunk.source_index)[chunk.first_row + places]
        keys = band_keys(signatures, *self.bands)
        records = np.empty(keys.shape, KEY)
        records["key"], records["number"] = keys, chunk.first_number + places
        self.shuffle.write(chunk.index, keys.ravel(), records.ravel())


@dataclass(frozen=True)
class FindTies:
    """The task: tie each document of a partition's groups to the first, as (first, other) rows.

    Documents from number `n_own` on are indexed: groups of these alone need no comparing.
    """

    shuffle: Shuffle
    n_own: int

    releases_lock = True

    def __call__(self, partition: int) -> Path:
        """Return the file."""
        path = self.shuffle.scratch / f"ties-{partition:05d}"
        if path.exists():
            return path
        records = self.shuffle.read(partition)
        records = records[find_repeated(np.ascontiguousarray(records["key"]))]
        records = records[np.lexsort((records["number"], records["key"]))]
        first_of, is_first = find_firsts(records["key"])
        ties = np.stack([records["number"][first_of], records["number"]], axis=1)[~is_first]
        ties = ties[ties[:, 0] < self.n_own]
        write_atomic(path, np.unique(ties, axis=0).tobytes())
        return path


def join_ties(path: Path, n_documents: int, files: Iterator[Path]) -> NDArray[np.int64]:
    """Join what is tied: gives the root of each document, UNTIED for those that are alone.

    The array is mapped from a file, 8 bytes a document, so that the system can put it out of memory.
    """
    parents = np.memmap(path, np.int64, "w+", shape=(max(1, n_documents),))
    parents[:] = UNTIED
    for file in files:
        join(parents, np.fromfile(file, "<i8").reshape(-1, 2))
    flatten(parents)
    return parents


def send_components(corpus: Corpus, roots: NDArray[np.int64], shuffle: Shuffle) -> None:
    """Send the members of components to their partitions."""
    for chunk in corpus.chunks():
        numbers = tied_numbers(roots, chunk)
        records = np.empty(len(numbers), MEMBER)
        records["root"], records["number"] = roots[numbers], numbers
        shuffle.write(chunk.index, hash_roots(records["root"]), records)


def hash_roots(roots: Numbers) -> Hashes:
    """Hash roots: says which partition a component goes to."""
    return fmix64(roots.astype(np.uint64) + _WITHOUT_HASH)


def tied_numbers(roots: NDArray[np.int64], chunk: Chunk) -> Numbers:
    """List the documents of a chunk that are in a component."""
    end_number = chunk.first_number + chunk.end_row - chunk.first_row
    return chunk.first_number + np.flatnonzero(roots[chunk.first_number : end_number] != UNTIED)
