"""Who goes for whom, said in JSON: the notes of removed documents, and the file that `--pairs` names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.io.atomic import atomic_file
from dsllm.stages.dedup.corpus import Corpus, Numbers
from dsllm.stages.dedup.decide import LEVEL_NAMES, STAYS


def describe_documents(corpus: Corpus, numbers: Numbers) -> list[dict[str, Any]]:
    """Name documents by id, source and line."""
    lines = corpus.gather_rows(numbers)["line"].tolist()
    sources = (np.searchsorted(corpus.starts, numbers, side="right") - 1).tolist()
    return [
        {"id": identity, "source": corpus.paths[source], "line": line}
        for identity, source, line in zip(corpus.identities(numbers), sources, lines, strict=True)
    ]


def describe_reasons(corpus: Corpus, verdicts: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Say of removed documents why each goes: the level, the similarity, and which one stays for it."""
    kept = describe_documents(corpus, np.array(verdicts["kept"]))
    for verdict, document in zip(verdicts, kept, strict=True):
        yield {
            "level": LEVEL_NAMES[int(verdict["level"])],
            "similarity": float(verdict["similarity"]),
            "kept": document,
        }


def write_pairs(path: Path, corpus: Corpus, verdicts: NDArray[Any]) -> None:
    """Write a line per removed document, in order, a chunk of documents in memory at a time."""
    with atomic_file(path) as file:
        for chunk in corpus.own.chunks():
            end_number = chunk.first_number + chunk.end_row - chunk.first_row
            found = np.array(verdicts[chunk.first_number : end_number])
            goes = np.flatnonzero(found["level"] != STAYS)
            removed = describe_documents(corpus, chunk.first_number + goes)
            for document, reason in zip(removed, describe_reasons(corpus, found[goes]), strict=True):
                pair = {
                    "removed": document,
                    "kept": reason["kept"],
                    "similarity": reason["similarity"],
                    "level": reason["level"],
                }
                file.write(orjson.dumps(pair) + b"\n")
