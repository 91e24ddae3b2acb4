"""Quotes, compiled, against a plain search by edit distance."""

import random

import numpy as np
import pytest

from dsllm.text import quotes_compiled
from dsllm.text.quotes import QuoteIndex, own_words, share_covered
from dsllm.text.quotes_compiled import END, FIRST, REFERENCE, REFERENCE_END, REFERENCE_FIRST, TEXT
from dsllm.text.texts import Texts
from dsllm.text.word_hashes_compiled import hash_texts


def join(texts):
    return Texts.join([text.encode() for text in texts])


def is_near(words, others):
    """One substitution, deletion or insertion at most, tried one after another."""
    if words == others:
        return True
    if len(words) == len(others):
        return sum(one != other for one, other in zip(words, others, strict=True)) == 1
    longer, shorter = (words, others) if len(words) > len(others) else (others, words)
    return len(longer) == len(shorter) + 1 and any(
        longer[:place] + longer[place + 1 :] == shorter for place in range(len(longer))
    )


def has_quote(text, reference, n_words, least_changed):
    """The definition: some window of the reference, and some window of the text."""
    n_needed = min(n_words, len(reference))
    for start in range(len(reference) - n_needed + 1):
        window = reference[start : start + n_needed]
        for size in range(n_needed - 1, n_needed + 2):
            for place in range(len(text) - size + 1):
                found = text[place : place + size]
                if found == window or (n_needed >= least_changed and is_near(found, window)):
                    return True
    return False


@pytest.mark.parametrize("least_changed", [1, 6, 100])
def test_quotes_are_those_of_a_plain_search(least_changed):
    generator = random.Random(least_changed)
    vocabulary = ["ab", "cd", "ef"]  # few words: everything nearly occurs everywhere
    references = [[generator.choice(vocabulary) for _ in range(generator.randint(3, 14))] for _ in range(12)]
    texts = [[generator.choice(vocabulary) for _ in range(generator.randint(0, 40))] for _ in range(40)]
    index = QuoteIndex.build(
        join(map(" ".join, references)), n_words=8, min_words=4, least_changed=least_changed
    )
    rows = index.find(join(map(" ".join, texts)))
    found = {(row[TEXT], row[REFERENCE]) for row in rows.tolist()}
    expected = {
        (i, j)
        for i, text in enumerate(texts)
        for j, reference in enumerate(references)
        if len(reference) >= 4 and has_quote(text, reference, 8, least_changed)
    }
    assert found == expected
    assert expected
    for row in rows.tolist():
        quoted = texts[row[TEXT]][row[FIRST] : row[END]]
        original = references[row[REFERENCE]][row[REFERENCE_FIRST] : row[REFERENCE_END]]
        assert quoted == original or (least_changed <= 8 and is_near(quoted, original))


@pytest.mark.parametrize("place", range(20))
def test_any_word_of_a_long_reference_may_be_changed_missing_or_preceded(place):
    reference = [f"w{number}" for number in range(20)]
    index = QuoteIndex.build(join([" ".join(reference)]), n_words=13, min_words=8, least_changed=11)
    before, after = reference[:place], reference[place + 1 :]
    for changed in ([*before, "x", *after], [*before, *after], [*before, "x", *reference[place:]]):
        rows = index.find(join(["y " * 300 + " ".join(changed) + " z"])).tolist()
        share = share_covered([(row[REFERENCE_FIRST], row[REFERENCE_END]) for row in rows], 20)
        assert share >= 19 / 20  # a word that is missing at the end may go unseen


def test_characters_are_words_in_chinese():
    index = QuoteIndex.build(
        join(["红楼梦的作者究竟是曹雪芹还是高鹗呢"]), n_words=13, min_words=8, least_changed=11
    )
    text = "有人问：《红楼梦》的作者究竟是曹雪芹，或是高鹗呢？"
    assert index.find(join([text])).tolist() == [[0, 3, 20, 0, 0, 17]]
    assert not len(index.find(join(["红楼梦的作者不知道究竟是不是曹雪芹"])))


def test_room_grows_and_hits_on_other_words_are_none(monkeypatch):
    monkeypatch.setattr("dsllm.text.quotes._ROOM", 1)
    texts = ["a b c d e f g h", "x", "a b c d e f g h"]
    index = QuoteIndex.build(join(["a b c d e f g h"]), n_words=13, min_words=8, least_changed=11)
    assert [row[TEXT] for row in index.find(join(texts)).tolist()] == [0, 2]
    forged = index.references.copy()
    forged[7] += np.uint64(1)  # as if the hash of the seed led to another run
    other = QuoteIndex(**{**vars(index), "references": forged})
    assert not len(other.find(join(texts)))
    assert quotes_compiled.FULL < 0


def test_templates_of_many_references_are_found_by_what_else_these_say(monkeypatch):
    monkeypatch.setattr("dsllm.text.quotes.MAX_SHARED", 3)
    template = "answer the following question about the text that is given above in one word"
    own = ["a b c d e f g", "h i j k l m n", "o p q r s t u", "v w x y z aa bb"]
    index = QuoteIndex.build(
        join([f"{template} {words}" for words in own]), n_words=13, min_words=8, least_changed=12
    )
    rows = index.find(join([template, f"{template} {own[1]}"])).tolist()
    assert rows == [[1, 0, 21, 1, 0, 21]]


@pytest.mark.parametrize("seed", range(20))
def test_own_words_are_in_no_run_of_another_reference(seed):
    generator = random.Random(seed)
    references = [
        generator.choices("abc", k=generator.randint(0, 12)) for _ in range(generator.randint(1, 6))
    ]
    n_words = generator.randint(2, 4)
    words, ends = hash_texts(join([" ".join(each) for each in references]), fold=True, punctuation=False)
    expected = []
    for number, reference in enumerate(references):
        others = [other for at, other in enumerate(references) if at != number]
        runs = {tuple(other[at : at + n_words]) for other in others for at in range(len(other) - n_words + 1)}
        for place in range(len(reference)):
            starts = range(max(0, place - n_words + 1), min(place, len(reference) - n_words) + 1)
            expected.append(not any(tuple(reference[at : at + n_words]) in runs for at in starts))
    assert own_words(words, ends, n_words).tolist() == expected


def test_shares_by_hand():
    assert share_covered([(0, 4), (2, 6), (8, 10)], 10) == 0.8
    assert share_covered([], 10) == 0.0
