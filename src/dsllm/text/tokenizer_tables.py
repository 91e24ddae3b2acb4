"""What encoding needs of a tokenizer's folder, made once per machine: reading its files takes 0.5 s."""

import hashlib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dsllm.text.bpe import Merges, merges_of_file
from dsllm.text.compiled import kept_object
from dsllm.text.patterns import cuts_of
from dsllm.text.tokenizer_facts import TokenizerFacts, read_facts
from dsllm.text.tokenizer_files import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, TOKENIZER_JSON, read_tokenizer

_FILES = (TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP)
Tables = tuple[Merges | str, TokenizerFacts | None]


def read_tables(folder: str | Path) -> Tables:
    """Give the merges of a tokenizer and its ids; or why they cannot be used, and None: see `merges_of_file`.

    They are kept by a hash of the folder's files, some 6 MB for 100,000 words.

    Raises:
        InputError: a file cannot be read, or names a token that the tokenizer does not have.
    """
    folder = Path(folder)
    found = [(name, path.read_bytes()) for name in _FILES if (path := folder / name).is_file()]
    stamps = [(name, hashlib.sha256(data).digest()) for name, data in found] + [version("tokenizers")]
    stamp = hashlib.sha256(
        repr(stamps).encode()
    )  # the library says what cuts are DeepSeek LLM's: see `cuts_of`
    pre_tokenizer, (merges, facts) = kept_object(f"tokenizer-{stamp.hexdigest()[:32]}", lambda: _make(folder))
    if isinstance(merges, Merges):  # classes of code points are kept by themselves, for all tokenizers
        cuts = cuts_of(pre_tokenizer)
        assert cuts is not None
        merges = replace(merges, cuts=cuts)
    return merges, facts


def _make(folder: Path) -> tuple[Any, Tables]:
    """Read the files; what they say of cuts is given beside the tables, which are without."""
    values = read_tokenizer(folder)
    merges = merges_of_file(values)
    if isinstance(merges, str):
        return None, (merges, None)
    bare = replace(merges, cuts=replace(merges.cuts, classes=merges.cuts.classes[:0].copy()))
    return values["pre_tokenizer"], (bare, read_facts(folder, values))
