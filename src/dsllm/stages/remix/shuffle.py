"""The shuffle: every copy of a document has a random key, and the output is in the order of the keys.

The keys' range is cut into equal parts, one a shard. First the lines are scattered into a file per part, then
each part is read, sorted and written. Keys depend on the seed, the document's number and the copy's, so
neither batches nor workers matter, and memory holds one shard per worker.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.io.documents import Batch
from dsllm.io.shards import pack_lines
from dsllm.stages.remix.mix import SHUFFLE, Keys, draw_keys
from dsllm.workers.passes import read_column

# A row a document: its line, and how often it is taken.
TAKEN = np.dtype([("line", "<i8"), ("times", "<i8")])
# A row a copy, in the order of the lines beside it: its key, document, number of the copy (0 is the first).
COPY = np.dtype([("key", "<u8"), ("number", "<i8"), ("epoch", "<i8"), ("n_line_bytes", "<i8")])

_HELD_BYTES = 64 << 20
_FRAME_BYTES = 2 << 20


@dataclass(frozen=True)
class Scattered:
    """The copies of a batch: parts that they belong to, COPY rows and lines, in the order of parts."""

    parts: NDArray[np.int64]
    copies: NDArray[Any]
    lines: list[bytes]


@dataclass(frozen=True)
class Scatter:
    """The task: key every copy of a batch's documents."""

    scratch: Path
    first_numbers: tuple[int, ...]  # by source index: the number of its first document
    n_parts: int
    seed: int

    def __call__(self, batch: Batch) -> Scattered:
        """Draw the keys, and order the copies by part."""
        taken = read_column(self.scratch, batch.source_index, "taken", TAKEN)
        lines = batch.lines.removesuffix(b"\n").split(b"\n")
        first, end = np.searchsorted(taken["line"], [batch.first_line, batch.first_line + len(lines)])
        times = np.array(taken["times"][first:end])
        copies = np.zeros(int(times.sum()), COPY)
        rows = np.repeat(np.arange(first, end), times)
        copies["number"] = rows + self.first_numbers[batch.source_index]
        copies["epoch"] = np.arange(len(copies)) - np.repeat(np.cumsum(times) - times, times)
        copies["key"] = draw_keys(self.seed, SHUFFLE, copies["number"], copies["epoch"])
        places = (taken["line"][rows] - batch.first_line).tolist()
        written = [
            _copy_line(lines[place], epoch)
            for place, epoch in zip(places, copies["epoch"].tolist(), strict=True)
        ]
        copies["n_line_bytes"] = [len(line) for line in written]
        parts = part_of(copies["key"], self.n_parts)
        order = np.argsort(parts, kind="stable")
        return Scattered(parts[order], copies[order], [written[place] for place in order])


def part_of(keys: Keys, n_parts: int) -> NDArray[np.int64]:
    """Tell which of `n_parts` (below 2**32) equal ranges a key is in."""
    return ((keys >> np.uint64(32)) * np.uint64(n_parts) >> np.uint64(32)).astype(np.int64)


def _copy_line(line: bytes, epoch: int) -> bytes:
    """The first copy is the line as it came; later ones get an id of their own, where there is an id."""
    if epoch == 0:
        return line + b"\n"
    fields = json.loads(line)  # not orjson: it would round integers of more than 64 bits
    if (identity := fields.get("id")) is None:
        return line + b"\n"
    name = identity if isinstance(identity, str) else json.dumps(identity, ensure_ascii=False)
    fields["id"] = f"{name}#{epoch + 1}"
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class Parts:
    """The files of the parts: `00000.copies` and `00000.lines` in a folder."""

    def __init__(self, folder: Path, n_parts: int) -> None:
        self._folder = folder
        self._n_parts = n_parts
        self._held: dict[Path, list[bytes]] = {}
        self._n_held = 0

    def fill(self, scattered: Iterable[Scattered]) -> None:
        """Append the copies of batch after batch to their parts' files."""
        for batch in scattered:
            edges = np.searchsorted(batch.parts, np.arange(self._n_parts + 1))
            for part in np.unique(batch.parts).tolist():
                first, end = edges[part : part + 2]
                self._hold(copies_path(self._folder, part), batch.copies[first:end].tobytes())
                self._hold(lines_path(self._folder, part), b"".join(batch.lines[first:end]))
            if self._n_held > _HELD_BYTES:
                self.flush()

    def clear(self) -> None:
        """Begin anew."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)

    def flush(self) -> None:
        """Write what is held; a part that got nothing has no files."""
        for path, pieces in self._held.items():
            with path.open("ab") as file:
                file.writelines(pieces)
        self._held.clear()
        self._n_held = 0

    def _hold(self, path: Path, data: bytes) -> None:
        self._held.setdefault(path, []).append(data)
        self._n_held += len(data)


def copies_path(folder: Path, part: int) -> Path:
    """Name the file of a part's COPY rows."""
    return folder / f"{part:05d}.copies"


def lines_path(folder: Path, part: int) -> Path:
    """Name the file of a part's lines."""
    return folder / f"{part:05d}.lines"


@dataclass(frozen=True)
class Gathered:
    """One shard's lines, sorted and packed."""

    part: int
    n_documents: int
    packed: list[bytes]


@dataclass(frozen=True)
class Gather:
    """The task: sort the lines of a part by their keys and pack them."""

    folder: Path
    format: str

    def __call__(self, part: int) -> Gathered:
        """Read, sort and pack; frames of about 2 MiB."""
        path = copies_path(self.folder, part)
        if not path.exists():
            return Gathered(part, 0, [])
        copies = np.fromfile(path, COPY)
        lines = lines_path(self.folder, part).read_bytes()
        ends = np.cumsum(copies["n_line_bytes"])
        order = np.lexsort((copies["epoch"], copies["number"], copies["key"]))
        starts = (ends - copies["n_line_bytes"])[order].tolist()
        frames: list[bytes] = []
        frame, n_bytes = [], 0
        for start, end in zip(starts, ends[order].tolist(), strict=True):
            frame.append(lines[start:end])
            n_bytes += end - start
            if n_bytes >= _FRAME_BYTES:
                frames.append(pack_lines(b"".join(frame), self.format))
                frame, n_bytes = [], 0
        frames.append(pack_lines(b"".join(frame), self.format))
        return Gathered(part, len(copies), frames)
