"""How often each token occurs, and whether tokens spell a text, compiled."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled


@compiled
def count_uses(tokens: NDArray[np.uint32], uses: NDArray[np.int64]) -> None:
    """Add the number of times that each id occurs to `uses`, which has room for all."""
    for place in range(len(tokens)):
        uses[tokens[place]] += 1


@compiled
def spell(
    tokens: NDArray[np.uint32],
    words: NDArray[np.uint8],
    word_ends: NDArray[np.int64],
    text: NDArray[np.uint8],
) -> bool:
    """Say whether the words of tokens, one behind the other, are the text.

    words, word_ends: the bytes of each id's word, and where they end.
    """
    place = 0
    for token in tokens:
        begin = word_ends[token - 1] if token else 0
        n_bytes = word_ends[token] - begin
        if place + n_bytes > len(text):
            return False
        for byte in range(n_bytes):
            if words[begin + byte] != text[place + byte]:
                return False
        place += n_bytes
    return place == len(text)
