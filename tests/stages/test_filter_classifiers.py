"""`dsllm filter`: the language model that comes with it, and models of quality."""

import hashlib
import os
import tomllib
from pathlib import Path

import orjson
import pytest
from tests.stages.tiny_documents import (
    CHINESE,
    CODE,
    ENGLISH,
    FRENCH,
    LATEX,
    SENTENCES,
    read_ids,
    read_lines,
    run_filter,
    write,
)

from dsllm.errors import ConfigError, InputError
from dsllm.stages.filter.classifiers import SHIPPED_MODEL, LanguageModel, QualityModel


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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


@pytest.fixture(scope="module")
def corpus():
    if "DSLLM_TEST_DATA" not in os.environ:
        pytest.skip("DSLLM_TEST_DATA names no folder")
    return Path(os.environ["DSLLM_TEST_DATA"])


@pytest.mark.data
def test_language_accuracy_on_sentences_never_trained_on(corpus, language_model):
    rows = [
        orjson.loads(line) for line in (corpus / "labels/langid_sentences.jsonl").read_bytes().splitlines()
    ]
    shortest = {"zh": 20, "ja": 20, "ko": 20}
    long = [row for row in rows if len(row["text"]) > shortest.get(row["lang"], 40)]
    n_right = sum(language_model.guess(row["text"])[0] == row["lang"] for row in long)
    assert n_right / len(long) >= 0.97
