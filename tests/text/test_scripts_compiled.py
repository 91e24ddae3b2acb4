import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.stages.filter.scripts import Scripts
from dsllm.text.scan import CJK, character_classes
from dsllm.text.scripts_compiled import ASCII, HAN, HANGUL, KANA, OTHER, count_letters
from dsllm.text.texts import Texts


def counted(text):
    """The definition, letter by letter."""
    found = [0] * 5
    for each in filter(str.isalpha, text):
        if each.isascii():
            found[ASCII] += 1
        elif character_classes()[ord(each)] != CJK:
            found[OTHER] += 1
        elif "\uac00" <= each <= "\ud7a3":
            found[HANGUL] += 1
        elif "\u3040" <= each <= "\u30ff" or "\u31f0" <= each <= "\u31ff" or "\uff66" <= each <= "\uff9f":
            found[KANA] += 1
        else:
            found[HAN] += 1
    return found


some = st.text(st.sampled_from("a1 é中のカ한Я。\U00020000"), max_size=150)


@settings(max_examples=200, deadline=None)
@given(st.lists(some | st.text(st.characters(exclude_categories=["Cs"]), max_size=100), max_size=4))
def test_letters_are_counted(documents):
    found = count_letters(Texts.join([text.encode() for text in documents]))
    assert found.tolist() == [counted(text) for text in documents]


def test_languages_by_their_letters():
    documents = {
        "The river was very wide, as naïve as ever.": "en",
        "河水上涨了 (Tuesday)": "zh",
        "川の水は増えていた": "ja",
        "강물은 불어나고": "ko",
        "Река поднималась": "other",
        "déjà élevé à l'été": "other",
        "12 + 3": "none",
        "": "none",
    }
    labels, index, confidence = Scripts().guess_all(Texts.join([text.encode() for text in documents]))
    assert [labels[number] for number in index] == list(documents.values())
    assert np.all(confidence == 1)
