"""A model folder and its tokenizer, opened together: they must fit each other."""

from pathlib import Path

from dsllm.errors import ConfigError, InputError
from dsllm.model.config import ModelConfig
from dsllm.model.hf import load_config
from dsllm.text.tokenizer_files import TOKENIZER_JSON, LoadedTokenizer, load_tokenizer


def open_folder(
    model: str | Path, tokenizer: str | Path | None = None
) -> tuple[ModelConfig, LoadedTokenizer]:
    """Read a model's shape and its tokenizer.

    Args:
        model: folder of the model.
        tokenizer: folder of the tokenizer; None: the model's own.

    Raises:
        InputError: no model, or no tokenizer.
        ConfigError: the tokenizer has ids that the model does not have.
    """
    shape = load_config(model)
    if tokenizer is None and not (Path(model) / TOKENIZER_JSON).is_file():
        raise InputError(
            f"{model}: no {TOKENIZER_JSON} in it",
            hint="copy the tokenizer's files there, or give --tokenizer FOLDER",
        )
    loaded = load_tokenizer(tokenizer or model)
    if loaded.n_ids > shape.vocab_size:
        raise ConfigError(
            f"the tokenizer of {tokenizer or model} has {loaded.n_ids:,} ids, the model {shape.vocab_size:,}",
            hint="use the tokenizer that the model was trained with: --tokenizer FOLDER",
        )
    return shape, loaded
