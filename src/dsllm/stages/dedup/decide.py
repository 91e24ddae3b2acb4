"""From signatures to verdicts: copies, components of what may be alike, and what a judge says of them.

Every step is a map over chunks of documents or over partitions of their records; what it finds goes to files
in the scratch folder, whole or absent, so a run that was interrupted takes up where it stopped. The number of
partitions follows from `--memory`, and nothing in the result from the number of partitions.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dsllm.io.atomic import write_atomic
from dsllm.io.sources import Source
from dsllm.stages.dedup import candidates, copies, error, sets
from dsllm.stages.dedup.bands import band_keys, choose_bands
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import CHUNK_DOCUMENTS, SAMPLE, Corpus
from dsllm.stages.dedup.groups_compiled import UNTIED
from dsllm.stages.dedup.judge import MAX_LISTED, Judged, find_repeated_keys, judge
from dsllm.stages.dedup.shuffle import N_TASKS_AT_ONCE, Shuffle, count_partitions
from dsllm.workers.passes import Pass

T = TypeVar("T")
R = TypeVar("R")

STAYS, EXACT, NEAR = 0, 1, 2
LEVEL_NAMES = {EXACT: "exact", NEAR: "near"}
# A row a document: how it goes, the number of the document that stays for it (-1: it stays itself), likeness.
VERDICT = np.dtype([("level", "u1"), ("kept", "<i8"), ("similarity", "<f8")])
NEAR_TWIN = np.dtype([("number", "<i8"), ("kept", "<i8"), ("similarity", "<f8")])

BYTES_PER_MEMBER = 512  # of a component, besides its signature and its set
BYTES_PER_BAND, KEY_BYTES = 32, 8  # of a member, while it is judged


@dataclass(frozen=True)
class Decision:
    """All verdicts, by document number, and what was found on the way.

    `copies` are files of COPY rows; `roots` has the component of each document, and is empty when near
    duplicates were not asked for.
    """

    verdicts: NDArray[Any]
    copies: list[Path]
    roots: NDArray[np.int64]
    n_compared: int = 0
    n_unlisted: int = 0
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class Decide:
    """Takes a corpus that the first pass has signed to its verdicts."""

    corpus: Corpus
    config: DedupConfig
    sources: list[Source]
    work: Pass

    def __call__(self) -> Decision:
        """Judge every document."""
        verdicts = np.memmap(
            self.corpus.scratch / "verdicts", VERDICT, "w+", shape=(max(1, len(self.corpus)),)
        )
        verdicts["kept"] = -1
        removed = self._find_copies()
        for found in chain.from_iterable(map(copies.read_copies, removed)):
            verdicts["kept"][found["number"]] = found["kept"]
            verdicts["level"][found["number"]] = EXACT
            verdicts["similarity"][found["number"]] = 1.0
        if self.config.level == "exact" or not self.corpus.n_own:
            return Decision(verdicts, removed, np.zeros(0, np.int64))
        write_atomic(self.corpus.scratch / "is-copy", (verdicts["level"] == EXACT).tobytes())
        roots = candidates.join_ties(self.corpus.scratch / "roots", len(self.corpus), self._find_ties())
        pairs = error.take_pairs(self._draw_pairs() if self.config.estimate_error else [])
        likely = error.are_likely(pairs, self.corpus, self.config)
        n_compared = n_unlisted = 0
        for path in self._judge(roots, np.unique([pairs["a"][likely], pairs["b"][likely]])):
            twins = np.fromfile(path, NEAR_TWIN)
            verdicts["level"][twins["number"]] = NEAR
            verdicts["kept"][twins["number"]] = twins["kept"]
            verdicts["similarity"][twins["number"]] = twins["similarity"]
            compared, unlisted = np.fromfile(path.with_suffix(".counts"), "<i8").tolist()
            n_compared, n_unlisted = n_compared + compared, n_unlisted + unlisted
        if n_unlisted:
            self.work.reporter.say(
                f"dsllm: {n_unlisted:,} entries of buckets with more than {MAX_LISTED:,} unlike "
                "documents were not listed: some near duplicates of those may stay"
            )
        for found in chain.from_iterable(map(copies.read_copies, removed)):
            _follow(verdicts, found["number"])
        return Decision(
            verdicts, removed, roots, n_compared, n_unlisted, self._estimate(pairs, likely, verdicts)
        )

    def _draw_pairs(self) -> list[Path]:
        n_bytes = sum(
            self.corpus.column(index, "samples", SAMPLE).nbytes for index in range(len(self.corpus.places))
        )
        n_partitions = self.n_partitions(n_bytes * error.SORT_FACTOR)
        shuffle = self.shuffle("samples", error.MEETING, n_partitions)
        self._send(error.SendSamples(self.corpus, shuffle, self.corpus.scratch / "is-copy"), shuffle)
        return list(self.map(error.DrawPairs(self.corpus, self.config, shuffle), range(n_partitions)))

    def _estimate(
        self, pairs: NDArray[Any], likely: NDArray[np.bool_], verdicts: NDArray[Any]
    ) -> dict[str, Any] | None:
        if not self.config.estimate_error:
            return None
        bands = choose_bands(self.config)
        found = error.compare(pairs, likely, self.corpus, verdicts, bands)
        threshold, seed = self.config.threshold, self.config.seed
        return {
            "precision": error.check_removed(self.corpus, verdicts, NEAR, threshold, seed),
            **error.summarise(found, threshold, bands, seed),
        }

    def _find_copies(self) -> list[Path]:
        n_partitions = self.n_partitions(len(self.corpus) * copies.BYTES_PER_DOCUMENT)
        shuffle = self.shuffle("digests", copies.RECORD, n_partitions)
        self._send(copies.SendDigests(self.corpus, shuffle), shuffle)
        return list(self.map(copies.FindCopies(shuffle, self.corpus.n_own), range(n_partitions)))

    def _find_ties(self) -> Iterator[Path]:
        bands = choose_bands(self.config)
        n_partitions = self.n_partitions(len(self.corpus) * bands[0] * candidates.BYTES_PER_BAND)
        shuffle = self.shuffle("bands", candidates.KEY, n_partitions)
        is_copy = self.corpus.scratch / "is-copy"
        self._send(candidates.SendBands(self.corpus, bands, shuffle, is_copy), shuffle)
        yield from self.map(candidates.FindTies(shuffle, self.corpus.n_own), range(n_partitions))
        shuffle.remove()

    def _judge(self, roots: NDArray[np.int64], sampled: NDArray[np.int64]) -> Iterator[Path]:
        needed = sets.write_needed(self.corpus, roots, sampled)
        to_read = [source for source in self.work.spooled(self.sources) if source.index in needed]
        task = sets.FindSets(self.corpus.scratch, self.config)
        self.work.write_columns(task, to_read, sets.COLUMNS, label="dedup: shingles", mark="sets-done")
        n_members = int(np.count_nonzero(roots != UNTIED)) if len(self.corpus) else 0
        n_bytes = n_members * (BYTES_PER_MEMBER + 4 * self.config.n_hashes)
        n_bytes += 8 * sets.count_shingles(self.corpus, roots, needed)
        n_partitions = max(8, self.n_partitions(n_bytes))  # some at the least, for the workers to share
        shuffle = self.shuffle("members", candidates.MEMBER, n_partitions)
        candidates.send_components(self.corpus, roots, shuffle)
        with self.work.reporter.bar("dedup: compare", total=n_members, unit="documents") as bar:
            for path, n_judged in self.map(Judge(self.corpus, self.config, shuffle), range(n_partitions)):
                bar.advance(n_judged)
                yield path

    def shuffle(self, name: str, dtype: Any, n_partitions: int) -> Shuffle:
        """Make a shuffle of records from the chunks of documents."""
        return Shuffle(self.corpus.scratch, name, dtype, len(self.corpus.chunks()), n_partitions)

    def _send(self, task: Callable[[Any], None], shuffle: Shuffle) -> None:
        to_do = [chunk for chunk in self.corpus.chunks() if not shuffle.is_written(chunk.index)]
        self.work.do(task, to_do)

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Let the workers do a task on each item; the results come in order."""
        yield from self.work.map_items(task, items)

    def n_partitions(self, n_bytes: int) -> int:
        """Choose into how many parts so many bytes are cut, for those at work at once to fit the memory."""
        return count_partitions(n_bytes, self.config.memory_bytes)


@dataclass(frozen=True)
class Judge:
    """The task: judge the components of a partition; the documents that go are written as NEAR_TWIN rows."""

    corpus: Corpus
    config: DedupConfig
    members: Shuffle

    releases_lock = True

    def __call__(self, partition: int) -> tuple[Path, int]:
        """Return the file and the number of documents."""
        path = self.corpus.scratch / f"near-{partition:05d}.twins"
        members = self.members.read(partition)
        if path.exists():
            return path, len(members)
        priority = self.corpus.gather_rows(members["number"])["priority"]
        order = np.lexsort((members["number"], -priority, members["root"]))
        found = [np.zeros(0, NEAR_TWIN)]
        counts = np.zeros(2, "<i8")
        for numbers, judged in self._judge(members["number"][order]):
            goes = np.flatnonzero(judged.kept >= 0)
            twins = np.empty(len(goes), NEAR_TWIN)
            twins["number"], twins["kept"] = numbers[goes], numbers[judged.kept[goes]]
            twins["similarity"] = judged.similarity[goes]
            found.append(twins)
            counts += judged.n_compared, judged.n_unlisted
        write_atomic(path.with_suffix(".counts"), counts.tobytes())
        write_atomic(path, np.sort(np.concatenate(found), order="number").tobytes())
        return path, len(members)

    def _judge(self, numbers: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Judged]]:
        """Judge documents, all at once or, if a component is too large, in stretches that fit in memory."""
        room = self.config.memory_bytes // N_TASKS_AT_ONCE
        bands = choose_bands(self.config)
        n_words = self.corpus.gather_rows(numbers)["n_words"]
        n_bytes = np.cumsum(8 * n_words + 4 * self.config.n_hashes + BYTES_PER_BAND * bands[0])
        repeated = self._find_repeated(numbers, room) if len(numbers) and n_bytes[-1] > room else None
        before, place = numbers[:0], 0
        while place < len(numbers):
            # At least as many as those before, so that their number does not make the time quadratic.
            end = int(np.searchsorted(n_bytes, (n_bytes[place - 1] if place else 0) + room, side="right"))
            end = max(end, place + 1, place + len(before)) if repeated is not None else len(numbers)
            these = np.concatenate((before, numbers[place:end]))
            signatures = self.corpus.gather_signatures(these)
            judged = judge(
                signatures, band_keys(signatures, *bands), *sets.gather_sets(self.corpus, these),
                self.config.threshold, is_indexed=these >= self.corpus.n_own, n_before=len(before),
                repeated=repeated,
            )  # fmt: skip
            yield these, judged
            before, place = these[judged.is_listed], end

    def _find_repeated(self, numbers: NDArray[np.int64], room: int) -> NDArray[np.uint64]:
        """Find the keys of bands that several of the documents have, so many bands at a time as have room."""
        n_bands, n_rows = choose_bands(self.config)
        n_at_once = max(1, room // (KEY_BYTES * len(numbers)))
        found = []
        for first in range(0, n_bands, n_at_once):
            keys = np.empty((min(n_at_once, n_bands - first), len(numbers)), np.uint64)
            for start in range(0, len(numbers), CHUNK_DOCUMENTS):
                signatures = self.corpus.gather_signatures(numbers[start : start + CHUNK_DOCUMENTS])
                part = band_keys(signatures, n_bands, n_rows)[first : first + n_at_once]
                keys[:, start : start + CHUNK_DOCUMENTS] = part
            found.append(find_repeated_keys(keys.ravel()))
        return np.sort(np.concatenate(found))


def _follow(verdicts: NDArray[Any], numbers: NDArray[np.int64]) -> None:
    """Where the document of the same words went as a near duplicate, name the one that stays for it."""
    first = verdicts["kept"][numbers]
    goes_too = verdicts["kept"][first] >= 0
    verdicts[numbers[goes_too]] = verdicts[first[goes_too]]
