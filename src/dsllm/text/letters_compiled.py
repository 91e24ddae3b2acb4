"""Which texts have a letter in them, compiled: what `str.isalpha` says of any character."""

import functools

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled, kept_array
from dsllm.text.scan import N_CODE_POINTS
from dsllm.text.scan_compiled import decode
from dsllm.text.texts import Texts


def have_letters(texts: Texts) -> NDArray[np.bool_]:
    """Tell of each text whether any character of it is a letter."""
    found = np.zeros(len(texts.ends), np.bool_)
    _look_for_letters(texts.data, texts.ends, _letters(), found)
    return found


@functools.cache
def _letters() -> NDArray[np.bool_]:
    """Say of every code point whether it is a letter."""
    return kept_array("letters", lambda: np.array([chr(code).isalpha() for code in range(N_CODE_POINTS)]))


@compiled
def _look_for_letters(data, ends, letters, found):
    place = 0
    for text in range(len(ends)):
        while place < ends[text] and not found[text]:
            code, size = np.int64(data[place]), 1
            if code >= 0x80:
                code, size = decode(data, place)
            found[text] = letters[code]
            place += size
        place = ends[text]
