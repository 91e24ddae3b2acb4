"""Lines that C4 would drop, by hand; and the compiled cut against its definition."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsllm.text.cut_lines import LineCut, cut_lines
from dsllm.text.cut_lines_compiled import cut_texts
from dsllm.text.texts import Texts

C4 = LineCut(
    ends=(".", "?", "!", '"', "'", "。", "”"),
    not_ends=("...", "……"),
    min_words=3,
    max_word_chars=20,
    without=("javascript", "privacy policy", "使用条款"),
    strip_citations=True,
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  This line is kept.\t", "This line is kept."),
        ("Two words.", None),
        ("This has no end mark", None),
        ("This one ends so...", None),
        ("Please enable JavaScript to see it.", None),
        ("Read our Privacy Policy for more.", None),
        (f"This has {'x' * 21} in it.", None),
        ("Water[12] is[edit] wet.[]", "Water is wet."),
        ("It is said so.[citation needed]", "It is said so."),
        ("It is [sic] so.", "It is [sic] so."),
        ("今天很好。", "今天很好。"),  # five marks and characters: more than three words
        ("好。", None),
        ("请看使用条款。", None),
    ],
)
def test_a_line_is_kept_or_dropped(line, expected):
    text = f"First of all lines.\n{line}\r\n\nLast of the lines."
    kept = "First of all lines.\n" + (f"{expected}\n" if expected else "") + "Last of the lines."
    assert cut_lines(text, C4) == kept


bits = st.sampled_from(
    [
        *(
            "This is a line.",
            "no end",
            "one two three",
            ".",
            "...",
            "……",
            "[1]",
            "[]",
            "[edit]",
            "[citation ",
        ),
        *("needed]", "[", "]", "\n", "\r\n", "\n\n", " ", "\u3000", "\x85", "JavaScript", "privacy policy"),
        *("中文", "使用条款", "。", "”", "!", "x" * 19, "é" * 11, "a b c", '"', "\U00020000"),
    ]
)
texts = st.lists(bits | st.text(st.characters(exclude_categories=["Cs"]), max_size=2), max_size=30).map(
    "".join
)
cuts = st.sampled_from([C4, LineCut(), LineCut(min_words=2, ends=("。",)), LineCut(max_word_chars=5)])


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, max_size=4), cuts)
@example(["This is it.\n \n[1]\nThat is it.", "", "x"], C4)
def test_compiled_cut_is_the_one_defined(documents, cut):
    wanted = np.arange(len(documents)) % 3 != 2
    found, is_changed = cut_texts(Texts.join([text.encode() for text in documents]), cut, wanted)
    for place, text in enumerate(documents):
        expected = cut_lines(text, cut) if wanted[place] else text
        assert found.text(place) == expected
        assert bool(is_changed[place]) == (expected != text)
