"""What a character, a word, a line and a paragraph are: plain Python, the definition for compiled passes.

Every definition here can be computed by one pass over UTF-8 bytes with two tables indexed by code point: a
class (`character_classes`) and a folded code point (`simple_folding`). That is why no Unicode normalisation
form is applied: NFC and NFKC compose across characters and expand one to many, which no such table can do.
Composed and decomposed letters, or full-width and ASCII ones, therefore make different words.

The tables come from Python's `unicodedata`; `UNICODE_VERSION` says which edition, since a later one gives
letters to code points that are unassigned in an earlier one.
"""

import functools
import re
import sys
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

UNICODE_VERSION = unicodedata.unidata_version

N_CODE_POINTS = sys.maxunicode + 1  # 0x110000

# The classes. Their numbers are the values in the table.
SPACE = 0  # white space, controls, format characters (zero-width ones too), surrogates, unassigned
LETTER = 1  # letters and numbers of scripts that are written in runs: Latin, Cyrillic, Arabic, Thai, ...
MARK = 2  # combining marks: part of the word they follow, nothing elsewhere
CJK = 3  # Han ideographs, kana and Hangul syllables: each one is a word
PUNCTUATION = 4  # punctuation and symbols, the underscore and emoji among them

# Blocks whose letters are CJK; what is no letter in them (the middle dot, voicing marks) keeps its own class.
_CJK_BLOCKS = (
    (0x3005, 0x3007),  # iteration mark, closing mark, zero
    (0x3021, 0x3029),  # Hangzhou numerals
    (0x3031, 0x3035),  # vertical kana repeat marks
    (0x3038, 0x303C),
    (0x3040, 0x30FF),  # hiragana, katakana
    (0x31F0, 0x31FF),  # katakana phonetic extensions
    (0x3400, 0x4DBF),  # ideographs, extension A
    (0x4E00, 0x9FFF),  # ideographs
    (0xAC00, 0xD7A3),  # Hangul syllables
    (0xF900, 0xFAFF),  # compatibility ideographs
    (0xFF66, 0xFF9F),  # half-width katakana
    (0x1AFF0, 0x1B16F),  # kana extended and supplement
    (0x20000, 0x3FFFF),  # ideographs, the planes for extensions B and later
)
# Where characters may be that are not SPACE; the rest is surrogates, for private use, or unassigned. The
# third range, the ideographic planes, holds letters and nothing else.
_ASSIGNED = ((0, 0xD800), (0xF900, 0x20000), (0x20000, 0x40000), (0xE0000, 0xE1000))


@functools.cache
def character_classes() -> NDArray[np.uint8]:
    r"""Give the class of every code point, shape (0x110000,): SPACE, LETTER, MARK, CJK or PUNCTUATION.

    LETTER and CJK together are what `str.isalnum` accepts, which is `\w` of `re` without the underscore.
    """
    classes = np.full(N_CODE_POINTS, SPACE, np.uint8)
    by_category = {"M": MARK, "P": PUNCTUATION, "S": PUNCTUATION}
    for first, end in _ASSIGNED:
        block = classes[first:end]
        characters = _characters(first, end)
        for run in re.finditer(r"[^\W_]+", characters):  # in C, unlike a call for each character
            block[run.start() : run.end()] = LETTER
        for place in np.flatnonzero(block == SPACE).tolist() if first != 0x20000 else ():
            block[place] = by_category.get(unicodedata.category(characters[place])[0], SPACE)
    for first, last in _CJK_BLOCKS:
        block = classes[first : last + 1]
        block[block == LETTER] = CJK
    classes.setflags(write=False)
    return classes


@functools.cache
def simple_folding() -> NDArray[np.uint32]:
    """Give the code point that each code point folds to, shape (0x110000,): most fold to themselves.

    This is Unicode's simple case folding (CaseFolding.txt, status C and S): one code point to one, so final
    sigma folds to sigma but sharp s stays. A mapping that would change the class is left out (U+0345 only).
    """
    folding = np.arange(N_CODE_POINTS, dtype=np.uint32)
    classes = character_classes()
    has_case = (classes != SPACE) & (classes != CJK)
    for code in np.flatnonzero(has_case).tolist():
        character = chr(code)
        folded = character.casefold()
        if len(folded) > 1:
            folded = character.lower()
        if folded != character and len(folded) == 1 and classes[ord(folded)] == classes[code]:
            folding[code] = ord(folded)
    folding.setflags(write=False)
    return folding


def _characters(first: int, end: int) -> str:
    return np.arange(first, end, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


def fold_case(text: str) -> str:
    """Fold every character of `text` by `simple_folding`."""
    return text.lower() if text.isascii() else text.translate(_folding_dict())


def words(text: str, *, fold: bool = False, punctuation: bool = False) -> list[str]:
    """Split `text` into words.

    A CJK character is a word by itself. Elsewhere a word starts with a LETTER and runs on over LETTER and
    MARK; a change of script does not end it. SPACE and PUNCTUATION separate words, so "don't" is two and
    "snake_case" is two. Scripts that put no spaces between words (Thai, Khmer) give long words. A MARK with
    no word before it is skipped.

    Args:
        text: any text; surrogates count as SPACE.
        fold: fold the case.
        punctuation: also give each PUNCTUATION character as a word by itself.
    """
    pattern = _word_pattern(punctuation)
    return pattern.findall(fold_case(text) if fold else text)


def word_spans(text: str, *, punctuation: bool = False) -> list[tuple[int, int]]:
    """Say where each word starts and ends in `text`: folding moves no word."""
    return [found.span() for found in find_words(text, punctuation=punctuation)]


def find_words(text: str, *, punctuation: bool = False) -> "Iterator[re.Match[str]]":
    """Find each word in `text`, one after another."""
    return _word_pattern(punctuation).finditer(text)


def has_words(text: str, *, punctuation: bool = False) -> bool:
    """Tell whether there is any word in `text`."""
    return _word_pattern(punctuation).search(text) is not None


def normalise(text: str, *, fold: bool = True, punctuation: bool = False) -> str:
    """Reduce `text` to its words, joined by one space: what two copies of a document have in common."""
    return " ".join(words(text, fold=fold, punctuation=punctuation))


def lines(text: str) -> list[str]:
    r"""Split `text` at each "\n" or "\r\n", which are not part of the lines.

    A newline at the end of the text ends the last line and starts no other; the empty text has no lines.
    No other character (form feed, U+2028) ends a line.
    """
    if not text:
        return []
    body = text.removesuffix("\n")
    if len(body) == len(text):  # the last line has no newline, so a "\r" at its end is its own
        *ended, last = body.split("\n")
        return [*(line.removesuffix("\r") for line in ended), last]
    return [line.removesuffix("\r") for line in body.split("\n")]


def paragraphs(text: str) -> list[str]:
    r"""Split `text` into paragraphs: runs of lines that are not blank, joined by "\n".

    A line is blank when it holds nothing but white space (`str.isspace`).
    """
    found: list[list[str]] = []
    is_inside = False
    for line in lines(text):
        if not line or line.isspace():
            is_inside = False
            continue
        if not is_inside:
            found.append([])
        is_inside = True
        found[-1].append(line)
    return ["\n".join(paragraph) for paragraph in found]


def line_spans(text: str) -> list[tuple[int, int]]:
    """Say where each of the `lines` starts and ends in `text`, its line end included."""
    ends = [found.end() for found in re.finditer("\n", text)]
    if not text.endswith("\n"):
        ends.append(len(text))
    return list(pairwise([0, *ends])) if text else []


def paragraph_spans(text: str) -> list[tuple[int, int]]:
    """Say where each of the `paragraphs` starts and ends in `text`, the blank lines behind it included."""
    starts = []
    is_inside = False
    for start, end in line_spans(text):
        is_blank = text[start:end].isspace()
        if not is_blank and not is_inside:
            starts.append(start)
        is_inside = not is_blank
    return list(pairwise([*starts, len(text)]))


@functools.cache
def _folding_dict() -> dict[int, int]:
    folding = simple_folding()
    changed = np.flatnonzero(folding != np.arange(N_CODE_POINTS, dtype=np.uint32))
    return {int(code): int(folding[code]) for code in changed}


@functools.cache
def _word_pattern(punctuation: bool) -> "re.Pattern[str]":
    mark, cjk = _character_set(MARK), _character_set(CJK)
    letter = rf"[^\W_{cjk}]"  # every letter is listed by none: twice as fast as the list of them
    alone = cjk + (_character_set(PUNCTUATION) if punctuation else "")
    return re.compile(rf"{letter}+(?:[{mark}]+{letter}*)*|[{alone}]")


def _character_set(number: int) -> str:
    """Write one class as the ranges of a regular expression's `[...]`."""
    member = np.zeros(N_CODE_POINTS + 2, np.int8)
    member[1:-1] = character_classes() == number
    edges: list[int] = np.flatnonzero(np.diff(member)).tolist()
    ranges = zip(edges[::2], edges[1::2], strict=True)
    return "".join(f"\\U{first:08x}-\\U{end - 1:08x}" for first, end in ranges)
