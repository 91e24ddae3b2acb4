from hypothesis import given
from hypothesis import strategies as st

from dsllm.text.letters_compiled import have_letters
from dsllm.text.texts import Texts


@given(st.lists(st.text(), max_size=6))
def test_letters_are_what_python_calls_alphabetic(texts):
    expected = [any(map(str.isalpha, text)) for text in texts]
    assert have_letters(Texts.join([text.encode() for text in texts])).tolist() == expected


def test_marks_digits_and_signs_are_none():
    texts = ["", "12 + 3 = 15", "=====\n\n***", "。。。", "①Ⅳ", "😀", "。。。語", "ª", "0x"]
    expected = [False, False, False, False, False, False, True, True, True]
    assert have_letters(Texts.join([text.encode() for text in texts])).tolist() == expected
