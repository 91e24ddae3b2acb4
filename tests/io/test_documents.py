import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsllm.errors import DocumentError
from dsllm.io.documents import BadLine, Batch, parse_batch, parse_line


def batch(lines: bytes) -> Batch:
    return Batch(0, "a.jsonl", 11, lines, len(lines))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_lines_travel_byte_for_byte(texts):
    lines = [json.dumps({"n": 1.50, "text": text}).encode() + b"\n" for text in texts]
    documents, bad = parse_batch(batch(b"".join(lines)), text_field="text", on_error="stop")
    assert [document.line for document in documents] == lines
    assert [document.text for document in documents] == texts
    assert not bad


def test_blank_lines_are_passed_over_and_line_numbers_stay_right():
    documents, _ = parse_batch(
        batch(b'\n{"text": "a"}\r\n  \n{"text": "b"}'), text_field="text", on_error="stop"
    )
    assert [(document.line_number, document.text) for document in documents] == [(12, "a"), (14, "b")]
    assert documents[1].line == b'{"text": "b"}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b'{"text": "\xff"}', "not UTF-8 at byte 11 of the line"),
        (b'["text"]', "a JSON list, not an object"),
        (b'{"content": "a"}', "no field 'text', only content"),
        (b'{"text": 5}', "'text' is a int, not a string"),
        (b'{"text": "\\ud800"}', "not JSON"),  # half a surrogate pair is no character
    ],
)
def test_a_line_that_is_no_document_says_why(line, reason):
    parsed = parse_line(line, "text")
    assert isinstance(parsed, str)
    assert parsed.startswith(reason)
    with pytest.raises(DocumentError, match="a.jsonl, line 12: "):
        parse_batch(batch(b'{"text": ""}\n' + line), text_field="text", on_error="stop")
    documents, bad = parse_batch(batch(b'{"text": ""}\n' + line), text_field="text", on_error="skip")
    assert (len(documents), bad[0].line_number, bad[0].line) == (1, 12, line)


def test_a_line_set_aside_keeps_its_bytes():
    assert json.loads(BadLine("a", 3, "why", b"{").to_json())["content"] == "{"
    assert json.loads(BadLine("a", 3, "why", b"\xff").to_json())["content_base64"] == "/w=="
