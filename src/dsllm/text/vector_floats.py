"""What numba lacks for loops over float32: sums of products, many at a time, and threads that wait.

Numba may not change the order of a sum, and so adds up one number after the other. The instructions below
become loops of a few machine instructions, see `vector_floats_llvm.py`. They check no bounds, indices count
single numbers whatever the dims, and counts are one or more.
"""

from dsllm.text.compiled import instruction

BLOCK = 16  # numbers side by side
GROUP = 4  # rows at a time


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


@instruction
def multiply_panel_4(panel, panel_index, x, x_index, n_inputs, out, out_index):
    """Multiply 16 columns of weights by 4 rows of `n_inputs` numbers; write 16 times 4 sums.

    Both lie input by input: 16 weights each, and 4 numbers each. The panel is read once, and a page ahead.
    """


@instruction
def multiply_panel_8(panel, panel_index, x, x_index, n_inputs, out, out_index):
    """Do the same with 8 rows."""


@instruction
def multiply_panel_16(panel, panel_index, x, x_index, n_inputs, out, out_index):
    """Do the same with 16 rows."""


@instruction
def sum_of_products(one, one_index, two, two_index, n_blocks):
    """Add up the products of two rows of `n_blocks` blocks, number by number; bf16 are widened."""


@instruction
def greatest_of(row, row_index, n_blocks):
    """Find the greatest of `n_blocks` blocks of numbers, NaN being none."""


@instruction
def widen(number):
    """Give a float32: the number itself, or what an int16, the bits of bf16, stands for."""


@instruction
def narrow(number, like):
    """Give a float32 as `like` is: itself, or the bits of the nearest bf16, the even one of two as near."""


@instruction
def floats_at(address, n):
    """Give the array of `n` float32 at an address; who calls sees to it that they stay there."""


@instruction
def meet(meeting, n_threads):
    """Wait until all of `n_threads` threads are here, and see what they wrote.

    `meeting`: an array of one int64, zero at first, that nobody else writes to.
    """
