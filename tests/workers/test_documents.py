import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from dsllm.config import DocumentSettings, RunOptions
from dsllm.errors import ConfigError, DocumentError, InputError, OutputError, ShardError
from dsllm.io.compression import decompress
from dsllm.io.documents import Batch, parse_batch
from dsllm.io.manifest import read_manifest
from dsllm.io.sources import find_sources, read_batches
from dsllm.progress import Reporter
from dsllm.workers.documents import Part, map_documents


@dataclass(frozen=True)
class KeepEven:
    """Keep the documents whose number is even; the others go aside."""

    on_error: str = "stop"

    def __call__(self, batch: Batch) -> Part:
        documents, bad = parse_batch(batch, text_field="text", on_error=self.on_error)
        kept = [document.line for document in documents if document.fields["n"] % 2 == 0]
        rest = [document.line for document in documents if document.fields["n"] % 2]
        counts = {"n_documents": len(documents), "n_kept": len(kept)}
        return Part(b"".join(kept), {"odd": b"".join(rest)}, counts, bad)


@dataclass(frozen=True)
class StopAt:
    """Fail at the second file, as a kill would."""

    inner: KeepEven

    def __call__(self, batch: Batch) -> Part:
        if batch.source_index == 1:
            raise InputError("stopped", hint="")
        return self.inner(batch)


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for index in range(3):
        lines = [json.dumps({"text": "x" * 50, "n": index * 100 + n}) + "\n" for n in range(100)]
        Path(f"in/{index}.jsonl").write_text("".join(lines))
    Path("in/3.jsonl").touch()


def run(output, task=None, *, n_workers=1, inputs=("in",), sides=None, skipped=None, **config):
    return map_documents(
        task or KeepEven(config.get("on_error", "stop")),
        stage="example",
        config=DocumentSettings(**config),
        inputs=inputs,
        output=output,
        options=RunOptions(n_workers=n_workers, skipped=skipped),
        reporter=Reporter(is_quiet=True),
        side_folders=sides,
    )


def numbers(path):
    lines = b"".join(batch.lines for source in find_sources([path]) for batch in read_batches(source))
    return [json.loads(line)["n"] for line in lines.splitlines()]


def bytes_of(folder):
    files = (path for path in Path(folder).rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def without_command(files):
    return {name: data for name, data in files.items() if name != "manifest.json"}


@pytest.mark.parametrize("format", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_every_format_holds_the_kept_documents(format):
    counts = run("out", sides={"odd": "odd"}, format=format)
    assert counts == {"n_documents": 300, "n_kept": 150}
    assert numbers("out") == list(range(0, 300, 2))
    assert numbers("odd") == list(range(1, 300, 2))
    manifest = read_manifest("out")
    assert [shard.name for shard in manifest.shards] == [f"shard-0000{n}.{format}" for n in range(4)]
    assert manifest.counts == counts


def test_the_number_of_workers_changes_no_byte():
    run("one", sides={"odd": "one-odd"})
    run("two", n_workers=2, sides={"odd": "two-odd"})
    assert without_command(bytes_of("one")) == without_command(bytes_of("two"))
    assert without_command(bytes_of("one-odd")) == without_command(bytes_of("two-odd"))


def test_an_interrupted_run_carries_on_to_the_same_bytes():
    run("whole", sides={"odd": "whole-odd"})
    with pytest.raises(InputError, match="stopped"):
        run("out", StopAt(KeepEven()), sides={"odd": "odd"})
    assert Path("out/manifest.partial.json").exists()
    assert run("out", sides={"odd": "odd"}) == {"n_documents": 300, "n_kept": 150}
    assert without_command(bytes_of("whole")) == without_command(bytes_of("out"))
    assert without_command(bytes_of("whole-odd")) == without_command(bytes_of("odd"))


def test_a_url_can_be_written_resumed_and_read(tmp_path):
    run("whole")
    url = (tmp_path / "remote").as_uri()
    with pytest.raises(InputError, match="stopped"):
        run(url, StopAt(KeepEven()))
    with pytest.raises(InputError, match="incomplete"):
        find_sources([url])
    run(url)
    assert without_command(bytes_of("remote")) == without_command(bytes_of("whole"))
    assert numbers(url) == list(range(0, 300, 2))
    with pytest.raises(OutputError, match="already complete"):
        run(url)
    Path("remote/shard-00000.jsonl.zst").write_bytes(b"")
    with pytest.raises(ShardError, match="0 bytes, but manifest"):
        find_sources([url])


def test_a_kill_between_the_two_manifests_is_mended():
    run("out", sides={"odd": "odd"})
    whole, whole_odd = bytes_of("out"), bytes_of("odd")
    Path("out/manifest.json").rename("out/manifest.partial.json")
    run("out", sides={"odd": "odd"})
    assert (bytes_of("out"), bytes_of("odd")) == (whole, whole_odd)


def test_a_pipe_gives_what_files_give(monkeypatch, capfdbinary):
    run("out")
    data = b"".join(Path(f"in/{index}.jsonl").read_bytes() for index in range(3))
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO(data)}))
    run("-", inputs=("-",))
    shards = sorted(Path("out").glob("shard*"))
    from_files = b"".join(
        block for shard in shards for block, _ in decompress(io.BytesIO(shard.read_bytes()), "zst", "")
    )
    assert capfdbinary.readouterr().out == from_files


def test_bad_lines_stop_the_run_or_are_set_aside():
    with Path("in/1.jsonl").open("ab") as file:
        file.write(b"{broken\n\xff\n")
    with pytest.raises(DocumentError, match=r"in/1.jsonl, line 101: not JSON"):
        run("out")
    counts = run("skipping", on_error="skip")
    assert counts == {"n_documents": 300, "n_kept": 150, "n_skipped": 2}
    aside = [json.loads(line) for line in Path("skipping/skipped/00001.jsonl").read_text().splitlines()]
    assert [(line["source"], line["line"]) for line in aside] == [("in/1.jsonl", 101), ("in/1.jsonl", 102)]
    assert numbers("skipping") == list(range(0, 300, 2))


def test_skipping_in_a_pipe_needs_a_place(capfdbinary):
    with pytest.raises(ConfigError, match="no place"):
        run("-", on_error="skip")
    Path("in/2.jsonl").write_bytes(b"{broken\n")
    run("-", on_error="skip", skipped="aside.jsonl")
    assert json.loads(Path("aside.jsonl").read_text())["line"] == 1
    assert len(capfdbinary.readouterr().out.splitlines()) == 100


def test_no_document_at_all_is_an_error_and_no_complete_folder():
    with pytest.raises(InputError, match=r"in/3.jsonl: no document in it"):
        run("out", inputs=("in/3.jsonl",))
    assert not Path("out/manifest.json").exists()
