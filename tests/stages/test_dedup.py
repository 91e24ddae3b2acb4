"""`dsllm dedup`: small in, known out; brute force; any number of workers; interrupted and resumed."""

import io
import itertools
import json
import os
import random
from pathlib import Path

import numpy as np
import orjson
import pytest
import zstandard

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, DocumentError, InputError
from dsllm.progress import Reporter
from dsllm.stages.dedup import candidates, copies, divide, sets, sign
from dsllm.stages.dedup import config as config_module
from dsllm.stages.dedup import decide as decide_module
from dsllm.stages.dedup import run as run_module
from dsllm.stages.dedup.bands import choose_bands, find_probability
from dsllm.stages.dedup.config import DedupConfig

QUIET = Reporter(is_quiet=True)
WORDS = {"shingle_words": 1}  # shingles of one word: similarities can be counted on fingers


def dedup(inputs, output, *, n_workers=1, overwrite=False, skipped=None, **settings):
    options = RunOptions(n_workers=n_workers, overwrite=overwrite, skipped=skipped)
    config = DedupConfig(**settings)
    return run_module.run(
        config, [str(path) for path in inputs], str(output), options=options, reporter=QUIET
    )


def write_lines(path, documents):
    path.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in documents))
    return path


def write_texts(path, texts):
    return write_lines(path, [{"id": f"{path.stem}-{i}", "text": text} for i, text in enumerate(texts)])


def read_folder(folder):
    return read_zst(*sorted(Path(folder).glob("shard-*")))


def read_zst(*paths):
    data = b""
    for path in paths:
        with path.open("rb") as file:
            data += zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).readall()
    return data.splitlines(keepends=True)


def read_texts(folder):
    return [orjson.loads(line)["text"] for line in read_folder(folder)]


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def numbers(*values):
    return " ".join(f"w{value}" for value in values)


def vary(seed, n_documents, n_families=12):
    """Texts in families: copies of a base text with some words replaced, so that all similarities occur."""
    draw = random.Random(seed)
    bases = [[f"w{draw.randrange(3000)}" for _ in range(60)] for _ in range(n_families)]
    texts = []
    for _ in range(n_documents):
        words = list(draw.choice(bases))
        for _ in range(draw.choice([0, 0, 1, 2, 4, 8, 30])):
            words[draw.randrange(60)] = f"x{draw.randrange(10**6)}"
        texts.append(" ".join(words))
    return texts


def test_the_first_of_equal_documents_stays_byte_for_byte(tmp_path):
    lines = [
        b'{"text": "One, two; THREE",  "id":"a", "n": 1.50}\n',
        b'{"id":"b","text":"one two three"}\n',
        b'{"id":"c","text":"two one three"}\n',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"".join(lines))
    counts = dedup([tmp_path / "in.jsonl"], tmp_path / "out")
    assert read_folder(tmp_path / "out") == [lines[0], lines[2]]
    assert counts["n_documents"] == 3
    assert counts["n_removed_exact"] == 1


def test_likeness_is_not_passed_on_along_a_chain(tmp_path):
    """J(A, B) = J(B, C) = 9/11 = 0.82, J(A, C) = 8/12 = 0.67: B goes, so C has nothing to go for."""
    chain = [numbers(*range(10)), numbers(*range(1, 11)), numbers(*range(2, 12))]
    dedup(
        [write_texts(tmp_path / "in.jsonl", chain)], tmp_path / "out", threshold=0.8, recall=0.999999, **WORDS
    )
    assert read_texts(tmp_path / "out") == [chain[0], chain[2]]


@pytest.mark.parametrize(("threshold", "n_kept"), [(0.8, 1), (0.8001, 2)])
def test_a_similarity_equal_to_the_threshold_is_enough(tmp_path, threshold, n_kept):
    """8 words of 10 are shared: 0.8 exactly."""
    texts = [numbers(*range(9)), numbers(*range(1, 10))]
    source = write_texts(tmp_path / "in.jsonl", texts)
    dedup([source], tmp_path / "out", threshold=threshold, n_bands=128, n_rows=1, **WORDS)
    assert len(read_texts(tmp_path / "out")) == n_kept


def test_the_longest_stays_on_request(tmp_path):
    texts = [numbers(*range(9)), numbers(*range(10)), numbers(*range(10, 14))]
    sources = [write_texts(tmp_path / "a.jsonl", texts[:1]), write_texts(tmp_path / "b.jsonl", texts[1:])]
    dedup(sources, tmp_path / "first", threshold=0.9, n_bands=128, n_rows=1, **WORDS)
    dedup(sources, tmp_path / "longest", threshold=0.9, n_bands=128, n_rows=1, keep="longest", **WORDS)
    assert read_texts(tmp_path / "first") == [texts[0], texts[2]]
    assert read_texts(tmp_path / "longest") == [texts[1], texts[2]]


def test_removed_documents_name_what_stays_for_them(tmp_path):
    """The exact copy of a document that went as a near one is noted for the one that stays: 9/10 shared."""
    first = write_texts(tmp_path / "a.jsonl", [numbers(*range(10)), "something else"])
    second = write_lines(
        tmp_path / "b.jsonl",
        [
            {"text": numbers(*range(9)), "extra": {"k": [1]}},
            {"text": numbers(*range(9)).upper()},
            {"text": "Something, else!"},
        ],
    )
    settings = {"threshold": 0.85, "n_bands": 128, "n_rows": 1, **WORDS}
    dedup([first, second], tmp_path / "out", removed=str(tmp_path / "removed"), **settings)
    removed = [orjson.loads(line) for line in read_folder(tmp_path / "removed")]
    kept_near = {"id": "a-0", "source": str(first), "line": 1}
    assert [document["dsllm_dedup"] for document in removed] == [
        {"level": "near", "similarity": 0.9, "kept": kept_near},
        {"level": "near", "similarity": 0.9, "kept": kept_near},
        {"level": "exact", "similarity": 1.0, "kept": {"id": "a-1", "source": str(first), "line": 2}},
    ]
    assert removed[0]["extra"] == {"k": [1]}
    manifest = json.loads((tmp_path / "removed" / "manifest.json").read_bytes())
    assert manifest["content"]["stream"] == "removed"


def test_a_document_that_is_removed_again_has_one_note(tmp_path):
    rows = [{"text": "a b c"}, {"text": "a b c", "dsllm_dedup": "of an earlier run"}]
    source = write_lines(tmp_path / "in.jsonl", rows)
    dedup([source], tmp_path / "out", removed=str(tmp_path / "removed"))
    (line,) = read_folder(tmp_path / "removed")
    assert line.count(b'"dsllm_dedup"') == 1
    assert orjson.loads(line)["dsllm_dedup"]["level"] == "exact"


def test_documents_without_words_go_only_with_equal_ones(tmp_path):
    texts = ["", "...", "🙂", "", "🙂🙂", "...", " "]
    counts = dedup([write_texts(tmp_path / "in.jsonl", texts)], tmp_path / "out")
    assert read_texts(tmp_path / "out") == ["", "...", "🙂", "🙂🙂", " "]
    assert counts["n_removed_exact"] == 2


def test_case_and_punctuation_count_on_request(tmp_path):
    texts = ["a b c d e f", "A b c d e f", "a b, c d e f"]
    source = write_texts(tmp_path / "in.jsonl", texts)
    dedup([source], tmp_path / "words", level="exact")
    dedup([source], tmp_path / "case", level="exact", fold_case=False)
    dedup([source], tmp_path / "all", level="exact", fold_case=False, punctuation=True)
    assert read_texts(tmp_path / "words") == texts[:1]
    assert read_texts(tmp_path / "case") == texts[:2]
    assert read_texts(tmp_path / "all") == texts


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("keep", ["first", "longest"])
@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_same_survivors_as_comparing_all_with_all(tmp_path, keep, threshold):
    """With bands of one row every similar pair is found, so the survivors are those of brute force."""
    texts = vary(seed=3, n_documents=150)
    sets = [{tuple(text.split()[i : i + 3]) for i in range(58)} for text in texts]
    order = list(range(len(texts)))
    if keep == "longest":
        order.sort(key=lambda i: -len(texts[i]))
    kept: list[int] = []
    for i in order:
        if all(len(sets[i] & sets[j]) / len(sets[i] | sets[j]) < threshold for j in kept):
            kept.append(i)
    source = write_texts(tmp_path / "in.jsonl", texts)
    settings = {"threshold": threshold, "keep": keep, "n_bands": 128, "n_rows": 1, "shingle_words": 3}
    dedup([source], tmp_path / "out", **settings)
    assert read_texts(tmp_path / "out") == [texts[i] for i in sorted(kept)]


def test_what_goes_always_has_a_similar_document_that_stays(tmp_path):
    """Even with bands that miss much."""
    texts = vary(seed=5, n_documents=300)
    source = write_texts(tmp_path / "in.jsonl", texts)
    removed = str(tmp_path / "removed")
    dedup([source], tmp_path / "out", n_bands=2, n_rows=20, removed=removed, shingle_words=2, threshold=0.6)
    sets = {f"in-{i}": {tuple(text.split()[j : j + 2]) for j in range(59)} for i, text in enumerate(texts)}
    kept = {orjson.loads(line)["id"] for line in read_folder(tmp_path / "out")}
    notes = {d["id"]: d["dsllm_dedup"] for d in map(orjson.loads, read_folder(removed))}
    assert notes
    for identity, note in notes.items():
        a, b = sets[identity], sets[note["kept"]["id"]]
        assert note["kept"]["id"] in kept
        assert note["similarity"] == len(a & b) / len(a | b) >= 0.6


def make_sources(tmp_path):
    texts = [*vary(seed=7, n_documents=240), "", "...", "🙂"]
    plain = write_texts(tmp_path / "a.jsonl", texts[:100])
    packed = tmp_path / "b.jsonl.zst"
    packed.write_bytes(zstandard.compress(write_texts(tmp_path / "b.jsonl", texts[100:200]).read_bytes()))
    empty = write_texts(tmp_path / "c.jsonl", [])
    last = tmp_path / "d.jsonl"  # blank lines, and no line feed at the end
    last.write_bytes(b"\n\n" + b"\n".join(orjson.dumps({"text": text}) for text in texts[200:]))
    return [plain, packed, empty, last]


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 5000)


@pytest.mark.usefixtures("small_batches")
def test_the_number_of_workers_changes_no_byte(tmp_path):
    sources = make_sources(tmp_path)
    folders = []
    for n_workers in (1, 2):
        removed = tmp_path / f"removed-{n_workers}"
        dedup(
            sources, tmp_path / "out", n_workers=n_workers, overwrite=True, removed=str(tmp_path / "removed")
        )
        folders.append((folder_bytes(tmp_path / "out"), folder_bytes(tmp_path / "removed")))
        (tmp_path / "removed").rename(removed)
    assert folders[0] == folders[1]
    assert len([name for name in folders[0][0] if name.startswith("shard-")]) == 4


class PowerCut(BaseException):
    pass


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize(
    "place",
    [
        *(sign.Sign, copies.SendDigests, copies.FindCopies, candidates.SendBands, candidates.FindTies),
        *(sets.FindSets, decide_module.Judge, divide.Divide),
    ],
    ids=lambda place: place.__name__,
)
def test_an_interrupted_run_carries_on_to_equal_bytes(tmp_path, monkeypatch, place):
    """Each task fails on its last item: what was found before is used again."""
    sources = make_sources(tmp_path)
    settings = {"removed": str(tmp_path / "removed")}
    calls = []
    original = place.__call__
    with monkeypatch.context() as patch:
        patch.setattr(place, "__call__", lambda task, item: (calls.append(item), original(task, item))[1])
        dedup(sources, tmp_path / "out", **settings)
    expected = folder_bytes(tmp_path / "out"), folder_bytes(tmp_path / "removed")
    for name in ("out", "removed"):
        (tmp_path / name).rename(tmp_path / f"{name}-whole")

    remaining = itertools.count(len(calls) - 1, -1)

    def cut(task, item):
        if not next(remaining):
            raise PowerCut
        return original(task, item)

    with monkeypatch.context() as patch:
        patch.setattr(place, "__call__", cut)
        with pytest.raises(PowerCut):
            dedup(sources, tmp_path / "out", **settings)
    assert not (tmp_path / "out" / "manifest.json").exists()
    dedup(sources, tmp_path / "out", **settings)
    assert (folder_bytes(tmp_path / "out"), folder_bytes(tmp_path / "removed")) == expected


def test_memory_changes_no_line(tmp_path, monkeypatch):
    """A hundredth of the least memory: many partitions for each step."""
    monkeypatch.setattr(config_module, "MIN_MEMORY_BYTES", 1)
    monkeypatch.setattr("dsllm.stages.dedup.corpus.CHUNK_DOCUMENTS", 37)
    sources = make_sources(tmp_path)
    dedup(sources, tmp_path / "much")
    counts = dedup(sources, tmp_path / "little", memory="50kB")
    assert counts["n_removed_near"] > 0
    assert read_folder(tmp_path / "little") == read_folder(tmp_path / "much")


class FakeStandardStream:
    def __init__(self, data=b""):
        self.buffer = io.BytesIO(data)


@pytest.mark.usefixtures("small_batches")
def test_a_pipe_gives_the_same_lines_as_files(tmp_path, monkeypatch):
    source = write_texts(tmp_path / "in.jsonl", vary(seed=9, n_documents=120))
    dedup([source], tmp_path / "out")
    for packed in (False, True):
        data = source.read_bytes()
        monkeypatch.setattr("sys.stdin", FakeStandardStream(zstandard.compress(data) if packed else data))
        stdout = FakeStandardStream()
        monkeypatch.setattr("sys.stdout", stdout)
        dedup(["-"], "-")
        assert stdout.buffer.getvalue() == b"".join(read_folder(tmp_path / "out"))


def test_a_line_that_is_no_document_stops_or_is_set_aside(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"text":"a b"}\nnot json\n{"text":"a b"}\n')
    with pytest.raises(DocumentError, match=r"in\.jsonl, line 2"):
        dedup([tmp_path / "in.jsonl"], tmp_path / "out")
    counts = dedup([tmp_path / "in.jsonl"], tmp_path / "out", overwrite=True, on_error="skip")
    assert read_folder(tmp_path / "out") == [b'{"text":"a b"}\n']
    assert counts["n_skipped"] == 1
    (aside,) = (tmp_path / "out" / "skipped").iterdir()
    assert orjson.loads(aside.read_bytes())["line"] == 2


def test_skipped_lines_need_a_place_when_the_output_is_a_pipe(tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_bytes(b'{"text":"a b"}\nnot json\n')
    with pytest.raises(ConfigError, match="no place"):
        dedup([tmp_path / "in.jsonl"], "-", on_error="skip")
    monkeypatch.setattr("sys.stdout", FakeStandardStream())
    dedup([tmp_path / "in.jsonl"], "-", on_error="skip", skipped=str(tmp_path / "aside"))
    assert orjson.loads((tmp_path / "aside").read_bytes())["content"] == "not json"


def test_no_document_at_all_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no document"):
        dedup([write_texts(tmp_path / "in.jsonl", [])], tmp_path / "out")


@pytest.mark.parametrize(
    "settings",
    [
        {"n_bands": 4},
        {"n_bands": 40, "n_rows": 4},
        {"threshold": 0.0},
        {"threshold": 0.1, "n_hashes": 4, "recall": 0.99},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings):
    with pytest.raises(ConfigError):
        dedup([write_texts(tmp_path / "in.jsonl", ["a"])], tmp_path / "out", **settings)


def test_bands_are_the_most_selective_with_the_recall():
    """0.8**6 = 0.262144 and 1 - 0.737856**21 = 0.99831; seven rows in 18 bands reach 0.98554."""
    assert choose_bands(DedupConfig()) == (21, 6)
    assert find_probability(0.8, 21, 6) == pytest.approx(0.99831, abs=1e-5)
    assert find_probability(0.8, 18, 7) == pytest.approx(0.985542, abs=1e-5)
    assert choose_bands(DedupConfig(threshold=1.0)) == (1, 128)


def test_thousands_of_equal_documents_are_compared_once(tmp_path, monkeypatch):
    judged = []
    original = decide_module.judge
    monkeypatch.setattr(
        decide_module,
        "judge",
        lambda *given, **more: (judged.append(original(*given, **more)), judged[-1])[1],
    )
    texts = ["the same words again and again"] * 2000 + ["the same words again and again and again"] * 2000
    counts = dedup([write_texts(tmp_path / "in.jsonl", texts)], tmp_path / "out", threshold=0.3)
    assert counts["n_kept"] == 1
    assert sum(found.n_compared for found in judged) <= 1


def test_a_crowded_bucket_bounds_the_work_and_keeps_the_guarantee(tmp_path, monkeypatch):
    """Texts that share most words but are below the threshold share buckets, and all stay."""
    monkeypatch.setattr("dsllm.stages.dedup.judge.MAX_LISTED", 10)
    common = numbers(*range(40))
    texts = [f"{common} {numbers(*(1000 * i + j for j in range(1, 30)))}" for i in range(1, 120)]
    source = write_texts(tmp_path / "in.jsonl", texts)
    judged = []
    original = decide_module.judge
    monkeypatch.setattr(
        decide_module,
        "judge",
        lambda *given, **more: (judged.append(original(*given, **more)), judged[-1])[1],
    )
    counts = dedup([source], tmp_path / "out", threshold=0.6, n_bands=16, n_rows=1, **WORDS)
    assert counts["n_kept"] == len(texts)
    assert sum(found.n_unlisted for found in judged) > 0
    assert sum(found.n_compared for found in judged) <= 10 * 16 * len(texts)


def test_plan_reads_no_document(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b"not json\n")
    inputs = [str(tmp_path / "in.jsonl")]
    answer = run_module.plan(DedupConfig(), inputs, "out", options=RunOptions(), reporter=QUIET)
    assert answer["n_bytes_to_read"] == 9
    assert answer["expected_recall"]["0.8"] == pytest.approx(0.99831, abs=1e-5)
    assert not Path("out").exists()


@pytest.mark.data
def test_quality_on_real_dumps(tmp_path):
    """Against similarities of all pairs, computed elsewhere: pairs are broken, and a twin always stays."""
    folder = os.environ.get("DSLLM_TEST_DATA")
    if not folder:
        pytest.skip("DSLLM_TEST_DATA is not set")
    data = Path(folder) / "neardup"
    dumps = sorted(data.glob("dump-*.jsonl.zst"))[:2]
    dedup(dumps, tmp_path / "out", n_workers=2)
    kept = {orjson.loads(line)["id"] for line in read_folder(tmp_path / "out")}
    here = {orjson.loads(line)["id"] for line in read_zst(*dumps)}
    pairs = map(orjson.loads, read_zst(data / "pairs.jsonl.zst"))
    pairs = [(pair["a"], pair["b"]) for pair in pairs if pair["jaccard"] >= 0.8]
    pairs = [(a, b) for a, b in pairs if a in here and b in here]
    broken = np.mean([a not in kept or b not in kept for a, b in pairs])
    assert broken >= 0.995
    twins = {a for a, b in pairs if b in kept} | {b for a, b in pairs if a in kept}
    assert here - kept <= twins
