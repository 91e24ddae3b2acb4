"""Hashes of words and of runs of words out of texts, compiled: what looks for strings that occur again."""

import functools

import numpy as np
from numpy.typing import NDArray

from dsllm.text import shingles as definition
from dsllm.text.compiled import compiled
from dsllm.text.scan import LETTER, character_classes, simple_folding
from dsllm.text.scan_compiled import N_FOLDED, PLACE, keep_open_word, scan_piece, word_tables
from dsllm.text.shingles import Hashes
from dsllm.text.shingles_compiled import MAX_WORDS, fmix64, hash_word, make_room, next_words
from dsllm.text.texts import Texts

_BASE = definition.BASE
_ZERO, _NINE = ord("0"), ord("9")


def hash_texts(texts: Texts, *, fold: bool, punctuation: bool) -> tuple[Hashes, NDArray[np.int64]]:
    """Hash all words of texts: returns the hashes and where those of each text end.

    Equal to `hash_words(words(text))` for each text.
    """
    ends = np.zeros(len(texts.ends), np.int64)
    room = int(texts.ends[-1]) if len(ends) else 0  # a word a byte at most
    hashes = np.empty(room + MAX_WORDS, np.uint64)
    n_words = _hash_texts(texts.data, texts.ends, fold, punctuation, *word_tables(), hashes, ends)
    return hashes[:n_words].copy(), ends


def hash_normal_forms(texts: Texts) -> tuple[Hashes, NDArray[np.int64]]:
    """Hash each text by its folded words with decimal digits as 0: returns (hashes, numbers of words).

    Such a word is hashed as any other, and all of them as a shingle; the hash of none means nothing.
    """
    hashes = np.zeros(len(texts.ends), np.uint64)
    n_words = np.zeros(len(texts.ends), np.int64)
    _hash_normal_forms(texts.data, texts.ends, character_classes(), _folding_of_digits(), hashes, n_words)
    return hashes, n_words


@functools.cache
def _folding_of_digits() -> NDArray[np.uint32]:
    """Give the folding of case that makes 0 of each decimal digit; the scan uses it outside ASCII only."""
    folding = simple_folding().copy()
    letters = np.flatnonzero(character_classes() == LETTER).tolist()
    folding[[code for code in letters if chr(code).isdecimal()]] = _ZERO
    folding.setflags(write=False)
    return folding


@compiled
def _hash_texts(data, ends, fold, punctuation, classes, folding, hashes, word_ends):
    folded, edges, parts, state = make_room(ends)
    n_words = start = 0
    for text in range(len(ends)):
        state[:] = 0
        state[PLACE] = start
        while True:
            n_words += next_words(
                data, ends[text], state, folded, edges, parts, fold, punctuation, classes, folding,
                hashes, n_words,
            )  # fmt: skip
            if state[PLACE] >= ends[text]:
                break
        word_ends[text] = n_words
        start = ends[text]
    return n_words


@compiled
def _hash_normal_forms(data, ends, classes, folding, hashes, counts):
    folded, edges, _, state = make_room(ends)
    start = 0
    for text in range(len(ends)):
        state[:] = 0
        state[PLACE] = start
        value = np.uint64(0)
        while True:
            n_new = scan_piece(data, ends[text], state, folded, edges, True, False, classes, folding)
            for index in range(state[N_FOLDED]):
                if _ZERO <= folded[index] <= _NINE:
                    folded[index] = _ZERO
            for word in range(n_new):
                value = value * _BASE + hash_word(folded, edges[2 * word], edges[2 * word + 1])
            counts[text] += n_new
            keep_open_word(state, folded, edges)
            if state[PLACE] >= ends[text]:
                break
        hashes[text] = fmix64(value)
        start = ends[text]


@compiled
def hash_runs(words: Hashes, n_words: int, found: Hashes) -> int:
    """Hash each run of `n_words` words as `hash_shingles` does, into `found`; returns their number."""
    highest = np.uint64(1)  # BASE ** n_words: the weight of the word that has just left
    for _ in range(n_words):
        highest *= _BASE
    value = np.uint64(0)
    for place in range(len(words)):
        value = value * _BASE + words[place]
        if place >= n_words:
            value -= words[place - n_words] * highest
        if place >= n_words - 1:
            found[place - n_words + 1] = fmix64(value)
    return max(0, len(words) - n_words + 1)
