"""The instructions of `vector_marks.py` as LLVM has them. Imported to compile, not to run."""

import functools

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dsllm.text.vector_llvm import as_masks, load_block, splat

_WORD = ir.IntType(64)


@intrinsic
def ascii_mark_masks(typing_context, array, index):
    """Classify marks."""

    def generate(context, builder, signature, arguments):
        block = load_block(context, builder, signature, arguments)

        def is_one_of(characters):
            return _any(builder, [_is(builder, block, ord(each)) for each in characters])

        is_high = builder.icmp_signed("<", block, splat(0))
        is_stop, is_end = is_one_of("."), is_one_of(".!?")
        flags = [is_high, builder.or_(is_end, is_one_of(",;:")), is_end, is_stop, is_one_of("#")]
        flags.append(is_one_of("{"))
        return as_masks(context, builder, signature, flags)

    return types.UniTuple(types.uint64, 6)(array, types.int64), generate


@intrinsic
def wide_mark_masks(typing_context, array, index):
    """Classify Chinese marks."""

    def generate(context, builder, signature, arguments):
        first, second, third = _load_three(context, builder, signature, arguments)
        is_full = builder.and_(_is(builder, first, 0xEF), _is(builder, second, 0xBC))
        is_usual = builder.and_(_is(builder, first, 0xE3), _is(builder, second, 0x80))
        is_general = builder.and_(_is(builder, first, 0xE2), _is(builder, second, 0x80))

        def full(bytes_):  # U+FF00 on
            return builder.and_(is_full, _any(builder, [_is(builder, third, byte) for byte in bytes_]))

        is_stop = builder.and_(is_usual, _is(builder, third, 0x82))
        is_sign = builder.and_(is_general, _is(builder, third, 0xA6))
        is_comma = builder.or_(full([0x8C, 0x9A, 0x9B]), builder.and_(is_usual, _is(builder, third, 0x81)))
        is_end = builder.or_(is_stop, full([0x81, 0x8E, 0x9F]))
        is_mark = _any(builder, [is_end, is_comma, is_sign])
        flags = [_lies_in(builder, first, 0x80, 0x40), is_mark, is_end, is_stop, is_sign, full([0x83])]
        return as_masks(context, builder, signature, flags)

    return types.UniTuple(types.uint64, 6)(array, types.int64), generate


@intrinsic
def other_mark_mask(typing_context, array, index):
    """Find usual characters that are no letters."""

    def generate(context, builder, signature, arguments):
        first, second, third = _load_three(context, builder, signature, arguments)
        is_80 = _is(builder, second, 0x80)
        is_usual = builder.or_(_lies_in(builder, third, 0x80, 5), _lies_in(builder, third, 0x88, 0x19))
        is_full = builder.and_(_is(builder, first, 0xEF), _is(builder, second, 0xBC))
        found = [
            builder.and_(_is(builder, first, 0xE2), is_80),
            builder.and_(builder.and_(_is(builder, first, 0xE3), is_80), is_usual),
            builder.and_(is_full, _lies_in(builder, third, 0x81, 0x20)),
        ]
        return builder.bitcast(_any(builder, found), _WORD)

    return types.uint64(array, types.int64), generate


def _load_three(context, builder, signature, arguments):
    """Load the 64 bytes from a place on, from the next one on, and from the one behind that."""
    array, index = arguments
    places = [builder.add(index, ir.Constant(_WORD, at)) for at in range(3)]
    return [load_block(context, builder, signature, [array, place]) for place in places]


def _is(builder, block, byte):
    return builder.icmp_unsigned("==", block, splat(byte))


def _lies_in(builder, block, first, n_values):
    return builder.icmp_unsigned("<", builder.sub(block, splat(first)), splat(n_values))


def _any(builder, flags):
    return functools.reduce(builder.or_, flags)
