"""The compiled features against their definitions in plain Python."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsllm.io.sources import find_sources, read_batches
from dsllm.text import features as definition
from dsllm.text.features_compiled import FEATURES, measure
from dsllm.text.json_lines import read_texts
from dsllm.text.texts import Texts

NAMES = [name for name in FEATURES if name in definition.FEATURES]

# Bits of text that some feature looks for, beside any characters.
bits = st.sampled_from(
    [
        *(
            "the",
            "of",
            "a",
            "b",
            "abcdefgh",
            "abcdefghi",
            "Hello",
            "22",
            "²",
            "的",
            "之",
            "中",
            "カ",
            "한",
            "é",
        ),
        *(" ", "  ", "\n", "\n\n", "\r\n", "\r", "\t", "\u3000", "\xa0", "\x1f", "\x85", "\u2028"),
        *(
            ".",
            "..",
            "...",
            "…",
            "。",
            "。。。",
            "!",
            "？",
            "；",
            ",",
            "，",
            "#",
            "＃",
            "{",
            "-",
            "•",
            "·",
            "*",
        ),
        *(")", "]", "”", "'", "\u0301", "javascript", "JavaScript", "lorem ipsum", "Privacy policy"),
        *(
            "don't",
            "I'm",
            "Mr.",
            "e.g.",
            "U.S.",
            "10km",
            "5%",
            "$",
            "http://",
            "example.com",
            "/a",
            "@",
            "--",
        ),
        *("well-known", "x=y", "a.B", "'s", "’s", "(", ":", ":8080", "etc.", "+3", "1+2", "US$", "no.", "2."),
        *("使用条款", "use of cookies", "版权所有", "\U0001f642", "\U00020000"),
    ]
)
anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u212a"), max_size=3)
texts = st.lists(bits | anything, max_size=60).map("".join)


def compare(documents, languages, wanted=None):
    joined = Texts.join([document.encode() for document in documents])
    wanted = np.ones(len(documents), bool) if wanted is None else wanted
    found = measure(joined, languages, NAMES, wanted)
    expected = definition.measure(joined, languages, NAMES, wanted)
    for at, name in enumerate(NAMES):
        np.testing.assert_allclose(found[:, at], expected[:, at], rtol=1e-12, err_msg=name)


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, max_size=4), st.sampled_from(["en", "zh", "ja", "fr"]))
@example(["x" * 63 + "...", "." * 200, "…" * 70, "。" * 70, "a. b. " * 40], "en")
@example([("word " * 20 + "\n") * 30, "a\r\nb\r\n\r\na\r\nb\r\n", "的的的" * 500], "zh")
def test_compiled_features_are_those_defined(documents, language):
    compare(documents, [language] * len(documents))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a ", "bb ", "ccc ", "的"]), max_size=120).map("".join))
def test_recurring_words_are_those_defined(document):
    compare([document], ["en"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["a ", "bb ", "ccc. ", "的", "文", "x\n", *(f"w{n} " for n in range(60))]),
        max_size=200,
    )
    .map("".join)
    .filter(len),
    st.sampled_from(["word", "term"]),
    st.floats(0, 0.6),
    st.floats(0, 0.6),
)
def test_what_is_not_counted_is_within_its_limit(document, kind, top, duplicate):
    grams = [
        name for name in NAMES if name.endswith("_gram_char_frac" if kind == "word" else "_term_char_frac")
    ]
    most = {name: top if name.startswith("top_") else duplicate for name in grams}
    joined, wanted = Texts.join([document.encode()]), np.ones(1, bool)
    exact = measure(joined, ["en"], grams, wanted)[0]
    found = measure(joined, ["en"], grams, wanted, most)[0]
    if np.isnan(found).any():  # left out together
        assert np.isnan(found).all()
        assert all(value <= most[name] for name, value in zip(grams, exact, strict=True))
    else:
        np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("least", [1, 2.5, 5])
@settings(max_examples=100, deadline=None)
@given(document=texts, n_lines=st.integers(0, 40))
@example("No sentence", 0)
def test_sentences_are_counted_as_far_as_it_takes(least, document, n_lines):
    document += "\nThis is one. It goes on" * n_lines  # more bytes than are looked at first
    joined = Texts.join([b"Another one. " * 50, b"", document.encode()])
    names, wanted = ["n_line_sentences", "n_curly_brackets"], np.ones(3, bool)
    exact = measure(joined, ["en"] * 3, names, wanted)
    found = measure(joined, ["en"] * 3, names, wanted, least={"n_line_sentences": least})
    assert np.array_equal(found[:, 1], exact[:, 1])
    is_enough = exact[:, 0] >= least
    assert np.all(found[is_enough, 0] >= least)
    assert np.array_equal(found[~is_enough, 0], exact[~is_enough, 0])


def test_a_long_text_with_sentences_is_not_read_to_its_end():
    joined = Texts.join([b"This is one. So is this.\n" * 1000])
    found = measure(joined, ["en"], ["n_line_sentences"], np.ones(1, bool), least={"n_line_sentences": 5})
    assert 5 <= found[0, 0] < 100


def test_prose_is_not_counted_and_repetition_is():
    names = ["top_2_gram_char_frac", "duplicate_5_gram_char_frac", "duplicate_10_gram_char_frac"]
    most = dict.fromkeys(names, 0.2)
    prose = " ".join(f"w{n * n % 5003}" for n in range(3000))
    repeated = " ".join(f"w{n % 1000}" for n in range(3000))
    found = measure(
        Texts.join([prose.encode(), repeated.encode()]), ["en"] * 2, names, np.ones(2, bool), most
    )
    assert np.isnan(found).all(axis=1).tolist() == [True, False]
    # all three thousand words but the first thousand, out of their characters and a space behind each but one
    chars = [len(f"w{n}") for n in range(1000)]
    assert found[1, 1] == 2 * sum(chars) / (3 * sum(chars) + 2999)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([*"。…，、！？.,#{＃；：a中é", "……", "...", "。。。", "x" * 61]), max_size=120
    ).map("".join),
    st.lists(
        st.sampled_from(
            ["\n", "\r\n", "\r", " ", "\u3000", "a", "b.", "中。", "long line " * 4, "long line " * 3 + "z"]
        ),
        max_size=60,
    ).map("".join),
)
def test_marks_and_lines_across_blocks_are_those_defined(marks, lines):
    compare([marks, lines], ["zh", "en"])


def test_only_wanted_texts_are_measured():
    wanted = np.array([False, True, False])
    compare(["one two", "three four", "five"], ["en"] * 3, wanted)
    found = measure(Texts.join([b"one", b"two words", b""]), ["en"] * 3, ["n_words"], wanted)
    assert np.isnan(found[:, 0]).tolist() == [True, False, True]
    assert found[1, 0] == 2


def test_a_long_text_is_measured_in_pieces():
    words = [f"w{n % 997}" for n in range(40_000)]
    compare([" ".join(words), "中" * 30_000, "x" * 50_000], ["en", "zh", "en"])


@pytest.mark.data
@pytest.mark.parametrize("domain", ["en_prose-000", "zh_prose-000", "web-000", "other_langs-000", "code-000"])
def test_compiled_features_of_real_documents(domain):
    if "DSLLM_TEST_DATA" not in os.environ:
        pytest.skip("DSLLM_TEST_DATA names no folder")
    path = Path(os.environ["DSLLM_TEST_DATA"]) / f"pretrain/{domain}.jsonl.zst"
    batch = next(iter(read_batches(find_sources([str(path)])[0])))
    lines = read_texts(batch.lines, "text")
    assert lines is not None
    every = [lines.texts.text(place) for place in range(0, len(lines.texts.ends), 12)]
    compare(every, ["zh" if domain.startswith("zh") else "en"] * len(every))
