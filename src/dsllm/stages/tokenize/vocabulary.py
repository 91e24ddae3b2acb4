"""A tokenizer folder that somebody names: is it whole, and how large is the model's vocabulary for it."""

from pathlib import Path

from dsllm.errors import InputError, ShardError
from dsllm.io.manifest import MANIFEST, PARTIAL, read_manifest
from dsllm.text.tokenizer_files import TOKENIZER_FILES, read_json

MODEL_CONFIG = "config.json"


def padded(n_ids: int, multiple: int) -> int:
    """Give the model's vocabulary: the next multiple, 102,400 for 100,015 and 4,096."""
    return -(-n_ids // multiple) * multiple


def check_tokenizer_folder(folder: str) -> None:
    """Compare a tokenizer's files with the manifest of their folder, where it has one.

    Raises:
        InputError: the folder is not there, or the run that writes it has not ended.
        ShardError: a file differs from what the manifest says.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(
            f"{folder}: no such folder", hint="make a tokenizer with: dsllm tokenize train INPUT -o TOK"
        )
    if not any((path / name).exists() for name in (MANIFEST, PARTIAL)):
        return
    manifest = read_manifest(path)
    for shard in manifest.shards:
        if shard.name in TOKENIZER_FILES and (fault := shard.fault(path)):
            raise ShardError(fault, hint=f"copy {folder} again, or remake it with: {manifest.command}")


def model_vocab_size(folder: str, n_ids: int, pad_vocab_to: int) -> int:
    """Tell how many rows a model's embedding has for this tokenizer of `n_ids` ids.

    What the folder says counts: `dsllm tokenize train` wrote it into the manifest, a model folder has it in
    its config.json. Otherwise it is the next multiple of `pad_vocab_to`.

    Raises:
        InputError: the tokenizer has more ids than the model beside it has rows, or config.json is damaged.
    """
    path = Path(folder)
    content = read_manifest(path).content if (path / MANIFEST).exists() else {}
    stated = content.get("model_vocab_size")
    if stated is None and content.get("kind") == "tokens":
        stated = content["vocab_size"]
    if stated is None and (path / MODEL_CONFIG).is_file():
        stated = read_json(path, MODEL_CONFIG).get("vocab_size")
    if stated is None:
        return padded(n_ids, pad_vocab_to)
    if type(stated) is not int:
        raise InputError(
            f"{path / MODEL_CONFIG}: vocab_size is {stated!r}, no number", hint="copy the model again"
        )
    if stated < n_ids:
        raise InputError(
            f"{folder}: the tokenizer has {n_ids:,} ids, but the model {stated:,}",
            hint="take the tokenizer that the model was trained with",
        )
    return stated
