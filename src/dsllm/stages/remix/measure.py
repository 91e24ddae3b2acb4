"""First pass: the size of each document and the name of its source."""

import hashlib
from dataclasses import dataclass

import numpy as np
import orjson

from dsllm.io.documents import Batch, parse_batch
from dsllm.stages.remix.config import RemixConfig
from dsllm.workers.passes import Columns

# A row a document: text in UTF-8 bytes, the line without its line feed, and a hash of the source's name.
DOCUMENT = np.dtype([("line", "<i8"), ("n_bytes", "<i8"), ("n_line_bytes", "<i8"), ("name", "<u8")])
COLUMNS = ("documents", "names")
NO_NAME = "(none)"


@dataclass(frozen=True)
class Measure:
    """The task: DOCUMENT rows, and the names of the sources met in the batch, one JSON string a line.

    A document whose source field is missing or no string belongs to the source "(none)".
    """

    config: RemixConfig
    input_names: tuple[str, ...]  # by source index; empty where the documents name their sources

    def __call__(self, batch: Batch) -> Columns:
        """Measure the documents of a batch."""
        config = self.config
        documents, bad = parse_batch(batch, text_field=config.text_field, on_error=config.on_error)
        hashes: dict[str, int] = {}
        rows = np.zeros(len(documents), DOCUMENT)
        for place, document in enumerate(documents):
            if self.input_names:
                name = self.input_names[batch.source_index]
            else:
                given = document.fields.get(config.source_field)
                name = given if isinstance(given, str) else NO_NAME
            if name not in hashes:
                hashes[name] = name_hash(name)
            n_bytes = len(document.text.encode())
            rows[place] = (document.line_number, n_bytes, len(document.line) - 1, hashes[name])
        names = b"".join(orjson.dumps(name) + b"\n" for name in hashes)
        return Columns({"documents": rows, "names": np.frombuffer(names, np.uint8)}, bad)


def name_hash(name: str) -> int:
    """Give a name 64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
