"""The instructions of `vector.py` as LLVM has them. Imported to compile, not to run.

Every processor's backend knows them (AVX-512, AVX2, NEON).
"""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dsllm.text.vector import BLOCK_BYTES

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_BLOCK = ir.VectorType(_BYTE, BLOCK_BYTES)
_FLAGS = ir.VectorType(ir.IntType(1), BLOCK_BYTES)
_LANES = ir.Constant(ir.VectorType(ir.IntType(32), BLOCK_BYTES), [0] * BLOCK_BYTES)


@intrinsic
def load_word(typing_context, array, index):
    """Read eight bytes from `array[index]` on as a uint64, little-endian on the processors we know."""

    def generate(context, builder, signature, arguments):
        place = place_in(context, builder, signature.args[0], arguments[0], arguments[1])
        loaded = builder.load(builder.bitcast(place, _WORD.as_pointer()))
        loaded.align = 1
        return loaded

    return types.uint64(array, types.int64), generate


@intrinsic
def load_shared(typing_context, array, row, column):
    """Read an element of a table of words, unordered among others but whole."""

    def generate(context, builder, signature, arguments):
        place = _word_of_row(context, builder, signature, arguments)
        return builder.load_atomic(place, "monotonic", 8)

    return types.uint64(array, types.int64, types.int64), generate


@intrinsic
def store_shared(typing_context, array, row, column, value):
    """Write an element of a table of words, unordered among others but whole."""

    def generate(context, builder, signature, arguments):
        place = _word_of_row(context, builder, signature, arguments)
        builder.store_atomic(arguments[3], place, "monotonic", 8)
        return context.get_dummy_value()

    return types.none(array, types.int64, types.int64, types.uint64), generate


@intrinsic
def copy_block(typing_context, source, source_index, target, target_index, case_bit):
    """Copy 64 bytes and tell two masks of them, the lowest bit for the first byte.

    `case_bit` (uint8) is or-ed into each ASCII letter: 0x20 makes them lower case, 0 leaves them.
    The masks say which bytes are not ASCII, and which are ASCII letters or digits.
    """

    def generate(context, builder, signature, arguments):
        block = load_block(context, builder, signature, arguments)
        is_high = builder.icmp_signed("<", block, splat(0))
        lower = builder.or_(block, splat(0x20))
        is_letter = builder.icmp_unsigned("<", builder.sub(lower, splat(ord("a"))), splat(26))
        is_digit = builder.icmp_unsigned("<", builder.sub(block, splat(ord("0"))), splat(10))
        bits = _repeat(builder, arguments[4])
        folded = builder.or_(block, builder.select(is_letter, bits, splat(0)))
        _store_block(context, builder, signature, arguments, folded)
        return as_masks(context, builder, signature, [is_high, builder.or_(is_letter, is_digit)])

    masks = types.UniTuple(types.uint64, 2)
    return masks(source, types.int64, target, types.int64, types.uint8), generate


@intrinsic
def copy_wide_block(typing_context, source, source_index, target, target_index):
    """Copy 64 bytes, and find ideographs and marks."""

    def generate(context, builder, signature, arguments):
        block = load_block(context, builder, signature, arguments)

        def lies_in(first, last):
            offset = builder.sub(block, splat(first))
            return builder.bitcast(builder.icmp_unsigned("<=", offset, splat(last - first)), _WORD)

        def behind(mask, n_bytes):
            return builder.lshr(mask, ir.Constant(_WORD, n_bytes))

        def any_of(masks):
            return functools.reduce(builder.or_, masks)

        def begins(lead, second, third):
            return builder.and_(lies_in(lead, lead), builder.and_(behind(second, 1), behind(third, 2)))

        is_zero, is_full = lies_in(0x80, 0x80), lies_in(0xBC, 0xBC)
        marks = [
            begins(0xE2, is_zero, lies_in(0x90, 0xA7)),
            begins(0xE3, is_zero, any_of([lies_in(0x80, 0x84), lies_in(0x88, 0x91)])),
            begins(0xEF, is_full, any_of([lies_in(0x81, 0x8F), lies_in(0x9A, 0x9F)])),
        ]
        first = builder.and_(lies_in(0xE4, 0xE4), behind(lies_in(0xB8, 0xBF), 1))
        ideographs = any_of([lies_in(0xE5, 0xE9), lies_in(0xEB, 0xEC), first])
        _store_block(context, builder, signature, arguments, block)
        masks = [ideographs, any_of(marks), lies_in(0x80, 0xBF)]
        return context.make_tuple(builder, signature.return_type, masks)

    return types.UniTuple(types.uint64, 3)(source, types.int64, target, types.int64), generate


@intrinsic
def copy_string_block(typing_context, source, source_index, target, target_index):
    """Copy 64 bytes, and classify them."""

    def generate(context, builder, signature, arguments):
        block = load_block(context, builder, signature, arguments)
        is_stop = builder.icmp_unsigned("<", block, splat(0x20))
        for character in (ord('"'), ord("\\")):
            is_stop = builder.or_(is_stop, builder.icmp_unsigned("==", block, splat(character)))
        is_high = builder.icmp_signed("<", block, splat(0))
        _store_block(context, builder, signature, arguments, block)
        return as_masks(context, builder, signature, [is_stop, is_high])

    return types.UniTuple(types.uint64, 2)(source, types.int64, target, types.int64), generate


@intrinsic
def utf8_masks(typing_context, array, index):
    """Classify 64 bytes as UTF-8 has them."""

    def generate(context, builder, signature, arguments):
        block = load_block(context, builder, signature, arguments)

        def is_least(value):
            return builder.icmp_unsigned(">=", block, splat(value))

        def comes_behind(value):
            """Say which bytes have `value` before them: the first has none."""
            word = builder.bitcast(builder.icmp_unsigned("==", block, splat(value)), _WORD)
            return builder.bitcast(builder.shl(word, ir.Constant(_WORD, 1)), _FLAGS)

        is_follower = builder.and_(is_least(0x80), builder.not_(is_least(0xC0)))
        is_unknown = builder.or_(is_least(0xF5), builder.and_(is_least(0xC0), builder.not_(is_least(0xC2))))
        is_wrong = builder.and_(comes_behind(0xE0), builder.not_(is_least(0xA0)))
        is_wrong = builder.or_(is_wrong, builder.and_(comes_behind(0xED), is_least(0xA0)))
        is_wrong = builder.or_(is_wrong, builder.and_(comes_behind(0xF0), builder.not_(is_least(0x90))))
        is_wrong = builder.or_(is_wrong, builder.and_(comes_behind(0xF4), is_least(0x90)))
        flags = [is_least(0xC0), is_least(0xE0), is_least(0xF0), is_follower, is_unknown, is_wrong]
        return as_masks(context, builder, signature, flags)

    return types.UniTuple(types.uint64, 6)(array, types.int64), generate


@intrinsic
def ascii_masks(typing_context, array, index):
    """Classify the 64 bytes from `array[index]` on, a mask a class, the lowest bit for the first byte.

    The classes: not ASCII; letters; digits; other visible characters; white space; line feeds and returns.
    """

    def generate(context, builder, signature, arguments):
        block = load_block(context, builder, signature, arguments)

        def lies_in(first, n_values, bytes_=block):
            return builder.icmp_unsigned("<", builder.sub(bytes_, splat(first)), splat(n_values))

        is_letter = lies_in(ord("a"), 26, builder.or_(block, splat(0x20)))
        is_digit = lies_in(ord("0"), 10)
        is_other = builder.and_(lies_in(0x21, 0x5E), builder.not_(builder.or_(is_letter, is_digit)))
        is_space = builder.or_(lies_in(0x09, 5), lies_in(ord(" "), 1))
        is_line_end = builder.or_(lies_in(ord("\n"), 1), lies_in(ord("\r"), 1))
        is_high = builder.icmp_signed("<", block, splat(0))
        flags = [is_high, is_letter, is_digit, is_other, is_space, is_line_end]
        return as_masks(context, builder, signature, flags)

    return types.UniTuple(types.uint64, 6)(array, types.int64), generate


@intrinsic
def mask_of_equal(typing_context, array, index, byte):
    """Say which of the 64 bytes from `array[index]` on are `byte`, the lowest bit for the first."""

    def generate(context, builder, signature, arguments):
        block = load_block(context, builder, signature, arguments)
        return builder.bitcast(builder.icmp_unsigned("==", block, _repeat(builder, arguments[2])), _WORD)

    return types.uint64(array, types.int64, types.uint8), generate


@intrinsic
def mask_of_run(typing_context, array, index, bytes_):
    """Say where three given bytes begin, but for 0x20 in each."""

    def generate(context, builder, signature, arguments):
        found = None
        for at in range(3):
            place = builder.add(arguments[1], ir.Constant(_WORD, at))
            block = load_block(context, builder, signature, [arguments[0], place])
            wanted = builder.trunc(builder.lshr(arguments[2], ir.Constant(_WORD, 8 * at)), _BYTE)
            is_it = builder.icmp_unsigned("==", builder.or_(block, splat(0x20)), _repeat(builder, wanted))
            found = is_it if found is None else builder.and_(found, is_it)
        return builder.bitcast(found, _WORD)

    return types.uint64(array, types.int64, types.int64), generate


@intrinsic
def mask_of_range(typing_context, array, index, first, n_values):
    """Say which bytes are from `first` on."""

    def generate(context, builder, signature, arguments):
        block = load_block(context, builder, signature, arguments)
        offset = builder.sub(block, _repeat(builder, arguments[2]))
        lies_in = builder.icmp_unsigned("<", offset, _repeat(builder, arguments[3]))
        return builder.bitcast(lies_in, _WORD)

    return types.uint64(array, types.int64, types.uint8, types.uint8), generate


@intrinsic
def prefetch_byte(typing_context, array, byte_index):
    """Fetch a line of memory ahead of its use."""

    def generate(context, builder, signature, arguments):
        place = byte_place(context, builder, signature.args[0], arguments[0], arguments[1])
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [place, number(0), number(3), number(1)])

    return types.void(array, types.int64), generate


@intrinsic
def count_trailing_zeros(typing_context, bits):
    """Give the place of the lowest bit that is set, 64 where none is."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def prefetch(typing_context, array, index):
    """Ask for an element, to be read and written, before it is needed."""

    def generate(context, builder, signature, arguments):
        place = place_in(context, builder, signature.args[0], arguments[0], arguments[1])
        number, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        flags = [ir.Constant(number, flag) for flag in (1, 3, 1)]
        builder.call(function, [builder.bitcast(place, pointer), *flags])
        return context.get_dummy_value()

    return types.none(array, types.int64), generate


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


def byte_place(context, builder, array_type, array, index):
    """Say where a byte of an array is, of any type."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(builder.bitcast(data, _BYTE.as_pointer()), [index])


def load_block(context, builder, signature, arguments):
    """Load 64 bytes from a place in an array on, the first two arguments."""
    place = place_in(context, builder, signature.args[0], arguments[0], arguments[1])
    block = builder.load(builder.bitcast(place, _BLOCK.as_pointer()))
    block.align = 1
    return block


def _store_block(context, builder, signature, arguments, block):
    place = place_in(context, builder, signature.args[2], arguments[2], arguments[3])
    stored = builder.store(block, builder.bitcast(place, _BLOCK.as_pointer()))
    stored.align = 1


def as_masks(context, builder, signature, flags):
    """Return flags of 64 bytes as numbers."""
    return context.make_tuple(
        builder, signature.return_type, [builder.bitcast(flag, _WORD) for flag in flags]
    )


def place_in(context, builder, array_type, array, index):
    """Say where an element of an array is."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _word_of_row(context, builder, signature, arguments):
    table = context.make_array(signature.args[0])(context, builder, arguments[0])
    n_columns = cgutils.unpack_tuple(builder, table.shape)[1]
    place = builder.add(builder.mul(arguments[1], n_columns), arguments[2])
    return builder.gep(builder.bitcast(table.data, _WORD.as_pointer()), [place])


def _repeat(builder, byte):
    undefined = ir.Constant(_BLOCK, ir.Undefined)
    first = builder.insert_element(undefined, byte, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, _LANES)


def splat(value: int) -> ir.Constant:
    """Give 64 equal bytes."""
    return ir.Constant(_BLOCK, [value] * BLOCK_BYTES)
