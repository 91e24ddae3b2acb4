"""The pre-tokenizer's definition, held against Hugging Face `tokenizers` and against cuts made by hand."""

import itertools
import json
import os
import sys
import unicodedata
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import Sequence

from dsllm.text.pretokens import (
    CJK,
    LETTERS,
    LINE_ENDS,
    NUMBERS,
    PUNCTUATION,
    SPACES,
    code_point_ranges,
    huggingface_pre_tokenizer,
    pre_tokens,
)

TABLES = [LINE_ENDS, SPACES, LETTERS, PUNCTUATION, CJK, NUMBERS]
EDGES = sorted(
    {
        chr(code)
        for table in TABLES
        for first, last in code_point_ranges(table)
        for code in (first - 1, first, last, last + 1)
        if not 0xD800 <= code <= 0xDFFF
    }
)
ANY_CHARACTER = st.one_of(
    st.characters(exclude_categories=["Cs"]), st.sampled_from(EDGES), st.sampled_from(" \n\tab1é你。")
)
REFERENCE = huggingface_pre_tokenizer()


def reference(text):
    return [text[start:end] for _, (start, end) in REFERENCE.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        # One space goes with the word; of two, the first stands alone.
        ("Hello  world", ["Hello", " ", " world"]),
        ("a,b", ["a", ",", "b"]),
        ("x = (1)", ["x", " =", " (", "1", ")"]),
        # Each line end alone; spaces before one are one piece.
        ("a  \r\n\n b", ["a", "  ", "\r", "\n", "\n", " b"]),
        ("1234.5", ["1", "2", "3", "4", ".", "5"]),
        # A space before a digit belongs to nothing.
        ("in 1998", ["in", " ", "1", "9", "9", "8"]),
        ("Ⅳ½²", ["Ⅳ", "½", "²"]),
        ("你好，世界。", ["你好", "，", "世界", "。"]),
        ("こんにちは世界", ["こんにちは世界"]),
        ("读100页", ["读", "1", "0", "0", "页"]),
        ("〇一二", ["〇", "一二"]),  # U+3007 is a number (Nl) and the others are ideographs
        # The released punctuation class holds A-Z and a-z, so other letters are cut off from them.
        ("café", ["caf", "é"]),
        ("Привет мир", ["Привет", " мир"]),
        # ... and its CJK class holds U+1EC7.
        ("việt", ["vi", "ệ", "t"]),
        # No class for Arabic letters: the run keeps its spaces, but not those at its end.
        ("سلام عليكم ", ["سلام عليكم", " "]),
        ("tab\tx\t\ty", ["tab", "\tx", "\t", "\ty"]),
        ("don't", ["don", "'", "t"]),
        ("🙂🙂", ["🙂🙂"]),
        # U+3000 is white space and punctuation at once.
        ("　你", ["　", "你"]),
    ],
)
def test_cuts_by_hand(text, expected):
    assert pre_tokens(text) == expected


def test_every_assigned_code_point_is_classified_as_the_library_does():
    # After a letter, a space, an ideograph and itself a character shows every class it is in. Unassigned ones
    # are left out: whether they are numbers depends on the library's edition of Unicode.
    left_out = ("Cn", "Co", "Cs")
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    characters = [each for each in characters if unicodedata.category(each) not in left_out]
    for start in range(0, len(characters), 2000):
        text = "".join(f"a{each} 你{each}{each}é" for each in characters[start : start + 2000])
        assert pre_tokens(text) == reference(text)


@settings(max_examples=400)
@given(st.text(ANY_CHARACTER))
def test_any_text_is_cut_as_the_library_does(text):
    text = "".join(character for character in text if unicodedata.category(character) != "Cn")
    assert pre_tokens(text) == reference(text)


@settings(max_examples=100)
@given(st.text())
def test_pieces_joined_are_the_text(text):
    pieces = pre_tokens(text)
    assert "".join(pieces) == text
    assert all(pieces)


def test_ranges_ascend_and_do_not_meet():
    for table in TABLES:
        ends = [end for first, last in sorted(code_point_ranges(table)) for end in (first, last)]
        assert ends == sorted(ends)
    # The letters' ranges as the paper's release has them: the three that NFC would turn upside down.
    assert {(0x1F5F, 0x1F7D), (0x1FD0, 0x1FD3), (0x1FD6, 0x1FDB)} <= set(code_point_ranges(LETTERS))


def test_library_objects_survive_a_file():
    state = REFERENCE.__getstate__()
    copy = Sequence([])
    copy.__setstate__(state)
    assert copy.pre_tokenize_str("café 12") == REFERENCE.pre_tokenize_str("café 12")
    assert state.isascii()


@pytest.mark.data
@pytest.mark.skipif("DSLLM_TEST_DATA" not in os.environ, reason="needs the corpora")
def test_real_text_is_cut_as_the_library_does():
    files = sorted(Path(os.environ["DSLLM_TEST_DATA"]).rglob("*.jsonl*"))
    assert files
    for path in files:
        for text in sample_texts(path, n_texts=40, n_characters=4000):
            assert pre_tokens(text) == reference(text), path


def sample_texts(path, *, n_texts, n_characters):
    opened = path.open() if path.suffix == ".jsonl" else zstandard.open(path, "rt", encoding="utf-8")
    with opened as file:
        fields = [json.loads(line) for line in itertools.islice(file, n_texts)]
    values = [value for record in fields for value in record.values() if isinstance(value, str)]
    return [value[:n_characters] for value in values]
