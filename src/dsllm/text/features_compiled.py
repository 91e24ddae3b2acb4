"""The features of `features.py` for all texts of a batch, compiled: one pass over each text, in parts.

What is counted of a text is the same for every language but for the stop words and the length of a short
line; a feature is a count over another one. Parts that no feature asks for are left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dsllm.text import features as definition
from dsllm.text import lines_compiled as lines
from dsllm.text import marks_compiled as marks
from dsllm.text import terms_compiled as terms
from dsllm.text import words_compiled as words
from dsllm.text.compiled import compiled
from dsllm.text.gram_limits_compiled import N_LIMITS, may_exceed
from dsllm.text.grams_compiled import MAX_N, MAX_TOP_N, MIN_DUPLICATE_N, measure_grams
from dsllm.text.lines_compiled import N_LINE_COUNTS, line_kinds, measure_lines, next_line_end
from dsllm.text.marks_compiled import N_MARKS, count_marks, find_phrases, phrase_table
from dsllm.text.scan_compiled import word_tables
from dsllm.text.shingles_compiled import MAX_WORDS, make_room
from dsllm.text.terms_compiled import N_TERM_COUNTS, measure_terms
from dsllm.text.texts import Texts
from dsllm.text.words_compiled import N_WORD_COUNTS, measure_words

# Where in a text's row of counts each part writes.
_MARKS = 0
_LINES = _MARKS + N_MARKS
_PHRASES = _LINES + N_LINE_COUNTS  # lorem ipsum; lines with javascript, with a policy
_WORDS = _PHRASES + 3
_TERMS = _WORDS + N_WORD_COUNTS
_TOP = _TERMS + N_TERM_COUNTS  # of words, two a length, then of terms
_DUPLICATE = _TOP + 4 * (MAX_N + 1)
_TEXT_CHARS = _DUPLICATE + 4 * (MAX_N + 1)  # without line feeds
_N_COUNTS = _TEXT_CHARS + 1
_OF_TERMS = 2 * (MAX_N + 1)
_LOREM, _JAVASCRIPT, _POLICY = range(3)

_SENTENCES = "n_line_sentences"
_FEW_BYTES = 512  # that mostly have as many sentences as rules ask for
_LINE_FEED = ord("\n")

Counts = NDArray[np.float64]
NO_LIMITS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Feature:
    """A count, over another one where there is a second; `needs` says which parts of the pass make them."""

    part: int
    whole: int | None
    needs: frozenset[str]
    least_whole: float = 0.0
    is_share: bool = False

    def of(self, counts: Counts) -> NDArray[np.float64]:
        """Compute the feature out of the counts (n_texts, n_counts)."""
        if self.whole is None:
            return counts[:, self.part]
        whole = np.maximum(counts[:, self.whole], self.least_whole)
        found = np.divide(counts[:, self.part], whole, out=np.zeros(len(counts)), where=whole > 0)
        return np.minimum(found, 1.0) if self.is_share else found


def _features() -> dict[str, Feature]:
    word, line, mark = frozenset({"words"}), frozenset({"lines"}), frozenset({"marks"})
    chars, n_words, n_lines = _MARKS + marks.CHARS, _WORDS + words.WORDS, _LINES + lines.LINES
    found = {
        "n_words": Feature(n_words, None, word),
        "mean_word_chars": Feature(_WORDS + words.WORD_CHARS, n_words, word),
        "hash_per_word": Feature(_MARKS + marks.HASHES, n_words, word | mark),
        "ellipsis_per_word": Feature(_MARKS + marks.ELLIPSES, n_words, word | mark),
        "bullet_line_frac": Feature(_LINES + lines.BULLETS, n_lines, line),
        "ellipsis_line_frac": Feature(_LINES + lines.ELLIPSIS_ENDS, n_lines, line),
        "alphabetic_word_frac": Feature(_WORDS + words.ALPHABETIC, n_words, word),
        "n_stop_words": Feature(_WORDS + words.DIFFERENT_STOPS, None, word),
        "stop_word_frac": Feature(_WORDS + words.STOPS, n_words, word),
        "duplicate_line_frac": Feature(_LINES + lines.DUPLICATES, n_lines, line),
        "duplicate_line_char_frac": Feature(_LINES + lines.DUPLICATE_CHARS, chars, line | mark),
        "duplicate_paragraph_frac": Feature(
            _LINES + lines.PARAGRAPH_DUPLICATES, _LINES + lines.PARAGRAPHS, line
        ),
        "duplicate_paragraph_char_frac": Feature(
            _LINES + lines.PARAGRAPH_DUPLICATE_CHARS, chars, line | mark
        ),
        "line_feed_per_word": Feature(_LINES + lines.LINE_FEEDS, n_words, word | line),
        "n_sentences": Feature(_MARKS + marks.SENTENCE_ENDS, None, mark),
        "terminal_line_frac": Feature(_LINES + lines.TERMINALS, n_lines, line),
        "short_line_frac": Feature(_LINES + lines.SHORT, n_lines, line),
        "n_curly_brackets": Feature(_MARKS + marks.CURLY, None, mark),
        "n_lorem_ipsum": Feature(_PHRASES + _LOREM, None, frozenset({"phrases"})),
        "javascript_line_frac": Feature(_PHRASES + _JAVASCRIPT, n_lines, line | {"phrases"}),
        "policy_line_frac": Feature(_PHRASES + _POLICY, n_lines, line | {"phrases"}),
        "chars_per_punctuation": Feature(
            _WORDS + words.WORD_CHARS, _MARKS + marks.PUNCTUATIONS, word | mark, least_whole=1
        ),
    }
    for n in range(2, MAX_TOP_N + 1):
        found[f"top_{n}_gram_char_frac"] = Feature(
            _TOP + 2 * n, chars, word | mark | {f"{n} words"}, is_share=True
        )
    for n in range(MIN_DUPLICATE_N, MAX_N + 1):
        found[f"duplicate_{n}_gram_char_frac"] = Feature(
            _DUPLICATE + 2 * n, chars, word | mark | {f"{n} words"}
        )
    return found | _term_features()


def _term_features() -> dict[str, Feature]:
    term, line, mark = frozenset({"terms"}), frozenset({"lines"}), frozenset({"marks"})
    chars, n_terms, n_lines = _MARKS + marks.CHARS, _TERMS + terms.TERMS, _LINES + lines.LINES
    n_words = _TERMS + terms.TERM_WORDS
    raw = line | {"raw lines"}
    found = {
        "n_term_words": Feature(n_words, None, term),
        "mean_term_chars": Feature(_TERMS + terms.TERM_WORD_CHARS, n_words, term),
        "hash_per_term": Feature(_MARKS + marks.HASHES, n_terms, term | mark),
        "ellipsis_per_term": Feature(_MARKS + marks.DOTS_OR_SIGNS, n_terms, term | mark),
        "alphabetic_term_frac": Feature(_TERMS + terms.ALPHABETIC, n_terms, term),
        "n_stop_terms": Feature(_TERMS + terms.DIFFERENT_STOPS, None, term),
        "line_feed_per_term": Feature(_LINES + lines.LINE_FEEDS, n_terms, term | line),
        "n_line_sentences": Feature(_TERMS + terms.SENTENCES, None, term),
        "duplicate_raw_line_frac": Feature(_LINES + lines.RAW_DUPLICATES, n_lines, raw),
        "duplicate_raw_line_char_frac": Feature(_LINES + lines.RAW_DUPLICATE_CHARS, chars, raw | mark),
        "duplicate_raw_line_text_frac": Feature(_LINES + lines.RAW_DUPLICATE_CHARS, _TEXT_CHARS, raw | mark),
        "stop_raw_line_frac": Feature(_LINES + lines.STOPS, n_lines, raw),
        "short_raw_line_frac": Feature(_LINES + lines.RAW_SHORT, n_lines, raw),
    }
    for n in range(2, MAX_TOP_N + 1):
        found[f"top_{n}_term_char_frac"] = Feature(
            _TOP + _OF_TERMS + 2 * n + 1, chars, term | mark | {f"{n} terms"}, is_share=True
        )
    for n in range(MIN_DUPLICATE_N, 11):
        found[f"duplicate_{n}_term_char_frac"] = Feature(
            _DUPLICATE + _OF_TERMS + 2 * n + 1, chars, term | mark | {f"{n} terms"}
        )
    return found


FEATURES = _features()


def is_quick(name: str) -> bool:
    """Tell whether a feature needs no words: it takes a small part of the time of one that does."""
    return FEATURES[name].needs <= {"marks", "lines", "raw lines", "phrases"}


def measure(
    texts: Texts,
    languages: Sequence[str],
    names: Sequence[str],
    wanted: NDArray[np.bool_],
    most: Mapping[str, float] = NO_LIMITS,
    least: Mapping[str, float] = NO_LIMITS,
) -> NDArray[np.float64]:
    """Compute features of texts, shape (n_texts, n_names); NaN for those that are not wanted.

    Equal to those of `features.py` with the text's language, but that phrases are found in any case of ASCII
    letters only. Features of n-grams that are surely at most what `most` says may be NaN, which saves the
    counting; a number of sentences that is at least what `least` says may be too small, but no smaller than
    that.
    """
    needs: frozenset[str] = frozenset().union(*(FEATURES[name].needs for name in names))
    counts = np.zeros((len(texts.ends), _N_COUNTS))
    numbers, stop_words, stop_factor = words.stop_word_tables()
    language = np.array([numbers.get(each, words.NO_LANGUAGE) for each in languages], np.int64)
    cjk, limit = definition.SHORT_LINE_CJK_CHARS, definition.SHORT_LINE_CHARS
    short_chars = np.array([cjk if each in ("zh", "ja") else limit for each in languages], np.int64)
    are_few = np.zeros((2, len(texts.ends)), bool)  # the n-grams of words, of terms
    _measure(
        texts.data, texts.ends, wanted, language, short_chars,
        "marks" in needs, "lines" in needs, "raw lines" in needs, "phrases" in needs, "words" in needs,
        _greatest_n(needs, "words"), _limits(names, "words", most),
        *phrase_table(((definition.LOREM_IPSUM,), (definition.JAVASCRIPT,), definition.POLICY_PHRASES)),
        line_kinds(), stop_words, np.uint64(stop_factor), *word_tables(), words.alphabetic_characters(),
        counts, are_few[0],
    )  # fmt: skip
    if "terms" in needs:
        _measure_by_terms(
            texts.data, texts.ends, wanted, _enough_sentences(names, least), _greatest_n(needs, "terms"),
            _limits(names, "terms", most),
            *terms.term_tables(), counts, are_few[1],
        )  # fmt: skip
    found = np.stack([FEATURES[name].of(counts) for name in names], axis=1) if names else counts[:, :0]
    for at, name in enumerate(names):
        for kind, is_few in zip(("words", "terms"), are_few, strict=True):
            if _n_of_grams(name, kind):
                found[is_few, at] = np.nan
    found[~wanted] = np.nan
    return found


def _n_of_grams(name: str, kind: str) -> int:
    """Give the n of a feature made of n-grams of "words" or "terms"; 0 for another one."""
    return next((int(need.split()[0]) for need in FEATURES[name].needs if need.endswith(f" {kind}")), 0)


def _limits(names: Sequence[str], kind: str, most: Mapping[str, float]) -> NDArray[np.float64]:
    """Give the limits as `may_exceed` takes them; below zero where all must be counted."""
    limits = np.array([np.inf, np.inf, 0, np.inf])
    for name in names:
        n = _n_of_grams(name, kind)
        if not n:
            continue
        if name not in most:
            return np.full(N_LIMITS, -1.0)
        at = 3 if name.startswith("duplicate_") else 0 if n == 2 else 1
        limits[at] = min(limits[at], most[name])
        if at == 3:
            limits[2] = min(limits[2], n) if limits[2] else n
    return limits


def _enough_sentences(names: Sequence[str], least: Mapping[str, float]) -> int:
    """Give the number of sentences that is enough, where nothing else is asked of terms; 0 to count all."""
    by_terms = [name for name in names if "terms" in FEATURES[name].needs]
    return max(1, math.ceil(least[_SENTENCES])) if by_terms == [_SENTENCES] and _SENTENCES in least else 0


def _greatest_n(needs: frozenset[str], kind: str) -> int:
    return max((int(need.split()[0]) for need in needs if need.endswith(f" {kind}")), default=0)


@compiled
def _measure(
    data, ends, wanted, languages, short_chars, has_marks, has_lines, has_raw, has_phrases, has_words, max_n,
    limits, anchors, anchor_ends, phrases, phrase_ends, groups, line_kinds, stop_words, stop_factor, classes,
    folding, alphabetic, counts, are_few,
):  # fmt: skip
    folded, edges, _parts, state = make_room(ends)
    longest, grams, hashes, chars_before = _make_gram_room(ends)
    room = np.empty(len(grams[0]), np.uint64)
    hits, hit_groups = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    mark_counts, line_counts = np.zeros(N_MARKS, np.int64), np.zeros(N_LINE_COUNTS, np.int64)
    word_counts = np.zeros(N_WORD_COUNTS, np.int64)
    start = 0
    for text in range(len(ends)):
        end = ends[text]
        row = counts[text]
        if not wanted[text]:
            start = end
            continue
        if has_marks:
            mark_counts[:] = 0
            count_marks(data, start, end, mark_counts)
            row[_MARKS : _MARKS + N_MARKS] = mark_counts
        if has_lines:
            line_counts[:] = 0
            measure_lines(data, start, end, short_chars[text], line_kinds, has_raw, room, line_counts)
            row[_LINES : _LINES + N_LINE_COUNTS] = line_counts
        row[_TEXT_CHARS] = mark_counts[marks.CHARS] - line_counts[lines.LINE_FEEDS]
        if has_phrases:
            n_hits = find_phrases(
                data, start, end, anchors, anchor_ends, phrases, phrase_ends, groups, hits, hit_groups
            )
            _count_phrases(data, end, hits[:n_hits], hit_groups, row[_PHRASES : _PHRASES + 3])
        if has_words:
            measure_words(
                data, start, end, stop_words[languages[text]], stop_factor, state, folded, edges, classes,
                folding, alphabetic, hashes, chars_before, word_counts,
            )  # fmt: skip
            row[_WORDS : _WORDS + N_WORD_COUNTS] = word_counts
            are_few[text] = _count_grams(hashes, chars_before, word_counts[0], max_n, limits, grams, row, 0)
        start = end


@compiled
def _measure_by_terms(
    data, ends, wanted, n_enough, max_n, limits, term_classes, known_filter, known, cuts, stop_terms, counts,
    are_few,
):  # fmt: skip
    """Count the terms; a function of its own, since most runs need none and compiling takes long."""
    longest, grams, hashes, chars_before = _make_gram_room(ends)
    _, slots, places, _ = grams
    hits, kinds = np.empty(longest + 1, np.int64), np.empty(len(slots), np.uint8)
    term_counts = np.zeros(N_TERM_COUNTS, np.int64)
    start = 0
    for text in range(len(ends)):
        end = ends[text]
        if wanted[text]:
            n_bytes, is_enough = _FEW_BYTES, False
            while not is_enough:
                stop = _line_end(data, start + n_bytes, end) if n_enough else end  # a line has its own ones
                measure_terms(
                    data, start, stop, term_classes, known_filter, known, cuts, stop_terms, hits, places,
                    slots, kinds, hashes, chars_before, term_counts,
                )  # fmt: skip
                n_bytes *= 4
                is_enough = stop == end or term_counts[terms.SENTENCES] >= n_enough
            row = counts[text]
            row[_TERMS : _TERMS + N_TERM_COUNTS] = term_counts
            are_few[text] = _count_grams(
                hashes, chars_before, term_counts[0], max_n, limits, grams, row, _OF_TERMS
            )
        start = end


@compiled
def _line_end(data, place, end):
    """Find the place behind the next line feed from a place on."""
    while place < end and data[place] != _LINE_FEED:
        place += 1
    return min(place + 1, end)


@compiled
def _make_gram_room(ends):
    """Give the bytes of the longest text, and what its words or terms and their n-grams are written to.

    That is what `measure_grams` works in, then their hashes and the characters before each.
    """
    longest = start = 0
    for end in ends:
        longest = max(longest, end - start)
        start = end
    n_most = longest + 2 + MAX_WORDS  # words, terms, lines that are not blank
    n_slots = 64
    while n_slots < 4 * (longest + 2):
        n_slots *= 2
    slots, places, keys = np.empty(n_most, np.int64), np.empty(n_most, np.int64), np.empty(n_most, np.uint64)
    grams = (np.empty(n_slots, np.int64), slots, places, keys)
    return longest, grams, np.empty(n_most, np.uint64), np.empty(n_most + 1, np.int64)


@compiled
def _count_grams(hashes, chars_before, n_words, max_n, limits, grams, row, offset):
    """Count n-grams; tells whether they are so few that this was left out."""
    if max_n == 0:
        return False
    room, slots, places, keys = grams
    n_chars = row[_MARKS + marks.CHARS]
    if limits[0] >= 0 and not may_exceed(hashes, chars_before, n_words, n_chars, limits, slots, keys):
        return True
    top, duplicate = np.zeros((MAX_N + 1, 2)), np.zeros((MAX_N + 1, 2))
    measure_grams(hashes, chars_before, n_words, max_n, room, slots, places, keys, top, duplicate)
    row[_TOP + offset : _TOP + offset + _OF_TERMS] = top.ravel()
    row[_DUPLICATE + offset : _DUPLICATE + offset + _OF_TERMS] = duplicate.ravel()
    return False


@compiled
def _count_phrases(data, end, hits, groups, counts):
    """Count those of the first group, and the lines with one of the second and of the third."""
    counted_until = np.zeros(3, np.int64)  # the end of the line that a group was last counted in
    for index in range(len(hits)):
        group = groups[index]
        if group == 0:
            counts[0] += 1
        elif hits[index] >= counted_until[group]:
            counts[group] += 1
            counted_until[group] = next_line_end(data, hits[index], end)
