"""Lines that are changed: all else in them stays as it came."""

import json

import orjson
from hypothesis import given
from hypothesis import strategies as st

from dsllm.io.edit import add_field, replace_text

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(texts, texts, texts, st.booleans())
def test_another_text_changes_nothing_else(text, new, other, ensure_ascii):
    row = {"before": {"text": other}, "text": text, "n": 1.50, "after": other}
    line = json.dumps(row, ensure_ascii=ensure_ascii).encode() + b"\n"
    changed = replace_text(line, "text", new)
    assert orjson.loads(changed) == {**row, "text": new}
    old = json.dumps(text, ensure_ascii=ensure_ascii).encode()
    assert changed == line.replace(b'}, "text": ' + old, b'}, "text": ' + orjson.dumps(new), 1)


def test_a_field_is_added_behind_the_others():
    assert add_field(b'{"text": "a", "n": 1.50 } \r\n', "found", {"x": 1}) == (
        b'{"text": "a", "n": 1.50,"found":{"x":1}}\n'
    )
    assert orjson.loads(add_field(b'{"found": 1, "text": "a"}\n', "found", 2)) == {"found": 2, "text": "a"}
    assert orjson.loads(add_field(b'{"f\\u006fund": 1, "text": "a"}', "found", 2)) == {
        "found": 2,
        "text": "a",
    }


def test_escapes_and_numbers_stay_as_they_are_written():
    line = b'{"text": "\\u4e2d found", "found by": "\\u0041", "n": 1.50, "id": 123456789012345678901}\n'
    assert add_field(line, "found", True) == line[:-2] + b',"found":true}\n'
