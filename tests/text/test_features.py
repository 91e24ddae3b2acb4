"""Features by hand: each expected value is counted in the comment beside it."""

import random

import pytest

from dsllm.text.features import FEATURES
from dsllm.text.page import Page


def feature(name, text, language="en"):
    return FEATURES[name](Page(text, language))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("n_words", "The cat, the hat: 2 things.", 6),
        ("mean_word_chars", "The cat sat onto 22", 15 / 5),  # 3 + 3 + 3 + 4 + 2
        ("hash_per_word", "# one\n## two three", 3 / 3),
        ("ellipsis_per_word", "well... so…… no.. yes", 2 / 4),  # two stops are none, a run is one
        ("bullet_line_frac", "- a\n* b\n• c\nd\n\n", 3 / 4),
        ("bullet_line_frac", "-- a\n  - b\na - b\n", 2 / 3),  # "--" starts with a bullet too
        ("ellipsis_line_frac", "a...\nb…\nc.\nd", 2 / 4),
        ("alphabetic_word_frac", "a1 22 3.5 b", 2 / 5),  # words: a1 22 3 5 b
        ("n_stop_words", "The cat and the dog and I", 2),  # the, and
        ("stop_word_frac", "The cat and the dog", 3 / 5),
        ("duplicate_line_frac", "a\nb\na\n a \nc", 2 / 5),  # stripped, so " a " is a third "a"
        ("duplicate_line_char_frac", "aaa\nbb\naaa", 3 / 10),
        ("duplicate_paragraph_frac", "a\nb\n\nc\n\na\nb", 1 / 3),
        ("duplicate_paragraph_char_frac", "ab\n\nc\n\nab", 2 / 9),
        ("n_sentences", "One. Two?! Three... four", 3),
        ("terminal_line_frac", 'a.\nb!"\nc\nd,\ne?', 3 / 5),
        ("terminal_line_frac", "(a.)\n**b!**\n(c)", 2 / 3),
        ("short_line_frac", "x" * 30 + "\n" + "x" * 31, 1 / 2),
        ("n_curly_brackets", "if (a) { b } {", 2),
        ("n_lorem_ipsum", "Lorem ipsum dolor. LOREM IPSUM", 2),
        ("javascript_line_frac", "Enable JavaScript\nhello", 1 / 2),
        ("policy_line_frac", "Privacy Policy | Terms of Use\na\nb\nThis site uses cookies.", 2 / 4),
        ("chars_per_punctuation", "abc, def; gh... ij", 10 / 3),
        ("chars_per_punctuation", "abc def", 6),  # no mark counts as one
    ],
)
def test_feature_by_hand(name, text, expected):
    assert feature(name, text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "n_words",
            "我有3只cat。",
            5,
        ),  # 我 有 3 只 cat: the digit and the letters are words of other scripts
        ("n_stop_words", "他的书和我的书。", 4),  # 他 的 和 我
        ("stop_word_frac", "他的书和我的书。", 5 / 7),
        ("ellipsis_per_word", "好……吧", 1 / 2),  # the Chinese ellipsis is two characters
        ("terminal_line_frac", "你好。\n他说：“走！”\n目录\n如下：\n（一）甲；", 3 / 5),
        ("n_sentences", "你好！吃了吗？吃了。", 3),
        ("short_line_frac", "一二三四五六七八九十一二\n一二三四五六七八九十一二三", 1 / 2),
        ("policy_line_frac", "版权所有\n正文", 1 / 2),
        ("chars_per_punctuation", "床前明月光，疑是地上霜。", 10 / 2),
    ],
)
def test_chinese_feature_by_hand(name, text, expected):
    assert feature(name, text, "zh") == pytest.approx(expected)


def test_top_gram_is_the_most_frequent_and_then_the_longest():
    # bigrams of "ab cd ab cd ef ab": (ab cd) twice, (cd ab), (cd ef), (ef ab) once; 2 x 4 of 17 characters
    assert feature("top_2_gram_char_frac", "ab cd ab cd ef ab") == pytest.approx(8 / 17)
    # (a b) and (ccc ddd) both occur twice: the longer one counts, 2 x 6 characters
    text = "a b x ccc ddd y a b z ccc ddd"
    assert feature("top_2_gram_char_frac", text) == pytest.approx(12 / len(text))
    assert feature("top_3_gram_char_frac", text) == 0  # no three words recur


def test_duplicate_grams_count_each_character_once():
    # five words, then the same five and one more: the second copy of "a b c d e" is a duplicate 5-gram
    text = "a b c d e a b c d e f"
    assert feature("duplicate_5_gram_char_frac", text) == pytest.approx(5 / 21)
    assert feature("duplicate_6_gram_char_frac", text) == 0
    # eight times the same word: the 5-grams at places 1, 2 and 3 are duplicates and cover words 1 to 7
    assert feature("duplicate_5_gram_char_frac", "a a a a a a a a") == pytest.approx(7 / 15)


def naive_duplicate_share(words, n, n_chars):
    """Mark every word of each n-gram that has occurred before; the definition, without any short cut."""
    marked = [
        any(
            tuple(words[at : at + n]) in {tuple(words[k : k + n]) for k in range(at)}
            for at in range(max(0, i - n + 1), min(i, len(words) - n) + 1)
        )
        for i in range(len(words))
    ]
    return sum(len(word) for word, is_in in zip(words, marked, strict=True) if is_in) / n_chars


@pytest.mark.parametrize("seed", range(20))
def test_grams_agree_with_counting_them_all(seed):
    generator = random.Random(seed)
    words = generator.choices(["a", "bb", "ccc"], k=generator.randint(1, 50))
    text = " ".join(words)
    page = Page(text)
    for n in range(5, 11):
        expected = naive_duplicate_share(words, n, len(text))
        assert FEATURES[f"duplicate_{n}_gram_char_frac"](page) == pytest.approx(expected)
    for n in (2, 3, 4):
        grams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
        n_times = max(map(grams.count, grams), default=0)
        most = [sum(map(len, gram)) for gram in grams if grams.count(gram) == n_times]
        expected = min(1, n_times * max(most) / len(text)) if n_times > 1 else 0
        assert FEATURES[f"top_{n}_gram_char_frac"](page) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "\n\n", "!!!", "   ", "{", "。"])
def test_every_feature_of_nothing_is_a_number(text):
    for name, compute in FEATURES.items():
        value = compute(Page(text))
        assert value >= 0, name
        if name.endswith("_frac"):
            assert value <= 1, name


def test_shares_never_exceed_one():
    for text in ("a a a a a a a a", "的" * 50, "x\n" * 40, "x\n\n" * 40):
        for name, compute in FEATURES.items():
            if name.endswith("_frac"):
                assert 0 <= compute(Page(text)) <= 1, name
