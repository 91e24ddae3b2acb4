"""The error that a run states of itself, against all pairs compared."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsllm.config import RunOptions
from dsllm.progress import Reporter
from dsllm.stages.dedup import error
from dsllm.stages.dedup import run as run_module
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import Corpus, Place
from dsllm.stages.dedup.judge_compiled import compare_pairs
from dsllm.text.shingles import n_shared


@given(st.lists(st.lists(st.integers(0, 30), unique=True), min_size=2, max_size=12))
def test_shared_shingles_are_those_of_the_definition(members):
    hashes = np.random.default_rng(0).integers(0, 2**64, 31, dtype=np.uint64)
    sets = [hashes[np.array(chosen, int)] for chosen in members[: len(members) // 2 * 2]]
    shared, is_indexed = np.zeros(len(sets) // 2, np.int64), np.zeros(len(sets), bool)
    compare_pairs(np.concatenate(sets), np.cumsum([len(one) for one in sets]), is_indexed, shared)
    expected = [n_shared(np.sort(a), np.sort(b)) for a, b in zip(sets[::2], sets[1::2], strict=True)]
    assert shared.tolist() == expected


def make_texts():
    """Families of 700 words with some replaced: all similarities from 0.3 to 1 occur."""
    draw = random.Random(3)
    texts = []
    for family in range(40):
        base = [f"w{family}x{n}" for n in range(700)]
        for _ in range(9):
            words = list(base)
            for place in draw.sample(range(700), draw.choice([0, 20, 40, 60, 70, 80, 100, 150, 200])):
                words[place] = f"y{draw.randrange(10**9)}"
            texts.append(" ".join(words))
    draw.shuffle(texts)
    return texts


def true_recall(texts, kept, threshold):
    """The share of pairs at the threshold, copies aside, of which one is gone."""
    sets = [set(text.split()) for text in texts]
    is_first = [texts.index(text) == place for place, text in enumerate(texts)]
    broken = n_pairs = 0
    for a, b in itertools.combinations(range(len(texts)), 2):
        if is_first[a] and is_first[b] and len(sets[a] & sets[b]) >= threshold * len(sets[a] | sets[b]):
            n_pairs += 1
            broken += not (texts[a] in kept and texts[b] in kept)
    return broken / n_pairs, n_pairs


@pytest.mark.parametrize(("n_bands", "n_rows"), [(21, 6), (3, 24), (2, 40)])
def test_the_interval_holds_the_true_recall(tmp_path, n_bands, n_rows):
    texts = make_texts()
    lines = [orjson.dumps({"id": n, "text": text}) + b"\n" for n, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_bytes(b"".join(lines))
    config = DedupConfig(n_bands=n_bands, n_rows=n_rows, shingle_words=1, threshold=0.8, format="jsonl")
    counts = run_module.run(
        config,
        [str(tmp_path / "in.jsonl")],
        str(tmp_path / "out"),
        options=RunOptions(),
        reporter=Reporter(is_quiet=True),
    )
    kept = {
        orjson.loads(line)["text"] for line in (tmp_path / "out/shard-00000.jsonl").read_bytes().splitlines()
    }
    recall, n_pairs = true_recall(texts, kept, 0.8)
    stated = counts["error"]
    assert n_pairs > 100
    assert stated["recall"]["low"] <= recall <= stated["recall"]["high"]
    assert stated["recall"]["high"] - stated["recall"]["low"] < 0.5
    assert stated["precision"]["value"] == 1.0
    manifest = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert manifest["content"]["error"] == stated


@pytest.mark.parametrize(("n_bands", "n_rows"), [(3, 24), (2, 40)])
@pytest.mark.parametrize("n_old", [60, 150])
def test_the_interval_holds_the_true_recall_against_an_index(tmp_path, n_bands, n_rows, n_old):
    """Of pairs of new documents, and of those of a new one and an indexed one."""
    texts = make_texts()
    for name, some in (("old", texts[:n_old]), ("new", texts[n_old:])):
        lines = [orjson.dumps({"text": text}) + b"\n" for text in some]
        (tmp_path / f"{name}.jsonl").write_bytes(b"".join(lines))
    settings = {"n_bands": n_bands, "n_rows": n_rows, "shingle_words": 1, "format": "jsonl"}
    given, kept = {"write_index": str(tmp_path / "index")}, []
    for name in ("old", "new"):
        counts = run_module.run(
            DedupConfig(**settings, **given),
            [str(tmp_path / f"{name}.jsonl")],
            str(tmp_path / f"out-{name}"),
            options=RunOptions(),
            reporter=Reporter(is_quiet=True),
        )
        given = {"against": (str(tmp_path / "index"),)}
        shard = tmp_path / f"out-{name}/shard-00000.jsonl"
        kept.append([orjson.loads(line)["text"] for line in shard.read_bytes().splitlines()])
    old, new = kept[0], [text for text in dict.fromkeys(texts[n_old:]) if text not in set(kept[0])]
    sets = {text: set(text.split()) for text in (*old, *new)}
    pairs = [*itertools.product(old, new), *itertools.combinations(new, 2)]
    alike = [(a, b) for a, b in pairs if len(sets[a] & sets[b]) >= 0.8 * len(sets[a] | sets[b])]
    survivors = {*kept[0], *kept[1]}
    recall = 1 - sum(a in survivors and b in survivors for a, b in alike) / len(alike)
    assert len(alike) > 100
    assert counts["error"]["recall"]["low"] <= recall <= counts["error"]["recall"]["high"]
    assert counts["error"]["n_pairs_at_threshold"] > 0
    assert counts["error"]["precision"]["value"] == 1.0


def test_pairs_at_a_place_are_drawn_alike_but_those_of_two_indexed_documents():
    """Places of 3 new and 5 indexed documents: 3 + 15 pairs, each drawn at one place of 18."""
    n_places = 36_000
    generator = np.random.default_rng(1)
    hashes = np.repeat(generator.integers(0, 2**55, n_places, dtype=np.uint64), 8)
    orders = np.concatenate((generator.random((n_places, 3)), 1 + generator.random((n_places, 5))), axis=1)
    places = (Place(Path(), 0, "new"), Place(Path(), 0, "old"))
    corpus = Corpus(Path(), places, (3, 5), 0, n_indexed=1)
    starts, pairs = error.DrawPairs(corpus, None, None)._draw(hashes, orders.argsort(axis=1).ravel())
    assert len(starts) == n_places
    assert (pairs["n_pairs"] == 18).all()
    drawn = np.sort(np.stack([pairs["a"], pairs["b"]], axis=1), axis=1)
    met, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(met) == 18
    assert (met[:, 0] < 3).all()
    # 2000 each, with a deviation of sqrt(36000 / 18 * 17 / 18) = 43.5: five of these
    assert np.abs(counts - 2000).max() < 218


def test_wilson_interval_by_hand():
    """8 of 10: middle (0.8 + 0.19207) / 1.38415, half 1.41606 * sqrt(0.016 + 0.0096) in SciPy's words."""
    share = error._share(np.arange(10) < 8)
    assert share == pytest.approx({"value": 0.8, "low": 0.490162, "high": 0.943318}, abs=1e-5)


def test_priority_sampling_is_right_on_average():
    """The sum over drawn pairs, each for as many as it stands for, is the sum over all on average."""
    draw = np.random.default_rng(1)
    size = draw.pareto(1.5, 3000) + 0.1
    sums = []
    for _ in range(200):
        pairs = np.zeros(len(size), error.PAIR)
        pairs["a"], pairs["size"], pairs["n_pairs"] = np.arange(len(size)), size, size
        pairs["priority"] = size / np.ceil(draw.random(len(size)) * 2**53)
        path_free = error._first(pairs)
        least = path_free["priority"][error.N_PAIRS]
        drawn = path_free[: error.N_PAIRS]
        sums.append((drawn["n_pairs"] * np.maximum(1.0, least * 2.0**53 / drawn["size"])).sum())
    # 200 sums, each with a deviation of about sum / sqrt(600): the mean is within 3 * 4 % / sqrt(200)
    assert np.mean(sums) == pytest.approx(size.sum(), rel=0.01)


def test_no_error_is_stated_when_none_is_wanted(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "a b c d e f"}\n')
    counts = run_module.run(
        DedupConfig(estimate_error=False),
        [str(tmp_path / "in.jsonl")],
        str(tmp_path / "out"),
        options=RunOptions(),
        reporter=Reporter(is_quiet=True),
    )
    assert "error" not in counts


def test_the_most_equal_hashes_by_chance_by_hand():
    """2**-30 is 9.3e-10 and 31 / 2**30 is 2.9e-8; of ten hashes none is equal once in 1,024 times."""
    assert error._most_by_chance(0.5, 30) == 0
    assert error._most_by_chance(0.5, 10) == -1
    # scipy.stats.binom.cdf(2688, 4096, 0.7) = 8.8e-10, and 1.1e-9 for 2689
    assert error._most_by_chance(0.7, 4096) == 2688
    assert error._most_by_chance(0.5, 29) == -1  # 1.9e-9


def test_what_is_stated_is_the_same_when_unlike_pairs_are_compared_too(tmp_path, monkeypatch):
    draw = random.Random(4)  # words in common, by which unlike texts meet
    texts = [f"{text} {' '.join(f'c{draw.randrange(3000)}' for _ in range(30))}" for text in make_texts()]
    lines = [orjson.dumps({"text": text}) + b"\n" for text in texts]
    (tmp_path / "in.jsonl").write_bytes(b"".join(lines))

    def state(name):
        config = DedupConfig(n_bands=3, n_rows=24, shingle_words=1, threshold=0.8, format="jsonl")
        reporter = Reporter(is_quiet=True)
        inputs = [str(tmp_path / "in.jsonl")]
        counts = run_module.run(config, inputs, str(tmp_path / name), options=RunOptions(), reporter=reporter)
        return counts["error"]

    n_likely = []
    are_likely = error.are_likely

    def count(pairs, corpus, config):
        likely = are_likely(pairs, corpus, config)
        n_likely.append((int(likely.sum()), len(likely)))
        return likely

    monkeypatch.setattr(error, "are_likely", count)
    stated = state("some")
    monkeypatch.setattr(error, "are_likely", lambda pairs, _corpus, _config: np.ones(len(pairs), bool))
    assert state("all") == stated
    assert 0 < n_likely[0][0] < n_likely[0][1]
