from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.text import word_model
from dsllm.text.scan import words
from dsllm.text.texts import Texts
from dsllm.text.word_model import WordModel

START = object()


def join(texts):
    return Texts.join([text.encode() for text in texts])


def perplexity_by_definition(trained_on, text):
    """Witten and Bell's formula over dictionaries of tuples."""
    counts, followers = Counter(), defaultdict(set)
    for other in trained_on:
        seen = [START, START, *words(other, fold=True, punctuation=True)]
        for place in range(2, len(seen)):
            for order in range(3):
                context = (order, *seen[place - order : place])
                counts[context] += 1
                counts[(*context, seen[place])] += 1
                followers[context].add(seen[place])
    seen = [START, START, *words(text, fold=True, punctuation=True)]
    logarithms = []
    for place in range(2, len(seen)):
        probability = 1 / (len(followers[0,]) + 1)
        for order in range(3):
            context = (order, *seen[place - order : place])
            different = len(followers[context]) if context in followers else 0
            if counts[context]:
                met = counts[(*context, seen[place])]
                probability = (met + different * probability) / (counts[context] + different)
        logarithms.append(np.log(probability))
    return np.exp(-np.mean(logarithms)) if logarithms else np.nan


text = st.lists(st.sampled_from("the The river rose . , 河 水 上涨 é 12 a b".split()), max_size=25).map(
    " ".join
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(text, max_size=4), max_size=4), st.lists(text, max_size=4))
def test_perplexity_is_that_of_the_formula(batches, texts):
    model = WordModel.train(map(join, batches))
    trained_on = [text for batch in batches for text in batch]
    expected = [perplexity_by_definition(trained_on, text) for text in texts]
    # Logarithms of probabilities of 15 digits: the sum of some dozens keeps 12.
    np.testing.assert_allclose(model.perplexities(join(texts)), expected, rtol=1e-12)


def test_by_hand():
    # Of "a b", the unknown "c" first: 1/3; single words (0 + 2/3) / (2 + 2) = 1/6; the start, once before a,
    # (0 + 1/6) / (1 + 1) = 1/12; two starts likewise 1/24.
    model = WordModel.train([join(["a b"])])
    assert model.perplexities(join(["c"]))[0] == pytest.approx(24)


def test_tables_grow_and_stop_growing(monkeypatch):
    generator = np.random.default_rng(0)
    texts = [" ".join(str(n) for n in generator.integers(0, 500, 80)) for _ in range(60)]
    whole = WordModel.train([join(texts)]).perplexities(join(texts[:5]))
    monkeypatch.setattr(word_model, "FIRST_SLOTS", 1 << 10)
    grown = WordModel.train(join([text]) for text in texts)
    np.testing.assert_array_equal(grown.perplexities(join(texts[:5])), whole)
    monkeypatch.setattr(word_model, "MOST_SLOTS", 1 << 12)
    full = WordModel.train([join(texts)])
    assert len(full.table) == 1 << 12
    assert 0 < full.totals[0] < 60 * 80


def test_a_model_comes_back_from_its_file(tmp_path):
    model = WordModel.train([join(["the river rose and the river fell"])])
    model.save(tmp_path / "words.npy")
    again = WordModel.read(tmp_path / "words.npy")
    texts = join(["the river", "another", ""])
    np.testing.assert_array_equal(again.perplexities(texts), model.perplexities(texts))
    np.save(tmp_path / "other.npy", np.zeros((4, 3)))
    with pytest.raises(ValueError, match="no model of words"):
        WordModel.read(tmp_path / "other.npy")
