"""`dsllm dedup --bloom`: one pass, with nothing kept of a document but bits of a filter.

Each document is signed; its digest and the keys of its bands are looked up in a Bloom filter. Where one is in
it the document goes, else it stays and its keys are inserted, so a document goes only for one that stays, or
by chance: likeness is not passed on along chains. Nothing is verified: the texts of those that stay are gone.
What the bands find is all there is, so `balance_bands` chooses them, and unlike documents go too.

Workers sign batches; this process looks up and inserts in the order of the inputs, so the result is a
function of inputs and settings. A killed run reads finished sources again to fill the filter, from empty.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.config import RunOptions
from dsllm.errors import InputError
from dsllm.io.documents import BadLine, Batch
from dsllm.io.edit import add_field
from dsllm.io.sources import Source, find_sources
from dsllm.progress import Reporter
from dsllm.stages.dedup.bands import band_keys, choose_bands, describe_curve, find_probability
from dsllm.stages.dedup.bloom_compiled import STAYS
from dsllm.stages.dedup.bloom_filter import BloomFilter, choose_size
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.divide import NOTE_FIELD
from dsllm.stages.dedup.plan import BLOOM_SIMILARITIES, estimate_documents
from dsllm.stages.dedup.sign import Sign
from dsllm.stages.dedup.table import show_removed
from dsllm.text.compiled import announce_compiling
from dsllm.text.json_lines import join_lines, lines_of
from dsllm.text.scan import UNICODE_VERSION
from dsllm.text.shingles import Hashes, fmix64
from dsllm.workers.documents import Part, map_documents
from dsllm.workers.passes import map_by_source

STAGE, REMOVED = "dedup", "removed"
COUNTS = "n_documents", "n_kept", "n_removed_exact", "n_removed_near", "n_text_bytes", "n_text_bytes_kept"
MAX_ERROR = 0.01  # or ten times what was asked for: a filter so full takes too much, and the run stops
_DIGEST = 0  # the place of its key
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def run_bloom(
    config: DedupConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Write the documents of `inputs` that no filter knows to `output`; return the counts and the error.

    Raises:
        ConfigError: the filter cannot be sized, or does not fit the memory.
        InputError: there is no document in any input, or the filter is too full.
    """
    sources = find_sources(inputs)
    size = choose_size(config, estimate_documents(sources))
    bands = choose_bands(config) if config.level == "near" else (0, 0)
    task = SignKeys(Sign(config), bands)
    with ExitStack() as stack:
        stack.enter_context(announce_compiling(reporter.say))
        bar = stack.enter_context(Reporter(is_quiet=True).bar(STAGE, total=None, unit="bytes"))
        signed = map_by_source(task, sources, options=options, reporter=reporter, bar=bar)
        stack.callback(signed.close)  # type: ignore[attr-defined]  # a generator: its workers stop with this run
        sieve = _Sieve(config, signed, BloomFilter(size), reporter)
        counts = map_documents(
            Pack(),
            stage=STAGE,
            config=config,
            inputs=inputs,
            output=output,
            options=options,
            reporter=reporter,
            side_folders={REMOVED: config.removed} if config.removed is not None else {},
            content=sieve.finish,
            sources=sources,
            read=sieve.read,
        )
    show_removed(sources, sieve.by_source, reporter)
    sieve.tell()
    return {**counts, "bloom": sieve.describe()}


@dataclass(frozen=True)
class Signed:
    """A batch and what is looked up of its documents: (n_documents, n_keys), the digest's key first."""

    batch: Batch
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    n_text_bytes: NDArray[np.int64]
    keys: Hashes
    n_used: NDArray[np.int64]  # a document without words has no bands
    bad: list[BadLine]


@dataclass(frozen=True)
class SignKeys:
    """The task: the keys of the documents of a batch; with bands of (0, 0) the digests alone."""

    sign: Sign
    bands: tuple[int, int]

    releases_lock = True

    def __call__(self, batch: Batch) -> Signed:
        """Sign a batch."""
        columns = self.sign(batch)
        rows, signatures = columns.arrays["documents"], columns.arrays["signatures"]
        n_bands = self.bands[0]
        keys = np.empty((len(rows), 1 + n_bands), np.uint64)
        keys[:, _DIGEST] = fmix64(rows["digest"][:, 0] * _FACTOR + rows["digest"][:, 1])
        if n_bands:
            keys[:, 1:] = band_keys(signatures, *self.bands).T
        starts, ends = lines_of(batch)
        places = rows["line"] - batch.first_line
        n_used = np.where(rows["n_words"] > 0, 1 + n_bands, 1)
        return Signed(batch, starts[places], ends[places], rows["n_bytes"], keys, n_used, columns.bad)


@dataclass(frozen=True, slots=True)
class Sifted(Batch):
    """A batch of which `lines` are those that stay."""

    removed: bytes
    counts: dict[str, int]
    bad: list[BadLine]


@dataclass(frozen=True)
class Pack:
    """The task: hand on what was sifted, to be compressed by whoever does this."""

    releases_lock = True

    def __call__(self, batch: Batch) -> Part:
        """Give the parts of a batch."""
        assert isinstance(batch, Sifted)
        return Part(batch.lines, {REMOVED: batch.removed}, batch.counts, batch.bad)


class _Sieve:
    """Puts the documents of all sources through the filter, in order, and counts them."""

    def __init__(
        self,
        config: DedupConfig,
        signed: Iterator[tuple[Source, Iterator[Signed]]],
        bloom: BloomFilter,
        reporter: Reporter,
    ) -> None:
        self._config, self._signed, self._bloom, self._reporter = config, signed, bloom, reporter
        self._expected_by_chance = 0.0
        self.by_source: list[dict[str, int]] = []

    def read(self, source: Source) -> Iterator[Sifted]:
        """Sift a source; those before it, which a run that was killed has finished, fill the filter."""
        for at, batches in self._signed:
            self.by_source.append(dict.fromkeys(COUNTS, 0))
            for signed in batches:
                sifted = self._sift(signed)
                if at.index == source.index:
                    yield sifted
            if at.index == source.index:
                return

    def finish(self) -> dict[str, Any]:
        """Take in the sources that nobody asked for, and say what the manifest has to hold."""
        for _, batches in self._signed:
            self.by_source.append(dict.fromkeys(COUNTS, 0))
            for signed in batches:
                self._sift(signed)
        content: dict[str, Any] = {"unicode": UNICODE_VERSION}
        if self._config.level == "near":
            n_bands, n_rows = choose_bands(self._config)
            recall = find_probability(self._config.threshold, n_bands, n_rows)
            content |= {"n_bands": n_bands, "n_rows": n_rows, "recall_at_threshold": round(recall, 6)}
        return {**content, "bloom": self.describe()}

    def describe(self) -> dict[str, Any]:
        """Say how full the filter is, and with what probability a document that shares no band goes now.

        `expected_removed_by_chance` adds the probabilities up over all documents, as if none shared a band.
        """
        size = self._bloom.size
        return {
            "n_documents_made_for": size.n_documents,
            "n_documents_inserted": self._bloom.n_inserted,
            "n_filter_bytes": size.n_bytes,
            "bits_set_frac": _round(self._bloom.bits_set_frac),
            "false_positive_probability": _round(self._bloom.error),
            "false_positive_probability_when_full": size.error,
            "expected_removed_by_chance": _round(self._expected_by_chance),
        }

    def tell(self) -> None:
        """Print the filter's error, and what its bands find and take."""
        size, bloom = self._bloom.size, self._bloom
        self._reporter.say(
            f"dsllm: the filters hold {bloom.n_inserted:,} documents, were made for {size.n_documents:,}, "
            f"and {bloom.bits_set_frac:.1%} of their bits are set: a document that shares no band with those "
            f"goes by chance with probability {bloom.error:.2g} ({size.error:g} when full)"
        )
        if self._config.level == "near":
            curve = describe_curve(self._config, BLOOM_SIMILARITIES).items()
            found = ", ".join(f"{share:.4f} of {similarity}" for similarity, share in curve)
            self._reporter.say(
                f"dsllm: nothing was compared; the share of pairs of a similarity that share a band: {found}"
            )

    def _sift(self, signed: Signed) -> Sifted:
        batch, bloom = signed.batch, self._bloom
        was_full = bloom.n_inserted > bloom.size.n_documents
        hits = bloom.sift(signed.keys, signed.n_used)
        if bloom.n_inserted > bloom.size.n_documents and not was_full:
            self._reporter.say(
                f"dsllm: {batch.describe()}: more documents stay than the {bloom.size.n_documents:,} "
                "that the filters were made for; the error grows from here on"
            )
        self._expected_by_chance += len(hits) * bloom.error
        _check_error(bloom, batch)
        stays = hits == STAYS
        counts = _count(signed.n_text_bytes, hits)
        for name, n in counts.items():
            self.by_source[-1][name] += n
        removed = b"" if self._config.removed is None else b"".join(_describe_removed(signed, hits))
        return Sifted(
            batch.source_index,
            batch.source,
            batch.first_line,
            join_lines(batch.lines, signed.starts[stays], signed.ends[stays]),
            batch.n_read,
            removed,
            counts,
            signed.bad,
        )


def _count(n_text_bytes: NDArray[np.int64], hits: NDArray[np.int64]) -> dict[str, int]:
    n_kept, n_exact = int(np.count_nonzero(hits == STAYS)), int(np.count_nonzero(hits == _DIGEST))
    n_near = len(hits) - n_kept - n_exact
    n_bytes = int(n_text_bytes.sum()), int(n_text_bytes[hits == STAYS].sum())
    return dict(zip(COUNTS, (len(hits), n_kept, n_exact, n_near, *n_bytes), strict=True))


def _describe_removed(signed: Signed, hits: NDArray[np.int64]) -> Iterator[bytes]:
    """Give the lines that go, each with the first of its keys that was in the filter; bands count from 1."""
    for place in np.flatnonzero(hits != STAYS).tolist():
        hit = "digest" if hits[place] == _DIGEST else f"band {hits[place]}"
        note = {"level": "bloom", "hit": hit, "similarity": None, "kept": None}
        yield add_field(signed.batch.lines[signed.starts[place] : signed.ends[place]], NOTE_FIELD, note)


def _check_error(bloom: BloomFilter, batch: Batch) -> None:
    if bloom.error > max(MAX_ERROR, 10 * bloom.size.error):
        raise InputError(
            f"{batch.describe()}: {bloom.n_inserted:,} documents stay so far, but the filters were made for "
            f"{bloom.size.n_documents:,}: one in {1 / bloom.error:.0f} of the others would go by chance",
            hint=f"give --bloom-documents {10 * bloom.size.n_documents}, or as many as there are; an output "
            "folder that was begun needs --overwrite too",
        )


def _round(value: float) -> float:
    return float(f"{value:.6g}")
