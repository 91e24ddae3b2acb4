"""The instructions of `vector_floats.py` as LLVM has them. Imported to compile, not to run."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from dsllm.text.vector_floats import BLOCK, GROUP
from dsllm.text.vector_parts_llvm import (
    BITS,
    FLOAT,
    FLOATS,
    INDEX,
    PLACE,
    ZEROS,
    address_of,
    halve,
    load,
    load_wide,
    loop,
    multiply_add,
    pick,
    prefetch,
    round_to_bf16,
    spread,
    store,
    totals,
)

_AHEAD = 1024  # numbers: a page, at whose end the processor's own prefetching ends
_SPINS = 4096  # looks at the others before the processor is offered to somebody else


@intrinsic
def multiply_rows(typing_context, one, one_index, rows, rows_index, n_blocks, n_groups, out, out_index):
    """Keep 16 sums for each of four rows; their four totals are one vector."""

    def generate(context, builder, signature, arguments):
        one_row, first_row, target = (
            address_of(context, builder, signature, arguments, i) for i in (0, 2, 6)
        )
        n_blocks, n_groups = arguments[4:6]
        n_numbers = builder.mul(n_blocks, INDEX(BLOCK))
        with loop(builder, n_groups, []) as (group, _, _):
            number = builder.mul(group, INDEX(GROUP))
            rows = [
                builder.gep(first_row, [builder.mul(builder.add(number, INDEX(row)), n_numbers)])
                for row in range(GROUP)
            ]
            with loop(builder, n_blocks, [ZEROS] * GROUP) as (block, sums, following):
                place = builder.mul(block, INDEX(BLOCK))
                own = load(builder, builder.gep(one_row, [place]))
                for row, before in zip(rows, sums, strict=True):
                    other = load(builder, builder.gep(row, [place]))
                    following.append(multiply_add(builder, own, other, before))
            store(builder, totals(builder, following), builder.gep(target, [number]))
        return context.get_dummy_value()

    index = types.int64
    return types.none(one, index, rows, index, index, index, out, index), generate


@intrinsic
def add_weighted_rows(
    typing_context, weights, weights_index, rows, rows_index, stride, n_groups, out, out_index
):
    """Keep four sums, so that no product waits for the one before."""

    def generate(context, builder, signature, arguments):
        first_weight, first_row, target = (
            address_of(context, builder, signature, arguments, i) for i in (0, 2, 6)
        )
        stride, n_groups = arguments[4:6]
        sums_before = [load(builder, target), *[ZEROS] * (GROUP - 1)]
        with loop(builder, n_groups, sums_before) as (group, sums, following):
            number = builder.mul(group, INDEX(GROUP))
            for place, before in enumerate(sums):
                row = builder.add(number, INDEX(place))
                weight = spread(builder, builder.load(builder.gep(first_weight, [row])))
                own = load(builder, builder.gep(first_row, [builder.mul(row, stride)]))
                following.append(multiply_add(builder, weight, own, before))
        first, *others = following
        for other in others:
            first = builder.fadd(first, other)
        store(builder, first, target)
        return context.get_dummy_value()

    index = types.int64
    return types.none(weights, index, rows, index, index, index, out, index), generate


def _make_multiply_panel(lanes):
    """Keep a vector of `lanes` sums for each of 16 columns."""
    kind = ir.VectorType(FLOAT, lanes)

    @intrinsic
    def multiply_panel(typing_context, panel, panel_index, x, x_index, n_inputs, out, out_index):
        def generate(context, builder, signature, arguments):
            columns, rows, target = (address_of(context, builder, signature, arguments, i) for i in (0, 2, 5))
            zeros = ir.Constant(kind, [0.0] * lanes)
            with loop(builder, arguments[4], [zeros] * BLOCK) as (number, sums, following):
                own = builder.gep(columns, [builder.mul(number, INDEX(BLOCK))])
                prefetch(builder, builder.gep(own, [INDEX(_AHEAD)]))
                inputs = load(builder, builder.gep(rows, [builder.mul(number, INDEX(lanes))]), kind)
                for column, before in enumerate(sums):
                    weight = spread(builder, builder.load(builder.gep(own, [INDEX(column)])), lanes)
                    following.append(multiply_add(builder, weight, inputs, before))
            for column, total in enumerate(following):
                store(builder, total, builder.gep(target, [INDEX(column * lanes)]))
            return context.get_dummy_value()

        index = types.int64
        return types.none(panel, index, x, index, index, out, index), generate

    return multiply_panel


multiply_panel_4, multiply_panel_8, multiply_panel_16 = map(_make_multiply_panel, (4, 8, 16))


@intrinsic
def sum_of_products(typing_context, one, one_index, two, two_index, n_blocks):
    """Keep 16 sums."""

    def generate(context, builder, signature, arguments):
        first, second = (address_of(context, builder, signature, arguments, i) for i in (0, 2))
        with loop(builder, arguments[4], [ZEROS]) as (block, (total,), following):
            place = builder.mul(block, INDEX(BLOCK))
            own, other = (load_wide(builder, builder.gep(start, [place])) for start in (first, second))
            following.append(multiply_add(builder, own, other, total))
        return builder.extract_element(halve(builder, following[0], 1), PLACE(0))

    return types.float32(one, types.int64, two, types.int64, types.int64), generate


@intrinsic
def greatest_of(typing_context, row, row_index, n_blocks):
    """Keep the greatest of each place in a block."""

    def generate(context, builder, signature, arguments):
        start = address_of(context, builder, signature, arguments, 0)
        lowest = ir.Constant(FLOATS, [float("-inf")] * BLOCK)
        with loop(builder, arguments[2], [lowest]) as (block, (most,), following):
            own = load(builder, builder.gep(start, [builder.mul(block, INDEX(BLOCK))]))
            following.append(builder.select(builder.fcmp_ordered(">", own, most), own, most))
        most, n = following[0], BLOCK
        while n > 1:
            n //= 2
            one, two = (pick(builder, most, most, list(range(at, at + n))) for at in (0, n))
            most = builder.select(builder.fcmp_ordered(">", one, two), one, two)
        return builder.extract_element(most, PLACE(0))

    return types.float32(row, types.int64, types.int64), generate


@intrinsic
def widen(typing_context, number):
    """The bits of bf16 are the upper half of float32's."""
    is_narrow = number == types.int16

    def generate(context, builder, signature, arguments):
        if not is_narrow:
            return arguments[0]
        bits = builder.shl(builder.zext(arguments[0], BITS), ir.Constant(BITS, 16))
        return builder.bitcast(bits, FLOAT)

    return types.float32(types.int16 if is_narrow else types.float32), generate


@intrinsic
def narrow(typing_context, number, like):
    """Add half of what is cut off, or a little less where the last bit that stays is 0."""
    is_narrow = like == types.int16

    def generate(context, builder, signature, arguments):
        return round_to_bf16(builder, arguments[0]) if is_narrow else arguments[0]

    kind = types.int16 if is_narrow else types.float32
    return kind(types.float32, kind), generate


@intrinsic
def floats_at(typing_context, address, n):
    """Make an array of somebody else's memory."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.return_type)(context, builder)
        populate_array(
            array,
            data=builder.inttoptr(arguments[0], FLOAT.as_pointer()),
            shape=[arguments[1]],
            strides=[INDEX(4)],
            itemsize=INDEX(4),
            meminfo=None,
        )
        return array._getvalue()

    return types.Array(types.float32, 1, "C")(types.int64, types.int64), generate


@intrinsic
def meet(typing_context, meeting, n_threads):
    """Count arrivals; the last of each round lets all go on."""

    def generate(context, builder, signature, arguments):
        n_threads = arguments[1]
        count = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        arrived = builder.atomic_rmw("add", count, INDEX(1), "acq_rel")
        wanted = builder.mul(builder.add(builder.udiv(arrived, n_threads), INDEX(1)), n_threads)
        before = builder.block
        look, wait, offer, behind = (
            builder.append_basic_block(name) for name in ("look", "wait", "offer", "on")
        )
        builder.branch(look)
        builder.position_at_end(look)
        n_looks = builder.phi(INDEX)
        next_look = builder.add(n_looks, INDEX(1))
        is_full = builder.icmp_signed(">=", builder.load_atomic(count, "acquire", 8), wanted)
        builder.cbranch(is_full, behind, wait)
        builder.position_at_end(wait)
        builder.cbranch(builder.icmp_signed("<", next_look, INDEX(_SPINS)), look, offer)
        builder.position_at_end(offer)
        kind = ir.FunctionType(PLACE, [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        builder.branch(look)
        for block, value in ((before, INDEX(0)), (wait, next_look), (offer, next_look)):
            n_looks.add_incoming(value, block)
        builder.position_at_end(behind)
        return context.get_dummy_value()

    return types.none(meeting, types.int64), generate
