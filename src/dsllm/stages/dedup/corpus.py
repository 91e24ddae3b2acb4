"""All documents of all sources, numbered through, as the first pass left them on disk.

Behind the sources of the run come those that an index of an earlier run describes (index.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import DTypeLike, NDArray

from dsllm.io.atomic import write_atomic
from dsllm.io.sources import Source
from dsllm.workers.passes import column_path, read_column

Numbers = NDArray[np.int64]

# A row a document. `priority` orders the right to stay, the greatest first (of indexed documents it is
# infinite); `digest` is that of the words.
DOCUMENT = np.dtype(
    [
        ("line", "<i8"),
        ("n_bytes", "<i8"),
        ("n_words", "<i8"),
        ("n_id_bytes", "<i8"),
        ("priority", "<f8"),
        ("digest", "<u8", 2),
    ]
)
# A row a sampled shingle of a document: its hash and the document's line.
SAMPLE = np.dtype([("hash", "<u8"), ("line", "<i8")])
CHUNK_DOCUMENTS = 1 << 14


@dataclass(frozen=True)
class Chunk:
    """Some rows of one source: the unit of work between the passes. Where it is cut depends on them alone."""

    index: int
    source_index: int
    first_row: int
    end_row: int
    first_number: int

    def describe(self) -> str:
        """Name the place for messages."""
        return f"documents {self.first_number:,} to {self.first_number + self.end_row - self.first_row:,}"


@dataclass(frozen=True)
class Place:
    """Where the columns of a source lie, and how notes and messages name the source."""

    folder: Path
    index: int
    path: str


@dataclass(frozen=True)
class Corpus:
    """Reads rows, signatures and ids; holds nothing but where each source's numbers start.

    `n_documents` is a number per source. The last `n_indexed` sources are described by indices: their
    documents take part, come first and stay, and are not read.
    """

    scratch: Path
    places: tuple[Place, ...]
    n_documents: tuple[int, ...]
    n_hashes: int
    n_indexed: int = 0

    @classmethod
    def open(
        cls, scratch: Path, sources: Sequence[Source], n_hashes: int, indexed: Sequence[Place] = ()
    ) -> "Corpus":
        """Look at what the first pass has written, and at what lies in indices."""
        places = (*(Place(scratch, source.index, source.path) for source in sources), *indexed)
        sizes = [column_path(place.folder, place.index, "documents").stat().st_size for place in places]
        n_documents = tuple(size // DOCUMENT.itemsize for size in sizes)
        return cls(scratch, places, n_documents, n_hashes, len(indexed))

    @property
    def own(self) -> "Corpus":
        """The documents that this run reads, by the same numbers."""
        n_own = len(self.places) - self.n_indexed
        return replace(self, places=self.places[:n_own], n_documents=self.n_documents[:n_own], n_indexed=0)

    @property
    def n_own(self) -> int:
        """How many documents this run reads: those of greater numbers are indexed."""
        return sum(self.n_documents[: len(self.places) - self.n_indexed])

    def __len__(self) -> int:
        return sum(self.n_documents)

    @property
    def paths(self) -> tuple[str, ...]:
        """The names of the sources."""
        return tuple(place.path for place in self.places)

    @property
    def starts(self) -> Numbers:
        """The number of each source's first document, and the number of all at the end."""
        return np.cumsum((0, *self.n_documents))

    def chunks(self) -> list[Chunk]:
        """Cut all rows into chunks, in order."""
        found: list[Chunk] = []
        for source_index, (start, n_rows) in enumerate(zip(self.starts, self.n_documents, strict=False)):
            for first in range(0, n_rows, CHUNK_DOCUMENTS):
                end = min(first + CHUNK_DOCUMENTS, n_rows)
                found.append(Chunk(len(found), source_index, first, end, int(start) + first))
        return found

    def chunks_by_source(self) -> list[list[Chunk]]:
        """Give the chunks of each source, in order."""
        found: list[list[Chunk]] = [[] for _ in self.places]
        for chunk in self.chunks():
            found[chunk.source_index].append(chunk)
        return found

    def column(self, source_index: int, name: str, dtype: DTypeLike, width: int = 1) -> NDArray[Any]:
        """Map a column of a source: see `read_column`."""
        place = self.places[source_index]
        return read_column(place.folder, place.index, name, dtype, width)

    def rows(self, source_index: int) -> NDArray[Any]:
        """Map the rows (DOCUMENT) of a source."""
        return self.column(source_index, "documents", DOCUMENT)

    def chunk_rows(self, chunk: Chunk) -> NDArray[Any]:
        """Read the rows of a chunk."""
        return np.array(self.rows(chunk.source_index)[chunk.first_row : chunk.end_row])

    def signatures(self, source_index: int) -> NDArray[np.uint32]:
        """Map the signatures of a source, shape (n_documents, n_hashes)."""
        return self.column(source_index, "signatures", "<u4", self.n_hashes)

    def by_source(self, numbers: Numbers) -> Iterator[tuple[int, NDArray[np.intp], Numbers]]:
        """Group numbers by source: yields (source, places in `numbers`, rows in the source)."""
        starts = self.starts
        sources = np.searchsorted(starts, numbers, side="right") - 1
        for source_index in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source_index)
            yield source_index, places, numbers[places] - starts[source_index]

    def gather_rows(self, numbers: Numbers) -> NDArray[Any]:
        """Read the rows of some documents."""
        gathered = np.empty(len(numbers), DOCUMENT)
        for source_index, places, rows in self.by_source(numbers):
            gathered[places] = self.rows(source_index)[rows]
        return gathered

    def gather_signatures(self, numbers: Numbers) -> NDArray[np.uint32]:
        """Read the signatures of some documents, shape (len(numbers), n_hashes)."""
        gathered = np.empty((len(numbers), self.n_hashes), np.uint32)
        for source_index, places, rows in self.by_source(numbers):
            gathered[places] = self.signatures(source_index)[rows]
        return gathered

    def identities(self, numbers: Numbers) -> list[Any]:
        """Read the ids of some documents; None where one has none."""
        found: list[Any] = [None] * len(numbers)
        for source_index, places, rows in self.by_source(numbers):
            ends = self._id_ends(source_index)
            ids = self.column(source_index, "ids", "u1")
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                start = int(ends[row - 1]) if row else 0
                found[place] = orjson.loads(ids[start : int(ends[row])].tobytes())
        return found

    def _id_ends(self, source_index: int) -> Numbers:
        path = column_path(self.scratch, source_index, "id_ends")
        if not path.exists():
            write_atomic(path, np.cumsum(self.rows(source_index)["n_id_bytes"]).tobytes())
        return read_column(self.scratch, source_index, "id_ends", "<i8")
