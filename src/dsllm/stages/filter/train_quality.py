"""`dsllm filter --train-quality GOOD BAD -o model.bin`: a classifier of good and bad text, how good it is.

Trained by the package `fasttext` with one thread, so that the same inputs and settings give the same bytes. A
part of the documents is held out, by a hash of their text, and says how well the model tells good from bad:
the area under the ROC curve with DeLong's interval (DeLong et al. 1988, Biometrics 44:837) and the accuracy
at 0.5 with Wilson's (1927, JASA 22:209). `model.bin.json` has all this and the inputs' hashes.

Words are what stands between white space, and their character n-grams, which is what Chinese needs; what is
passed over when documents are judged is passed over in training too (`classifiers.one_line`).
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm import __version__
from dsllm.config import RunOptions
from dsllm.errors import ConfigError, InputError, OutputError
from dsllm.io.atomic import file_sha256, sync_folder, write_atomic
from dsllm.io.folder import input_records
from dsllm.io.sources import find_sources, read_batches
from dsllm.progress import Reporter
from dsllm.stages.filter.classifiers import GOOD, QualityModel, one_line
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.table import read_documents
from dsllm.text.texts import Texts

BAD = "__label__bad"
Z_95 = 1.959964  # of the normal distribution


def train(
    config: FilterConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Train a model on the documents of two inputs, good ones and bad ones; return what is written beside it.

    Raises:
        ConfigError: not two inputs.
        InputError: an input without a document, or with too few to hold any out.
        OutputError: the output is there already, or is no place for a file.
    """
    _check(inputs, output, options)
    good, bad = (read_texts(given, config) for given in inputs)
    texts, labels = [*good, *bad], np.repeat([1, 0], (len(good), len(bad)))
    is_held_out = hold_out(texts, config.train_held_out_frac, config.seed)
    for label, given in ((1, inputs[0]), (0, inputs[1])):
        n_all, n_out = int((labels == label).sum()), int((is_held_out & (labels == label)).sum())
        if not 0 < n_out < n_all:
            raise InputError(
                f"{given}: {n_out} of {n_all} documents are held out",
                hint="give more documents, or another --train-held-out-frac",
            )
    reporter.say(f"dsllm: training on {int((~is_held_out).sum()):,} documents, with one thread")
    path = Path(output)
    chosen = np.flatnonzero(~is_held_out).tolist()
    train_model([texts[at] for at in chosen], labels[chosen], path, config)
    places = np.flatnonzero(is_held_out).tolist()
    scores = QualityModel(str(path)).score_all(Texts.join([texts[at].encode() for at in places]))
    record = _describe(config, inputs, path, labels, is_held_out) | {
        "held_out": evaluate(labels[places], scores)
    }
    write_atomic(path.with_name(path.name + ".json"), json.dumps(record, indent=1).encode() + b"\n")
    _tell(record, reporter)
    return record


def _check(inputs: Sequence[str], output: str, options: RunOptions) -> None:
    if len(inputs) != 2:
        raise ConfigError(
            f"{len(inputs)} inputs to train on",
            hint="give two: good documents, then bad ones (globs and folders too)",
        )
    path = Path(output)
    if output == "-" or path.is_dir() or not path.absolute().parent.is_dir():
        raise OutputError(
            f"{output}: no place for a model's file", hint="give -o a file in a folder that is there"
        )
    if path.exists() and not options.overwrite:
        raise OutputError(
            f"{output}: is there already", hint="give --overwrite to make it again, or another -o"
        )


def read_texts(given: str, config: FilterConfig) -> list[str]:
    """Read the texts of one input that have a word, each once, as lines for fastText."""
    found: dict[str, None] = {}
    for source in find_sources([given]):
        for batch in read_batches(source):
            texts = read_documents(batch, config.text_field, (), on_error=config.on_error).texts
            found |= dict.fromkeys(one_line(texts.text(place)) for place in range(len(texts.ends)))
    lines = [line for line in found if line.strip()]
    if not lines:
        raise InputError(f"{given}: no document with a word in it", hint="check what wrote it")
    return lines


def hold_out(texts: Sequence[str], frac: float, seed: int) -> NDArray[np.bool_]:
    """Choose about a share of the texts by their hashes: equal texts come to be on the same side."""
    key = str(seed).encode()
    values = [hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts]
    return np.array([int.from_bytes(value) < frac * 2**64 for value in values], bool)


def train_model(lines: Sequence[str], labels: NDArray[np.int64], path: Path, config: FilterConfig) -> None:
    """Train on lines without labels and 1 or 0 for each; the file appears whole, under its name."""
    import fasttext

    order = np.random.default_rng(config.seed).permutation(len(lines)).tolist()
    with tempfile.TemporaryDirectory(prefix="dsllm-") as folder:
        data = Path(folder) / "train.txt"
        with data.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{GOOD if labels[at] else BAD} {lines[at]}" for at in order)
        model = fasttext.train_supervised(
            str(data),
            epoch=config.train_epochs,
            lr=config.train_lr,
            dim=config.train_dim,
            wordNgrams=config.train_word_ngrams,
            minn=1,
            maxn=config.train_char_ngrams,
            bucket=config.train_buckets,
            minCount=config.train_min_count,
            seed=config.seed,
            thread=1,
            verbose=0,
        )
    partial = path.with_name(f".{path.name}.partial")
    model.save_model(str(partial))
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.absolute().parent)


def evaluate(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> dict[str, Any]:
    """Say how well scores tell 1 from 0: AUC and accuracy at 0.5, each with a 95 % interval."""
    value, error = auc(labels, scores)
    right = int(((scores >= 0.5) == (labels == 1)).sum())
    lower, upper = wilson_interval(right, len(labels))
    return {
        "n_good": int((labels == 1).sum()),
        "n_bad": int((labels == 0).sum()),
        "auc": round(value, 4),
        "auc_interval": [round(max(0.0, value - Z_95 * error), 4), round(min(1.0, value + Z_95 * error), 4)],
        "accuracy": round(right / len(labels), 4),
        "accuracy_interval": [round(lower, 4), round(upper, 4)],
    }


def auc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> tuple[float, float]:
    """Give the probability that a 1 scores above a 0, ties counted half, and DeLong's standard error."""
    good, bad = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])

    def share_below(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
        below, upto = np.searchsorted(others, values, "left"), np.searchsorted(others, values, "right")
        shares: NDArray[np.float64] = (below + upto) / (2 * len(others))
        return shares

    of_good, of_bad = share_below(good, bad), 1 - share_below(bad, good)
    variance = sum(part.var(ddof=1) / len(part) for part in (of_good, of_bad) if len(part) > 1)
    return float(of_good.mean()), float(np.sqrt(variance))


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """Give the 95 % interval of a share."""
    centre = (n_right + Z_95**2 / 2) / (n + Z_95**2)
    half = Z_95 / (n + Z_95**2) * float(np.sqrt(n_right * (n - n_right) / n + Z_95**2 / 4))
    return max(0.0, centre - half), min(1.0, centre + half)


def _describe(
    config: FilterConfig,
    inputs: Sequence[str],
    path: Path,
    labels: NDArray[np.int64],
    is_held_out: NDArray[np.bool_],
) -> dict[str, Any]:
    settings = config.to_dict()
    names = [name for name in settings if name.startswith("train_") or name in ("seed", "text_field")]
    return {
        "stage": "filter --train-quality",
        "dsllm": __version__,
        "config": {name: settings[name] for name in names},
        "inputs": [
            {"class": name, "sha256": record.sha256}
            for name, record in zip(("good", "bad"), input_records(inputs), strict=True)
        ],
        "n_good": int((labels[~is_held_out] == 1).sum()),
        "n_bad": int((labels[~is_held_out] == 0).sum()),
        "model": {"n_bytes": path.stat().st_size, "sha256": file_sha256(path)},
    }


def _tell(record: dict[str, Any], reporter: Reporter) -> None:
    found = record["held_out"]
    rows = [
        (name, f"{found[name]:.4f}", " to ".join(f"{end:.4f}" for end in found[f"{name}_interval"]))
        for name in ("auc", "accuracy")
    ]
    title = f"filter: on {found['n_good']:,} good and {found['n_bad']:,} bad documents held out"
    reporter.table(title, ("measure", "value", "95 % interval"), rows)
