"""Words, lines and paragraphs: by hand, by the tables, and against Python's own `re`."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsllm.text import scan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \t\n", []),
        ("... !? —", []),
        ("🙂❤️", []),  # U+FE0F is a mark with no word before it
        ("Hello, world", ["Hello", "world"]),
        ("don't", ["don", "t"]),
        ("snake_case", ["snake", "case"]),
        ("3.14 and 1e-5", ["3", "14", "and", "1e", "5"]),
        ("深度求索DeepSeek模型", ["深", "度", "求", "索", "DeepSeek", "模", "型"]),
        ("ひらカタ・ー々", ["ひ", "ら", "カ", "タ", "ー", "々"]),
        ("한국어", ["한", "국", "어"]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("\u0301a", ["a"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("مَرْحَبًا", ["مَرْحَبًا"]),
        ("русскийtext", ["русскийtext"]),
        ("𠀀a", ["𠀀", "a"]),  # an ideograph outside the basic plane
        ("a\ud800b", ["a", "b"]),
        ("zero\u200bwidth", ["zero", "width"]),
    ],
)
def test_words_by_hand(text, expected):
    assert scan.words(text) == expected


def test_punctuation_gives_each_mark_as_a_word():
    assert scan.words("if(a_b){}", punctuation=True) == ["if", "(", "a", "_", "b", ")", "{", "}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ABC", "abc"), ("ΟΔΟΣ", "οδοσ"), ("ς", "σ"), ("STRASSE ß ẞ", "strasse ß ß"), ("İ", "İ"), ("ſ", "s")],
)
def test_simple_folding_by_hand(text, expected):
    """Values from CaseFolding.txt, status C and S; dotted capital I has only F and T."""
    assert scan.fold_case(text) == expected


def test_normalise_keeps_words_only():
    assert scan.normalise("Hello,  WORLD!\n你好") == "hello world 你 好"


@pytest.mark.parametrize(
    ("text", "lines", "paragraphs"),
    [
        ("", [], []),
        ("\n", [""], []),
        ("a", ["a"], ["a"]),
        ("a\n", ["a"], ["a"]),
        ("a\r\nb\r", ["a", "b\r"], ["a\nb\r"]),
        ("a\n\n", ["a", ""], ["a"]),
        ("a\nb\n \t\n\nc\n", ["a", "b", " \t", "", "c"], ["a\nb", "c"]),
        ("a\u2028b\fc", ["a\u2028b\fc"], ["a\u2028b\fc"]),
    ],
)
def test_lines_and_paragraphs_by_hand(text, lines, paragraphs):
    assert scan.lines(text) == lines
    assert scan.paragraphs(text) == paragraphs


def test_letters_and_cjk_are_the_word_characters_of_re():
    classes = scan.character_classes()
    word_character = re.compile(r"[^\W_]")
    sample = [*range(0x3400), *range(0xA000, 0x20000, 3), *range(0x20000, 0x110000, 997)]
    for code in sample:
        is_word = bool(word_character.match(chr(code)))
        assert (classes[code] in (scan.LETTER, scan.CJK)) == is_word, hex(code)


def test_cjk_class_agrees_with_character_names():
    """Unicode's names tell a CJK letter; a few letters are CJK by their block alone."""
    prefixes = (
        "CJK UNIFIED",
        "CJK COMPATIBILITY IDEOGRAPH",
        "HIRAGANA LETTER",
        "KATAKANA LETTER",
        "HANGUL SYLLABLE",
    )
    classes = scan.character_classes()
    for code in range(0, 0x32000, 5):
        if unicodedata.name(chr(code), "").startswith(prefixes):
            assert classes[code] == scan.CJK, hex(code)


@given(st.text())
def test_words_match_a_walk_over_the_class_table(text):
    """The same definition, said as the loop that a compiled pass makes."""
    classes, found, is_open = scan.character_classes(), [], False
    for character in text:
        number = classes[ord(character)]
        if number == scan.CJK or (number == scan.LETTER and not is_open):
            found.append(character)
        elif is_open and number in (scan.LETTER, scan.MARK):
            found[-1] += character
        is_open = number == scan.LETTER or (is_open and number == scan.MARK)
    assert scan.words(text) == found


@given(st.text())
def test_folding_keeps_length_and_classes(text):
    folded = scan.fold_case(text)
    classes = scan.character_classes()
    assert [classes[ord(c)] for c in folded] == [classes[ord(c)] for c in text]
    assert scan.fold_case(folded) == folded


@given(st.text(alphabet="ab \r\n\t"))
def test_lines_lose_nothing_but_their_ends(text):
    assert "\n".join(scan.lines(text)) + ("\n" if text.endswith("\n") else "") == text.replace("\r\n", "\n")
