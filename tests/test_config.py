import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import dsllm.cli.app
from dsllm.config import (
    STAGES,
    RunOptions,
    Settings,
    command_line,
    describe,
    parse_bytes,
    parse_weights,
    read_config_file,
    setting,
)
from dsllm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    threshold: float = setting(0.8, "Similarity.", min=0, max=1)
    n_words: int | None = setting(None, "Words.", unit="words", min=1)
    keep: Literal["first", "longest"] = setting("first", "Which stays.")
    languages: tuple[str, ...] = setting(("en",), "Languages.")
    is_strict: bool = setting(True, "Strict.")


@dataclass(frozen=True, kw_only=True)
class NeedsModel(Settings):
    model: str = setting(help="A model.")


def test_describe_reads_kinds_ranges_and_choices():
    threshold, n_words, keep, languages, _ = describe(Example)
    assert (threshold.kind, threshold.min, threshold.max) == ("float", 0, 1)
    assert (n_words.kind, n_words.is_optional, n_words.unit, n_words.flag) == (
        "int",
        True,
        "words",
        "--n-words",
    )
    assert keep.choices == ("first", "longest")
    assert languages.kind == "strs"


def test_values_are_coerced_from_toml_and_json():
    config = Example.build({"threshold": 1, "languages": ["en", "zh"]})
    assert config.threshold == 1.0
    assert isinstance(config.threshold, float)
    assert config.languages == ("en", "zh")
    assert Example.build(config.to_dict()) == config
    assert Example.build({"languages": "en,zh"}).languages == ("en", "zh")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 1.5}, "threshold is 1.5, outside its range"),
        ({"threshold": float("nan")}, "outside its range"),
        ({"n_words": 0}, "n_words is 0"),
        ({"n_words": "5"}, "n_words is '5', which is no int"),
        ({"n_words": True}, "which is no int"),
        ({"keep": "last"}, "not one of first, longest"),
        ({"n_words": 2**63}, "outside its range"),
        ({"threshold": 10**400}, "outside its range"),
        ({"languages": ["en", 1]}, "which is no list of strings"),
        ({"tresh": 1}, "unknown key 'tresh'"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(values, message):
    with pytest.raises(ConfigError, match=message):
        Example.build(values)


def test_a_required_setting_must_be_given():
    with pytest.raises(ConfigError, match="model is missing") as caught:
        NeedsModel.build({})
    assert caught.value.hint == "give --model"


def test_a_config_file_may_hold_one_stage_or_several(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("threshold = 0.7\n")
    assert read_config_file(path, "dedup") == {"threshold": 0.7}
    path.write_text('[dedup]\nthreshold = 0.7\n["tokenize train"]\nvocab_size = 5\n')
    assert read_config_file(path, "dedup") == {"threshold": 0.7}
    assert read_config_file(path, "tokenize train") == {"vocab_size": 5}
    assert read_config_file(path, "filter") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[dedupe]\nthreshold = 0.7\n", "unknown table 'dedupe'"),
        ("[tokenize.train]\nvocab_size = 300\n", "unknown table 'tokenize'"),
        ("threshold = 0.7\n[dedup]\n", "unknown key beside tables 'threshold'"),
        ("threshold = 0.7\n[filter]\n", "unknown key beside tables 'threshold'"),
    ],
)
def test_what_no_stage_would_read_is_an_error(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config_file(path, "dedup")


def test_a_stage_is_a_command_with_settings():
    source = Path(dsllm.cli.app.__file__).read_text()
    assert sorted(re.findall(r'@flags_from\("[^"]+", "([^"]+)"', source)) == sorted(STAGES)


def test_amounts_and_shares_have_an_end():
    for text in ("9" * 400 + "GB", "99999999TB", "9223372036854775808B"):
        with pytest.raises(ConfigError, match="more than can be"):
            parse_bytes(text, flag="--memory")
    assert parse_bytes("8000000TB", flag="--memory") == 8 * 10**18
    with pytest.raises(ConfigError, match="together they are no number"):
        parse_weights(("a=1e308", "b=1e308"), "weights")


def test_a_manifest_serves_as_config_of_its_own_stage_only(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text('{"stage": "dedup", "config": {"threshold": 0.7}}')
    assert read_config_file(path, "dedup") == {"threshold": 0.7}
    with pytest.raises(ConfigError, match="made by dedup, not by filter"):
        read_config_file(path, "filter")


def test_a_manifest_without_settings_is_none(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text('{"stage": "dedup", "config": [1]}')
    with pytest.raises(ConfigError, match="no manifest of dsllm"):
        read_config_file(path, "dedup")


@pytest.mark.parametrize(("name", "text"), [("a.toml", "= 1"), ("a.json", "{"), ("a.toml", "\xff")])
def test_a_broken_config_file_is_an_error(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="not (TOML|JSON)"):
        read_config_file(path, "dedup")


def test_the_command_line_says_only_what_differs_from_the_defaults():
    config = Example(threshold=0.7, is_strict=False, languages=("en", "zh"))
    assert (
        command_line("dedup", ["a b.jsonl"], "out", config)
        == "dsllm dedup 'a b.jsonl' -o out --threshold 0.7 --languages en --languages zh --no-is-strict"
    )


def test_how_a_stage_runs_is_no_part_of_what_it_makes():
    assert not set(RunOptions.__dataclass_fields__) & {option.name for option in describe(Example)}
