"""Documents: JSON Lines, one object a line, `text` required, every other key untouched.

A line that is kept is written from the bytes that were read, so the line itself travels with the parsed
document. Blank lines are no documents and are passed over; a last line without its line feed gets one. What
is JSON is what orjson takes: UTF-8 without a byte order mark, no half of a surrogate pair, no NaN, at most
1,024 levels; of equal keys the last one counts.
"""

import base64
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from dsllm.errors import DocumentError


@dataclass(frozen=True, slots=True)
class Batch:
    """Some whole lines of one source: the unit of work. Where it is cut depends on the content alone."""

    source_index: int
    source: str  # the path as messages name it
    first_line: int  # counted from 1
    lines: bytes
    n_read: int  # bytes taken from the file since the batch before, compressed as they were
    # What one pass found out and the next can use, where the batch stays in memory: see `lines_of`.
    memo: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    def describe(self) -> str:
        """Name the place for messages."""
        return f"{self.source}, from line {self.first_line:,} on"


@dataclass(frozen=True, slots=True)
class Document:
    """A document and the line that it came in, line feed included."""

    line: bytes
    line_number: int
    text: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no document, and why."""

    source: str
    line_number: int
    reason: str
    line: bytes

    def to_json(self) -> bytes:
        """One line of JSON; bytes that are not UTF-8 are given in base64."""
        record: dict[str, Any] = {"source": self.source, "line": self.line_number, "reason": self.reason}
        try:
            record["content"] = self.line.decode()
        except UnicodeDecodeError:
            record["content_base64"] = base64.b64encode(self.line).decode()
        return orjson.dumps(record) + b"\n"


def parse_batch(
    batch: Batch, *, text_field: str, on_error: Literal["stop", "skip"]
) -> tuple[list[Document], list[BadLine]]:
    """Parse the lines of a batch.

    Raises:
        DocumentError: a line is no document and `on_error` is "stop"; it names file and line.
    """
    numbered, bad_lines = parse_fields(batch, text_field=text_field, on_error=on_error)
    documents = [
        Document(line + b"\n", line_number, fields[text_field], fields)
        for line_number, line, fields in numbered
    ]
    return documents, bad_lines


def parse_fields(
    batch: Batch, *, text_field: str, on_error: Literal["stop", "skip"]
) -> tuple[list[tuple[int, bytes, dict[str, Any]]], list[BadLine]]:
    """Parse the lines of a batch into (line number, line, fields): `parse_batch` without the documents.

    Raises:
        DocumentError: as `parse_batch`.
    """
    numbered, bad_lines = [], []
    lines = batch.lines.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for line_number, line in enumerate(lines, start=batch.first_line):
        if not line or line.isspace():
            continue
        fields = parse_line(line, text_field)
        if isinstance(fields, str):
            bad = BadLine(batch.source, line_number, fields, line)
            if on_error == "stop":
                raise document_error(bad)
            bad_lines.append(bad)
        else:
            numbered.append((line_number, line, fields))
    return numbered, bad_lines


def parse_line(line: bytes, text_field: str | None) -> dict[str, Any] | str:
    """Return the fields of a document, or why the line is none; without `text_field` any object is one."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            line.decode()
        except UnicodeDecodeError as wrong_bytes:
            return f"not UTF-8 at byte {wrong_bytes.start + 1:,} of the line"
        return f"not JSON: {error.msg}, at character {error.colno:,} of the line"
    if not isinstance(fields, dict):
        return f"a JSON {type(fields).__name__}, not an object"
    if text_field is None:
        return fields
    if text_field not in fields:
        return f"no field {text_field!r}, only {', '.join(sorted(fields)[:6]) or 'an empty object'}"
    if not isinstance(fields[text_field], str):
        return f"{text_field!r} is a {type(fields[text_field]).__name__}, not a string"
    return fields


def document_error(bad: BadLine) -> DocumentError:
    """Say where the line is and what can be done."""
    hint = "mend the line, or give --on-error skip to set such lines aside"
    if bad.reason.startswith("no field"):
        hint = "name the field that holds the text with --text-field, or give --on-error skip"
    return DocumentError(f"{bad.source}, line {bad.line_number:,}: {bad.reason}", hint=hint)
