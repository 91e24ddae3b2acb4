"""Shapes on which attention is checked: odd lengths, grouped heads, documents that end anywhere."""

# batch, seq_len, n_heads, n_kv_heads, head_dim; then the lengths of each row's documents.
AttentionShape = tuple[int, int, int, int, int]
ATTENTION_SHAPES: tuple[tuple[AttentionShape, list[list[int]] | None], ...] = (
    ((2, 64, 2, 2, 64), None),
    ((1, 131, 3, 1, 48), None),  # padded heads, an odd length
    ((1, 150, 4, 2, 64), None),
    ((1, 257, 1, 1, 128), None),  # one token in the last block
    ((1, 3, 1, 1, 8), None),
    ((1, 1, 1, 1, 16), None),
    ((2, 150, 2, 1, 32), [[70, 1, 79], [150]]),
    ((1, 140, 4, 1, 16), [[1, 0, 63, 1, 64, 0, 11]]),  # empty documents and of one token
    ((1, 135, 8, 1, 16), [[70, 65]]),  # ends inside a block
    ((1, 70, 1, 1, 64), [[1] * 70]),
)
