import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.text import fasttext_model
from dsllm.text.fasttext_file import read_fasttext
from dsllm.text.fasttext_model import FastText
from dsllm.text.texts import Texts

# fastText adds up single-precision rows in another order: a few units of 6e-8 each, times the products.
TOLERANCE = 1e-5

WORDS = [
    *("the river sea lamp stone of and with under water cloud fields night 雨 河水 上涨 了 孩子们").split(),
    *("дом река вода ночью свет él niño über straße ночь 강물 물 אור नदी แม่น้ำ 😀 naïve").split(),
]
LABELS = ["en", "zh", "ru", "es", "ko"]

MODELS = {
    "bin": {"dim": 16, "minn": 1, "maxn": 4, "bucket": 5000},
    "bin-odd-dim": {"dim": 10, "minn": 2, "maxn": 3, "bucket": 777},
    "bin-word-ngrams": {"dim": 20, "minn": 0, "maxn": 0, "wordNgrams": 3, "bucket": 1000},
    "bin-both-ngrams": {"dim": 5, "minn": 2, "maxn": 5, "wordNgrams": 2, "bucket": 999},
    "bin-words-alone": {"dim": 33, "minn": 0, "maxn": 0, "bucket": 0},
    "bin-hs": {"dim": 16, "minn": 2, "maxn": 4, "bucket": 3000, "loss": "hs"},
    "bin-ova": {"dim": 16, "minn": 2, "maxn": 4, "bucket": 3000, "loss": "ova"},
    "bin-ns": {"dim": 16, "minn": 2, "maxn": 4, "bucket": 3000, "loss": "ns"},
    "ftz": {"dim": 16, "minn": 1, "maxn": 4, "bucket": 5000},
    "ftz-cut": {"dim": 16, "minn": 1, "maxn": 4, "bucket": 5000, "wordNgrams": 2},
    "ftz-odd-dim": {"dim": 13, "minn": 1, "maxn": 3, "bucket": 600},
    "ftz-words-alone": {"dim": 8, "minn": 0, "maxn": 0, "bucket": 500, "wordNgrams": 2},
}
QUANTISED = {
    "ftz": {"dsub": 2},
    "ftz-cut": {"dsub": 2, "qnorm": True, "cutoff": 400},
    "ftz-odd-dim": {"dsub": 4, "qnorm": True},
    "ftz-words-alone": {"dsub": 2, "qnorm": True, "cutoff": 300},
}


def lines_to_train(n_lines):
    generator = np.random.default_rng(0)
    for at in range(n_lines):
        # The labels have unlike counts: the tree of "hs" has branches of unlike lengths.
        label = LABELS[min(generator.geometric(0.4) - 1, len(LABELS) - 1)]
        shift = LABELS.index(label) * 5
        words = [WORDS[(shift + generator.integers(14)) % len(WORDS)] for _ in range(1 + at % 9)]
        yield f"__label__{label} {' '.join(words)}"


@pytest.fixture(scope="module", params=MODELS)
def models(request, tmp_path_factory):
    """A small model: the file, read by us, and as the package has it."""
    import fasttext

    folder = tmp_path_factory.mktemp("fasttext")
    (folder / "train.txt").write_text("\n".join(lines_to_train(400)) + "\n", "utf-8")
    arguments = {"epoch": 12, "lr": 0.8, "thread": 1, "seed": 3, "verbose": 0, "minCount": 1}
    model = fasttext.train_supervised(str(folder / "train.txt"), **arguments, **MODELS[request.param])
    if request.param in QUANTISED:
        model.quantize(input=None, verbose=0, **QUANTISED[request.param])
    path = folder / f"{request.param}.model"
    model.save_model(str(path))
    read = read_fasttext(path)
    assert isinstance(read, FastText), read
    return path, read, fasttext.load_model(str(path))


def predict_by_package(model, labels, text):
    """The definition: one line, and not cut at a word that stands for its end."""
    words = text.translate(dict.fromkeys(map(ord, "\t\n\v\f\r\0"), " ")).split(" ")
    line = " ".join(word for word in words if word != "</s>") + "\n"
    found = {label: probability for probability, label in model.f.predict(line, -1, 0.0, "strict")}
    return np.array([found.get(label, 0.0) for label in labels])


def assert_same(models, texts):
    _, ours, theirs = models
    assert sorted(ours.labels) == sorted(theirs.get_labels())
    actual = ours.predict(Texts.join([text.encode() for text in texts]))
    expected = np.array([predict_by_package(theirs, ours.labels, text) for text in texts])
    # A step of fastText's logistic function is 1/128 high at most; sums may lie on either side of its edge.
    tolerance = 1 / 100 if ours.loss in ("ova", "ns") else TOLERANCE
    np.testing.assert_allclose(actual, expected.reshape(actual.shape), rtol=0, atol=tolerance)


pieces = st.one_of(
    st.sampled_from([*WORDS, " ", "\n", "\0", "\t", "\v", "\f", "\r", "</s>", "<", ">", "__label__", "_"]),
    st.sampled_from(["__label__en", "__label__none", "a</s>b", "\x01", "\x1f", "\x85", "\u3000", "\ufeff"]),
    st.text(max_size=40),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(pieces, max_size=12), max_size=4))
def test_same_probabilities_as_the_package(models, texts):
    assert_same(models, ["".join(text) for text in texts])
    assert_same(models, [" ".join(text) for text in texts])


@pytest.mark.parametrize("n_bytes", [7, 8, 9, 15, 16, 17, 24, 25, 31, 32, 33, 63, 64, 65, 1000])
def test_words_and_texts_of_any_length(models, n_bytes):
    word = "abcdefghij" * 100
    han = "".join(chr(0x4E00 + 7 * at) for at in range(n_bytes))
    texts = [word[:n_bytes], f"{word[:n_bytes]} the {word[:n_bytes]}", f"the {han} river", han[:n_bytes]]
    assert_same(models, [*texts, " " * n_bytes, "river " * n_bytes + word[:n_bytes], "é" * n_bytes])


def test_memory_of_words_changes_nothing(models, monkeypatch):
    path, ours, _ = models
    texts = Texts.join([line.encode() for line in lines_to_train(300)])
    expected = ours.predict(texts)
    np.testing.assert_array_equal(ours.predict(texts), expected)
    monkeypatch.setattr(fasttext_model, "MEMORY_BYTES", 1 << 10)  # a few words: most are forgotten
    small = read_fasttext(path)
    np.testing.assert_array_equal(small.predict(texts), expected)
    one_by_one = [ours.predict(Texts.join([line.encode()])) for line in lines_to_train(300)]
    np.testing.assert_array_equal(np.concatenate(one_by_one), expected)


def test_no_texts_and_empty_ones(models):
    _, ours, _ = models
    assert ours.predict(Texts.join([])).shape == (0, len(ours.labels))
    assert_same(models, ["", "", "the", ""])


def test_a_cut_file_is_told(models, tmp_path):
    path, _, _ = models
    data = path.read_bytes()
    cut = tmp_path / "cut.model"
    for n_bytes in (3, 50, 70, 200, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:n_bytes])
        assert isinstance(read_fasttext(cut), str)


def test_other_files_are_told(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"not a model" * 20)
    assert "no file of fastText" in read_fasttext(path)
    path.write_bytes(struct.pack("<2i12id", 793712314, 13, *[1] * 12, 0.0))
    assert "later version" in read_fasttext(path)
    path.write_bytes(struct.pack("<2i12id", 793712314, 12, *[1] * 7, 2, *[1] * 4, 0.0))
    assert "word vectors" in read_fasttext(path)
