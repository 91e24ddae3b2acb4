"""Several passes over the same sources: columns on disk, resumed by source, standard input copied."""

import io

import numpy as np
import orjson
import pytest

from dsllm.config import RunOptions
from dsllm.io.documents import BadLine
from dsllm.io.sources import find_sources, read_batches
from dsllm.progress import Reporter
from dsllm.workers.passes import Columns, Pass, read_bad_lines, read_column


def measure(batch):
    """The length of each line, twice; lines that start with ! are bad."""
    lines = batch.lines.split(b"\n")[:-1]
    bad = [BadLine(batch.source, 1, "marked", line) for line in lines if line.startswith(b"!")]
    sizes = np.array([[len(line)] * 2 for line in lines], "<i4").reshape(len(lines), 2)
    return Columns({"sizes": sizes}, bad)


@pytest.fixture
def work(tmp_path):
    return Pass(tmp_path / "scratch", RunOptions(), Reporter(is_quiet=True))


def make_sources(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"a\nbb\n")
    (tmp_path / "b.jsonl").write_bytes(b"")
    (tmp_path / "c.jsonl").write_bytes(b"!ccc\n")
    return find_sources([str(tmp_path / f"{name}.jsonl") for name in "abc"])


def read_sizes(work, index):
    return read_column(work.scratch, index, "sizes", "<i4", 2).tolist()


def test_columns_are_appended_per_source(tmp_path, work, monkeypatch):
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 2)  # a line a batch
    work.write_columns(measure, make_sources(tmp_path), ["sizes"], label="test")
    assert read_sizes(work, 0) == [[1, 1], [2, 2]]
    assert read_sizes(work, 1) == []
    assert read_sizes(work, 2) == [[4, 4]]
    assert read_bad_lines(work.scratch, 0) == b""
    assert orjson.loads(read_bad_lines(work.scratch, 2))["content"] == "!ccc"


def test_sources_that_are_done_are_not_read_again(tmp_path, work):
    sources = make_sources(tmp_path)
    seen = []

    def fail_at_the_last(batch):
        seen.append(batch.source_index)
        if batch.source_index == 2 and len(seen) == 2:
            raise KeyboardInterrupt
        return measure(batch)

    with pytest.raises(KeyboardInterrupt):
        work.write_columns(fail_at_the_last, sources, ["sizes"], label="test")
    assert not list(work.scratch.glob("00002.*"))
    work.write_columns(fail_at_the_last, sources, ["sizes"], label="test")
    assert seen == [0, 2, 2]
    assert read_sizes(work, 2) == [[4, 4]]


def test_every_source_is_yielded_in_order(tmp_path, work):
    found = [
        (source.index, list(parts)) for source, parts in work.map(len_of, make_sources(tmp_path), label="")
    ]
    assert found == [(0, [5]), (1, []), (2, [5])]


def len_of(batch):
    return len(batch.lines)


def test_standard_input_is_copied_for_later_passes(work, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(b"one\ntwo\n")

    monkeypatch.setattr("sys.stdin", Stdin)
    sources = find_sources(["-"])
    work.write_columns(measure, sources, ["sizes"], label="test")
    (copy,) = work.spooled(sources)
    assert copy.index == sources[0].index
    assert b"".join(batch.lines for batch in read_batches(copy)) == b"one\ntwo\n"
    assert sources[0].stream_hash.hexdigest()[:6] == "c3f9c8"  # sha256sum of the same bytes
