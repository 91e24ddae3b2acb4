"""The instructions of `vector_floats.py` as LLVM has them. Imported to compile, not to run."""

from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from dsllm.text.vector_floats import BLOCK, GROUP, TILE_ROWS

_INDEX, _PLACE, _FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
_BITS = ir.IntType(32)
_BLOCK = ir.VectorType(_FLOAT, BLOCK)
_ZEROS = ir.Constant(_BLOCK, [0.0] * BLOCK)
_AHEAD = 1024  # numbers: a page, at whose end the processor's own prefetching ends
_SPINS = 4096  # looks at the others before the processor is offered to somebody else


@intrinsic
def multiply_rows(typing_context, one, one_index, rows, rows_index, n_blocks, n_groups, out, out_index):
    """Keep 16 sums for each of four rows; their four totals are one vector."""

    def generate(context, builder, signature, arguments):
        one_row, first_row, target = (_at(context, builder, signature, arguments, i) for i in (0, 2, 6))
        n_blocks, n_groups = arguments[4:6]
        n_numbers = builder.mul(n_blocks, _INDEX(BLOCK))
        with _loop(builder, n_groups, []) as (group, _, _):
            number = builder.mul(group, _INDEX(GROUP))
            rows = [
                builder.gep(first_row, [builder.mul(builder.add(number, _INDEX(row)), n_numbers)])
                for row in range(GROUP)
            ]
            with _loop(builder, n_blocks, [_ZEROS] * GROUP) as (block, sums, following):
                place = builder.mul(block, _INDEX(BLOCK))
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


def _make_multiply_panel(lanes):
    """Keep a vector of `lanes` sums for each of 16 columns."""
    kind = ir.VectorType(_FLOAT, lanes)

    @intrinsic
    def multiply_panel(typing_context, panel, panel_index, x, x_index, n_inputs, out, out_index):
        def generate(context, builder, signature, arguments):
            columns, rows, target = (_at(context, builder, signature, arguments, i) for i in (0, 2, 5))
            zeros = ir.Constant(kind, [0.0] * lanes)
            with _loop(builder, arguments[4], [zeros] * BLOCK) as (number, sums, following):
                own = builder.gep(columns, [builder.mul(number, _INDEX(BLOCK))])
                _prefetch(builder, builder.gep(own, [_INDEX(_AHEAD)]))
                inputs = _load(builder, builder.gep(rows, [builder.mul(number, _INDEX(lanes))]), kind)
                for column, before in enumerate(sums):
                    weight = _spread(builder, builder.load(builder.gep(own, [_INDEX(column)])), lanes)
                    following.append(_multiply_add(builder, weight, inputs, before))
            for column, total in enumerate(following):
                _store(builder, total, builder.gep(target, [_INDEX(column * lanes)]))
            return context.get_dummy_value()

        index = types.int64
        return types.none(panel, index, x, index, index, out, index), generate

    return multiply_panel


multiply_panel_4, multiply_panel_8, multiply_panel_16 = map(_make_multiply_panel, (4, 8, 16))


def _make_multiply_tile(n_vectors):
    """Keep 8 rows of `n_vectors` blocks of sums: each number of a row is multiplied by as many blocks."""

    @intrinsic
    def multiply_tile(
        typing_context, a, a_index, a_row, a_step, n, b, b_index, b_step, out, out_index, out_row, is_sum
    ):
        def generate(context, builder, signature, arguments):
            first_row, column, target = (_at(context, builder, signature, arguments, i) for i in (0, 5, 8))
            a_row, a_step, n, b_step = (arguments[i] for i in (2, 3, 4, 7))
            out_row, is_sum = arguments[10:12]
            rows = [builder.gep(first_row, [builder.mul(a_row, _INDEX(row))]) for row in range(TILE_ROWS)]
            places = [
                builder.gep(target, [builder.add(builder.mul(out_row, _INDEX(row)), _INDEX(BLOCK * vector))])
                for row in range(TILE_ROWS)
                for vector in range(n_vectors)
            ]
            keeps = builder.icmp_signed("!=", is_sum, _INDEX(0))
            before = [builder.select(keeps, _load(builder, place), _ZEROS) for place in places]
            with _loop(builder, n, before) as (number, sums, following):
                own = builder.gep(column, [builder.mul(number, b_step)])
                blocks = [_load(builder, builder.gep(own, [_INDEX(BLOCK * i)])) for i in range(n_vectors)]
                for row, start in enumerate(rows):
                    factor = builder.load(builder.gep(start, [builder.mul(number, a_step)]))
                    spread = _spread(builder, factor)
                    for vector, block in enumerate(blocks):
                        total = sums[row * n_vectors + vector]
                        following.append(_multiply_add(builder, spread, block, total))
            for place, total in zip(places, following, strict=True):
                _store(builder, total, place)
            return context.get_dummy_value()

        i = types.int64
        return types.none(a, i, i, i, i, b, i, i, out, i, i, i), generate

    return multiply_tile


multiply_tile_16, multiply_tile_32 = map(_make_multiply_tile, (1, 2))


@intrinsic
def sum_of_products(typing_context, one, one_index, two, two_index, n_blocks):
    """Keep 16 sums."""

    def generate(context, builder, signature, arguments):
        first, second = (_at(context, builder, signature, arguments, i) for i in (0, 2))
        with _loop(builder, arguments[4], [_ZEROS]) as (block, (total,), following):
            place = builder.mul(block, _INDEX(BLOCK))
            own, other = (_load(builder, builder.gep(start, [place])) for start in (first, second))
            following.append(_multiply_add(builder, own, other, total))
        return builder.extract_element(_halve(builder, following[0], 1), _PLACE(0))

    return types.float32(one, types.int64, two, types.int64, types.int64), generate


@intrinsic
def greatest_of(typing_context, row, row_index, n_blocks):
    """Keep the greatest of each place in a block."""

    def generate(context, builder, signature, arguments):
        start = _at(context, builder, signature, arguments, 0)
        lowest = ir.Constant(_BLOCK, [float("-inf")] * BLOCK)
        with _loop(builder, arguments[2], [lowest]) as (block, (most,), following):
            own = _load(builder, builder.gep(start, [builder.mul(block, _INDEX(BLOCK))]))
            following.append(builder.select(builder.fcmp_ordered(">", own, most), own, most))
        most, n = following[0], BLOCK
        while n > 1:
            n //= 2
            one, two = (_pick(builder, most, most, list(range(at, at + n))) for at in (0, n))
            most = builder.select(builder.fcmp_ordered(">", one, two), one, two)
        return builder.extract_element(most, _PLACE(0))

    return types.float32(row, types.int64, types.int64), generate


@intrinsic
def multiply_add(typing_context, one, two, three):
    """Call LLVM's, which it knows of many at a time."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_FLOAT, [_FLOAT] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.f32"), arguments)

    number = types.float32
    return number(number, number, number), generate


@intrinsic
def widen(typing_context, number):
    """The bits of bf16 are the upper half of float32's."""
    is_narrow = number == types.int16

    def generate(context, builder, signature, arguments):
        if not is_narrow:
            return arguments[0]
        bits = builder.shl(builder.zext(arguments[0], _BITS), ir.Constant(_BITS, 16))
        return builder.bitcast(bits, _FLOAT)

    return types.float32(types.int16 if is_narrow else types.float32), generate


@intrinsic
def narrow(typing_context, number, like):
    """Add half of what is cut off, or a little less where the last bit that stays is 0."""
    is_narrow = like == types.int16

    def generate(context, builder, signature, arguments):
        if not is_narrow:
            return arguments[0]
        bits = builder.bitcast(arguments[0], _BITS)
        half = ir.Constant(_BITS, 16)
        last = builder.and_(builder.lshr(bits, half), ir.Constant(_BITS, 1))
        rounded = builder.add(bits, builder.add(last, ir.Constant(_BITS, 0x7FFF)))
        return builder.trunc(builder.lshr(rounded, half), ir.IntType(16))

    kind = types.int16 if is_narrow else types.float32
    return kind(types.float32, kind), generate


@intrinsic
def floats_at(typing_context, address, n):
    """Make an array of somebody else's memory."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.return_type)(context, builder)
        populate_array(
            array,
            data=builder.inttoptr(arguments[0], _FLOAT.as_pointer()),
            shape=[arguments[1]],
            strides=[_INDEX(4)],
            itemsize=_INDEX(4),
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
        arrived = builder.atomic_rmw("add", count, _INDEX(1), "acq_rel")
        wanted = builder.mul(builder.add(builder.udiv(arrived, n_threads), _INDEX(1)), n_threads)
        before = builder.block
        look, wait, offer, behind = (
            builder.append_basic_block(name) for name in ("look", "wait", "offer", "on")
        )
        builder.branch(look)
        builder.position_at_end(look)
        n_looks = builder.phi(_INDEX)
        next_look = builder.add(n_looks, _INDEX(1))
        is_full = builder.icmp_signed(">=", builder.load_atomic(count, "acquire", 8), wanted)
        builder.cbranch(is_full, behind, wait)
        builder.position_at_end(wait)
        builder.cbranch(builder.icmp_signed("<", next_look, _INDEX(_SPINS)), look, offer)
        builder.position_at_end(offer)
        kind = ir.FunctionType(_PLACE, [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        builder.branch(look)
        for block, value in ((before, _INDEX(0)), (wait, next_look), (offer, next_look)):
            n_looks.add_incoming(value, block)
        builder.position_at_end(behind)
        return context.get_dummy_value()

    return types.none(meeting, types.int64), generate


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


def _load(builder, place, kind=_BLOCK):
    loaded = builder.load(builder.bitcast(place, kind.as_pointer()))
    loaded.align = 4
    return loaded


def _store(builder, value, place):
    builder.store(value, builder.bitcast(place, value.type.as_pointer())).align = 4


def _multiply_add(builder, one, two, added):
    kind = ir.FunctionType(one.type, [one.type] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{one.type.count}f32")
    return builder.call(function, [one, two, added])


def _prefetch(builder, place):
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _PLACE, _PLACE, _PLACE])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [builder.bitcast(place, byte), _PLACE(0), _PLACE(3), _PLACE(1)])


def _spread(builder, number, n=BLOCK):
    first = builder.insert_element(ir.Constant(ir.VectorType(_FLOAT, n), ir.Undefined), number, _PLACE(0))
    return _pick(builder, first, first, [0] * n)


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
