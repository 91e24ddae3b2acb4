"""The instructions of `vector.py` as LLVM has them. Imported to compile, not to run.

Every processor's backend knows them (AVX-512, AVX2, NEON).
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dsllm.text.vector import BLOCK_BYTES

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_BLOCK = ir.VectorType(_BYTE, BLOCK_BYTES)
_LANES = ir.Constant(ir.VectorType(ir.IntType(32), BLOCK_BYTES), [0] * BLOCK_BYTES)


@intrinsic
def load_word(typing_context, array, index):
    """Read eight bytes from `array[index]` on as a uint64, little-endian on the processors we know."""

    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], arguments[0], arguments[1])
        loaded = builder.load(builder.bitcast(place, _WORD.as_pointer()))
        loaded.align = 1
        return loaded

    return types.uint64(array, types.int64), generate


@intrinsic
def copy_block(typing_context, source, source_index, target, target_index, case_bit):
    """Copy 64 bytes and tell two masks of them, the lowest bit for the first byte.

    `case_bit` (uint8) is or-ed into each ASCII letter: 0x20 makes them lower case, 0 leaves them.
    The masks say which bytes are not ASCII, and which are ASCII letters or digits.
    """

    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], arguments[0], arguments[1])
        block = builder.load(builder.bitcast(place, _BLOCK.as_pointer()))
        block.align = 1
        is_high = builder.icmp_signed("<", block, _splat(0))
        lower = builder.or_(block, _splat(0x20))
        is_letter = builder.icmp_unsigned("<", builder.sub(lower, _splat(ord("a"))), _splat(26))
        is_digit = builder.icmp_unsigned("<", builder.sub(block, _splat(ord("0"))), _splat(10))
        bits = _repeat(builder, arguments[4])
        folded = builder.or_(block, builder.select(is_letter, bits, _splat(0)))
        place = _place(context, builder, signature.args[2], arguments[2], arguments[3])
        stored = builder.store(folded, builder.bitcast(place, _BLOCK.as_pointer()))
        stored.align = 1
        masks = [builder.bitcast(is_high, _WORD), builder.bitcast(builder.or_(is_letter, is_digit), _WORD)]
        return context.make_tuple(builder, signature.return_type, masks)

    masks = types.UniTuple(types.uint64, 2)
    return masks(source, types.int64, target, types.int64, types.uint8), generate


@intrinsic
def copy_string_block(typing_context, source, source_index, target, target_index):
    """Copy 64 bytes; the mask says which are a quote, a backslash, a control character or not ASCII."""

    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], arguments[0], arguments[1])
        block = builder.load(builder.bitcast(place, _BLOCK.as_pointer()))
        block.align = 1
        is_special = builder.icmp_signed("<", block, _splat(0x20))  # bytes from 0x80 on are negative
        for character in (ord('"'), ord("\\")):
            is_special = builder.or_(is_special, builder.icmp_unsigned("==", block, _splat(character)))
        place = _place(context, builder, signature.args[2], arguments[2], arguments[3])
        stored = builder.store(block, builder.bitcast(place, _BLOCK.as_pointer()))
        stored.align = 1
        return builder.bitcast(is_special, _WORD)

    return types.uint64(source, types.int64, target, types.int64), generate


@intrinsic
def ascii_masks(typing_context, array, index):
    """Classify the 64 bytes from `array[index]` on, a mask a class, the lowest bit for the first byte.

    The classes: not ASCII; letters; digits; other visible characters; white space; line feeds and returns.
    """

    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], arguments[0], arguments[1])
        block = builder.load(builder.bitcast(place, _BLOCK.as_pointer()))
        block.align = 1

        def lies_in(first, n_values, bytes_=block):
            return builder.icmp_unsigned("<", builder.sub(bytes_, _splat(first)), _splat(n_values))

        is_letter = lies_in(ord("a"), 26, builder.or_(block, _splat(0x20)))
        is_digit = lies_in(ord("0"), 10)
        is_other = builder.and_(lies_in(0x21, 0x5E), builder.not_(builder.or_(is_letter, is_digit)))
        is_space = builder.or_(lies_in(0x09, 5), lies_in(ord(" "), 1))
        is_line_end = builder.or_(lies_in(ord("\n"), 1), lies_in(ord("\r"), 1))
        is_high = builder.icmp_signed("<", block, _splat(0))
        masks = [is_high, is_letter, is_digit, is_other, is_space, is_line_end]
        masks = [builder.bitcast(mask, _WORD) for mask in masks]
        return context.make_tuple(builder, signature.return_type, masks)

    return types.UniTuple(types.uint64, 6)(array, types.int64), generate


@intrinsic
def mask_of_equal(typing_context, array, index, byte):
    """Say which of the 64 bytes from `array[index]` on are `byte`, the lowest bit for the first."""

    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], arguments[0], arguments[1])
        block = builder.load(builder.bitcast(place, _BLOCK.as_pointer()))
        block.align = 1
        return builder.bitcast(builder.icmp_unsigned("==", block, _repeat(builder, arguments[2])), _WORD)

    return types.uint64(array, types.int64, types.uint8), generate


@intrinsic
def count_trailing_zeros(typing_context, bits):
    """Give the place of the lowest bit that is set, 64 where none is."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def count_ones(typing_context, bits):
    """Count the bits that are set."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic
def as_pointer(typing_context, address):
    """Take a number for an address."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@intrinsic
def as_number(typing_context, bits):
    """Take 64 bits for a float."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


@intrinsic
def as_bits(typing_context, number):
    """Take a float for its 64 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], _WORD)

    return types.int64(types.float64), generate


def _place(context, builder, array_type, array, index):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _repeat(builder, byte):
    undefined = ir.Constant(_BLOCK, ir.Undefined)
    first = builder.insert_element(undefined, byte, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, _LANES)


def _splat(value: int) -> ir.Constant:
    return ir.Constant(_BLOCK, [value] * BLOCK_BYTES)
