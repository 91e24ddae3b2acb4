"""First pass: what must be known of each document, batch by batch, to find its duplicates."""

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from dsllm.io.documents import BadLine, Batch, parse_fields
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import DOCUMENT, SAMPLE
from dsllm.stages.dedup.fields import Fields, pack_dumps, read_fields
from dsllm.text.json_lines import Lines, lines_of, read_texts
from dsllm.text.shingles import Permutations, make_permutations
from dsllm.text.shingles_compiled import Shingler
from dsllm.text.texts import Texts
from dsllm.workers.passes import Columns

COLUMNS = ("documents", "signatures", "samples", "ids", "dumps", "dump_names")


def make_shingler(config: DedupConfig) -> Shingler:
    """Give the way in which the settings cut texts into shingles."""
    return Shingler(config.shingle_words, config.fold_case, config.punctuation)


@dataclass(frozen=True)
class Sign:
    """The task: a row, a signature (n_hashes,) and an id for each document of a batch.

    Documents of the same words, in the same order, have the same digest. One without words (empty, or nothing
    but punctuation, symbols and spaces) has the digest of its text: only an equal text is its duplicate. Ids
    are JSON, "null" where there is none.
    """

    config: DedupConfig

    releases_lock = True

    def __call__(self, batch: Batch) -> Columns:
        """Describe the documents of a batch as arrays by the names in COLUMNS."""
        lines, fields, bad = read_lines(batch, self.config)
        texts = lines.texts
        sketches = make_shingler(self.config).sign(texts, self._permutations)
        rows = np.zeros(len(lines.places), DOCUMENT)
        rows["line"] = batch.first_line + lines.places
        rows["n_bytes"] = np.diff(texts.ends, prepend=0)
        rows["n_words"] = sketches.n_words
        rows["n_id_bytes"] = lines.id_sizes
        rows["digest"] = sketches.digests
        if self.config.keep == "longest":
            rows["priority"] = rows["n_bytes"]
        elif fields:
            rows["priority"] = fields.priorities
        rows["digest"][rows["n_bytes"] == 0] = _digest_of_text(b"")
        for place in np.flatnonzero((sketches.n_words == 0) & (rows["n_bytes"] > 0)).tolist():
            end = int(texts.ends[place])
            rows["digest"][place] = _digest_of_text(texts.data[end - rows["n_bytes"][place] : end].tobytes())
        samples = np.empty(len(sketches.samples), SAMPLE)
        samples["hash"], samples["line"] = sketches.samples, rows["line"][sketches.sampled_texts]
        signatures = sketches.signatures
        dumps, dump_names = pack_dumps(fields.dumps if fields else ())
        arrays: dict[str, Any] = {
            "documents": rows,
            "signatures": signatures if self.config.level == "near" else signatures[:, :0],
            "samples": samples,
            "ids": lines.ids,
            "dumps": dumps,
            "dump_names": np.frombuffer(dump_names, np.uint8),
        }
        return Columns(arrays, bad)

    @functools.cached_property
    def _permutations(self) -> Permutations:
        return make_permutations(self.config.n_hashes if self.config.level == "near" else 1, self.config.seed)


def read_lines(batch: Batch, config: DedupConfig) -> tuple[Lines, Fields | None, list[BadLine]]:
    """Read the texts and ids of a batch, fields where they are asked for, and lines that are no documents."""
    if not config.asks_fields:
        plain = read_texts(batch.lines, config.text_field, bounds=lines_of(batch))
        if plain is not None:
            return plain, None, []
    numbered, bad = parse_fields(batch, text_field=config.text_field, on_error=config.on_error)
    asked = read_fields(batch, numbered, bad, config) if config.asks_fields else None
    if asked:
        numbered, bad = asked.numbered, asked.bad
    ids = [orjson.dumps(fields.get("id")) for _, _, fields in numbered]
    lines = Lines(
        Texts.join([fields[config.text_field].encode() for _, _, fields in numbered]),
        np.array([line_number - batch.first_line for line_number, _, _ in numbered], np.int64),
        np.frombuffer(b"".join(ids), np.uint8),
        np.array([len(identity) for identity in ids], np.int64),
    )
    return lines, asked, bad


def _digest_of_text(text: bytes) -> tuple[int, int]:
    """Hash a text without words; the digest of words meets it with probability 2**-128."""
    value = hashlib.blake2b(text, digest_size=16, person=b"text").digest()
    return int.from_bytes(value[:8], "little"), int.from_bytes(value[8:], "little")
