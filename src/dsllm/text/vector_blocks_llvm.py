"""The instructions of `vector_blocks.py` as LLVM has them. Imported to compile, not to run."""

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from dsllm.text.vector_floats import BLOCK
from dsllm.text.vector_parts_llvm import BITS, FLOATS, HALVES, WORDS, load_wide, round_to_bf16, spread, store


class _BlockType(types.Type):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="Block")


_BLOCK = _BlockType()


@register_model(_BlockType)
class _BlockModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


def _kind_of(*kinds: Any) -> Any:
    """Say what an instruction gives: a block, or of float32s alone a float32; None for other kinds."""
    if all(kind in {_BLOCK, types.float32} for kind in kinds):
        return _BLOCK if _BLOCK in kinds else types.float32
    return None


def _widened(builder, signature, arguments):
    """Make all arguments blocks, if one is."""
    if _BLOCK not in signature.args:
        return arguments
    return [
        argument if kind == _BLOCK else spread(builder, argument)
        for kind, argument in zip(signature.args, arguments, strict=True)
    ]


def _make_operator(symbol, name):
    """Let Python's operator take blocks."""

    @intrinsic
    def compute(typing_context, one, two):
        def generate(context, builder, signature, arguments):
            return getattr(builder, name)(*_widened(builder, signature, arguments))

        return _BLOCK(one, two), generate

    @overload(symbol)
    def use(one, two):
        if _kind_of(one, two) != _BLOCK:
            return None
        return lambda one, two: compute(one, two)  # noqa: PLW0108  # numba reads it


for _symbol, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _make_operator(_symbol, _name)


@intrinsic
def take_block(typing_context, x, index):
    """Load a vector."""

    def generate(context, builder, signature, arguments):
        return load_wide(builder, _place(context, builder, signature, arguments))

    return _BLOCK(x, types.int64), generate


@intrinsic
def put_block(typing_context, x, index, block):
    """Store a vector, of bf16 half as wide."""

    def generate(context, builder, signature, arguments):
        value = arguments[2] if x.dtype == types.float32 else round_to_bf16(builder, arguments[2])
        store(builder, value, _place(context, builder, signature, arguments))
        return context.get_dummy_value()

    return types.none(x, types.int64, _BLOCK), generate


@intrinsic
def put_pairs(typing_context, x, pair, width, column, one, two):
    """Store two vectors, or one of words, whose lower halves are of the first."""

    def generate(context, builder, signature, arguments):
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pair, width, column, one, two = arguments[1:]
        place = builder.add(builder.mul(pair, width), column)
        if x.dtype == types.float32:
            upper = builder.add(place, builder.mul(pair, width))
            store(builder, one, builder.gep(start, [upper]))
            store(builder, two, builder.gep(start, [builder.add(upper, width)]))
        else:
            low, high = (builder.zext(round_to_bf16(builder, block), WORDS) for block in (one, two))
            words = builder.or_(builder.shl(high, HALVES), low)
            store(builder, words, builder.gep(builder.bitcast(start, BITS.as_pointer()), [place]))
        return context.get_dummy_value()

    index = types.int64
    return types.none(x, index, index, index, _BLOCK, _BLOCK), generate


@intrinsic
def count_lanes(typing_context):
    """Give a constant."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(FLOATS, [float(lane) for lane in range(BLOCK)])

    return _BLOCK(), generate


@intrinsic
def where_less(typing_context, one, two, three, four):
    """Compare and choose."""

    def generate(context, builder, signature, arguments):
        one, two, three, four = _widened(builder, signature, arguments)
        return builder.select(builder.fcmp_ordered("<", one, two), three, four)

    return _kind_of(one, two, three, four)(one, two, three, four), generate


@intrinsic
def multiply_add(typing_context, one, two, three):
    """Call LLVM's."""

    def generate(context, builder, signature, arguments):
        arguments = _widened(builder, signature, arguments)
        kind = ir.FunctionType(arguments[0].type, [arguments[0].type] * 3)
        name = "llvm.fma.v16f32" if _BLOCK in signature.args else "llvm.fma.f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

    return _kind_of(one, two, three)(one, two, three), generate


@intrinsic
def two_to(typing_context, n):
    """Make the number of its exponent."""

    def generate(context, builder, signature, arguments):
        bits = BITS if n == types.float32 else WORDS
        exponent = builder.fptosi(arguments[0], bits)

        def all_of(number):
            return ir.Constant(bits, number if bits == BITS else [number] * BLOCK)

        exponent = builder.shl(builder.add(exponent, all_of(127)), all_of(23))
        return builder.bitcast(exponent, arguments[0].type)

    return n(n), generate


def _place(context, builder, signature, arguments):
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])
