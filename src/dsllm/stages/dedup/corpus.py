"""All documents of all sources, numbered through, as the first pass left them on disk."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.io.sources import Source
from dsllm.stages.dedup.sign import DOCUMENT
from dsllm.text.shingles import Hashes
from dsllm.workers.passes import read_column

Numbers = NDArray[np.int64]


class Corpus:
    """Reads signatures, shingles and ids by a document's number.

    The rows (DOCUMENT, 48 bytes each) and two offsets (16 bytes) of every document are in memory; signatures,
    shingles and ids are mapped from their files.
    """

    def __init__(self, scratch: Path, sources: Sequence[Source], n_hashes: int) -> None:
        self.sources = sources
        tables = [read_column(scratch, source.index, "documents", DOCUMENT) for source in sources]
        self.rows: NDArray[Any] = np.concatenate(tables)
        self.starts = [0, *itertools.accumulate(len(table) for table in tables)]
        self._signatures = [
            read_column(scratch, source.index, "signatures", "<u4", n_hashes) for source in sources
        ]
        self._shingles = [read_column(scratch, source.index, "shingles", "<u8") for source in sources]
        self._ids = [read_column(scratch, source.index, "ids", "u1") for source in sources]
        self._shingle_ends = np.cumsum(self.rows["n_shingles"])  # counted from the first source's first
        self._id_ends = np.cumsum(self.rows["n_id_bytes"])
        self._starts = np.array(self.starts)

    def __len__(self) -> int:
        return len(self.rows)

    def source_of(self, numbers: Numbers) -> Numbers:
        """Tell the index of each document's source."""
        return np.searchsorted(self._starts, numbers, side="right") - 1

    def signatures(self, numbers: Numbers) -> NDArray[np.uint32]:
        """Gather signatures, shape (len(numbers), n_hashes)."""
        sources = self.source_of(numbers)
        gathered = np.empty((len(numbers), self._signatures[0].shape[1]), np.uint32)
        for source in np.unique(sources):
            member = sources == source
            gathered[member] = self._signatures[source][numbers[member] - self.starts[source]]
        return gathered

    def shingles(self, number: int) -> Hashes:
        """Give a document's set of shingles."""
        return self._cut(self._shingles, self._shingle_ends, "n_shingles", number)

    def identity(self, number: int) -> Any:
        """Give a document's id; None where it has none."""
        return orjson.loads(self._cut(self._ids, self._id_ends, "n_id_bytes", number).tobytes())

    def _cut(self, columns: list[NDArray[Any]], ends: Numbers, length: str, number: int) -> NDArray[Any]:
        source = int(self.source_of(np.array([number]))[0])
        first = self.starts[source]
        before = int(ends[first - 1]) if first else 0
        end = int(ends[number]) - before
        return columns[source][end - int(self.rows[length][number]) : end]
