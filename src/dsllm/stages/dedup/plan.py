"""What a run of `dsllm dedup` would read, write and need, estimated from the sizes of its inputs."""

from collections.abc import Sequence
from typing import Any

from dsllm.config import RunOptions
from dsllm.io.sources import find_sources, total_bytes
from dsllm.progress import Reporter
from dsllm.stages.dedup.bands import choose_bands, find_probability
from dsllm.stages.dedup.config import DedupConfig


def plan(
    config: DedupConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Say what a run would read and write, and what the bands would find; read no document."""
    n_bands, n_rows = choose_bands(config)
    sources = find_sources(inputs)
    return {
        "stage": "dedup",
        "output": output,
        "n_sources": len(sources),
        "n_bytes_to_read": total_bytes(sources),
        "n_bands": n_bands,
        "n_rows": n_rows,
        "expected_recall": {
            str(similarity): round(find_probability(similarity, n_bands, n_rows), 5)
            for similarity in sorted({0.7, 0.8, 0.9, config.threshold})
        },
        "scratch_bytes_per_document": 4 * config.n_hashes + 16 * n_bands + 100,
        "scratch_bytes_per_word": 8,
        "memory_bytes_per_document": 150,
    }
