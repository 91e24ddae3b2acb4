"""A quality model is trained: the same bytes each time, and honest figures of what it was not trained on."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, InputError, OutputError
from dsllm.progress import Reporter
from dsllm.stages.filter import run as run_module
from dsllm.stages.filter.classifiers import QualityModel
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.train_quality import auc, hold_out, wilson_interval

GOOD = "the river rose in spring and the children walked home along the wall with a lamp in the night".split()
BAD = "click here to buy cheap shoes now best price menu login cart free offer subscribe share".split()
HAN = {"good": "河水上涨孩子们放学回来父亲提着一盏灯", "bad": "点击购买优惠包邮登录注册免费下载"}
QUICK = {"train_buckets": 500, "train_dim": 8, "train_epochs": 15}


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, words, n=60):
    generator = np.random.default_rng(len(words))
    lines = []
    for at in range(n):
        chosen = [words[generator.integers(len(words))] for _ in range(20)]
        han = "".join(generator.permutation(list(HAN[name])))
        lines.append(
            json.dumps({"text": han if at % 3 == 0 else " ".join(chosen) + "\n</s> __label__bad\n" + han})
        )
    Path(f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return f"{name}.jsonl"


def train(inputs, output="model.bin", *, overwrite=False, **settings):
    config = FilterConfig(train_quality=True, **{**QUICK, **settings})
    options = RunOptions(is_quiet=True, overwrite=overwrite)
    return run_module.run(config, inputs, output, options=options, reporter=Reporter(is_quiet=True))


@pytest.fixture
def inputs():
    return [write("good", GOOD), write("bad", BAD)]


def test_a_model_tells_good_from_bad(inputs):
    record = train(inputs)
    assert record["n_good"] + record["held_out"]["n_good"] == 60
    assert record["held_out"]["auc"] > 0.95
    low, high = record["held_out"]["accuracy_interval"]
    assert low < record["held_out"]["accuracy"] <= high
    assert record["model"]["sha256"] == hashlib.sha256(Path("model.bin").read_bytes()).hexdigest()
    assert json.loads(Path("model.bin.json").read_bytes()) == record
    model = QualityModel("model.bin")
    for good, bad in ((" ".join(GOOD), " ".join(BAD)), (HAN["good"], HAN["bad"])):
        assert model.score(good) > 0.5 > model.score(bad)


def test_the_same_inputs_give_the_same_bytes(inputs):
    first = train(inputs), Path("model.bin").read_bytes()
    again = train(inputs, overwrite=True), Path("model.bin").read_bytes()
    assert first == again
    other = train(inputs, overwrite=True, seed=1)
    assert other["model"]["sha256"] != first[0]["model"]["sha256"]


def test_what_cannot_be_trained_on_is_told(inputs):
    with pytest.raises(ConfigError, match="1 inputs"):
        train(inputs[:1])
    Path("one.jsonl").write_text('{"text": "only one"}\n')
    with pytest.raises(InputError, match="one.jsonl: . of 1 documents are held out"):
        train([inputs[0], "one.jsonl"])
    Path("none.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(InputError, match="no document with a word"):
        train([inputs[0], "none.jsonl"])
    assert not Path("model.bin").exists()
    Path("model.bin").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        train(inputs)
    with pytest.raises(OutputError, match="no place for"):
        train(inputs, "nowhere/model.bin")
    with pytest.raises(OutputError, match="no place for"):
        train(inputs, "-")


def test_auc_by_counting_pairs():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 80)
    scores = np.round(generator.random(80) + 0.3 * labels, 1)  # many ties
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    value, error = auc(labels, scores)
    assert value == pytest.approx(np.mean(pairs))
    # DeLong: the variances of a good one's mean over the bad ones, and of a bad one's over the good ones.
    table = np.array(pairs).reshape((labels == 1).sum(), -1)
    variance = (
        table.mean(axis=1).var(ddof=1) / table.shape[0] + table.mean(axis=0).var(ddof=1) / table.shape[1]
    )
    assert error == pytest.approx(variance**0.5)


def test_wilson_interval_by_hand():
    # 8 of 10: (8 + 1.9208) / 13.8415 = 0.71674; 1.95996 / 13.8415 * sqrt(8 * 2 / 10 + 0.96040) = 0.22659.
    assert wilson_interval(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)
    assert wilson_interval(10, 10)[1] == 1


def test_equal_texts_are_held_out_together():
    texts = [f"text {at % 100}" for at in range(400)]
    is_held_out = hold_out(texts, 0.3, seed=5).reshape(4, 100)
    assert (is_held_out == is_held_out[0]).all()
    assert 15 < is_held_out[0].sum() < 45
    assert (hold_out(texts, 0.3, seed=6).reshape(4, 100) != is_held_out).any()
