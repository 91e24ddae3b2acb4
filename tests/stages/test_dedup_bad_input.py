"""`dsllm dedup` on bad and extreme input: empty, huge, all alike, chained, broken; small sizes of each."""

import gzip
import random
import tracemalloc
from pathlib import Path

import numpy as np
import orjson
import pytest
import zstandard

from dsllm.config import RunOptions
from dsllm.errors import DocumentError, InputError, ShardError
from dsllm.io.compression import decompress
from dsllm.io.sources import find_sources, read_batches
from dsllm.progress import Reporter
from dsllm.stages.dedup import copies, error
from dsllm.stages.dedup import decide as decide_module
from dsllm.stages.dedup import run as run_module
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.shuffle import Shuffle

WORDS = {"shingle_words": 1, "n_bands": 128, "n_rows": 1}  # bands of one row: all pairs are met, or nearly


def dedup(inputs, output, *, n_workers=1, overwrite=False, **settings):
    options = RunOptions(n_workers=n_workers, overwrite=overwrite)
    paths = [str(path) for path in inputs]
    reporter = Reporter(is_quiet=True)
    return run_module.run(DedupConfig(**settings), paths, str(output), options=options, reporter=reporter)


def write_lines(path, documents):
    path.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in documents))
    return path


def write_texts(path, texts):
    return write_lines(path, [{"text": text} for text in texts])


def read_folder(folder):
    data = b""
    for path in sorted(Path(folder).glob("shard-*")):
        with path.open("rb") as file:
            data += zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).readall()
    return data.splitlines(keepends=True)


def read_texts(folder):
    return [orjson.loads(line)["text"] for line in read_folder(folder)]


@pytest.fixture
def tiny_memory(monkeypatch):
    """Many chunks, partitions and stretches."""
    monkeypatch.setattr("dsllm.stages.dedup.config.MIN_MEMORY_BYTES", 1)
    monkeypatch.setattr("dsllm.stages.dedup.corpus.CHUNK_DOCUMENTS", 37)
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 5000)


@pytest.mark.usefixtures("tiny_memory")
def test_of_many_empty_texts_one_stays(tmp_path):
    source = write_texts(tmp_path / "in.jsonl", [""] * 1000)
    counts = dedup([source], tmp_path / "out", cut_spans=5, cut_lines=True, removed=str(tmp_path / "removed"))
    assert (counts["n_kept"], counts["n_removed_exact"]) == (1, 999)
    assert orjson.loads(read_folder(tmp_path / "removed")[-1])["dsllm_dedup"]["kept"]["line"] == 1


@pytest.mark.parametrize("content", [b"", b"\n\n\n", b" \t\r\n \n"], ids=repr)
def test_files_without_a_document(tmp_path, content):
    """Alone they are an error; beside others they have an empty shard."""
    (tmp_path / "none.jsonl").write_bytes(content)
    one = write_texts(tmp_path / "one.jsonl", ["a b c"])
    with pytest.raises(InputError, match=r"none\.jsonl: no document"):
        dedup([tmp_path / "none.jsonl"], tmp_path / "out")
    counts = dedup([tmp_path / "none.jsonl", one], tmp_path / "out", overwrite=True)
    assert counts["n_documents"] == counts["n_kept"] == 1
    assert len(list((tmp_path / "out").glob("shard-*"))) == 2


LONG = {
    "different words": " ".join(f"w{place}" for place in range(30_000)),
    "one character": "a" * 200_000,
    "one word": "again " * 30_000,
    "CJK": "".join(chr(0x4E00 + place * 7919 % 20_000) for place in range(60_000)),
    "escapes": '\\"\n\t\u0001🙂' * 20_000,
    "short lines": "x1\n" * 40_000,
}


@pytest.mark.usefixtures("tiny_memory")
@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_document_of_many_batches_beside_small_ones(tmp_path, text):
    """It is one line of its batch; another one that is as long, with one word more, is its near duplicate."""
    small = [f"a small document called {chr(0x61 + place)}" for place in range(26)]
    source = tmp_path / "in.jsonl"
    source.write_bytes(
        b"".join(b'{"text":%s}\n' % orjson.dumps(one) for one in [*small, text, *small, f"{text} more"])
    )
    counts = dedup([source], tmp_path / "out", n_workers=2, level="near", threshold=0.4)
    kept = read_texts(tmp_path / "out")
    assert kept[: len(small) + 1] == [*small, text]
    assert counts["n_removed_exact"] == len(small)
    has_near_twin = text not in (LONG["one character"], LONG["escapes"])  # of "again" alone: J = 1/2
    assert counts["n_removed_near"] == has_near_twin
    dedup([source], tmp_path / "cut", cut_spans=50, cut_lines=True, level="exact")
    assert read_texts(tmp_path / "cut")[: len(small)] == small


def test_a_long_line_is_held_once_while_it_is_worked_on(tmp_path):
    n_bytes = 20_000_000
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"text":"%s"}\n{"text":"b"}\n' % (b"a" * n_bytes))
    held = []
    tracemalloc.start()
    for batch in read_batches(find_sources([str(source)])[0]):
        held.append((len(batch.lines), tracemalloc.get_traced_memory()[0]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held[0][0] == n_bytes + 12
    assert held[0][1] < 1.1 * n_bytes
    assert peak < 3.1 * n_bytes


def test_a_small_file_that_unpacks_to_much_comes_in_pieces(tmp_path):
    """100 MB of zeros are 3 kB as zstd: they must not come at once, nor be taken for padding."""
    n_bytes = 100_000_000
    for name, pack in (("zst", zstandard.compress), ("gz", gzip.compress)):
        path = tmp_path / name
        path.write_bytes(pack(bytes(n_bytes)))
        with path.open("rb") as file:
            sizes = [(len(block), n_read) for block, n_read in decompress(file, name, name)]
        assert sum(size for size, _ in sizes) == n_bytes
        assert sum(n_read for _, n_read in sizes) <= path.stat().st_size
        assert max(size for size, _ in sizes) <= 2**26 + 2**17


def test_gzip_may_be_padded_with_zeros(tmp_path):
    path = tmp_path / "in.jsonl.gz"
    member = gzip.compress(b'{"text":"a"}\n')
    path.write_bytes(member + bytes(5000) + member + bytes(3000))
    with path.open("rb") as file:
        assert b"".join(block for block, _ in decompress(file, "gz", "in")) == b'{"text":"a"}\n' * 2


@pytest.mark.usefixtures("tiny_memory")
@pytest.mark.parametrize("is_least", [False, True])
def test_of_equal_documents_in_all_chunks_that_with_the_right_stays(tmp_path, is_least):
    """By brute force: of each text the greatest rank, of equal ranks the first."""
    draw = random.Random(4)
    documents = [
        {"id": place, "text": f"t{draw.choice([1] * 9 + [2, 3, place])}", "rank": draw.randrange(20)}
        for place in range(600)
    ]
    best: dict[str, dict] = {}
    for document in documents:
        known = best.setdefault(document["text"], document)
        if (document["rank"] < known["rank"]) if is_least else (document["rank"] > known["rank"]):
            best[document["text"]] = document
    source = write_lines(tmp_path / "in.jsonl", documents)
    keep = "rank:least" if is_least else "rank"
    dedup([source], tmp_path / "out", memory="20kB", keep=keep, removed=str(tmp_path / "removed"))
    kept = [orjson.loads(line)["id"] for line in read_folder(tmp_path / "out")]
    assert kept == sorted(document["id"] for document in best.values())
    for line in read_folder(tmp_path / "removed"):
        document = orjson.loads(line)
        assert document["dsllm_dedup"]["kept"]["id"] == best[document["text"]]["id"]


def test_digests_that_share_a_half_are_not_equal(tmp_path):
    records = np.zeros(6, copies.RECORD)
    records["digest"] = [(5, 2), (5, 1), (7, 1), (5, 2), (5, 3), (5, 1)]
    records["number"] = range(6)
    shuffle = Shuffle(tmp_path, "digests", copies.RECORD, 2, 1)
    for chunk, part in enumerate(np.split(records, [3])):
        shuffle.write(chunk, np.ascontiguousarray(part["digest"][:, 0]), part)
    (rows,) = (rows for rows in copies.read_copies(copies.FindCopies(shuffle, 6)(0)) if len(rows))
    assert rows.tolist() == [(3, 0), (5, 1)]


def families(seed, n_documents):
    """Texts of one component: each is a window of the same row of words, some words replaced."""
    draw = random.Random(seed)
    texts = []
    for _ in range(n_documents):
        first = draw.randrange(150)
        words = [f"w{place}" for place in range(first, first + 30)]
        for _ in range(draw.choice([0, 1, 2, 5])):
            words[draw.randrange(30)] = f"x{draw.randrange(10**6)}"
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("max_listed", [1000, 3])
def test_a_component_larger_than_the_memory_is_judged_as_if_at_once(tmp_path, monkeypatch, max_listed):
    """A document or two at a time: the same verdicts, twins and counts, with full buckets too."""
    monkeypatch.setattr("dsllm.stages.dedup.judge.MAX_LISTED", max_listed)
    monkeypatch.setattr("dsllm.stages.dedup.config.MIN_MEMORY_BYTES", 1)
    source = write_texts(tmp_path / "in.jsonl", families(seed=6, n_documents=250))
    judged = []
    original = decide_module.judge

    def judge(*given, **more):
        judged.append(original(*given, **more))
        return judged[-1]

    monkeypatch.setattr(decide_module, "judge", judge)
    found = []
    for memory in ("1GB", "20kB"):
        judged.clear()
        removed = tmp_path / f"removed-{memory}"
        settings = {"threshold": 0.4, "keep": "longest", **WORDS}
        dedup([source], tmp_path / memory, memory=memory, removed=str(removed), **settings)
        counts = [sum(getattr(one, name) for one in judged) for name in ("n_unlisted", "n_compared")]
        found.append((read_folder(tmp_path / memory), read_folder(removed), counts))
    assert len(judged) > 20  # in stretches
    assert found[0] == found[1]
    assert (found[0][2][0] > 0) == (max_listed == 3)


def test_a_chain_of_documents_keeps_every_other(tmp_path):
    """Each is like the next (J = 51 / 61 = 0.84), none like the one after (46 / 66 = 0.70)."""
    texts = [" ".join(f"w{5 * place + word}" for word in range(56)) for place in range(300)]
    source = write_texts(tmp_path / "in.jsonl", texts)
    dedup([source], tmp_path / "out", threshold=0.8, recall=0.999999, **{"shingle_words": 1})
    assert read_texts(tmp_path / "out") == texts[::2]


def test_a_pair_that_meets_many_times_is_compared_once(tmp_path, monkeypatch):
    """Two long documents share hundreds of sampled shingles; their sets are not read for each."""
    read = []
    original = error.gather_sets
    monkeypatch.setattr(
        error, "gather_sets", lambda corpus, numbers: read.append(numbers) or original(corpus, numbers)
    )
    text = LONG["different words"] * 4
    counts = dedup([write_texts(tmp_path / "in.jsonl", [text, text + " more"])], tmp_path / "out")
    assert counts["error"]["n_pairs_at_threshold"] > 50
    assert [len(numbers) for numbers in read] == [2, 2]  # for recall, for precision


def test_pairs_read_one_by_one_give_the_same_error(tmp_path, monkeypatch):
    source = write_texts(tmp_path / "in.jsonl", families(seed=8, n_documents=400))
    expected = dedup([source], tmp_path / "all", threshold=0.6)["error"]
    monkeypatch.setattr(error, "_SHINGLES_AT_ONCE", 1)
    assert dedup([source], tmp_path / "one", threshold=0.6)["error"] == expected
    assert expected["precision"]["value"] == 1.0


BAD_LINES = {
    "half a pair": (rb'{"text":"\ud800"}', "not JSON: no low surrogate in string, at character 10"),
    "swapped pair": (rb'{"text":"\udc00\ud800"}', "not JSON: invalid high surrogate"),
    "NUL byte": (b'{"text":"a\x00b"}', "not JSON: unexpected control character"),
    "not UTF-8": (b'{"text":"\xff"}', "not UTF-8 at byte 10"),
    "byte order mark": (b'\xef\xbb\xbf{"text":"a"}', "byte order mark"),
    "deep": (b'{"text":"a","x":' + b"[" * 5000 + b"]" * 5000 + b"}", "depth limit"),
    "number": (b'{"text":1}', "'text' is a int"),
    "null": (b'{"text":null}', "'text' is a NoneType"),
    "NaN": (b'{"text":"a","x":NaN}', "not JSON: unexpected character"),
    "infinite": (b'{"text":"a","x":1e999}', "not JSON: number is infinity"),
    "cut": (b'{"text":"a', "not JSON: unexpected end"),
    "two on a line": (b'{"text":"a"}{"text":"b"}', "not JSON: unexpected content"),
    "array": (b'["text"]', "a JSON list, not an object"),
    "no text": (b'{"id":1}', "no field 'text', only id"),
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_that_is_no_document_is_named(tmp_path, line, reason):
    good = b'{"text":"one"}\n', b'{"text":"two"}'
    (tmp_path / "in.jsonl").write_bytes(good[0] + b"\n" + line + b"\n" + good[1])
    with pytest.raises(DocumentError) as stopped:
        dedup([tmp_path / "in.jsonl"], tmp_path / "out")
    assert "in.jsonl, line 3: " in stopped.value.message
    assert reason in stopped.value.message
    counts = dedup([tmp_path / "in.jsonl"], tmp_path / "out", overwrite=True, on_error="skip")
    assert read_folder(tmp_path / "out") == [good[0], good[1] + b"\n"]
    assert (counts["n_documents"], counts["n_skipped"]) == (2, 1)
    aside = orjson.loads((tmp_path / "out/skipped/00000.jsonl").read_bytes())
    assert (aside["line"], reason in aside["reason"]) == (3, True)


def test_odd_lines_that_are_documents(tmp_path):
    """Carriage returns travel along, NUL may be escaped, of equal keys the last counts, 900 levels may be."""
    lines = [
        b'{"text":"one"}\r\n',
        b'{"text":"two\\u0000"}\n',
        b'{"text":"no","id":1,"text":"ONE","id":2}\n',
        b'{"text":"three","x":' + b"[" * 900 + b"]" * 900 + b"}\n",
    ]
    (tmp_path / "in.jsonl").write_bytes(b"".join(lines))
    dedup([tmp_path / "in.jsonl"], tmp_path / "out", pairs=str(tmp_path / "pairs"))
    assert read_folder(tmp_path / "out") == [lines[0], lines[1], lines[3]]
    assert orjson.loads((tmp_path / "pairs").read_bytes())["removed"]["id"] == 2


@pytest.mark.parametrize("codec", ["zst", "gz"])
def test_a_file_that_is_cut_is_an_error_whatever_is_skipped(tmp_path, codec):
    texts = [f"{place} {random.Random(place).random()}" for place in range(2000)]
    data = write_texts(tmp_path / "in.jsonl", texts).read_bytes()
    packed = zstandard.compress(data) if codec == "zst" else gzip.compress(data)
    path = tmp_path / f"cut.jsonl.{codec}"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ShardError, match=rf"cut\.jsonl\.{codec}: cut after [\d,]+ bytes"):
        dedup([path], tmp_path / "out", on_error="skip")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_of_texts_without_words_only_equal_ones_are_duplicates(tmp_path):
    """Emoji, punctuation, control and format characters, marks without a letter, private use, unassigned."""
    texts = [
        "🙂",
        "🙂 ",
        "👩‍👩‍👧",
        "...",
        "…",
        "\u0000",
        "\u0001",
        "\u200b",
        "\ufeff",
        "\u0301",
        "\u0301\u0301",
        "\ue000",
        "\ue001",
    ]
    texts += ["\U000f0000", "\u0378", "\n", "\r\n", " ", "\u00a0", ""]
    source = write_texts(tmp_path / "in.jsonl", texts * 2)
    counts = dedup([source], tmp_path / "out", cut_spans=2, cut_lines=True, cut_paragraphs=True)
    assert read_texts(tmp_path / "out") == texts
    assert (counts["n_removed_exact"], counts["n_removed_near"]) == (len(texts), 0)


def test_a_place_is_named_besides_any_id(tmp_path):
    """Equal ids, none, null, numbers and objects: source and line say which document is meant."""
    ids = ["x", "x", 7, 7.5, None, {"k": [1, 2]}, True]
    documents = [{"id": one, "text": "a b c"} for one in ids] + [{"text": "a b c"}]
    source = write_lines(tmp_path / "in.jsonl", documents)
    dedup([source], tmp_path / "out", removed=str(tmp_path / "removed"), pairs=str(tmp_path / "pairs"))
    pairs = [orjson.loads(line) for line in (tmp_path / "pairs").read_bytes().splitlines()]
    kept = {"id": "x", "source": str(source), "line": 1}
    assert [pair["kept"] for pair in pairs] == [kept] * 7
    assert [pair["removed"] for pair in pairs] == [
        {"id": one, "source": str(source), "line": place}
        for place, one in enumerate([*ids[1:], None], start=2)
    ]
    notes = [orjson.loads(line)["dsllm_dedup"]["kept"] for line in read_folder(tmp_path / "removed")]
    assert notes == [kept] * 7
