"""Personal data in real documents: what `--mask-personal` of `dsllm filter` finds, and what datatrove does.

    DSLLM_TEST_DATA=... python benchmarks/personal_data.py
    DSLLM_TEST_DATA=... PEER/bin/python benchmarks/personal_data.py datatrove

Reads `pretrain/` there. The second form needs nothing but datatrove and zstandard: it replaces e-mail and IP
addresses with `PIIFormatter` and counts them by the calls of its replacers. Seconds are of the processor.
Prints one JSON object.
"""

import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import zstandard


def main() -> None:
    folder = Path(os.environ["DSLLM_TEST_DATA"]) / "pretrain"
    n_found, n_bytes, seconds = (by_datatrove if sys.argv[1:] == ["datatrove"] else by_dsllm)(folder)
    report = {"found": dict(sorted(n_found.items())), "mb_per_s": round(n_bytes / seconds / 1e6, 2)}
    json.dump(report, sys.stdout, indent=1)
    print()


def read_texts(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for path in sorted(folder.glob("*.jsonl.zst")):
        with path.open("rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8", newline="\n")
            texts = [json.loads(line)["text"] for line in lines]
        for first in range(0, len(texts), 400):
            yield path.name.split("-")[0], texts[first : first + 400]


def by_dsllm(folder: Path) -> tuple[Counter[str], int, float]:
    from dsllm.text.edits import apply_edits
    from dsllm.text.personal import find_edits
    from dsllm.text.texts import Texts

    n_found, n_bytes, seconds = Counter(), 0, 0.0
    for domain, texts in read_texts(folder):
        packed = Texts.join([text.encode() for text in texts])
        started_s = time.process_time()
        edits, kinds = find_edits(packed)
        apply_edits(packed, edits)
        seconds += time.process_time() - started_s
        n_bytes += int(packed.ends[-1])
        n_found.update(f"{domain} {kind}" for kind in kinds)
        n_found.update(kinds)
    return n_found, n_bytes, seconds


def by_datatrove(folder: Path) -> tuple[Counter[str], int, float]:
    from datatrove.pipeline.formatters import PIIFormatter

    formatter = PIIFormatter()
    n_found, n_bytes, seconds = Counter(), 0, 0.0
    for domain, texts in read_texts(folder):
        started_s = time.process_time()
        for text in texts:
            formatter.format(text)
        seconds += time.process_time() - started_s
        n_bytes += sum(len(text.encode()) for text in texts)
        for kind, replacer in (("email", formatter.emails_replacer), ("ip", formatter.ip_replacer)):
            checks = replacer.validator or (lambda _: True)
            n = sum(checks(found[0]) for text in texts for found in replacer.regex.finditer(text))
            n_found[f"{domain} {kind}"] += n
            n_found[kind] += n
    return n_found, n_bytes, seconds


if __name__ == "__main__":
    main()
