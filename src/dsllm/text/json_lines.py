"""Texts and ids straight from lines of JSON: what most documents need, without a Python object for each.

The compiled pass takes a line only where it is sure that it is JSON and what it says; `io/documents.py`,
which asks orjson, is the definition and answers for every other line.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.io.documents import Batch
from dsllm.text.json_lines_compiled import BLANK, UNSURE, count_line_feeds, read_lines, write_line_ends
from dsllm.text.texts import ROOM_BYTES, Texts

Bounds = tuple[NDArray[np.int64], NDArray[np.int64]]  # where each line starts, and where it ends


@dataclass(frozen=True)
class Lines:
    """The documents among the lines of a batch, in order.

    `places` says which line each one is, counted from 0; `ids` are the values of another field as raw JSON,
    one after another, "null" where there is none, `id_sizes` their lengths.
    """

    texts: Texts
    places: NDArray[np.int64]
    ids: NDArray[np.uint8]
    id_sizes: NDArray[np.int64]

    def parsed_ids(self) -> list[Any]:
        """Parse the ids; None for "null"."""
        data = self.ids.tobytes()
        ends = np.cumsum(self.id_sizes)
        starts = ends - self.id_sizes
        return parse_each(data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True))


def find_lines(lines: bytes) -> Bounds:
    """Find where each line starts, and where it ends with its line feed, which the last one may lack."""
    data = np.frombuffer(lines, np.uint8)
    has_more = len(lines) > 0 and not lines.endswith(b"\n")
    bounds = np.empty(count_line_feeds(data) + has_more + 1, np.int64)
    bounds[0] = 0
    n_lines = write_line_ends(data, bounds[1:])
    if has_more:
        bounds[n_lines + 1] = len(lines)
    return bounds[:-1], bounds[1:]


def lines_of(batch: Batch) -> Bounds:
    """Find the lines of a batch as `find_lines` does, once: passes over it in memory find them there."""
    found: Bounds | None = batch.memo.get("lines")
    if found is None:
        found = batch.memo["lines"] = find_lines(batch.lines)
    return found


def join_lines(lines: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> bytes:
    """Join some of the lines of a batch, those that touch as one; the last one gets its line feed."""
    if not len(starts):
        return b""
    begins = np.append(True, starts[1:] != ends[:-1])
    firsts, lasts = starts[begins], ends[np.append(begins[1:], True)]
    if len(firsts) == 1 and lasts[0] - firsts[0] == len(lines):
        joined = lines
    else:
        joined = b"".join(
            lines[first:last] for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
        )
    return joined if joined.endswith(b"\n") else joined + b"\n"


def read_texts(
    lines: bytes, text_field: str, id_field: str = "id", *, bounds: Bounds | None = None
) -> Lines | None:
    """Read the texts and ids of whole lines; None where any line needs a second look.

    `bounds` says where they are, or where those are that are wanted; otherwise all of them are looked for.
    """
    found = read_values(lines, text_field, (id_field,), bounds=bounds)
    if found is None:
        return None
    ids = found.raws(lines, 0)
    return Lines(
        found.texts,
        found.places,
        np.frombuffer(b"".join(ids), np.uint8),
        np.array([len(identity) for identity in ids], np.int64),
    )


@dataclass(frozen=True)
class Values:
    """The documents among the lines of a batch, in order, and where in the batch their values are.

    `places` as in `Lines`. `spans`, shape (n_documents, 1 + n_fields, 2), says where each value begins and
    ends as it is written: the text, quotes included, then the other fields; both 0 where there is none.
    """

    texts: Texts
    places: NDArray[np.int64]
    spans: NDArray[np.int64]

    def raws(self, lines: bytes, field: int) -> list[bytes]:
        """Cut the values of one of the other fields, counted from 0, out of the batch; "null" for none."""
        return [lines[start:end] or b"null" for start, end in self.spans[:, 1 + field].tolist()]


def parse_each(raws: Iterable[bytes]) -> list[Any]:
    """Parse values as they are written, equal ones once; None for "null"."""
    values: dict[bytes, Any] = {}
    found = []
    for raw in raws:
        if raw not in values:
            values[raw] = orjson.loads(raw)
        found.append(values[raw])
    return found


def read_values(
    lines: bytes, text_field: str, fields: Sequence[str], *, bounds: Bounds | None = None
) -> Values | None:
    """Read the texts of whole lines, and where other fields are; None where any line needs a second look.

    `bounds` as in `read_texts`. A field twice in a line is the last one, as for orjson.
    """
    if not text_field.isascii() or not text_field.isprintable() or {'"', "\\"} & set(text_field):
        return None
    starts, ends = find_lines(lines) if bounds is None else bounds
    data = np.frombuffer(lines, np.uint8)
    texts = np.empty(len(lines) + ROOM_BYTES, np.uint8)
    text_ends = np.empty(len(ends), np.int64)
    keys = [name.encode() for name in (text_field, *fields)]
    key_ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    spans = np.zeros((len(ends), len(keys), 2), np.int64)
    status = np.empty(len(ends), np.uint8)
    names = np.frombuffer(b"".join(keys), np.uint8)
    read_lines(data, starts, ends, names, key_ends, texts, text_ends, spans, status)
    if (status == UNSURE).any():
        return None
    places = np.flatnonzero(status != BLANK)
    return Values(Texts(texts, text_ends[places]), places, spans[places])
