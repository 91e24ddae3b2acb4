"""The first pass of training: count the pieces of all documents in bounded memory.

Each thread has a table; a full one becomes a run on disk. Every SEGMENT_BATCHES batches all tables become
runs, and a state file says how far the input is counted: a killed run goes on from there. In the end the
runs are added up; when there are more distinct pieces than the memory has room for, the rarest are left out.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.config import RunOptions
from dsllm.io.atomic import write_atomic
from dsllm.io.documents import BadLine, Batch
from dsllm.io.sources import Source, read_batches
from dsllm.progress import Bar, Reporter
from dsllm.stages.tokenize.config import TokenizeTrainConfig
from dsllm.stages.tokenize.sampling import Read, draw, read_documents
from dsllm.stages.tokenize.statistics import MAX_SOURCES, OTHERS
from dsllm.text.piece_counts import N_PARTS, Pieces, PieceTable, Run, add_up, write_run
from dsllm.workers.pool import map_ordered

SEGMENT_BATCHES = 512  # 2 GiB
SAMPLE_BYTES = 50_000  # of each source, encoded again to tell bytes per token
SAMPLE_SOURCES = 40
_STATE = "counted.json"
_TABLES_FRAC, _BYTES_PER_SLOT = 0.25, 48  # of the memory: for all tables; for a byte of a piece in training
_MOST = 1 << 16


@dataclass
class Tally:
    """What is known of the documents so far, and where in the input that is."""

    end_source: int = 0
    n_batches: int = 0  # of that source
    n_documents: int = 0
    n_bytes: int = 0
    taken: dict[str, list[int]] = field(default_factory=dict)  # documents and bytes by source
    sample: dict[str, list[str]] = field(default_factory=dict)
    bad: list[tuple[int, str]] = field(default_factory=list)  # source, the line for the file of skipped ones
    runs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Counted:
    """What a task tells of a batch; `pieces` where it cannot keep a table."""

    source_index: int
    n_read: int
    n_documents: int
    n_bytes: int
    taken: dict[str, list[int]]
    sample: dict[str, list[str]]
    bad: list[BadLine]
    pieces: Pieces | None


@dataclass(frozen=True)
class CountPieces:
    """The task: counts the pieces of a batch into the table of its thread."""

    config: TokenizeTrainConfig
    parts: dict[str, float] | None  # of each source, to take
    scratch: Path
    table_bytes: int
    keeps_tables: bool
    prefix: str

    releases_lock = True

    def __call__(self, batch: Batch) -> Counted:
        """Count a batch."""
        read = read_documents(batch, self.config)
        texts, is_taken = read.texts, draw(read, self.parts, self.config.seed, batch.source_index)
        table = self._table if self.keeps_tables else PieceTable(self.table_bytes + 32 * len(texts.data))
        while not table.count(texts, is_taken):
            self._spill(table)
        sizes = np.diff(texts.ends, prepend=0)
        return Counted(
            source_index=batch.source_index,
            n_read=batch.n_read,
            n_documents=len(sizes),
            n_bytes=int(sizes.sum()),
            taken=_by_source(read, is_taken, sizes),
            sample=_sample(read, is_taken),
            bad=read.bad,
            pieces=None if self.keeps_tables else table.take(),
        )

    def start(self) -> None:
        """Make what the threads share, before there are any."""
        assert self._shared

    def end(self) -> list[Pieces]:
        """Give what the tables hold and empty them."""
        return [table.take() for table in self._shared["tables"] if table.n_pieces]

    @property
    def runs(self) -> list[str]:
        """The names of the runs that were written."""
        names: list[str] = self._shared["runs"]
        return names

    @cached_property
    def _shared(self) -> dict[str, Any]:
        return {
            "local": threading.local(), "lock": threading.Lock(), "tables": [], "runs": [], "number": count()
        }  # fmt: skip

    @property
    def _table(self) -> PieceTable:
        shared = self._shared
        if not hasattr(shared["local"], "table"):
            shared["local"].table = PieceTable(self.table_bytes)
            with shared["lock"]:
                shared["tables"].append(shared["local"].table)
        table: PieceTable = shared["local"].table
        return table

    def _spill(self, table: PieceTable) -> None:
        with self._shared["lock"]:
            name = f"run-{self.prefix}-{next(self._shared['number']):05d}"
            self._shared["runs"].append(name)
        write_run(self.scratch / name, table.take())


@dataclass(frozen=True)
class Corpus:
    """All pieces of the documents, or as many as fit, and what was read and left out."""

    pieces: Pieces
    tally: Tally
    is_sample: bool
    n_pieces: int  # all of them
    n_left_out: int
    n_bytes_left_out: int  # of text


@dataclass
class PieceCount:
    """The pass over all sources."""

    config: TokenizeTrainConfig
    sources: list[Source]
    parts: dict[str, float] | None
    scratch: Path
    options: RunOptions
    reporter: Reporter
    bar: Bar
    tally: Tally = field(default_factory=Tally)

    def run(self) -> Corpus:
        """Count the pieces of all documents."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._take_up()
        batches = self._remaining()
        held: list[Pieces] = []
        n_segments = 0
        while (first := next(batches, None)) is not None:
            if held:  # there is more than one segment
                self._keep(held)
            held = self._count(chain([first], islice(batches, SEGMENT_BATCHES - 1)), f"{n_segments:05d}")
            n_segments += 1
        return self._fit(self._add_up(held))

    def _take_up(self) -> None:
        """Read what an interrupted run left."""
        path = self.scratch / _STATE
        if path.exists():
            self.tally = Tally(**json.loads(path.read_bytes()))
            self.tally.bad = [(index, line) for index, line in self.tally.bad]
        for left in self.scratch.glob("run-*"):
            if left.name not in self.tally.runs:
                left.unlink()

    def _remaining(self) -> Iterator[Batch]:
        end_source, n_done = self.tally.end_source, self.tally.n_batches
        for source in self.sources:
            if source.index < end_source:
                self.bar.advance(source.n_bytes)
                continue
            is_copy = source.stream_hash is not None and source.path != "-"
            for number, read in enumerate(read_batches(source)):
                batch = replace(read, source="standard input") if is_copy else read
                if source.index == end_source and number < n_done:
                    self.bar.advance(batch.n_read)
                else:
                    yield batch

    def _count(self, batches: Iterator[Batch], prefix: str) -> list[Pieces]:
        """Count a segment; returns what the tables hold in the end."""
        config, options = self.config, self.options
        keeps_tables = options.engine != "ray"
        n_tables = options.n_workers if keeps_tables else 1
        table_bytes = int(config.working_bytes * _TABLES_FRAC) // n_tables
        run_prefix = f"{len(self.tally.runs):05d}-{prefix}"
        task = CountPieces(config, self.parts, self.scratch, table_bytes, keeps_tables, run_prefix)
        if keeps_tables:
            task.start()
        table = PieceTable(table_bytes) if not keeps_tables else None
        results = map_ordered(task, batches, options=options, describe=Batch.describe, reporter=self.reporter)
        with closing(results):  # type: ignore[type-var]  # a generator: the workers stop when this does
            for counted in results:
                self._note(counted)
                while table is not None and counted.pieces is not None and not table.add(counted.pieces):
                    self._write_run(table.take())
                self.bar.advance(counted.n_read)
        if table is not None:
            return [table.take()]
        self.tally.runs += task.runs
        return task.end()

    def _note(self, counted: Counted) -> None:
        tally = self.tally
        if counted.source_index != tally.end_source:
            tally.end_source, tally.n_batches = counted.source_index, 0
        tally.n_batches += 1
        tally.n_documents += counted.n_documents
        tally.n_bytes += counted.n_bytes
        for name, (n_documents, n_bytes) in counted.taken.items():
            known_name = name if name in tally.taken or len(tally.taken) < MAX_SOURCES else OTHERS
            sums = tally.taken.setdefault(known_name, [0, 0])
            sums[0] += n_documents
            sums[1] += n_bytes
        tally.bad += [(counted.source_index, line.to_json().decode()) for line in counted.bad]
        for name, texts in counted.sample.items():
            if name in tally.sample or len(tally.sample) < SAMPLE_SOURCES:
                known = tally.sample.setdefault(name, [])
                n_bytes = sum(len(text.encode()) for text in known)
                for text in texts:
                    if n_bytes < SAMPLE_BYTES:
                        known.append(text)
                        n_bytes += len(text.encode())

    def _keep(self, held: list[Pieces]) -> None:
        """Write what is counted as runs, and how far that is."""
        for pieces in held:
            self._write_run(pieces)
        write_atomic(self.scratch / _STATE, json.dumps(asdict(self.tally)).encode())

    def _write_run(self, pieces: Pieces) -> None:
        name = f"run-{len(self.tally.runs):05d}"
        write_run(self.scratch / name, pieces)
        self.tally.runs.append(name)

    def _add_up(self, held: list[Pieces]) -> Iterator[Pieces]:
        """Yield all pieces, a part at a time, in order."""
        if len(held) == 1 and not self.tally.runs:
            yield held[0]
            return
        runs = [Run(self.scratch / name) for name in self.tally.runs]
        for part in range(N_PARTS):
            yield add_up([*(run.read(part) for run in runs), *(pieces.part(part) for pieces in held)])

    def _fit(self, parts: Iterator[Pieces]) -> Corpus:
        """Leave out the rarest pieces, by the hash among equally rare ones, where they are too many."""
        slots_of, n_pieces = np.zeros(_MOST + 1, np.int64), 0
        summed: list[Pieces | None] = []
        for number, part in enumerate(parts):
            slots_of += np.bincount(np.minimum(part.counts, _MOST), part.sizes + 1, _MOST + 1).astype(
                np.int64
            )
            n_pieces += len(part.counts)
            if self.tally.runs:
                write_run(self.scratch / f"sum-{number:05d}", part)
            summed.append(None if self.tally.runs else part)
        limit = self.config.working_bytes // _BYTES_PER_SLOT
        slots_from = np.append(np.cumsum(slots_of[::-1])[::-1], 0)
        least = max(1, int(np.flatnonzero(slots_from <= limit)[0]) - 1)  # some of it fit, all above
        share = (limit - slots_from[least + 1]) / max(1, slots_of[least])
        cut = np.uint64(min(share, 1 - 2**-53) * 2.0**64)
        kept, n_bytes = [], 0
        for number, held in enumerate(summed):
            part = held or Run(self.scratch / f"sum-{number:05d}").read(number)
            is_in = (part.counts > least) | ((part.counts == least) & (part.hashes < cut))
            if slots_from[0] > limit:
                n_bytes += int((part.sizes * part.counts)[~is_in].sum())
                part = part.chosen(is_in)
            kept.append(part)
        pieces = Pieces.join(kept)
        n_left_out = n_pieces - len(pieces.counts)
        return Corpus(pieces, self.tally, self.parts is not None, n_pieces, n_left_out, n_bytes)


def _by_source(read: Read, is_taken: NDArray[np.bool_], sizes: NDArray[np.int64]) -> dict[str, list[int]]:
    """Add up the documents and bytes that are taken."""
    sums: dict[str, list[int]] = {}
    for name, is_in, size in zip(read.names, is_taken.tolist(), sizes.tolist(), strict=True):
        if is_in:
            of_source = sums.setdefault(name, [0, 0])
            of_source[0] += 1
            of_source[1] += size
    return sums


def _sample(read: Read, is_taken: NDArray[np.bool_]) -> dict[str, list[str]]:
    """Take the first documents of each source."""
    sample: dict[str, list[str]] = {}
    n_bytes: dict[str, int] = {}
    for place in np.flatnonzero(is_taken).tolist():
        name = read.names[place]
        taken = n_bytes.get(name, 0)
        if taken < SAMPLE_BYTES and (name in sample or len(sample) < SAMPLE_SOURCES):
            text = read.texts.text(place)[:SAMPLE_BYTES]
            sample.setdefault(name, []).append(text)
            n_bytes[name] = taken + len(text.encode())
    return sample
