"""`dsllm dedup --write-index` and `--against`: new dumps against what an earlier run left."""

import io
import itertools
import json
import os
import random
from pathlib import Path

import numpy as np
import orjson
import pytest

from dsllm.cli.main import run_command_line
from dsllm.config import RunOptions
from dsllm.errors import ConfigError, InputError, OutputError, ShardError
from dsllm.io.provenance import trace
from dsllm.progress import Reporter
from dsllm.stages.dedup import config as config_module
from dsllm.stages.dedup import divide, index
from dsllm.stages.dedup import run as run_module
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.judge import judge

QUIET = Reporter(is_quiet=True)
# Shingles of one word, and bands of one row: all pairs with a word in common are met, or so nearly.
WORDS = {"shingle_words": 1, "n_bands": 128, "n_rows": 1, "threshold": 0.8}


def dedup(inputs, output, *, n_workers=1, overwrite=False, against=(), write_index=None, **settings):
    options = RunOptions(n_workers=n_workers, overwrite=overwrite)
    config = DedupConfig(
        format="jsonl",
        against=tuple(map(str, against)),
        write_index=write_index and str(write_index),
        **settings,
    )
    inputs = [str(path) for path in inputs]
    return run_module.run(config, inputs, str(output), options=options, reporter=QUIET)


def write_lines(path, documents):
    path.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in documents))
    return path


def read_lines(folder):
    paths = sorted(Path(folder).glob("shard-*"))
    return [orjson.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def read_ids(folder):
    return [document["id"] for document in read_lines(folder)]


def folder_bytes(*folders):
    return {str(path): path.read_bytes() for at in folders for path in Path(at).rglob("*") if path.is_file()}


def numbers(*values):
    return " ".join(f"w{value}" for value in values)


TEN, NINE = numbers(*range(10)), numbers(*range(9))  # J = 9/10


def write_dumps(folder, n_dumps=3, n_documents=150):
    """Texts in families: all similarities occur, within dumps and across; some without words, or an id."""
    draw = random.Random(3)
    bases = [[f"w{draw.randrange(3000)}" for _ in range(60)] for _ in range(25)]
    dumps = []
    for number in range(n_dumps):
        documents = []
        for n in range(n_documents):
            words = list(draw.choice(bases))
            for _ in range(draw.choice([0, 0, 1, 2, 4, 8, 30])):
                words[draw.randrange(60)] = f"x{draw.randrange(10**6)}"
            text = draw.choice(["", "...", "🙂"]) if n % 50 == 7 else " ".join(words)
            document = {"text": text, "rank": draw.randrange(100)}
            documents.append(document if n % 20 == 3 else {"id": f"{number}-{n}", **document})
        path = write_lines(folder / f"dump-{number}.jsonl", documents)
        path.write_bytes(b"\n\n" + path.read_bytes())
        dumps.append(path)
    return dumps


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 5000)
    monkeypatch.setattr("dsllm.stages.dedup.corpus.CHUNK_DOCUMENTS", 37)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(
    "settings",
    [
        {"level": "exact"},
        {"threshold": 0.5, "shingle_words": 3, "n_bands": 128, "n_rows": 1},
        {"threshold": 0.8, "shingle_words": 2},
        {"threshold": 0.7, "shingle_words": 2, "n_bands": 4, "n_rows": 6},
    ],
    ids=str,
)
def test_dumps_one_after_another_leave_what_one_run_over_all_leaves(tmp_path, settings):
    """Each run against the indices of all before; also where bands miss much, as in the last case."""
    dumps = write_dumps(tmp_path)
    dedup(dumps, tmp_path / "all", **settings)
    indices = []
    for number, dump in enumerate(dumps):
        made = tmp_path / f"index-{number}"
        counts = dedup([dump], tmp_path / f"out-{number}", against=indices, write_index=made, **settings)
        indices.append(made)
        assert counts["n_documents"] == 150
        whole = (tmp_path / f"all/shard-{number:05d}.jsonl").read_bytes()
        assert (tmp_path / f"out-{number}/shard-00000.jsonl").read_bytes() == whole
    assert counts["n_removed_for_indexed"] > 10
    content = json.loads((made / "manifest.json").read_bytes())
    assert content["content"]["kind"] == "dedup-index"
    assert content["counts"]["n_documents"] == counts["n_kept"]  # what this run kept, and no more


@pytest.mark.parametrize("keep", ["first", "longest", "rank", "rank:least"])
def test_indexed_documents_stay_whatever_is_kept(tmp_path, keep):
    old = write_lines(tmp_path / "old.jsonl", [{"id": "a", "text": NINE, "rank": 5}])
    documents = [{"id": "b", "text": TEN, "rank": 1}, {"id": "c", "text": TEN, "rank": 9}]
    new = write_lines(tmp_path / "new.jsonl", [*documents, {"id": "d", "text": "other", "rank": 1}])
    dedup([old], tmp_path / "out", write_index=tmp_path / "index", keep=keep, **WORDS)
    counts = dedup([new], tmp_path / "new", against=[tmp_path / "index"], keep=keep, **WORDS)
    assert read_ids(tmp_path / "new") == ["d"]
    assert (counts["n_removed_exact"], counts["n_removed_near"]) == (0, 2)  # c as a copy of b
    assert counts["n_removed_for_indexed"] == 2


def test_removed_documents_name_the_indexed_one(tmp_path, monkeypatch):
    """Nine words of ten; the paths are those that the old run read, as seen from here."""
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    write_lines(
        Path("old.jsonl"), [{"id": "gone", "text": "x"}, {"id": "x", "text": "X"}, {"id": 7, "text": TEN}]
    )
    write_lines(
        Path("new.jsonl"), [{"id": "b", "text": NINE}, {"id": "c", "text": TEN.upper()}, {"text": "x"}]
    )
    dedup(["old.jsonl"], "out", write_index="sub/index", **WORDS)
    dedup(["new.jsonl"], "new", against=["sub/index"], removed="removed", pairs="pairs.jsonl", **WORDS)
    kept = {"id": 7, "source": "old.jsonl", "line": 3}
    expected = [
        {"level": "near", "similarity": 0.9, "kept": kept},
        {"level": "exact", "similarity": 1.0, "kept": kept},
        {"level": "exact", "similarity": 1.0, "kept": {"id": "gone", "source": "old.jsonl", "line": 1}},
    ]
    assert [document["dsllm_dedup"] for document in read_lines("removed")] == expected
    pairs = [orjson.loads(line) for line in Path("pairs.jsonl").read_bytes().splitlines()]
    assert [pair["kept"] for pair in pairs] == [note["kept"] for note in expected]
    assert [pair["removed"]["line"] for pair in pairs] == [1, 2, 3]


def test_indexed_documents_are_not_judged_among_themselves(tmp_path):
    """Indices with the same documents and with alike ones: the first copy is named, or the likeliest."""
    old = [
        write_lines(tmp_path / f"{n}.jsonl", [{"id": n, "text": text}])
        for n, text in enumerate([TEN, TEN, NINE])
    ]
    indices = [tmp_path / f"index-{n}" for n in range(3)]
    for path, made in zip(old, indices, strict=True):
        dedup([path], tmp_path / "out", write_index=made, overwrite=True, **WORDS)
    new = write_lines(tmp_path / "new.jsonl", [{"id": "a", "text": TEN}, {"id": "b", "text": NINE + " v"}])
    counts = dedup([new], tmp_path / "new", against=indices, removed=str(tmp_path / "gone"), **WORDS)
    assert counts["n_documents"] == counts["n_removed_for_indexed"] == 2
    notes = [document["dsllm_dedup"]["kept"]["id"] for document in read_lines(tmp_path / "gone")]
    assert notes == [0, 2]  # b shares nine words of ten with 2, nine of eleven with 0 and 1


def test_halves_of_hashes_count_for_indexed_documents_alone(tmp_path):
    """The second set differs from the first in the upper halves alone."""
    first = np.arange(1, 11, dtype=np.uint64)
    upper = first + (np.uint64(1) << np.uint64(40))
    signatures, keys = np.zeros((2, 8), np.uint32), np.zeros((1, 2), np.uint64)
    for is_indexed, kept in (([True, False], [-1, 0]), ([False, False], [-1, -1])):
        found = judge(
            signatures, keys, np.concatenate((first, upper)), np.array([10, 20]), 0.9,
            is_indexed=np.array(is_indexed),
        )  # fmt: skip
        assert found.kept.tolist() == kept
    # Two of ten shingles share the lower half: ten values of the indexed one are met, not nine.
    twice = np.concatenate((first[:9], first[:1]))
    other = np.concatenate((upper[:9], first[9:]))
    found = judge(
        signatures, keys, np.concatenate((twice, other)), np.array([10, 20]), 0.6,
        is_indexed=np.array([True, False]),
    )  # fmt: skip
    assert found.similarity.tolist() == [0.0, 1.0]  # too high, not too low


def make_runs(folder, **settings):
    """Three dumps: one in the index, the others in the run that writes another."""
    dumps = write_dumps(folder)
    if not (folder / "index").exists():
        dedup(dumps[:1], folder / "old", write_index=folder / "index")
    names = ("out", "removed", "next")
    out, removed, written = (folder / name for name in names)
    given = {"against": [folder / "index"], "write_index": written, "removed": str(removed), **settings}
    dedup(dumps[1:], out, **given)
    return folder_bytes(out, removed, written)


def test_workers_and_memory_change_no_byte(tmp_path, monkeypatch):
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 5000)
    expected = make_runs(tmp_path, overwrite=True)
    index_bytes = folder_bytes(tmp_path / "index")
    assert make_runs(tmp_path, overwrite=True, n_workers=2) == expected
    monkeypatch.setattr(config_module, "MIN_MEMORY_BYTES", 1)
    monkeypatch.setattr("dsllm.stages.dedup.corpus.CHUNK_DOCUMENTS", 37)
    little = make_runs(tmp_path, overwrite=True, memory="50kB", n_workers=2)
    differ = {Path(name).name for name in expected if little[name] != expected[name]}
    assert differ == {"manifest.json"}  # it says memory
    assert folder_bytes(tmp_path / "index") == index_bytes


class PowerCut(BaseException):
    pass


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("place", [index.DescribeSets, divide.Divide], ids=lambda place: place.__name__)
@pytest.mark.parametrize("after", [0.0, 0.5, 1.0])
def test_an_interrupted_run_carries_on_to_equal_bytes(tmp_path, monkeypatch, place, after):
    """The task fails at its first item, in the middle, and at its last."""
    calls = []
    original = place.__call__
    with monkeypatch.context() as patch:
        patch.setattr(place, "__call__", lambda task, item: (calls.append(item), original(task, item))[1])
        dedup(write_dumps(tmp_path)[:1], tmp_path / "old", write_index=tmp_path / "index")
        calls.clear()
        expected = make_runs(tmp_path)
    for name in ("out", "removed", "next"):
        (tmp_path / name).rename(tmp_path / f"{name}-whole")
    remaining = itertools.count(int(after * (len(calls) - 1)), -1)

    def cut(task, item):
        if not next(remaining):
            raise PowerCut
        return original(task, item)

    with monkeypatch.context() as patch:
        patch.setattr(place, "__call__", cut)
        with pytest.raises(PowerCut):
            make_runs(tmp_path)
    assert (tmp_path / "next/manifest.json").exists() == (place is divide.Divide)
    assert make_runs(tmp_path) == expected


class FakeStandardStream:
    def __init__(self, data=b""):
        self.buffer = io.BytesIO(data)


@pytest.mark.usefixtures("small_steps")
def test_a_pipe_gives_the_same_as_files(tmp_path, monkeypatch):
    first, second, _ = write_dumps(tmp_path)
    for piped in (False, True):
        folder = tmp_path / str(piped)
        for given, name, more in ((first, "a", {}), (second, "b", {"against": [folder / "a"]})):
            monkeypatch.setattr("sys.stdin", FakeStandardStream(given.read_bytes()))
            stdout = FakeStandardStream()
            monkeypatch.setattr("sys.stdout", stdout)
            inputs, output = (["-"], "-") if piped else ([given], folder / f"out-{name}")
            dedup(inputs, output, write_index=folder / name, **more)
            if piped:
                shard = tmp_path / f"False/out-{name}/shard-00000.jsonl"
                assert stdout.buffer.getvalue() == shard.read_bytes()
    for name in ("a", "b"):
        files, pipe = (
            {path.name: path.read_bytes() for path in (tmp_path / piped / name).glob("0*")}
            for piped in ("False", "True")
        )
        assert files == pipe
        assert files


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder with an index of one document, and another document."""
    monkeypatch.chdir(tmp_path)
    write_lines(Path("old.jsonl"), [{"id": "a", "text": TEN}])
    write_lines(Path("new.jsonl"), [{"id": "b", "text": TEN, "dump": "1"}])
    dedup(["old.jsonl"], "old", write_index="index")
    return tmp_path


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shingle_words": 3}, "its shingle_words is 5, but shingle_words is 3"),
        ({"n_hashes": 64}, "its n_hashes is 128, but n_hashes is 64"),
        ({"seed": 2}, "its seed is 1, but seed is 2"),
        ({"fold_case": False}, "its fold_case is True, but fold_case is False"),
        ({"punctuation": True, "level": "exact"}, "its punctuation is False, but punctuation is True"),
        ({"by": "dump"}, "by is 'dump', but against is index"),
        ({"against": ["index", "./index"]}, "./index: the index is given twice"),
        ({"write_index": "index"}, "index: is to be read and to be written"),
        ({"removed": "./index"}, "index: is to be read and to be written"),
        ({"against": ["s3://bucket/index"]}, "an index is read from a disk"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        dedup(["new.jsonl"], "new", overwrite=True, **{"against": ["index"], **settings})
    assert message in caught.value.message
    assert not Path("new").exists()
    assert Path("index/manifest.json").exists()


@pytest.mark.usefixtures("made")
def test_levels_meet_where_they_can():
    dedup(["old.jsonl"], "old", write_index="exact", level="exact", overwrite=True)
    with pytest.raises(ConfigError, match="exact: its level is exact, but level is near"):
        dedup(["new.jsonl"], "new", against=["exact"])
    for path in ("exact", "index"):  # at level exact shingles have no part
        counts = dedup(["new.jsonl"], "new", against=[path], level="exact", seed=3, overwrite=True)
        assert counts["n_kept"] == 0
    counts = dedup(
        ["new.jsonl"], "new", against=["index"], threshold=0.5, n_bands=9, n_rows=3, overwrite=True
    )
    assert counts["n_kept"] == 0


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("setting", [{"unicode": "3.0.0"}, {"version": 0}], ids=str)
def test_an_index_of_another_kind_of_hash_is_refused(setting):
    path = Path("index/manifest.json")
    manifest = json.loads(path.read_bytes())
    manifest["content"] |= setting
    path.write_text(json.dumps(manifest))
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=f"its {name} is {value}, but here {name} is"):
        dedup(["new.jsonl"], "new", against=["index"])


@pytest.mark.usefixtures("made")
def test_what_is_no_whole_index_is_refused():
    with pytest.raises(InputError, match="old: holds documents, made by dedup; an index is needed"):
        dedup(["new.jsonl"], "new", against=["old"])
    with pytest.raises(InputError, match="nowhere: no such folder"):
        dedup(["new.jsonl"], "new", against=["nowhere"])
    with pytest.raises(InputError, match="index: holds dedup-index"):
        dedup(["index"], "new")
    sets = Path("index/00000.sets")
    whole = sets.read_bytes()
    for data, message in ((whole[:-1], "23 bytes, but"), (b"x" + whole[1:], "content hash")):
        sets.write_bytes(data)
        with pytest.raises(ShardError, match=message) as caught:
            dedup(["new.jsonl"], "new", against=["index"])
        assert "dsllm dedup old.jsonl -o old" in caught.value.hint
    sets.write_bytes(whole)
    Path("index/manifest.json").rename("index/manifest.partial.json")
    with pytest.raises(InputError, match="index: incomplete"):
        dedup(["new.jsonl"], "new", against=["index"])


@pytest.mark.usefixtures("made")
def test_a_complete_index_is_refused_as_output_of_another_run():
    with pytest.raises(OutputError, match="index: begun by another command"):
        dedup(["new.jsonl"], "new", write_index="index")
    dedup(["new.jsonl"], "new", write_index="index", overwrite=True)
    assert json.loads(Path("index/manifest.json").read_bytes())["content"]["sources"] == ["../new.jsonl"]


def test_the_way_back_goes_through_the_index(made, capsys):
    dedup([made / "new.jsonl"], "new", against=[made / "index"], write_index=made / "next")
    origin = trace("new")
    assert [(step.path, step.state) for step in origin.inputs] == [("new.jsonl", "same"), ("index", "same")]
    assert [step.path for step in origin.inputs[1].inputs] == ["old.jsonl"]
    manifest = Path("new/manifest.json").read_text()
    assert str(made) not in manifest + Path("next/manifest.json").read_text()
    assert json.loads(manifest)["config"]["against"] == ["index"]
    assert run_command_line(["verify", "index", "next"]) == 0
    assert run_command_line(["inspect", "index"]) == 0
    said = capsys.readouterr().out
    assert "next: whole" in said
    assert "kind: dedup-index" in said


@pytest.mark.usefixtures("made")
def test_plan_counts_the_index():
    """48 bytes, 0.012 documents: an index of at most 0.012 * (76 + 512 + 40 + 4 * 666) = 40 bytes."""
    config = DedupConfig(against=("index",), write_index="next")
    Path("new.jsonl").write_bytes(b"x" * 48)
    answer = run_module.plan(config, ["new.jsonl"], "new", options=RunOptions(), reporter=QUIET)
    assert answer["n_indexed_documents"] == 1
    assert answer["n_index_bytes_to_read"] == sum(path.stat().st_size for path in Path("index").glob("0*"))
    assert answer["index_bytes_at_most"] == 40
    assert not Path("next").exists()


@pytest.mark.data
def test_real_dumps_one_after_another(tmp_path):
    folder = os.environ.get("DSLLM_TEST_DATA")
    if not folder:
        pytest.skip("DSLLM_TEST_DATA is not set")
    dumps = sorted((Path(folder) / "neardup").glob("dump-*.jsonl.zst"))
    dedup(dumps, tmp_path / "all", n_workers=2)
    dedup(dumps[:3], tmp_path / "a", write_index=tmp_path / "index-a", n_workers=2)
    indices = [tmp_path / "index-a"]
    dedup(dumps[3:4], tmp_path / "b", against=indices, write_index=tmp_path / "index-b", n_workers=2)
    dedup(dumps[4:], tmp_path / "c", against=[*indices, tmp_path / "index-b"], n_workers=2)
    apart = [document for name in "abc" for document in read_lines(tmp_path / name)]
    assert apart == read_lines(tmp_path / "all")
