"""Sixteen numbers of 32 bits at a time, as `vector.py` has its instructions: see `vector_rows_llvm.py`."""

from dsllm.text.compiled import instruction

N_LANES = 16  # of 32 bits
NO_BYTE = 0x100


@instruction
def equals_head(data, index, n_bytes, array, byte_index):
    """Tell whether 32 bytes of `array` are `n_bytes` of `data`, from `data[index]` on, with zeros behind.

    `n_bytes` is at most 32, which are read; `byte_index` counts bytes of `array`, of any type.
    """


@instruction
def add_floats(source, byte_index, target, target_index):
    """Add 16 float32 from byte `byte_index` of `source` on to the 16 float64 from `target[target_index]` on.

    `source` is an array of any type and `target_index` counts single numbers, whatever the dims.
    """


@instruction
def add_rows(source, row_bytes, first_byte, rows, n_rows, target, target_index):
    """Add 16 float32 of each of the first `n_rows` of `rows`, one after another, as `add_floats` does.

    Row r has those from byte `row_bytes` * r + `first_byte` of `source` on; `rows` is of int32 or int64.
    """


@instruction
def step_hashes(hashes, index, values, value_index):
    """Step the 16 FNV-1a hashes from `hashes[index]` on, each by one of the values from `value_index` on.

    Both are of 32 bits, and a value is a byte, at will with bits above it; NO_BYTE leaves the hash as it is.
    Indices count single numbers, whatever the dims.
    """


@instruction
def write_remainders(numbers, index, divisor, remainders, remainders_index):
    """Divide the 16 uint32 from `numbers[index]` on by a positive int32; write the remainders.

    Both arrays are of 32 bits, and indices count single numbers, whatever the dims.
    """
