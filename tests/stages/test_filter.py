"""`dsllm filter` as a stage."""

import hashlib
import io
import os
import sys
from pathlib import Path

import orjson
import pytest
from tests.stages.tiny_documents import (
    CHINESE,
    CODE,
    ENGLISH,
    FRENCH,
    read_ids,
    read_lines,
    run_filter,
    write,
)

from dsllm.config import RunOptions
from dsllm.errors import ConfigError
from dsllm.io.manifest import read_manifest
from dsllm.io.sources import find_sources, read_batches
from dsllm.progress import Reporter
from dsllm.stages.filter import run as run_module
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.judge import Filter
from dsllm.text.page import Page


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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
