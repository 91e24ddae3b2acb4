"""What many tests share. The environment comes first: Triton reads it when it is imported."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # kernels run in Triton's interpreter, on the CPU
os.environ.setdefault("GOMP_SPINCOUNT", "0")  # idle OpenMP threads sleep: other tests may need their core

import pytest
from hypothesis import settings

# The same examples in every run; and no deadline, since a first call may compile.
settings.register_profile("dsllm", deadline=None, derandomize=True)
settings.load_profile("dsllm")


@pytest.fixture
def device():
    """Where tensors of tests live."""
    return "cpu"


@pytest.fixture
def tiny_config():
    """The shape of a model that has everything and costs nothing."""
    from dsllm.model.config import ModelConfig

    return ModelConfig(
        vocab_size=96,
        n_layers=2,
        d_model=32,
        d_ff=64,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        seq_len=48,
        init_std=0.1,
        bos_id=0,
        eos_id=1,
    )
