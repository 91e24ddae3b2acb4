"""Cost of `dsllm dedup` and of other tools, as whole processes on the same input.

    python benchmarks/dedup_speed.py INPUT.jsonl.zst [--peers gaoya,rensa] [--pairs PAIRS.jsonl.zst] [...]
    python benchmarks/dedup_speed.py INPUT.jsonl.zst --scaling 1,4,16 [--workers 1,2] [--memory 1GB] [...]

`make -C benchmarks peers` makes the tools' environments; `dedup_peers.py` says how each is called. In a round
dsllm and the tool run one after the other, in changing order, after one run of each on a few documents, so
that neither compiles while it is measured. dsllm writes compressed shards, the libraries just a list of ids.

- CPU seconds: user and system time of the process and of all that it waited for; MB are of UTF-8 text.
- ratio: the tool's seconds over those of dsllm, median of the rounds, with the least and the largest.
- peak MB: the largest sum of resident sets over its processes; a page that two share counts twice.
- with --pairs, for what stays after the last round: `measure` of `dedup_quality.py`.

--scaling measures dsllm alone on 1, 4, 16 copies of the input. In each copy other letters, digits and CJK
characters stand for those of the text, one for one: its own duplicates stay so, and the copies are not alike.
The ratio is the wall time with the first number of workers over that with the others.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import zstandard
from dedup_peers import PEERS, THRESHOLD
from dedup_quality import language, measure, read_lines
from process_cost import Cost, run_process

from dsllm.io.sources import find_sources, read_batches

N_WARM_UP_DOCUMENTS = 200
COSTS = ("CPU s", "MB per CPU s", "peak MB")
QUALITIES = ("n_removed", "recall", "recall_zh", "recall_other", "kept_twin", "wiped")
RATIO = "{median:.2f} ({min:.2f} to {max:.2f})"
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Characters exchanged for others of the same range. Equal lengths are shuffled equally, so that upper and
# lower case stay a pair. Digits too, or tables of numbers would be alike in all copies.
RANGES = (
    "az",
    "AZ",
    "09",
    "\u0430\u044f",
    "\u0410\u042f",
    "\u3041\u3096",
    "\u30a1\u30fa",
    "\u4e00\u9fa5",
    "\uac00\ud7a3",
)


@dataclass(frozen=True)
class Bench:
    """What the runs of one call share."""

    folder: Path  # for outputs while they are needed
    environments: Path
    limit_s: float
    n_rounds: int

    def dsllm(self, corpus: Path, n_workers: int, *more: str) -> Cost:
        """Run `dsllm dedup` into the folder `dsllm`."""
        command = str(Path(sys.executable).parent / "dsllm")
        out = self.emptied("dsllm")
        arguments = ["dedup", str(corpus), "-o", str(out), "--workers", str(n_workers), "--quiet", *more]
        return run_process([command, *arguments], log=self.folder / "log", limit_s=self.limit_s, extra={})

    def peer(self, name: str, corpus: Path) -> Cost:
        """Run a tool into the folder of its name."""
        python = self.environments / environment_of(name) / "bin" / "python"
        if not python.exists():
            return Cost(0, 0, 0, f"no {python}; try: make -C benchmarks peers")
        script = Path(__file__).with_name("dedup_peers.py")
        command = [str(python), str(script), name, str(corpus), str(self.emptied(name))]
        return run_process(command, log=self.folder / "log", limit_s=self.limit_s, extra=ONE_THREAD)

    def emptied(self, name: str) -> Path:
        """Remove a tool's output, and say where it belongs."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        return out


def main() -> None:
    given = arguments()
    if given.folder:
        given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        bench = Bench(Path(folder).resolve(), given.environments.absolute(), given.limit, given.rounds)
        report = measure_scaling(bench, given) if given.scaling else compare(bench, given)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path, metavar="INPUT", help="documents, .jsonl.zst")
    parser.add_argument("--peers", type=names, default=list(PEERS), help=f"of {','.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=numbers, default=[1], help="of dsllm; several only with --scaling")
    parser.add_argument("--pairs", type=Path, help="true pairs of the input, as dedup_quality.py reads them")
    parser.add_argument("--scaling", type=numbers, help="measure dsllm alone on so many copies")
    parser.add_argument("--memory", default="1GB", help="of dsllm, with --scaling; 'none' leaves it out")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a run is ended")
    parser.add_argument(
        "--folder", type=Path, help="keeps the copies of --scaling for another time; holds outputs"
    )
    parser.add_argument("--environments", type=Path, default=Path(__file__).with_name(".peers"))
    parser.add_argument("--json", type=Path, help="file for all numbers, of each round too")
    given = parser.parse_args()
    if unknown := set(given.peers) - set(PEERS):
        parser.error(f"no peer is called {', '.join(sorted(unknown))}")
    if len(given.workers) > 1 and not given.scaling:
        parser.error("several numbers of workers need --scaling")
    return given


def names(text: str) -> list[str]:
    return text.split(",")


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def compare(bench: Bench, given: argparse.Namespace) -> dict[str, Any]:
    """Measure dsllm against each peer, and print a table of cost, then one of quality."""
    documents = list(read_documents(given.corpus))
    text_mb = sum(len(document["text"].encode()) for document in documents) / 1e6
    languages = {document["id"]: language(document["text"]) for document in documents}
    del documents
    pairs = read_lines(str(given.pairs)) if given.pairs else []
    pairs = [pair for pair in pairs if pair["jaccard"] >= THRESHOLD]
    head = write_head(bench, given.corpus)
    print(f"{text_mb:.1f} MB of text, {len(languages):,} documents\n")
    columns = ("tool", *COSTS, *(f"dsllm: {cost}" for cost in COSTS), "ratio of CPU s", "of wall s")
    print_row(*columns, is_head=True)
    rows = []
    for name in given.peers:
        rounds, failure = run_rounds(bench, name, given.corpus.resolve(), head, given.workers[0])
        row: dict[str, Any] = {"name": name, "version": version(bench, name), "failure": failure}
        if failure is None:
            row |= summary(rounds, text_mb)
            if pairs:
                outs = {"peer": bench.folder / name, "dsllm": bench.folder / "dsllm"}
                kept = {tool: kept_ids(out) for tool, out in outs.items()}
                row["quality"] = {tool: quality(ids, languages, pairs) for tool, ids in kept.items()}
        row["rounds"] = [{tool: asdict(cost) for tool, cost in costs.items()} for costs in rounds]
        rows.append(row)
        print_cost(row)
        bench.emptied(name)
    bench.emptied("dsllm")
    print_quality(rows)
    return {"input": given.corpus.name, "text_mb": text_mb, "n_documents": len(languages), "peers": rows}


def run_rounds(
    bench: Bench, name: str, corpus: Path, head: Path, n_workers: int
) -> tuple[list[dict[str, Cost]], str | None]:
    """Run dsllm and a peer in turns; end at the first failure and say what it was."""
    runs = {
        "dsllm": lambda documents: bench.dsllm(documents, n_workers),
        "peer": lambda documents: bench.peer(name, documents),
    }
    rounds: list[dict[str, Cost]] = []
    for number in range(-1, bench.n_rounds):  # the first is to warm up
        costs: dict[str, Cost] = {}
        for tool in sorted(runs, reverse=number % 2 == 1):
            costs[tool] = runs[tool](head if number < 0 else corpus)
            if failure := costs[tool].failure:
                return rounds, f"{tool}: {failure}"
        rounds += [costs] if number >= 0 else []
    return rounds, None


def summary(rounds: list[dict[str, Cost]], text_mb: float) -> dict[str, Any]:
    """Give the figures of both tools, and the ratios of each round's two runs."""
    pairs = [(costs["peer"], costs["dsllm"]) for costs in rounds]
    return {
        "peer": figures([peer for peer, _ in pairs], text_mb),
        "dsllm": figures([dsllm for _, dsllm in pairs], text_mb),
        "ratio_cpu_s": spread([peer.cpu_s / dsllm.cpu_s for peer, dsllm in pairs]),
        "ratio_wall_s": spread([peer.wall_s / dsllm.wall_s for peer, dsllm in pairs]),
    }


def figures(costs: list[Cost], text_mb: float) -> dict[str, float]:
    """Give the medians of runs of one tool, and the largest of their peaks."""
    cpu_s = statistics.median(cost.cpu_s for cost in costs)
    wall_s = statistics.median(cost.wall_s for cost in costs)
    speeds = {"mb_per_cpu_s": text_mb / cpu_s, "mb_per_s": text_mb / wall_s}
    return {"cpu_s": cpu_s, "wall_s": wall_s, **speeds, "peak_mb": max(cost.peak_mb for cost in costs)}


def spread(ratios: list[float]) -> dict[str, float]:
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def quality(kept: set[str], languages: dict[str, str], pairs: list[dict[str, Any]]) -> dict[str, Any]:
    if kept >= set(languages):
        return dict.fromkeys(QUALITIES, 0)
    found = measure(languages, kept, pairs)
    return {key: found[key] for key in QUALITIES}


def print_row(*cells: str, is_head: bool = False) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)
    if is_head:
        print("|" + "---|" * len(cells))


def print_cost(row: dict[str, Any]) -> None:
    name = f"{row['name']} {row['version']}"
    if row["failure"]:
        print_row(name, f"failed; {row['failure']}")
        return
    costs = [
        "{cpu_s:.2f} | {mb_per_cpu_s:.2f} | {peak_mb:.0f}".format(**row[tool]) for tool in ("peer", "dsllm")
    ]
    print_row(name, *costs, *(RATIO.format(**row[kind]) for kind in ("ratio_cpu_s", "ratio_wall_s")))


def print_quality(rows: list[dict[str, Any]]) -> None:
    """Print a line for each peer, and one for dsllm, whose answer is the same in every run."""
    measured = [row for row in rows if "quality" in row]
    if not measured:
        return
    print()
    print_row("tool", *QUALITIES, is_head=True)
    lines = [(row["name"], row["quality"]["peer"]) for row in measured]
    for name, found in [*lines, ("dsllm", measured[-1]["quality"]["dsllm"])]:
        print_row(name, *(str(found[key]) for key in QUALITIES))


def kept_ids(out: Path) -> set[str]:
    """Read what a tool left: ids, an Arrow file of a data set, or documents."""
    if (out / "kept.txt").exists():
        return set((out / "kept.txt").read_text().splitlines())
    if tables := sorted(out.glob("kept/*.arrow")):
        return {
            identity for path in tables for identity in pa.ipc.open_stream(path).read_all()["id"].to_pylist()
        }
    folder = out / "kept" if (out / "kept").is_dir() else out
    return {document["id"] for document in read_documents(folder)}


def environment_of(name: str) -> str:
    """Name the environment of a peer, and its package: both are shared by the ways to call it."""
    return name.removesuffix("-cjk")


def version(bench: Bench, name: str) -> str:
    package = environment_of(name)
    python = bench.environments / package / "bin" / "python"
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    if not python.exists():
        return ""
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def measure_scaling(bench: Bench, given: argparse.Namespace) -> dict[str, Any]:
    """Measure dsllm on copies of the corpus with each number of workers, and print a table."""
    memory = [] if given.memory == "none" else ["--memory", given.memory]
    columns = (
        "copies",
        "workers",
        "text MB",
        "removed",
        "MB/s",
        "MB per CPU s",
        "peak MB",
        "ratio of wall s",
    )
    print_row(*columns, is_head=True)
    rows = []
    bench.dsllm(write_head(bench, given.corpus), given.workers[0])  # to warm up
    for n_copies in given.scaling:
        corpus = (
            given.folder or bench.folder
        ) / f"{given.corpus.name.removesuffix('.jsonl.zst')}-x{n_copies}.jsonl.zst"
        if not corpus.exists():
            write_documents(bench.folder / "partial", copies(given.corpus, n_copies)).rename(corpus)
        lengths = [len(document["text"].encode()) for document in read_documents(corpus)]
        costs: dict[int, list[Cost]] = {n_workers: [] for n_workers in given.workers}
        n_removed = {}
        for _ in range(bench.n_rounds):
            for n_workers, found in costs.items():
                found.append(bench.dsllm(corpus, n_workers, *memory))
                if not found[-1].failure:
                    n_removed[n_workers] = len(lengths) - len(kept_ids(bench.folder / "dsllm"))
        for n_workers, found in costs.items():
            row = {"n_copies": n_copies, "n_workers": n_workers, "n_documents": len(lengths)}
            row |= scaling_row(found, costs[given.workers[0]], sum(lengths) / 1e6)
            row["n_removed"] = n_removed.get(n_workers)
            rows.append(row)
            print_scaling(row)
    bench.emptied("dsllm")
    return {"input": given.corpus.name, "memory": given.memory, "rows": rows}


def scaling_row(costs: list[Cost], first: list[Cost], text_mb: float) -> dict[str, Any]:
    """Give the figures of runs with one number of workers, and ratios to those with the first."""
    row: dict[str, Any] = {"text_mb": text_mb, "rounds": [asdict(cost) for cost in costs]}
    row["failure"] = next((cost.failure for cost in (*costs, *first) if cost.failure), None)
    if row["failure"] is None:
        ratios = [one.wall_s / cost.wall_s for one, cost in zip(first, costs, strict=True)]
        row |= {**figures(costs, text_mb), "ratio_wall_s": spread(ratios)}
    return row


def print_scaling(row: dict[str, Any]) -> None:
    cells = [str(row["n_copies"]), str(row["n_workers"]), f"{row['text_mb']:.1f}"]
    if row["failure"]:
        print_row(*cells, f"failed; {row['failure']}")
        return
    figures = "{n_removed} | {mb_per_s:.2f} | {mb_per_cpu_s:.2f} | {peak_mb:.0f}".format(**row)
    print_row(*cells, figures, RATIO.format(**row["ratio_wall_s"]))


def copies(corpus: Path, n_copies: int) -> Iterator[dict[str, Any]]:
    """Give the documents again and again, in other letters from the second copy on."""
    for copy in range(n_copies):
        exchanged: dict[int, int] = {}
        for ends in RANGES if copy else ():
            codes = range(ord(ends[0]), ord(ends[1]) + 1)
            exchanged |= zip(codes, random.Random(copy).sample(codes, len(codes)), strict=True)
        for document in read_documents(corpus):
            text = document["text"].translate(exchanged)
            yield {**document, "id": f"{document['id']}-{copy}", "text": text}


def write_head(bench: Bench, corpus: Path) -> Path:
    """Write the few documents that runs warm up on."""
    head = islice(read_documents(corpus), N_WARM_UP_DOCUMENTS)
    return write_documents(bench.folder / "head.jsonl.zst", head)


def write_documents(path: Path, documents: Iterable[dict[str, Any]]) -> Path:
    with path.open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as packed:
        for document in documents:
            packed.write(orjson.dumps(document) + b"\n")
    return path


def read_documents(path: Path) -> Iterator[dict[str, Any]]:
    for source in find_sources([str(path)]):
        for batch in read_batches(source):
            yield from map(orjson.loads, batch.lines.splitlines())


if __name__ == "__main__":
    main()
