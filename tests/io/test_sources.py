import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dsllm.io.sources as sources_module
from dsllm.config import RunOptions, Settings
from dsllm.errors import InputError, ShardError
from dsllm.io.compression import compress
from dsllm.io.folder import OutputFolder
from dsllm.io.sources import Source, find_sources, read_batches, total_bytes


def write(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    codec = "gz" if path.name.endswith(".gz") else "zst" if path.name.endswith(".zst") else "plain"
    path.write_bytes(compress(lines, codec))
    return path


def texts_of(inputs: list[str]) -> list[str]:
    lines = [batch.lines for source in find_sources(inputs) for batch in read_batches(source)]
    return [json.loads(line)["text"] for line in b"".join(lines).splitlines()]


def test_folders_are_read_in_sorted_order_whatever_the_suffix(tmp_path):
    write(tmp_path / "in" / "b.jsonl.zst", "2")
    write(tmp_path / "in" / "a.json.gz", "1")
    write(tmp_path / "in" / "sub" / "c.jsonl", "3")
    (tmp_path / "in" / "README.md").write_text("no data")
    assert texts_of([str(tmp_path / "in")]) == ["1", "2", "3"]
    assert texts_of([str(tmp_path / "in" / "*.*")[:-1] + "jsonl*"]) == ["2"]
    assert texts_of([str(tmp_path / "in" / "sub" / "c.jsonl"), str(tmp_path / "in" / "a.json.gz")]) == [
        "3",
        "1",
    ]


def test_a_hidden_folder_above_hides_nothing(tmp_path, monkeypatch):
    data = tmp_path / ".hidden" / "data"
    for name in ("a.jsonl", "sub.jsonl/b.jsonl", ".c.jsonl", ".cache/d.jsonl"):
        write(data / name, "a")
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    for folder in ("../../.hidden/data", str(data)):
        found = [Path(source.path).relative_to(folder) for source in find_sources([folder])]
        assert found == [Path("a.jsonl"), Path("sub.jsonl/b.jsonl")]


def test_a_folder_of_folders_is_read_as_their_manifests_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/y", "in/x-old"):
        with OutputFolder(name, stage="example", config=Settings(), inputs=[], options=RunOptions()) as out:
            with out.create("shard-00000.jsonl") as file:
                file.write(b'{"text": "a"}\n')
            with out.create("skipped/shard-00000.jsonl") as file:
                file.write(b"{}\n")
            out.finish(counts={}, content={"kind": "documents"})
    Path("in/x").mkdir()
    Path("in/x/1.jsonl").write_text('{"text": "a"}\n')
    paths = [source.path for source in find_sources(["in"])]
    assert paths == ["in/x-old/shard-00000.jsonl", "in/x/1.jsonl", "in/y/shard-00000.jsonl"]
    Path("in/y/manifest.json").rename("in/y/manifest.partial.json")
    with pytest.raises(InputError, match="in/y: incomplete"):
        find_sources(["in"])


def test_a_link_to_a_folder_is_not_passed_over(tmp_path):
    write(tmp_path / "in" / "a.jsonl", "1")
    write(tmp_path / "elsewhere" / "b.jsonl", "2")
    (tmp_path / "in" / "file.jsonl").symlink_to(tmp_path / "elsewhere" / "b.jsonl")
    assert texts_of([str(tmp_path / "in")]) == ["1", "2"]
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="link: a link to a folder"):
        find_sources([str(tmp_path / "in")])


def test_urls_are_read_through_fsspec(tmp_path):
    write(tmp_path / "in" / "a.jsonl.zst", "1", "2")
    assert texts_of([(tmp_path / "in" / "a.jsonl.zst").as_uri()]) == ["1", "2"]
    assert texts_of([(tmp_path / "in").as_uri()]) == ["1", "2"]


def test_parquet_rows_come_as_lines(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["é", "中"], "n": [1, None]}), path)
    (batch,) = read_batches(find_sources([str(path)])[0])
    assert batch.lines == '{"text":"é","n":1}\n{"text":"中","n":null}\n'.encode()


@given(
    lines=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"") + b"\n"), max_size=30),
    block_sizes=st.lists(st.integers(1, 50), min_size=1),
)
def test_the_cut_into_batches_depends_on_the_content_alone(lines, block_sizes):
    data = b"".join(lines)

    def blocks(_source):
        start = index = 0
        while start < len(data):
            size = block_sizes[index % len(block_sizes)]
            yield data[start : start + size], size
            start, index = start + size, index + 1

    def cut(reader):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dsllm.io.batches.BATCH_BYTES", 64)
            patch.setattr(sources_module, "_read_blocks", reader)
            return [(batch.first_line, batch.lines) for batch in read_batches(Source(0, "a"))]

    batches = cut(blocks)
    assert batches == cut(lambda _source: iter([(data, len(data))] if data else []))
    assert b"".join(part for _, part in batches) == data
    assert all(part.endswith(b"\n") for _, part in batches)
    numbers = [1]
    for _, part in batches:
        numbers.append(numbers[-1] + part.count(b"\n"))
    assert [first_line for first_line, _ in batches] == numbers[:-1]


@pytest.mark.parametrize("codec", ["plain", "gz", "zst"])
def test_standard_input_is_known_by_its_first_bytes_and_hashed(monkeypatch, codec):
    import hashlib

    data = compress(b'{"text": "a"}\n', codec)
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO(data)}))
    (source,) = find_sources(["-"])
    assert [batch.lines for batch in read_batches(source)] == [b'{"text": "a"}\n']
    assert source.stream_hash.hexdigest() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("given_input", "message"),
    [
        ("missing.jsonl", "no such file"),
        ("a.txt", "unknown suffix"),
        ("", "an input is '', no name"),
        ("none*.jsonl", "no file matches"),
        ("empty", "no file"),
    ],
)
def test_what_cannot_be_read_says_so(tmp_path, monkeypatch, given_input, message):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("text")
    Path("empty").mkdir()
    with pytest.raises(InputError, match=message):
        find_sources([given_input])


def test_bytes_in_parquet_are_text_where_they_can_be(tmp_path):
    import pyarrow
    import pyarrow.parquet

    column = pyarrow.array(["né".encode(), b"\xff\xfe"], pyarrow.binary())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    (batch,) = read_batches(find_sources([str(tmp_path / "a.parquet")])[0])
    assert [json.loads(line) for line in batch.lines.splitlines()] == [
        {"text": "né"},
        {"text": {"base64": "//4="}},  # so that no stage takes it for a text
    ]


def test_text_in_parquet_that_is_not_utf_8_is_an_error(tmp_path):
    import pyarrow
    import pyarrow.parquet

    column = pyarrow.array([b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(ShardError, match="a value that cannot be read"):
        list(read_batches(find_sources([str(tmp_path / "a.parquet")])[0]))


def test_a_cut_parquet_file_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ShardError, match="not a whole Parquet file"):
        list(read_batches(find_sources([str(path)])[0]))


def test_an_empty_file_is_no_unknown_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("")
    Path("b.jsonl").write_text("{}\n")
    assert total_bytes(find_sources(["a.jsonl", "b.jsonl"])) == 3
    assert total_bytes(find_sources(["a.jsonl", "-"])) is None


def test_parquet_cannot_come_through_a_pipe(monkeypatch):
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO(b"PAR1\x15\x04")}))
    with pytest.raises(InputError, match="is Parquet"):
        list(read_batches(find_sources(["-"])[0]))


def test_standard_input_can_be_given_once():
    with pytest.raises(InputError, match="given twice"):
        find_sources(["-", "-"])
