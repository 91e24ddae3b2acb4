"""Shards of documents, written: what other programs find in them."""

import gc
import gzip
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
import pytest
import zstandard

from dsllm.config import RunOptions, Settings
from dsllm.errors import OutputError
from dsllm.io.folder import OutputFolder
from dsllm.io.shards import line_shard, pack_lines


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    pass


def write(folder, format, *parts):
    with OutputFolder(str(folder), stage="example", config=Config(), inputs=[], options=RunOptions()) as out:
        with line_shard(out, "shard", format) as shard:
            for part in parts:
                shard.write(pack_lines(part, format))
        out.finish(counts={}, content={"kind": "documents"})
    return Path(folder, "shard")


@pytest.mark.parametrize(
    ("format", "unpack"),
    [("jsonl.gz", gzip.decompress), ("jsonl.zst", zstandard.decompress), ("jsonl", bytes)],
)
@pytest.mark.parametrize("parts", [[], [b""]])
def test_a_shard_without_lines_is_one_to_other_programs(tmp_path, format, unpack, parts):
    assert unpack(write(tmp_path / "out", format, *parts).read_bytes()) == b""


def test_lines_are_cut_at_line_feeds_only(tmp_path):
    path = write(tmp_path / "out", "parquet", b'{"text":\r"a"}\n{"text":"b"}\r\n')
    assert pyarrow.parquet.read_table(path).to_pylist() == [{"text": "a"}, {"text": "b"}]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([b'{"text":"a","n":18446744073709551615}\n'], "do not fit one table"),
        ([b'{"text":"a","n":1}\n', b'{"text":"b","n":"x"}\n'], "do not fit one table"),
        ([b'{"text":"a"}\n', b'{"text":"b","n":1}\n'], "field 'n' came up after"),
    ],
)
def test_documents_that_are_no_table_are_one_clear_error(tmp_path, lines, message):
    with pytest.raises(OutputError, match=message):
        write(tmp_path / "out", "parquet", *lines)
    gc.collect()  # pyarrow's writer would write to a closed file now
    assert not (tmp_path / "out" / "shard").exists()
