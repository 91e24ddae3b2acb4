"""What a run of `dsllm dedup` would read, write and need, estimated from the sizes of its inputs."""

from collections.abc import Sequence
from typing import Any

from dsllm.config import RunOptions
from dsllm.io.sources import Source, find_sources, total_bytes
from dsllm.progress import Reporter
from dsllm.stages.dedup.bands import choose_bands, describe_curve
from dsllm.stages.dedup.bloom_filter import choose_size
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.index import read_indices

# Assumed, as only reading would tell. Pages of the web in zstd and gzip are 3 to 5 times as large unpacked.
UNPACKED_RATIO = 4.0
BYTES_PER_DOCUMENT = 4000
BYTES_PER_WORD = 6
PACKED_SUFFIXES = (".gz", ".zst", ".zstd", ".parquet")
# Measured with one worker, the start taken off: of 223 MB of unlike documents 80 to 95 MB/s, of 3.6 GB with
# 1 GB of memory 67 MB/s; by --bloom 93 MB/s. Taken from the slower side.
BYTES_PER_S = {"near": 60e6, "exact": 90e6, "bloom": 80e6}
START_S = 0.5
BLOOM_SIMILARITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
PROGRAM_BYTES = 250_000_000  # of memory, whatever the inputs
# Of a document in an index: its row, an id of 20 bytes and, at level near, a few sampled shingles.
ROW_BYTES, NEAR_ROW_BYTES = 76, 40
INDEXED_BYTES = 70  # of scratch files for an indexed document, besides its bands


def plan(
    config: DedupConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Say what a run would read and write, what the bands would find, and the cost; read no document.

    The estimates are bytes of input, unpacked, times factors; `assumed` has the factors. Scratch files are
    bounded for the case that every document must be compared with another, an index for the case that every
    one stays.

    Raises:
        ConfigError: an index does not fit the settings.
        InputError: one is no index, or incomplete.
    """
    sources = find_sources(inputs)
    n_bytes = _unpacked_bytes(sources)
    n_documents = n_bytes / BYTES_PER_DOCUMENT
    bytes_per_s = BYTES_PER_S["bloom" if config.bloom else config.level]
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
        found |= {"threshold": config.threshold, "n_bands": n_bands, "n_rows": n_rows}
        if config.bloom:
            found["share_of_pairs_that_share_a_band"] = describe_curve(config, BLOOM_SIMILARITIES)
        else:
            found["expected_recall"] = describe_curve(config, (0.7, 0.8, 0.9))
    memory_bytes, scratch_bytes = config.memory_bytes, round(n_documents * per_document)
    if config.bloom:
        size = choose_size(config, estimate_documents(sources))
        memory_bytes, scratch_bytes = size.n_bytes, 0
        found |= {
            "bloom_documents": size.n_documents,
            "filter_bytes": size.n_bytes,
            "filter_bits_per_document": round(size.n_bits / size.n_documents, 1),
            "false_positive_probability_when_full": size.error,
        }
    found |= (indices := _plan_indices(config, n_documents))
    per_indexed = INDEXED_BYTES + (16 * n_bands if is_near else 0)
    scratch_bytes += indices.get("n_indexed_documents", 0) * per_indexed
    return found | {
        "n_unpacked_bytes": round(n_bytes),
        "n_documents": round(n_documents),
        "scratch_bytes_at_most": scratch_bytes,
        "memory_bytes": memory_bytes + PROGRAM_BYTES,
        "time_s": round(START_S + n_bytes / bytes_per_s / options.n_workers, 1),
        "not_counted": [source.path for source in sources if source.path == "-"],
        "assumed": {
            "unpacked bytes per compressed byte": UNPACKED_RATIO,
            "bytes per document": BYTES_PER_DOCUMENT,
            "bytes per word": BYTES_PER_WORD,
            "bytes per second and worker": bytes_per_s,
        },
    }


def _plan_indices(config: DedupConfig, n_documents: float) -> dict[str, int]:
    """Say what would be read of indices, and how large the one to be written is when every document stays."""
    found: dict[str, int] = {}
    if indices := read_indices(config).values():
        found["n_indexed_documents"] = sum(manifest.counts["n_documents"] for manifest in indices)
        sizes = [shard.n_bytes for manifest in indices for shard in manifest.shards]
        found["n_index_bytes_to_read"] = sum(sizes)
    if config.write_index is not None:
        per_document = ROW_BYTES
        if config.level == "near":
            per_document += 4 * config.n_hashes + NEAR_ROW_BYTES + 4 * (BYTES_PER_DOCUMENT // BYTES_PER_WORD)
        found["index_bytes_at_most"] = round(n_documents * per_document)
    return found


def estimate_documents(sources: Sequence[Source]) -> int | None:
    """Estimate how many documents there are; None where a source does not tell its size."""
    if any(source.path == "-" for source in sources):
        return None
    return round(_unpacked_bytes(sources) / BYTES_PER_DOCUMENT)


def _unpacked_bytes(sources: Sequence[Source]) -> float:
    return sum(
        source.n_bytes * (UNPACKED_RATIO if source.path.endswith(PACKED_SUFFIXES) else 1.0)
        for source in sources
    )
