"""A run that stopped at a bad line goes on with `--on-error skip`: the bytes are those of a run with it."""

import json
from pathlib import Path

import pytest

from dsllm.cli.main import run_command_line

FILTER = "filter IN -o OUT --rules none --quiet"
DEDUP = "dedup IN -o OUT --quiet"
ENCODE = "tokenize encode IN -o OUT --tokenizer TOKENIZER --quiet"


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("in").mkdir()
    for source in range(3):
        texts = [f"this is document {number} of source {source}" for number in range(50)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        Path(f"in/{source}.jsonl").write_text(lines + ("{broken\n" if source == 1 else ""))


def run(command, output, *more):
    words = {"IN": "in", "OUT": output, "TOKENIZER": "tokenizer"}
    return run_command_line([words.get(word, word) for word in command.split()] + [*more, "--workers", "1"])


def bytes_of(folder):
    left_out = (".lock", "metrics.jsonl")
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name not in left_out]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("command", [FILTER, DEDUP, ENCODE], ids=["filter", "dedup", "encode"])
def test_skipping_carries_on_where_a_run_stopped(command, capsys):
    if command == ENCODE:
        train = "tokenize train IN -o tokenizer --vocab-size 300 --on-error skip --quiet"
        assert run(train, "tokenizer") == 0
    assert run(command, "out") == 1
    told = capsys.readouterr().err
    assert "in/1.jsonl, line 51: not JSON" in told
    assert "--on-error skip" in told
    assert run(command, "out", "--on-error", "skip") == 0
    assert run(command, "whole", "--on-error", "skip") == 0
    carried_on, whole = bytes_of("out"), bytes_of("whole")
    manifest, expected = (json.loads(files.pop("manifest.json")) for files in (carried_on, whole))
    assert carried_on == whole
    assert manifest.pop("command") == expected.pop("command").replace("-o whole", "-o out")
    assert manifest == expected
    assert manifest["counts"]["n_skipped"] == 1


def test_stopping_does_not_carry_on_where_a_run_skipped(capsys):
    assert run(FILTER, "out", "--on-error", "skip") == 0
    Path("out/manifest.json").rename("out/manifest.partial.json")
    assert run(FILTER, "out") == 1
    assert "begun by another command: on_error was skip, now stop" in capsys.readouterr().err
