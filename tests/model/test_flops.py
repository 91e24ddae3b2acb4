import dataclasses

import pytest

from dsllm.model.config import MODEL_SIZES, ModelConfig, named_size
from dsllm.model.flops import (
    exact_flops_per_token,
    flops_per_token,
    n_block_parameters,
    n_parameters,
    paper_n1,
    paper_n2,
)
from dsllm.model.transformer import Transformer

# arXiv:2401.02954, table 3: layers, width; N1, N2, M; 6 N1 / M, 6 N2 / M.
TABLE_3 = [
    (8, 512, 25.2e6, 77.6e6, 352e6, 0.43, 1.32),
    (12, 768, 84.9e6, 164e6, 963e6, 0.53, 1.02),
    (24, 1024, 302e6, 407e6, 3.02e9, 0.60, 0.81),
    (24, 2048, 1.21e9, 1.42e9, 9.66e9, 0.75, 0.88),
    (32, 4096, 6.44e9, 6.86e9, 45.1e9, 0.85, 0.91),
    (40, 5120, 12.6e9, 13.1e9, 85.6e9, 0.88, 0.92),
    (80, 8192, 64.4e9, 65.3e9, 419e9, 0.92, 0.94),
]


def test_every_shape_of_the_papers_table_has_a_name():
    named = {(config.n_layers, config.d_model) for config in MODEL_SIZES.values()}
    assert {row[:2] for row in TABLE_3} <= named


@pytest.mark.parametrize("row", TABLE_3, ids=lambda row: f"{row[0]}x{row[1]}")
def test_counts_are_those_of_the_papers_table(row):
    n_layers, d_model, n1, n2, m, ratio1, ratio2 = row
    config = ModelConfig(
        vocab_size=102400,
        n_layers=n_layers,
        d_model=d_model,
        d_ff=d_model,
        n_heads=1,
        n_kv_heads=1,
        head_dim=d_model,
        seq_len=4096,
    )
    assert paper_n1(config) == pytest.approx(n1, rel=5e-3)  # the table has three digits
    assert paper_n2(config) == pytest.approx(n2, rel=5e-3)
    assert flops_per_token(config) == pytest.approx(m, rel=5e-3)
    # 0.01, not 0.005: the table's 0.85 is 72 / 84 = 0.857.
    assert 6 * paper_n1(config) / flops_per_token(config) == pytest.approx(ratio1, abs=0.01)
    assert 6 * paper_n2(config) / flops_per_token(config) == pytest.approx(ratio2, abs=0.01)


def test_released_models_have_the_published_totals():
    assert n_parameters(named_size("7b")) == pytest.approx(6.910e9, rel=1e-4)
    assert n_block_parameters(named_size("7b")) == pytest.approx(6.071e9, rel=1e-4)
    assert n_parameters(named_size("67b")) == pytest.approx(67.42e9, rel=1e-4)
    assert n_block_parameters(named_size("67b")) == pytest.approx(65.75e9, rel=1e-4)


def test_exact_flops_of_the_released_models():
    # 67B, weights of a layer: 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 22016 = 692,060,160; times 6
    # and 95, and attention 12 * 95 * 8192 * 4096.
    assert exact_flops_per_token(named_size("67b")) == 6 * 95 * 692_060_160 + 12 * 95 * 8192 * 4096
    assert exact_flops_per_token(named_size("67b")) == pytest.approx(4.33e11, rel=1e-3)
    assert exact_flops_per_token(named_size("7b")) == pytest.approx(1.004 * 4.228e10, rel=1e-3)
    with_vocabulary = exact_flops_per_token(named_size("7b"), counts_vocabulary=True)
    assert with_vocabulary - exact_flops_per_token(named_size("7b")) == 6 * 102400 * 4096


def test_shorter_sequences_cost_less_attention():
    config = named_size("7b")
    assert flops_per_token(config) - flops_per_token(config, seq_len=1024) == 12 * 30 * 4096 * 3072
    assert (
        exact_flops_per_token(config) - exact_flops_per_token(config, seq_len=1024) == 12 * 30 * 4096 * 3072
    )


@pytest.mark.parametrize("tie_embeddings", [False, True], ids=["untied", "tied"])
def test_counted_parameters_are_those_of_the_model(tiny_config, tie_embeddings):
    config = dataclasses.replace(tiny_config, tie_embeddings=tie_embeddings)
    parameters = dict(Transformer(config).named_parameters())
    assert n_parameters(config) == sum(p.numel() for p in parameters.values())
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    assert n_block_parameters(config) == sum(p.numel() for n, p in parameters.items() if n not in tables)
