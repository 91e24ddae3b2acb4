"""What `dsllm filter --decontaminate` finds: items planted into documents, and documents as they are.

    DSLLM_TEST_DATA=... python benchmarks/decontamination.py [items of a set, 200 unless given]

Reads `eval.tar.xz` (30 evaluation sets in their own formats) and `pretrain/` there. Of each set so many texts
are drawn and each is planted into a document of its own: as it is, and with one word at a random place
changed, left out or put in. Texts that the settings say are not looked for are counted apart. Then every
document of `pretrain/` is checked as it is; a quote of fewer than 20 words may be chance, a longer one is a
text that both have from somewhere. Prints one JSON object; seconds are of the processor.
"""

import json
import os
import random
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dsllm.io.documents import parse_batch
from dsllm.io.sources import find_sources, read_batches
from dsllm.stages.filter.benchmarks import ItemText
from dsllm.stages.filter.decontaminate import Contamination, Decontaminator
from dsllm.text.scan import word_spans, words
from dsllm.text.texts import Texts

LEAST_WORDS, LEAST_CHANGED, N_WORDS = 8, 12, 13  # the defaults of the settings
CHANGES = ("exact", "changed", "missing", "added")
CHANCE_WORDS = 20
OTHER_WORDS = {"zh": "某", "other": "otherwise"}


def main() -> None:
    data = Path(os.environ["DSLLM_TEST_DATA"])
    n_items = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(data / "eval.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        started_s = time.process_time()
        found = Decontaminator.read([f"{folder}/eval"])
        build_s = time.process_time() - started_s
    texts = [text for batch in read_texts(data / "pretrain") for text in batch]
    report = {
        "n_texts_of_items": len(found.texts),
        "n_asked_by_many": int(found.is_common.sum()),
        "n_words_of_items": len(found.index.references),
        "build_s": round(build_s, 1),
        "planted": plant(found, texts, n_items),
        "clean": check_clean(found, data / "pretrain"),
    }
    json.dump(report, sys.stdout, indent=1, ensure_ascii=False)
    print()


def read_texts(folder: Path) -> Iterator[list[str]]:
    for source in find_sources([str(path) for path in sorted(folder.glob("*.jsonl.zst"))]):
        for batch in read_batches(source):
            yield [document.text for document in parse_batch(batch, text_field="text", on_error="stop")[0]]


def plant(found: Decontaminator, texts: list[str], n_items: int) -> dict[str, object]:
    """Plant items; says for Chinese and other items how many of how many were found."""
    generator = random.Random(0)
    by_set: dict[str, list[ItemText]] = {}
    for item in found.texts:
        by_set.setdefault(item.file.split("/")[1], []).append(item)
    planted: list[tuple[str, str, str]] = []
    common = {item.text for item, is_common in zip(found.texts, found.is_common, strict=True) if is_common}
    n_not_looked_for = 0
    for items in by_set.values():
        for item in generator.sample(items, min(n_items, len(items))):
            size = 0 if item.text in common else n_telling(item.text)
            n_not_looked_for += size < LEAST_WORDS
            language = "zh" if any("\u4e00" <= character <= "\u9fff" for character in item.text) else "other"
            for change in CHANGES:
                if size >= (LEAST_WORDS if change == "exact" else LEAST_CHANGED):
                    text = generator.choice(texts)
                    cut = generator.randrange(len(text) + 1)
                    changed = alter(item.text, change, generator, OTHER_WORDS[language])
                    planted.append((language, change, f"{text[:cut]}\n{changed}\n{text[cut:]}"))
    n_planted, n_found = Counter(), Counter()
    for first in range(0, len(planted), 400):
        part = planted[first : first + 400]
        hits = found.check(Texts.join([text.encode() for _, _, text in part]))
        for number, (language, change, _) in enumerate(part):
            n_planted[f"{language} {change}"] += 1
            n_found[f"{language} {change}"] += number in hits
    return {
        "n_sets": len(by_set),
        "n_not_looked_for": n_not_looked_for,
        "found": {key: f"{n_found[key]:,} of {n:,}" for key, n in sorted(n_planted.items())},
    }


def n_telling(text: str) -> int:
    """Count the words of a text, 0 where it is of numbers and signs."""
    split = words(text, fold=True)
    n_distinct = len({word for word in split if any(map(str.isalpha, word))})
    return len(split) if 2 * n_distinct >= min(N_WORDS, len(split)) else 0


def alter(text: str, change: str, generator: random.Random, other: str) -> str:
    """Change one word of a text, leave it out, or put another before it.

    A space is left in its place, since what stands around a Chinese character may be one word without it.
    """
    if change == "exact":
        return text
    start, end = generator.choice(word_spans(text))
    new = {"changed": other, "missing": " ", "added": f"{other} {text[start:end]}"}[change]
    return text[:start] + new + text[end:]


def check_clean(found: Decontaminator, folder: Path) -> dict[str, object]:
    """Check documents as they are, and say how fast."""
    n_documents = n_hit = n_by_chance = n_bytes = 0
    seconds = index_s = 0.0
    shortest: list[str] = []
    for batch in read_texts(folder):
        packed = Texts.join([text.encode() for text in batch])
        started_s = time.process_time()
        hits = found.check(packed)
        seconds += time.process_time() - started_s
        started_s = time.process_time()
        found.index.find(packed)
        index_s += time.process_time() - started_s
        n_documents, n_bytes = n_documents + len(batch), n_bytes + int(packed.ends[-1])
        n_hit += len(hits)
        by_chance = [hit[0] for hit in hits.values() if len(longest(hit).quote.split()) < CHANCE_WORDS]
        n_by_chance += len(by_chance)
        shortest += [f"{hit.item}: {hit.quote}" for hit in by_chance]
    return {
        "n_documents": n_documents,
        "hit": f"{n_hit / n_documents:.4%}",
        "hit_by_fewer_words": f"{n_by_chance / n_documents:.4%}",
        "mb_per_s": round(n_bytes / seconds / 1e6),
        "mb_per_s_of_compiled_passes": round(n_bytes / index_s / 1e6),
        "quotes_of_fewer_words": shortest,
    }


def longest(hits: list[Contamination]) -> Contamination:
    return max(hits, key=lambda hit: len(hit.quote.split()))


if __name__ == "__main__":
    main()
