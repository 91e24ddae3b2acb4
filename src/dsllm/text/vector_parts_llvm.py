"""What the instructions for blocks of 16 numbers are put together from. Imported to compile, not to run."""

from contextlib import contextmanager

from llvmlite import ir
from numba.core import cgutils

from dsllm.text.vector_floats import BLOCK, GROUP

INDEX, PLACE, FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
BITS, NARROW_BITS = ir.IntType(32), ir.IntType(16)
FLOATS, WORDS = ir.VectorType(FLOAT, BLOCK), ir.VectorType(BITS, BLOCK)
ZEROS = ir.Constant(FLOATS, [0.0] * BLOCK)
HALVES = ir.Constant(WORDS, [16] * BLOCK)  # what to shift by


@contextmanager
def loop(builder, n, values):
    """Run the block `n` times; it gets the count and values, and puts these for the next time into a list."""
    before = builder.block
    body, behind = builder.append_basic_block("loop"), builder.append_basic_block("behind")
    builder.branch(body)
    builder.position_at_end(body)
    count, carried = builder.phi(INDEX), [builder.phi(value.type) for value in values]
    following: list[ir.Value] = []
    yield count, carried, following
    next_count = builder.add(count, INDEX(1))
    phis = [count, *carried]
    for phi, first, later in zip(phis, [INDEX(0), *values], [next_count, *following], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, builder.block)
    builder.cbranch(builder.icmp_signed("<", next_count, n), body, behind)
    builder.position_at_end(behind)


def address_of(context, builder, signature, arguments, index):
    """Give the address of an argument's element, whose index is the argument behind it."""
    data = context.make_array(signature.args[index])(context, builder, arguments[index]).data
    return builder.gep(data, [arguments[index + 1]])


def load(builder, place, kind=FLOATS):
    """Load a block of float32, or a vector of another kind."""
    loaded = builder.load(builder.bitcast(place, kind.as_pointer()))
    loaded.align = 4
    return loaded


def load_wide(builder, place):
    """Load a block of float32, or of bf16 widened."""
    if place.type.pointee == FLOAT:
        return load(builder, place)
    bits = builder.zext(load(builder, place, ir.VectorType(NARROW_BITS, BLOCK)), WORDS)
    return builder.bitcast(builder.shl(bits, HALVES), FLOATS)


def round_to_bf16(builder, value):
    """Give the bits of the nearest bf16: add half of what is cut off, or a little less for an even one."""
    n = value.type.count if isinstance(value.type, ir.VectorType) else 0

    def kind(n_bits):
        return ir.VectorType(ir.IntType(n_bits), n) if n else ir.IntType(n_bits)

    def all_of(number):
        return ir.Constant(kind(32), [number] * n if n else number)

    bits = builder.bitcast(value, kind(32))
    last = builder.and_(builder.lshr(bits, all_of(16)), all_of(1))
    rounded = builder.add(bits, builder.add(last, all_of(0x7FFF)))
    return builder.trunc(builder.lshr(rounded, all_of(16)), kind(16))


def store(builder, value, place):
    """Store a value that lies as its parts do."""
    builder.store(value, builder.bitcast(place, value.type.as_pointer())).align = 4


def multiply_add(builder, one, two, added):
    """Multiply vectors of float32 and add a third, rounded once."""
    kind = ir.FunctionType(one.type, [one.type] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{one.type.count}f32")
    return builder.call(function, [one, two, added])


def prefetch(builder, place):
    """Begin to fetch what is at an address."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, PLACE, PLACE, PLACE])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [builder.bitcast(place, byte), PLACE(0), PLACE(3), PLACE(1)])


def spread(builder, number, n=BLOCK):
    """Make a vector of equal numbers."""
    first = builder.insert_element(ir.Constant(ir.VectorType(FLOAT, n), ir.Undefined), number, PLACE(0))
    return pick(builder, first, first, [0] * n)


def pick(builder, one, two, places):
    """Make a vector of numbers of two, counted from the first one's first."""
    return builder.shuffle_vector(one, two, ir.Constant(ir.VectorType(PLACE, len(places)), places))


def halve(builder, sums, n_left):
    """Add halves until `n_left` numbers are left."""
    n = sums.type.count
    while n > n_left:
        n //= 2
        sums = builder.fadd(*(pick(builder, sums, sums, list(range(at, at + n))) for at in (0, n)))
    return sums


def totals(builder, rows):
    """Add up each of four blocks: a vector of four."""
    a, b, c, d = (halve(builder, row, GROUP) for row in rows)
    even, odd = [0, 2, 4, 6], [1, 3, 5, 7]
    one, two = (
        builder.fadd(pick(builder, x, y, even), pick(builder, x, y, odd)) for x, y in ((a, b), (c, d))
    )
    return builder.fadd(pick(builder, one, two, even), pick(builder, one, two, odd))
