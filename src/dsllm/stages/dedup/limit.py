"""The limit that `--max-removed` sets on what one source may lose."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.errors import InputError
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import Corpus
from dsllm.stages.dedup.decide import STAYS
from dsllm.stages.dedup.pairs import describe_documents

MIN_DOCUMENTS = 100  # of fewer, any share can go


def check_limit(
    corpus: Corpus, verdicts: NDArray[Any], by_source: Sequence[dict[str, int]], config: DedupConfig
) -> None:
    """Stop where a source loses more than may be.

    Raises:
        InputError: one does; it names the source, the numbers, and the document that most of them go for.
    """
    if config.max_removed is None:
        return
    for index, counts in enumerate(by_source):
        n_documents, n_removed = counts["n_documents"], counts["n_documents"] - counts["n_kept"]
        if n_documents < MIN_DOCUMENTS or n_removed <= config.max_removed * n_documents:
            continue
        found = verdicts[corpus.starts[index] : corpus.starts[index + 1]]
        kept, sizes = np.unique(found["kept"][found["level"] != STAYS], return_counts=True)
        largest = int(np.argmax(sizes))
        document = describe_documents(corpus, kept[largest : largest + 1])[0]
        raise InputError(
            f"{corpus.paths[index]}: {n_removed:,} of {n_documents:,} documents would go "
            f"({n_removed / n_documents:.2%}), more than max_removed, {config.max_removed:.2%}; "
            f"{sizes[largest]:,} of them for the one with id {document['id']!r} "
            f"({document['source']}, line {document['line']:,})",
            hint="to see them: --max-removed 1 --removed FOLDER -o ANOTHER; if that is as it should be, "
            "give a higher --max-removed and --overwrite",
        )
