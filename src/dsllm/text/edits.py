"""Edits of texts: stretches of bytes that are cut out or replaced."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dsllm.text.texts import Texts


class Edit(NamedTuple):
    """What becomes of the bytes `start` to `end` of a text, counted from its beginning."""

    text: int
    start: int
    end: int
    new: bytes = b""


def apply_edits(texts: Texts, edits: Sequence[Edit]) -> Texts:
    """Make the texts with all edits; where two overlap, the second takes only what the first has left."""
    data, ends = texts.data, texts.ends
    pieces: list[bytes] = []
    sizes = np.diff(ends, prepend=0)
    place = 0
    for text, start, end, new in sorted(edits):
        first = int(ends[text - 1]) if text else 0
        cut_from, cut_to = max(first + start, place), max(first + end, place)
        pieces += data[place:cut_from].tobytes(), new
        sizes[text] += len(new) - (cut_to - cut_from)
        place = cut_to
    pieces.append(data[place : int(ends[-1]) if len(ends) else 0].tobytes())
    edited = Texts.join(pieces)
    return Texts(edited.data, np.cumsum(sizes))
