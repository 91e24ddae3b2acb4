"""Time `dsllm tokenize encode` beside other encoders: whole processes, CPU seconds, runs taken in turn.

    python benchmarks/tokenizer_encode_speed.py CORPUS.jsonl --tokenizer TOK --peers PEERS_PYTHON [--rounds 3]

CORPUS.jsonl lies beside CORPUS.jsonl.zst, which dsllm reads. PEERS_PYTHON is a Python with gigatoken,
tiktoken, tokenizers and orjson. gigatoken reads the plain lines by itself and writes nothing; tiktoken and
`tokenizers` get every N_SAMPLE-th document, parsed by orjson, and write nothing either. Each is limited to
one thread; dsllm also runs with two workers, for wall time. --runs times texts of one character repeated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

N_SAMPLE = 20
RUN_UNITS = {"a": "a", "space": " ", "=": "=", "line end": "\n", "zh": "的", "aA": "aA"}
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
    r"|\s*[\r\n]|\s+(?!\S)|\s"
)  # GPT-4's, as tiktoken has it
GIGATOKEN = """
import sys, gigatoken
tokenizer = gigatoken.Tokenizer(sys.argv[1] + "/tokenizer.json")
found = tokenizer.encode_files(gigatoken.JsonlFileSource([sys.argv[2]]), parallel=False)
import awkward
print(len(awkward.flatten(found)))
"""
TOKENIZERS = """
import sys, orjson, tokenizers
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
n = 0
with open(sys.argv[2], "rb") as file:
    while lines := file.readlines(1 << 20):
        texts = [orjson.loads(line)["text"] for line in lines]
        n += sum(len(each.ids) for each in tokenizer.encode_batch_fast(texts, add_special_tokens=False))
print(n)
"""
TIKTOKEN = """
import sys, json, orjson, tiktoken
path, pattern = sys.argv[1] + "/tokenizer.json", sys.argv[3]
bytes_of = [*range(33, 127), *range(161, 173), *range(174, 256)]
others = [byte for byte in range(256) if byte not in bytes_of]
known = {chr(byte): byte for byte in bytes_of} | {chr(256 + n): byte for n, byte in enumerate(others)}
words = json.load(open(path))["model"]["vocab"]
ranks = {bytes(known[c] for c in word): rank for word, rank in words.items() if all(c in known for c in word)}
tokenizer = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
n = 0
with open(sys.argv[2], "rb") as file:
    for line in file:
        n += len(tokenizer.encode_ordinary(orjson.loads(line)["text"]))
print(n)
"""


def main() -> None:
    """Time everything, print a JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--peers", help="left out, dsllm runs alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--runs", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.runs:
            time_runs(Path(scratch), arguments.tokenizer)
            return
        sample, sizes = write_sample(arguments.corpus, Path(scratch))
        times: dict[str, list[tuple[float, float]]] = {}
        for _ in range(arguments.rounds):
            for name, command in commands(arguments, sample, Path(scratch)).items():
                found = timed(command)
                if found is not None:
                    times.setdefault(name, []).append(found)
        for name, each in times.items():
            n_bytes = sizes[1] if name in {"tiktoken", "tokenizers"} else sizes[0]
            cpu, wall = (statistics.median(column) for column in zip(*each, strict=True))
            speed = {
                "MB_per_cpu_s": round(n_bytes / cpu / 1e6, 1),
                "MB_per_s": round(n_bytes / wall / 1e6, 1),
            }
            spread = {
                "cpu_s": [round(cpu_s, 2) for cpu_s, _ in each],
                "wall_s": [round(s, 2) for _, s in each],
            }
            print(json.dumps({"encoder": name, "MB_of_text": round(n_bytes / 1e6, 1), **speed, **spread}))


def commands(arguments: argparse.Namespace, sample: Path, scratch: Path) -> dict[str, list[str]]:
    corpus, tokenizer = str(arguments.corpus), arguments.tokenizer
    found = {
        f"dsllm, {n} workers": encode_command(f"{corpus}.zst", tokenizer, scratch / "out", n)
        for n in arguments.workers
    }
    if arguments.peers:
        python = [arguments.peers, "-c"]
        found["gigatoken"] = [*python, GIGATOKEN, tokenizer, corpus]
        found["tiktoken"] = [*python, TIKTOKEN, tokenizer, str(sample), PATTERN]
        found["tokenizers"] = [*python, TOKENIZERS, tokenizer, str(sample)]
    return found


def encode_command(corpus: str, tokenizer: str, output: Path, n_workers: int) -> list[str]:
    flags = ["--tokenizer", tokenizer, "--workers", str(n_workers), "--overwrite", "--quiet"]
    return [sys.executable, "-m", "dsllm", "tokenize", "encode", corpus, "-o", str(output), *flags]


def timed(command: list[str]) -> tuple[float, float] | None:
    """Run a command; give CPU and wall seconds, None where it failed."""
    one_thread = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS"), "1") | {
        "TOKENIZERS_PARALLELISM": "false"
    }
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | one_thread)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        sys.stderr.write(f"status {process.returncode}: {' '.join(command)[:120]}\n")
        return None
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - started


def write_sample(corpus: Path, scratch: Path) -> tuple[Path, tuple[int, int]]:
    """Write every N_SAMPLE-th line; give the bytes of text of all and of these."""
    sample, n_bytes, n_sampled = scratch / "sample.jsonl", 0, 0
    with corpus.open("rb") as file, sample.open("wb") as out:
        for number, line in enumerate(file):
            size = len(json.loads(line)["text"].encode())
            n_bytes += size
            if number % N_SAMPLE == 0:
                out.write(line)
                n_sampled += size
    return sample, (n_bytes, n_sampled)


def time_runs(scratch: Path, tokenizer: str) -> None:
    """Time texts of one character repeated, 1 and 8 MB, less what the program takes for nothing."""
    path = scratch / "run.jsonl"

    def seconds(text: str) -> float:
        path.write_text(json.dumps({"text": text}) + "\n")
        found = [timed(encode_command(str(path), tokenizer, scratch / "out", 1)) for _ in range(3)]
        return min(cpu for cpu, _ in found if cpu)

    alone = seconds("x")
    for name, unit in RUN_UNITS.items():
        for n_bytes in (1_000_000, 8_000_000):
            cpu = seconds(unit * (n_bytes // len(unit.encode()))) - alone
            print(json.dumps({"run": name, "MB": n_bytes // 1_000_000, "cpu_s": round(cpu, 3)}), flush=True)


if __name__ == "__main__":
    main()
