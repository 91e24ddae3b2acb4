"""Tables of a tokenizer kept from one run to the next."""

import json

import numpy as np
import pytest

from dsllm.errors import InputError
from dsllm.stages.tokenize.bpe import EOS, learn_words, tokenizer_files
from dsllm.stages.tokenize.config import TokenizeTrainConfig
from dsllm.text import bpe, compiled, tokenizer_tables
from dsllm.text.piece_counts import count_pieces
from dsllm.text.texts import Texts
from dsllm.text.tokenizer_facts import read_facts
from dsllm.text.tokenizer_tables import read_tables


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tokenizer of a few words, and nothing kept of any."""
    monkeypatch.setattr(compiled, "code_folder", lambda: tmp_path / "kept")
    words = learn_words(count_pieces(["low lower lowest 好的好"] * 9), TokenizeTrainConfig(vocab_size=300))
    for name, data in tokenizer_files(words).items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_they_are_those_of_the_files_and_read_once(folder, monkeypatch):
    first = read_tables(folder)
    monkeypatch.setattr(tokenizer_tables, "read_tokenizer", None)
    assert list((folder / "kept").glob("tokenizer-*"))
    for merges, facts in (first, read_tables(folder)):
        assert facts == read_facts(folder)
        expected = bpe.read_merges(folder)
        for name in ("byte_ids", "merged_ids", "pairs", "is_pair", "byte_ranks", "joints", "character_ids"):
            assert np.array_equal(getattr(merges, name), getattr(expected, name)), name
        assert np.array_equal(merges.cuts.classes, expected.cuts.classes)
        texts = Texts.join([b"lowest low 42", "好的".encode()])
        found, given = (bpe.Encoder(tables).encode(texts, 1)[0] for tables in (merges, expected))
        assert found.tolist() == given.tolist()


def test_another_file_beside_the_tokenizer_is_another_tokenizer(folder):
    _, before = read_tables(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "low"}))
    _, after = read_tables(folder)
    assert (before.eos_id, after.eos_id) == (before.special_tokens[EOS], after.words.index(b"low"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "missing"}))
    for _ in range(2):
        with pytest.raises(InputError, match="missing"):
            read_tables(folder)


def test_what_cannot_be_used_is_said_each_time(folder):
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["normalizer"] = {"type": "NFC"}
    path.write_text(json.dumps(values))
    for _ in range(2):
        assert read_tables(folder) == ("it changes texts first, by NFC", None)
    path.unlink()
    with pytest.raises(InputError, match="no tokenizer.json"):
        read_tables(folder)
