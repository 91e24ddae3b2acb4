"""A sample of the documents to learn from: so much of each source, drawn by the seed."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsllm.config import RunOptions, parse_weights
from dsllm.errors import ConfigError, InputError
from dsllm.io.atomic import write_atomic
from dsllm.io.documents import BadLine, Batch, parse_batch
from dsllm.io.sources import Source
from dsllm.progress import Reporter
from dsllm.stages.tokenize.config import TokenizeTrainConfig
from dsllm.stages.tokenize.statistics import source_name
from dsllm.text.json_lines import read_texts
from dsllm.text.shingles import fmix64
from dsllm.text.texts import Texts
from dsllm.workers.passes import Pass

REST = "rest"
_SIZES = "sizes.json"
_STEPS = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Read:
    """The documents of a batch, one text, line number and name of a source each, and other lines."""

    texts: Texts
    line_numbers: NDArray[np.int64]
    names: list[str]
    bad: list[BadLine]


def read_documents(batch: Batch, config: TokenizeTrainConfig) -> Read:
    """Read the documents of a batch."""
    if config.text_field != config.source_field:
        lines = read_texts(batch.lines, config.text_field, config.source_field)
        if lines is not None:
            names = [source_name(name, batch.source) for name in lines.parsed_ids()]
            return Read(lines.texts, batch.first_line + lines.places, names, [])
    documents, bad = parse_batch(batch, text_field=config.text_field, on_error=config.on_error)
    return Read(
        Texts.join([document.text.encode() for document in documents]),
        np.array([document.line_number for document in documents], np.int64),
        [source_name(document.fields.get(config.source_field), batch.source) for document in documents],
        bad,
    )


@dataclass(frozen=True)
class MeasureSources:
    """The task: bytes of text by source."""

    config: TokenizeTrainConfig

    releases_lock = True

    def __call__(self, batch: Batch) -> dict[str, int]:
        """Measure a batch."""
        read = read_documents(batch, self.config)
        n_bytes: Counter[str] = Counter()
        for name, size in zip(read.names, np.diff(read.texts.ends, prepend=0).tolist(), strict=True):
            n_bytes[name] += size
        return dict(n_bytes)


def choose_shares(
    config: TokenizeTrainConfig,
    sources: list[Source],
    scratch: Path,
    *,
    options: RunOptions,
    reporter: Reporter,
) -> tuple[dict[str, float] | None, list[Source]]:
    """Say what part of each source to take, None for all; returns the inputs for the next pass, too."""
    if not config.weights and config.sample is None:
        return None, sources
    work, path = Pass(scratch, options, reporter), scratch / _SIZES
    scratch.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        sizes: Counter[str] = Counter()
        for _, parts in work.map(MeasureSources(config), sources, label="tokenize train: measure"):
            for part in parts:
                sizes.update(part)
        write_atomic(path, json.dumps(sizes).encode())
    return parts_to_take(config, json.loads(path.read_bytes())), work.spooled(sources)


def parts_to_take(config: TokenizeTrainConfig, sizes: dict[str, int]) -> dict[str, float]:
    """Say what part of each source's documents to take, given its bytes.

    Without a size of the sample it is the largest in which no document is wanted twice. With one, a source
    that has less than its share is taken whole.

    Raises:
        ConfigError: a weight for an unknown source, or a source without a weight.
        InputError: a source shall have a share but has no text.
    """
    shares = _shares(parse_weights(config.weights, "weights"), sizes)
    for name, share in shares.items():
        if share and not sizes[name]:
            raise InputError(f"source {name!r} has no text, but a weight", hint=f"give {name}=0, or mend it")
    n_bytes = config.sample_bytes
    if n_bytes is None:
        n_bytes = min((int(sizes[name] / share) for name, share in shares.items() if share), default=0)
    return {
        name: min(1.0, n_bytes * share / sizes[name]) if sizes[name] else 0.0
        for name, share in shares.items()
    }


def _shares(weights: dict[str, float], sizes: dict[str, int]) -> dict[str, float]:
    if not weights:
        weights = {REST: 1.0}
    for name in weights:
        if name not in sizes and name != REST:
            known = ", ".join(list(sizes)[:20])
            raise ConfigError(f"weights: no source {name!r}", hint=f"the sources are: {known}")
    others = [name for name in sizes if name not in weights]
    if others and REST not in weights:
        raise ConfigError(
            f"weights: no share for {', '.join(others[:5])}",
            hint=f"give {others[0]}=SHARE (0 drops it), or rest=SHARE for all others together",
        )
    n_rest = sum(sizes[name] for name in others)
    shares = {
        name: weights[name] if name in weights else weights[REST] * size / max(1, n_rest)
        for name, size in sizes.items()
    }
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()} if total else shares


def draw(read: Read, parts: dict[str, float] | None, seed: int, source_index: int) -> NDArray[np.bool_]:
    """Say which documents are taken (n,), by the seed and the place of each in the input."""
    if parts is None:
        return np.ones(len(read.names), bool)
    first = np.array([(seed * _STEPS[0] + (source_index + 1) * _STEPS[1]) & _MASK], np.uint64)
    numbers = fmix64(fmix64(first) + read.line_numbers.astype(np.uint64) * np.uint64(_STEPS[0]))
    wanted = np.array([parts[name] for name in read.names], np.float64)
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53 < wanted
