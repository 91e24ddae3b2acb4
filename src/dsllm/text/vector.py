"""What numba lacks for loops over bytes: 64 bytes at a time, unaligned words, counts of bits.

The instructions below become a few machine instructions each, see `vector_llvm.py`. They check no bounds: the
caller leaves 64 bytes of room after the last place that it reads or writes.
"""

import numpy as np

from dsllm.text.compiled import compiled, instruction

BLOCK_BYTES = 64


@instruction
def load_word(array, index):
    """Read eight bytes from `array[index]` on as a uint64, little-endian on the processors we know."""


@instruction
def load_shared(array, row, column):
    """Read `array[row, column]`, eight bytes, as one thread may while others write it: once, and whole."""


@instruction
def store_shared(array, row, column, value):
    """Write `array[row, column]`, eight bytes, whole: see `load_shared`."""


@instruction
def copy_block(source, source_index, target, target_index, case_bit):
    """Copy 64 bytes and tell two masks of them, the lowest bit for the first byte.

    `case_bit` (uint8) is or-ed into each ASCII letter: 0x20 makes them lower case, 0 leaves them.
    The masks say which bytes are not ASCII, and which are ASCII letters or digits.
    """


@instruction
def copy_wide_block(source, source_index, target, target_index):
    """Copy 64 bytes of UTF-8 and tell three masks of them.

    They say what begins an ideograph (U+4E00 to U+9FFF, U+B000 to U+CFFF of Hangul); what begins one of the
    usual marks between these (U+2010 to U+2027, U+3000 to U+3004, U+3008 to U+3011, U+FF01 to U+FF0F, U+FF1A
    to U+FF1F); and which bytes follow a lead. All these characters have three bytes; one that is cut by the
    end of the block need not be told.
    """


@instruction
def copy_string_block(source, source_index, target, target_index):
    """Copy 64 bytes and tell two masks of them: which end a string or begin an escape, which are not ASCII.

    The first are quotes, backslashes and control characters.
    """


@instruction
def utf8_masks(array, index):
    """Classify the 64 bytes from `array[index]` on as UTF-8 has them, a mask a class.

    The classes: leads of two bytes or more; of three or more; of four; bytes that follow a lead; bytes that
    never occur (C0, C1, F5 to FF); bytes that a lead before them allows no more: E0 wants A0 or more behind
    it, ED less, F0 wants 90 or more, F4 less.
    """


@instruction
def ascii_masks(array, index):
    """Classify the 64 bytes from `array[index]` on, a mask a class, the lowest bit for the first byte.

    The classes: not ASCII; letters; digits; other visible characters; white space; line feeds and returns.
    """


@instruction
def mask_of_equal(array, index, byte):
    """Say which of the 64 bytes from `array[index]` on are `byte`, the lowest bit for the first."""


@instruction
def mask_of_run(array, index, bytes_):
    """Say where among the 64 bytes from `array[index]` on three begin that are `bytes_`, 0x20 set in each.

    `bytes_` (int64) has 0x20 set in all three, the lowest byte for the first. 66 bytes are read.
    """


@instruction
def mask_of_range(array, index, first, n_values):
    """Say which of the 64 bytes from `array[index]` on are one of `n_values` from `first` on, both uint8."""


@instruction
def prefetch_byte(array, byte_index):
    """Begin to fetch the line of memory with byte `byte_index` of `array` into the caches."""


@instruction
def count_trailing_zeros(bits):
    """Give the place of the lowest bit that is set, 64 where none is."""


@instruction
def prefetch(array, index):
    """Ask for `array[index]`, of an array of one dim, before it is needed."""


@instruction
def count_ones(bits):
    """Count the bits that are set."""


@compiled
def write_places(mask, base, places, n_written):
    """Write base + place of each bit that is set behind `places[:n_written]`; returns the new number.

    Eight at a time, the surplus overwritten by the next: no branch to mispredict.
    """
    n_bits = count_ones(mask)
    place = np.uint64(n_written)  # unsigned: numba looks whether another index is negative
    for _ in range(0, n_bits, 8):
        for _ in range(8):
            places[place] = base + count_trailing_zeros(mask)
            mask &= mask - np.uint64(1)
            place += np.uint64(1)
    return n_written + n_bits
