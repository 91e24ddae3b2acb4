"""Do the presets decide as datatrove's own filters? Verdicts on the same English documents.

    python benchmarks/filter_agreement.py INPUT.jsonl.zst [...] [--every 1] [--most 5000] [--show 3]

The environment of datatrove 0.10.1 (with spacy) is looked for under --environments, in `dt`. Documents are
those that the letters say may be English (`--lid-model script`). For each preset: documents kept by both, by
one, by none; agreement; and what the two say of documents that they disagree on. For c4 the edited texts of
documents that both keep are compared too.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from dsllm.io.documents import Batch
from dsllm.io.sources import find_sources, read_batches
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.judge import FIELD, Filter

PEERS = {
    "gopher": "GopherQualityFilter() GopherRepetitionFilter()",
    "c4": "C4QualityFilter()",
    "fineweb": "FineWebQualityFilter()",
}
# Run in datatrove's environment: documents in, one line of [verdict, text] out for each.
SCRIPT = """
import sys, orjson, datatrove.pipeline.filters as F
from datatrove.data import Document
filters = [eval("F." + each) for each in sys.argv[3:]]
with open(sys.argv[1], "rb") as lines, open(sys.argv[2], "wb") as out:
    for line in lines:
        document = Document(text=orjson.loads(line)["text"], id="0")
        verdict = "kept"
        for each in filters:
            found = each.filter(document)
            if found is not True:
                verdict = found[1] if isinstance(found, tuple) else "rejected"
                break
        out.write(orjson.dumps([verdict, document.text]) + b"\\n")
"""


def main() -> None:
    given = arguments()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "english.jsonl"
        lines = list(english(given.inputs, given.every, given.most))
        path.write_bytes(b"".join(lines))
        sys.stdout.write(f"{len(lines):,} documents\n")
        for preset, filters in PEERS.items():
            out = Path(name) / preset
            python = given.environments / "dt" / "bin" / "python"
            command = [str(python), "-c", SCRIPT, str(path), str(out), *filters.split()]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            theirs = [orjson.loads(line) for line in out.read_bytes().splitlines()]
            compare(preset, ours(lines, preset), theirs, given.show)


def english(inputs: Sequence[str], every: int, most: int) -> Iterator[bytes]:
    """Yield lines of documents whose letters may be English's."""
    config = FilterConfig(lid_model="script", languages=("en",), rules="none")
    n_found = 0
    for source in find_sources(inputs):
        for batch in read_batches(source):
            for line in Filter(config)(batch).lines.splitlines(keepends=True)[::every]:
                if n_found < most:
                    n_found += 1
                    yield line


def ours(lines: Sequence[bytes], preset: str) -> list[Any]:
    """Judge documents: [verdict, text] of each."""
    config = FilterConfig(lid_model="script", rules=preset, annotate=True)
    data = b"".join(lines)
    found = Filter(config)(Batch(0, "english", 1, data, len(data))).lines
    rows = [orjson.loads(line) for line in found.splitlines()]
    return [[row[FIELD].get("rule", "kept"), row["text"]] for row in rows]


def compare(preset: str, ours: Sequence[Any], theirs: Sequence[Any], n_shown: int) -> None:
    """Print how often verdicts are alike, and those that are not."""
    both = Counter((a[0] == "kept", b[0] == "kept") for a, b in zip(ours, theirs, strict=True))
    n_alike = both[True, True] + both[False, False]
    row = {
        "preset": preset,
        "kept by both": both[True, True],
        "by dsllm": both[True, False],
        "by datatrove": both[False, True],
        "by none": both[False, False],
        "agreement": round(n_alike / len(ours), 4),
    }
    if preset == "c4":
        kept = [(a[1], b[1]) for a, b in zip(ours, theirs, strict=True) if a[0] == b[0] == "kept"]
        row["equal texts"] = round(sum(a == b for a, b in kept) / max(1, len(kept)), 4)
    sys.stdout.write(json.dumps(row) + "\n")
    pairs = Counter(
        (a[0], b[0]) for a, b in zip(ours, theirs, strict=True) if (a[0] == "kept") != (b[0] == "kept")
    )
    for (mine, other), n in pairs.most_common(n_shown):
        sys.stdout.write(f"    {n} times dsllm says {mine}, datatrove {other}\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--every", type=int, default=1, help="take one document of so many")
    parser.add_argument("--most", type=int, default=5000, help="take no more documents")
    parser.add_argument("--show", type=int, default=12, help="kinds of disagreement to print")
    parser.add_argument("--environments", type=Path, default=Path(__file__).with_name(".peers"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
