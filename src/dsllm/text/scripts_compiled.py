"""What letters a text is written in, compiled: a language for rules where no model is asked."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.scan import CJK
from dsllm.text.scan_compiled import decode, word_tables
from dsllm.text.texts import Texts
from dsllm.text.vector import (
    BLOCK_BYTES,
    ascii_masks,
    count_ones,
    count_trailing_zeros,
    mask_of_range,
    utf8_masks,
)
from dsllm.text.vector_marks import other_mark_mask
from dsllm.text.words_compiled import alphabetic_characters

# What `count_letters` counts: ASCII letters, other letters, Han characters, kana, Hangul syllables.
ASCII, OTHER, HAN, KANA, HANGUL = range(5)
N_SCRIPTS = 5
_FIRST_HAN, _N_HAN = np.uint8(0xE5), np.uint8(5)  # leads of UTF-8 that only Han characters have


def count_letters(texts: Texts) -> NDArray[np.int64]:
    """Count the letters (`str.isalpha`) of each text by the constants above, shape (n_texts, N_SCRIPTS)."""
    counts = np.zeros((len(texts.ends), N_SCRIPTS), np.int64)
    _count_letters(texts.data, texts.ends, word_tables()[0], alphabetic_characters(), counts)
    return counts


@compiled
def _count_letters(data, ends, classes, alphabetic, counts):
    place = 0
    for text in range(len(ends)):
        end = ends[text]
        row = counts[text]
        while place < end:
            letters = ascii_masks(data, place)[1]
            n_bytes = min(BLOCK_BYTES, end - place)
            inside = ~np.uint64(0) >> np.uint64(BLOCK_BYTES - n_bytes)
            row[ASCII] += count_ones(letters & inside)
            leads = utf8_masks(data, place)[0] & inside
            if leads:
                han = mask_of_range(data, place, _FIRST_HAN, _N_HAN) & inside
                row[HAN] += count_ones(han)
                leads &= ~(han | other_mark_mask(data, place))
            while leads:  # any other character beyond ASCII is looked at where it begins
                _count_wide(data, place + count_trailing_zeros(leads), classes, alphabetic, row)
                leads &= leads - np.uint64(1)
            place += n_bytes


@compiled
def _count_wide(data, place, classes, alphabetic, row):
    code = decode(data, place)[0]
    if not alphabetic[code]:
        return
    if classes[code] != CJK:
        row[OTHER] += 1
    elif 0xAC00 <= code <= 0xD7A3:
        row[HANGUL] += 1
    elif 0x3040 <= code <= 0x30FF or 0x31F0 <= code <= 0x31FF or 0xFF66 <= code <= 0xFF9F:
        row[KANA] += 1
    else:
        row[HAN] += 1
