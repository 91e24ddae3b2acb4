"""The instructions of `vector_rows.py` as LLVM has them. Imported to compile, not to run."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dsllm.text.vector_llvm import byte_place, place_in
from dsllm.text.vector_rows import N_LANES, NO_BYTE

_WORD = ir.IntType(64)
_HEAD_BYTES = 32
_NUMBERS = ir.VectorType(ir.IntType(32), N_LANES)


@intrinsic
def equals_head(typing_context, data, index, n_bytes, array, byte_index):
    """Compare 32 bytes."""
    kind = ir.VectorType(ir.IntType(8), _HEAD_BYTES)

    def generate(context, builder, signature, arguments):
        heads = []
        for at, given in ((0, arguments[0]), (3, arguments[3])):
            place = byte_place(context, builder, signature.args[at], given, arguments[at + 1])
            head = builder.load(builder.bitcast(place, kind.as_pointer()))
            head.align = 1
            heads.append(head)
        undefined = ir.Constant(kind, ir.Undefined)
        first = ir.Constant(ir.IntType(32), 0)
        size = builder.insert_element(undefined, builder.trunc(arguments[2], ir.IntType(8)), first)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), _HEAD_BYTES), [0] * _HEAD_BYTES)
        size = builder.shuffle_vector(size, undefined, lanes)
        is_inside = builder.icmp_unsigned("<", ir.Constant(kind, list(range(_HEAD_BYTES))), size)
        head = builder.select(is_inside, heads[0], ir.Constant(kind, [0] * _HEAD_BYTES))
        is_other = builder.bitcast(builder.icmp_unsigned("!=", head, heads[1]), ir.IntType(_HEAD_BYTES))
        return builder.icmp_unsigned("==", is_other, ir.Constant(ir.IntType(_HEAD_BYTES), 0))

    return types.boolean(data, types.int64, types.int64, array, types.int64), generate


@intrinsic
def add_floats(typing_context, source, byte_index, target, target_index):
    """Add 16 float32 to 16 float64."""

    def generate(context, builder, signature, arguments):
        place, old = _load_sums(context, builder, signature.args[2], arguments[2], arguments[3])
        added = _load_floats(context, builder, signature.args[0], arguments[0], arguments[1])
        builder.store(builder.fadd(old, added), place).align = 8

    return types.void(source, types.int64, target, types.int64), generate


@intrinsic
def add_rows(typing_context, source, row_bytes, first_byte, rows, n_rows, target, target_index):
    """Add 16 float32 of each of many rows; the sum stays in registers."""

    def generate(context, builder, signature, arguments):
        place, old = _load_sums(context, builder, signature.args[5], arguments[5], arguments[6])
        total = cgutils.alloca_once_value(builder, old)
        with cgutils.for_range(builder, arguments[4], intp=_WORD) as loop:
            row = builder.load(place_in(context, builder, signature.args[3], arguments[3], loop.index))
            row = builder.sext(row, _WORD) if row.type != _WORD else row
            byte = builder.add(builder.mul(row, arguments[1]), arguments[2])
            added = _load_floats(context, builder, signature.args[0], arguments[0], byte)
            builder.store(builder.fadd(builder.load(total), added), total)
        builder.store(builder.load(total), place).align = 8

    given = source, types.int64, types.int64, rows, types.int64, target, types.int64
    return types.void(*given), generate


@intrinsic
def step_hashes(typing_context, hashes, index, values, value_index):
    """Do one step of FNV-1a on 16 hashes."""

    def generate(context, builder, signature, arguments):
        place, old = _load_numbers(context, builder, signature.args[0], arguments[0], arguments[1])
        _, new = _load_numbers(context, builder, signature.args[2], arguments[2], arguments[3])
        stepped = builder.mul(builder.xor(old, new), _each_number(16777619))
        is_none = builder.icmp_unsigned("==", new, _each_number(NO_BYTE))
        builder.store(builder.select(is_none, old, stepped), place).align = 4

    return types.void(hashes, types.int64, values, types.int64), generate


@intrinsic
def write_remainders(typing_context, numbers, index, divisor, remainders, remainders_index):
    """Divide 16 numbers, in double precision, by a reciprocal that is a little too great.

    It is so by less than one quotient of numbers below 2**32 differs from the next, and the rounding error of
    the products is less than that again.
    """

    def generate(context, builder, signature, arguments):
        double = ir.DoubleType()
        wide = ir.VectorType(double, N_LANES)
        _, values = _load_numbers(context, builder, signature.args[0], arguments[0], arguments[1])
        number = builder.trunc(arguments[2], ir.IntType(32))
        reciprocal = builder.fdiv(ir.Constant(double, 1 + 2**-50), builder.uitofp(number, double))
        quotients = builder.fmul(builder.uitofp(values, wide), _spread(builder, reciprocal, wide))
        whole = builder.fptoui(quotients, _NUMBERS)
        found = builder.sub(values, builder.mul(whole, _spread(builder, number, _NUMBERS)))
        place = place_in(context, builder, signature.args[3], arguments[3], arguments[4])
        builder.store(found, builder.bitcast(place, _NUMBERS.as_pointer())).align = 4

    return types.void(numbers, types.int64, types.int64, remainders, types.int64), generate


def _load_floats(context, builder, array_type, array, byte_index):
    """Load 16 float32, as float64."""
    place = byte_place(context, builder, array_type, array, byte_index)
    loaded = builder.load(builder.bitcast(place, ir.VectorType(ir.FloatType(), N_LANES).as_pointer()))
    loaded.align = 1
    return builder.fpext(loaded, ir.VectorType(ir.DoubleType(), N_LANES))


def _load_sums(context, builder, array_type, array, index):
    """Load 16 float64: (where they are, what they are)."""
    place = place_in(context, builder, array_type, array, index)
    place = builder.bitcast(place, ir.VectorType(ir.DoubleType(), N_LANES).as_pointer())
    loaded = builder.load(place)
    loaded.align = 8
    return place, loaded


def _load_numbers(context, builder, array_type, array, index):
    """Load 16 numbers of 32 bits: (where they are, what they are)."""
    place = builder.bitcast(place_in(context, builder, array_type, array, index), _NUMBERS.as_pointer())
    loaded = builder.load(place)
    loaded.align = 4
    return place, loaded


def _each_number(value: int) -> ir.Constant:
    return ir.Constant(_NUMBERS, [value] * N_LANES)


def _spread(builder, number, kind):
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_NUMBERS, [0] * N_LANES))
