import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from dsllm.errors import ConfigError, InputError, OutputError, ShardError
from dsllm.model.config import named_size
from dsllm.model.hf import (
    config_from_hf,
    config_to_hf,
    load_config,
    load_model,
    save_model,
    save_weights,
    stop_ids,
)
from dsllm.model.transformer import Transformer

# The released 7B's config.json, as far as it says something about the model's shape.
RELEASED_7B = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 100000,
    "eos_token_id": 100001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 30,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 102400,
}


@pytest.fixture
def model(tiny_config):
    model = Transformer(tiny_config)
    model.init_weights(0)
    return model


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_equal_weights(one, two):
    assert [name for name, _ in one.named_parameters()] == [name for name, _ in two.named_parameters()]
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("max_file_bytes", [10**9, 20_000], ids=["one file", "several files"])
def test_a_saved_model_comes_back_bit_for_bit(model, tmp_path, dtype, max_file_bytes):
    model.to(dtype)
    save_model(model, tmp_path, max_file_bytes=max_file_bytes)
    loaded = load_model(tmp_path, dtype=None)
    assert loaded.config == model.config
    assert_equal_weights(loaded, model)
    assert (tmp_path / "model.safetensors").exists() == (max_file_bytes > 20_000)


def test_tied_embeddings_are_stored_once(tiny_config, tmp_path):
    model = Transformer(dataclasses.replace(tiny_config, tie_embeddings=True))
    model.init_weights(0)
    save_model(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in weights
    assert_equal_weights(load_model(tmp_path), model)
    # Other writers store the tied projection too: it is the embedding again.
    save_file(
        {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()},
        tmp_path / "model.safetensors",
    )
    assert_equal_weights(load_model(tmp_path), model)


def test_saving_over_a_larger_model_leaves_nothing_of_it(model, tmp_path):
    save_model(model, tmp_path, max_file_bytes=20_000)
    save_model(model, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.json", "generation_config.json", "model.safetensors"]


def test_saving_twice_gives_the_same_bytes(model, tmp_path):
    for name in ("one", "two"):
        save_model(model, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_files_are_those_of_the_safetensors_library(tiny_config, tmp_path):
    weights = {
        "b": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "\u00e9": torch.ones(3, dtype=torch.bfloat16),
        "a": torch.full((5,), 0.5, dtype=torch.float16),
        "c": torch.tensor(2.0),
        "none": torch.empty(0, 4),
    }
    save_weights(weights, tiny_config, tmp_path)
    expected = save(
        {name: tensor.contiguous() for name, tensor in weights.items()}, metadata={"format": "pt"}
    )
    assert (tmp_path / "model.safetensors").read_bytes() == expected


MEMORY_PROBE = """
import re, sys, torch
from pathlib import Path
from dsllm.model.config import ModelConfig
from dsllm.model.hf import load_model, save_model
from dsllm.model.transformer import Transformer

def peak_mb(name="VmHWM"):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

shape = dict(vocab_size=16384, d_model=512, d_ff=2048, n_layers=4, n_heads=8, n_kv_heads=8, head_dim=64)
model = Transformer(ModelConfig(**shape, seq_len=64)).bfloat16()  # 64 MiB
begun = peak_mb()
save_model(model, sys.argv[1])
saved = peak_mb()
del model
begun_to_load = peak_mb("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
model = load_model(sys.argv[1], dtype=torch.float16)
print(saved - begun, peak_mb() - begun_to_load)
"""


def test_neither_saving_nor_loading_holds_a_model_twice(tmp_path):
    probe = [sys.executable, "-c", MEMORY_PROBE, str(tmp_path / "model")]
    done = subprocess.run(probe, capture_output=True, text=True, check=True)
    saving_mb, loading_mb = (int(word) for word in done.stdout.split())
    # 64 MiB of weights, 16 MiB the largest. Loaded, they are there once, besides one of the file.
    assert saving_mb < 16
    assert loading_mb < 64 + 2 * 16


def test_weights_are_cast_as_asked(model, tmp_path):
    save_model(model, tmp_path)
    assert {p.dtype for p in load_model(tmp_path, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_released_config_is_understood():
    config = config_from_hf(RELEASED_7B, where="config.json")
    assert config == dataclasses.replace(named_size("7b"), init_std=0.02)


def test_written_config_says_what_the_released_one_does():
    values = config_to_hf(named_size("7b"), torch.bfloat16)
    expected = {k: v for k, v in RELEASED_7B.items() if v is not None and k != "initializer_range"}
    assert {key: values[key] for key in expected} == expected
    assert values["initializer_range"] == 0.006


def test_config_of_newer_and_older_writers_is_understood():
    newer = {
        **RELEASED_7B,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        "eos_token_id": [7, 8],
    }
    del newer["rope_theta"]
    older = {**RELEASED_7B, "head_dim": None}
    del older["num_key_value_heads"], older["rope_theta"]
    assert config_from_hf(newer, where="").rope_theta == 5e5
    assert config_from_hf(newer, where="").eos_id == 7
    assert config_from_hf(older, where="") == config_from_hf(RELEASED_7B, where="")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "mistral"),
        ("architectures", ["LlamaForSequenceClassification"]),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("attention_dropout", 0.1),
        ("pretraining_tp", 2),
        ("sliding_window", 1024),
        ("partial_rotary_factor", 0.5),
        ("quantization_config", {"bits": 4}),
        ("rope_scaling", {"type": "linear", "factor": 4.0}),
        ("rope_parameters", {"rope_type": "yarn", "factor": 4.0}),
    ],
)
def test_a_feature_that_the_model_lacks_is_named(field, value):
    with pytest.raises(ConfigError) as caught:
        config_from_hf({**RELEASED_7B, field: value}, where="here/config.json")
    assert "here/config.json" in caught.value.message
    assert field in caught.value.message


def test_a_missing_or_impossible_field_is_named():
    with pytest.raises(ConfigError, match="hidden_size is missing"):
        config_from_hf({k: v for k, v in RELEASED_7B.items() if k != "hidden_size"}, where="config.json")
    with pytest.raises(ConfigError, match=r"config\.json: n_heads is 32, not a multiple"):
        config_from_hf({**RELEASED_7B, "num_key_value_heads": 5}, where="config.json")
    with pytest.raises(ConfigError, match="vocab_size is '100'"):
        config_from_hf({**RELEASED_7B, "vocab_size": "100"}, where="config.json")


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.json: No such file"):
        load_config(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_config(tmp_path)


def test_missing_files_and_tensors_are_named(model, tmp_path):
    save_model(model, tmp_path, max_file_bytes=20_000)
    next(tmp_path.glob("model-00002-of-*.safetensors")).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"model-00002-of-\S+\.safetensors: no such file"):
        load_model(tmp_path)

    save_model(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    rest = {name: tensor for name, tensor in weights.items() if name != "model.norm.weight"}
    save_file(rest, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"1 of 21 weights are missing, the first is model\.norm\.weight"):
        load_model(tmp_path)


def test_weights_of_another_shape_or_name_are_refused(model, tmp_path):
    save_model(model, tmp_path)
    edit(tmp_path / "config.json", intermediate_size=72)
    with pytest.raises(InputError, match=r"down_proj\.weight is \(32, 64\), but config.json says \(32, 72\)"):
        load_model(tmp_path)
    edit(tmp_path / "config.json", intermediate_size=64, num_hidden_layers=1)
    with pytest.raises(InputError, match=r"model\.layers\.1\.\S+ is no weight of this model"):
        load_model(tmp_path)


def test_tables_that_old_writers_stored_are_ignored(model, tmp_path):
    save_model(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, tmp_path / "model.safetensors")
    assert_equal_weights(load_model(tmp_path), model)


def test_a_cut_file_is_named(model, tmp_path):
    save_model(model, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ShardError, match=r"model\.safetensors: cut or damaged"):
        load_model(tmp_path)


def test_pickled_weights_are_refused_with_advice(model, tmp_path):
    save_model(model, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError) as caught:
        load_model(tmp_path)
    assert "safetensors" in caught.value.hint


def test_a_folder_that_cannot_be_written_is_an_output_error(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_model(model, tmp_path / "file" / "model")


def test_stopping_tokens_come_from_the_generation_config_first(model, tmp_path):
    assert stop_ids(tmp_path) == ()
    save_model(model, tmp_path)
    assert stop_ids(tmp_path) == (1,)
    edit(tmp_path / "generation_config.json", eos_token_id=[5, 6])
    assert stop_ids(tmp_path) == (5, 6)
    (tmp_path / "generation_config.json").unlink()
    assert stop_ids(tmp_path) == (1,)
