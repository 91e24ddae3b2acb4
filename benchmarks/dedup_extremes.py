"""Time and memory of `dsllm dedup` on input that is extreme: all alike, all nearly so, one huge document.

    python benchmarks/dedup_extremes.py [CASE...] [--sizes 1,2,4] [--scale 1.0] [--memory 1GB] [--workers 1]

Each case is made at 1, 2 and 4 times its size, run as a whole process and removed. Time should grow with the
size, memory stay within --memory and some 300 MB: of the program, and of files that are mapped. Only the
cases of one long document need some times its size. --scale makes all of them smaller. Peak MB are resident
sets, the pages of mapped files among them, which the system can take back.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import orjson
import zstandard
from process_cost import run_process

LINES_AT_ONCE = 5000
N_SMALL = 2000  # documents beside a long one
Lines = Iterator[bytes]


def line(text: str) -> bytes:
    return b'{"text":%s}\n' % orjson.dumps(text)


def words(name: str, n_words: int, first: int = 0) -> str:
    return " ".join(f"{name}{place}" for place in range(first, first + n_words))


def equal(n_documents: int) -> Lines:
    """Equal documents of six words."""
    yield from (line("a b c d e f") for _ in range(n_documents))


def empty(n_documents: int) -> Lines:
    """Documents without text."""
    yield from (line("") for _ in range(n_documents))


def wordless(n_documents: int) -> Lines:
    """Documents of punctuation alone."""
    yield from (line("...") for _ in range(n_documents))


def one_word_alike(n_documents: int) -> Lines:
    """The last of 100 words differs: J = 95/97, one stays."""
    common = words("w", 99)
    yield from (line(f"{common} x{number}") for number in range(n_documents))


def one_word_unlike(n_documents: int) -> Lines:
    """A word amid 40 differs: J = 31/41, below the threshold, and all stay."""
    front, back = words("w", 20), words("w", 19, 20)
    yield from (line(f"{front} x{number} {back}") for number in range(n_documents))


def chain(n_documents: int) -> Lines:
    """Windows of 60 words, five further each: like the next (J = 51/61), not the one after (46/66)."""
    yield from (line(words("c", 60, 5 * number)) for number in range(n_documents))


def one_band(n_documents: int) -> Lines:
    """Half of the words are the same: J = 1/3, below the threshold, but many share some band."""
    common = words("w", 34)
    yield from (line(f"{common} {words(f'y{number}z', 26)}") for number in range(n_documents))


def small(seed: int) -> Lines:
    draw = random.Random(seed)
    yield from (line(" ".join(f"s{draw.randrange(10**5)}" for _ in range(60))) for _ in range(N_SMALL))


def long_words(n_bytes: int) -> Lines:
    """One long document of different words, beside small ones."""
    draw = random.Random(1)
    yield from small(2)
    yield line(" ".join(f"{draw.randrange(10**7):07}" for _ in range(n_bytes // 8)))
    yield from small(3)


def long_twins(n_bytes: int) -> Lines:
    """Two such documents that differ in a word, half as long each."""
    for end in ("one", "two"):
        draw = random.Random(1)
        yield line(" ".join(f"{draw.randrange(10**7):07}" for _ in range(n_bytes // 16)) + f" {end}")


def long_character(n_bytes: int) -> Lines:
    """One long document of a single character, beside small ones."""
    yield from small(2)
    yield line("a" * n_bytes)


def long_word(n_bytes: int) -> Lines:
    """One long document of a single word again and again."""
    yield from small(2)
    yield line("again " * (n_bytes // 6))


def long_cjk(n_bytes: int) -> Lines:
    """One long document of CJK characters."""
    draw = random.Random(1)
    yield from small(2)
    yield line("".join(chr(0x4E00 + draw.randrange(20_000)) for _ in range(n_bytes // 3)))


def long_escapes(n_bytes: int) -> Lines:
    """One long line of JSON with many escapes."""
    yield from small(2)
    yield b'{"text":"%s"}\n' % (rb"\u4e2d\n\"a\\ \ud83d\ude42" * (n_bytes // 27))


def long_lines(n_bytes: int) -> Lines:
    """One long document of short lines, most of which occur again."""
    draw = random.Random(1)
    yield line("\n".join(f"{draw.randrange(10**6)}a" for _ in range(n_bytes // 8)))


STRINGS = ("--cut-spans", "50", "--cut-lines")
# How each is made, how large it is at 1x, and more flags.
CASES: dict[str, tuple[Callable[[int], Lines], int, tuple[str, ...]]] = {
    "equal": (equal, 2_500_000, ()),
    "equal, --removed": (equal, 500_000, ("--removed", "removed")),
    "empty": (empty, 2_500_000, ()),
    "wordless": (wordless, 2_500_000, ()),
    "one-word-alike": (one_word_alike, 250_000, ()),
    "one-word-unlike": (one_word_unlike, 20_000, ()),
    "chain": (chain, 75_000, ()),
    "one-band": (one_band, 75_000, ()),
    "long-words": (long_words, 50_000_000, ()),
    "long-twins": (long_twins, 100_000_000, ()),
    "long-character": (long_character, 50_000_000, ()),
    "long-word": (long_word, 50_000_000, ()),
    "long-cjk": (long_cjk, 50_000_000, ()),
    "long-escapes": (long_escapes, 50_000_000, ()),
    "long-words, strings": (long_words, 50_000_000, STRINGS),
    "long-cjk, strings": (long_cjk, 50_000_000, STRINGS),
    "long-lines, strings": (long_lines, 50_000_000, STRINGS),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of: {'; '.join(CASES)}")
    parser.add_argument("--sizes", default="1,2,4")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a run is ended")
    parser.add_argument("--folder", type=Path, help="for input and output, while they are needed")
    given = parser.parse_args()
    if unknown := set(given.cases) - set(CASES):
        parser.error(f"no case is called {', '.join(sorted(unknown))}")
    print("| case | size | wall s | CPU s | peak MB |\n|---|---|---|---|---|")
    for name in given.cases or CASES:
        make, size, flags = CASES[name]
        for factor in map(int, given.sizes.split(",")):
            n = int(size * factor * given.scale)
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                print(f"| {name} | {n:,} | {measure(make(n), flags, Path(folder), given)} |", flush=True)


def measure(lines: Lines, flags: tuple[str, ...], folder: Path, given: argparse.Namespace) -> str:
    source = folder / "in.jsonl.zst"
    with source.open("wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as packed:
        while some := list(islice(lines, LINES_AT_ONCE)):
            packed.write(b"".join(some))
    command = [str(Path(sys.executable).parent / "dsllm"), "dedup", str(source), "-o", str(folder / "out")]
    command += ["--memory", given.memory, "--workers", str(given.workers), "--quiet"]
    command += [str(folder / flag) if flag == "removed" else flag for flag in flags]
    cost = run_process(command, log=folder / "log", limit_s=given.limit, extra={})
    return cost.failure or f"{cost.wall_s:.1f} | {cost.cpu_s:.1f} | {cost.peak_mb:,.0f}"


if __name__ == "__main__":
    main()
