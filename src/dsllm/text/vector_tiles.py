"""Tiles of sums of products, of float32 or of bf16, for loops compiled by numba.

A word is one float32, or two bf16, as int16s, whose products are added up. Indices and steps count words,
whatever the dims; nothing checks bounds, and counts are one or more. See `vector_tiles_llvm.py` for what the
instructions become.
"""

from dsllm.text.compiled import instruction

TILE_ROWS = 8


@instruction
def multiply_tile_16(a, a_index, a_row, a_step, n, b, b_index, b_step, out, out_index, out_row, is_sum):
    """Multiply 8 rows of `n` words by 16 columns; write 8 rows of 16 sums, or add to what is there.

    From one row of `a` to the next it is `a_row` words, from one word of a row to the next `a_step`; to the
    next row of `b`, which has 16 words side by side, `b_step`, and of `out`, float32, `out_row`. `is_sum` is
    1 or 0.
    """


@instruction
def multiply_tile_32(a, a_index, a_row, a_step, n, b, b_index, b_step, out, out_index, out_row, is_sum):
    """Do the same with 32 columns."""


@instruction
def copy_word(source, source_index, target, target_index):
    """Copy one word, at indices that count words."""


@instruction
def turn_tile(x, x_index, x_row, out, out_index, out_row):
    """Copy 16 rows of 16 words as 16 columns, from one row to the next `x_row` and `out_row` words."""
