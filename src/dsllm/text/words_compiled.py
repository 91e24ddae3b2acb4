"""The words of a text, compiled: their hashes and lengths, how many have letters, which are stop words."""

import functools

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled, kept_array
from dsllm.text.scan import N_CODE_POINTS, character_classes
from dsllm.text.scan_compiled import PLACE, decode, keep_open_word, scan_piece
from dsllm.text.shingles_compiled import hash_two, hash_word
from dsllm.text.stop_words import STOP_WORDS
from dsllm.text.vector import count_ones, load_word

# What `measure_words` counts: words, their characters, words with a letter, different stop words, stop words.
WORDS, WORD_CHARS, ALPHABETIC, DIFFERENT_STOPS, STOPS = range(5)
N_WORD_COUNTS = 5
_STOP_BITS = 9  # of a slot in a table of stop words by their bytes, of which none has more than eight
_STOP_SHIFT = np.uint64(64 - _STOP_BITS)
_HIGH_BITS = np.uint64(0x8080808080808080)
_LETTER_BITS, _CASE_BITS = np.uint64(0x4040404040404040), np.uint64(0x2020202020202020)
_LOW_BITS = np.uint64(0x0101010101010101)
_MASKS = np.array([(1 << 8 * n_bytes) - 1 for n_bytes in range(9)], np.uint64)
_FIRST_FACTOR = 0x9E3779B97F4A7C15
_FIRST_HAN, _LAST_HAN = 0xE4, 0xE9  # leads of UTF-8: of ideographs, as far as they begin words
NO_LANGUAGE = len(STOP_WORDS)  # its number among the tables


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
def stop_word_tables() -> tuple[dict[str, int], NDArray[np.uint64], int]:
    """Give a number to each language that has stop words, and a table of them for each, its last one empty.

    Shape (n_languages + 1, slots). A word is found at its bytes times a factor, the third result, shifted to
    the right: a factor that gives each word a slot of its own, so that one look tells.
    """
    keys = [
        [int.from_bytes(word.encode(), "little") for word in sorted(words)] for words in STOP_WORDS.values()
    ]
    factor = _FIRST_FACTOR
    while any(len({_slot(key, factor) for key in words}) < len(words) for words in keys):
        factor = factor * _FIRST_FACTOR % (1 << 64)
    tables = np.zeros((len(STOP_WORDS) + 1, 1 << _STOP_BITS), np.uint64)
    for number, words in enumerate(keys):
        for key in words:
            tables[number, _slot(key, factor)] = key
    return {language: number for number, language in enumerate(STOP_WORDS)}, tables, factor


def _slot(key: int, factor: int) -> int:
    return key * factor % (1 << 64) >> int(_STOP_SHIFT)


@compiled
def measure_words(
    data, start, end, stop_words, stop_factor, state, folded, edges, classes, folding, alphabetic, hashes,
    chars_before, counts,
):  # fmt: skip
    """Find the words of `data[start:end]`: their hashes, and the characters of all before each one.

    `stop_words` and `stop_factor` are a language's table; `state`, `folded` and `edges` are for `scan_piece`.
    `counts` (int64, N_WORD_COUNTS) gets what the constants above name.
    """
    is_seen = np.zeros(len(stop_words), np.bool_)
    state[:] = 0
    state[PLACE] = start
    n_words = n_chars = n_alphabetic = n_stops = 0
    while True:
        n_new = scan_piece(data, end, state, folded, edges, False, False, classes, folding)
        for word in range(n_new):
            first, last = edges[2 * word], edges[2 * word + 1]
            n_bytes = last - first
            head = load_word(folded, first) & _MASKS[min(n_bytes, 8)]
            tail = load_word(folded, first + 8) & _MASKS[min(max(n_bytes - 8, 0), 8)]
            hashes[n_words + word] = hash_two(head, tail, n_bytes)
            chars_before[n_words + word] = n_chars
            high = (head | tail) & _HIGH_BITS
            has_letter = (
                _has_ascii_letter(head) or _has_ascii_letter(tail) or _FIRST_HAN <= folded[first] <= _LAST_HAN
            )
            if n_bytes > 16 or (high and not has_letter):
                length, has_letter = _look_at(folded, first, last, alphabetic)
                if n_bytes > 16:
                    hashes[n_words + word] = hash_word(folded, first, last)
            else:
                length = n_bytes - _count_followers(head) - _count_followers(tail)
            n_chars += length
            n_alphabetic += has_letter
            key = head | (
                np.uint64(0) if high else _CASE_BITS & _MASKS[min(n_bytes, 8)]
            )  # digits have these bits
            slot = key * stop_factor >> _STOP_SHIFT
            is_stop = stop_words[slot] == key and n_bytes <= 8
            n_stops += is_stop
            is_seen[slot] |= is_stop
        n_words += n_new
        keep_open_word(state, folded, edges)
        if state[PLACE] >= end:
            break
    chars_before[n_words] = n_chars
    counts[WORDS], counts[WORD_CHARS], counts[ALPHABETIC] = n_words, n_chars, n_alphabetic
    counts[DIFFERENT_STOPS], counts[STOPS] = np.sum(is_seen), n_stops


@compiled
def _has_ascii_letter(bits):
    return bits & ~(bits >> np.uint64(1)) & _LETTER_BITS != np.uint64(0)  # of a word, so no sign


@compiled
def _count_followers(bits):
    return count_ones(bits >> np.uint64(7) & ~(bits >> np.uint64(6)) & _LOW_BITS)


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
