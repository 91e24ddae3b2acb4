"""The model's shape: a named size or a file's, with what the settings say instead."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dsllm.errors import ConfigError
from dsllm.model.config import ModelConfig, named_size, swiglu_width
from dsllm.stages.pretrain.config import PretrainConfig
from dsllm.stages.pretrain.data import Tokens

_OF_WIDTH = ("d_ff", "n_heads", "n_kv_heads", "head_dim")  # what follows from d_model where it is not given
_NAMES = ("n_layers", "d_model", *_OF_WIDTH, "vocab_size", "init_std")
_HEAD_DIMS = (64, 32, 16, 8, 4, 2)


def choose_model(config: PretrainConfig, tokens: Tokens) -> ModelConfig:
    """Find the shape that the settings ask for, its vocabulary that of the tokens.

    Raises:
        ConfigError: an unknown name, too little said, or fewer rows than the tokenizer has words.
    """
    shape = _base_shape(config.model)
    given = {name: value for name in _NAMES if (value := getattr(config, name)) is not None}
    for name in _dropped(shape, given):
        shape.pop(name, None)
    shape |= given
    if "d_model" not in shape or "n_layers" not in shape:
        raise ConfigError(
            "neither a model nor its depth and width are given",
            hint="try --model 5m, or --n-layers 6 --d-model 256",
        )
    shape.setdefault("vocab_size", tokens.vocab_size)
    if shape["vocab_size"] < tokens.vocab_size:
        raise ConfigError(
            f"the model has {shape['vocab_size']:,} words, but {tokens.path} has {tokens.vocab_size:,}",
            hint=f"give --vocab-size {tokens.vocab_size}, or the tokens of this model's tokenizer",
        )
    shape |= {"bos_id": tokens.bos_id, "eos_id": tokens.eos_id}
    if config.seq_len is not None:
        shape["seq_len"] = config.seq_len
    return ModelConfig(**_fill(shape))


def _base_shape(model: str | None) -> dict[str, Any]:
    """The shape that `--model` names; a named size's vocabulary is left to the tokens."""
    if model is None:
        return {}
    path = Path(model)
    if path.suffix == ".json" or path.is_dir():
        return _read_shape(path / "config.json" if path.is_dir() else path)
    shape = asdict(named_size(model))
    del shape["vocab_size"]
    return shape


def _read_shape(path: Path) -> dict[str, Any]:
    """Read a `config.json` in Hugging Face's words or in ours."""
    from dsllm.model.hf import config_from_hf

    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", hint="--model takes a named size, a config.json or a model folder"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}", hint="mend the file at that place") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a JSON object", hint="give a model's config.json")
    if "n_layers" in values:
        return asdict(ModelConfig.build(values, where=str(path)))
    return asdict(config_from_hf(values, where=str(path)))


def _dropped(shape: dict[str, Any], given: dict[str, Any]) -> tuple[str, ...]:
    """Name what no longer holds of a base shape whose width or heads are changed."""
    if given.get("d_model", shape.get("d_model")) != shape.get("d_model"):
        return _OF_WIDTH
    return (
        ("head_dim", "n_kv_heads")
        if "n_heads" in given
        else ("n_heads", "n_kv_heads")
        if "head_dim" in given
        else ()
    )


def _fill(shape: dict[str, Any]) -> dict[str, Any]:
    """Derive what is left open from the width: heads, and an MLP 8/3 as wide, rounded up."""
    d_model = shape["d_model"]
    if "head_dim" not in shape:
        fitting = [width for width in _HEAD_DIMS if d_model % width == 0]
        shape["head_dim"] = d_model // shape["n_heads"] if "n_heads" in shape else next(iter(fitting), 2)
    shape.setdefault("n_heads", max(1, d_model // shape["head_dim"]))
    shape.setdefault("n_kv_heads", shape["n_heads"])
    shape.setdefault("d_ff", swiglu_width(d_model, 64 if d_model < 1024 else 256))
    return shape
