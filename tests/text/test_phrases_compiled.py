import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.text.phrases_compiled import count_phrases, count_phrases_plain
from dsllm.text.texts import Texts

PHRASES = ("damn", "damned", "hot dog", "脏话", "été", "_x_")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Damn! A HOT DOG.", 2),
        ("condamn damnation damned", 1),  # the last one only
        ("说脏话的人", 1),
        ("étés été", 1),
        ("a_damn", 0),
        ("", 0),
    ],
)
def test_phrases_by_hand(text, expected):
    assert count_phrases_plain(text, PHRASES) == expected


pieces = st.sampled_from(
    [*PHRASES, "Damn", " ", ".", "a", "1", "中", "é", "\u0301", "_", "Hot Dog", "x" * 70]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(pieces, max_size=20).map("".join), max_size=3))
def test_compiled_counts_are_those_defined(documents):
    wanted = np.arange(len(documents)) != 1
    found = count_phrases(Texts.join([text.encode() for text in documents]), PHRASES, wanted)
    expected = [count_phrases_plain(text, PHRASES) if wanted[at] else 0 for at, text in enumerate(documents)]
    assert found.tolist() == expected
