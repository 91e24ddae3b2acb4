"""Thirds of the corpus by perplexity: the model of words, the buckets of each language, and what is kept."""

import io
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import orjson
import pytest

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, InputError, OutputError
from dsllm.io.manifest import read_manifest
from dsllm.progress import Reporter
from dsllm.stages.filter import run as run_module
from dsllm.stages.filter.config import FilterConfig
from dsllm.text.texts import Texts
from dsllm.text.word_model import WordModel

ENGLISH = (
    "the river rose in spring and the children walked home along the wall with a lamp in the night".split()
)
CHINESE = "河水上涨了孩子们放学回来的时候天还没有黑父亲提着一盏灯站在门口默默地数着人数"


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_documents(n, seed=0):
    """English and Chinese, more or less out of order."""
    generator = np.random.default_rng(seed)
    for at in range(n):
        words = list(ENGLISH if at % 3 else CHINESE)
        for _ in range(int(generator.integers(30))):
            a, b = generator.integers(len(words), size=2)
            words[a], words[b] = words[b], words[a]
        yield {"id": at, "text": (" " if at % 3 else "").join(words), "source": "ab"[at % 2]}


def write(path, documents):
    Path(path).write_text("".join(json.dumps(document) + "\n" for document in documents), "utf-8")
    return str(path)


def run_filter(inputs, output="out", *, n_workers=1, **settings):
    config = FilterConfig(format="jsonl", rules="none", min_language_confidence=0.0, **settings)
    options = RunOptions(n_workers=n_workers, is_quiet=True)
    return run_module.run(config, inputs, output, options=options, reporter=Reporter(is_quiet=True))


def read_rows(folder):
    lines = [line for path in sorted(Path(folder).glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return list(map(orjson.loads, lines))


@pytest.fixture
def model():
    good = write("good.jsonl", [{"text": " ".join(ENGLISH)}, {"text": CHINESE}])
    found = run_filter([good], "words.npy", train_words=True)
    assert found["n_words"] == len(ENGLISH) + len(CHINESE)
    assert found["n_different_words"] == len({*ENGLISH}) + len({*CHINESE})
    return "words.npy"


def buckets_by_definition(documents, model):
    """Sort each language's perplexities and cut at a third and at two; equal ones go together."""
    texts = Texts.join([document["text"].encode() for document in documents])
    values = WordModel.read(Path(model)).perplexities(texts).tolist()
    groups = defaultdict(list)
    for document, value in zip(documents, values, strict=True):
        groups[document["text"].isascii()].append(value)
    found = {}
    for document, value in zip(documents, values, strict=True):
        group = sorted(groups[document["text"].isascii()])
        first, second = group[-(-len(group) // 3) - 1], group[-(-2 * len(group) // 3) - 1]
        found[document["id"]] = "head" if value <= first else "middle" if value <= second else "tail"
    return found


@pytest.mark.parametrize(
    "buckets", [("head",), ("head", "middle"), ("tail",), ("head", "middle", "tail")], ids=str
)
def test_wanted_thirds_of_each_language_stay(buckets, model):
    documents = list(make_documents(100))
    paths = [write(f"in{n}.jsonl", documents[n::2]) for n in range(2)]
    run_filter(paths, word_model=model, keep_thirds=buckets, rejected="aside")
    expected = buckets_by_definition(documents, model)
    assert {row["id"] for row in read_rows("out")} == {at for at in expected if expected[at] in buckets}
    for row in read_rows("aside"):
        reason = row["dsllm_filter"]
        assert (reason["rule"], reason["bound"]) == ("perplexity", list(buckets))
        assert reason["value"] == reason["perplexity_bucket"] == expected[row["id"]]
    cuts = read_manifest("out").content["perplexity_cuts"]
    assert [cut["language"] for cut in cuts] == ["en", "zh"]
    assert all(cut["head"] <= cut["middle"] for cut in cuts)


def test_workers_and_pipes_change_nothing(model, monkeypatch):
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 2000)
    path = write("in.jsonl", make_documents(100))
    settings = {
        "word_model": model,
        "keep_thirds": ("head", "middle"),
        "keep_frac_by": ("source",),
    }
    run_filter([path], **settings)
    run_filter([path], "again", n_workers=2, **settings)
    whole = Path("out/shard-00000.jsonl").read_bytes()
    assert whole == Path("again/shard-00000.jsonl").read_bytes() != b""
    stdin, stdout = io.TextIOWrapper(io.BytesIO(Path(path).read_bytes())), io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(sys, "stdout", stdout)
    run_filter(["-"], "-", **settings)
    assert stdout.buffer.getvalue() == whole


def test_annotated_documents_have_their_bucket(model):
    documents = list(make_documents(40))
    run_filter([write("in.jsonl", documents)], word_model=model, annotate=True)
    expected = buckets_by_definition(documents, model)
    for row in read_rows("out"):
        assert row["dsllm_filter"]["perplexity_bucket"] == expected[row["id"]]
        assert row["dsllm_filter"]["features"]["perplexity"] > 1


def test_what_cannot_be_is_told(model):
    path = write("in.jsonl", make_documents(3))
    with pytest.raises(ConfigError, match="'best'"):
        FilterConfig(keep_thirds=("best",))
    with pytest.raises(InputError, match="nowhere.npy: no such file"):
        run_filter([path], word_model="nowhere.npy")
    with pytest.raises(InputError, match="in.jsonl: no model of words"):
        run_filter([path], word_model="in.jsonl")
    with pytest.raises(OutputError, match="is there already"):
        run_filter([path], model, train_words=True)
    with pytest.raises(InputError, match="no document with a word"):
        run_filter([write("empty.jsonl", [{"text": " "}])], "other.npy", train_words=True)
