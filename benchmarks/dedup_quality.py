"""Quality of `dsllm dedup` against exact Jaccard similarities of all pairs.

    DSLLM_TEST_DATA=... python benchmarks/dedup_quality.py [any flag of dsllm dedup, such as --threshold 0.9]

Reads `neardup/` there: dumps of documentation sites, and every pair whose similarity (sets of 5-word
shingles) is at least 0.2, computed without sketches. Prints one JSON object:

- recall: share of the true pairs (similarity at least the threshold) of which a member was removed; also for
  pairs of Chinese and of other documents alone;
- kept_twin: share of the removed documents of which a truly similar document stays;
- wiped: true clusters (pairs joined by single link) of which nothing stays.
"""

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import orjson

from dsllm.cli.main import run_command_line
from dsllm.io.documents import parse_batch
from dsllm.io.manifest import read_manifest
from dsllm.io.sources import find_sources, read_batches
from dsllm.stages.dedup.config import DedupConfig


def main() -> None:
    data = Path(os.environ["DSLLM_TEST_DATA"]) / "neardup"
    dumps = sorted(map(str, data.glob("dump-*.jsonl.zst")))
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.perf_counter()
        if status := run_command_line(["dedup", *dumps, "-o", f"{folder}/out", "--quiet", *sys.argv[1:]]):
            sys.exit(status)
        wall_s = time.perf_counter() - started_s
        manifest = read_manifest(f"{folder}/out")
        kept = {document["id"] for document in read_documents([f"{folder}/out"])}
    config = DedupConfig.build(manifest.config)
    languages = {document["id"]: language(document["text"]) for document in read_documents(dumps)}
    pairs = read_lines(str(data / "pairs.jsonl.zst"))
    pairs = [pair for pair in pairs if pair["jaccard"] >= config.threshold]
    report = {**config.changed(), **measure(languages, kept, pairs), "wall_s": round(wall_s, 1)}
    json.dump({**report, "counts": manifest.counts, "content": manifest.content}, sys.stdout, indent=1)
    print()


def measure(languages: dict[str, str], kept: set[str], pairs: list[dict[str, object]]) -> dict[str, object]:
    """Compare what stays with the true pairs."""
    twins = defaultdict(set)
    for pair in pairs:
        twins[pair["a"]].add(pair["b"])
        twins[pair["b"]].add(pair["a"])
    report: dict[str, object] = {}
    for name, members in (("", {"zh", "other"}), ("_zh", {"zh"}), ("_other", {"other"})):
        of_kind = [p for p in pairs if languages[p["a"]] in members and languages[p["b"]] in members]
        broken = sum(not (p["a"] in kept and p["b"] in kept) for p in of_kind)
        report["recall" + name] = round(broken / len(of_kind), 5)
    removed = [identity for identity in languages if identity not in kept]
    report["kept_twin"] = round(sum(bool(twins[identity] & kept) for identity in removed) / len(removed), 5)
    found = clusters(twins)
    report["n_clusters"] = len(found)
    report["wiped"] = sum(not (cluster & kept) for cluster in found)
    report["n_pairs"] = len(pairs)
    report["n_removed"] = len(removed)
    return report


def clusters(twins: dict[str, set[str]]) -> list[set[str]]:
    """Join pairs by single link."""
    found, seen = [], set()
    for start in twins:
        if start in seen:
            continue
        cluster, waiting = set(), [start]
        while waiting:
            identity = waiting.pop()
            if identity not in cluster:
                cluster.add(identity)
                waiting += twins[identity]
        seen |= cluster
        found.append(cluster)
    return [cluster for cluster in found if len(cluster) > 1]


def language(text: str) -> str:
    """Call a document Chinese when a tenth of its first 3,000 characters are ideographs."""
    head = text[:3000]
    return "zh" if sum("\u4e00" <= character <= "\u9fff" for character in head) > len(head) / 10 else "other"


def read_documents(inputs: list[str]) -> list[dict[str, str]]:
    return [
        document.fields
        for source in find_sources(inputs)
        for batch in read_batches(source)
        for document in parse_batch(batch, text_field="text", on_error="stop")[0]
    ]


def read_lines(path: str) -> list[dict[str, float]]:
    (source,) = find_sources([path])
    return [orjson.loads(line) for batch in read_batches(source) for line in batch.lines.splitlines()]


if __name__ == "__main__":
    main()
