"""Models as Hugging Face folders: `config.json`, `generation_config.json` and `model*.safetensors`.

The only place with Hugging Face's words for a model's shape. Tensor names need no table: they are Llama's.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dsllm.errors import ConfigError, InputError, ShardError
from dsllm.io.atomic import atomic_file, output_error, write_atomic
from dsllm.kernels.backend import Backend
from dsllm.model.config import ModelConfig
from dsllm.model.transformer import Transformer

HF_NAMES = {
    "vocab_size": "vocab_size",
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "d_ff": "intermediate_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "seq_len": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "rms_norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
    "init_std": "initializer_range",
    "bos_id": "bos_token_id",
    "eos_id": "eos_token_id",
}
# What a Llama's config.json can ask for and this model does not have, with the value that asks for nothing.
_UNSUPPORTED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "pretraining_tp": 1,
    "rope_scaling": None,
    "sliding_window": None,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}
_DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_SAFETENSORS_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_FILE_BYTES = 5 * 10**9  # larger models are cut into several files


def config_to_hf(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Write the shape of a model in Hugging Face's words: the content of `config.json`."""
    values = {HF_NAMES[name]: value for name, value in config.to_dict().items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        **{name: value for name, value in _UNSUPPORTED.items() if value is not None},
        **values,
        "torch_dtype": _DTYPE_NAMES[dtype],
        "use_cache": True,
    }


def config_from_hf(values: dict[str, Any], *, where: str) -> ModelConfig:
    """Read the shape of a model out of a `config.json`; `where` names it in errors.

    Raises:
        ConfigError: a feature that this model does not have, or a field that is missing or impossible.
    """
    _refuse_unsupported(values, where)
    ours = {name: values[theirs] for name, theirs in HF_NAMES.items() if values.get(theirs) is not None}
    rope = values.get("rope_parameters") or {}
    ours.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    if isinstance(ours.get("eos_id"), list):
        ours["eos_id"] = ours["eos_id"][0]  # all of them are in `stop_ids`
    ours.setdefault("n_kv_heads", ours.get("n_heads"))
    if "head_dim" not in ours and ours.get("n_heads"):
        ours["head_dim"] = ours.get("d_model", 0) // ours["n_heads"]
    for name in ("vocab_size", "n_layers", "d_model", "d_ff", "n_heads"):
        if name not in ours:
            raise ConfigError(
                f"{where}: {HF_NAMES[name]} is missing", hint="copy the model's config.json again"
            )
    try:
        return ModelConfig.build(ours, where=where)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint="mend that field of the file") from None


def load_config(folder: str | Path) -> ModelConfig:
    """Read a model folder's shape.

    Raises:
        InputError: no folder, no `config.json`, or not JSON.
        ConfigError: a model that is not this one.
    """
    path = Path(folder) / "config.json"
    return config_from_hf(_read_json(path), where=str(path))


def load_model(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
    backend: Backend = "auto",
) -> Transformer:
    """Load a model folder; `dtype` None keeps the dtype of the file.

    Raises:
        InputError: a file or a tensor is missing, or does not fit `config.json`.
        ShardError: a file of weights is cut or damaged.
        ConfigError: a model that is not this one.
    """
    config = load_config(folder)
    with torch.device("meta"):
        model = Transformer(config, backend=backend)
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    weights: dict[str, Tensor] = {}
    for path, name, tensor in _read_tensors(Path(folder)):
        if _is_redundant(name, config):
            continue
        if name not in expected:
            raise InputError(
                f"{path}: {name} is no weight of this model",
                hint="check that config.json belongs to the weights",
            )
        if tensor.shape != expected[name]:
            raise InputError(
                f"{path}: {name} is {tuple(tensor.shape)}, but config.json says {tuple(expected[name])}",
                hint="check that config.json belongs to the weights",
            )
        weights[name] = tensor.to(device=device, dtype=dtype)
    missing = [name for name in expected if name not in weights]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(expected)} weights are missing, the first is {missing[0]}",
            hint="copy the model again, all of its *.safetensors files",
        )
    model.load_state_dict(weights, assign=True)
    return model


def stop_ids(folder: str | Path) -> tuple[int, ...]:
    """Read the tokens that end a text: those of `generation_config.json`, else those of `config.json`."""
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        if path.is_file():
            eos = _read_json(path).get("eos_token_id")
            if eos is not None:
                return tuple(eos) if isinstance(eos, list) else (int(eos),)
    return ()


def save_model(model: Transformer, folder: str | Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
    """Write a model folder, creating it; each file is whole or absent, `config.json` comes last.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_weights(weights, model.config, folder, max_file_bytes=max_file_bytes)


def save_weights(
    weights: dict[str, Tensor],
    config: ModelConfig,
    folder: str | Path,
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Write a model folder from bare weights, as many ranks gather them: see `save_model`."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from None
    files = _divide(weights, max_file_bytes)
    for name, names in files.items():
        with atomic_file(folder / name) as file:
            _write_tensors(file, {key: weights[key] for key in names})
    for stale in {*folder.glob("model*.safetensors"), folder / INDEX} - {folder / name for name in files}:
        stale.unlink(missing_ok=True)  # of another model that the folder held
    if len(files) > 1:
        n_bytes = sum(_n_bytes(tensor) for tensor in weights.values())
        places = {key: name for name, names in files.items() for key in names}
        _write_json(folder / INDEX, {"metadata": {"total_size": n_bytes}, "weight_map": places})
    generation = {"bos_token_id": config.bos_id, "eos_token_id": config.eos_id}
    _write_json(folder / "generation_config.json", generation)
    dtype = next(iter(weights.values())).dtype
    _write_json(folder / "config.json", config_to_hf(config, dtype))


def _divide(weights: dict[str, Tensor], max_file_bytes: int) -> dict[str, list[str]]:
    """Cut the weights, in order, into files: one under its plain name if all fits."""
    groups: list[list[str]] = [[]]
    n_bytes = 0
    for name, tensor in weights.items():
        if groups[-1] and n_bytes + _n_bytes(tensor) > max_file_bytes:
            groups.append([])
            n_bytes = 0
        groups[-1].append(name)
        n_bytes += _n_bytes(tensor)
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {
        f"model-{index:05d}-of-{len(groups):05d}.safetensors": names
        for index, names in enumerate(groups, start=1)
    }


def _write_tensors(file: BinaryIO, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file, one tensor after the other from where it lies.

    The library's own writer fills a second copy of the whole file first. The bytes are the same.

    Source: the format's description, https://github.com/huggingface/safetensors#format.
    """
    dtypes = list(_SAFETENSORS_NAMES)  # widest first, which keeps every tensor aligned
    names = sorted(tensors, key=lambda name: (dtypes.index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + _n_bytes(tensors[name])
        dtype, shape = _SAFETENSORS_NAMES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers begin at a multiple of 8
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        numbers = tensors[name].detach().cpu().contiguous().reshape(-1)
        file.write(numbers.view(torch.uint8).numpy().data)


def _n_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _read_tensors(folder: Path) -> Iterator[tuple[Path, str, Tensor]]:
    """Yield every tensor of a model's files, one in memory at a time.

    A tensor is a view of the mapped file, of which what was read stays resident while it is mapped. So each
    has a mapping of its own, which goes when the tensor has been converted.
    """
    from safetensors import SafetensorError, safe_open

    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
            for name in names:
                with safe_open(path, framework="pt") as file:
                    yield path, name, file.get_tensor(name)
        except SafetensorError as error:
            raise ShardError(f"{path}: cut or damaged ({error})", hint="copy the file again") from None


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        names = [WEIGHTS]
    else:
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise InputError(f"{index}: has no weight_map", hint="copy the file again")
        names = sorted(set(weight_map.values()))
    for name in names:
        if not (folder / name).is_file():
            has_pickle = any(folder.glob("pytorch_model*.bin"))
            hint = "convert pytorch_model.bin to safetensors first" if has_pickle else "copy the model again"
            raise InputError(f"{folder / name}: no such file", hint=hint)
    return [folder / name for name in names]


def _is_redundant(name: str, config: ModelConfig) -> bool:
    """Say whether a tensor repeats what the model knows: old files' RoPE table, a tied output projection."""
    return name.endswith("rotary_emb.inv_freq") or (config.tie_embeddings and name == "lm_head.weight")


def _refuse_unsupported(values: dict[str, Any], where: str) -> None:
    rope = values.get("rope_parameters") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    asked = [(name, values.get(name, nothing), nothing) for name, nothing in _UNSUPPORTED.items()]
    asked.append(("rope_parameters.rope_type", rope_type, "default"))
    asked.append(("architectures", values.get("architectures") or ["LlamaForCausalLM"], ["LlamaForCausalLM"]))
    for name, value, nothing in asked:
        is_plain_rope = name == "rope_scaling" and _is_default_rope(value)
        if value is not None and value != nothing and not is_plain_rope:
            raise ConfigError(
                f"{where}: {name} is {json.dumps(value)}, which this model does not have",
                hint=f"use a plain Llama model, whose {name} is {json.dumps(nothing)}",
            )


def _is_default_rope(scaling: Any) -> bool:
    return isinstance(scaling, dict) and scaling.get("rope_type", scaling.get("type")) == "default"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}", hint="give the folder of a model, with its config.json"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}", hint="copy the file again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a JSON object", hint="copy the file again")
    return values


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(values, indent=2) + "\n").encode())
