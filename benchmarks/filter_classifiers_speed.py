"""How fast language identification and a quality model are, beside the package fastText on the same texts.

    DSLLM_TEST_DATA=FOLDER python benchmarks/filter_classifiers_speed.py [--lid-model lid.176.ftz]

Reads about 8 MB of each domain of `pretrain/` of that folder. Both judge whole documents, one thread, in
turn, three times; the figures are megabytes of text per second of processor time, the best of each, and how
many documents got another label or a probability that differs by more than 1e-4. The quality model is one of
word bigrams, width 100, as DCLM's, trained here on documents of two domains; one of `--train-quality`'s
default kind, with character n-grams, is beside it.
"""

import argparse
import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
import zstandard

from dsllm.stages.filter.classifiers import SHIPPED_MODEL, one_line
from dsllm.text.fasttext_file import read_fasttext
from dsllm.text.fasttext_model import FastText
from dsllm.text.texts import Texts

DOMAINS = ("en_prose", "zh_prose", "other_langs", "web", "code", "math")
N_BYTES, N_ROUNDS = 8_000_000, 3


def read_texts(domain: str) -> list[str]:
    found, n_bytes = [], 0
    for path in sorted((Path(os.environ["DSLLM_TEST_DATA"]) / "pretrain").glob(f"{domain}-*.jsonl.zst")):
        with path.open("rb") as file:
            for line in io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file)):
                if n_bytes >= N_BYTES:
                    return found
                found.append(orjson.loads(line)["text"])
                n_bytes += len(found[-1].encode())
    return found


def compare(path: Path, domains: dict[str, list[str]], title: str) -> None:
    import fasttext

    package = fasttext.load_model(str(path))
    ours = read_fasttext(path)
    assert isinstance(ours, FastText), ours
    ours.predict(Texts.join([b"compiled"]))
    print(
        f"\n{title}\n{'domain':>12} {'fastText':>9} {'dsllm':>7} {'ratio':>6}  other label  other probability"
    )
    seconds = {}
    for domain, strings in domains.items():
        texts = Texts.join([text.encode() for text in strings])
        lines = [one_line(text) for text in strings]
        times: dict[str, list[float]] = {"fastText": [], "dsllm": []}
        for _ in range(N_ROUNDS):
            started_s = time.process_time()
            theirs = [package.f.predict(line, 1, 0.0, "strict")[0] for line in lines]
            times["fastText"].append(time.process_time() - started_s)
            started_s = time.process_time()
            found = ours.predict(texts)
            times["dsllm"].append(time.process_time() - started_s)
        best = found.argmax(axis=1)
        n_other = sum(ours.labels[at] != label for at, (_, label) in zip(best, theirs, strict=True))
        gaps = np.abs(found.max(axis=1) - [probability for probability, _ in theirs])
        slow_s, fast_s = min(times["fastText"]), min(times["dsllm"])
        seconds[domain] = np.array([slow_s, fast_s, int(texts.ends[-1]) / 1e6])
        print_row(domain, seconds[domain], f"{n_other:>10}  {int((gaps > 1e-4).sum()):>10} of {len(lines):,}")
    print_row("all", sum(seconds.values()), "")


def print_row(name: str, row, rest: str) -> None:
    slow_s, fast_s, n_mb = row
    print(f"{name:>12} {n_mb / slow_s:>9.1f} {n_mb / fast_s:>7.1f} {slow_s / fast_s:>6.1f}  {rest}")


def train(domains: dict[str, list[str]], path: Path, **settings) -> None:
    import fasttext

    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        for label, domain in (("good", "en_prose"), ("bad", "web")):
            for text in domains[domain][:400]:
                file.write(f"__label__{label} {one_line(text)}")
        file.flush()
        model = fasttext.train_supervised(file.name, epoch=2, thread=1, seed=0, verbose=0, **settings)
    model.save_model(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lid-model", type=Path, help="another language model beside the shipped one")
    given = parser.parse_args().lid_model
    domains = {domain: read_texts(domain) for domain in DOMAINS}
    compare(SHIPPED_MODEL, domains, "the shipped language model")
    if given:
        compare(given, domains, given.name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        train(domains, path, dim=100, wordNgrams=2, bucket=2_000_000)
        compare(path, domains, "a quality model of word bigrams, width 100")
        train(domains, path, dim=16, wordNgrams=2, minn=1, maxn=3, bucket=200_000)
        compare(path, domains, "a quality model of words, their bigrams and character n-grams, width 16")


if __name__ == "__main__":
    main()
