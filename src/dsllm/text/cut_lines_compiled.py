"""The lines of `cut_lines.py` out of all texts of a batch, compiled."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.cut_lines import LineCut
from dsllm.text.lines_compiled import next_line_end, skip_white, skip_white_back, white_bytes
from dsllm.text.marks_compiled import find_phrases, phrase_table
from dsllm.text.scan import CJK
from dsllm.text.scan_compiled import decode, word_tables
from dsllm.text.texts import ROOM_BYTES, Texts
from dsllm.text.vector import BLOCK_BYTES, copy_block, count_trailing_zeros, load_word, mask_of_equal

_NO_BOUND = 1 << 60
_BRACKET, _AS_IT_IS = np.uint8(ord("[")), np.uint8(0)
_EDIT = np.frombuffer(b"edit", np.uint8)
_NEEDED = np.frombuffer(b"citation needed", np.uint8)


def cut_texts(texts: Texts, cut: LineCut, wanted: NDArray[np.bool_]) -> tuple[Texts, NDArray[np.bool_]]:
    """Cut lines out of texts where `wanted` is set; returns all texts, and which of them have changed.

    Equal to `cut_lines` of each.
    """
    data = np.empty(len(texts.data) + ROOM_BYTES, np.uint8)
    ends = np.empty_like(texts.ends)
    is_changed = np.zeros(len(ends), bool)
    _cut_texts(
        texts.data, texts.ends, wanted, *_packed(cut.ends), *_packed(cut.not_ends), cut.min_words,
        _NO_BOUND if cut.max_word_chars is None else cut.max_word_chars, cut.strip_citations,
        *phrase_table((cut.without,)), word_tables()[0], data, ends, is_changed,
    )  # fmt: skip
    return Texts(data, ends), is_changed


def _packed(words: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    raw = [word.encode() for word in words]
    return np.frombuffer(b"".join(raw), np.uint8), np.cumsum([len(word) for word in raw], dtype=np.int64)


@compiled
def _cut_texts(
    data, ends, wanted, good_ends, good_end_ends, bad_ends, bad_end_ends, min_words, max_word_chars,
    strip_citations, anchors, anchor_ends, phrases, phrase_ends, groups, classes, target, target_ends,
    is_changed,
):  # fmt: skip
    longest = start = 0
    for end in ends:
        longest = max(longest, end - start)
        start = end
    hits, hit_groups = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    written = start = 0
    for text in range(len(ends)):
        end = ends[text]
        text_start = written
        if not wanted[text]:
            target[written : written + end - start] = data[start:end]
            target_ends[text] = written = written + end - start
            start = end
            continue
        line = start
        while line < end:
            line_end = next_line_end(data, line, end)
            first = skip_white(data, line, line_end)
            last = skip_white_back(data, first, line_end)
            line = line_end + 1
            # What ends a line is looked at first, since most that go end otherwise; behind a citation, later.
            has_citation = strip_citations and last > first and data[last - 1] == ord("]")
            if not has_citation and not _ends_well(
                data, first, last, good_ends, good_end_ends, bad_ends, bad_end_ends
            ):
                continue
            if not _has_words(data, first, last, classes, min_words, max_word_chars):
                continue
            line_start = written
            written = _copy_line(data, first, last, strip_citations, target, written)
            is_good = not has_citation or _ends_well(
                target, line_start, written, good_ends, good_end_ends, bad_ends, bad_end_ends
            )
            if is_good and len(anchors):
                n_hits = find_phrases(
                    target, line_start, written, anchors, anchor_ends, phrases, phrase_ends, groups, hits,
                    hit_groups,
                )  # fmt: skip
                is_good = n_hits == 0
            if not is_good:
                written = line_start
                continue
            target[written] = ord("\n")
            written += 1
        first = skip_white(target, text_start, written)
        written = skip_white_back(target, first, written)
        if first > text_start:
            for index in range(written - first):
                target[text_start + index] = target[first + index]
            written -= first - text_start
        is_changed[text] = not _is_same(data, start, end, target, text_start, written)
        target_ends[text] = written
        start = end


@compiled
def _has_words(data, first, last, classes, min_words, max_word_chars):
    """Tell whether a line has words enough, CJK characters being words too, and none of too many characters.

    It is read no further than it takes: most have their words in a few bytes.
    """
    may_be_long = _may_have_long_word(data, first, last, max_word_chars)
    n_words = length = 0
    place = first
    while place < last and (may_be_long or n_words < min_words):
        n_white = white_bytes(data, place)
        if n_white:
            length = 0
            place += n_white
            continue
        n_words += length == 0
        length += 1
        if length > max_word_chars:
            return False
        if data[place] < 0x80:
            place += 1
        else:
            code, n_bytes = decode(data, place)
            n_words += classes[code] == CJK
            place += n_bytes
    return n_words >= min_words


@compiled
def _may_have_long_word(data, first, last, max_word_chars):
    """Tell whether there are more than so many bytes without a space, going from space to space."""
    while last - first > max_word_chars:
        place = first + max_word_chars
        while place >= first and data[place] != ord(" "):
            place -= 1
        if place < first:
            return True
        first = place + 1
    return False


@compiled
def _copy_line(data, first, last, strip_citations, target, written):
    """Copy a line, 64 bytes at a time, without citations if asked."""
    place = first
    while place < last:
        copy_block(data, place, target, written, _AS_IT_IS)
        n_bytes = min(last - place, BLOCK_BYTES)
        if strip_citations:
            n_bytes = min(n_bytes, count_trailing_zeros(mask_of_equal(data, place, _BRACKET)))
            if n_bytes == 0:
                n_cut = _citation_bytes(data, place, last)
                place += max(n_cut, 1)
                written += n_cut == 0
        place += n_bytes
        written += n_bytes
    return written


@compiled
def _citation_bytes(data, place, last):
    """Give the bytes of a citation in brackets, 0 for none."""
    inner = place + 1
    while inner < last and ord("0") <= data[inner] <= ord("9"):
        inner += 1
    if inner == place + 1:
        if _is_equal(data, inner, min(last, inner + len(_EDIT)), _EDIT, 0, len(_EDIT)):
            inner += len(_EDIT)
        elif _is_equal(data, inner, min(last, inner + len(_NEEDED)), _NEEDED, 0, len(_NEEDED)):
            inner += len(_NEEDED)
    return inner + 1 - place if inner < last and data[inner] == ord("]") else 0


@compiled
def _ends_well(data, first, last, good_ends, good_end_ends, bad_ends, bad_end_ends):
    is_good = len(good_end_ends) == 0 or _ends_in(data, first, last, good_ends, good_end_ends)
    return is_good and not _ends_in(data, first, last, bad_ends, bad_end_ends)


@compiled
def _ends_in(data, first, last, words, word_ends):
    start = 0
    for word in range(len(word_ends)):
        length = word_ends[word] - start
        is_inside = length <= last - first
        if is_inside and _is_equal(data, last - length, last, words, start, word_ends[word]):
            return True
        start = word_ends[word]
    return False


@compiled
def _is_equal(a, a_start, a_end, b, b_start, b_end):
    if a_end - a_start != b_end - b_start:
        return False
    for index in range(a_end - a_start):
        if a[a_start + index] != b[b_start + index]:
            return False
    return True


@compiled
def _is_same(a, a_start, a_end, b, b_start, b_end):
    """Tell whether two texts are equal, eight bytes at a time; seven behind them may be read."""
    if a_end - a_start != b_end - b_start:
        return False
    n_bytes = a_end - a_start
    for index in range(0, n_bytes, 8):
        difference = load_word(a, a_start + index) ^ load_word(b, b_start + index)
        if n_bytes - index < 8:
            difference &= (np.uint64(1) << np.uint64(8 * (n_bytes - index))) - np.uint64(1)
        if difference:
            return False
    return True
