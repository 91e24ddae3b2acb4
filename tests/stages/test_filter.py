import hashlib
import io
import json
import os
import sys
import tomllib
from pathlib import Path

import orjson
import pytest

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, InputError
from dsllm.io.manifest import read_manifest
from dsllm.io.sources import find_sources, read_batches
from dsllm.progress import Reporter
from dsllm.stages.filter import run as run_module
from dsllm.stages.filter.classifiers import SHIPPED_MODEL, LanguageModel, QualityModel
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.judge import Filter
from dsllm.stages.filter.rules import PRESETS, first_broken, read_rules
from dsllm.text.page import Page


def unwrapped(text, joint):
    """One line a paragraph."""
    return "\n\n".join(joint.join(paragraph.split("\n")) for paragraph in text.split("\n\n"))


ENGLISH = unwrapped(
    """The river had been rising since Tuesday, and by the time the children came back from school the
lower road was under water. Their father stood at the gate with a lamp in his hand, although it was not yet
dark, and counted them as they climbed over the wall.

"You are late," he said. He did not sound angry. Nobody in that valley was ever angry about the river, which
came every spring and took what it wanted: a fence, a boat, sometimes a cow that had not learned to be
afraid. They ate their soup, they listened to the rain, and in the morning everything would have to be
cleaned again.""",
    " ",
)

CHINESE = unwrapped(
    """河水从星期二就开始上涨，孩子们放学回来的时候，下面那条路已经被淹没了。父亲提着一盏灯站在门口，虽然天还没有黑。
他看着孩子们一个一个地翻过矮墙，心里默默地数着人数。

“你们回来晚了。”他说，声音里没有一点生气的意思。山谷里的人从来不为河水生气，它每年春天都要来一次，拿走它想要的东西：
一段篱笆，一条小船，有时候是一头还没学会害怕的牛。他们喝着热汤，听着外面的雨声，第二天早上又得把所有的地方打扫一遍。""",
    "",
)

CODE = """import sys

def main(argv: list[str]) -> int:
    parser = make_parser()
    args = parser.parse_args(argv[1:])
    for path in args.paths:
        with open(path, "rb") as file:
            print(path, sum(1 for _ in file), file=sys.stderr)
    return 0

if __name__ == "__main__":
    sys.exit(main(sys.argv))
"""

LATEX = r"""\begin{theorem}\label{thm:main} Let $f \colon X \to Y$ be flat. \end{theorem}
\begin{equation} \int_0^1 \frac{\partial f}{\partial x} \, dx = \sum_{n=1}^{\infty} a_n \end{equation}
\begin{align*} \hat{x} &= \left( A^T A \right)^{-1} A^T b \\ &\le \| x \|_2^2 \end{align*} \cite{smith2001}"""

FRENCH = unwrapped(
    """La rivière montait depuis mardi, et quand les enfants revinrent de l'école, la route du bas était
déjà sous l'eau. Leur père les attendait à la porte, une lampe à la main, car la nuit tombait.""",
    " ",
)

SENTENCES = {
    "ar": "كان النهر يرتفع منذ يوم الثلاثاء، وعندما عاد الأطفال من المدرسة كان الطريق تحت الماء.",
    "de": "Der Fluss stieg seit Dienstag, und als die Kinder heimkamen, stand die Straße unter Wasser.",
    "en": "The river had been rising since Tuesday, and the lower road was under water.",
    "es": "El río subía desde el martes, y cuando los niños volvieron, el camino estaba inundado.",
    "fr": "La rivière montait depuis mardi, et la route du bas était déjà sous l'eau.",
    "it": "Il fiume saliva da martedì, e quando i bambini tornarono da scuola la strada era sotto l'acqua.",
    "ja": "川の水は火曜日から増えていて、子どもたちが学校から帰るころには、下の道は水の中だった。",
    "ko": "강물은 화요일부터 불어나고 있었고, 아이들이 학교에서 돌아왔을 때 아랫길은 물에 잠겨 있었다.",
    "pt": "O rio subia desde terça-feira, e quando as crianças voltaram da escola a estrada estava inundada.",
    "ru": "Река поднималась со вторника, и когда дети вернулись из школы, нижняя дорога была под водой.",
    "vi": "Nước sông dâng lên từ thứ ba, và khi bọn trẻ đi học về thì con đường phía dưới đã ngập.",
    "zh": "河水从星期二就开始上涨，孩子们放学回来的时候，下面那条路已经被淹没了。",
}


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, *documents):
    lines = [
        json.dumps({"id": n, **document}, ensure_ascii=n % 2 == 0) for n, document in enumerate(documents)
    ]
    Path(path).write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def run_filter(inputs, output="out", *, n_workers=1, reporter=None, **settings):
    config = FilterConfig(format="jsonl", **settings)
    inputs = [inputs] if isinstance(inputs, str) else inputs
    options = RunOptions(n_workers=n_workers, is_quiet=True)
    reporter = reporter or Reporter(is_quiet=True)
    return run_module.run(config, inputs, output, options=options, reporter=reporter)


def read_lines(folder):
    return [
        line for path in sorted(Path(folder).glob("*.jsonl")) for line in path.read_bytes().splitlines(True)
    ]


def read_ids(folder):
    return [orjson.loads(line)["id"] for line in read_lines(folder)]


# --------------------------------------------------------------------------------------------------- rules

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


# --------------------------------------------------------------------------------------------- classifiers


@pytest.fixture(scope="module")
def language_model():
    return LanguageModel(None)


@pytest.mark.parametrize("language", SENTENCES)
def test_shipped_model_names_the_language(language, language_model):
    guess, confidence = language_model.guess(SENTENCES[language])
    assert guess == language
    assert 0.5 < confidence <= 1


def test_traditional_characters_are_chinese_too(language_model):
    assert (
        language_model.guess("河水從星期二就開始上漲，孩子們放學回來的時候，下面那條路已經被淹沒了。")[0]
        == "zh"
    )


@pytest.mark.parametrize(
    "text", [CODE, LATEX, "{'a': [1, 2, 3], 'b': {'c': null}}"], ids=["code", "latex", "json"]
)
def test_source_code_and_latex_are_no_language(text, language_model):
    assert language_model.guess(text)[0] == "code"


@pytest.mark.parametrize("text", ["", "12 + 3 = 15", "=====\n\n***", "。。。"])
def test_text_without_letters_is_none(text, language_model):
    assert language_model.guess(text) == ("none", 1.0)


def test_language_is_that_of_the_whole_text(language_model):
    # One line of English, then much French: neither the line end nor fastText's end mark may cut it off.
    for cut in ("\n", " </s> ", "\r\n"):
        assert language_model.guess("The river." + cut + FRENCH * 3)[0] == "fr"


def test_shipped_model_is_the_one_that_its_record_describes():
    record = tomllib.loads(SHIPPED_MODEL.with_suffix(".toml").read_text("utf-8"))
    raw = SHIPPED_MODEL.read_bytes()
    assert hashlib.sha256(raw).hexdigest() == record["model"]["sha256"]
    assert len(raw) == record["model"]["n_bytes"] < 1 << 20
    assert all(package["licence"] and len(package["sha256"]) == 64 for package in record["packages"])


@pytest.fixture(scope="module")
def quality_model(tmp_path_factory):
    """A classifier that has seen stories as good and menus as bad, trained with one thread."""
    import fasttext

    folder = tmp_path_factory.mktemp("quality")
    good = [f"__label__good {line}" for text in (ENGLISH, CHINESE) for line in text.split("\n") if line]
    bad = [
        f"__label__bad {line}" for line in ("Home | About | Contact", "Buy now cheap", "Click here to buy")
    ]
    (folder / "train.txt").write_text("\n".join((good + bad * 3) * 20) + "\n", "utf-8")
    arguments = {"epoch": 20, "lr": 0.5, "dim": 8, "thread": 1, "bucket": 1000, "verbose": 0}
    model = fasttext.train_supervised(str(folder / "train.txt"), minn=0, maxn=0, seed=1, **arguments)
    model.save_model(str(folder / "model.bin"))
    vectors = fasttext.train_unsupervised(str(folder / "train.txt"), minCount=1, **arguments)
    vectors.save_model(str(folder / "vectors.bin"))
    return folder / "model.bin"


def test_quality_model_decides(quality_model):
    menu = "Home | About | Contact\nBuy now cheap\nClick here to buy\n" * 3
    path = write("in.jsonl", {"text": ENGLISH}, {"text": menu})
    summary = run_filter(
        path, rules="none", languages=("any",), min_language_confidence=0.0, quality_model=str(quality_model),
        rejected="aside",
    )  # fmt: skip
    assert read_ids("out") == [0]
    assert summary["rejected"]["quality"]["n_documents"] == 1
    (line,) = read_lines("aside")
    found = orjson.loads(line)["dsllm_filter"]
    assert (found["rule"], found["bound"]) == ("quality", 0.5)
    assert found["value"] == found["quality"] < 0.5
    assert QualityModel(str(quality_model)).score(ENGLISH) > 0.9


def test_files_that_are_no_such_model_are_errors(quality_model):
    path = write("in.jsonl", {"text": ENGLISH})
    Path("text.bin").write_text("not a model")
    vectors = str(quality_model.with_name("vectors.bin"))
    for settings, message in (
        ({"lid_model": "missing.ftz"}, "missing.ftz: no such file"),
        ({"quality_model": "missing.bin"}, "missing.bin: no such file"),
        ({"lid_model": "text.bin"}, "text.bin: "),
        ({"quality_model": vectors}, "word vectors"),
        ({"quality_model": str(SHIPPED_MODEL)}, "__label__good is not among them"),
        ({"rules": "gofer"}, "gofer: neither a file nor one of the presets c4, dsllm, fineweb, gopher"),
    ):
        with pytest.raises(InputError) as caught:
            run_filter(path, **settings)
        assert message in caught.value.message
        assert caught.value.hint
        assert not Path("out").exists()


def test_a_language_that_the_model_does_not_know_is_an_error():
    path = write("in.jsonl", {"text": ENGLISH})
    for lid_model, languages, hint in ((None, ("en", "english"), "zh"), ("script", ("de",), "ja, ko, other")):
        with pytest.raises(ConfigError, match=f"'{languages[-1]}' is none") as caught:
            run_filter(path, lid_model=lid_model, languages=languages)
        assert hint in caught.value.hint
        assert not Path("out").exists()
    run_filter(path, lid_model="script", languages=("none", "any"))


# ------------------------------------------------------------------------------------------------ the stage


def mixed_documents():
    return [
        {"text": ENGLISH, "source": "books", "extra": {"a": [1, 2.50]}},
        {"text": CODE, "source": "code"},
        {"text": CHINESE, "source": "books"},
        {"text": FRENCH, "source": "books"},
        {"text": "Too short.\nBut it is English, and it has two lines."},
        {"text": "12 34", "source": "logs"},
        {"text": ENGLISH + "\n\n" + ENGLISH, "source": "books"},
    ]


def test_default_keeps_good_english_and_chinese_byte_for_byte():
    path = write("in.jsonl", *mixed_documents())
    summary = run_filter(path, rejected="aside")
    given = Path(path).read_bytes().splitlines(keepends=True)
    assert read_lines("out") == [given[0], given[2]]
    assert sorted(read_ids("out") + read_ids("aside")) == list(range(7))
    rejected = [orjson.loads(line) for line in read_lines("aside")]
    reasons = [document.pop("dsllm_filter") for document in rejected]
    originals = [orjson.loads(line) for line in given]
    assert rejected == [originals[n] for n in (1, 3, 4, 5, 6)]
    assert [(reason["rule"], reason["value"]) for reason in reasons[:2]] == [
        ("language", "code"),
        ("language", "fr"),
    ]
    assert reasons[0]["bound"] == ["en", "zh"]
    assert (reasons[2]["rule"], reasons[2]["value"], reasons[2]["bound"]) == ("n_words", 11, 50)
    assert (reasons[3]["rule"], reasons[3]["value"]) == ("language", "none")
    assert reasons[4]["rule"] == "duplicate_line_char_frac"
    assert summary["n_documents"] == 7
    assert summary["n_kept"] == 2
    assert summary["n_kept_bytes"] == len(given[0]) + len(given[2])
    assert summary["rejected"]["language"] == {
        "n_documents": 3,
        "n_bytes": len(given[1]) + len(given[3]) + len(given[5]),
    }
    assert list(summary["rejected"]) == [
        "language",
        "n_words",
        "duplicate_line_char_frac",
    ]  # in order of the tests
    assert summary["sources"]["books"]["n_documents"] == 4
    assert summary["sources"]["books"]["n_kept"] == 2
    assert summary["languages"]["en"] == {
        "n_documents": 3,
        "n_bytes": len(given[0]) + len(given[4]) + len(given[6]),
        "n_kept": 1,
        "n_kept_bytes": len(given[0]),
    }
    counts = read_manifest("out").counts
    assert counts["rule.n_words.n_documents"] == 1
    assert counts["n_kept"] == 2


def test_exempt_sources_are_kept_untested():
    path = write("in.jsonl", *mixed_documents())
    summary = run_filter(path, exempt_sources=("code", "logs"))
    assert read_ids("out") == [0, 1, 2, 5]
    assert summary["n_exempt"] == 2


def test_languages_are_chosen():
    path = write("in.jsonl", *mixed_documents())
    for output, languages, kept in (
        ("fr", ("fr",), [3]),
        ("code", ("en", "code"), [0, 1, 4, 6]),
        ("any", ("any",), [0, 1, 2, 3, 4, 5, 6]),
    ):
        run_filter(path, output, languages=languages, rules="none")
        assert read_ids(output) == kept


def test_low_confidence_is_a_reason():
    path = write("in.jsonl", {"text": ENGLISH}, {"text": "La la la. Na na na, ok. " * 20})
    run_filter(path, languages=("any",), rules="none", min_language_confidence=0.99, rejected="aside")
    assert read_ids("out") == [0]
    (line,) = read_lines("aside")
    found = orjson.loads(line)["dsllm_filter"]
    assert (found["rule"], found["bound"]) == ("language_confidence", 0.99)
    assert found["value"] == found["confidence"] < 0.99


def test_own_text_field_and_rules_file_are_used_and_recorded():
    Path("own.toml").write_text('[[rules]]\nfeature = "n_words"\nmax = 5\n')
    path = write("in.jsonl", {"content": "Six words are one too many."}, {"content": "But these are fine."})
    run_filter(path, rules="own.toml", text_field="content")
    assert read_ids("out") == [1]
    recorded = {Path(record.path).name: record.sha256 for record in read_manifest("out").inputs}
    assert recorded["own.toml"] == hashlib.sha256(Path("own.toml").read_bytes()).hexdigest()


def test_annotated_documents_are_all_kept_with_what_was_found():
    path = write("in.jsonl", *mixed_documents())
    summary = run_filter(path, annotate=True, exempt_sources=("code",))
    rows = [orjson.loads(line) for line in read_lines("out")]
    found = [row.pop("dsllm_filter") for row in rows]
    assert rows == [orjson.loads(line) for line in Path(path).read_bytes().splitlines()]
    assert found[1] == {}
    assert "rule" not in found[0]
    assert found[0]["language"] == "en"
    assert found[0]["features"]["n_words"] == len(Page(ENGLISH).words)
    assert found[4]["rule"] == "n_words"
    assert found[4]["features"]["n_words"] == 11
    assert summary["n_kept"] == 7
    with pytest.raises(ConfigError, match="annotate"):
        FilterConfig(annotate=True, rejected="aside")


def test_the_number_of_workers_changes_no_byte(monkeypatch):
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 2000)
    paths = [write(f"in{n}.jsonl", *mixed_documents()[n:], *mixed_documents()) for n in range(3)]
    outputs = {}
    for n_workers in (1, 2):
        run_filter(paths, "out", n_workers=n_workers, rejected="aside")
        files = [path for folder in ("out", "aside") for path in sorted(Path(folder).iterdir())]
        outputs[n_workers] = {str(path): path.read_bytes() for path in files if path.name != ".lock"}
        for folder in ("out", "aside"):
            Path(folder).rename(f"{folder}{n_workers}")
    assert outputs[1] == outputs[2]
    assert len(outputs[1]) == 2 * (3 + 1)


def test_a_pipe_gives_the_same_lines_as_files(monkeypatch):
    path = write("in.jsonl", *mixed_documents())
    run_filter(path)
    stdin, stdout = io.TextIOWrapper(io.BytesIO(Path(path).read_bytes())), io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(sys, "stdout", stdout)
    run_filter("-", "-")
    assert stdout.buffer.getvalue() == b"".join(read_lines("out"))


def test_what_each_rule_removed_is_told(capsys):
    path = write("in.jsonl", *mixed_documents())
    run_filter(path, reporter=Reporter())
    said = capsys.readouterr().err
    for name in ("language", "n_words", "duplicate_line_char_frac", "kept", "books", "zh"):
        assert name in said


def test_many_sources_are_counted_together():
    path = write("in.jsonl", *({"text": "12", "source": f"site{n}.example"} for n in range(101)))
    assert list(run_filter(path)["sources"]) == ["(many)"]


def test_plan_reads_no_document():
    Path("in.jsonl").write_text("not json\n")
    found = run_module.plan(
        FilterConfig(rules="c4"), ["in.jsonl"], "out", options=RunOptions(), reporter=Reporter(is_quiet=True)
    )
    assert found["n_bytes_to_read"] == 9
    assert found["tests"] == ["n_lorem_ipsum", "n_curly_brackets", "n_line_sentences", "n_sentences"]
    assert not Path("out").exists()


# ----------------------------------------------------------------------------------------------- real text


@pytest.fixture(scope="module")
def corpus():
    if "DSLLM_TEST_DATA" not in os.environ:
        pytest.skip("DSLLM_TEST_DATA names no folder")
    return Path(os.environ["DSLLM_TEST_DATA"])


@pytest.mark.data
@pytest.mark.parametrize("domain", ["en_prose", "zh_prose"])
def test_default_rules_keep_good_prose(domain, corpus):
    """Every eighth batch; the rest of what is rejected is mostly pages that are half source code."""
    task = Filter(FilterConfig())
    n_documents = n_kept = 0
    for source in find_sources([str(corpus / f"pretrain/{domain}-*.jsonl.zst")]):
        for at, batch in enumerate(read_batches(source)):
            if at % 8 == 0:
                counts = task(batch).counts
                n_documents += counts["n_documents"]
                n_kept += counts["n_kept"]
    assert n_documents > 300
    assert n_kept / n_documents >= 0.95


@pytest.mark.data
def test_language_accuracy_on_sentences_never_trained_on(corpus, language_model):
    rows = [
        orjson.loads(line) for line in (corpus / "labels/langid_sentences.jsonl").read_bytes().splitlines()
    ]
    shortest = {"zh": 20, "ja": 20, "ko": 20}
    long = [row for row in rows if len(row["text"]) > shortest.get(row["lang"], 40)]
    n_right = sum(language_model.guess(row["text"])[0] == row["lang"] for row in long)
    assert n_right / len(long) >= 0.97
