"""Commands that would do something else than they say: each is refused, and nothing is touched."""

import json
from pathlib import Path

import pytest

from dsllm.cli.main import run_command_line

LINES = "".join(json.dumps({"text": f"some words {i % 3}", "id": i}) + "\n" for i in range(6))


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(LINES)
    Path("data").mkdir()
    Path("data/in.jsonl").write_text(LINES)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("dedup in.jsonl -o - --pairs in.jsonl", 1, "in.jsonl: is an input"),
        ("dedup *.jsonl -o - --pairs in.jsonl", 1, "in.jsonl: is an input"),
        ("dedup in.jsonl -o - --on-error skip --skipped in.jsonl", 1, "in.jsonl: is an input"),
        ("dedup in.jsonl -o - --bloom --on-error skip --skipped in.jsonl", 1, "in.jsonl: is an input"),
        ("filter in.jsonl -o - --on-error skip --skipped in.jsonl", 1, "in.jsonl: is an input"),
        ("remix x=in.jsonl -o - --on-error skip --skipped in.jsonl", 1, "in.jsonl: is an input"),
        ("dedup data -o data/out", 1, "data/out: lies in data, which is an input"),
        ("dedup data -o out --removed data/removed", 1, "data/removed: lies in data"),
        ("dedup in.jsonl -o out --level exact --threshold 0.7", 2, "threshold is 0.7, but level is exact"),
        ("dedup in.jsonl -o out --level exact --n-bands 4 --n-rows 4", 2, "n_bands is 4, but level is exact"),
        ("dedup in.jsonl -o out --n-bands 4 --n-rows 4 --recall 0.5", 2, "recall is 0.5, but n_bands is 4"),
        ("dedup in.jsonl -o out --shingle-words 1001", 2, "outside its range"),
        (
            "remix in.jsonl -o - --source-field lang --temperature 2",
            1,
            "no document has a string in the field",
        ),
        ("remix x=in.jsonl -o - --source-field lang", 2, "but the inputs have names: x"),
        ("remix in.jsonl -o - --picture svg", 2, "picture is svg, but there is no folder"),
        ("remix in.jsonl -o - --budget ²", 2, "'²' is no amount of bytes"),
        ("remix in.jsonl -o - --budget 99999999T-tokens --tokenizer t", 2, "more than can be"),
        (
            "remix in.jsonl -o - --max-epochs 1e-9",
            1,
            "a budget of 72 and max_epochs of 1e-09 hold no document",
        ),
        ("dedup in.jsonl -o out --removed -", 2, "removed is '-', not a folder"),
        ("dedup in.jsonl -o - --write-index -", 2, "write_index is '-', not a folder"),
        ("filter in.jsonl -o out --rejected -", 2, "rejected is '-', not a folder"),
        ("filter in.jsonl -o out --rejected ./out", 2, "out is given to -o and to --rejected"),
        ("filter data -o out --rejected data/rejected", 1, "data/rejected: lies in data"),
        ("dedup in.jsonl -o out --removed ./out", 2, "out is given to -o and to --removed"),
        (
            "dedup in.jsonl -o - --removed x --write-index x",
            2,
            "x is given to --removed and to --write-index",
        ),
        ("dedup in.jsonl -o out --ray-address 10.0.0.1", 2, "--engine is process"),
        ("dedup in.jsonl -o out --skipped aside.jsonl", 2, "--skipped is aside.jsonl, but"),
        ("dedup in.jsonl -o - --skipped aside.jsonl", 2, "--skipped is aside.jsonl, but"),
        ("remix in.jsonl -o - --format parquet", 2, "format is parquet, but"),
        ("verify memory://x/y", 1, "memory://x/y: is not on a disk"),
        ("trace memory://x/y", 1, "memory://x/y: is not on a disk"),
        ("dedup in.jsonl -o ", 2, "-o is '', no name"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(arguments, status, message, capsys):
    assert run_command_line(arguments.split(" ")) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 2)
    assert message in err
    assert sorted(str(path) for path in Path().rglob("*")) == ["data", "data/in.jsonl", "in.jsonl"]
    assert Path("in.jsonl").read_text() == Path("data/in.jsonl").read_text() == LINES
