"""`dsllm filter`: each rule of each preset, and files of rules."""

import tomllib
from pathlib import Path

import pytest
from tests.stages.tiny_documents import CHINESE, ENGLISH

from dsllm.errors import ConfigError
from dsllm.stages.filter.rules import PRESETS, first_broken, read_rules
from dsllm.text.page import Page


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


WORDS = [a + b for a in ("lamp", "river", "stone", "cloud", "field") for b in ("y", "ing", "ed", "er", "ful")]
HAN = "苹果香蕉橘子葡萄西瓜草莓樱桃荔枝龙眼芒果菠萝椰子石榴柿子枣核桃杏仁花生瓜子豆腐"


# For each feature that a preset uses, an English and a Chinese text that is rejected, alone or added to good
# text. None: no preset tests the feature there.
BAD = {
    "n_words": ("Too short to be of use.", "太短了。"),
    "mean_word_chars": ("a b c " * 40, None),
    "alphabetic_word_frac": ("Total 17 22 31 4 5.", "共 17 22 31 4 5 6 7 8 9。"),
    "hash_per_word": ("#the #river #to #sea", "#河水#上涨#大海"),
    "ellipsis_per_word": ("the river... to the... sea...", "河……水……"),
    "bullet_line_frac": ("- the river\n- the sea\n* and a boat", "- 河水\n• 大海\n* 小船"),
    "ellipsis_line_frac": ("The river...\nThe sea…\nThe end.", "河水……\n大海……\n完。"),
    "n_stop_words": (" ".join(WORDS), HAN),
    "stop_word_frac": ("the of " + " ".join(WORDS * 6), "的" + HAN * 3),
    "chars_per_punctuation": ("the river and the sea have " * 20, "河水上涨了的时候孩子们在路上" * 6),
    "terminal_line_frac": ("Home\nAbout us\nContact\nNews", "首页\n关于我们\n联系\n新闻"),
    "short_line_frac": ("Go.\n" * 12 + ENGLISH.split("\n")[0], None),
    "n_lorem_ipsum": (ENGLISH + " Lorem ipsum dolor sit amet.", CHINESE + "Lorem ipsum"),
    "javascript_line_frac": ("Please enable JavaScript.\nThank you.", "请启用 JavaScript。\n谢谢。"),
    "policy_line_frac": ("Privacy policy\nTerms of use\nHello.", "隐私政策\n版权所有\n你好。"),
    "duplicate_line_frac": ("The sea.\n" * 6, "大海。\n" * 6),
    "duplicate_line_char_frac": ("The sea and the river.\n" * 3, "大海和河水。\n" * 3),
    "duplicate_paragraph_frac": ("The sea.\n\n" * 6, "大海。\n\n" * 6),
    "duplicate_paragraph_char_frac": ("The sea and the river.\n\n" * 3, "大海和河水。\n\n" * 3),
    "n_curly_brackets": (ENGLISH + " {", CHINESE + "{"),
    "n_line_sentences": ("Home | News | About\nThe river is very wide here.", None),
    "n_sentences": (None, "首页\n河水今天很宽。"),
    "stop_raw_line_frac": ("Home\nAbout us\nContact\nNews", "首页\n关于我们\n联系\n新闻"),
    "line_feed_per_word": (None, "大\n海\n河\n水"),
    "line_feed_per_term": ("a\nb\nc\nd", None),
    **{f"top_{n}_gram_char_frac": ("the sea " * 9, "大海" * 9) for n in (2, 3, 4)},
    **{f"duplicate_{n}_gram_char_frac": (" ".join(WORDS) * 3, None) for n in (5, 6, 7, 8, 9, 10)},
    **{f"duplicate_{n}_gram_char_frac": (None, HAN * 3) for n in (11, 13, 14, 16)},
    **{f"duplicate_{n}_gram_char_frac": (" ".join(WORDS) * 3, HAN * 3) for n in (8, 10)},
}
# The same for features that differ in what a word or a line is.
LIKE = {
    **{"n_term_words": "n_words", "mean_term_chars": "mean_word_chars", "hash_per_term": "hash_per_word"},
    **{"ellipsis_per_term": "ellipsis_per_word", "alphabetic_term_frac": "alphabetic_word_frac"},
    **{"n_stop_terms": "n_stop_words", "short_raw_line_frac": "short_line_frac"},
    **{f"duplicate_raw_line_{kind}": "duplicate_line_frac" for kind in ("frac", "char_frac", "text_frac")},
    **{f"top_{n}_term_char_frac": f"top_{n}_gram_char_frac" for n in (2, 3, 4)},
    **{f"duplicate_{n}_term_char_frac": f"duplicate_{n}_gram_char_frac" for n in range(5, 11)},
}
BAD |= {feature: BAD[other] for feature, other in LIKE.items()}
BAD["short_line_frac"] = (
    BAD["short_line_frac"][0],
    "走。\n" * 12 + "河水从星期二就开始上涨，孩子们放学回来。",
)
CASES = [
    pytest.param(preset, rule, language, id=f"{preset}-{rule.feature}-{language}")
    for preset in PRESETS
    for rule in read_rules(preset)
    for language in ("en", "zh")
    if rule.is_for(language)
]


@pytest.mark.parametrize(("preset", "rule", "language"), CASES)
def test_each_rule_removes_bad_text_and_keeps_good(preset, rule, language):
    good, bad = (ENGLISH, BAD[rule.feature][0]) if language == "en" else (CHINESE, BAD[rule.feature][1])
    assert first_broken([rule], Page(good, language)) is None
    reason = first_broken([rule], Page(bad, language))
    assert reason is not None
    assert reason.rule == rule.name
    assert reason.bound in (rule.min, rule.max)


def test_the_first_broken_rule_in_the_order_of_the_file_is_the_reason(tmp_path):
    lines = ['[[rules]]\nfeature = "n_sentences"\nmin = 3\n', '[[rules]]\nfeature = "n_words"\nmin = 5\n']
    page = Page("Too short.", "en")
    for order in (lines, lines[::-1]):
        Path("rules.toml").write_text("".join(order))
        expected = tomllib.loads(order[0])["rules"][0]["feature"]
        reason = first_broken(read_rules("rules.toml"), page)
        assert reason is not None
        assert reason.rule == expected


def test_rules_for_prose_pass_over_code_unless_they_name_it(tmp_path):
    Path("rules.toml").write_text('[[rules]]\nfeature = "n_words"\nmin = 5\n')
    assert first_broken(read_rules("rules.toml"), Page("x", "fr")) is not None
    assert first_broken(read_rules("rules.toml"), Page("x", "code")) is None
    Path("rules.toml").write_text(
        '[[rules]]\nfeature = "n_words"\nmin = 5\nlanguages = ["code"]\nname = "tiny"\n'
    )
    reason = first_broken(read_rules("rules.toml"), Page("x", "code"))
    assert reason is not None
    assert (reason.rule, reason.value, reason.bound) == ("tiny", 1, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rules = [", "not TOML"),
        ("[other]\n", "other at the top level"),
        ("", "no rules at the top level"),
        ("rules = [1]\n", "rule 1: 1 is no table"),
        ("[[rules]]\nfeature = 'n_word'\nmin = 1\n", "feature is n_word"),
        ("[[rules]]\nfeature = 'n_words'\n", "neither min nor max"),
        ("[[rules]]\nfeature = 'n_words'\nmin = 2\nmax = 1\n", "min is 2, max is 1"),
        ("[[rules]]\nfeature = 'n_words'\nmin = '2'\n", "min is '2'"),
        ("[[rules]]\nfeature = 'n_words'\nmin = nan\n", "min is nan"),
        ("[[rules]]\nfeature = 'n_words'\nmin = 2\nlanguages = [1]\n", "languages is [1]"),
        ("[[rules]]\nfeature = 'n_words'\nleast = 2\n", "unknown key 'least'"),
        (
            "[[rules]]\nfeature = 'n_words'\nmin = 2\nlanguages = []\nexcept_languages = []\n",
            "both languages",
        ),
    ],
)
def test_a_rules_file_that_cannot_be_is_an_error_with_its_place(content, message):
    Path("rules.toml").write_text(content)
    with pytest.raises(ConfigError, match="rules.toml") as caught:
        read_rules("rules.toml")
    assert message in caught.value.message
