"""Passes over the same sources, one after another, for stages that must see all before they can answer.

A pass maps a task over the batches of all sources. `write_columns` keeps what it finds as files of numbers in
a scratch folder, whole or absent per source, so that a killed run goes on with the next source. Standard
input can be read once, so the first pass copies it into the scratch folder for the others.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dsllm.config import RunOptions
from dsllm.io.atomic import atomic_file, write_atomic
from dsllm.io.documents import BadLine, Batch
from dsllm.io.sources import Source, read_batches, total_bytes
from dsllm.progress import Bar, Reporter
from dsllm.workers.pool import map_ordered

T = TypeVar("T")
R = TypeVar("R")

SPOOL = "stdin.jsonl"
_BAD_LINES = "bad"


def map_by_source(
    task: Callable[[Batch], R],
    sources: Sequence[Source],
    *,
    read: Callable[[Source], Iterator[Batch]] = read_batches,
    options: RunOptions,
    reporter: Reporter,
    bar: Bar,
) -> Iterator[tuple[Source, Iterator[R]]]:
    """Yield each source with the results of its batches, in order; a source without a line has none.

    The results of one source must be used up before the next one is asked for.
    """
    by_index = {source.index: source for source in sources}
    batches = (batch for source in sources for batch in _with_end(source, read))
    results = map_ordered(_Marked(task), batches, options=options, describe=Batch.describe, reporter=reporter)
    with closing(results):  # type: ignore[type-var]  # a generator: the workers stop when the caller does
        for index, group in groupby(results, key=itemgetter(0)):
            yield by_index[index], _without_ends(group, bar)


@dataclass(frozen=True)
class Pass:
    """What all passes of a run share: who works, who is told, and where intermediate files go.

    Sources that are read stay in memory for the next pass, in order, while they fit into `hold_bytes`.
    """

    scratch: Path
    options: RunOptions
    reporter: Reporter
    hold_bytes: int = 0
    _held: dict[int, list[Batch]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def map(
        self, task: Callable[[Batch], R], sources: Sequence[Source], *, label: str
    ) -> Iterator[tuple[Source, Iterator[R]]]:
        """Yield each source with the results of its batches: see `map_by_source`."""
        with self.reporter.bar(label, total=total_bytes(sources), unit="bytes") as bar:
            yield from map_by_source(
                task, sources, read=self._batches, options=self.options, reporter=self.reporter, bar=bar
            )

    def map_items(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield what `task` makes of each item, in order: for work on what earlier passes have written."""
        yield from map_ordered(task, items, options=self.options, reporter=self.reporter)

    def do(self, task: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Do `task` on every item; returns what it made of them, in order."""
        return list(self.map_items(task, items))

    def write_columns(
        self,
        task: Callable[[Batch], "Columns"],
        sources: Sequence[Source],
        names: Sequence[str],
        *,
        label: str,
        mark: str = "done",
    ) -> None:
        """Run `task` over every batch and append its columns to files, one per source and name.

        `mark` names the files that say that a source is done: another one for another pass.
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        to_do = [source for source in sources if not column_path(self.scratch, source.index, mark).exists()]
        for source, parts in self.map(task, to_do, label=label):
            with ExitStack() as stack:
                files = {
                    name: stack.enter_context(atomic_file(column_path(self.scratch, source.index, name)))
                    for name in (*names, f"{mark}-{_BAD_LINES}")
                }
                for columns in parts:
                    for name in names:
                        files[name].write(np.ascontiguousarray(columns.arrays[name]).data)
                    files[f"{mark}-{_BAD_LINES}"].write(b"".join(line.to_json() for line in columns.bad))
            write_atomic(column_path(self.scratch, source.index, mark), b"")

    def spooled(self, sources: Sequence[Source]) -> list[Source]:
        """The same sources for the passes after the first: the copy in place of standard input."""
        path = self.scratch / SPOOL
        return [
            replace(source, path=str(path), n_bytes=path.stat().st_size) if source.path == "-" else source
            for source in sources
        ]

    def _batches(self, source: Source) -> Iterator[Batch]:
        """Read a source, or take it from memory; copy it where it cannot be read again."""
        if source.index in self._held:
            yield from self._held[source.index]
            return
        room = self.hold_bytes - sum(len(batch.lines) for held in self._held.values() for batch in held)
        held: list[Batch] | None = []
        for batch in self._spooling(source) if source.path == "-" else read_batches(source):
            room -= len(batch.lines)
            if room < 0:
                held = None
            if held is not None:
                held.append(batch)
            yield batch
        if held is not None:
            self._held[source.index] = held

    def _spooling(self, source: Source) -> Iterator[Batch]:
        with atomic_file(self.scratch / SPOOL) as file:
            for batch in read_batches(source):
                file.write(batch.lines)
                yield batch


@dataclass(frozen=True)
class Columns:
    """What a task found in one batch: numbers by name, to be appended, and lines that are no documents."""

    arrays: Mapping[str, NDArray[Any]]
    bad: list[BadLine] = field(default_factory=list)


def column_path(scratch: Path, source_index: int, name: str) -> Path:
    """Name the file of one source's column."""
    return scratch / f"{source_index:05d}.{name}"


def read_column(
    scratch: Path, source_index: int, name: str, dtype: DTypeLike, width: int = 1
) -> NDArray[Any]:
    """Map a column for reading: shape (n,), or (n, width) for a width other than one."""
    path = column_path(scratch, source_index, name)
    with path.open("rb") as file:
        if path.stat().st_size:
            column = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype)
        else:
            column = np.zeros(0, dtype)  # an empty file cannot be mapped
    return column if width == 1 else column.reshape(len(column) // max(1, width), width)


def read_bad_lines(scratch: Path, source_index: int, mark: str = "done") -> bytes:
    """Give the lines that were set aside in a source, as lines of JSON."""
    return column_path(scratch, source_index, f"{mark}-{_BAD_LINES}").read_bytes()


def _with_end(source: Source, read: Callable[[Source], Iterator[Batch]]) -> Iterator[Batch]:
    """Mark a source's end by an empty batch, so that one without a line is met too."""
    yield from read(source)
    yield Batch(source.index, source.path, 0, b"", 0)


@dataclass(frozen=True)
class _Marked(Generic[R]):
    """The task, its result marked with its source and with the bytes read for it; None at a source's end."""

    task: Callable[[Batch], R]

    @property
    def releases_lock(self) -> bool:
        """As the task does: see `workers/pool.py`."""
        return getattr(self.task, "releases_lock", False)

    def __call__(self, batch: Batch) -> tuple[int, int, R | None]:
        is_end = batch.first_line == 0
        return batch.source_index, batch.n_read, None if is_end else self.task(batch)


def _without_ends(group: Iterator[tuple[int, int, R | None]], bar: Bar) -> Iterator[R]:
    for _, n_read, result in group:
        bar.advance(n_read)
        if result is not None:
            yield result
