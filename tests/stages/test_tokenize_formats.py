"""What `tokenize encode` writes for others and says besides, and the way back: `tokenize decode`."""

import json
import os
import signal
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tests.stages.tiny_tokens import CORPUS, KILLED, QUIET, bytes_of, many_documents, run_encode, run_train

from dsllm.cli import folders
from dsllm.config import RunOptions
from dsllm.errors import InputError, ShardError
from dsllm.io.tokens import TokenFolder
from dsllm.stages.tokenize import decode
from dsllm.stages.tokenize.config import TokenizeDecodeConfig
from dsllm.text.tokenizer_files import load_tokenizer

FORMATS = ("dsllm", "megatron", "npy")


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tok") / "tok"
    run_train(folder, vocab_size=400)
    return folder


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, tokenizer_folder):
    """The same documents in each format, in several shards."""
    folder = tmp_path_factory.mktemp("formats")
    inputs = many_documents(folder)
    for name in FORMATS:
        run_encode(
            folder / name, tokenizer_folder, inputs, shard_tokens=120_000, on_error="skip", format=name
        )
    return folder, inputs


def documents_of(folder):
    tokens = TokenFolder(folder)
    return [tokens.document(index).tolist() for index in range(tokens.n_documents)]


def texts_of(path):
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines if line.startswith("{")]


def read_megatron(prefix):
    """Read an indexed dataset by its definition: Megatron-LM, core/datasets/indexed_dataset.py."""
    index = prefix.with_suffix(".idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, n_sequences, n_documents = struct.unpack("<QBQQ", index[9:34])
    assert version == 1
    dtype = {4: np.int32, 8: np.uint16}[code]
    lengths = np.frombuffer(index, np.int32, n_sequences, 34)
    pointers = np.frombuffer(index, np.int64, n_sequences, 34 + 4 * n_sequences)
    documents = np.frombuffer(index, np.int64, n_documents, 34 + 12 * n_sequences)
    assert len(index) == 34 + 12 * n_sequences + 8 * n_documents
    assert documents.tolist() == list(range(n_sequences + 1))
    data = prefix.with_suffix(".bin").read_bytes()
    return [
        np.frombuffer(data, dtype, length, pointer).tolist()
        for length, pointer in zip(lengths.tolist(), pointers.tolist(), strict=True)
    ]


def test_megatron_reads_the_same_documents(encoded):
    folder, _ = encoded
    paths = sorted((folder / "megatron").glob("*.idx"))
    assert len(paths) > 3
    found = [document for path in paths for document in read_megatron(path.with_suffix(""))]
    assert found == documents_of(folder / "dsllm")


def test_megatron_has_32_bits_for_a_large_vocabulary(tokenizer_folder, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ab"}\n')
    (tmp_path / "tok").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "tok" / name).write_bytes((tokenizer_folder / name).read_bytes())
    made = run_encode(
        tmp_path / "out", tmp_path / "tok", [str(path)], format="megatron", pad_vocab_to=1 << 17
    )
    assert (made["dtype"], made["format"]) == ("int32", "megatron")
    expected = load_tokenizer(tokenizer_folder).encode("ab")
    assert read_megatron(tmp_path / "out" / "shard-00000") == [[*expected, made["eos_id"]]]


def test_numpy_reads_the_same_documents(encoded):
    folder, _ = encoded
    found = []
    for path in sorted((folder / "npy").glob("shard-?????.npy")):
        tokens, offsets = np.load(path), np.load(path.with_suffix(".offsets.npy"))
        assert (tokens.dtype, offsets.dtype) == (np.uint32, np.uint64)
        found += [tokens[start:end].tolist() for start, end in pairwise(offsets)]
    assert found == documents_of(folder / "dsllm")


def without_outputs(folder):
    """Give the bytes of a folder; the command in its manifest names the folder itself."""
    files = bytes_of(folder)
    files["manifest.json"] = files["manifest.json"].replace(os.path.relpath(folder).encode(), b"OUT")
    return files


@pytest.mark.parametrize("name", FORMATS)
def test_any_number_of_workers_and_a_kill_give_equal_bytes(encoded, tokenizer_folder, name):
    folder, inputs = encoded
    settings = {"shard_tokens": 120_000, "on_error": "skip", "format": name}
    run_encode(folder / f"{name}-3", tokenizer_folder, inputs, n_workers=3, **settings)
    assert without_outputs(folder / f"{name}-3") == without_outputs(folder / name)

    out = folder / f"{name}-killed"
    flags = f"--tokenizer {tokenizer_folder} --shard-tokens 120000 --on-error skip --format {name}".split()
    command = ["tokenize", "encode", *inputs, "-o", str(out), *flags, "--workers", "1", "--quiet"]
    killed = subprocess.run([sys.executable, "-c", KILLED, "2", *command], check=False)
    assert killed.returncode == -signal.SIGKILL
    run_encode(out, tokenizer_folder, inputs, **settings)
    assert without_outputs(out) == without_outputs(folder / name)


def test_standard_input_gives_the_same_shards(encoded, tokenizer_folder):
    folder, inputs = encoded
    lines = b"".join(Path(path).read_bytes() for path in inputs)
    for name in FORMATS[1:]:
        command = [sys.executable, "-m", "dsllm", "tokenize", "encode", "-", "-o", str(folder / f"{name}-in")]
        flags = (
            f"--tokenizer {tokenizer_folder} --shard-tokens 120000 --on-error skip --format {name} --quiet"
        )
        subprocess.run([*command, *flags.split()], input=lines, check=True)
        found, expected = bytes_of(folder / f"{name}-in"), bytes_of(folder / name)
        shards = [each for each in expected if each.startswith("shard-")]
        assert {each: found[each] for each in shards} == {each: expected[each] for each in shards}


def test_other_formats_are_no_input_of_ours(encoded):
    folder, _ = encoded
    with pytest.raises(InputError, match="in the format 'megatron'"):
        TokenFolder(folder / "megatron")


def run_decode(tokens, output, n_workers=1, **settings):
    return decode.run(
        TokenizeDecodeConfig(**settings),
        [str(tokens)],
        str(output),
        options=RunOptions(n_workers=n_workers),
        reporter=QUIET,
    )


def test_documents_come_back(encoded, tmp_path, monkeypatch, capsysbinary):
    folder, inputs = encoded
    texts = []
    for path in inputs:
        texts += texts_of(path)
    monkeypatch.setattr(decode, "TOKENS_AT_ONCE", 30_000)
    counts = run_decode(folder / "dsllm", tmp_path / "out", format="jsonl")
    assert counts["n_documents"] == len(texts)
    shards = sorted((tmp_path / "out").glob("shard-*.jsonl"))
    assert len(shards) == len(list((folder / "dsllm").glob("*.bin")))
    found = [json.loads(line)["text"] for path in shards for line in path.read_bytes().splitlines()]
    assert found == texts
    run_decode(folder / "dsllm", "-")
    assert capsysbinary.readouterr().out == b"".join(path.read_bytes() for path in shards)
    run_decode(folder / "dsllm", tmp_path / "two", n_workers=2, format="jsonl")
    assert [path.read_bytes() for path in sorted((tmp_path / "two").glob("shard-*"))] == [
        path.read_bytes() for path in shards
    ]


def test_token_that_the_tokenizer_does_not_have_is_an_error(tokenizer_folder, tmp_path):
    run_encode(tmp_path / "out", tokenizer_folder)
    path = tmp_path / "out" / "shard-00000.bin"
    tokens = np.fromfile(path, "<u4")
    tokens[5] = 4000  # in the model's vocabulary of 4,096
    tokens.tofile(path)
    with pytest.raises(ShardError, match="a token is 4,000, but its tokenizer has 415 ids"):
        run_decode(tmp_path / "out", "-")
    with pytest.raises(ShardError, match="a token is 4,000, but its tokenizer has 415 ids"):
        folders.inspect(str(tmp_path / "out"), document=0)


def test_inspect_shows_documents(encoded, capsys):
    folder, inputs = encoded
    texts = texts_of(inputs[0])
    folders.inspect(str(folder / "dsllm"), is_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert [facts[f"{name} document"] for name in ("first", "second", "third")] == [
        text[:300] for text in texts[:3]
    ]
    folders.inspect(str(folder / "dsllm"), document=2, is_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["text"].startswith(texts[2])
    with pytest.raises(InputError, match="document 9,999 of"):
        folders.inspect(str(folder / "dsllm"), document=9999)


def test_languages_longest_words_and_another_tokenizer(tokenizer_folder, tmp_path):
    run_train(tmp_path / "other", vocab_size=260)
    documents = [
        {"text": "The ferry waits.", "source": "a", "lang": "en"},
        {"text": "渡船在七点出发", "source": "a", "lang": "zh", "n": {"lang": "no"}},
        {"text": 'the "lang": "x"\\', "k": ["lang", "lang"], "source": "b", "lang": "en"},
        {"text": "no language", "source": "lang", "lang": None},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in documents))
    made = run_encode(tmp_path / "out", tokenizer_folder, [str(path)], compare=str(tmp_path / "other"))
    ours, other = load_tokenizer(tokenizer_folder), load_tokenizer(tmp_path / "other")
    sizes = {key: [0, 0, 0, 0] for key in ("en", "zh", "(none)")}
    for each in documents:
        text = each["text"]
        row = sizes[each["lang"] or "(none)"]
        for place, number in enumerate(
            (1, len(ours.encode(text)) + 1, len(text.encode()), len(other.encode(text)) + 1)
        ):
            row[place] += number
    names = ("n_documents", "n_tokens", "n_bytes", "n_tokens_compared")
    assert {key: [row[name] for name in names] for key, row in made["languages"].items()} == sizes
    assert made["tokens_frac"] == round(made["n_tokens"] / made["n_tokens_compared"], 4)
    longest = made["longest_words"]
    sizes = [word["n_bytes"] for word in longest]
    assert sizes == sorted(sizes, reverse=True)
    assert all(ours.encode(word["text"]) == [word["id"]] for word in longest if "\ufffd" not in word["text"])


def test_corpus_without_languages_has_no_row_for_them(tokenizer_folder, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ab"}\n')
    assert "languages" not in run_encode(tmp_path / "out", tokenizer_folder, [str(path)])
    assert CORPUS.exists()
