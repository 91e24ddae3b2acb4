"""Learn a byte-level BPE beside other trainers: CPU seconds and peak memory of whole processes, in turns.

    python benchmarks/tokenizer_train_speed.py CORPUS... --work DIR --peers PYTHON

Mixes 50 MB of text out of CORPUS, then runs every trainer on one thread, in turns. PYTHON has `gigatoken`,
`rustbpe`, `tokenizers` and `orjson`. The peers cut text by the pattern of GPT-4, dsllm by DeepSeek LLM's.
`--repeated N` measures dsllm alone, on N copies of the text of which each has endings of its own at all
words, so that few pieces are alike.
"""

import argparse
import random
import sys
from pathlib import Path

import orjson
from process_cost import run_process

from dsllm.io.sources import find_sources, read_batches

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
READ = "import sys, orjson; texts = (orjson.loads(line)['text'] for line in open(sys.argv[1], 'rb'))\n"
PEERS = {
    "gigatoken": "import sys, gigatoken as g; "
    "g.train_bpe(g.JsonlFileSource([sys.argv[1]]), int(sys.argv[2]), ['<|endoftext|>'])",
    "rustbpe": READ + "import rustbpe; "
    f"rustbpe.Tokenizer().train_from_iterator(texts, int(sys.argv[2]), pattern={PATTERN!r})",
    "tokenizers": READ + "from tokenizers import Regex, Tokenizer, models, pre_tokenizers as p, trainers\n"
    "tokenizer = Tokenizer(models.BPE())\n"
    f"split = p.Split(Regex({PATTERN!r}), 'isolated')\n"
    "tokenizer.pre_tokenizer = p.Sequence([split, p.ByteLevel(add_prefix_space=False, use_regex=False)])\n"
    "trainer = trainers.BpeTrainer(vocab_size=int(sys.argv[2]), show_progress=False,"
    " initial_alphabet=p.ByteLevel.alphabet())\n"
    "tokenizer.train_from_iterator(texts, trainer)",
}
ENDINGS = ("qx", "vj", "zk", "jq", "xz", "wv", "kq", "zx", "vq", "jx")


def mix(corpus: list[str], path: Path, n_bytes: int) -> None:
    lines = [
        line
        for source in find_sources(corpus)
        for batch in read_batches(source)
        for line in batch.lines.splitlines()
    ]
    random.Random(0).shuffle(lines)
    with path.open("wb") as file:
        for line in lines:
            size = len(orjson.loads(line)["text"].encode())
            if size <= n_bytes:
                n_bytes -= size
                file.write(line + b"\n")


def repeat(path: Path, target: Path, n_copies: int) -> None:
    with target.open("wb") as file:
        for copy in range(n_copies):
            letters = ENDINGS[copy % len(ENDINGS)] + "q" * (copy // len(ENDINGS))
            character = chr(0x9F00 + copy)
            for line in path.open("rb"):
                text = orjson.loads(line)["text"].replace(" ", letters + " ")
                for mark in "，。、":
                    text = text.replace(mark, character + mark)
                file.write(orjson.dumps({"text": text.replace("\n", letters + character + "\n")}) + b"\n")


def measure(name: str, vocab_size: int, text: Path, work: Path, peers: str) -> None:
    out = work / f"out-{name}-{vocab_size}"
    command = [sys.executable, "-m", "dsllm", "tokenize", "train", str(text), "-o", str(out)]
    command += ["--vocab-size", str(vocab_size), "--overwrite", "--workers", "1"]
    if name != "dsllm":
        command = [peers, "-c", PEERS[name], str(text), str(vocab_size)]
    log = work / f"{name}.log"
    cost = run_process(command, log=log, limit_s=580, extra={"RAYON_NUM_THREADS": "1"})
    print(
        f"{name:10} {vocab_size:7,}: {cost.cpu_s:6.2f} CPU s, {cost.wall_s:6.1f} s, {cost.peak_mb:5.0f} MB"
        f" {cost.failure or ''}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", nargs="*", default=["gigatoken=32000", "rustbpe=100000"])
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--repeated", type=int, default=0)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    text = given.work / "mixed.jsonl"
    if not text.exists():
        mix(given.corpus, text, given.megabytes * 1_000_000)
    if given.repeated:
        many = given.work / f"repeated-{given.repeated}.jsonl"
        if not many.exists():
            repeat(text, many, given.repeated)
        measure("dsllm", 100_000, many, given.work, given.peers)
        return
    for _ in range(given.rounds):
        for run in given.runs:
            name, vocab_size = run.split("=")
            measure(name, int(vocab_size), text, given.work, given.peers)
            measure("dsllm", int(vocab_size), text, given.work, given.peers)


if __name__ == "__main__":
    main()
