"""Bands of a MinHash signature: how many, of how many rows, and what they find."""

import numpy as np
from numpy.typing import NDArray

from dsllm.errors import ConfigError
from dsllm.stages.dedup.config import DedupConfig
from dsllm.text.shingles import Hashes, fmix64

_BASE = np.uint64(0x9E3779B97F4A7C15)


def find_probability(similarity: float, n_bands: int, n_rows: int) -> float:
    """Chance that a pair shares at least one band: 1 - (1 - similarity**n_rows)**n_bands.

    Source: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.2.
    """
    return float(1.0 - (1.0 - similarity**n_rows) ** n_bands)


def choose_bands(config: DedupConfig) -> tuple[int, int]:
    """Return (n_bands, n_rows): as given, or the most selective ones with the stated recall.

    A pair that shares a band is compared before anything is removed, so the choice weighs recall against
    work, not against precision: rows are as many as the recall at the threshold allows.

    Raises:
        ConfigError: even one row a band finds too few pairs.
    """
    if config.n_bands and config.n_rows:
        return config.n_bands, config.n_rows
    for n_rows in range(config.n_hashes, 0, -1):
        n_bands = config.n_hashes // n_rows
        if find_probability(config.threshold, n_bands, n_rows) >= config.recall:
            return n_bands, n_rows
    reached = find_probability(config.threshold, config.n_hashes, 1)
    raise ConfigError(
        f"recall is {config.recall}, but {config.n_hashes} hashes reach {reached:.4f} at {config.threshold}",
        hint=f"try --n-hashes {min(4096, config.n_hashes * 4)}, or a lower --recall",
    )


def band_keys(signatures: NDArray[np.uint32], n_bands: int, n_rows: int) -> Hashes:
    """Hash each band of each signature, and its place: (n_documents, n_hashes) to (n_bands, n_documents)."""
    n_documents = len(signatures)
    bands = signatures[:, : n_bands * n_rows].reshape(n_documents, n_bands, n_rows)
    keys = np.zeros((n_bands, n_documents), np.uint64)
    for row in range(n_rows):
        keys *= _BASE
        keys += bands[:, :, row].T
    return fmix64(keys + np.arange(n_bands, dtype=np.uint64)[:, None] * _BASE)
