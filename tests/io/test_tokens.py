"""Token folders: what is written comes back as one stream and as documents; damage is named."""

import json

import numpy as np
import pytest

from dsllm.config import RunOptions, Settings
from dsllm.errors import InputError, ShardError
from dsllm.io.folder import OutputFolder
from dsllm.io.token_formats import DSLLM_FORMAT
from dsllm.io.tokens import TokenFolder, TokenWriter

CONTENT = {"kind": "tokens", "dtype": "uint32", "vocab_size": 100, "bos_id": 98, "eos_id": 99}
SHARDS = [[[1, 2, 99], [99], [3, 99]], [[4, 5, 6, 7, 99]]]  # documents by shard
STREAM = [1, 2, 99, 99, 3, 99, 4, 5, 6, 7, 99]


def write_folder(path, shards=SHARDS, content=CONTENT):
    with OutputFolder(str(path), stage="test", config=Settings(), inputs=[], options=RunOptions()) as out:
        with TokenWriter(out) as writer:
            for documents in shards:
                for document in documents:
                    writer.add(np.array(document, np.uint32), np.array([len(document)]))
                writer.end_shard(end_line=7)
        out.finish(counts={}, content=content)
    return path


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "tokens")


def test_bytes_on_disk_are_little_endian(folder):
    # 1, 2, 99, 99, 3, 99 in four bytes each, the lowest first; offsets 0, 3, 4, 6 in eight.
    tokens = bytes.fromhex("01000000 02000000 63000000 63000000 03000000 63000000")
    offsets = b"".join(bytes([n]) + bytes(7) for n in (0, 3, 4, 6))
    assert (folder / "shard-00000.bin").read_bytes() == tokens
    assert (folder / "shard-00000.idx").read_bytes() == offsets
    shards = {shard["name"]: shard for shard in json.loads((folder / "manifest.json").read_text())["shards"]}
    assert shards["shard-00000.bin"]["n_tokens"] == 6
    assert shards["shard-00000.bin"]["n_documents"] == 3
    assert shards["shard-00000.bin"]["end_line"] == 7


def test_stream_and_documents_come_back(folder):
    tokens = TokenFolder(folder)
    assert (tokens.n_tokens, tokens.n_documents) == (11, 4)
    assert (tokens.vocab_size, tokens.bos_id, tokens.eos_id) == (100, 98, 99)
    assert tokens.document_starts().tolist() == [0, 3, 4, 6]
    assert [tokens.document(index).tolist() for index in range(4)] == [d for shard in SHARDS for d in shard]
    assert tokens.window(0, 11).dtype == np.uint32


@pytest.mark.parametrize("start", range(12))
def test_every_window_is_a_part_of_the_stream(folder, start):
    tokens = TokenFolder(folder)
    for n in range(12 - start):
        assert tokens.window(start, n).tolist() == STREAM[start : start + n]


def test_windows_and_documents_outside_are_refused(folder):
    tokens = TokenFolder(folder)
    for start, n in ((-1, 2), (11, 1), (0, 12)):
        with pytest.raises(IndexError):
            tokens.window(start, n)
    with pytest.raises(IndexError, match="document 4 of 4"):
        tokens.document(4)


def test_interrupted_shard_leaves_no_file(tmp_path):
    path = tmp_path / "tokens"
    options = RunOptions()
    with (
        pytest.raises(KeyboardInterrupt),
        OutputFolder(str(path), stage="test", config=Settings(), inputs=[], options=options) as out,
        TokenWriter(out) as writer,
    ):
        writer.add(np.array([1], np.uint32), np.array([1]))
        writer.end_shard()
        writer.add(np.array([1], np.uint32), np.array([1]))
        raise KeyboardInterrupt
    assert sorted(file.name for file in path.glob("shard*")) == ["shard-00000.bin", "shard-00000.idx"]
    with pytest.raises(InputError, match="incomplete"):
        TokenFolder(path)


def test_lengths_must_add_up(tmp_path):
    with (
        OutputFolder(
            str(tmp_path / "t"), stage="t", config=Settings(), inputs=[], options=RunOptions()
        ) as out,
        TokenWriter(out) as writer,
        pytest.raises(AssertionError, match="2 tokens for lengths of 3"),
    ):
        writer.add(np.array([1, 2], np.uint32), np.array([3]))


def test_cut_shard_is_named(folder):
    path = folder / DSLLM_FORMAT.tokens_name(1)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ShardError, match=r"shard-00001.bin: 16 bytes, but manifest.json says 20"):
        TokenFolder(folder)


@pytest.mark.parametrize("name", ["vocab_size", "eos_id"])
def test_manifest_that_lacks_something_is_named(tmp_path, name):
    content = {key: value for key, value in CONTENT.items() if key != name}
    with pytest.raises(ShardError, match=f"its manifest.json names no {name}"):
        TokenFolder(write_folder(tmp_path / "tokens", content=content))


def test_missing_files_are_named(folder):
    (folder / DSLLM_FORMAT.offsets_name(0)).unlink()
    with pytest.raises(ShardError, match=r"shard-00000.idx: missing"):
        TokenFolder(folder).document_starts()
    (folder / DSLLM_FORMAT.tokens_name(0)).unlink()
    with pytest.raises(ShardError, match=r"shard-00000.bin: missing"):
        TokenFolder(folder)


@pytest.mark.parametrize("offsets", [[0, 4, 3, 6], [0, 3, 4, 7], [1, 3, 4, 6]], ids=str)
def test_offsets_that_cannot_be_are_refused(folder, offsets):
    (folder / DSLLM_FORMAT.offsets_name(0)).write_bytes(np.array(offsets, "<u8").tobytes())
    with pytest.raises(ShardError, match=r"shard-00000.idx: its offsets do not ascend from 0 to 6"):
        TokenFolder(folder).document(0)


def test_offsets_of_another_length_are_refused(folder):
    (folder / DSLLM_FORMAT.offsets_name(0)).write_bytes(np.array([0, 6], "<u8").tobytes())
    with pytest.raises(ShardError, match="16 bytes, not offsets for 3 documents"):
        TokenFolder(folder).document(0)


def test_token_outside_the_vocabulary_is_named(tmp_path):
    folder = write_folder(tmp_path / "tokens", [[[1, 2, 99]], [[100, 99]]])
    tokens = TokenFolder(folder)
    assert tokens.window(0, 3).tolist() == [1, 2, 99]
    with pytest.raises(ShardError, match="token 3 is 100, but the vocabulary has 100 words"):
        tokens.window(2, 3)


def test_folder_of_documents_is_refused(tmp_path):
    folder = write_folder(tmp_path / "x", content={"kind": "documents"})
    with pytest.raises(InputError, match="holds documents, made by test; tokens are needed"):
        TokenFolder(folder)


def test_tokenizer_without_beginning_of_sequence(tmp_path):
    assert TokenFolder(write_folder(tmp_path / "x", content=CONTENT | {"bos_id": None})).bos_id is None
