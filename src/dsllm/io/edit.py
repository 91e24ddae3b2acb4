"""Changes to a document's line that leave all else in it byte for byte as it came."""

import re
from typing import Any

import orjson

from dsllm.io.documents import parse_line


def replace_text(line: bytes, text_field: str, text: str) -> bytes:
    """Put another text in place of a document's own.

    All else stays byte for byte, but where the text's field cannot be found by its plain name.
    """
    fields = parse_line(line, text_field)
    assert isinstance(fields, dict)  # it has been read before
    expected = {**fields, text_field: text}
    pattern = re.escape(orjson.dumps(text_field)) + rb'\s*:\s*("[^"\\]*+(?:\\.[^"\\]*+)*+")'
    for found in reversed(list(re.finditer(pattern, line))):
        changed = line[: found.start(1)] + orjson.dumps(text) + line[found.end(1) :]
        if parse_line(changed, text_field) == expected:  # it was this field, not one of an inner object
            return changed
    return orjson.dumps(expected) + b"\n"


def add_field(line: bytes, name: str, value: Any) -> bytes:
    """Write a field behind a document's others; one of that name is replaced."""
    key = orjson.dumps(name)
    body = line.rstrip()
    if key in body or b"\\u" in body:  # in a text perhaps, or as another spelling of the name
        fields = orjson.loads(line)
        if name in fields:
            return orjson.dumps({**fields, name: value}) + b"\n"
    return body[:-1].rstrip() + b"," + key + b":" + orjson.dumps(value) + b"}\n"
