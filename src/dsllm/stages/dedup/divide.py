"""Last pass: lines that stay go one way, as they came; lines that go the other, each with the reason."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.io.atomic import atomic_file
from dsllm.io.documents import Batch, parse_line
from dsllm.io.edit import add_field
from dsllm.io.shards import pack_lines
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import DOCUMENT, Corpus
from dsllm.stages.dedup.cuts import Cuts, cut_line, read_cuts
from dsllm.stages.dedup.decide import EXACT, NEAR, STAYS
from dsllm.stages.dedup.pairs import describe_reasons
from dsllm.text.json_lines import join_lines, lines_of
from dsllm.workers.passes import column_path, read_column

STRING_COUNTS = ("n_cut", "n_removed_string", "n_text_bytes_cut")
_EMPTIED = {"level": "string"}  # all its words occurred before, in one document or several
NOTE_FIELD = "dsllm_dedup"
# A row a document, a file a source: its line, whether it goes, and where its note is among the notes.
FATE = np.dtype([("line", "<i8"), ("level", "u1"), ("note_start", "<i8"), ("note_end", "<i8")])


def write_fates(corpus: Corpus, verdicts: NDArray[Any], *, with_notes: bool) -> list[dict[str, int]]:
    """Write what the last pass needs to know of each source; returns the counts of each.

    That is FATE rows and, on request, the notes.
    """
    counts = []
    for index, chunks in enumerate(corpus.own.chunks_by_source()):
        names = ("notes", "fates")
        with ExitStack() as stack:
            notes, fates = (
                stack.enter_context(atomic_file(column_path(corpus.scratch, index, name))) for name in names
            )
            total = Counter(_count(np.zeros(0, DOCUMENT), np.zeros(0, np.uint8)))
            if corpus.n_indexed:
                total["n_removed_for_indexed"] = 0
            for chunk in chunks:
                rows = corpus.chunk_rows(chunk)
                found = verdicts[chunk.first_number : chunk.first_number + len(rows)]
                written = _write_notes(corpus, found, notes) if with_notes else None
                fates.write(_make_fates(rows, found, written).data)
                total.update(_count(rows, found["level"]))
                if corpus.n_indexed:
                    total["n_removed_for_indexed"] += int(np.count_nonzero(found["kept"] >= corpus.n_own))
        counts.append(dict(total))
    return counts


def _write_notes(corpus: Corpus, found: NDArray[Any], file: BinaryIO) -> NDArray[np.int64]:
    """Append the notes of those that go; returns where each is, (n_removed + 1,)."""
    ends = [file.tell()]
    for reason in describe_reasons(corpus, found[found["level"] != STAYS]):
        ends.append(ends[-1] + file.write(orjson.dumps(reason)))
    return np.array(ends)


def _make_fates(rows: NDArray[Any], found: NDArray[Any], notes: NDArray[np.int64] | None) -> NDArray[Any]:
    fates = np.zeros(len(rows), FATE)
    fates["line"], fates["level"] = rows["line"], found["level"]
    if notes is not None:
        goes = found["level"] != STAYS
        fates["note_start"][goes], fates["note_end"][goes] = notes[:-1], notes[1:]
    return fates


def _count(rows: NDArray[Any], level: NDArray[np.uint8]) -> dict[str, int]:
    return {
        "n_documents": len(rows),
        "n_kept": int(np.count_nonzero(level == STAYS)),
        "n_removed_exact": int(np.count_nonzero(level == EXACT)),
        "n_removed_near": int(np.count_nonzero(level == NEAR)),
        "n_text_bytes": int(rows["n_bytes"].sum()),
        "n_text_bytes_kept": int(rows["n_bytes"][level == STAYS].sum()),
    }


@dataclass(frozen=True)
class Divided:
    """The lines of a batch, packed for their shards, and what the string level did to them."""

    kept: bytes
    removed: bytes
    counts: dict[str, int]


@dataclass(frozen=True)
class Divide:
    """The task: divide the lines of a batch by their fates. Lines that are no documents go neither way."""

    scratch: Path
    config: DedupConfig
    format: str
    removed_format: str | None  # None: nobody wants the removed lines

    releases_lock = True

    def __call__(self, batch: Batch) -> Divided:
        """Pack the lines that stay, and those that go with their notes."""
        fates = read_column(self.scratch, batch.source_index, "fates", FATE)
        starts, ends = lines_of(batch)
        first, end = np.searchsorted(fates["line"], [batch.first_line, batch.first_line + len(ends)])
        places = fates["line"][first:end] - batch.first_line
        stays = fates["level"][first:end] == STAYS
        kept = join_lines(batch.lines, starts[places[stays]], ends[places[stays]])
        removed: list[bytes] = []
        counts: dict[str, int] = {}
        if self.config.cuts_strings and (
            cuts := read_cuts(self.scratch, batch.source_index, int(first), int(end))
        ):
            lines = [batch.lines[starts[place] : ends[place]] for place in places.tolist()]
            rows = (first + np.flatnonzero(stays)).tolist()
            kept, emptied, counts = self._cut({row: lines[row - first] for row in rows}, cuts)
            removed += [
                add_field(line, NOTE_FIELD, _EMPTIED) for line in emptied if self.removed_format is not None
            ]
        if self.removed_format is not None:
            notes = read_column(self.scratch, batch.source_index, "notes", "u1")
            for index in np.flatnonzero(~stays).tolist():
                line = batch.lines[starts[places[index]] : ends[places[index]]]
                fate = fates[first + index]
                note = notes[fate["note_start"] : fate["note_end"]].tobytes()
                removed.append(add_field(line, NOTE_FIELD, orjson.Fragment(note)))
        return Divided(
            pack_lines(kept, self.format),
            pack_lines(b"".join(removed), self.removed_format or "jsonl"),
            counts,
        )

    def _cut(
        self, lines: dict[int, bytes], cuts: dict[int, Cuts]
    ) -> tuple[bytes, list[bytes], dict[str, int]]:
        """Cut the documents that stay: their lines, by row; those without a word left; the counts."""
        kept, emptied = [], []
        counts = dict.fromkeys(STRING_COUNTS, 0)
        for row, line in lines.items():
            if row not in cuts:
                kept.append(line)
                continue
            text_field, punctuation = self.config.text_field, self.config.punctuation
            shorter = cut_line(line, cuts[row], text_field=text_field, punctuation=punctuation)
            if shorter is None:
                emptied.append(line)
            else:
                kept.append(shorter)
            n_left = _n_text_bytes(shorter, text_field) if shorter else 0
            counts["n_text_bytes_cut"] += _n_text_bytes(line, text_field) - n_left
            counts["n_removed_string"] += shorter is None
            counts["n_cut"] += shorter is not None
        return b"".join(line if line.endswith(b"\n") else line + b"\n" for line in kept), emptied, counts


def _n_text_bytes(line: bytes, text_field: str) -> int:
    fields = parse_line(line, text_field)
    assert isinstance(fields, dict)
    return len(fields[text_field].encode())
