"""The string level of `dsllm dedup` as its user sees it."""

import json
import random

import orjson
import pytest

from dsllm.config import RunOptions
from dsllm.progress import Reporter
from dsllm.stages.dedup import divide
from dsllm.stages.dedup import run as run_module
from dsllm.stages.dedup.config import DedupConfig


def dedup(inputs, output, *, n_workers=1, **settings):
    return run_module.run(
        DedupConfig(format="jsonl", **settings),
        [str(path) for path in inputs],
        str(output),
        options=RunOptions(n_workers=n_workers),
        reporter=Reporter(is_quiet=True),
    )


def write(path, texts):
    rows = [{"n": 1.50, "text": text, "id": f"{path.stem}-{n}"} for n, text in enumerate(texts)]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def read(folder):
    lines = [line for path in sorted(folder.glob("shard-*")) for line in path.read_bytes().splitlines()]
    return [orjson.loads(line) for line in lines]


def test_lines_and_spans_that_occurred_before_are_cut(tmp_path):
    """The menu goes from the second page; the third has only words of the first: it goes altogether."""
    first = write(
        tmp_path / "a.jsonl", ["Home 1\nNews\none two three four five", "Home 2\nunlike words here"]
    )
    second = write(tmp_path / "b.jsonl", ["two three four", "see one two three four there"])
    removed = tmp_path / "removed"
    counts = dedup(
        [first, second], tmp_path / "out", cut_lines=True, cut_spans=3, level="exact", removed=str(removed)
    )
    assert [row["text"] for row in read(tmp_path / "out")] == [
        "Home 1\nNews\none two three four five",
        "unlike words here",
        "see there",
    ]
    assert [(row["id"], row["dsllm_dedup"]) for row in read(removed)] == [("b-0", {"level": "string"})]
    assert (counts["n_documents"], counts["n_kept"]) == (4, 3)
    assert (counts["n_cut"], counts["n_removed_string"]) == (2, 1)
    # "Home 2\n" has 7 bytes, "two three four" 14, "one two three four " 19
    assert counts["n_text_bytes_cut"] == 7 + 14 + 19
    assert counts["n_text_bytes"] - counts["n_text_bytes_kept"] == counts["n_text_bytes_cut"]
    assert json.loads((tmp_path / "out/manifest.json").read_bytes())["counts"] == counts


def test_nothing_to_cut_is_said_too(tmp_path):
    counts = dedup([write(tmp_path / "a.jsonl", ["one two", "three four"])], tmp_path / "out", cut_spans=3)
    assert (counts["n_cut"], counts["n_removed_string"], counts["n_text_bytes_cut"]) == (0, 0, 0)


def test_a_pipe_gives_the_same_lines_as_files(tmp_path, monkeypatch, capfdbinary):
    sources = make_sources(tmp_path)
    content = tmp_path / "all.jsonl"
    content.write_bytes(b"".join(path.read_bytes() for path in sources))
    dedup([content], tmp_path / "out", **SETTINGS)
    with content.open() as file, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", file)
        dedup(["-"], "-", **SETTINGS)
    assert capfdbinary.readouterr().out == (tmp_path / "out/shard-00000.jsonl").read_bytes()


def make_sources(folder):
    draw = random.Random(2)
    letters = "abcdefghijklmnopqrst"
    words = [a + b for a in letters for b in letters]
    lines = [" ".join(draw.choices(words, k=12)) for _ in range(80)]
    sources = []
    for name in "abc":
        texts = ["\n".join([*draw.choices(lines, k=5), f"own {name} {words[n]}"]) for n in range(60)]
        sources.append(write(folder / f"{name}.jsonl", texts))
    return sources


SETTINGS = {"cut_spans": 8, "cut_lines": True, "cut_paragraphs": True}


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 4000)


@pytest.mark.usefixtures("small_batches")
def test_workers_and_interruptions_change_no_byte(tmp_path, monkeypatch):
    sources = make_sources(tmp_path)
    dedup(sources, tmp_path / "one", **SETTINGS)
    dedup(sources, tmp_path / "two", n_workers=2, **SETTINGS)
    original = divide.Divide.__call__

    class PowerCut(BaseException):
        pass

    def cut(task, batch):
        if batch.source_index == 2:
            raise PowerCut
        return original(task, batch)

    with monkeypatch.context() as patch:
        patch.setattr(divide.Divide, "__call__", cut)
        with pytest.raises(PowerCut):
            dedup(sources, tmp_path / "three", **SETTINGS)
    dedup(sources, tmp_path / "three", **SETTINGS)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "one").glob("shard-*")}
    counts = json.loads((tmp_path / "one/manifest.json").read_bytes())["counts"]
    assert counts["n_cut"] > 150
    for name in ("two", "three"):
        assert {path.name: path.read_bytes() for path in (tmp_path / name).glob("shard-*")} == expected
        manifest = json.loads((tmp_path / name / "manifest.json").read_bytes())
        assert manifest["counts"] == counts
