"""Lines that recur across documents: menus, notices, "read more"; found in one pass, cut in another.

Lines are the same when their folded words are, with decimal digits as 0 ("Page 3 of 10" and "Page 4 of 12");
by a hash of 64 bits. The first pass sends the hashes of each document's distinct lines to files by hash; each
file is then counted for itself, so the memory is that of one file.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsllm.io.atomic import write_atomic
from dsllm.io.documents import Batch
from dsllm.io.sources import Source, total_bytes
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.table import Mask, Table, read_documents
from dsllm.text.shingles import Hashes
from dsllm.text.texts import Texts
from dsllm.text.word_hashes_compiled import hash_normal_forms
from dsllm.workers.passes import Pass

_PART_BYTES = 128 << 20  # of hashes in a file, about: sorting takes three times as much
_INPUT_PER_HASH = 2  # bytes of compressed input for a byte of hashes, or more
_MAX_PARTS, _PARTS_OF_STREAM = 1024, 256
CODE = "code"


class LineKeys(NamedTuple):
    """The lines of texts: where each ends in the data, its text, its hash, and whether it is counted."""

    ends: NDArray[np.int64]
    texts: NDArray[np.int64]
    keys: Hashes
    is_counted: Mask


def key_lines(texts: Texts, min_words: int) -> LineKeys:
    """Hash the lines of texts; those with fewer than `min_words` words are not counted."""
    n_bytes = int(texts.ends[-1]) if len(texts.ends) else 0
    ends = np.union1d(np.flatnonzero(texts.data[:n_bytes] == ord("\n")) + 1, texts.ends)
    ends = ends[ends > 0]
    keys, n_words = hash_normal_forms(Texts(texts.data, ends))
    return LineKeys(ends, np.searchsorted(texts.ends, ends), keys, n_words >= min_words)


@dataclass(frozen=True)
class FindLines:
    """The task: the hashes of the distinct lines of a batch's documents, by part, and where parts end."""

    config: FilterConfig
    n_parts: int

    releases_lock = True

    def __call__(self, batch: Batch) -> tuple[Hashes, NDArray[np.int64]]:
        """Hash and sort; a line of several documents comes as often."""
        config = self.config
        documents = read_documents(batch, config.text_field, (), on_error=config.on_error)
        lines = key_lines(documents.texts, config.min_line_words)
        keys, texts = lines.keys[lines.is_counted], lines.texts[lines.is_counted]
        order = np.lexsort((texts, keys))
        keys, texts = keys[order], texts[order]
        is_first = np.ones(len(keys), bool)
        is_first[1:] = (keys[1:] != keys[:-1]) | (texts[1:] != texts[:-1])
        keys = keys[is_first]
        edges = np.array([(part << 64) // self.n_parts for part in range(1, self.n_parts)], np.uint64)
        return keys, np.append(np.searchsorted(keys, edges), len(keys))


def find_recurring(config: FilterConfig, sources: list[Source], work: Pass) -> Hashes:
    """Find the hashes of lines that occur in more than `max_line_repeats` documents, ascending."""
    assert config.max_line_repeats is not None
    path = work.scratch / "recurring-lines"
    if not path.exists():
        n_bytes = total_bytes(sources)
        n_parts = _PARTS_OF_STREAM if n_bytes is None else n_bytes // _INPUT_PER_HASH // _PART_BYTES + 1
        n_parts = min(n_parts, _MAX_PARTS)
        folder = work.scratch / "lines"
        _scatter(FindLines(config, n_parts), sources, work, folder)
        found = work.do(CountLines(folder, config.max_line_repeats), range(n_parts))
        write_atomic(path, np.concatenate(found).tobytes())
        shutil.rmtree(folder)
    return np.fromfile(path, np.uint64)


def _scatter(task: FindLines, sources: list[Source], work: Pass, folder: Path) -> None:
    """Fill the parts' files, from the beginning unless they are whole."""
    done = folder / "done"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for _, batches in work.map(task, sources, label="filter: lines"):
        for keys, ends in batches:
            for part, (start, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
                if end > start:
                    with (folder / f"{part:05d}").open("ab") as file:
                        file.write(keys[start:end].tobytes())
    write_atomic(done, b"")


@dataclass(frozen=True)
class CountLines:
    """The task: count the lines of a part."""

    folder: Path
    max_repeats: int

    releases_lock = True

    def __call__(self, part: int) -> Hashes:
        """Give the hashes that come more often, ascending."""
        path = self.folder / f"{part:05d}"
        if not path.exists():
            return np.zeros(0, np.uint64)
        keys, counts = np.unique(np.fromfile(path, np.uint64), return_counts=True)
        return keys[counts > self.max_repeats]


@dataclass(frozen=True)
class CutRecurring:
    """Recurring lines are cut out of the texts; documents that have little else go. Code keeps its lines."""

    recurring: Hashes
    min_words: int
    max_frac: float | None

    def __call__(self, table: Table) -> None:
        """Cut, and record the share of each text that was in such lines."""
        texts = table.texts
        lines = key_lines(texts, self.min_words)
        may_lose = table.looked_at & ~table.is_language(frozenset({CODE}))
        is_cut = lines.is_counted & _is_in(self.recurring, lines.keys) & may_lose[lines.texts]
        sizes = np.diff(lines.ends, prepend=0)
        n_cut = np.bincount(lines.texts, sizes * is_cut, len(texts.ends)).astype(np.int64)
        n_bytes = np.diff(texts.ends, prepend=0)
        share = n_cut / np.maximum(n_bytes, 1)
        table.counts["n_lines_cut"] += int(is_cut.sum())
        table.counts["n_text_bytes_cut"] += int(n_cut.sum())
        table.note("recurring_frac", [round(value, 6) if value else None for value in share.tolist()])
        most = 1.0 if self.max_frac is None else self.max_frac
        n_words = np.bincount(lines.texts, ~is_cut & (lines.keys != _NO_WORDS), len(texts.ends))
        is_empty = (n_cut > 0) & (n_words == 0)
        table.test("recurring_lines", may_lose & (is_empty | (share > most)), share, most)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], ~is_cut, [False])).view(np.int8)))
        starts = np.concatenate(([0], lines.ends))[edges[::2]].tolist()
        data = memoryview(texts.data)  # type: ignore[arg-type]  # an array is a buffer
        kept = [
            data[start:end] for start, end in zip(starts, lines.ends[edges[1::2] - 1].tolist(), strict=True)
        ]
        table.edit(Texts(Texts.join(kept).data, np.cumsum(n_bytes - n_cut)), n_cut > 0)


_NO_WORDS = np.uint64(0)  # fmix64(0): the normal form of a line without words


def _is_in(table: Hashes, keys: Hashes) -> Mask:
    if not len(table):
        return np.zeros(len(keys), bool)
    places = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    found: Mask = table[places] == keys
    return found
