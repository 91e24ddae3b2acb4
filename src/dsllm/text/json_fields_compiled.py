"""The loops of `json_fields.py`: from key to key of objects that are known to be JSON."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.vector import BLOCK_BYTES, count_trailing_zeros, mask_of_equal

_QUOTE, _BACKSLASH = np.uint8(0x22), np.uint8(0x5C)


@compiled
def find_values(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    key: NDArray[np.uint8],
    spans: NDArray[np.int64],
) -> None:
    """Write where the value of `key`, which is given in quotes, lies in each line; of several the last.

    `data` has 64 bytes more than the lines; `spans` (n_lines, 2) is left as it is where there is no such key.
    """
    for line in range(len(starts)):
        _find_value(data, starts[line], ends[line], key, spans[line])


@compiled
def _find_value(data, place, end, key, span):
    depth = 0
    is_wanted = False
    start = place
    while place < end:
        character = data[place]
        if character == _QUOTE:
            behind = _end_of_string(data, place + 1)
            if depth == 1 and not is_wanted and _is_at(data, place, behind, key):
                place = behind
                while data[place] != 0x3A:  # a colon makes it a key, a comma or a brace would end a value
                    if data[place] in (0x2C, 0x7D):
                        break
                    place += 1
                if data[place] == 0x3A:
                    is_wanted = True
                    start = place + 1
                    place += 1
                continue
            place = behind
            continue
        if character in (0x7B, 0x5B):
            depth += 1
        elif character in (0x7D, 0x5D):
            depth -= 1
        if is_wanted and ((depth == 1 and character == 0x2C) or depth == 0):
            span[0], span[1] = start, place
            is_wanted = False
        place += 1


@compiled
def _end_of_string(data, place):
    """Give the place behind the quote that ends a string: it has an even number of backslashes before it."""
    start = place
    while True:
        quotes = mask_of_equal(data, place, _QUOTE)
        n_bytes = count_trailing_zeros(quotes)
        place += n_bytes
        if n_bytes == BLOCK_BYTES:
            continue
        n_escapes = 0
        while place - n_escapes > start and data[place - n_escapes - 1] == _BACKSLASH:
            n_escapes += 1
        place += 1
        if n_escapes % 2 == 0:
            return place


@compiled
def _is_at(data, start, end, key):
    if end - start != len(key):
        return False
    for index in range(len(key)):
        if data[start + index] != key[index]:
            return False
    return True
