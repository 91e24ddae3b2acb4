"""A model folder and its tokenizer, opened and written together: they must fit each other."""

from pathlib import Path

from dsllm.errors import ConfigError, InputError
from dsllm.io.folder import OutputFolder
from dsllm.model.config import ModelConfig
from dsllm.model.hf import load_config, save_model
from dsllm.model.transformer import Transformer
from dsllm.text.tokenizer_files import TOKENIZER_FILES, TOKENIZER_JSON, LoadedTokenizer, load_tokenizer


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


def write_model(model: Transformer, tokenizer: str | Path, out: OutputFolder) -> None:
    """Write the weights, the shape and the files of the folder `tokenizer`, and record them all."""
    save_model(model, out.path)
    for name in TOKENIZER_FILES:
        path = Path(tokenizer) / name
        if path.is_file():
            with out.create(name) as file:
                file.write(path.read_bytes())
    weights = [*out.path.glob("*.safetensors"), *out.path.glob("*.safetensors.index.json")]
    for path in (*sorted(weights), out.path / "config.json", out.path / "generation_config.json"):
        out.record(path.name)
