"""`dsllm dedup --bloom`: the filter's error as stated, the answer of exact sets, streams, resume."""

import io
import json
import math
import random
from pathlib import Path

import numpy as np
import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, DocumentError, InputError
from dsllm.progress import Reporter
from dsllm.stages.dedup import bloom, bloom_compiled
from dsllm.stages.dedup import run as run_module
from dsllm.stages.dedup.bands import balance_bands, find_probability
from dsllm.stages.dedup.bloom_filter import BloomFilter, size_filter
from dsllm.stages.dedup.config import DedupConfig
from dsllm.text.shingles import digest, hash_words, make_permutations, minhash, shingle_set

QUIET = Reporter(is_quiet=True)
NO_CHANCE = {"bloom_error": 1e-12}


def dedup(inputs, output, *, n_workers=1, overwrite=False, skipped=None, reporter=QUIET, **given):
    options = RunOptions(n_workers=n_workers, overwrite=overwrite, skipped=skipped)
    config = DedupConfig(bloom=True, **given)
    return run_module.run(
        config, [str(path) for path in inputs], str(output), options=options, reporter=reporter
    )


def write_lines(path, documents):
    path.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in documents))
    return path


def write_texts(path, texts):
    return write_lines(path, [{"id": f"{path.stem}-{i}", "text": text} for i, text in enumerate(texts)])


def read_lines(folder):
    data = b""
    for path in sorted(Path(folder).glob("shard-*")):
        with path.open("rb") as file:
            data += zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).readall()
    return data.splitlines(keepends=True)


def read_texts(folder):
    return [orjson.loads(line)["text"] for line in read_lines(folder)]


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


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


def sift_with_sets(texts, n_bands, n_rows, *, shingle_words=5, seed=1):
    """Sets of whole bands and digests in place of the filter: what hit each text, None where it stays."""
    permutations, seen = make_permutations(128, seed), set()
    hits = []
    for text in texts:
        words = text.lower().split()
        signature = minhash(shingle_set(words, shingle_words), permutations).tolist()
        keys = {"digest": digest(hash_words(words)) if words else text}
        for band in range(n_bands if words else 0):
            keys[f"band {band + 1}"] = band, *signature[band * n_rows : (band + 1) * n_rows]
        hits.append(next((name for name, key in keys.items() if key in seen), None))
        if hits[-1] is None:
            seen.update(keys.values())
    return hits


@pytest.mark.parametrize(("n_keys", "error"), [(1, 0.05), (10, 0.02)])
def test_the_filter_errs_as_often_as_stated(n_keys, error):
    """Bounds: four standard errors of a binomial share, over 20,000 documents that are not in the filter."""
    size = size_filter(2000, n_keys, error)
    draw = np.random.default_rng(5)
    bloom_filter = BloomFilter(size)
    for _ in range(10):  # so that all 2,000 are in, whatever hits by chance
        room = 2000 - bloom_filter.n_inserted
        keys = draw.integers(0, 2**64, (room, n_keys), dtype=np.uint64)
        bloom_filter.sift(keys, np.full(room, n_keys))
    assert bloom_filter.n_inserted == 2000
    n_set = int(np.unpackbits(bloom_filter._bits.view(np.uint8)).sum())
    assert bloom_filter.bits_set_frac == n_set / size.n_bits
    n_hits, hits = 0, np.empty(1, np.int64)
    fresh = draw.integers(0, 2**64, (20_000, 1, n_keys), dtype=np.uint64)
    for keys in fresh:
        bits = bloom_filter._bits.copy()
        bloom_compiled.sift(bits, size.n_probes, keys, np.full(1, n_keys), hits)
        n_hits += hits[0] >= 0
    for stated in (error, bloom_filter.error):
        tolerance = 4 * math.sqrt(stated * (1 - stated) / len(fresh))
        # The share of bits set differs from its expectation by a part in a hundred; its k-th power by more.
        assert n_hits / len(fresh) == pytest.approx(stated, abs=tolerance + 0.05 * stated)


def test_the_size_by_hand():
    """2**-10 a key: 10 bits each, half of all set, 1,000 * 10 / ln 2 = 14,426.95 bits, 226 words of 64."""
    size = size_filter(1000, 1, 2.0**-10)
    assert (size.n_probes, size.n_bits, size.n_bytes) == (10, 226 * 64, 226 * 8)
    # 1 - (1 - q)**10 = 1e-5 for q = 1e-6: 1.44 * 19.93 = 28.76 bits for each of ten keys.
    assert size_filter(10**6, 10, 1e-5).n_bits / 10**6 == pytest.approx(287.6, abs=0.1)


@pytest.mark.parametrize("n_hashes", [16, 64, 128])
def test_bands_balance_as_those_of_datasketch(n_hashes):
    from datasketch.lsh import _optimal_param

    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 1.0):
        assert balance_bands(threshold, n_hashes) == _optimal_param(threshold, n_hashes, 0.5, 0.5)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_same_documents_stay_as_with_exact_sets(tmp_path, threshold):
    texts = [*vary(seed=3, n_documents=300), "", "...", "", "..."]
    source = write_texts(tmp_path / "in.jsonl", texts)
    expected = sift_with_sets(texts, *balance_bands(threshold, 128))
    given = {"threshold": threshold, "removed": str(tmp_path / "removed"), **NO_CHANCE}
    counts = dedup([source], tmp_path / "out", **given)
    assert read_texts(tmp_path / "out") == [t for t, hit in zip(texts, expected, strict=True) if hit is None]
    assert [orjson.loads(line)["dsllm_dedup"] for line in read_lines(tmp_path / "removed")] == [
        {"level": "bloom", "hit": hit, "similarity": None, "kept": None} for hit in expected if hit
    ]
    assert counts["n_removed_exact"] == expected.count("digest") > 2
    assert counts["n_removed_near"] == len(texts) - expected.count(None) - expected.count("digest") > 20


@given(st.lists(st.text("ab ", max_size=12), min_size=1, max_size=30), st.integers(1, 6), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_texts_stay_as_with_exact_sets_and_stay_again(tmp_path, texts, n_rows, is_exact):
    n_bands = 0 if is_exact else 3
    near = {"shingle_words": 2, "n_bands": 3, "n_rows": n_rows}
    given = {**({"level": "exact"} if is_exact else near), "overwrite": True, **NO_CHANCE}
    dedup([write_texts(tmp_path / "in.jsonl", texts)], tmp_path / "out", **given)
    hits = sift_with_sets(texts, n_bands, n_rows, shingle_words=2)
    stay = [text for text, hit in zip(texts, hits, strict=True) if hit is None]
    assert read_texts(tmp_path / "out") == stay
    dedup([write_texts(tmp_path / "out.jsonl", stay)], tmp_path / "again", **given)
    assert read_texts(tmp_path / "again") == stay


def test_only_documents_that_stay_are_known(tmp_path):
    """Bands of one hash: B shares some with A and goes; C shares some with B alone, and stays."""
    a, b, c = (" ".join(f"w{value}" for value in range(at, at + 40)) for at in (0, 30, 60))
    hits = sift_with_sets([a, b, c], 128, 1, shingle_words=1)
    assert [hit is None for hit in hits] == [True, False, True]
    assert sift_with_sets([b, c], 128, 1, shingle_words=1)[1] is not None
    source = write_texts(tmp_path / "in.jsonl", [a, b, c])
    dedup([source], tmp_path / "out", n_bands=128, n_rows=1, shingle_words=1, **NO_CHANCE)
    assert read_texts(tmp_path / "out") == [a, c]


@pytest.mark.usefixtures("small_batches")
def test_the_number_of_workers_changes_no_byte(tmp_path):
    sources = make_sources(tmp_path)
    folders = []
    for n_workers in (1, 2):
        given = {"n_workers": n_workers, "overwrite": True, "removed": str(tmp_path / "removed")}
        dedup(sources, tmp_path / "out", **given)
        folders.append((folder_bytes(tmp_path / "out"), folder_bytes(tmp_path / "removed")))
    assert folders[0] == folders[1]
    assert len([name for name in folders[0][0] if name.startswith("shard-")]) == 4


class PowerCut(BaseException):
    pass


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("place", [bloom.SignKeys, bloom.Pack], ids=lambda place: place.__name__)
@pytest.mark.parametrize("at", [0, 1, 3])
def test_an_interrupted_run_carries_on_to_equal_bytes(tmp_path, monkeypatch, place, at):
    """Documents of shards that are finished go through the filter once, not twice."""
    monkeypatch.setattr("dsllm.io.folder.PARTIAL_EVERY_S", 0.0)
    sources, removed = make_sources(tmp_path), str(tmp_path / "removed")
    dedup(sources, tmp_path / "out", removed=removed)
    expected = folder_bytes(tmp_path / "out"), folder_bytes(tmp_path / "removed")
    for name in ("out", "removed"):
        (tmp_path / name).rename(tmp_path / f"{name}-whole")
    original = place.__call__

    def cut(task, item):
        if item.source_index == at and item.first_line > 20:  # not its first batch
            raise PowerCut
        return original(task, item)

    with monkeypatch.context() as patch:
        patch.setattr(place, "__call__", cut)
        with pytest.raises(PowerCut):
            dedup(sources, tmp_path / "out", removed=removed)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert len(list((tmp_path / "out").glob("shard-*"))) == at
    dedup(sources, tmp_path / "out", removed=removed)
    assert (folder_bytes(tmp_path / "out"), folder_bytes(tmp_path / "removed")) == expected


class FakeStandardStream:
    def __init__(self, data=b""):
        self.buffer = io.BytesIO(data)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_pipe_gives_the_same_lines_as_files(tmp_path, monkeypatch, n_workers):
    source = write_texts(tmp_path / "in.jsonl", vary(seed=9, n_documents=120))
    dedup([source], tmp_path / "out")
    monkeypatch.setattr("sys.stdin", FakeStandardStream(zstandard.compress(source.read_bytes())))
    stdout = FakeStandardStream()
    monkeypatch.setattr("sys.stdout", stdout)
    dedup(["-"], "-", n_workers=n_workers, bloom_documents=1000)
    assert stdout.buffer.getvalue() == b"".join(read_lines(tmp_path / "out"))


@pytest.mark.usefixtures("small_batches")
def test_lines_go_out_before_the_input_ends_and_none_to_disk(tmp_path, monkeypatch):
    written = []
    stdout = FakeStandardStream()

    class Watched(io.BytesIO):
        def read(self, n_bytes=-1):
            written.append(len(stdout.buffer.getvalue()))
            return super().read(min(n_bytes, 4000))

    stdin = FakeStandardStream()
    stdin.buffer = Watched(write_texts(tmp_path / "in.jsonl", vary(1, 200, n_families=150)).read_bytes())
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.setattr("sys.stdout", stdout)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    dedup(["-"], "-", bloom_documents=1000)
    assert written[len(written) // 2] > 10_000
    assert written == sorted(written)
    assert not list((tmp_path / "temporary").iterdir())


def test_standard_input_needs_a_number_of_documents():
    with pytest.raises(ConfigError, match="standard input does not tell") as caught:
        dedup(["-"], "-")
    assert "--bloom-documents" in caught.value.hint
    with pytest.raises(ConfigError, match="standard input"):
        run_module.plan(DedupConfig(bloom=True), ["-"], "-", options=RunOptions(), reporter=QUIET)


@pytest.mark.parametrize(
    "given",
    [
        {"keep": "longest"},
        {"keep": "date"},
        {"by": "dump"},
        {"pairs": "pairs.jsonl"},
        {"against": ("index",)},
        {"write_index": "index"},
        {"cut_spans": 50},
        {"cut_lines": True},
        {"cut_paragraphs": True},
        {"max_removed": 0.0},
        {"recall": 0.9},
    ],
    ids=str,
)
def test_settings_that_one_pass_cannot_heed_are_refused(given):
    (name,) = given
    with pytest.raises(ConfigError, match=f"^{name} is .* cannot heed") as caught:
        DedupConfig(bloom=True, **given)
    assert f"leave out --{name.replace('_', '-')}" in caught.value.hint
    DedupConfig(bloom=False, **given)


@pytest.mark.parametrize("given", [{"bloom_documents": 5}, {"bloom_error": 0.5}], ids=str)
def test_settings_of_filters_need_them(given):
    with pytest.raises(ConfigError, match="bloom is false"):
        DedupConfig(**given)


def test_filters_that_do_not_fit_the_memory_are_refused(tmp_path):
    """10**8 documents of 287.6 bits are 3.6 GB, and 27.8 million 1 GB."""
    source = write_texts(tmp_path / "in.jsonl", ["a"])
    with pytest.raises(ConfigError, match="100,000,000 documents .* but memory is 1GB") as caught:
        dedup([source], tmp_path / "out", bloom_documents=10**8, memory="1GB")
    assert "--memory 4GB" in caught.value.hint
    assert "--bloom-documents 278" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_machine_without_the_memory_says_so(tmp_path):
    source = write_texts(tmp_path / "in.jsonl", ["a"])
    with pytest.raises(ConfigError, match="which this machine does not give"):
        dedup([source], tmp_path / "out", bloom_documents=10**15, memory="100000TB")


class Listener(Reporter):
    def __init__(self):
        super().__init__(is_quiet=True)
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.mark.usefixtures("small_batches")
def test_a_filter_with_more_than_it_was_made_for_warns_then_stops(tmp_path):
    """Made for 100 unlike documents; 110 are a warning, 250 would go by chance too often."""
    texts = [" ".join(f"w{n}-{i}" for i in range(30)) for n in range(250)]
    listener = Listener()
    few = write_texts(tmp_path / "few.jsonl", texts[:110])
    summary = dedup([few], tmp_path / "few", bloom_documents=100, reporter=listener)["bloom"]
    assert summary["n_documents_made_for"] == 100
    assert summary["n_documents_inserted"] == 110
    assert 1e-5 < summary["false_positive_probability"] < 1e-3
    assert 0 < summary["expected_removed_by_chance"] < 110 * summary["false_positive_probability"]
    assert sum("more documents stay than the 100" in said for said in listener.said) == 1
    assert json.loads((tmp_path / "few/manifest.json").read_bytes())["content"]["bloom"] == summary
    many = write_texts(tmp_path / "many.jsonl", texts)
    with pytest.raises(InputError, match="made for 100: one in .* would go by chance") as caught:
        dedup([many], tmp_path / "many", bloom_documents=100)
    assert "--bloom-documents 1000" in caught.value.hint


def test_a_line_that_is_no_document_stops_or_is_set_aside(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"text":"a b"}\nnot json\n{"text":"a b"}\n')
    with pytest.raises(DocumentError, match=r"in\.jsonl, line 2"):
        dedup([tmp_path / "in.jsonl"], tmp_path / "out")
    counts = dedup([tmp_path / "in.jsonl"], tmp_path / "out", overwrite=True, on_error="skip")
    assert read_lines(tmp_path / "out") == [b'{"text":"a b"}\n']
    assert counts["n_skipped"] == 1
    with pytest.raises(ConfigError, match="no place"):
        dedup([tmp_path / "in.jsonl"], "-", on_error="skip")


def test_plan_says_what_filters_take_and_bands_find(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b"not json\n")
    config = DedupConfig(bloom=True, bloom_documents=10**6)
    inputs = [str(tmp_path / "in.jsonl")]
    answer = run_module.plan(config, inputs, "out", options=RunOptions(), reporter=QUIET)
    bands, rows = answer["n_bands"], answer["n_rows"]
    assert (bands, rows) == (9, 13)
    curve = {str(one): round(find_probability(one, bands, rows), 5) for one in (0.5, 0.6, 0.7, 0.8, 0.9)}
    assert answer["share_of_pairs_that_share_a_band"] == curve
    assert answer["filter_bits_per_document"] == 287.6
    assert answer["filter_bytes"] == size_filter(10**6, 10, 1e-5).n_bytes
    assert answer["scratch_bytes_at_most"] == 0
