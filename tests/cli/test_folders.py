"""`inspect` and `verify` on all that a user points them at."""

import gzip
import io
import json
from pathlib import Path

import pytest

from dsllm.cli.main import run_command_line

LINES = b'{"text":\r"x y","id":1,"source":"en"}\n \n{"text":"z","id":null}\r\n{"id":{"a":1}}\n'


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def facts_of(capsys, *arguments):
    capsys.readouterr()
    assert run_command_line(["inspect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_inspect_counts_the_fields_of_a_file_whatever_they_hold(capsys):
    Path("in.jsonl").write_bytes(LINES)
    facts = facts_of(capsys, "in.jsonl")
    assert facts["fields"] == {"text": 2, "id": 2, "source": 1}
    assert facts["documents by source"] == {"en": 1, "(none)": 1}
    assert facts["not documents"] == {"no field 'text', only id": 1}
    assert (facts["lines"], facts["bytes"], facts["bytes of text"]) == (4, len(LINES), 4)
    assert facts["first line"] == '{"text":\r"x y","id":1,"source":"en"}'


def test_inspect_reads_standard_input_once(capsys, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(gzip.compress(LINES, mtime=0))

    monkeypatch.setattr("sys.stdin", Stdin)
    facts = facts_of(capsys, "-")
    assert facts["on disk"] == f"{len(gzip.compress(LINES, mtime=0))} B"
    assert len(facts["sha256"]) == 64
    assert facts["first line"].startswith('{"text"')


def test_inspect_wants_one_file(capsys):
    for name in ("a.jsonl", "b.jsonl"):
        Path(name).write_bytes(LINES)
    assert run_command_line(["inspect", "*.jsonl"]) == 1
    assert "*.jsonl: 2 files" in capsys.readouterr().err


def test_inspect_shows_the_first_document_of_the_first_shard(capsys):
    Path("empty.jsonl").write_bytes(b"")
    for index in range(6):
        Path(f"in-{index}.jsonl").write_text(json.dumps({"text": f"document {index}"}) + "\n")
    inputs = ["empty.jsonl", *(f"in-{index}.jsonl" for index in range(6))]
    assert run_command_line(["dedup", *inputs, "-o", "out", "--quiet"]) == 0
    assert facts_of(capsys, "out")["first document"] == '{"text": "document 0"}'


def test_verify_passes_over_what_the_stages_pass_over(capsys):
    Path("in.jsonl").write_bytes(LINES)
    assert run_command_line(["verify", "in.jsonl"]) == 0
    Path("bad.jsonl").write_bytes(LINES + b"[]\n")
    assert run_command_line(["verify", "bad.jsonl"]) == 1
    assert "bad.jsonl: 1 fault\n  bad.jsonl, line 5: a JSON list, not an object" in capsys.readouterr().out


def test_verify_compares_any_file_of_a_folder(capsys):
    Path("in.jsonl").write_text('{"text": "some words"}\n')
    assert run_command_line(["tokenize", "train", "in.jsonl", "-o", "tok", "--vocab-size", "300"]) == 0
    assert run_command_line(["tokenize", "encode", "in.jsonl", "-o", "out", "--tokenizer", "tok"]) == 0
    assert run_command_line(["verify", "out/shard-00000.bin", "out/shard-00000.idx"]) == 0
    Path("out/shard-00000.bin").write_bytes(b"changed")
    assert run_command_line(["verify", "out/shard-00000.bin"]) == 1
    assert "7 bytes" in capsys.readouterr().out


def test_a_padding_that_the_tokenizer_does_not_have_is_refused(capsys):
    Path("in.jsonl").write_text('{"text": "some words"}\n')
    train = ["tokenize", "train", "in.jsonl", "-o", "tok", "--vocab-size", "243", "--pad-vocab-to", "100"]
    assert run_command_line(train) == 0
    encode = ["tokenize", "encode", "in.jsonl", "-o", "out", "--tokenizer", "tok", "--quiet"]
    assert run_command_line([*encode, "--pad-vocab-to", "128"]) == 2
    # 243 bytes and 15 special tokens: 258 ids, so 300 rows in steps of 100, and 384 in steps of 128
    assert "pad_vocab_to is 128, but tok states a vocabulary of 300" in capsys.readouterr().err
    assert run_command_line([*encode, "--pad-vocab-to", "150"]) == 0


def test_documents_are_not_taken_for_tokens_of_another_format(capsys):
    Path("in.jsonl").write_text('{"text": "some words"}\n')
    assert run_command_line(["dedup", "in.jsonl", "-o", "out", "--quiet"]) == 0
    assert run_command_line(["tokenize", "decode", "out", "-o", "-"]) == 1
    assert "out: holds documents, made by dedup; tokens are needed" in capsys.readouterr().err
