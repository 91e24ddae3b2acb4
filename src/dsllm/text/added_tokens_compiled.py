"""Which texts may hold an added token: a look at the first bytes of every place."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.merges_compiled import FACTOR, HEAD_MASKS, has_bit, set_bit
from dsllm.text.vector import load_word

HEAD_BITS = 16
N_HEAD_WORDS = 1 << HEAD_BITS - 6


@compiled
def note_heads(
    names: NDArray[np.uint8], ends: NDArray[np.int64], n_head: int, heads: NDArray[np.uint64]
) -> None:
    """Set a bit for the first `n_head` bytes of each name; `names` has 64 bytes more than they."""
    start = 0
    for end in ends:
        set_bit(heads, _bit_of_head(names, start, n_head))
        start = end


@compiled
def note_texts(
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    n_head: int,
    heads: NDArray[np.uint64],
    is_there: NDArray[np.bool_],
) -> None:
    """Say which texts have a place that begins like a name."""
    start = 0
    for text in range(len(ends)):
        for place in range(start, ends[text] - n_head + 1):
            if has_bit(heads, _bit_of_head(data, place, n_head)):
                is_there[text] = True
                break
        start = ends[text]


@compiled
def _bit_of_head(data, place, n_head):
    return (load_word(data, place) & HEAD_MASKS[n_head]) * FACTOR >> np.uint64(64 - HEAD_BITS)
