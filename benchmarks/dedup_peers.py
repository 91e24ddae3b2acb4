"""Near-duplicate removal by other tools, one run of one tool: what `dedup_speed.py` starts and measures.

    ENVIRONMENT/bin/python benchmarks/dedup_peers.py NAME INPUT.jsonl.zst OUT

Reads documents with `id` and `text` and leaves those that stay in OUT, as cheaply as the tool allows: a list
of ids for the libraries, and what they write themselves for the two pipelines. It runs in the tool's own
environment, so it imports nothing of dsllm.

What the tools share, where they let one choose: shingles of 5 lower-cased words, each CJK character a word;
threshold 0.8; 128 hashes; one thread. With the libraries a document is dropped when the tool calls a document
like it that has stayed before, and only those that stay enter the index. What they do not let one choose:

- gaoya finds the words itself, in Rust, and takes a whole Chinese clause as one word. `gaoya-cjk` is the same
  with spaces put around CJK characters first.
- datatrove has its own words (spaCy's English ones) and 14 bands of 8 rows.
- text-dedup splits at what is no word character, so a Chinese clause is one word for it too. It checks the
  candidates of a cluster by their exact similarity.
- rensa checks candidates by their signatures; datasketch and fastsketchlsh take them as they are.
"""

import io
import os
import re
import runpy
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import orjson
import zstandard

T = TypeVar("T")

THRESHOLD = 0.8
N_HASHES = 128
N_BANDS, N_ROWS = 16, 8
SHINGLE_WORDS = 5
BATCH_DOCUMENTS = 256
SEED = 42

# Ideographs, kana and Hangul syllables: the blocks of dsllm.text.scan.
CJK = (
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
CJK_CHARACTER = re.compile(f"([{CJK}])")
WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")

TEXT_DEDUP_SETTINGS = """
[input]
input_type = "local_files"
file_type = "json"
read_arguments = {{ path = "json", data_files = "{corpus}", split = "train" }}

[algorithm]
algorithm_name = "minhash"
text_column = "text"
num_perm = {n_hashes}
ngram_size = {shingle_words}
min_length = 1
threshold = {threshold}
check_false_positive = true
num_proc = 1
seed = {seed}

[output]
output_dir = "{out}/kept"

[debug]
enable_profiling = false
"""


def main() -> None:
    name, corpus, out = sys.argv[1:]
    folder = Path(out).resolve()
    folder.mkdir(parents=True)
    PEERS[name](Path(corpus).resolve(), folder)


def gaoya(corpus: Path, out: Path) -> None:
    write_ids(out, kept_by_gaoya(read(corpus)))


def gaoya_cjk(corpus: Path, out: Path) -> None:
    spaced = ((identity, " ".join(CJK_CHARACTER.split(text))) for identity, text in read(corpus))
    write_ids(out, kept_by_gaoya(spaced))


def kept_by_gaoya(documents: Iterable[tuple[str, str]]) -> Iterator[str]:
    from gaoya.minhash import MinHashStringIndex

    words = (SHINGLE_WORDS, SHINGLE_WORDS)
    index = MinHashStringIndex(32, THRESHOLD, N_BANDS, N_ROWS, None, "word", True, words, "smallvec")
    for position, (identity, text) in enumerate(documents):
        if not index.query(text):
            index.insert_document(position, text)
            yield identity


def rensa(corpus: Path, out: Path) -> None:
    from rensa import RMinHashDeduplicator

    deduplicator = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=N_HASHES, use_lsh=True)
    with_shingles = ((identity, shingles(text)) for identity, text in read(corpus))
    kept = (
        identity
        for batch in batches(with_shingles)
        for (identity, _), is_new in zip(batch, deduplicator.add_pairs(batch), strict=True)
        if is_new
    )
    write_ids(out, kept)


def datasketch(corpus: Path, out: Path) -> None:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=N_HASHES)
    empty = MinHash(num_perm=N_HASHES)
    kept = []
    for identity, text in read(corpus):
        signature = empty.copy()
        signature.update_batch([shingle.encode() for shingle in set(shingles(text))])
        if not index.query(signature):
            index.insert(identity, signature)
            kept.append(identity)
    write_ids(out, kept)


def fastsketchlsh(corpus: Path, out: Path) -> None:
    from FastSketchLSH import LSH, FastSimilaritySketch

    sketch = FastSimilaritySketch(size=N_HASHES, seed=SEED)
    index = LSH(num_perm=N_HASHES, num_bands=N_BANDS)
    kept = []
    for batch in batches(read(corpus)):
        signatures = sketch.batch([list(set(shingles(text))) for _, text in batch], num_threads=1)
        for row, (identity, _) in enumerate(batch):
            if not index.query(signatures[row]):
                index.insert(signatures[row : row + 1])
                kept.append(identity)
    write_ids(out, kept)


def datatrove(corpus: Path, out: Path) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.utils.hashing import HashConfig

    n_buckets = 14
    settings = MinhashConfig(
        n_grams=SHINGLE_WORDS,
        num_buckets=n_buckets,
        hashes_per_bucket=8,
        hash_config=HashConfig(precision=64),
    )
    documents = JsonlReader(str(corpus.parent), glob_pattern=corpus.name)
    signatures, buckets, removed = f"{out}/signatures", f"{out}/buckets", f"{out}/removed"
    kept = JsonlWriter(f"{out}/kept", compression=None)
    steps = (
        (1, [documents, MinhashDedupSignature(signatures, config=settings)]),
        (n_buckets, [MinhashDedupBuckets(signatures, buckets, config=settings)]),
        (1, [MinhashDedupCluster(buckets, removed, config=settings)]),
        (1, [documents, MinhashDedupFilter(removed), kept]),
    )
    for number, (n_tasks, pipeline) in enumerate(steps):
        LocalPipelineExecutor(pipeline, tasks=n_tasks, workers=1, logging_dir=f"{out}/log-{number}").run()


def text_dedup(corpus: Path, out: Path) -> None:
    settings = TEXT_DEDUP_SETTINGS.format(
        corpus=corpus,
        out=out,
        n_hashes=N_HASHES,
        shingle_words=SHINGLE_WORDS,
        threshold=THRESHOLD,
        seed=SEED,
    )
    (out / "config.toml").write_text(settings)
    os.environ.update(HF_HOME=f"{out}/cache", HF_HUB_OFFLINE="1", POLARS_MAX_THREADS="1")
    os.chdir(out)  # where it looks for config.toml
    sys.argv[1:] = []
    runpy.run_module("text_dedup.minhash", run_name="__main__", alter_sys=True)


def shingles(text: str) -> list[str]:
    """Give the shingles in order; a text of fewer words is one shingle."""
    words = WORD.findall(text.lower())
    if len(words) < SHINGLE_WORDS:
        return [" ".join(words)]
    return list(map(" ".join, zip(*(words[start:] for start in range(SHINGLE_WORDS)), strict=False)))


def read(corpus: Path) -> Iterator[tuple[str, str]]:
    """Give id and text of the documents of a .jsonl.zst file."""
    with corpus.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as unpacked:
        for line in io.BufferedReader(unpacked, 1 << 20):
            document = orjson.loads(line)
            yield document["id"], document["text"]


def batches(documents: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(islice(documents, BATCH_DOCUMENTS)):
        yield batch


def write_ids(out: Path, identities: Iterable[str]) -> None:
    (out / "kept.txt").write_text("".join(f"{identity}\n" for identity in identities))


PEERS = {
    "gaoya": gaoya,
    "gaoya-cjk": gaoya_cjk,
    "rensa": rensa,
    "datasketch": datasketch,
    "fastsketchlsh": fastsketchlsh,
    "datatrove": datatrove,
    "text-dedup": text_dedup,
}

if __name__ == "__main__":
    main()
