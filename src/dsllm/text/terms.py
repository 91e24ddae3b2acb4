"""Terms of English: words and marks the way spaCy's rules part them. Plain Python, the definition.

Gopher's rules do not say what a word is. Those who use them let spaCy's English tokenizer say so, in which a
comma is a word of its own, "don't" are two, "and/or" is one and a web address too. Bounds that are set for
such words mean something else for the words of `scan.py`, so presets made of published bounds use these.

A term is cut out of what stands between white space: marks come off the front and the back, one after
another; what then is no web address and none of the `exceptions` is cut at hyphens, slashes and the like.
Of spaCy's rules those for emoticons, units of other scripts and rare abbreviations are left out.
"""

import functools
import unicodedata
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import kept_array
from dsllm.text.scan import N_CODE_POINTS, SPACE, character_classes

# What a character may be: bits of `term_classes`.
FRONT, BACK, INNER = 1, 2, 4  # comes off the front; off the back; is cut out wherever it stands
LOWER, UPPER, LETTER, DIGIT = 8, 16, 32, 64
BEFORE_STOP = 128  # a full stop behind it comes off
QUOTE = 256
SYMBOL = 512  # of such characters alone no word is made
MARK = 1024  # Unicode's punctuation: it goes on with the sentence that has ended
WHITE = 2048
CURRENCY = 8192
HOST = 4096  # may be in a host's name, beside the hyphen, the underscore and the stop

_PUNCTUATION = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_SYMBOLS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~—–”“„’´«»…％１〈〉、━【】「」，；《》∶．（）？！：～。►"
SENTENCE_ENDS = tuple(".!?։؟۔।॥။።‼‽⁇⁈⁉｡。．！？")
_PERSONS = ("i", "you", "he", "she", "it", "we", "they")
_QUESTIONS = ("who", "what", "when", "where", "why", "how", "there")
_POINTERS = ("that", "this")
_AUXILIARIES = (
    *("is", "are", "was", "were", "do", "does", "did", "has", "have", "had", "ca", "could", "wo", "would"),
    *("should", "sha", "might", "must", "need", "ought", "may", "ai", "dare"),
)
_TAILS = {
    "'m": ("i",),
    "'s": ("he", "she", "it", *_QUESTIONS, *_POINTERS),
    "'re": ("you", "we", "they", *_QUESTIONS),
    "'ve": ("i", "you", "we", "they", *_QUESTIONS, "could", "might", "must", "should", "would"),
    "'ll": (*_PERSONS, *_QUESTIONS, *_POINTERS),
    "'d": (*_PERSONS, *_QUESTIONS, *_POINTERS),
    "n't": _AUXILIARIES,
}
_WORDS_ANYHOW = ("ill", "its", "hell", "shell", "shed", "were", "well", "whore")  # not "I'll", "it's"
_ABBREVIATIONS = (
    *("Mr.", "Mrs.", "Ms.", "Dr.", "Prof.", "Jr.", "St.", "Rev.", "Gen.", "Gov.", "Sen.", "Rep.", "Adm."),
    *("Inc.", "Ltd.", "Co.", "co.", "Corp.", "Bros.", "Messrs.", "vs.", "v.s.", "e.g.", "i.e.", "E.g."),
    *("I.e.", "a.m.", "p.m.", "Ph.D.", "D.C.", "Jan.", "Feb.", "Mar.", "Apr.", "Jun.", "Jul.", "Aug."),
    *("Sep.", "Sept.", "Oct.", "Nov.", "Dec.", "Mt.", "and/or", "w/o"),
)
_UNITS = (
    *("kmh", "mph", "hPa", "mbar", "km", "dm", "cm", "mm", "ha", "nm", "yd", "in", "ft", "kg", "mg", "lb"),
    *("oz", "Pa", "mb", "MB", "kb", "KB", "gb", "GB", "tb", "TB", "m", "g", "t", "T", "G", "M", "K", "%"),
)
UNITS = tuple(unit.encode() for unit in _UNITS)  # a longer one before those that it ends in
MAX_EXCEPTION_BYTES = 16


@functools.cache
def exceptions() -> dict[str, tuple[str, ...]]:
    """Give the spans that are cut in one way, whatever is in them."""
    found = {
        f"{form}{tail}": (form, tail)
        for tail, heads in _TAILS.items()
        for head in heads
        for form in (head, head.title())
    }
    found["cannot'"], found["Cannot'"] = ("can", "not'"), ("Can", "not'")
    plain = {whole.replace("'", ""): (a, b.replace("'", "")) for whole, (a, b) in found.items()}
    found |= {whole.replace("'", "’"): (a, b.replace("'", "’")) for whole, (a, b) in found.items()}
    found |= {word: parts for word, parts in plain.items() if word.lower() not in _WORDS_ANYHOW}
    found |= {"let's": ("let", "'s"), "Let's": ("Let", "'s")}
    whole = [*_ABBREVIATIONS, *(f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyz")]
    return {**found, **{word: (word,) for word in whole}}


@functools.cache
def term_classes() -> NDArray[np.uint16]:
    """Give what each code point may be, shape (0x110000,)."""
    return kept_array("term_classes", _find_classes)


def _find_classes() -> NDArray[np.uint16]:
    found = np.zeros(N_CODE_POINTS, np.uint16)
    for code in [*range(0x80), *np.flatnonzero(character_classes() != SPACE).tolist()]:
        character = chr(code)
        category = unicodedata.category(character)
        if character.isalpha():
            found[code] |= LETTER | (LOWER | BEFORE_STOP if character.islower() else 0)
            found[code] |= UPPER if character.isupper() else 0
        if category == "So":
            found[code] |= FRONT | BACK | INNER
        if category == "Sc":
            found[code] |= FRONT | CURRENCY
        if category[0] == "P":
            found[code] |= MARK
        if 0xA1 <= code <= 0xFFFF or (code < 0x80 and character.isalnum()):
            found[code] |= HOST
    for characters, bits in (
        ("0123456789", DIGIT | BEFORE_STOP),
        (_PUNCTUATION, FRONT | BACK | BEFORE_STOP),
        (_QUOTES, FRONT | BACK | BEFORE_STOP | QUOTE),
        ("§%=—–", FRONT),
        ("—–", BACK),
        ("%²-+", BEFORE_STOP),
        ("…", INNER),
        (_SYMBOLS, SYMBOL),
    ):
        found[[ord(each) for each in characters]] |= bits
    white = [code for code in range(0x3001) if chr(code).isspace()]
    found[white] = WHITE
    found.setflags(write=False)
    return found


def terms(text: str) -> list[str]:
    """Cut a text into terms."""
    return [term for span in text.split() for term in cut_span(span)]


def cut_span(span: str) -> list[str]:
    """Cut what stands between white space."""
    front: list[str] = []
    back: list[str] = []
    known = exceptions()
    while span and span not in known:
        n_front = _front(span)
        rest = span[n_front:]
        if n_front and rest in known:
            front.append(span[:n_front])
            span = rest
            break
        n_back = _back(rest)
        if n_back and span[:-n_back] in known:
            back.append(span[-n_back:])
            span = span[:-n_back]
            break
        if not n_front and not n_back:
            break
        if n_front:
            front.append(span[:n_front])
        if n_back:
            back.append(rest[-n_back:])
        span = rest[: len(rest) - n_back]
    if not span:
        core: list[str] = []
    elif span in known:
        core = list(known[span])
    else:
        core = [span] if is_address(span) else list(_cut_inside(span))
    return [*front, *core, *reversed(back)]


def sentences(line: str) -> int:
    """Count the sentences of a line: behind an end mark one begins at the first term that is no mark."""
    n_found, has_ended = 0, True
    for term in terms(line):
        is_end = term in SENTENCE_ENDS
        if has_ended and (n_found == 0 or not (is_end or all(_is(each, MARK) for each in term))):
            n_found += 1
            has_ended = False
        has_ended = has_ended or is_end
    return n_found


def _is(character: str, bits: int) -> bool:
    return bool(int(term_classes()[ord(character)]) & bits)


def _front(span: str) -> int:
    """Say how many characters come off the front."""
    if span.startswith(".."):
        return len(span) - len(span.lstrip("."))
    for currency in ("US$", "C$", "A$"):
        if span.startswith(currency):
            return len(currency)
    if span[0] == "+":
        return int(not span[1:2].isdigit() or not span[1:2].isascii())
    return int(_is(span[0], FRONT))


def _back(span: str) -> int:
    """Say how many characters come off the back."""
    if not span:
        return 0
    if span.endswith(".."):
        return len(span) - len(span.rstrip("."))
    if span[-2:] in ("'s", "'S", "’s", "’S"):
        return 2
    before = span[-2:-1]
    if span[-1] == ".":
        is_short = len(span) > 2 and _is(span[-2], UPPER) and _is(span[-3], UPPER)
        return int(bool(before) and (is_short or _is(before, BEFORE_STOP)))
    if span[-1] == "+" or _is(span[-1], CURRENCY):
        return int(bool(before) and _is(before, DIGIT))
    for unit in _UNITS:
        if span.endswith(unit) and span[: -len(unit)] and _is(span[-len(unit) - 1], DIGIT):
            return len(unit)
    return int(_is(span[-1], BACK))


def _cut_inside(span: str) -> Iterator[str]:
    """Cut a span at what parts it."""
    start = place = 0
    while place < len(span):
        n_cut = _inner(span, place)
        if n_cut:
            if place > start:
                yield span[start:place]
            yield span[place : place + n_cut]
            start = place = place + n_cut
        else:
            place += 1
    if start < len(span):
        yield span[start:]


def _inner(span: str, place: int) -> int:
    """Say how many characters are cut out at a place."""
    character = span[place]
    if _is(character, INNER):
        return 1
    if span.startswith("..", place):
        return len(span) - place - len(span[place:].lstrip("."))
    if place == 0:
        return 0
    before = span[place - 1]
    if character in "-–—~":
        return _inner_hyphen(span, place)
    after = span[place + 1 : place + 2]
    if not after:
        return 0
    if character in "+*^":
        return int(_is(before, DIGIT) and (_is(after, DIGIT) or after == "-"))
    if character == ".":
        return int(_is(before, LOWER | QUOTE) and _is(after, UPPER | QUOTE))
    if character == ",":
        return int(_is(before, LETTER) and _is(after, LETTER))
    return int(character in ":<>=/" and _is(before, LETTER | DIGIT) and _is(after, LETTER))


def _inner_hyphen(span: str, place: int) -> int:
    before, after = span[place - 1], span[place + 1 : place + 2]
    if span[place] == "-" and after and _is(before, DIGIT) and (_is(after, DIGIT) or after == "-"):
        return 1
    if not _is(before, LETTER | DIGIT):
        return 0
    for hyphens in ("---", "--", "——", "-", "–", "—", "~"):
        after = span[place + len(hyphens) : place + len(hyphens) + 1]
        if span.startswith(hyphens, place) and after and _is(after, LETTER):
            return len(hyphens)
    return 0


def is_address(span: str) -> bool:
    """Tell whether a span is a web address or an e-mail address, more or less."""
    if "." not in span[1:]:
        return False
    scheme, mark, rest = span.partition("://")
    is_scheme = len(scheme) > 1 and all(_is(each, LETTER | DIGIT) or each in "_+-." for each in scheme)
    rest = rest if mark and is_scheme else span
    at = rest.rfind("@")
    return _is_host(rest) or (at > 0 and _is_host(rest[at + 1 :]))


def _is_host(rest: str) -> bool:
    """Tell whether a host's name is at the front, with a port or a path or nothing behind it."""
    n_dots = place = label = 0
    while place < len(rest) and (_is(rest[place], HOST) or rest[place] in "-_."):
        if rest[place] == ".":
            if place == label or not (_is(rest[label], HOST) and _is(rest[place - 1], HOST)):
                return False
            n_dots += 1
            label = place + 1
        place += 1
    is_name = n_dots > 0 and place - label >= 2 and all(_is(each, LOWER) for each in rest[label:place])
    if is_name and rest[place : place + 1] == ":":
        port = place + 1
        place = port
        while place < len(rest) and place - port < 5 and _is(rest[place], DIGIT):
            place += 1
        is_name = place - port >= 2
    return is_name and (place == len(rest) or rest[place] in "/?#")
