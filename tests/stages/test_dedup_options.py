"""Options of `dsllm dedup`: which one stays, pairs, the limit per source, rates by dump, the plan."""

import json
import random
from pathlib import Path

import orjson
import pytest
import zstandard

from dsllm.config import RunOptions
from dsllm.errors import DocumentError, InputError, OutputError
from dsllm.progress import Reporter
from dsllm.stages.dedup import run as run_module
from dsllm.stages.dedup.config import DedupConfig

QUIET = Reporter(is_quiet=True)
# Shingles of one word, and bands of one row: all pairs with a word in common are met, or so nearly.
WORDS = {"shingle_words": 1, "n_bands": 128, "n_rows": 1, "threshold": 0.8}


def dedup(inputs, output, *, overwrite=False, **settings):
    options = RunOptions(n_workers=1, overwrite=overwrite)
    config = DedupConfig(**settings)
    return run_module.run(
        config, [str(path) for path in inputs], str(output), options=options, reporter=QUIET
    )


def write_lines(path, documents):
    path.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in documents))
    return path


def read_lines(folder):
    data = b""
    for path in sorted(Path(folder).glob("shard-*")):
        with path.open("rb") as file:
            data += zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).readall()
    return [orjson.loads(line) for line in data.splitlines()]


def read_ids(folder):
    return [document["id"] for document in read_lines(folder)]


def numbers(*values):
    return " ".join(f"w{value}" for value in values)


NINE, TEN = numbers(*range(9)), numbers(*range(10))  # J = 9/10


@pytest.mark.parametrize(
    ("keep", "stays"),
    [
        ("first", "a"),
        ("longest", "b"),
        ("date", "c"),
        ("date:least", "b"),
        ("rank", "b"),
        ("rank:least", "a"),
    ],
)
def test_the_one_with_the_greatest_value_of_a_field_stays(tmp_path, keep, stays):
    """c is the last in time: 23:30 at -01:00 is 00:30 of the next day; naive times are UTC."""
    documents = [
        {"id": "a", "text": NINE, "rank": -1.5},
        {"id": "b", "text": TEN, "date": "2024-05-31", "rank": 3},
        {"id": "c", "text": NINE, "date": "2024-05-31T23:30:00-01:00", "rank": None},
        {"id": "d", "text": TEN, "date": "2024-06-01T00:29:59", "rank": 3},
    ]
    dedup([write_lines(tmp_path / "in.jsonl", documents)], tmp_path / "out", keep=keep, **WORDS)
    assert read_ids(tmp_path / "out") == [stays]


@pytest.mark.parametrize("settings", [{}, {"threshold": 0.5}, {"level": "exact"}])
def test_the_order_of_the_files_changes_no_survivor(tmp_path, settings):
    """Each document has a rank of its own, so that nothing is left to the order."""
    draw = random.Random(5)
    ranks = draw.sample(range(1000), 240)
    documents = []
    for n, rank in enumerate(ranks):
        words = [f"w{n % 24}x{k}" for k in range(120)]
        for place in draw.sample(range(120), draw.choice([0, 0, 1, 2, 5, 10])):
            words[place] = f"y{draw.randrange(10**6)}"
        documents.append({"id": n, "text": " ".join(words), "rank": rank})
    files = [write_lines(tmp_path / f"{n}.jsonl", documents[n::4]) for n in range(4)]
    survivors = []
    for number, order in enumerate([(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)]):
        out = tmp_path / f"out{number}"
        dedup([files[place] for place in order], out, keep="rank", **settings)
        survivors.append(sorted(read_ids(out)))
    assert 24 <= len(survivors[0]) < 200
    assert survivors[1] == survivors[0]
    assert survivors[2] == survivors[0]


def test_a_value_that_has_no_order_stops_or_is_set_aside(tmp_path):
    documents = [{"id": "a", "text": "a", "date": "2024-05-31"}, {"id": "b", "text": "b", "date": "May"}]
    source = write_lines(tmp_path / "in.jsonl", documents)
    with pytest.raises(
        DocumentError, match=r"in\.jsonl, line 2: 'date' is \"May\", which is neither"
    ) as caught:
        dedup([source], tmp_path / "out", keep="date:least")
    assert "--keep" in caught.value.hint
    counts = dedup([source], tmp_path / "other", keep="date", on_error="skip")
    assert read_ids(tmp_path / "other") == ["a"]
    assert counts["n_skipped"] == 1


@pytest.mark.parametrize("value", [True, [1], {"a": 1}, ""])
def test_only_numbers_and_dates_have_an_order(tmp_path, value):
    source = write_lines(tmp_path / "in.jsonl", [{"text": "a", "rank": value}])
    with pytest.raises(DocumentError, match="line 1: 'rank' is"):
        dedup([source], tmp_path / "out", keep="rank")


@pytest.mark.parametrize("settings", [{"keep": "longst"}, {"by": "dmup"}], ids=str)
def test_a_field_that_no_document_has_is_an_error(tmp_path, settings):
    source = write_lines(tmp_path / "in.jsonl", [{"text": "a", "dump": "1"}])
    with pytest.raises(InputError, match="no document has a field"):
        dedup([source], tmp_path / "out", **settings)


def test_pairs_name_who_goes_for_whom_in_order(tmp_path, monkeypatch, capfdbinary):
    """Of a-0 the words 0 to 9, of a-1 the same, of b-0 the first nine: 9/10."""
    monkeypatch.chdir(tmp_path)
    write_lines(Path("a.jsonl"), [{"id": "a-0", "text": TEN}, {"id": "a-1", "text": TEN.upper()}])
    write_lines(Path("b.jsonl"), [{"id": "b-0", "text": "other"}, {"text": NINE}])
    place = {"id": "a-0", "source": "a.jsonl", "line": 1}
    expected = [
        {
            "removed": {"id": "a-1", "source": "a.jsonl", "line": 2},
            "kept": place,
            "similarity": 1.0,
            "level": "exact",
        },
        {
            "removed": {"id": None, "source": "b.jsonl", "line": 2},
            "kept": place,
            "similarity": 0.9,
            "level": "near",
        },
    ]
    monkeypatch.setattr("dsllm.stages.dedup.corpus.CHUNK_DOCUMENTS", 1)
    dedup(["a.jsonl", "b.jsonl"], "-", pairs="piped.jsonl", **WORDS)
    assert len(capfdbinary.readouterr().out.splitlines()) == 2
    dedup(["a.jsonl", "b.jsonl"], "out", pairs=str(tmp_path / "pairs.jsonl"), **WORDS)
    for name in ("piped.jsonl", "pairs.jsonl"):
        assert [orjson.loads(line) for line in Path(name).read_bytes().splitlines()] == expected
    manifest = Path("out/manifest.json").read_text()
    assert json.loads(manifest)["config"]["pairs"] == "pairs.jsonl"
    assert str(tmp_path) not in manifest


def test_a_file_of_pairs_needs_a_folder(tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [{"text": "a"}])
    with pytest.raises(OutputError, match="no folder for it"):
        dedup([source], tmp_path / "out", pairs=str(tmp_path / "absent" / "pairs.jsonl"))
    assert not (tmp_path / "out").exists()


def test_a_source_that_loses_too_much_stops_the_run(tmp_path):
    """b: 100 documents, of which 60 are copies of a-0, 30 of b's own first, 9 near (9/10) a-0: 99 go."""
    a = write_lines(tmp_path / "a.jsonl", [{"id": "a-0", "text": TEN}] * 2)
    texts = ["one two three"] * 31 + [TEN] * 60 + [NINE] * 9
    b = write_lines(tmp_path / "b.jsonl", [{"id": f"b-{i}", "text": text} for i, text in enumerate(texts)])
    settings = {"pairs": str(tmp_path / "pairs"), "removed": str(tmp_path / "gone"), **WORDS}
    with pytest.raises(InputError) as caught:
        dedup([a, b], tmp_path / "out", max_removed=0.98, **settings)
    assert caught.value.message == (
        f"{b}: 99 of 100 documents would go (99.00%), more than max_removed, 98.00%; "
        f"69 of them for the one with id 'a-0' ({a}, line 1)"
    )
    assert "--removed" in caught.value.hint
    assert not list((tmp_path / "out").glob("shard*")) + list((tmp_path / "gone").glob("shard*"))
    assert not (tmp_path / "pairs").exists()
    counts = dedup([a, b], tmp_path / "out", max_removed=0.99, overwrite=True, **settings)
    assert counts["n_kept"] == 2


def test_a_small_source_may_lose_any_share(tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [{"text": "a"}] * 99)
    assert dedup([source], tmp_path / "out", max_removed=0.0)["n_kept"] == 1


def test_rates_by_dump_by_hand(tmp_path):
    """Dumps 1, 2, (none); X near x (9/10), o and p on their own.

    1: x x o -> alone 1 of 3 goes. 2: X X x p -> alone a copy of X, and x for X: 2 of 4. (none): X o -> none.
    Together: 1; then all of 2 but p: 1 + 3 of 7; then both: 6 of 9.
    """
    documents = [("1", TEN), ("1", TEN), ("1", "o"), ("2", NINE), ("2", NINE), ("2", TEN), ("2", "p")]
    lines = [{"dump": dump, "text": text} for dump, text in documents] + [{"text": NINE}, {"text": "o"}]
    source = write_lines(tmp_path / "in.jsonl", lines)
    summary = dedup([source], tmp_path / "out", by="dump", **WORDS)
    rows = [
        (
            row["name"],
            row["n_documents"],
            row["n_removed_alone"],
            row["n_removed_together"],
            row["n_removed_apart"],
        )
        for row in summary["by"]["dumps"]
    ]
    assert rows == [("1", 3, 1, 1, 1), ("2", 4, 2, 4, 3), ("(none)", 2, 0, 6, 3)]
    assert summary["by"]["dumps"][1]["removed_together_frac"] == round(4 / 7, 6)
    assert json.loads((tmp_path / "out/manifest.json").read_bytes())["content"]["by"] == summary["by"]


@pytest.mark.parametrize("keep", ["first", "longest", "rank"])
@pytest.mark.parametrize("level", ["near", "exact"])
@pytest.mark.parametrize("in_order", [True, False])
def test_rates_by_dump_are_those_of_runs_over_the_dumps(tmp_path, monkeypatch, keep, level, in_order):
    """Dumps 1 and 10 come before 2: names are words."""
    monkeypatch.setattr("dsllm.stages.dedup.corpus.CHUNK_DOCUMENTS", 37)
    draw = random.Random(11)
    bases = [[f"w{draw.randrange(900)}" for _ in range(30)] for _ in range(6)]
    documents = []
    for _ in range(240):
        words = list(draw.choice(bases))
        for _ in range(draw.choice([0, 0, 1, 2, 3, 5])):
            words[draw.randrange(30)] = f"x{draw.randrange(12)}"
        text = " ".join(words) + "!" * draw.randrange(3)
        documents.append({"text": text, "dump": draw.choice([1, "2", "10", "3"]), "rank": draw.randrange(9)})
    if in_order:
        documents.sort(key=lambda document: str(document["dump"]))
    near = {"shingle_words": 2, "threshold": 0.7, "n_bands": 30, "n_rows": 3}
    settings = {"keep": keep, "level": level, **(near if level == "near" else {})}

    def n_removed(dumps):
        chosen = [document for document in documents if str(document["dump"]) in dumps]
        source = write_lines(tmp_path / "part.jsonl", chosen)
        counts = dedup([source], tmp_path / "part", overwrite=True, **settings)
        return counts["n_documents"] - counts["n_kept"]

    source = write_lines(tmp_path / "in.jsonl", documents)
    rows = dedup([source], tmp_path / "out", by="dump", **settings)["by"]["dumps"]
    names = ["1", "10", "2", "3"]
    assert [row["name"] for row in rows] == names
    assert [row["n_removed_alone"] for row in rows] == [n_removed([name]) for name in names]
    assert [row["n_removed_together"] for row in rows] == [n_removed(names[:n]) for n in (1, 2, 3, 4)]


def test_plan_says_what_it_is_made_of(tmp_path):
    """60,000 bytes plain and 10,000 packed, taken for 40,000: 100,000 bytes, 25 documents of 4,000."""
    (tmp_path / "a.jsonl").write_bytes(b"x" * 60_000)
    (tmp_path / "b.jsonl.zst").write_bytes(b"x" * 10_000)
    inputs = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl.zst")]
    answer = run_module.plan(
        DedupConfig(threshold=0.75), inputs, "out", options=RunOptions(n_workers=2), reporter=QUIET
    )
    assert (answer["n_bytes_to_read"], answer["n_unpacked_bytes"], answer["n_documents"]) == (
        70_000,
        100_000,
        25,
    )
    assert list(answer["expected_recall"]) == ["0.7", "0.75", "0.8", "0.9"]
    bands, rows = answer["n_bands"], answer["n_rows"]
    assert answer["expected_recall"]["0.75"] == round(1 - (1 - 0.75**rows) ** bands, 5)
    assert answer["assumed"]["unpacked bytes per compressed byte"] == 4
    assert answer["time_s"] == 0.5  # the start; 100 kB at 60 MB/s by two workers add 1 ms


def test_rates_by_dump_do_not_depend_on_memory_or_workers(tmp_path, monkeypatch):
    """A run of many partitions and two workers: the manifest's rates are the same."""
    draw = random.Random(5)
    lines = [
        {"text": numbers(*range(10 * family, 10 * family + 9 + draw.randrange(2))), "dump": draw.randrange(4)}
        for family in (draw.randrange(40) for _ in range(300))
    ]
    source = write_lines(tmp_path / "in.jsonl", lines)
    settings = {"by": "dump", "keep": "longest", **WORDS}
    expected = dedup([source], tmp_path / "much", **settings)["by"]
    monkeypatch.setattr("dsllm.stages.dedup.config.MIN_MEMORY_BYTES", 1)
    monkeypatch.setattr("dsllm.stages.dedup.corpus.CHUNK_DOCUMENTS", 37)
    config = DedupConfig(memory="50kB", **settings)
    found = run_module.run(
        config, [str(source)], str(tmp_path / "little"), options=RunOptions(n_workers=2), reporter=QUIET
    )
    assert found["by"] == expected
    assert expected["dumps"][-1]["n_removed_together"] > 200
