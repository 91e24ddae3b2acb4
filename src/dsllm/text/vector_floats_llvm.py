"""The instructions of `vector_floats.py` as LLVM has them. Imported to compile, not to run."""

from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dsllm.text.vector_floats import GROUP, LANES

_INDEX, _PLACE, _FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
_BLOCK = ir.VectorType(_FLOAT, LANES)
_ZEROS = ir.Constant(_BLOCK, [0.0] * LANES)


@intrinsic
def sum_products(typing_context, one, one_index, two, two_index, n_blocks):
    """Add up 16 sums side by side, and these at the end."""

    def generate(context, builder, signature, arguments):
        rows = [_at(context, builder, signature, arguments, index) for index in (0, 2)]
        with _loop(builder, arguments[4], [_ZEROS]) as (block, (sums,), following):
            place = builder.mul(block, _INDEX(LANES))
            one_block, two_block = (_load(builder, builder.gep(row, [place])) for row in rows)
            following.append(_multiply_add(builder, one_block, two_block, sums))
        return builder.extract_element(_halve(builder, following[0], 1), _PLACE(0))

    return types.float32(one, types.int64, two, types.int64, types.int64), generate


@intrinsic
def multiply_rows(typing_context, one, one_index, rows, rows_index, n_blocks, n_groups, out, out_index):
    """Keep 16 sums for each of four rows; their four totals are one vector."""

    def generate(context, builder, signature, arguments):
        one_row, first_row, target = (_at(context, builder, signature, arguments, i) for i in (0, 2, 6))
        n_blocks, n_groups = arguments[4:6]
        n_numbers = builder.mul(n_blocks, _INDEX(LANES))
        with _loop(builder, n_groups, []) as (group, _, _):
            number = builder.mul(group, _INDEX(GROUP))
            rows = [
                builder.gep(first_row, [builder.mul(builder.add(number, _INDEX(row)), n_numbers)])
                for row in range(GROUP)
            ]
            with _loop(builder, n_blocks, [_ZEROS] * GROUP) as (block, sums, following):
                place = builder.mul(block, _INDEX(LANES))
                own = _load(builder, builder.gep(one_row, [place]))
                for row, before in zip(rows, sums, strict=True):
                    other = _load(builder, builder.gep(row, [place]))
                    following.append(_multiply_add(builder, own, other, before))
            _store(builder, _totals(builder, following), builder.gep(target, [number]))
        return context.get_dummy_value()

    index = types.int64
    return types.none(one, index, rows, index, index, index, out, index), generate


@intrinsic
def add_weighted_rows(
    typing_context, weights, weights_index, rows, rows_index, stride, n_groups, out, out_index
):
    """Keep four sums, so that no product waits for the one before."""

    def generate(context, builder, signature, arguments):
        first_weight, first_row, target = (_at(context, builder, signature, arguments, i) for i in (0, 2, 6))
        stride, n_groups = arguments[4:6]
        sums_before = [_load(builder, target), *[_ZEROS] * (GROUP - 1)]
        with _loop(builder, n_groups, sums_before) as (group, sums, following):
            number = builder.mul(group, _INDEX(GROUP))
            for place, before in enumerate(sums):
                row = builder.add(number, _INDEX(place))
                weight = _spread(builder, builder.load(builder.gep(first_weight, [row])))
                own = _load(builder, builder.gep(first_row, [builder.mul(row, stride)]))
                following.append(_multiply_add(builder, weight, own, before))
        first, *others = following
        for other in others:
            first = builder.fadd(first, other)
        _store(builder, first, target)
        return context.get_dummy_value()

    index = types.int64
    return types.none(weights, index, rows, index, index, index, out, index), generate


@contextmanager
def _loop(builder, n, values):
    """Run the block `n` times; it gets the count and values, and puts these for the next time into a list."""
    before = builder.block
    loop, behind = builder.append_basic_block("loop"), builder.append_basic_block("behind")
    builder.branch(loop)
    builder.position_at_end(loop)
    count, carried = builder.phi(_INDEX), [builder.phi(value.type) for value in values]
    following: list[ir.Value] = []
    yield count, carried, following
    next_count = builder.add(count, _INDEX(1))
    phis = [count, *carried]
    for phi, first, later in zip(phis, [_INDEX(0), *values], [next_count, *following], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, builder.block)
    builder.cbranch(builder.icmp_signed("<", next_count, n), loop, behind)
    builder.position_at_end(behind)


def _at(context, builder, signature, arguments, index):
    """Give the address of an argument's element, whose index is the argument behind it."""
    data = context.make_array(signature.args[index])(context, builder, arguments[index]).data
    return builder.gep(data, [arguments[index + 1]])


def _load(builder, place):
    loaded = builder.load(builder.bitcast(place, _BLOCK.as_pointer()))
    loaded.align = 4
    return loaded


def _store(builder, value, place):
    builder.store(value, builder.bitcast(place, value.type.as_pointer())).align = 4


def _multiply_add(builder, one, two, added):
    kind = ir.FunctionType(_BLOCK, [_BLOCK] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    return builder.call(function, [one, two, added])


def _spread(builder, number):
    first = builder.insert_element(ir.Constant(_BLOCK, ir.Undefined), number, _PLACE(0))
    return _pick(builder, first, first, [0] * LANES)


def _pick(builder, one, two, places):
    return builder.shuffle_vector(one, two, ir.Constant(ir.VectorType(_PLACE, len(places)), places))


def _halve(builder, sums, n_left):
    """Add halves until `n_left` numbers are left."""
    n = sums.type.count
    while n > n_left:
        n //= 2
        sums = builder.fadd(*(_pick(builder, sums, sums, list(range(at, at + n))) for at in (0, n)))
    return sums


def _totals(builder, rows):
    """Add up each of four blocks: a vector of four."""
    a, b, c, d = (_halve(builder, row, GROUP) for row in rows)
    even, odd = [0, 2, 4, 6], [1, 3, 5, 7]
    one, two = (
        builder.fadd(_pick(builder, x, y, even), _pick(builder, x, y, odd)) for x, y in ((a, b), (c, d))
    )
    return builder.fadd(_pick(builder, one, two, even), _pick(builder, one, two, odd))
