"""The compiled encoder against Hugging Face `tokenizers`: equal ids."""

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from dsllm.io.sources import find_sources, read_batches
from dsllm.stages.tokenize.bpe import EOS, learn_words, tokenizer_files
from dsllm.stages.tokenize.config import TokenizeTrainConfig
from dsllm.text import bpe
from dsllm.text.json_lines import read_texts
from dsllm.text.piece_counts import count_pieces
from dsllm.text.texts import Texts

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, 1234 times; don't ask why!\n",
    "def encode(self, texts):\n    return [self.ids[text] for text in texts]\n",
    "我们今天去公园玩，明天再去图书馆看书。她说：“好的，没问题。”\n",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.\n",
    "こんにちは世界。ありがとうございます。\n",
]


@pytest.fixture(scope="module")
def files():
    """A tokenizer of 1,500 words, learned from five sentences and their words in other orders."""
    draw = random.Random(4)
    texts = SENTENCES * 20
    for _ in range(400):
        words = draw.choice(SENTENCES)
        texts.append(
            "".join(draw.sample(words, len(words))) if draw.random() < 0.3 else words[draw.randrange(9) :]
        )
    words = learn_words(count_pieces(texts), TokenizeTrainConfig(vocab_size=1500, min_frequency=2))
    return tokenizer_files(words)


@pytest.fixture(scope="module")
def library(files):
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    tokenizer.post_processor = None
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="module")
def merges(files):
    found = bpe.merges_of_file(json.loads(files["tokenizer.json"]))
    assert isinstance(found, bpe.Merges)
    return found


def encode(encoder, texts, end_id=None):
    ids, ends = encoder.encode(Texts.join([text.encode() for text in texts]), end_id)
    starts = [0, *ends.tolist()][:-1]
    return [ids[start:end].tolist() for start, end in zip(starts, ends.tolist(), strict=True)]


pieces = st.one_of(
    st.sampled_from(SENTENCES),
    st.text(st.sampled_from("".join(SENTENCES)), max_size=60),
    st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=20),
    st.sampled_from(["a", "去", "-", " ", "\x00", "ё"]).map(lambda unit: unit * 150),
)


@settings(max_examples=300)
@given(st.lists(st.lists(pieces, max_size=4).map("".join), max_size=4))
def test_ids_are_those_of_the_library(library, merges, texts):
    encoder = bpe.Encoder(merges)
    expected = [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]
    assert encode(encoder, texts) == expected
    assert encode(encoder, texts) == expected  # out of its memory


def test_each_text_gets_its_end(library, merges):
    texts = ["", "我们", "the dog"]
    found = encode(bpe.Encoder(merges), texts, end_id=7)
    assert found == [[*library.encode(text, add_special_tokens=False).ids, 7] for text in texts]


def test_a_full_memory_changes_nothing(library, merges, monkeypatch):
    monkeypatch.setattr(bpe, "MEMORY_SLOTS", 16)
    texts = [sentence * 3 for sentence in SENTENCES]
    encoder = bpe.Encoder(merges)
    for _ in range(2):
        assert encode(encoder, texts) == [
            library.encode(text, add_special_tokens=False).ids for text in texts
        ]


def remembered_texts(seed, n_texts=2000):
    """Texts of many words, a few of them of more ids than a slot of the memory has room for."""
    draw = random.Random(seed)
    rare = ["".join(draw.choices("qzxjvQZXJV", k=draw.randrange(6, 15))) for _ in range(60)]
    units = [word for sentence in SENTENCES for word in sentence.split()] + rare
    return [" ".join(draw.choices(units, k=draw.randrange(9))) for _ in range(n_texts)]


def test_threads_may_share_an_encoder(library, merges, monkeypatch):
    monkeypatch.setattr(bpe, "MEMORY_SLOTS", 64)  # so that all write to the same slots
    encoder, texts = bpe.Encoder(merges), remembered_texts(11)
    expected = [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]
    with ThreadPoolExecutor(4) as threads:
        assert all(found == expected for found in threads.map(lambda _: encode(encoder, texts), range(60)))


def test_a_slot_that_two_threads_wrote_at_once_is_nobodys(library, merges, monkeypatch):
    monkeypatch.setattr(bpe, "MEMORY_SLOTS", 64)
    encoder, texts = bpe.Encoder(merges), remembered_texts(12, 200)
    expected = [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]
    generator = np.random.default_rng(5)
    for _ in range(200):
        assert encode(encoder, texts) == expected
        assert (encoder._memory[:, 2] != 0).sum() > 40
        one, other = generator.integers(64, size=(2, 32))
        is_torn = generator.random((32, 4)) < 0.5
        encoder._memory[one] = np.where(is_torn, encoder._memory[other], encoder._memory[one])


def test_spilled_ids_that_another_thread_overwrote_are_found_out(library, merges):
    encoder, texts = bpe.Encoder(merges), remembered_texts(13)
    expected = [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]
    assert encode(encoder, texts) == expected
    assert encoder._used[0] > 100
    encoder._spill[: encoder._used[0] : 5] ^= 1
    assert encode(encoder, texts) == expected


@pytest.mark.parametrize("unit", ["a", "去", "ab", "-"])
def test_long_runs(library, merges, unit):
    text = unit * 20_000
    assert encode(bpe.Encoder(merges), [text])[0] == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: values.update(normalizer={"type": "NFC"}), "changes texts first, by NFC"),
        (
            lambda values: values.update(pre_tokenizer={"type": "Whitespace"}),
            "cuts texts in a way that is not known",
        ),
        (lambda values: values["model"].update(dropout=0.1), "dropout is 0.1"),
        (lambda values: values["model"].update(type="WordPiece"), "WordPiece, not BPE"),
        (lambda values: values["model"]["vocab"].pop("!"), "no word for byte 21"),
        (lambda values: values["added_tokens"][0].update(lstrip=True), "asks for lstrip of"),
        (lambda values: values["added_tokens"][0].update(id=9), "the id 9, not"),
        *(
            (lambda values, merge=merge: values["model"]["merges"].append(merge), "merges are not all pairs")
            for merge in (["z", "nosuchword"], ["!", "z"], "z", ["z", "z", "z"], ["z", 1], None)
        ),
    ],
)
def test_what_it_cannot_do_is_said(files, change, reason):
    values = json.loads(files["tokenizer.json"])
    change(values)
    assert reason in bpe.merges_of_file(values)


def changed(files, change):
    """Make a tokenizer.json anew: what the library makes of it, and our tables."""
    values = json.loads(files["tokenizer.json"])
    change(values)
    library = Tokenizer.from_str(json.dumps(values))
    library.post_processor = None
    tables = bpe.merges_of_file(values)
    assert isinstance(tables, bpe.Merges)
    return library, tables


def lose_merges(values):
    """Leave words that no merges make: with `ignore_merges` a piece that is one of them is that word."""
    values["model"]["ignore_merges"] = True
    values["model"]["merges"] = [
        pair for place, pair in enumerate(values["model"]["merges"]) if place % 3 or place < 200
    ]


def gain_tokens(values):
    """Words of the text as added tokens of both sorts, one the beginning of another."""
    n_words = len(values["model"]["vocab"])
    contents = ["fox j", "fox jumps", "去公", "去公园", "ids[", "的，", "<|end|>", "x jum"]
    assert not set(contents) & set(values["model"]["vocab"])
    values["added_tokens"] += [
        {
            **values["added_tokens"][0],
            "id": n_words + place,
            "content": content,
            "special": place % 4 == 2,
            "normalized": place % 2 == 0,
        }
        for place, content in enumerate(contents)
    ]
    values["model"]["merges"] = [" ".join(pair) for pair in values["model"]["merges"]]  # as older files


@pytest.mark.parametrize("change", [lose_merges, gain_tokens])
@pytest.mark.parametrize("parse_special", [False, True])
def test_ids_of_other_tokenizers(files, change, parse_special):
    library, tables = changed(files, change)
    library.encode_special_tokens = not parse_special
    draw, encoder = random.Random(7), bpe.Encoder(tables, parse_special)
    units = [*"".join(SENTENCES), *SENTENCES, "fox", "fox jumps", "<|end|>", "ids[", EOS, " brown", "公园"]
    texts = ["".join(draw.choices(units, k=draw.randrange(9))) for _ in range(3000)]
    expected = [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]
    assert encode(encoder, texts) == expected
    ended = [[*ids, 5] for ids in expected]
    assert encode(encoder, texts, end_id=5) == ended


@pytest.mark.data
@pytest.mark.skipif("DSLLM_TEST_DATA" not in os.environ, reason="needs the corpora")
def test_real_documents(library, merges):
    encoder = bpe.Encoder(merges)
    for source in find_sources([str(Path(os.environ["DSLLM_TEST_DATA"]) / "pretrain")]):
        texts = read_texts(next(iter(read_batches(source))).lines, "text").texts
        documents = [texts.text(place) for place in range(min(60, len(texts.ends)))]
        expected = library.encode_batch_fast(documents, add_special_tokens=False)
        assert encode(encoder, documents) == [encoding.ids for encoding in expected]
