"""A quality model against rules, on web pages that people have called good or bad.

    DSLLM_TEST_DATA=FOLDER python benchmarks/quality_classifier.py

Reads `labels/dclm_labelled.jsonl` of that folder (374 pages out of Common Crawl, majority of several people's
judgements). Each page is scored by a model that was trained on the other four fifths, with the settings that
`dsllm filter --train-quality` has by default; by rules in two ways, whether it passes a preset and how many
of its tests it breaks; and by its perplexity to a model of words (`--train-words`) that has read
`pretrain/en_prose-000.jsonl.zst`. The figure is the area under the ROC curve with DeLong's 95 % interval; the
difference to the model has a bootstrap interval over the pages.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import orjson

from dsllm.io.documents import Batch
from dsllm.io.sources import find_sources, read_batches
from dsllm.stages.filter.classifiers import QualityModel, one_line
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.judge import Filter
from dsllm.stages.filter.rules import PRESETS
from dsllm.stages.filter.train_quality import Z_95, auc, train_model
from dsllm.text.texts import Texts
from dsllm.text.word_model import WordModel

N_FOLDS, N_SEEDS, N_SAMPLES = 5, 3, 1000


def scores_out_of_fold(texts, labels, seed):
    """Train five times; each page is scored by the model that has not seen it."""
    generator = np.random.default_rng(seed)
    folds = np.empty(len(texts), np.int64)
    for label in (0, 1):
        places = generator.permutation(np.flatnonzero(labels == label))
        folds[places] = np.arange(len(places)) % N_FOLDS
    scores = np.empty(len(texts))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        for fold in range(N_FOLDS):
            rest = np.flatnonzero(folds != fold)
            lines = [one_line(texts[at]) for at in rest]
            train_model(lines, labels[rest], path, FilterConfig(train_quality=True, seed=seed))
            tried = np.flatnonzero(folds == fold)
            scores[tried] = QualityModel(str(path)).score_all(
                Texts.join([texts[at].encode() for at in tried])
            )
    return scores


def scores_by_rules(texts, preset):
    """Say of each page whether it passes, and minus how many rules it breaks."""
    config = FilterConfig(rules=preset, annotate=True, languages=("any",), min_language_confidence=0.0)
    lines = b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts)
    table = Filter(config).judge_batch(Batch(0, "pages", 1, lines, len(lines)))
    n_broken = np.sum([test.broken for test in table.tests], axis=0)
    return (n_broken == 0).astype(float), -n_broken.astype(float)


def scores_by_perplexity(texts):
    path = Path(os.environ["DSLLM_TEST_DATA"]) / "pretrain/en_prose-000.jsonl.zst"
    model = WordModel.train(
        Texts.join([orjson.loads(line)["text"].encode() for line in batch.lines.splitlines()])
        for source in find_sources([str(path)])
        for batch in read_batches(source)
    )
    found = model.perplexities(Texts.join([text.encode() for text in texts]))
    return -np.nan_to_num(found, nan=found[np.isfinite(found)].max())


def difference(labels, ours, theirs):
    """Give the 95 % interval of the difference of two areas, by drawing pages of both classes anew."""
    generator = np.random.default_rng(0)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    found = []
    for _ in range(N_SAMPLES):
        drawn = np.concatenate([generator.choice(places, len(places)) for places in classes])
        found.append(auc(labels[drawn], ours[drawn])[0] - auc(labels[drawn], theirs[drawn])[0])
    return np.quantile(found, [0.025, 0.975])


def describe(labels, scores):
    value, error = auc(labels, scores)
    return f"{value:.3f} ({value - Z_95 * error:.3f} to {value + Z_95 * error:.3f})"


def main() -> None:
    path = Path(os.environ["DSLLM_TEST_DATA"]) / "labels/dclm_labelled.jsonl"
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    texts = [row["text"] for row in rows]
    labels = np.array([row["label"] for row in rows])
    print(f"{(labels == 1).sum()} good pages, {(labels == 0).sum()} bad ones")
    by_seed = [scores_out_of_fold(texts, labels, seed) for seed in range(N_SEEDS)]
    model = by_seed[0]
    for seed, scores in enumerate(by_seed):
        print(f"model, folds of seed {seed}: {describe(labels, scores)}")
    scores = scores_by_perplexity(texts)
    low, high = difference(labels, model, scores)
    print(f"perplexity: {describe(labels, scores)}, the model's is {low:.3f} to {high:.3f} more")
    for preset in PRESETS:
        for way, scores in zip(("passes", "rules broken"), scores_by_rules(texts, preset), strict=True):
            low, high = difference(labels, model, scores)
            print(f"{preset}, {way}: {describe(labels, scores)}, the model's is {low:.3f} to {high:.3f} more")


if __name__ == "__main__":
    main()
