"""What numba lacks for loops over float32: sums of products, many at a time.

Numba may not change the order of a sum, and so adds up one number after the other. The instructions below
become loops of a few machine instructions, see `vector_floats_llvm.py`. They check no bounds, indices count
single numbers whatever the dims, and counts are one or more.
"""

from dsllm.text.compiled import instruction

LANES = 16  # numbers of a block
GROUP = 4  # rows at a time


@instruction
def sum_products(one, one_index, two, two_index, n_blocks):
    """Add up the products of two rows of `n_blocks` blocks, from `one[one_index]` and `two[two_index]` on."""


@instruction
def multiply_rows(one, one_index, rows, rows_index, n_blocks, n_groups, out, out_index):
    """Multiply `one`, a row of `n_blocks` blocks, by each of `n_groups` groups of rows, one behind the other.

    Writes a sum for each row from `out[out_index]` on.
    """


@instruction
def add_weighted_rows(weights, weights_index, rows, rows_index, stride, n_groups, out, out_index):
    """Add to one block, from `out[out_index]` on, a block of each of `n_groups` groups of rows, weighted.

    From the block of one row to that of the next it is `stride` numbers.
    """
