import dataclasses

import pytest

from dsllm.errors import ConfigError
from dsllm.model.config import MODEL_SIZES, named_size, swiglu_width


def test_released_sizes_are_as_published():
    shape = {
        "vocab_size": 102400,
        "head_dim": 128,
        "seq_len": 4096,
        "init_std": 0.006,
        "tie_embeddings": False,
    }
    seven = {"n_layers": 30, "d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "d_ff": 11008}
    large = {"n_layers": 95, "d_model": 8192, "n_heads": 64, "n_kv_heads": 8, "d_ff": 22016}
    for name, expected in (("7b", seven), ("67b", large)):
        values = named_size(name).to_dict()
        assert {key: values[key] for key in {**shape, **expected}} == {**shape, **expected}
        assert (values["rope_theta"], values["rms_norm_eps"]) == (10000.0, 1e-6)
        assert (values["bos_id"], values["eos_id"]) == (100000, 100001)


@pytest.mark.parametrize("name", MODEL_SIZES)
def test_named_sizes_keep_the_width_in_the_heads(name):
    config = MODEL_SIZES[name]
    assert config.n_heads * config.head_dim == config.d_model
    assert 8 * config.d_model / 3 <= config.d_ff < 8 * config.d_model / 3 + 256


def test_mlp_width_by_hand():
    assert swiglu_width(4096, 256) == 11008  # 8/3 * 4096 = 10922.67, and 43 * 256 = 11008
    assert swiglu_width(192, 64) == 512  # 8/3 * 192 = 512 exactly


def test_a_named_size_is_fitted_to_a_tokenizer():
    config = dataclasses.replace(named_size("0.8m"), vocab_size=512, bos_id=1, eos_id=2, seq_len=128)
    assert (config.vocab_size, config.d_model) == (512, 128)


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"n_kv_heads": 3}, "n_heads is 4, not a multiple of n_kv_heads, 3", "try n_kv_heads 1"),
        ({"head_dim": 5}, "head_dim is 5", "try head_dim 6"),
        ({"eos_id": 96}, "eos_id is 96, outside the vocabulary of 96", "vocab_size above 96"),
        ({"n_layers": 0}, "n_layers is 0", ">= 1"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0", "> 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_impossible_shapes_are_refused(tiny_config, changes, message, hint):
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(tiny_config, **changes)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_unknown_size_names_the_known_ones():
    with pytest.raises(ConfigError, match="'8b'") as caught:
        named_size("8b")
    assert "7b, 67b" in caught.value.hint
