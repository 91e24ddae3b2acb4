"""Fields beside the text of lines of JSON, against `json` itself."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.text.json_lines import parse_each, read_values

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
    for each in documents:
        each["text"] = "a text"
    lines = "".join(
        json.dumps(each, ensure_ascii=ascii_only, separators=separators) + "\n" for each in documents
    ).encode()
    found = read_values(lines, "text", ("lang", "a"))
    assert found is not None
    for field, name in enumerate(("lang", "a")):
        assert parse_each(found.raws(lines, field)) == [each.get(name) for each in documents]


def test_the_last_of_equal_keys_counts():
    lines = b'{"lang": "a", "lang": {"lang": 1}, "text": "lang"}\n{"lang":2,"text":"","lang":3}'
    found = read_values(lines, "text", ("lang",))
    assert found is not None
    assert parse_each(found.raws(lines, 0)) == [{"lang": 1}, 3]
