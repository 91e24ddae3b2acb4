"""Listed words and phrases counted in texts, compiled: as words, or anywhere where they are CJK."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.lines_compiled import code_at, start_of_last
from dsllm.text.marks_compiled import find_phrases, phrase_table
from dsllm.text.scan import LETTER, MARK, character_classes
from dsllm.text.scan_compiled import word_tables
from dsllm.text.texts import Texts

MIN_PHRASE_BYTES = 3


def count_phrases_plain(text: str, phrases: Sequence[str]) -> int:
    """Count where phrases stand in a text, ASCII letters in any case; the definition.

    Where a phrase begins or ends in a letter or a digit that is no CJK character, none must stand beside it.
    """
    classes = character_classes()

    def is_word(character: str) -> bool:
        return character == "_" or int(classes[ord(character)]) in (LETTER, MARK)

    lower = re.sub("[A-Z]+", lambda found: found[0].lower(), text)
    n_found = 0
    for phrase in phrases:
        for found in re.finditer(f"(?={re.escape(phrase)})", lower):
            first, last = found.start(), found.start() + len(phrase)
            is_cut = first > 0 and is_word(phrase[0]) and is_word(lower[first - 1])
            n_found += not is_cut and not (last < len(lower) and is_word(phrase[-1]) and is_word(lower[last]))
    return n_found


def count_phrases(texts: Texts, phrases: tuple[str, ...], wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count listed phrases, in lower case and of MIN_PHRASE_BYTES or more, in each text that is wanted."""
    counts = np.zeros(len(texts.ends), np.int64)
    sizes = np.array([len(phrase.encode()) for phrase in phrases], np.int64)
    table = phrase_table(tuple((phrase,) for phrase in phrases))
    _count_phrases(texts.data, texts.ends, wanted, *table, sizes, word_tables()[0], counts)
    return counts


@compiled
def _count_phrases(
    data, ends, wanted, anchors, anchor_ends, phrases, phrase_ends, groups, sizes, classes, counts
):
    longest = start = 0
    for end in ends:
        longest = max(longest, end - start)
        start = end
    most = (longest + 1) * 8  # phrases that begin at one place: those that others begin with
    places, found = np.empty(most, np.int64), np.empty(most, np.int64)
    start = 0
    for text in range(len(ends)):
        end = ends[text]
        if wanted[text]:
            n_hits = find_phrases(
                data, start, end, anchors, anchor_ends, phrases, phrase_ends, groups, places, found
            )
            for hit in range(n_hits):
                first = places[hit]
                last = first + sizes[found[hit]]
                is_cut = (
                    first > start
                    and _is_word(data, first, classes)
                    and _is_word(data, start_of_last(data, start, first), classes)
                )
                if not is_cut and last < end and _is_word(data, last, classes):
                    is_cut = _is_word(data, start_of_last(data, first, last), classes)
                counts[text] += not is_cut
        start = end


@compiled
def _is_word(data, place, classes):
    code = code_at(data, place)
    return code == 0x5F or classes[code] == LETTER or classes[code] == MARK
