"""A Bloom filter for the keys of documents: how large it must be, and how far it can be trusted."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsllm.errors import ConfigError
from dsllm.stages.dedup.bands import choose_bands
from dsllm.stages.dedup.bloom_compiled import sift
from dsllm.stages.dedup.config import DedupConfig
from dsllm.text.shingles import Hashes

WORD_BITS = 64
MIN_ESTIMATE = 100_000  # documents: where inputs are small, an estimate from their bytes may be far off


@dataclass(frozen=True)
class FilterSize:
    """How a filter is made, and for what: `n_documents` of `n_keys` keys each, with `error` a document."""

    n_documents: int
    n_keys: int
    error: float
    n_bits: int
    n_probes: int

    @property
    def n_bytes(self) -> int:
        """What it takes in memory."""
        return self.n_bits // 8


def size_filter(n_documents: int, n_keys: int, error: float) -> FilterSize:
    """Choose the least filter in which a document is found by chance with probability `error` at most.

    A document is found when one of its keys is, so a key may be with q = 1 - (1 - error)**(1 / n_keys). When
    n = n_documents * n_keys keys have set k bits each, a share f = 1 - exp(-k n / m) of m bits is set, and a
    key that is not in the filter meets k of them with probability f**k. So m = -k n / ln(1 - q**(1 / k)),
    which is least for k near log2(1 / q): half the bits are set, and a key takes 1.44 log2(1 / q) of them.

    One array holds the keys of all bands: the bits are those of a filter for each band. Source: Bloom 1970,
    Space/time trade-offs in hash coding with allowable errors; filters for bands: Khan et al. 2024,
    arXiv:2411.04257.
    """
    by_chance = -math.expm1(math.log1p(-error) / n_keys)
    n_inserted = n_documents * n_keys
    middle = -math.log2(by_chance)
    sizes = [
        (-n_probes * n_inserted / math.log1p(-(by_chance ** (1.0 / n_probes))), n_probes)
        for n_probes in {max(1, math.floor(middle)), math.ceil(middle)}
    ]
    n_bits, n_probes = min(sizes)
    n_words = math.ceil(n_bits / WORD_BITS)
    return FilterSize(n_documents, n_keys, error, n_words * WORD_BITS, n_probes)


def choose_size(config: DedupConfig, n_estimated: int | None) -> FilterSize:
    """Size the filter as the settings say, for so many documents as are estimated where they do not.

    Raises:
        ConfigError: there is no estimate, or the filter does not fit the memory.
    """
    n_documents = config.bloom_documents
    if n_documents is None:
        if n_estimated is None:
            raise ConfigError(
                "bloom_documents is not given, and standard input does not tell how many will come",
                hint="give the number, rather too high than too low: --bloom-documents 1000000",
            )
        n_documents = max(MIN_ESTIMATE, n_estimated)
    n_bands = choose_bands(config)[0] if config.level == "near" else 0
    size = size_filter(n_documents, 1 + n_bands, config.bloom_error)
    if size.n_bytes > config.memory_bytes:
        fitting = n_documents * config.memory_bytes // size.n_bytes
        raise ConfigError(
            f"filters for {n_documents:,} documents with an error of {config.bloom_error:g} take "
            f"{size.n_bytes:,} bytes, but memory is {config.memory}",
            hint=f"give --memory {math.ceil(size.n_bytes / 1e9)}GB, a greater --bloom-error, or "
            f"--bloom-documents {fitting} if no more will stay",
        )
    return size


class BloomFilter:
    """The filter itself, and what is in it."""

    def __init__(self, size: FilterSize) -> None:
        self.size = size
        self.n_set = 0
        self.n_inserted = 0
        self.n_keys_inserted = 0
        try:
            self._bits = np.zeros(size.n_bits // WORD_BITS, np.uint64)
        except MemoryError:
            raise ConfigError(
                f"the filters take {size.n_bytes:,} bytes, which this machine does not give",
                hint="give a greater --bloom-error or fewer --bloom-documents",
            ) from None

    def sift(self, keys: Hashes, n_used: NDArray[np.int64]) -> NDArray[np.int64]:
        """Look up documents in order, and insert those that stay: see `bloom_compiled.sift`."""
        hits = np.empty(len(keys), np.int64)
        self.n_set += sift(self._bits, self.size.n_probes, keys, n_used, hits)
        stays = hits < 0
        self.n_inserted += int(np.count_nonzero(stays))
        self.n_keys_inserted += int(n_used[stays].sum())
        return hits

    @property
    def bits_set_frac(self) -> float:
        """The share of the bits that are set."""
        return self.n_set / self.size.n_bits

    @property
    def error(self) -> float:
        """The probability that a document none of whose keys is in the filter is found, as full as it is now.

        Two keys are the same by chance with probability 2**-64.
        """
        by_chance = self.bits_set_frac**self.size.n_probes + self.n_keys_inserted / 2.0**64
        return -math.expm1(self.size.n_keys * math.log1p(-min(by_chance, 1.0 - 1e-16)))
