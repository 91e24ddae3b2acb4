"""The compiled reader of lines against orjson: what it reads is right, what it cannot read it leaves."""

import itertools
import json

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsllm.io.documents import Batch, parse_fields
from dsllm.text.json_lines import find_lines, read_texts

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=150)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
documents = st.fixed_dictionaries({"text": texts}, optional={"id": values, "meta": values, "é": values})


def parts(found):
    ends = found.texts.ends.tolist()
    data = found.texts.data.tobytes()
    id_ends = found.id_sizes.cumsum().tolist()
    ids = found.ids.tobytes()
    return [
        (data[start:end].decode(), orjson.loads(ids[id_start:id_end]))
        for start, end, id_start, id_end in zip([0, *ends], ends, [0, *id_ends], id_ends, strict=False)
    ]


@given(st.lists(documents, max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_what_is_read_is_what_orjson_reads(rows, ensure_ascii, indent_items):
    separators = (", ", " : ") if indent_items else (",", ":")
    lines = [json.dumps(row, ensure_ascii=ensure_ascii, separators=separators) for row in rows]
    found = read_texts("\n".join(lines).encode(), "text")
    if found is not None:
        assert parts(found) == [(row["text"], orjson.loads(orjson.dumps(row.get("id")))) for row in rows]
        assert found.places.tolist() == list(range(len(rows)))


@given(st.lists(texts, max_size=4), st.booleans())
def test_plain_documents_are_always_read(rows, ensure_ascii):
    lines = [
        json.dumps({"id": "a", "n": [1.5, {"b": None}, []], "o": {}, "text": text}, ensure_ascii=ensure_ascii)
        for text in rows
    ]
    found = read_texts("".join(line + "\n" for line in lines).encode(), "text")
    assert found is not None
    assert parts(found) == [(text, "a") for text in rows]


GOOD = '{"id": 7, "text": "aé中\\ud83d\\ude42\\n", "x": [true, -0.5]}'.encode()


@settings(max_examples=400)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
@example(20, 0x1F)
def test_nothing_is_read_that_orjson_refuses(place, byte):
    """One byte of a good line is another one."""
    line = GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    found = read_texts(line, "text")
    if found is None or b"\n" in line:
        return
    expected = orjson.loads(line) if not line.isspace() else None
    assert parts(found) == [(expected["text"], expected.get("id"))]


SEEDS = [
    GOOD,
    b'{"text":"","id":null}',
    b'{"text": "a b", "id": "x\\"y", "text": "c"}',
    b'{"id":{"text":"no","n":[1,-2.5,[]]},"meta":{},"text":"\\ud83d\\ude42 \\u0000\\/"}\r',
    '{"é":"中","text":"é中🙂","id":-0.5}'.encode(),
]
FRAGMENTS = [
    *(
        b"\\ud800",
        b"\\udc00",
        b"\\ud83d\\ude42",
        b"\\u0000",
        b"\\u00e9",
        b"\\",
        b"\\\\",
        b"\\n",
        b'"',
        b"\x00",
        b"\x7f",
    ),
    *(
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xf0\x9f",
        b"\r",
        b"\n",
        b"\t",
        b" ",
        b"\x0b",
        b"\x0c",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"NaN",
        b"-Infinity",
        b"null",
        b"true",
        b"1e999",
        b"01",
        b"-",
        b"9" * 30,
    ),
    *(
        b'"text":"b",',
        b'"id":2,',
        b'"\\u0074ext":"c",',
        b'"x":' + b"[" * 61 + b"]" * 61 + b",",
        b"{}",
        b'{"text":"z"}',
    ),
]


@st.composite
def mutated_lines(draw):
    """Lines of JSON, some of them with bytes put in, taken out or repeated."""
    lines = []
    for seed in draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3)):
        line = seed
        for _ in range(draw(st.integers(0, 3))):
            first, end = sorted(draw(st.tuples(*[st.integers(0, len(line))] * 2)))
            middle = line[first:end]
            new = draw(st.sampled_from([b"", middle, middle + middle, *FRAGMENTS]))
            line = line[:first] + new + line[first if draw(st.booleans()) else end :]
        lines.append(line)
    return b"\n".join(lines) + draw(st.sampled_from([b"", b"\n", b"\n\n"]))


@settings(deadline=None, max_examples=500)
@given(mutated_lines())
def test_mutated_lines_are_read_as_orjson_reads_them_or_not_at_all(lines):
    """Same texts, same ids, same places; where orjson refuses any line, a second look is asked for."""
    found = read_texts(lines, "text")
    documents, bad = parse_fields(Batch(0, "in", 0, lines, 0), text_field="text", on_error="skip")
    if found is None:
        return
    assert not bad
    assert parts(found) == [(fields["text"], fields.get("id")) for _, _, fields in documents]
    assert found.places.tolist() == [number for number, _, _ in documents]


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "a"',
        b'{"text": "a"} x',
        b'{"text": "a",}',
        b'{"text": 1}',
        b'{"id": "a"}',
        b"[]",
        b"{}",
        b'{"text": "a\x01"}',
        b'{"text": "\xff"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "\xc0\xaf"}',
        b'{"text": "\xf4\x90\x80\x80"}',
        b'{"text": "\xe4\xb8',
        b'{"text": "\\ud800"}',
        b'{"text": "\\ud800\\u0041"}',
        b'{"text": "\\x"}',
        b'{"text": "\\u12g4"}',
        b'{"text": "a", "text": "b"}',
        b'{"text": "a", "n": 01}',
        b'{"text": "a", "n": 1.}',
        b'{"text": "a", "n": -}',
        b'{"text": "a", "n": nul}',
        b'{"text": "a", "n": [1,]}',
        b'{"text": "a", "n": [1}]}',
        b'{"text": "a", "n": {"b" 1}}',
        b'{"text": "a", "n": ' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"text": "a" "n": 1}',
        b'{"text" "a"}',
        b'{"te\\u0078t": "a"}',
    ],
    ids=repr,
)
def test_a_second_look_is_asked_for(line):
    assert read_texts(line, "text") is None


def test_blank_lines_are_passed_over():
    found = read_texts(b'\n {"text": "a"} \r\n\n\t\n{"text": "b", "id": [1, 2]}', "text")
    assert found is not None
    assert parts(found) == [("a", None), ("b", [1, 2])]
    assert found.places.tolist() == [1, 4]


def test_another_field_holds_the_text():
    found = read_texts(b'{"text": 1, "content": "a"}', "content")
    assert found is not None
    assert parts(found) == [("a", None)]
    assert read_texts(b'{"a\\"b": "x"}', 'a"b') is None


@given(st.lists(st.binary(max_size=200), max_size=30), st.booleans())
def test_lines_end_with_line_feeds_and_nothing_else(lines, has_end):
    lines = [line.replace(b"\n", b"\r") + b"\n" for line in lines]
    if lines and not has_end:
        lines[-1] = lines[-1][:-1]
    expected = [line for line in lines if line]  # the last one may be nothing
    content = b"".join(lines)
    starts, ends = find_lines(content)
    assert [content[start:end] for start, end in zip(starts, ends, strict=True)] == expected


# The least and the largest byte of each class that RFC 3629 tells apart, and some ASCII.
BORDERS = bytes.fromhex("20 22 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff")


@pytest.mark.parametrize("offset", [0, 30, 60, 61, 62, 63])
def test_what_is_no_utf8_is_never_read(offset):
    """Three or four bytes from all the borders, at several places of a block that others are behind."""
    head, tail = b'{"text":"' + b"a" * (119 + offset), b"b" * 130 + b'"}'
    endings = (b"", b"\x80", b"\xbf")
    for codes in itertools.product(BORDERS, repeat=3):
        for ending in endings if codes[0] >= 0xF0 else endings[:1]:
            line = head + bytes(codes) + ending + tail
            found = read_texts(line, "text")
            try:
                expected = orjson.loads(line)["text"]
            except orjson.JSONDecodeError:
                expected = None
            assert (found.texts.text(0) if found else None) == expected, bytes(codes).hex()


def test_every_character_is_read():
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    for n_before in range(4):
        found = read_texts(orjson.dumps({"text": "a" * n_before + every}), "text")
        assert found.texts.text(0) == "a" * n_before + every
