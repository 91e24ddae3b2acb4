"""The compiled pass against the definitions in plain Python: words, signatures, digests, sets."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsllm.io.documents import parse_batch
from dsllm.io.sources import find_sources, read_batches
from dsllm.text import scan, scan_compiled, shingles
from dsllm.text.shingles_compiled import Shingler
from dsllm.text.texts import Texts

PERMUTATIONS = shingles.make_permutations(20, 7)
OPTIONS = [(fold, punctuation) for fold in (True, False) for punctuation in (True, False)]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
# Where words begin and end is decided among these; some letters fold to longer or shorter ones.
edgy_text = st.text(
    "aZ0_ \n.Éß\u0130\u023a\u1e9e\u212aΣςя\u0301\u20e3中文かﾊ한🙂\u200d\u00a0\ufeff𠀀𝒜\U0001f9d1",
    max_size=200,
)


def check(texts, n_words, fold, punctuation):
    packed = Texts.join([text.encode() for text in texts])
    shingler = Shingler(n_words, fold, punctuation)
    sketches = shingler.sign(packed, PERMUTATIONS)
    sets, ends = shingler.shingle_sets(packed)
    starts = [0, *ends[:-1].tolist()]
    for place, text in enumerate(texts):
        words = scan.words(text, fold=fold, punctuation=punctuation)
        hashes = shingles.hash_words(words)
        expected = shingles.shingle_set(words, n_words)
        assert sketches.n_words[place] == len(words), text[:500]
        assert tuple(sketches.digests[place].tolist()) == shingles.digest(hashes), text[:500]
        assert np.array_equal(sketches.signatures[place], shingles.minhash(expected, PERMUTATIONS)), text[
            :500
        ]
        assert np.array_equal(np.sort(sets[starts[place] : ends[place]]), expected), text[:500]


@given(st.lists(any_text | edgy_text, max_size=4), st.integers(1, 6), st.sampled_from(OPTIONS))
@example(["", " ", "a", "\u0301", "ab" * 70 + "中" + "c" * 64], 5, (True, False))
def test_equals_the_definition(texts, n_words, options):
    check(texts, n_words, *options)


@pytest.mark.parametrize(("fold", "punctuation"), OPTIONS)
@pytest.mark.parametrize("offset", [0, 1, 63])
def test_every_code_point_equals_the_definition(fold, punctuation, offset):
    """Each after a letter, before one, and beside itself, at several places of a block."""
    codes = np.r_[0:0xD800, 0xE000:0x20100, 0x2FFF0:0x30010, 0xE0000:0xE0200, 0x10FFF0:0x110000]
    text = "x" * offset + " ".join(f"a{chr(code)}b {chr(code)}{chr(code)}" for code in codes.tolist())
    check([text], 5, fold, punctuation)


@pytest.mark.parametrize("unit", ["a", "é", "Ⱥ", "中", "a ", "中 ", "a.", "\u0301", "𠀀b", "🙂"])
def test_texts_longer_than_a_piece(unit):
    """Words that are longer than a piece, and pieces full of words of one letter."""
    n_units = 3 * scan_compiled.PIECE_BYTES // len(unit.encode()) + 7
    for punctuation in (False, True):
        check([unit * n_units, "x " + unit * n_units + " y"], 5, True, punctuation)


def test_a_text_of_equal_words_has_one_shingle():
    """Five times the same word: the table is asked for one value again and again."""
    packed = Texts.join([b"na " * 10_000])
    hashes, ends = Shingler(5, True, False).shingle_sets(packed)
    assert ends.tolist() == [1]
    assert hashes.tolist() == shingles.shingle_set(["na"] * 5, 5).tolist()


@pytest.mark.data
@pytest.mark.skipif("DSLLM_TEST_DATA" not in os.environ, reason="DSLLM_TEST_DATA names no corpora")
def test_equals_the_definition_on_real_text():
    data = Path(os.environ["DSLLM_TEST_DATA"])
    for source in find_sources([str(data / "pretrain"), str(data / "neardup" / "dump-*")]):
        batch = next(read_batches(source))
        documents, _ = parse_batch(batch, text_field="text", on_error="stop")
        check([document.text for document in documents[:60]], 5, True, False)
