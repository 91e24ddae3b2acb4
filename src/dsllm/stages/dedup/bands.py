"""Bands of a MinHash signature: how many, of how many rows, and what they find."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsllm.errors import ConfigError
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.groups_compiled import hash_bands
from dsllm.text.shingles import Hashes

_N_STEPS = 1000  # of each integral below; ten times as many change no choice


def find_probability(similarity: float, n_bands: int, n_rows: int) -> float:
    """Chance that a pair shares at least one band: 1 - (1 - similarity**n_rows)**n_bands.

    Source: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.2.
    """
    return float(1.0 - (1.0 - similarity**n_rows) ** n_bands)


def describe_curve(config: DedupConfig, similarities: Sequence[float]) -> dict[str, float]:
    """Tell what share of pairs shares a band at each of some similarities and at the threshold."""
    bands = choose_bands(config)
    return {
        str(one): round(find_probability(one, *bands), 5) for one in sorted({*similarities, config.threshold})
    }


def choose_bands(config: DedupConfig) -> tuple[int, int]:
    """Return (n_bands, n_rows): as given, or the most selective ones with the stated recall.

    A pair that shares a band is compared before anything is removed, so the choice weighs recall against
    work, not against precision: rows are as many as the recall at the threshold allows. With `bloom` nothing
    is compared, so it balances both errors.

    Raises:
        ConfigError: even one row a band finds too few pairs.
    """
    if config.n_bands and config.n_rows:
        return config.n_bands, config.n_rows
    if config.bloom:
        return balance_bands(config.threshold, config.n_hashes)
    for n_rows in range(config.n_hashes, 0, -1):
        n_bands = config.n_hashes // n_rows
        if find_probability(config.threshold, n_bands, n_rows) >= config.recall:
            return n_bands, n_rows
    reached = find_probability(config.threshold, config.n_hashes, 1)
    raise ConfigError(
        f"recall is {config.recall}, but {config.n_hashes} hashes reach {reached:.4f} at {config.threshold}",
        hint=f"try --n-hashes {min(4096, config.n_hashes * 4)}, or a lower --recall",
    )


@functools.lru_cache(maxsize=16)
def balance_bands(threshold: float, n_hashes: int) -> tuple[int, int]:
    """Return the (n_bands, n_rows) with the least sum of two areas beside the curve of `find_probability`.

    They are the area under it below the threshold (pairs found that should not be) and the area over it from
    the threshold on (pairs missed). Source: the choice is that of `datasketch.MinHashLSH` with equal weights.
    """
    middles = (np.arange(_N_STEPS) + 0.5) / _N_STEPS
    below, above = threshold * middles, threshold + (1.0 - threshold) * middles
    best = (np.inf, 0, 0)
    for n_rows in range(1, n_hashes + 1):
        n_bands = np.arange(1, n_hashes // n_rows + 1)[:, None]
        missed_below = ((1.0 - below**n_rows) ** n_bands).mean(axis=1)
        missed_above = ((1.0 - above**n_rows) ** n_bands).mean(axis=1)
        areas = threshold * (1.0 - missed_below) + (1.0 - threshold) * missed_above
        place = int(np.argmin(areas))
        best = min(best, (float(areas[place]), place + 1, n_rows))
    return best[1:]


def band_keys(signatures: NDArray[np.uint32], n_bands: int, n_rows: int) -> Hashes:
    """Hash each band of each signature, and its place: (n_documents, n_hashes) to (n_bands, n_documents)."""
    keys = np.empty((n_bands, len(signatures)), np.uint64)
    hash_bands(np.ascontiguousarray(signatures), n_rows, keys)
    return keys
