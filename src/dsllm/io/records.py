"""Records: JSON Lines whose objects need not be documents (conversations, preference pairs, test items)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from dsllm.errors import DocumentError
from dsllm.io.documents import BadLine
from dsllm.io.sources import Source, read_batches


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object and where it stands."""

    source: str
    line_number: int
    fields: dict[str, Any]

    @property
    def place(self) -> str:
        """File and line, as messages name them."""
        return f"{self.source}, line {self.line_number:,}"

    def bad(self, reason: str) -> BadLine:
        """Say what is wrong with the record."""
        return BadLine(self.source, self.line_number, reason, orjson.dumps(self.fields))


def read_records(sources: Iterable[Source]) -> Iterator[Record | BadLine]:
    """Yield the objects of all lines in order; a line that is no JSON object comes as a `BadLine`."""
    for source in sources:
        for batch in read_batches(source):
            for line_number, line in enumerate(batch.lines.split(b"\n"), start=batch.first_line):
                if line and not line.isspace():
                    yield parse_record(batch.source, line_number, line)


def parse_record(source: str, line_number: int, line: bytes) -> Record | BadLine:
    """Parse one line."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadLine(
            source, line_number, f"not JSON: {error.msg}, at character {error.colno:,} of the line", line
        )
    if not isinstance(fields, dict):
        return BadLine(source, line_number, f"a JSON {type(fields).__name__}, not an object", line)
    return Record(source, line_number, fields)


def record_error(bad: BadLine, *, hint: str) -> DocumentError:
    """Name file, line and reason."""
    return DocumentError(f"{bad.source}, line {bad.line_number:,}: {bad.reason}", hint=hint)
