"""`dsllm filter --explain`: numbers by hand; and that streams stay within bounds."""

import json
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, InputError
from dsllm.progress import Reporter
from dsllm.stages.filter import run as run_module
from dsllm.stages.filter.config import FilterConfig

RULES = """
[[rules]]
feature = "n_words"
min = 3

[[rules]]
feature = "n_curly_brackets"
max = 0
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run_filter(reporter=None, **settings):
    rows = [
        {"text": "one", "source": "a"},  # too short
        {"text": "one {", "source": "a"},  # both
        {"text": "one two three {", "source": "b"},
        {"text": "one two three four", "source": "b"},
        {"text": "河 {", "source": "b"},  # both
    ]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("rules.toml").write_text(RULES)
    config = FilterConfig(
        format="jsonl", rules="rules.toml", lid_model="script", languages=("en", "zh"), **settings
    )
    reporter = reporter or Reporter(is_quiet=True)
    return run_module.run(config, ["in.jsonl"], "out", options=RunOptions(is_quiet=True), reporter=reporter)


def test_tests_are_counted_alone_and_together():
    explained = run_filter(explain=True)["explained"]
    sizes = [len(line) for line in Path("in.jsonl").read_bytes().splitlines(keepends=True)]
    words, brackets = explained["tests"]["n_words"], explained["tests"]["n_curly_brackets"]
    assert (words["n_documents"], words["n_alone"]) == (3, 1)
    assert (words["n_bytes"], words["n_alone_bytes"]) == (sizes[0] + sizes[1] + sizes[4], sizes[0])
    assert (brackets["n_documents"], brackets["n_alone"]) == (3, 1)
    assert explained["together"] == [{"tests": ["n_words", "n_curly_brackets"], "n_documents": 2}]
    assert words["by_language"] == {"en": 2, "zh": 1}
    assert words["by_source"] == {"a": 2, "b": 1}
    assert brackets["by_source"] == {"a": 1, "b": 2}


def test_examples_are_those_nearest_to_the_bound():
    border = run_filter(explain=True)["explained"]["tests"]["n_words"]["at_the_border"]
    assert [(each["value"], each["line"]) for each in border["kept"]] == [(3, 3), (4, 4)]
    assert [(each["value"], each["line"]) for each in border["removed"]] == [(1, 1), (1, 2), (1, 5)]
    assert border["removed"][2]["excerpt"] == "河 {"
    assert border["removed"][2]["source"].endswith("in.jsonl")


def test_what_is_kept_is_the_same_and_all_is_told(capsys):
    plain = run_filter()
    kept = next(Path("out").glob("*.jsonl")).read_bytes()
    Path("out").rename("plain")
    explained = run_filter(explain=True, reporter=Reporter())
    assert next(Path("out").glob("*.jsonl")).read_bytes() == kept
    explained.pop("explained")
    assert explained == plain
    said = capsys.readouterr().err
    for words in ("whatever the others do", "removed by both", "by language", "at the border of n_words"):
        assert words in said


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_a_pipe_takes_bounded_memory():
    """Four times the input, the same memory: what grows is less than a quarter of the input that is added."""
    peaks = {}
    for n_documents in (10_000, 40_000):
        row = orjson.dumps({"text": "The river and the sea have risen to the road. " * 100}) + b"\n"
        command = [
            sys.executable,
            "-m",
            "dsllm",
            "filter",
            "-",
            "-o",
            "-",
            "--lid-model",
            "script",
            "--quiet",
        ]
        script = (
            "import resource, subprocess, sys\n"
            f"data = {row!r}\n"
            f"process = subprocess.Popen({[*command, '--rules', 'none']!r}, stdin=subprocess.PIPE,"
            " stdout=subprocess.DEVNULL)\n"
            f"for _ in range({n_documents}): process.stdin.write(data)\n"
            "process.stdin.close()\n"
            "assert process.wait() == 0\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        peaks[n_documents] = int(found.stdout)
    n_added_kilobytes = 30_000 * len(row) // 1024  # 138 MB
    assert peaks[40_000] - peaks[10_000] < n_added_kilobytes / 4


def test_listed_words_reject_a_document():
    Path("bad.txt").write_text("THREE\n\nhot dog\n")
    summary = run_filter(bad_words="bad.txt")
    assert summary["rejected"]["bad_words"]["n_documents"] == 1
    for content, error in (("ab\n", ConfigError), ("\n", ConfigError), (None, InputError)):
        Path("other.txt").write_text(content) if content is not None else Path("other.txt").unlink()
        with pytest.raises(error, match=r"other\.txt"):
            run_filter(bad_words="other.txt")
