"""First pass: what must be known of each document, batch by batch, to find its duplicates."""

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.io.documents import Batch, Document, parse_batch
from dsllm.stages.dedup.config import DedupConfig
from dsllm.text.scan import words
from dsllm.text.shingles import Permutations, make_permutations, minhash, shingle_set
from dsllm.workers.passes import Columns

# A row a document. `digest` is 128 bits of BLAKE2b; `n_bytes` the text's length in UTF-8.
DOCUMENT = np.dtype(
    [("line", "<i8"), ("n_bytes", "<i8"), ("n_shingles", "<i8"), ("n_id_bytes", "<i8"), ("digest", "<u8", 2)]
)
COLUMNS = ("documents", "signatures", "shingles", "ids")


@dataclass(frozen=True)
class Sign:
    """The task: a row, a signature (n_hashes,), a set of shingles and an id for each document of a batch.

    Documents of the same words, in the same order, have the same digest. One without words (empty, or nothing
    but punctuation, symbols and spaces) has the digest of its text and no shingle: only an equal text is its
    duplicate. Ids are JSON, "null" where there is none.
    """

    config: DedupConfig

    def __call__(self, batch: Batch) -> Columns:
        """Describe the documents of a batch as arrays by the names in COLUMNS."""
        config = self.config
        documents, bad = parse_batch(batch, text_field=config.text_field, on_error=config.on_error)
        rows = np.zeros(len(documents), DOCUMENT)
        signatures = np.zeros((len(documents), config.n_hashes if config.level == "near" else 0), np.uint32)
        shingles: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
        ids = bytearray()
        for place, document in enumerate(documents):
            found = words(document.text, fold=config.fold_case, punctuation=config.punctuation)
            shingles.append(self._shingles(found))
            if len(shingles[-1]):
                signatures[place] = minhash(shingles[-1], self._permutations)
            identity = _identity(document)
            ids += identity
            rows[place] = (
                document.line_number,
                len(document.text.encode()),
                len(shingles[-1]),
                len(identity),
                _digest(document.text, found),
            )
        arrays: dict[str, NDArray[Any]] = {
            "documents": rows,
            "signatures": signatures,
            "shingles": np.concatenate(shingles),
            "ids": np.frombuffer(bytes(ids), np.uint8),
        }
        return Columns(arrays, bad)

    def _shingles(self, found: list[str]) -> NDArray[np.uint64]:
        if self.config.level == "exact":
            return np.zeros(0, np.uint64)
        return shingle_set(found, self.config.shingle_words)

    @functools.cached_property
    def _permutations(self) -> Permutations:
        return make_permutations(self.config.n_hashes, self.config.seed)


def _digest(text: str, found: list[str]) -> tuple[int, int]:
    """Hash the words of a document, or its text when it has none; the two never meet."""
    if found:
        digest = hashlib.blake2b(" ".join(found).encode(), digest_size=16, person=b"words")
    else:
        digest = hashlib.blake2b(text.encode(), digest_size=16, person=b"text")
    value = digest.digest()
    return int.from_bytes(value[:8], "little"), int.from_bytes(value[8:], "little")


def _identity(document: Document) -> bytes:
    return orjson.dumps(document.fields.get("id"))
