"""First pass: what must be known of each document, batch by batch, to find its duplicates."""

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from dsllm.io.documents import Batch, parse_fields
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import DOCUMENT
from dsllm.text.shingles import Permutations, make_permutations
from dsllm.text.shingles_compiled import Shingler, Texts
from dsllm.workers.passes import Columns

COLUMNS = ("documents", "signatures", "ids")


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
        config = self.config
        numbered, bad = parse_fields(batch, text_field=config.text_field, on_error=config.on_error)
        texts = [fields[config.text_field].encode() for _, _, fields in numbered]
        ids = [orjson.dumps(fields.get("id")) for _, _, fields in numbered]
        sketches = make_shingler(config).sign(Texts.join(texts), self._permutations)
        rows = np.zeros(len(numbered), DOCUMENT)
        rows["line"] = [line_number for line_number, _, _ in numbered]
        rows["n_bytes"] = [len(text) for text in texts]
        rows["n_words"] = sketches.n_words
        rows["n_id_bytes"] = [len(identity) for identity in ids]
        rows["digest"] = sketches.digests
        if config.keep == "longest":
            rows["priority"] = rows["n_bytes"]
        for place in np.flatnonzero(sketches.n_words == 0).tolist():
            rows["digest"][place] = _digest_of_text(texts[place])
        signatures = sketches.signatures
        arrays: dict[str, Any] = {
            "documents": rows,
            "signatures": signatures if config.level == "near" else signatures[:, :0],
            "ids": np.frombuffer(b"".join(ids), np.uint8),
        }
        return Columns(arrays, bad)

    @functools.cached_property
    def _permutations(self) -> Permutations:
        return make_permutations(self.config.n_hashes if self.config.level == "near" else 1, self.config.seed)


def _digest_of_text(text: bytes) -> tuple[int, int]:
    """Hash a text without words; the digest of words meets it with probability 2**-128."""
    value = hashlib.blake2b(text, digest_size=16, person=b"text").digest()
    return int.from_bytes(value[:8], "little"), int.from_bytes(value[8:], "little")
