"""Cost of `dsllm filter`'s rules and of the same rules in datatrove and dolma, as whole processes.

    python benchmarks/filter_speed.py INPUT.jsonl.zst --small SMALL.jsonl.zst [--rounds 3]

The peers are slow: `--small` may be less of the same documents, and speeds are compared, each over its own
text; where starting counts, give both the same. In a round dsllm and each peer run one after the other on one
core. CPU seconds are user and system time of the process and all its children, starting it included; MB are
of UTF-8 text. dsllm and datatrove read zstd and write plain lines; dolma reads and writes gzip.

- gopher: datatrove's GopherQualityFilter, then GopherRepetitionFilter; each of them alone too.
- c4: C4QualityFilter; fineweb: FineWebQualityFilter; gopher_v2, c4_v2: the taggers of dolma 1.2.1.

Environments are looked for under --environments: dt (datatrove 0.10.1, spacy), dolma (dolma 1.2.1).
"""

import argparse
import gzip
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson
from process_cost import Cost, run_process

from dsllm.io.sources import find_sources, read_batches

# What is run: dsllm's flags, the peer's environment, and what it is told.
SCRIPT = "script"
CASES = {
    "gopher quality": (("--rules", "gopher"), "dt", "GopherQualityFilter"),
    "gopher repetition": (("--rules", "gopher"), "dt", "GopherRepetitionFilter"),
    "gopher both": (("--rules", "gopher"), "dt", "GopherQualityFilter GopherRepetitionFilter"),
    "c4": (("--rules", "c4"), "dt", "C4QualityFilter"),
    "fineweb": (("--rules", "fineweb"), "dt", "FineWebQualityFilter"),
    "gopher_v2": (("--rules", "gopher"), "dolma", "gopher_v2"),
    "c4_v2": (("--rules", "c4"), "dolma", "c4_v2"),
    "default by script": (("--rules", "dsllm"), None, ""),
    "default": (("--rules", "dsllm", "--lid-model", "shipped"), None, ""),
}
DATATROVE = """
import sys, glob
import datatrove.pipeline.filters as F
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
given, out, *names = sys.argv[1:]
steps = [JsonlReader(given), *(getattr(F, name)() for name in names)]
steps.append(JsonlWriter(out + "/out", compression=None))
LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=out + "/logs").run()
"""


def main() -> None:
    given = arguments()
    cases = given.cases.split(",") if given.cases else list(CASES)
    n_bytes = {path: text_bytes(path) for path in (given.input, given.small)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(given.small, folder)
        run_dsllm(folder, given.small, CASES["c4"][0], given.limit)  # compiles, where that is to be done
        for case in cases:
            flags, environment, names = CASES[case]
            speeds: dict[str, list[float]] = {"dsllm": [], "peer": []}
            for _ in range(given.rounds):
                cost = run_dsllm(folder, given.input, flags, given.limit)
                speeds["dsllm"].append(megabytes_per_s(n_bytes[given.input], cost))
                if environment:
                    cost = run_peer(folder, given.environments / environment, names, given.limit)
                    speeds["peer"].append(megabytes_per_s(n_bytes[given.small], cost))
            show(case, speeds)


def run_dsllm(folder: Path, path: Path, flags: Sequence[str], limit_s: float) -> Cost:
    """Filter English, or with the default rules also Chinese documents, by one worker."""
    model = [] if "--lid-model" in flags else ["--lid-model", SCRIPT]
    flags = [flag for flag in flags if flag not in ("--lid-model", "shipped")]
    command = [
        sys.executable,
        "-m",
        "dsllm",
        "filter",
        str(path),
        "-o",
        str(folder / "dsllm"),
        *flags,
        *model,
    ]
    command += ["--languages", "en,zh", "--workers", "1", "--quiet"]
    command += ["--format", "jsonl", "--overwrite"]
    return run_process(command, log=folder / "log", limit_s=limit_s, extra={})


def run_peer(folder: Path, environment: Path, names: str, limit_s: float) -> Cost:
    """Run datatrove's filters or dolma's taggers."""
    if environment.name == "dolma":
        documents = folder / "dolma" / "documents" / "*"
        command = [str(environment / "bin" / "dolma"), "tag", "--documents", str(documents), "--experiment"]
        command += [
            f"e{len(list(folder.glob('dolma/attributes/*')))}",
            "--taggers",
            names,
            "--processes",
            "1",
        ]
        return run_process(command, log=folder / "log", limit_s=limit_s, extra={})
    out = Path(tempfile.mkdtemp(dir=folder))
    command = [str(environment / "bin" / "python"), "-c", DATATROVE, str(folder / "datatrove"), str(out)]
    return run_process([*command, *names.split()], log=folder / "log", limit_s=limit_s, extra={})


def prepare(path: Path, folder: Path) -> None:
    """Write the smaller input as each peer reads it."""
    (folder / "datatrove").mkdir()
    (folder / "datatrove" / "000.jsonl.zst").symlink_to(path.resolve())
    documents = folder / "dolma" / "documents"
    documents.mkdir(parents=True)
    with gzip.open(documents / "000.jsonl.gz", "wb", compresslevel=1) as file:
        for batch in read_batches(find_sources([str(path)])[0]):
            for line in batch.lines.splitlines():
                document = orjson.loads(line)
                kept = {"id": str(document.get("id")), "text": document["text"], "source": "s"}
                file.write(orjson.dumps(kept) + b"\n")


def text_bytes(path: Path) -> int:
    """Count the UTF-8 bytes of all texts."""
    return sum(
        len(orjson.loads(line)["text"].encode())
        for batch in read_batches(find_sources([str(path)])[0])
        for line in batch.lines.splitlines()
    )


def megabytes_per_s(n_bytes: int, cost: Cost) -> float:
    """Divide; a run that failed ends all."""
    if cost.failure:
        sys.exit(f"failed: {cost.failure}")
    return n_bytes / 1e6 / cost.cpu_s


def show(case: str, speeds: dict[str, list[float]]) -> None:
    """Print medians, and the ratio's spread over the rounds."""
    mine = statistics.median(speeds["dsllm"])
    row = f"{case:20s} dsllm {mine:6.1f} MB/s"
    if speeds["peer"]:
        ratios = [a / b for a, b in zip(speeds["dsllm"], speeds["peer"], strict=True)]
        row += f"   peer {statistics.median(speeds['peer']):6.2f}   ratio {statistics.median(ratios):5.1f}"
        row += f" ({min(ratios):.1f} to {max(ratios):.1f})"
    sys.stdout.write(row + "\n")
    sys.stdout.flush()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("--small", type=Path, required=True, help="input of the peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="", help=f"some of: {', '.join(CASES)}")
    parser.add_argument("--limit", type=float, default=580, help="seconds for one run")
    parser.add_argument("--environments", type=Path, default=Path(__file__).with_name(".peers"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
