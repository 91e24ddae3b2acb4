"""A field of lines that are JSON, against `json` itself."""

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.text.json_fields import read_field
from dsllm.text.json_lines import find_lines

KEYS = ["lang", "text", "l", "lang ", "a"]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 99)
    | st.text(st.sampled_from('lang":,{}[]\\ é\n'), max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(KEYS), values, max_size=5)


@settings(max_examples=400)
@given(st.lists(objects, max_size=5), st.booleans(), st.booleans())
def test_values_are_those_of_json(documents, ascii_only, spaced):
    separators = (" , ", " : ") if spaced else (",", ":")
    lines = "".join(
        json.dumps(each, ensure_ascii=ascii_only, separators=separators) + "\n" for each in documents
    ).encode()
    found = read_field(lines, find_lines(lines), np.arange(len(documents)), "lang")
    assert found == [each.get("lang") for each in documents]


def test_the_last_of_equal_keys_counts():
    lines = b'{"lang": "a", "lang": {"lang": 1}, "text": "lang"}\n{"lang":2,"lang":3}'
    assert read_field(lines, find_lines(lines), np.arange(2), "lang") == [{"lang": 1}, 3]
