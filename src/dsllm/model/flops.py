"""How many parameters a model has and what a token costs: the paper's counts and exact ones."""

from dsllm.model.config import ModelConfig


def n_parameters(config: ModelConfig) -> int:
    """Count every parameter, the embedding and the output projection included."""
    n_tables = 1 if config.tie_embeddings else 2
    return n_block_parameters(config) + n_tables * config.vocab_size * config.d_model


def n_block_parameters(config: ModelConfig) -> int:
    """Count all but the embedding and the output projection: the blocks and the final norm."""
    n_norms = 2 * config.n_layers + 1
    return config.n_layers * _n_layer_weights(config) + n_norms * config.d_model


def flops_per_token(config: ModelConfig, *, seq_len: int | None = None) -> int:
    """Compute the paper's M: training FLOPs per token without the vocabulary, 72 n d**2 + 12 n d l.

    The formula takes every model for one with as many key heads as query heads and an MLP 8/3 as wide as the
    stream; `exact_flops_per_token` counts the model as it is.

    Source: arXiv:2401.02954, section 3.2, equation 2.
    """
    n_layers, d_model = config.n_layers, config.d_model
    return 72 * n_layers * d_model**2 + 12 * n_layers * d_model * (seq_len or config.seq_len)


def paper_n1(config: ModelConfig) -> int:
    """Compute the paper's N1, parameters without the vocabulary: 12 n d**2 (section 3.2)."""
    return 12 * config.n_layers * config.d_model**2


def paper_n2(config: ModelConfig) -> int:
    """Compute the paper's N2, N1 and the vocabulary once: 12 n d**2 + V d (section 3.2)."""
    return paper_n1(config) + config.vocab_size * config.d_model


def exact_flops_per_token(
    config: ModelConfig, *, seq_len: int | None = None, counts_vocabulary: bool = False
) -> int:
    """Count the training FLOPs per token of this very shape: what a utilisation is measured against.

    Every weight of a product costs 2 FLOPs forward and 4 backward. Attention counts its whole square, as the
    paper does, though the kernel skips the upper half of it.

    Args:
        config: the shape.
        seq_len: of the sequences trained on; None takes the longest.
        counts_vocabulary: add the output projection, which the paper's M leaves out.
    """
    n_weights = config.n_layers * _n_layer_weights(config)
    if counts_vocabulary:
        n_weights += config.vocab_size * config.d_model
    attention = 12 * config.n_layers * config.n_heads * config.head_dim * (seq_len or config.seq_len)
    return 6 * n_weights + attention


def _n_layer_weights(config: ModelConfig) -> int:
    """Count the weights of one block's products: query and output, key and value, the MLP's three."""
    query_output = 2 * config.d_model * config.n_heads * config.head_dim
    key_value = 2 * config.d_model * config.n_kv_heads * config.head_dim
    return query_output + key_value + 3 * config.d_model * config.d_ff
