"""Merges learned from counted pieces: against Hugging Face's trainer, with all that it does oddly."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.text import bpe_training
from dsllm.text.bpe_training import Limits, learn_merges
from dsllm.text.texts import Texts

ALPHABET = "abcd"


def learn(
    words,
    vocab_size,
    min_frequency=0,
    max_token_length=None,
    alphabet=ALPHABET,
    *,
    table_bytes=None,
    told=lambda n_ids: None,
):
    """Learn from {word: count}; returns the ids, and the merges as the library writes them."""
    learned = learn_merges(
        Texts.join([word.encode() for word in words]),
        np.array(list(words.values()), np.int64),
        [character.encode() for character in alphabet],
        Limits(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            max_token_length=max_token_length,
            table_bytes=table_bytes,
        ),
        told,
    )
    ranks = {(left, right): rank for rank, (left, right, _) in enumerate(learned.merges.tolist())}
    words = [token.decode() for token in learned.tokens]
    merges = [(words[left], words[right]) for left, right in sorted(ranks, key=ranks.__getitem__)]
    return {word: index for index, word in enumerate(words)}, merges


def learn_by_library(words, vocab_size, min_frequency=0, max_token_length=None, alphabet=ALPHABET):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        max_token_length=max_token_length,
        initial_alphabet=list(alphabet),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(("\n".join([word] * count) for word, count in words.items()), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def random_words(seed):
    """Words of few letters, many pairs as frequent as another, many tokens that come in two ways."""
    generator = random.Random(seed)
    letters = ALPHABET[: generator.randint(1, 4)]
    longest = generator.choice([3, 6, 12, 30])
    return {
        "".join(generator.choices(letters, k=generator.randint(1, longest))): generator.randint(1, 9)
        for _ in range(generator.randint(1, 25))
    }


WORDS = st.dictionaries(st.text(ALPHABET, min_size=1, max_size=20), st.integers(1, 6), max_size=20)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(words=WORDS, vocab_size=st.sampled_from([4, 5, 8, 20, 200]), min_frequency=st.integers(0, 4))
def test_merges_are_the_librarys(words, vocab_size, min_frequency):
    given_all = (words, vocab_size, min_frequency)
    assert learn(*given_all) == learn_by_library(*given_all)


@pytest.mark.parametrize("seed", range(200))
def test_merges_of_random_words_are_the_librarys(seed):
    given_all = (random_words(seed), [8, 20, 40, 200][seed % 4], seed % 3, [None, 3, 5, 8][seed // 4 % 4])
    assert learn(*given_all) == learn_by_library(*given_all)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 8, 64, 100, 1000])
def test_one_character_many_times(size):
    assert learn({"a" * size: 3}, 60) == learn_by_library({"a" * size: 3}, 60)


def test_repeated_characters_by_hand():
    # aaaa twice: aa occurs 3 * 2 times; then aa+aa twice.
    ids, merges = learn({"aaaa": 2}, 10, min_frequency=2, alphabet="a")
    assert merges == [("a", "a"), ("aa", "aa")]
    assert ids == {"a": 0, "aa": 1, "aaaa": 2}


def test_ties_go_to_the_lower_pair_of_ids():
    # ab, ba and cd occur once each; a is id 0, so ab is first, then ba, which is none any more, then cd.
    assert learn({"aba": 1, "cd": 1}, 6)[1] == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize("max_token_length", [3, 4, 5])
def test_tokens_stay_shorter_than_the_limit(max_token_length):
    ids, _ = learn({"ab": 9, "abc": 8, "abcd": 7}, 50, 2, max_token_length)  # ab, abc, abcd
    assert max(map(len, ids)) == max_token_length - 1


def test_counts_beyond_32_bits():
    # The library counts pairs in 32 bits, so its answer is for counts smaller by a common factor.
    words = random_words(7)
    scaled = {word: count << 33 for word, count in words.items()}
    assert learn(scaled, 60, 2 << 33) == learn_by_library(words, 60, 2)


@pytest.mark.parametrize("seed", range(20))
def test_order_of_the_pieces_changes_nothing(seed):
    words = random_words(seed)
    shuffled = list(words.items())
    random.Random(seed).shuffle(shuffled)
    assert learn(words, 60, 2) == learn(dict(shuffled), 60, 2)


def many_words():
    generator = random.Random(1)
    return {"".join(generator.choices(ALPHABET, k=generator.randint(2, 12))): n % 7 + 1 for n in range(2000)}


def test_tables_that_grow_give_the_same(monkeypatch):
    expected = learn(many_words(), 1500, 2)
    monkeypatch.setattr(bpe_training, "_FIRST_SLOTS", 64)
    assert learn(many_words(), 1500, 2) == expected
    assert expected == learn_by_library(many_words(), 1500, 2)


def test_rare_pairs_are_forgotten_where_memory_is_short(monkeypatch):
    words = many_words()
    expected = learn(words, 300, 5)
    monkeypatch.setattr(bpe_training, "_FIRST_SLOTS", 1024)
    dropped = []
    drop = bpe_training.queue.drop_rare_pairs
    monkeypatch.setattr(bpe_training.queue, "drop_rare_pairs", lambda *a: dropped.append(1) or drop(*a))
    assert learn(words, 300, 5, table_bytes=1) == expected  # no token of it is made in a second way
    assert dropped


def test_forgotten_pairs_are_counted(monkeypatch):
    pairs = [left + right for left in "abcdefg" for right in "abcdefg"]  # 49, of 64 places: too many
    monkeypatch.setattr(bpe_training, "_FIRST_SLOTS", 64)
    learned = learn_merges(
        Texts.join([pair.encode() for pair in pairs]),
        np.array([10] * 9 + [1] * 40, np.int64),
        [letter.encode() for letter in "abcdefg"],
        Limits(vocab_size=100, min_frequency=5, table_bytes=1),
    )
    assert learned.tokens[7:] == [pair.encode() for pair in pairs[:9]]
    assert learned.n_pairs_forgotten == 40


def test_progress_is_told():
    told = []
    learn(many_words(), 1500, told=told.append)
    assert told == sorted(told)
    assert told[-1] == 1500
