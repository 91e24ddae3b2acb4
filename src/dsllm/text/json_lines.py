"""Texts and ids straight from lines of JSON: what most documents need, without a Python object for each.

The compiled pass takes a line only where it is sure that it is JSON and what it says; `io/documents.py`,
which asks orjson, is the definition and answers for every other line.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.text.json_lines_compiled import BLANK, UNSURE, count_line_feeds, read_lines, write_line_ends
from dsllm.text.texts import ROOM_BYTES, Texts


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
        values: dict[bytes, Any] = {}
        found = []
        for start, end in zip((ends - self.id_sizes).tolist(), ends.tolist(), strict=True):
            raw = data[start:end]
            if raw not in values:
                values[raw] = orjson.loads(raw)
            found.append(values[raw])
        return found


def find_lines(lines: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find where each line starts, and where it ends with its line feed, which the last one may lack."""
    data = np.frombuffer(lines, np.uint8)
    has_more = len(lines) > 0 and not lines.endswith(b"\n")
    bounds = np.empty(count_line_feeds(data) + has_more + 1, np.int64)
    bounds[0], bounds[-1] = 0, len(lines)
    write_line_ends(data, bounds[1:])
    return bounds[:-1], bounds[1:]


def read_texts(lines: bytes, text_field: str, id_field: str = "id") -> Lines | None:
    """Read the texts and ids of whole lines; None where any line needs a second look."""
    if not text_field.isascii() or not text_field.isprintable() or {'"', "\\"} & set(text_field):
        return None
    starts, ends = find_lines(lines)
    data = np.frombuffer(lines, np.uint8)
    texts = np.empty(len(lines) + ROOM_BYTES, np.uint8)
    text_ends = np.empty(len(ends), np.int64)
    id_spans = np.zeros((len(ends), 2), np.int64)
    status = np.empty(len(ends), np.uint8)
    key = np.frombuffer(text_field.encode(), np.uint8)
    id_key = np.frombuffer(id_field.encode(), np.uint8)
    read_lines(data, starts, ends, key, id_key, texts, text_ends, id_spans, status)
    if (status == UNSURE).any():
        return None
    places = np.flatnonzero(status != BLANK)
    spans = id_spans[places]
    ids = [lines[start:end] or b"null" for start, end in spans.tolist()]
    return Lines(
        Texts(texts, text_ends[places]),
        places,
        np.frombuffer(b"".join(ids), np.uint8),
        np.array([len(identity) for identity in ids], np.int64),
    )
