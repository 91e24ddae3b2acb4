"""Hashes of words, of runs and of normal forms, compiled, against the definitions; and places of pieces."""

import re
from itertools import pairwise

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsllm.text import scan, shingles
from dsllm.text.texts import Texts
from dsllm.text.word_hashes_compiled import hash_normal_forms, hash_runs, hash_texts

edgy_text = st.text(
    "aZ09_ \n\r\t.Éß\u0130\u023aΣς\u0301中か\u00a0\u3000\x1c\ufeff٣９𝟗Ⅷ𠀀\U0001f9d1", max_size=200
)


@settings(max_examples=100)
@given(st.lists(edgy_text, max_size=4))
@example(["", "a" * 40_000 + "9" * 40_000, ""])
def test_hashes_are_those_of_the_definitions(texts):
    packed = Texts.join([text.encode() for text in texts])
    for fold, punctuation in ((True, False), (False, True)):
        hashes, ends = hash_texts(packed, fold=fold, punctuation=punctuation)
        own = np.split(hashes, ends[:-1]) if texts else []
        for text, found in zip(texts, own, strict=True):
            split = scan.words(text, fold=fold, punctuation=punctuation)
            assert np.array_equal(found, shingles.hash_words(split))
    forms, n_words = hash_normal_forms(packed)
    for text, form, number in zip(texts, forms, n_words, strict=True):
        split = [re.sub(r"\d", "0", word) for word in scan.words(text, fold=True)]
        assert number == len(split)
        if split:
            assert form == shingles.hash_shingles(shingles.hash_words(split), len(split))[0]


def test_runs_are_hashed_as_shingles():
    words = np.random.default_rng(0).integers(0, 2**63, 90, np.uint64)
    for n_words in (1, 2, 7, 50, 90):
        found = np.zeros(90, np.uint64)
        n_found = hash_runs(words, n_words, found)
        assert np.array_equal(found[:n_found], shingles.hash_shingles(words, n_words))
    assert hash_runs(words, 91, found) == 0


@settings(max_examples=200)
@given(edgy_text)
@example("\r")
@example("a\n")
@example("\n\n a\r\n\x1c\nb")
def test_spans_are_those_of_words_lines_and_paragraphs(text):
    for punctuation in (False, True):
        found = [
            scan.fold_case(text)[slice(*span)] for span in scan.word_spans(text, punctuation=punctuation)
        ]
        assert found == scan.words(text, fold=True, punctuation=punctuation)
        assert scan.has_words(text, punctuation=punctuation) == bool(found)
    spans = scan.line_spans(text)
    assert "".join(text[slice(*span)] for span in spans) == text
    assert [line for span in spans for line in scan.lines(text[slice(*span)])] == scan.lines(text)
    spans = scan.paragraph_spans(text)
    assert [scan.paragraphs(text[slice(*span)])[0] for span in spans] == scan.paragraphs(text)
    assert all(end == start for (_, end), (start, _) in pairwise(spans))
