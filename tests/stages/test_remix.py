"""`dsllm remix`: stated multiplicities and shares, one shuffle, any number of workers, resumed."""

import io
import itertools
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pytest
import zstandard

from dsllm.config import RunOptions, parse_weights
from dsllm.errors import ConfigError, DocumentError, InputError
from dsllm.io.sources import find_sources
from dsllm.progress import Reporter
from dsllm.stages.remix import run as run_module
from dsllm.stages.remix.config import RemixConfig
from dsllm.stages.remix.mix import allot, draw_keys, times_taken, wanted_shares

QUIET = Reporter(is_quiet=True)


def remix(inputs, output, *, n_workers=1, overwrite=False, skipped=None, **settings):
    options = RunOptions(n_workers=n_workers, overwrite=overwrite, skipped=skipped)
    config = RemixConfig(**settings)
    return run_module.run(
        config, [str(word) for word in inputs], str(output), options=options, reporter=QUIET
    )


def write_source(path, n_documents, *, seed=0, size=400, **fields):
    draw = random.Random(seed)
    name = path.name.split(".")[0]
    lines = b"".join(
        orjson.dumps({"id": f"{name}-{i}", "text": "x" * draw.randrange(1, 2 * size), **fields}) + b"\n"
        for i in range(n_documents)
    )
    path.write_bytes(zstandard.compress(lines) if path.suffix == ".zst" else lines)
    return path


@pytest.fixture
def two(tmp_path):
    """English is about nine tenths of the bytes."""
    en = write_source(tmp_path / "en.jsonl", 900, seed=1)
    zh = write_source(tmp_path / "zh.jsonl.zst", 100, seed=2)
    return [f"en={en}", f"zh={zh}"]


def read_lines(path):
    with path.open("rb") as file:
        data = file.read()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).readall()
    return data.splitlines(keepends=True)


def read_folder(folder):
    return [line for shard in sorted(Path(folder).glob("shard-*")) for line in read_lines(shard)]


def input_lines(words):
    return [line for word in words for line in read_lines(Path(word.partition("=")[2]))]


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def copies_by_id(folder):
    """How often each document came out: the part of its id before the mark of a copy."""
    return Counter(orjson.loads(line)["id"].split("#")[0] for line in read_folder(folder))


def test_without_settings_it_is_a_permutation(tmp_path, two):
    counts = remix(two, tmp_path / "out", shard_bytes=50_000)
    lines = read_folder(tmp_path / "out")
    assert sorted(lines) == sorted(input_lines(two))
    assert lines != input_lines(two)
    assert counts["n_written"] == counts["n_kept"] == 1000
    assert counts["n_dropped"] == counts["n_repeats"] == 0


def test_every_place_is_equally_likely(tmp_path, two):
    """The mean place of 100 documents among 1,000 is 499.5 with a standard error of 27.4 (the two sets' mean
    ranks differ by chance alone): four errors either way."""
    remix(two, tmp_path / "out", shard_bytes=50_000)
    places = [
        i for i, line in enumerate(read_folder(tmp_path / "out")) if orjson.loads(line)["id"].startswith("zh")
    ]
    assert abs(np.mean(places) - 499.5) < 4 * 27.4


def test_weights_are_reached(tmp_path, two):
    counts = remix(two, tmp_path / "out", weights=("en=0.5", "zh=0.5"))
    written = Counter()
    for line in read_folder(tmp_path / "out"):
        document = orjson.loads(line)
        written[document["id"][:2]] += len(document["text"])
    assert written["zh"] / written.total() == pytest.approx(0.5, abs=0.005)
    assert counts["sources"]["zh"]["reached"] == pytest.approx(written["zh"] / written.total(), abs=1e-6)
    assert (
        counts["n_text_bytes_written"] == written.total() == pytest.approx(counts["n_text_bytes"], rel=0.005)
    )


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"weights": ("en=0.6", "zh=0.4")},
        {"weights": ("en=0.05", "zh=0.95"), "budget": "500kB"},
        {"temperature": 3.0},
        {"even": True, "max_epochs": 6.0},
    ],
    ids=str,
)
def test_shares_are_within_half_a_percent_and_lines_come_as_often_as_stated(
    tmp_path, two, settings, n_workers
):
    counts = remix(two, tmp_path / "out", shard_bytes=50_000, n_workers=n_workers, **settings)
    inputs = {orjson.loads(line)["id"]: line for line in input_lines(two)}
    copies, n_bytes = copies_by_id(tmp_path / "out"), Counter()
    for line in read_folder(tmp_path / "out"):
        document = orjson.loads(line)
        name, _, copy = document["id"].partition("#")
        first = orjson.loads(inputs[name])
        assert line == inputs[name] if not copy else document | {"id": name} == first
        n_bytes[name[:2]] += len(document["text"].encode())
    ids = [orjson.loads(line)["id"] for line in read_folder(tmp_path / "out")]
    expected = [f"{name}#{n + 1}" if n else name for name, times in copies.items() for n in range(times)]
    assert sorted(ids) == sorted(expected)
    assert set(copies) <= set(inputs)
    for name, source in counts["sources"].items():
        own = [copies[identity] for identity in inputs if identity.startswith(name)]
        assert abs(n_bytes[name] / n_bytes.total() - source["wanted"]) < 0.005
        assert max(own) - min(own) <= 1
        assert (sum(own), own.count(0)) == (source["n_written"], source["n_dropped"])


def test_a_picture_has_the_same_bytes_and_is_no_input(tmp_path, two):
    for name in ("one", "other"):
        remix(two, tmp_path / name, weights=("en=0.5", "zh=0.5"), picture="svg")
    picture = (tmp_path / "one" / "mixture.svg").read_text()
    assert picture == (tmp_path / "other" / "mixture.svg").read_text()
    for word in ("before", "wanted", "reached", "epochs", ">en<", ">zh<"):
        assert word in picture
    assert all("shard-" in source.path for source in find_sources([str(tmp_path / "one")]))


def test_copies_differ_by_at_most_one_and_have_ids_of_their_own(tmp_path, two):
    """zh is 5 times as much as it was or so, so each of its documents comes floor or floor + 1 times."""
    counts = remix(two, tmp_path / "out", weights=("zh=1", "en=1"))
    epochs = counts["sources"]["zh"]["epochs"]
    copies = copies_by_id(tmp_path / "out")
    of_zh = [copies[f"zh-{i}"] for i in range(100)]
    assert set(of_zh) == {int(epochs), int(epochs) + 1}
    ids = [orjson.loads(line)["id"] for line in read_folder(tmp_path / "out")]
    assert len(set(ids)) == len(ids)
    assert {f"zh-0#{i}" for i in range(2, of_zh[0] + 1)} | {"zh-0"} == {
        i for i in ids if i.split("#")[0] == "zh-0"
    }
    assert sum(copies[f"en-{i}"] == 0 for i in range(900)) == counts["n_dropped"] > 0


def test_first_copies_travel_byte_for_byte(tmp_path):
    line = b'{"text": "some text" ,  "id":7, "n": 123456789012345678901234567890}\n'
    (tmp_path / "a.jsonl").write_bytes(line)
    remix([f"a={tmp_path / 'a.jsonl'}"], tmp_path / "out", budget="27B")
    first, *others = sorted(read_folder(tmp_path / "out"), key=lambda found: found != line)
    assert first == line
    assert set(others) == {
        b'{"text":"some text","id":"7#%d","n":123456789012345678901234567890}\n' % i for i in (2, 3)
    }


def test_documents_name_their_sources(tmp_path):
    wiki = write_source(tmp_path / "a.jsonl", 300, source="wiki")
    code = write_source(tmp_path / "b.jsonl", 300, source="code")
    none = write_source(tmp_path / "c.jsonl", 300)
    inputs = [wiki, code, none]
    counts = remix(inputs, tmp_path / "out", weights=("wiki=0.5", "rest=0.5"))
    shares = {name: source["reached"] for name, source in counts["sources"].items()}
    assert shares == pytest.approx({"wiki": 0.5, "code": 0.25, "(none)": 0.25}, abs=0.005)
    counts = remix(inputs, tmp_path / "all", weights=("wiki=1", "code=0", "(none)=0"))
    assert {orjson.loads(line)["source"] for line in read_folder(tmp_path / "all")} == {"wiki"}
    assert counts["n_dropped"] == 600


def test_temperature_by_hand():
    """16 : 1 at temperature 2 is 4 : 1, and at a great one nearly 1 : 1."""
    shares = wanted_shares(RemixConfig(temperature=2.0), ["a", "b", "c"], [1600, 100, 0])
    assert shares == pytest.approx([0.8, 0.2, 0.0])
    assert wanted_shares(RemixConfig(temperature=1e9), ["a", "b"], [1600, 100]) == pytest.approx([0.5, 0.5])
    assert wanted_shares(RemixConfig(), ["a", "b"], [75, 25]) == [0.75, 0.25]


def test_what_a_capped_source_lacks_goes_to_the_others():
    """b wants 500 but may have 4 * 100; the other 600 are shared 3 : 1 by a and c."""
    assert allot([900, 100, 200], [0.375, 0.5, 0.125], 1000, 4.0) == [450, 400, 150]
    assert allot([10, 10], [0.5, 0.5], 1000, 2.0) == [20, 20]
    assert allot([900, 100], [1.0, 0.0], 1000, None) == [1000, 0]
    assert allot([900, 0, 100], [0.5, 0.0, 0.5], 1000, math.inf) == [500, 0, 500]


def test_max_epochs_holds_in_the_output(tmp_path, two):
    counts = remix(two, tmp_path / "out", weights=("en=0.2", "zh=0.8"), max_epochs=2.0)
    assert counts["sources"]["zh"]["epochs"] == pytest.approx(2.0, abs=0.01)
    assert max(copies_by_id(tmp_path / "out").values()) == 2


def test_a_budget_is_met(tmp_path, two):
    counts = remix(two, tmp_path / "out", budget="100kB")
    assert counts["n_text_bytes_written"] == pytest.approx(100_000, rel=0.005)
    assert counts["sources"]["en"]["reached"] == pytest.approx(counts["sources"]["en"]["before"], abs=0.005)


def test_times_taken_by_hand():
    """Four documents of 10 bytes: 95 bytes are two epochs and 15 bytes, so 1 or 2 documents more."""
    sizes = np.full(4, 10)
    times = times_taken(sizes, np.arange(4), 95, seed=0)
    assert sorted(times.tolist()) in ([2, 2, 2, 3], [2, 2, 3, 3])
    assert times_taken(sizes, np.arange(4), 80, seed=0).tolist() == [2, 2, 2, 2]
    assert times_taken(sizes, np.arange(4), 4, seed=0).tolist() == [0, 0, 0, 0]
    assert sorted(times_taken(sizes, np.arange(4), 6, seed=0).tolist()) == [0, 0, 0, 1]


def test_keys_differ_by_document_copy_purpose_and_seed():
    numbers = np.arange(1000)
    draws = [
        draw_keys(0, 1, numbers),
        draw_keys(0, 2, numbers),
        draw_keys(1, 1, numbers),
        draw_keys(0, 1, numbers, 1),
    ]
    assert len(np.unique(np.concatenate(draws))) == 4000


def test_the_seed_changes_the_order_and_nothing_else(tmp_path, two):
    for seed in (0, 1):
        remix(two, tmp_path / f"out-{seed}", seed=seed)
    first, second = (read_folder(tmp_path / f"out-{seed}") for seed in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 20_000)


SETTINGS = {"weights": ("en=0.5", "zh=0.5"), "shard_bytes": 60_000}


@pytest.mark.usefixtures("small_batches")
def test_the_number_of_workers_changes_no_byte(tmp_path, two):
    found = []
    for n_workers in (1, 2):
        remix(two, tmp_path / "out", n_workers=n_workers, overwrite=True, **SETTINGS)
        found.append(folder_bytes(tmp_path / "out"))
    assert found[0] == found[1]
    assert len([name for name in found[0] if name.startswith("shard-")]) > 5


def test_batches_change_no_line(tmp_path, two, monkeypatch):
    remix(two, tmp_path / "large", **SETTINGS)
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 7_000)
    remix(two, tmp_path / "small", **SETTINGS)
    assert read_folder(tmp_path / "large") == read_folder(tmp_path / "small")


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("place", ["Measure", "mix", "Scatter", "Gather"])
def test_an_interrupted_run_carries_on_to_equal_bytes(tmp_path, two, monkeypatch, place):
    remix(two, tmp_path / "out", **SETTINGS)
    expected = folder_bytes(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "whole")

    class PowerCut(BaseException):
        pass

    original = getattr(run_module, place)
    calls = itertools.count()

    def cut(*arguments):
        made = original(*arguments)
        if place == "mix":
            raise PowerCut

        def task(item):  # in the third batch or shard
            if next(calls) == 2:
                raise PowerCut
            return made(item)

        return task

    monkeypatch.setattr(run_module, place, cut)
    with pytest.raises(PowerCut):
        remix(two, tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.setattr(run_module, place, original)
    remix(two, tmp_path / "out", **SETTINGS)
    assert folder_bytes(tmp_path / "out") == expected


class FakeStandardStream:
    def __init__(self, data=b""):
        self.buffer = io.BytesIO(data)


def test_a_pipe_gives_the_same_lines_as_a_file(tmp_path, monkeypatch):
    source = write_source(tmp_path / "a.jsonl", 200, source="a")
    remix([source], tmp_path / "out", budget="100kB")
    stdout = FakeStandardStream()
    monkeypatch.setattr("sys.stdin", FakeStandardStream(source.read_bytes()))
    monkeypatch.setattr("sys.stdout", stdout)
    remix(["-"], "-", budget="100kB")
    assert stdout.buffer.getvalue() == b"".join(read_folder(tmp_path / "out"))


def test_names_are_kept_in_the_manifest_and_can_be_given_as_a_setting(tmp_path, two):
    remix(two, tmp_path / "out", weights=("en=1", "zh=1"))
    manifest = orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["config"]["names"] == ["en", "zh"]
    assert "=" not in manifest["inputs"][0]["path"]
    bare = [word.partition("=")[2] for word in two]
    remix(bare, tmp_path / "again", weights=("en=1", "zh=1"), names=("en", "zh"))
    assert read_folder(tmp_path / "again") == read_folder(tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"weights": ("en=1",)}, "no share for zh"),
        ({"weights": ("en=1", "zh=1", "fr=1")}, "no source 'fr'"),
        ({"weights": ("en=1", "zh=1", "rest=1")}, "every source has its own"),
        ({"names": ("a", "b")}, "the inputs say"),
    ],
    ids=str,
)
def test_shares_that_do_not_fit_the_sources_are_refused(tmp_path, two, settings, match):
    with pytest.raises(ConfigError, match=match):
        remix(two, tmp_path / "out", **settings)


@pytest.mark.parametrize("weights", [("en",), ("en=-1",), ("en=nan",), ("=1",), ("en=1", "en=2"), ("en=0",)])
def test_weights_that_are_no_shares_are_refused(weights):
    with pytest.raises(ConfigError):
        parse_weights(weights, "weights")


def test_weights_and_temperature_exclude_each_other():
    with pytest.raises(ConfigError, match="temperature"):
        RemixConfig(weights=("a=1",), temperature=2.0)


def test_names_for_some_inputs_only_are_refused(tmp_path, two):
    with pytest.raises(ConfigError, match="has no name"):
        remix([two[0], two[1].partition("=")[2]], tmp_path / "out")


def test_a_source_without_text_cannot_have_a_share(tmp_path, two):
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b'{"text":""}\n')
    with pytest.raises(InputError, match="no text"):
        remix([*two, f"empty={empty}"], tmp_path / "out", weights=("en=1", "zh=1", "empty=1"))
    counts = remix([*two, f"empty={empty}"], tmp_path / "out", overwrite=True)
    assert counts["n_written"] == 1001


def test_a_line_that_is_no_document_stops_or_is_set_aside(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"text":"a b"}\nnot json\n\n{"text":"c"}')
    with pytest.raises(DocumentError, match=r"in\.jsonl, line 2"):
        remix([tmp_path / "in.jsonl"], tmp_path / "out")
    counts = remix([tmp_path / "in.jsonl"], tmp_path / "out", overwrite=True, on_error="skip")
    assert sorted(read_folder(tmp_path / "out")) == [b'{"text":"a b"}\n', b'{"text":"c"}\n']
    assert counts["n_skipped"] == 1
    (aside,) = (tmp_path / "out" / "skipped").iterdir()
    assert orjson.loads(aside.read_bytes())["line"] == 2


def test_nothing_to_mix_is_an_error(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match="no document"):
        remix([tmp_path / "in.jsonl"], tmp_path / "out")
    (tmp_path / "in.jsonl").write_bytes(b'{"text":"%s"}\n' % (b"x" * 100))
    with pytest.raises(InputError, match="budget"):
        remix([tmp_path / "in.jsonl"], tmp_path / "out", overwrite=True, budget="1B")


def test_plan_adds_up_sizes(two):
    answer = run_module.plan(RemixConfig(), two, "out", options=RunOptions(), reporter=QUIET)
    sizes = {word.partition("=")[0]: Path(word.partition("=")[2]).stat().st_size for word in two}
    assert answer["n_bytes_by_source"] == sizes
    assert answer["n_bytes_to_read"] == sum(sizes.values())


def test_a_shard_has_a_document(tmp_path):
    source = write_source(tmp_path / "in.jsonl", 3)
    counts = remix([source], tmp_path / "out", shard_bytes=1)
    assert counts["n_documents"] == 3
    assert len(list((tmp_path / "out").glob("shard-*"))) == 3  # some of them without lines


@pytest.mark.parametrize(
    ("identity", "second"), [("5", '"5#2"'), ("true", '"true#2"'), ('{"a": "é"}', '"{\\"a\\": \\"é\\"}#2"')]
)
def test_an_id_that_is_no_string_is_numbered_as_it_stands(tmp_path, identity, second):
    line = f'{{"id": {identity}, "text": "abcd"}}\n'.encode()
    (tmp_path / "in.jsonl").write_bytes(line)
    remix([tmp_path / "in.jsonl"], tmp_path / "out", budget="8B", format="jsonl")
    lines = (tmp_path / "out" / "shard-00000.jsonl").read_bytes().splitlines(keepends=True)
    assert sorted(lines) == sorted([line, f'{{"id":{second},"text":"abcd"}}\n'.encode()])
