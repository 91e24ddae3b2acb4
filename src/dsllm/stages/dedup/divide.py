"""Third pass: lines that stay go one way, as they came; lines that go the other, each with the reason."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.io.atomic import atomic_file
from dsllm.io.documents import Batch
from dsllm.io.shards import pack_lines
from dsllm.stages.dedup.corpus import Corpus
from dsllm.stages.dedup.decide import LEVEL_NAMES, STAYS
from dsllm.workers.passes import column_path, read_column

NOTE_FIELD = "dsllm_dedup"
# A row a document, a file a source: its line, whether it goes, and where its note is among the notes.
FATE = np.dtype([("line", "<i8"), ("level", "u1"), ("note_start", "<i8"), ("note_end", "<i8")])


def write_fates(scratch: Path, corpus: Corpus, verdicts: NDArray[Any], *, with_notes: bool) -> None:
    """Write what the third pass needs to know of each source: FATE rows and, on request, the notes."""
    for index, source in enumerate(corpus.sources):
        first, end = corpus.starts[index : index + 2]
        fates = np.zeros(end - first, FATE)
        fates["line"] = corpus.rows["line"][first:end]
        fates["level"] = verdicts["level"][first:end]
        with atomic_file(column_path(scratch, source.index, "notes")) as file:
            written = 0
            for row in np.flatnonzero(fates["level"] != STAYS) if with_notes else ():
                note = _note(corpus, verdicts[first + row])
                fates["note_start"][row], fates["note_end"][row] = written, written + len(note)
                written += file.write(note)
        with atomic_file(column_path(scratch, source.index, "fates")) as file:
            file.write(fates.tobytes())


def _note(corpus: Corpus, verdict: Any) -> bytes:
    kept = int(verdict["kept"])
    source = corpus.sources[int(corpus.source_of(np.array([kept]))[0])]
    return orjson.dumps(
        {
            "level": LEVEL_NAMES[int(verdict["level"])],
            "similarity": float(verdict["similarity"]),
            "kept": {
                "id": corpus.identity(kept),
                "source": source.path,
                "line": int(corpus.rows["line"][kept]),
            },
        }
    )


@dataclass(frozen=True)
class Divided:
    """The lines of a batch, packed for their shards."""

    kept: bytes
    removed: bytes


@dataclass(frozen=True)
class Divide:
    """The task: divide the lines of a batch by their fates. Lines that are no documents go neither way."""

    scratch: Path
    format: str
    removed_format: str | None  # None: nobody wants the removed lines

    def __call__(self, batch: Batch) -> Divided:
        """Pack the lines that stay, and those that go with their notes."""
        fates = read_column(self.scratch, batch.source_index, "fates", FATE)
        lines = batch.lines.removesuffix(b"\n").split(b"\n")
        first, end = np.searchsorted(fates["line"], [batch.first_line, batch.first_line + len(lines)])
        place = (fates["line"][first:end] - batch.first_line).tolist()
        stays = (fates["level"][first:end] == STAYS).tolist()
        kept = [lines[i] for i, is_kept in zip(place, stays, strict=True) if is_kept]
        removed: list[bytes] = []
        if self.removed_format is not None:
            notes = read_column(self.scratch, batch.source_index, "notes", "u1")
            for row in (first + np.flatnonzero(fates["level"][first:end] != STAYS)).tolist():
                note = notes[fates["note_start"][row] : fates["note_end"][row]].tobytes()
                removed.append(_with_note(lines[fates["line"][row] - batch.first_line], note))
        return Divided(_pack(kept, self.format), _pack(removed, self.removed_format or "jsonl"))


def _with_note(line: bytes, note: bytes) -> bytes:
    """Add the note as the last field: a document has at least one, its text."""
    return b'%s,"%s":%s}' % (line.rstrip()[:-1], NOTE_FIELD.encode(), note)


def _pack(lines: list[bytes], format: str) -> bytes:
    return pack_lines(b"".join(line + b"\n" for line in lines), format)
