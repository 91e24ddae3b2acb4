"""Sixteen float32 side by side as one value in compiled code, for loops that LLVM does not widen by itself.

A block is what `take_block` returns. Blocks are added, subtracted, multiplied and divided with each other and
with single float32s, number by number. The instructions check no bounds, and indices count single numbers
whatever the dims. Those that take a block take a float32 as well, which stands for 16 equal ones; given
float32s alone they return one. See `vector_blocks_llvm.py` for what they become.
"""

from dsllm.text.compiled import instruction


@instruction
def take_block(x, index):
    """Give the 16 numbers of an array from `x[index]` on: float32s, or int16s that are the bits of bf16."""


@instruction
def put_block(x, index, block):
    """Write a block to an array from `x[index]` on: as float32s, or as int16s bits of the nearest bf16."""


@instruction
def put_pairs(x, pair, width, column, one, two):
    """Write blocks to the rows 2 * `pair` and 2 * `pair` + 1, of `width` numbers each, from a column on.

    As bf16 the two rows are one row of `width` words, each of which holds a number of both.
    """


@instruction
def count_lanes():
    """Give the block 0, 1, ... 15."""


@instruction
def where_less(one, two, three, four):
    """Give `three` where `one` < `two`, and `four` elsewhere, also where one of them is no number."""


@instruction
def multiply_add(one, two, three):
    """Compute one * two + three, rounded once."""


@instruction
def two_to(n):
    """Compute 2**n of whole numbers from -126 to 127."""
