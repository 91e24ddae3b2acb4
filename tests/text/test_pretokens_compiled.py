"""The compiled cuts against the definition, which is held against Hugging Face `tokenizers`."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.test_pretokens import ANY_CHARACTER

from dsllm.io.sources import find_sources, read_batches
from dsllm.text.json_lines import read_texts
from dsllm.text.pretokens import pre_tokens
from dsllm.text.pretokens_compiled import PLACE, piece_classes, scan_pieces
from dsllm.text.texts import Texts

# One character at least of each set of classes that occurs, and of each way to be written in UTF-8.
ONE_OF_EACH = " \n\u3000\u2003aé中ḁ①1½,。ع"


def cut(text, n_room=192):
    """Cut by the compiled pass, as many pieces at a time as there is room for."""
    texts = Texts.join([text.encode()])
    state, ends = np.zeros(2, np.int64), np.empty(n_room, np.int64)
    end, start, pieces = int(texts.ends[0]), 0, []
    data = texts.data.tobytes()
    while state[PLACE] < end:
        for piece_end in ends[: scan_pieces(texts.data, end, state, piece_classes(), ends)].tolist():
            pieces.append(data[start:piece_end].decode())
            start = piece_end
    return pieces


def test_every_row_of_four_characters():
    classes = piece_classes()
    assert {int(classes[ord(character)]) for character in ONE_OF_EACH} == set(classes.tolist())
    for row in itertools.product(ONE_OF_EACH, repeat=4):
        text = "".join(row)
        assert cut(text) == pre_tokens(text), repr(text)


@given(st.text(ANY_CHARACTER, max_size=60))
@settings(max_examples=500)
def test_any_text(text):
    assert cut(text) == pre_tokens(text)


@given(st.text(st.sampled_from(" \t\n,ab1é中\u3000\x00"), min_size=50, max_size=400))
@settings(max_examples=300)
def test_texts_longer_than_a_block(text):
    assert cut(text) == pre_tokens(text)


@pytest.mark.parametrize("unit", [" ", "a", "中", "\u3000", "a ", " \u3000", "é ", "\x00 "])
def test_long_runs(unit):
    text = unit * 5000
    assert cut(text) == pre_tokens(text)


@pytest.mark.skipif("DSLLM_TEST_DATA" not in os.environ, reason="needs the folder of corpora")
def test_real_documents():
    n_documents = 0
    for source in find_sources([str(Path(os.environ["DSLLM_TEST_DATA"]) / "pretrain")]):
        batch = next(iter(read_batches(source)))
        texts = read_texts(batch.lines, "text").texts
        data, start = texts.data.tobytes(), 0
        for end in texts.ends.tolist()[:40]:
            text = data[start:end].decode()[:20_000]
            assert cut(text) == pre_tokens(text)
            start = end
            n_documents += 1
    assert n_documents > 100
