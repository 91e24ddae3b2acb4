r"""The pre-tokens of DeepSeek LLM's tokenizer: plain Python, the definition for compiled passes.

A text is cut into pieces, and no token reaches over the end of one. The cuts are made in a fixed order, each
on *every* piece that the cuts before it left, also on what an earlier one had matched: a match becomes a
piece of its own, and so does what lies between two matches. The order and the classes are those of the
released tokenizer, whose punctuation range `:-~` holds A-Z and a-z and whose CJK range starts at U+0800. So
"café" is "caf" and "é", and Vietnamese words fall apart at letters from U+1E00 on. Arabic, Hebrew, Thai and
Indic text has no class of letters: the first two stay whole up to the next digit or line end, with their
spaces; the others lie inside the CJK range and are cut at spaces.

Hugging Face `tokenizers` is the reference: `huggingface_pre_tokenizer` gives the same cuts as its objects.
"""

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

# Code points in hexadecimal, both ends included.
LINE_ENDS = "A D"
SPACES = "9-D 20 85 A0 1680 2000-200A 2028 2029 202F 205F 3000"
LETTERS = """
41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1
3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77
1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE
1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124
2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3
A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A
10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943
"""
PUNCTUATION = "21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002"
CJK = "800-9FA5 AC00-D7FF"
# General categories Nd, Nl and No of Unicode 17, as Rust's char::is_numeric has them. Written out, because
# the edition that Python knows differs from one Python to the next.
NUMBERS = """
30-39 B2-B3 B9 BC-BE 660-669 6F0-6F9 7C0-7C9 966-96F 9E6-9EF 9F4-9F9 A66-A6F AE6-AEF B66-B6F B72-B77 BE6-BF2
C66-C6F C78-C7E CE6-CEF D58-D5E D66-D78 DE6-DEF E50-E59 ED0-ED9 F20-F33 1040-1049 1090-1099 1369-137C
16EE-16F0 17E0-17E9 17F0-17F9 1810-1819 1946-194F 19D0-19DA 1A80-1A89 1A90-1A99 1B50-1B59 1BB0-1BB9
1C40-1C49 1C50-1C59 2070 2074-2079 2080-2089 2150-2182 2185-2189 2460-249B 24EA-24FF 2776-2793 2CFD 3007
3021-3029 3038-303A 3192-3195 3220-3229 3248-324F 3251-325F 3280-3289 32B1-32BF A620-A629 A6E6-A6EF
A830-A835 A8D0-A8D9 A900-A909 A9D0-A9D9 A9F0-A9F9 AA50-AA59 ABF0-ABF9 FF10-FF19 10107-10133 10140-10178
1018A-1018B 102E1-102FB 10320-10323 10341 1034A 103D1-103D5 104A0-104A9 10858-1085F 10879-1087F 108A7-108AF
108FB-108FF 10916-1091B 109BC-109BD 109C0-109CF 109D2-109FF 10A40-10A48 10A7D-10A7E 10A9D-10A9F 10AEB-10AEF
10B58-10B5F 10B78-10B7F 10BA9-10BAF 10CFA-10CFF 10D30-10D39 10D40-10D49 10E60-10E7E 10F1D-10F26 10F51-10F54
10FC5-10FCB 11052-1106F 110F0-110F9 11136-1113F 111D0-111D9 111E1-111F4 112F0-112F9 11450-11459 114D0-114D9
11650-11659 116C0-116C9 116D0-116E3 11730-1173B 118E0-118F2 11950-11959 11BF0-11BF9 11C50-11C6C 11D50-11D59
11DA0-11DA9 11DE0-11DE9 11F50-11F59 11FC0-11FD4 12400-1246E 16130-16139 16A60-16A69 16AC0-16AC9 16B50-16B59
16B5B-16B61 16D70-16D79 16E80-16E96 16FF4-16FF6 1CCF0-1CCF9 1D2C0-1D2D3 1D2E0-1D2F3 1D360-1D378 1D7CE-1D7FF
1E140-1E149 1E2F0-1E2F9 1E4F0-1E4F9 1E5F1-1E5FA 1E8C7-1E8CF 1E950-1E959 1EC71-1ECAB 1ECAD-1ECAF 1ECB1-1ECB4
1ED01-1ED2D 1ED2F-1ED3D 1F100-1F10C 1FBF0-1FBF9
"""

# Each cut, in order: an optional character, then one or more of a class, then an anchor. In these patterns
# {NAME} stands for a class above; both regex engines get theirs from here.
CUTS = (
    "{LINE_ENDS}",
    "{SPACES}?{LETTERS}+",
    "{SPACES}?{PUNCTUATION}+",
    "{SPACES}+{END}",
    "{CJK}+",
    "{NUMBERS}",
)
_CLASSES = {
    "LINE_ENDS": LINE_ENDS,
    "SPACES": SPACES,
    "LETTERS": LETTERS,
    "PUNCTUATION": PUNCTUATION,
    "CJK": CJK,
    "NUMBERS": NUMBERS,
}


def pre_tokens(text: str) -> list[str]:
    """Cut a text into its pre-tokens; joined, they are the text again."""
    pieces = [text] if text else []
    for cut in _compiled_cuts():
        pieces = [part for piece in pieces for part in cut.split(piece) if part]
    return pieces


def code_point_ranges(table: str) -> list[tuple[int, int]]:
    """Read one of the tables above: first and last code point of each range."""
    ranges = [entry.partition("-") for entry in table.split()]
    return [(int(first, 16), int(last or first, 16)) for first, _, last in ranges]


def huggingface_pre_tokenizer() -> "PreTokenizer":
    """Build the same cuts, then the byte alphabet, from the objects of Hugging Face `tokenizers`.

    The classes are written as escapes, so that no editor or server can compose their letters (NFC turns three
    of the ranges upside down).
    """
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    classes = {name: _escaped_class(table) for name, table in _CLASSES.items()}
    patterns = [cut.format(**{**classes, "SPACES": r"\s", "END": "$"}) for cut in CUTS[:-1]]
    splits = [Split(Regex(pattern), "isolated") for pattern in patterns]
    digits = Digits(individual_digits=True)
    return Sequence([*splits, digits, ByteLevel(add_prefix_space=False, use_regex=False)])


@functools.cache
def _compiled_cuts() -> list[re.Pattern[str]]:
    # A group around the whole makes `split` give the matches too. \Z and not $, which in `re` also matches
    # before a line feed at the end.
    classes = {name: _literal_class(table) for name, table in _CLASSES.items()}
    return [re.compile(f"({cut.format(**classes, END=chr(92) + 'Z')})") for cut in CUTS]


def _literal_class(table: str) -> str:
    ranges = code_point_ranges(table)
    return "[" + "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges) + "]"


def _escaped_class(table: str) -> str:
    ranges = code_point_ranges(table)
    parts = [f"\\x{{{first:X}}}" + (f"-\\x{{{last:X}}}" if last > first else "") for first, last in ranges]
    return "[" + "".join(parts) + "]"
