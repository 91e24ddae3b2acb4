"""Hold the ids of the compiled encoder against Hugging Face `tokenizers`: every document, many random texts.

    python benchmarks/check_tokenizer_ids.py TOK... --corpus FILE.jsonl.zst... [--n-random 100000]

Prints for each tokenizer the number of texts whose ids differ, and ends with status 1 when there is any: with
special tokens as plain text, then random texts only with special tokens as tokens. The random texts come from
a fixed seed: characters of all classes and scripts, any code points, runs, and names of added tokens.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from dsllm.io.sources import find_sources, read_batches
from dsllm.text.bpe import Encoder, read_merges
from dsllm.text.texts import Texts

POOL = (
    " \n\r\t\u3000\xa0\u2028\x1f\x00'sStTrReEvVlLmMdDſ0123½Ⅳ٣abAB.,!/-$+^`|~éÉßǅʰªا中文ゟ゠・゛ー々〇한"
    "\u0301\u0300\u20dd\u093f\ufe0f\u200d🙂👩\U0010ffff\ue000\u0378ⅷ①𝐀𝟘ẞăѐЀ"
)
AT_ONCE = 2000


def main() -> int:
    """Compare, print, say whether all is equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tokenizers", nargs="+", type=Path)
    parser.add_argument("--corpus", nargs="*", default=[])
    parser.add_argument("--n-random", type=int, default=100_000)
    arguments = parser.parse_args()
    n_bad = 0
    for folder in arguments.tokenizers:
        merges = read_merges(folder)
        if isinstance(merges, str):
            print(f"{folder}: by the library: {merges}")
            continue
        names = [token["content"] for token in merges.added_tokens]
        for parse_special in (False, True):
            found = {}
            for kind, texts in (
                ("documents", documents([] if parse_special else arguments.corpus)),
                ("random texts", random_texts(arguments.n_random, names)),
            ):
                started = time.process_time()
                n, bad = compare(folder, Encoder(merges, parse_special), texts)
                found |= {
                    kind: n,
                    f"different {kind}": bad,
                    f"{kind}_cpu_s": round(time.process_time() - started),
                }
                n_bad += bad
            print(json.dumps({"tokenizer": folder.name, "parse_special": parse_special, **found}), flush=True)
    return int(n_bad > 0)


def compare(folder: Path, encoder: Encoder, texts: Iterator[str]) -> tuple[int, int]:
    """Count texts, and those whose ids differ; the first few are written to stderr."""
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.post_processor = None
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = not encoder.parse_special
    n_texts = n_bad = 0
    while some := list(islice(texts, AT_ONCE)):
        ids, ends = encoder.encode(Texts.join([text.encode() for text in some]))
        start = 0
        expected = library.encode_batch_fast(some, add_special_tokens=False)
        for text, end, encoding in zip(some, ends.tolist(), expected, strict=True):
            if ids[start:end].tolist() != encoding.ids:
                n_bad += 1
                if n_bad <= 3:
                    sys.stderr.write(f"{folder.name}: {text[:200]!r}\n")
            start = end
        n_texts += len(some)
    return n_texts, n_bad


def documents(paths: list[str]) -> Iterator[str]:
    for source in find_sources(paths) if paths else []:
        for batch in read_batches(source):
            for line in batch.lines.splitlines():
                yield json.loads(line)["text"]


def random_texts(n_texts: int, names: list[str]) -> Iterator[str]:
    draw = random.Random(20240105)
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for _ in range(n_texts):
        kind = draw.random()
        if kind < 0.4:
            units = draw.choices(POOL, k=draw.randrange(1, 24))
        elif kind < 0.6:
            units = draw.choices(every[: draw.choice([0x80, 0x600, 0x3000, 0x11000, len(every)])], k=12)
        elif kind < 0.8:
            units = [draw.choice(POOL) * draw.randrange(1, 9) for _ in range(draw.randrange(1, 9))]
        else:
            units = draw.choices([*POOL, *names[:40] * 2], k=draw.randrange(1, 12))
        yield "".join(units)


if __name__ == "__main__":
    sys.exit(main())
