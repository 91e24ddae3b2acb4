"""The best share by quality: of each group, over the whole corpus, the same from any number of workers."""

import io
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import orjson
import pytest

from dsllm.config import RunOptions
from dsllm.errors import ConfigError
from dsllm.io.manifest import read_manifest
from dsllm.progress import Reporter
from dsllm.stages.filter import run as run_module
from dsllm.stages.filter import share
from dsllm.stages.filter.config import FilterConfig

GOOD = "the river rose in spring and the children walked home along the wall with a lamp in the night".split()
BAD = "click here to buy cheap shoes now best price menu login cart free offer subscribe share".split()
CHINESE = "河水上涨了孩子们放学回来的时候天还没有黑父亲提着一盏灯站在门口默默地数着人数"


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import fasttext

    folder = tmp_path_factory.mktemp("quality")
    lines = [f"__label__good {' '.join(GOOD[at:] + GOOD[:at])} {CHINESE[at:]}" for at in range(15)]
    lines += [f"__label__bad {' '.join(BAD[at:] + BAD[:at])} 点击 购买 {CHINESE[:3]}" for at in range(15)]
    (folder / "train.txt").write_text("\n".join(lines) + "\n", "utf-8")
    trained = fasttext.train_supervised(
        str(folder / "train.txt"),
        epoch=30,
        lr=0.3,
        dim=8,
        thread=1,
        seed=1,
        bucket=500,
        minn=1,
        maxn=2,
        verbose=0,
    )
    trained.save_model(str(folder / "model.bin"))
    return str(folder / "model.bin")


def make_documents(n, seed=0):
    """English and Chinese of mixed quality, from two sources; some are source code, which must not count."""
    generator = np.random.default_rng(seed)
    for at in range(n):
        good = generator.random()
        words = [(GOOD if generator.random() < good else BAD)[generator.integers(15)] for _ in range(30)]
        text = " ".join(words)
        if at % 3 == 1:
            cut = generator.integers(5, len(CHINESE))
            text = CHINESE[:cut] * 3 + ("点击 购买 " * int(generator.integers(4)))
        if at % 11 == 10:
            text = "int main(void) { return x[0] != y->z; }\n" * 3
        yield {"id": at, "text": text, "source": ("books", "web")[int(generator.random() < 0.7)]}


def write(path, documents):
    Path(path).write_text("".join(json.dumps(document) + "\n" for document in documents), "utf-8")
    return str(path)


def run_filter(inputs, output="out", *, n_workers=1, **settings):
    config = FilterConfig(format="jsonl", rules="none", min_language_confidence=0.0, **settings)
    options = RunOptions(n_workers=n_workers, is_quiet=True)
    return run_module.run(config, inputs, output, options=options, reporter=Reporter(is_quiet=True))


def read_ids(folder):
    lines = [line for path in sorted(Path(folder).glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return [orjson.loads(line)["id"] for line in lines]


def kept_by_definition(documents, model, frac, by, language_of):
    """Score by the package, sort each group, keep its best, and whoever is as good as the last of them."""
    import fasttext

    loaded = fasttext.load_model(model)
    groups = defaultdict(list)
    for document in documents:
        language = language_of[document["id"]]
        if language in ("en", "zh"):
            line = document["text"].replace("\n", " ") + "\n"
            found = {label: value for value, label in loaded.f.predict(line, -1, 0.0, "strict")}
            values = {"language": language, "source": document["source"]}
            groups[tuple(values[name] for name in by)].append((found["__label__good"], document["id"]))
    kept = set()
    for found in groups.values():
        found.sort(reverse=True)
        least = found[math.ceil(round(frac * len(found), 9)) - 1][0]
        kept |= {identity for score, identity in found if score >= least}
    return kept


@pytest.fixture(scope="module")
def language_of(model, tmp_path_factory):
    """The language of each document, by a run that annotates."""
    folder = tmp_path_factory.mktemp("languages")
    path = write(folder / "in.jsonl", make_documents(300))
    run_filter([path], str(folder / "out"), annotate=True)
    lines = (folder / "out/shard-00000.jsonl").read_bytes().splitlines()
    return {row["id"]: row["dsllm_filter"]["language"] for row in map(orjson.loads, lines)}


@pytest.mark.parametrize("frac", [0.1, 0.3, 1.0])
@pytest.mark.parametrize(
    "by", [("language",), ("language", "source"), ("source",), ("corpus",)], ids="-".join
)
def test_the_best_of_each_group_stay(frac, by, model, language_of):
    documents = list(make_documents(300))
    paths = [write(f"in{n}.jsonl", documents[n::3]) for n in range(3)]
    summary = run_filter(paths, quality_model=model, keep_frac=frac, keep_frac_by=by)
    expected = kept_by_definition(
        documents, model, frac, [name for name in by if name != "corpus"], language_of
    )
    assert set(read_ids("out")) == expected
    assert summary["n_kept"] == len(expected)
    bounds = read_manifest("out").content["quality_bounds"]
    assert sum(bound["n_kept"] for bound in bounds) == len(expected)
    assert sum(bound["n_documents"] for bound in bounds) == sum(
        language in ("en", "zh") for language in language_of.values()
    )
    for bound in bounds:
        assert bound["n_kept"] >= frac * bound["n_documents"] - 1e-9


def test_workers_and_batches_change_no_byte(model, monkeypatch):
    paths = [write(f"in{n}.jsonl", make_documents(60, seed=n)) for n in range(3)]
    outputs = []
    for n_workers, n_bytes in ((1, 4 << 20), (1, 2000), (2, 2000)):
        monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", n_bytes)
        run_filter(paths, n_workers=n_workers, quality_model=model, keep_frac=0.25, rejected="aside")
        files = [path for folder in ("out", "aside") for path in sorted(Path(folder).iterdir())]
        outputs.append({str(path): path.read_bytes() for path in files if path.is_file()})
        for folder in ("out", "aside"):
            Path(folder).rename(f"{folder}-{len(outputs)}")
    assert outputs[1] == outputs[2]
    for name in outputs[0]:
        assert outputs[0][name] == outputs[1][name] or name.endswith("manifest.json")  # order of its counts


def test_a_pipe_gives_the_same_lines(model, monkeypatch):
    path = write("in.jsonl", make_documents(120))
    run_filter([path], quality_model=model, keep_frac=0.3)
    stdin, stdout = io.TextIOWrapper(io.BytesIO(Path(path).read_bytes())), io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(sys, "stdout", stdout)
    run_filter(["-"], "-", quality_model=model, keep_frac=0.3)
    assert stdout.buffer.getvalue() == Path("out/shard-00000.jsonl").read_bytes() != b""


def test_an_interrupted_run_goes_on_where_it_was(model, monkeypatch):
    paths = [write(f"in{n}.jsonl", make_documents(60, seed=n)) for n in range(3)]
    settings = {"quality_model": model, "keep_frac": 0.25}
    run_filter(paths, "whole", **settings)
    scored = []
    score = share.ScoreDocuments.__call__

    def fail_at_the_last(self, batch):
        if batch.source_index == 2 and not scored:
            raise KeyboardInterrupt
        return score(self, batch)

    def count(self, batch):
        scored.append(batch.source_index)
        return score(self, batch)

    monkeypatch.setattr(share.ScoreDocuments, "__call__", fail_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        run_filter(paths, **settings)
    monkeypatch.setattr(share.ScoreDocuments, "__call__", count)
    run_filter(paths, **settings)
    assert 0 not in scored  # what was scored before is not scored again
    whole = {path.name: path.read_bytes() for path in Path("whole").iterdir() if path.is_file()}
    again = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}
    assert {name: whole[name] for name in whole if name.startswith("shard")} == {
        name: again[name] for name in again if name.startswith("shard")
    }
    assert not Path("out/.work").exists()


def test_those_that_are_equally_good_stay_too(model):
    good, bad = " ".join(GOOD), " ".join(BAD)
    texts = [bad, good, bad, good, good, bad, bad, bad, bad, bad]
    path = write("in.jsonl", [{"id": at, "text": text} for at, text in enumerate(texts)])
    run_filter([path], quality_model=model, keep_frac=0.1, rejected="aside")
    assert read_ids("out") == [1, 3, 4]
    (bound,) = read_manifest("out").content["quality_bounds"]
    assert (bound["language"], bound["n_documents"], bound["n_kept"]) == ("en", 10, 3)
    row = orjson.loads(Path("aside/shard-00000.jsonl").read_bytes().splitlines()[0])["dsllm_filter"]
    assert row["rule"] == "quality"
    assert row["value"] == row["quality"] < row["bound"] == round(bound["min_quality"], 6)


def test_annotated_documents_say_what_would_go(model):
    path = write("in.jsonl", make_documents(120))
    run_filter([path], "kept", quality_model=model, keep_frac=0.3)
    run_filter([path], quality_model=model, keep_frac=0.3, annotate=True)
    rows = list(map(orjson.loads, Path("out/shard-00000.jsonl").read_bytes().splitlines()))
    assert [row["id"] for row in rows if "rule" not in row["dsllm_filter"]] == read_ids("kept")
    assert all("quality" in row["dsllm_filter"] for row in rows)


def test_a_share_without_a_model_is_an_error():
    for settings, message in (
        ({"min_quality": 0.7}, "min_quality is 0.7, but there is no quality model"),
        ({"keep_thirds": ("head",)}, "keep_thirds is head, but there is no model"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            FilterConfig(**settings)
        assert caught.value.hint
    with pytest.raises(ConfigError, match="keep_frac is 0.3, but there is no quality model"):
        FilterConfig(keep_frac=0.3)
    with pytest.raises(ConfigError):
        FilterConfig(keep_frac=0.0, quality_model="x.bin")
