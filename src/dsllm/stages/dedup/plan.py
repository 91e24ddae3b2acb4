"""What a run of `dsllm dedup` would read, write and need, estimated from the sizes of its inputs."""

from collections.abc import Sequence
from typing import Any

from dsllm.config import RunOptions
from dsllm.io.sources import find_sources, total_bytes
from dsllm.progress import Reporter
from dsllm.stages.dedup.bands import choose_bands, find_probability
from dsllm.stages.dedup.config import DedupConfig

# Assumed, as only reading would tell. Pages of the web in zstd and gzip are 3 to 5 times as large unpacked.
UNPACKED_RATIO = 4.0
BYTES_PER_DOCUMENT = 4000
BYTES_PER_WORD = 6
PACKED_SUFFIXES = (".gz", ".zst", ".zstd", ".parquet")
# Measured with one worker, the start taken off: of 187 MB of unlike documents 55 MB/s, for copies alone
# 100 MB/s; of 29 MB where seven in ten documents are duplicates 26 MB/s. Taken from the slower side.
BYTES_PER_S = {"near": 25e6, "exact": 60e6}
START_S = 1.2
PROGRAM_BYTES = 250_000_000  # of memory, whatever the inputs


def plan(
    config: DedupConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Say what a run would read and write, what the bands would find, and the cost; read no document.

    The estimates are bytes of input, unpacked, times factors; `assumed` has the factors. Scratch files are
    bounded for the case that every document must be compared with another.
    """
    sources = find_sources(inputs)
    n_bytes = sum(
        source.n_bytes * (UNPACKED_RATIO if source.path.endswith(PACKED_SUFFIXES) else 1.0)
        for source in sources
    )
    n_documents = n_bytes / BYTES_PER_DOCUMENT
    n_bands, n_rows = choose_bands(config)
    is_near = config.level == "near"
    near_bytes = 4 * config.n_hashes + 16 * n_bands + 8 * BYTES_PER_DOCUMENT // BYTES_PER_WORD
    per_document = 150 + (near_bytes if is_near else 0)
    found: dict[str, Any] = {
        "stage": "dedup",
        "output": output,
        "n_sources": len(sources),
        "n_bytes_to_read": total_bytes(sources),
    }
    if is_near:
        similarities = sorted({0.7, 0.8, 0.9, config.threshold})
        recall = {str(one): round(find_probability(one, n_bands, n_rows), 5) for one in similarities}
        found |= {
            "threshold": config.threshold,
            "n_bands": n_bands,
            "n_rows": n_rows,
            "expected_recall": recall,
        }
    return found | {
        "n_unpacked_bytes": round(n_bytes),
        "n_documents": round(n_documents),
        "scratch_bytes_at_most": round(n_documents * per_document),
        "memory_bytes": config.memory_bytes + PROGRAM_BYTES,
        "time_s": round(START_S + n_bytes / BYTES_PER_S[config.level] / options.n_workers, 1),
        "not_counted": [source.path for source in sources if source.path == "-"],
        "assumed": {
            "unpacked bytes per compressed byte": UNPACKED_RATIO,
            "bytes per document": BYTES_PER_DOCUMENT,
            "bytes per second and worker": BYTES_PER_S[config.level],
        },
    }
