"""The words of a text, compiled: their hashes and lengths, how many have letters, which are stop words."""

import functools

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled, kept_array
from dsllm.text.scan import N_CODE_POINTS, character_classes
from dsllm.text.scan_compiled import PLACE, decode, keep_open_word, scan_piece
from dsllm.text.shingles_compiled import hash_word
from dsllm.text.stop_words import STOP_WORDS
from dsllm.text.vector import load_word

# What `measure_words` counts: words, their characters, words with a letter, different stop words, stop words.
WORDS, WORD_CHARS, ALPHABETIC, DIFFERENT_STOPS, STOPS = range(5)
N_WORD_COUNTS = 5
_STOP_SLOTS = 256  # of one language: a table by the words' bytes, of which none has more than eight
_STEP = np.uint64(0x9E3779B97F4A7C15)
_HIGH_BITS = np.uint64(0x8080808080808080)
_LETTER_BITS, _CASE_BITS = np.uint64(0x4040404040404040), np.uint64(0x2020202020202020)
_MASKS = np.array([(1 << 8 * n_bytes) - 1 for n_bytes in range(9)], np.uint64)
NO_LANGUAGE = -1


@functools.cache
def alphabetic_characters() -> NDArray[np.uint8]:
    """Tell which code points `str.isalpha` accepts, shape (0x110000,)."""
    return kept_array("alphabetic", _find_alphabetic)


def _find_alphabetic() -> NDArray[np.uint8]:
    found = np.zeros(N_CODE_POINTS, np.uint8)
    words = np.flatnonzero(character_classes() != 0).tolist()
    found[[code for code in words if chr(code).isalpha()]] = 1
    return found


@functools.cache
def stop_word_tables() -> tuple[dict[str, int], NDArray[np.uint64]]:
    """Give a number to each language that has stop words, and a table (n_languages, _STOP_SLOTS) of them."""
    tables = np.zeros((len(STOP_WORDS), _STOP_SLOTS), np.uint64)
    numbers = {language: number for number, language in enumerate(STOP_WORDS)}
    for language, words in STOP_WORDS.items():
        table = tables[numbers[language]]
        for word in sorted(words):
            key = int.from_bytes(word.encode(), "little")
            slot = key * int(_STEP) % (1 << 64) >> 56
            while table[slot]:
                slot = (slot + 1) % _STOP_SLOTS
            table[slot] = key
    return numbers, tables


@compiled
def measure_words(
    data, start, end, stop_words, state, folded, edges, classes, folding, alphabetic, hashes, chars_before,
    counts,
):  # fmt: skip
    """Find the words of `data[start:end]`: their hashes, and the characters of all before each one.

    `stop_words` is a language's table, or empty; `state`, `folded` and `edges` are for `scan_piece`. `counts`
    (int64, N_WORD_COUNTS) gets what the constants above name.
    """
    is_seen = np.zeros(len(stop_words), np.bool_)
    state[:] = 0
    state[PLACE] = start
    n_words = n_chars = n_alphabetic = n_stops = n_different = 0
    while True:
        n_new = scan_piece(data, end, state, folded, edges, False, False, classes, folding)
        for word in range(n_new):
            first, last = edges[2 * word], edges[2 * word + 1]
            n_bytes = last - first
            bits = load_word(folded, first) & _MASKS[min(n_bytes, 8)]
            hashes[n_words] = hash_word(folded, first, last)
            chars_before[n_words] = n_chars
            n_words += 1
            if bits & _HIGH_BITS or n_bytes > 8:
                length, has_letter = _look_at(folded, first, last, alphabetic)
                n_chars += length
                n_alphabetic += has_letter
            else:
                n_chars += n_bytes
                n_alphabetic += (bits & _LETTER_BITS) != 0
                bits |= _CASE_BITS & _MASKS[n_bytes]  # digits have these bits
            if len(stop_words) and n_bytes <= 8:
                slot = _find_stop_word(stop_words, bits)
                if slot >= 0:
                    n_stops += 1
                    n_different += not is_seen[slot]
                    is_seen[slot] = True
        keep_open_word(state, folded, edges)
        if state[PLACE] >= end:
            break
    chars_before[n_words] = n_chars
    counts[WORDS], counts[WORD_CHARS], counts[ALPHABETIC] = n_words, n_chars, n_alphabetic
    counts[DIFFERENT_STOPS], counts[STOPS] = n_different, n_stops


@compiled
def _find_stop_word(table, bits):
    slot = np.int64(bits * _STEP >> np.uint64(56))
    while table[slot] != np.uint64(0):
        if table[slot] == bits:
            return slot
        slot = (slot + 1) % _STOP_SLOTS
    return np.int64(-1)


@compiled
def _look_at(folded, first, last, alphabetic):
    """Give a word's characters, and whether one of them is a letter."""
    n_chars = 0
    has_letter = False
    place = first
    while place < last:
        byte = folded[place]
        if byte < 0x80:
            has_letter = has_letter or byte >= ord("A")
            place += 1
        else:
            code, n_bytes = decode(folded, place)
            has_letter = has_letter or alphabetic[code] != 0
            place += n_bytes
        n_chars += 1
    return n_chars, has_letter
