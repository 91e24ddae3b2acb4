"""Ask transformers' logits processors what repetition limits do, and store it as golden numbers.

In an environment of its own (transformers 5.23.0, torch 2.13.0):

    python benchmarks/check_repeats_against_transformers.py ../tests/golden/repeats_transformers.json
"""

import json
import platform
import sys
from pathlib import Path

import torch
import transformers
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

VOCAB_SIZE = 6
TEXTS = [
    [1, 2, 3, 1, 2, 5, 1, 2],
    [0, 0, 0, 0, 0, 0, 0, 0],
    [5, 4, 3, 2, 1, 0, 5, 4],
    [3, 1, 3, 1, 3, 1, 3, 1],
]
CASES = [(1.0, 1), (1.0, 2), (1.0, 3), (1.0, 4), (1.3, None), (0.7, None), (1.3, 3)]


def main() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(len(TEXTS), VOCAB_SIZE, generator=generator) * 3
    cases = []
    for penalty, ngram in CASES:
        limited = logits.clone()
        if penalty != 1:
            limited = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(TEXTS), limited)
        if ngram is not None:
            limited = NoRepeatNGramLogitsProcessor(ngram)(torch.tensor(TEXTS), limited)
        rows = [[None if value == -torch.inf else value for value in row] for row in limited.tolist()]
        cases.append({"penalty": penalty, "ngram": ngram, "limited": rows})
    versions = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    golden = {
        "made_by": "benchmarks/check_repeats_against_transformers.py",
        "versions": versions,
        "texts": TEXTS,
        "logits": logits.tolist(),
        "cases": cases,
    }
    Path(sys.argv[1]).write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
