"""The instructions of `vector_tiles.py` as LLVM has them. Imported to compile, not to run."""

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dsllm.text.vector_floats import BLOCK
from dsllm.text.vector_parts_llvm import (
    FLOAT,
    FLOATS,
    HALVES,
    INDEX,
    WORDS,
    ZEROS,
    address_of,
    load,
    loop,
    multiply_add,
    pick,
    spread,
    store,
)
from dsllm.text.vector_tiles import TILE_ROWS


def _make_multiply_tile(n_vectors):
    """Keep 8 rows of `n_vectors` blocks of sums: each number of a row is multiplied by as many blocks."""

    @intrinsic
    def multiply_tile(
        typing_context, a, a_index, a_row, a_step, n, b, b_index, b_step, out, out_index, out_row, is_sum
    ):
        def generate(context, builder, signature, arguments):
            first_row, column = (_word_at(context, builder, signature, arguments, i) for i in (0, 5))
            target = address_of(context, builder, signature, arguments, 8)
            a_row, a_step, n, b_step = (arguments[i] for i in (2, 3, 4, 7))
            multiply_words = multiply_add if a.dtype == types.float32 else _multiply_pairs_add
            out_row, is_sum = arguments[10:12]
            rows = [builder.gep(first_row, [builder.mul(a_row, INDEX(row))]) for row in range(TILE_ROWS)]
            places = [
                builder.gep(target, [builder.add(builder.mul(out_row, INDEX(row)), INDEX(BLOCK * vector))])
                for row in range(TILE_ROWS)
                for vector in range(n_vectors)
            ]
            keeps = builder.icmp_signed("!=", is_sum, INDEX(0))
            before = [builder.select(keeps, load(builder, place), ZEROS) for place in places]
            with loop(builder, n, before) as (number, sums, following):
                own = builder.gep(column, [builder.mul(number, b_step)])
                blocks = [load(builder, builder.gep(own, [INDEX(BLOCK * i)])) for i in range(n_vectors)]
                for row, start in enumerate(rows):
                    factor = builder.load(builder.gep(start, [builder.mul(number, a_step)]))
                    equal = spread(builder, factor)
                    for vector, block in enumerate(blocks):
                        total = sums[row * n_vectors + vector]
                        following.append(multiply_words(builder, equal, block, total))
            for place, total in zip(places, following, strict=True):
                store(builder, total, place)
            return context.get_dummy_value()

        i = types.int64
        return types.none(a, i, i, i, i, b, i, i, out, i, i, i), generate

    return multiply_tile


multiply_tile_16, multiply_tile_32 = map(_make_multiply_tile, (1, 2))


@intrinsic
def copy_word(typing_context, source, source_index, target, target_index):
    """Copy 32 bits."""

    def generate(context, builder, signature, arguments):
        given, wanted = (_word_at(context, builder, signature, arguments, i) for i in (0, 2))
        builder.store(builder.load(given), wanted)
        return context.get_dummy_value()

    return types.none(source, types.int64, target, types.int64), generate


@intrinsic
def turn_tile(typing_context, x, x_index, x_row, out, out_index, out_row):
    """Let rows 8, 4, 2 and 1 apart change halves, quarters, eighths and single words."""

    def generate(context, builder, signature, arguments):
        given, wanted = (_word_at(context, builder, signature, arguments, i) for i in (0, 3))
        x_row, out_row = arguments[2], arguments[5]
        rows = [load(builder, builder.gep(given, [builder.mul(x_row, INDEX(row))])) for row in range(BLOCK)]
        apart = BLOCK // 2
        while apart:
            upper = [lane + (BLOCK - apart if lane & apart else 0) for lane in range(BLOCK)]
            lower = [lane + (BLOCK if lane & apart else apart) for lane in range(BLOCK)]
            for row in (row for row in range(BLOCK) if not row & apart):
                both = rows[row], rows[row + apart]
                rows[row], rows[row + apart] = (pick(builder, *both, lanes) for lanes in (upper, lower))
            apart //= 2
        for number, row in enumerate(rows):
            store(builder, row, builder.gep(wanted, [builder.mul(out_row, INDEX(number))]))
        return context.get_dummy_value()

    i = types.int64
    return types.none(x, i, i, out, i, i), generate


def _multiply_pairs_add(builder, one, two, added):
    """Add the two products of each pair of bf16: an instruction of some processors, or widened halves."""
    if llvm.get_host_cpu_features().get("avx512bf16"):
        pairs = ir.VectorType(_BFloat(), 2 * BLOCK)
        kind = ir.FunctionType(FLOATS, [FLOATS, pairs, pairs])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
        return builder.call(function, [added, builder.bitcast(one, pairs), builder.bitcast(two, pairs)])
    one, two = (builder.bitcast(words, WORDS) for words in (one, two))
    for widen_half in (
        lambda words: builder.shl(words, HALVES),
        lambda words: builder.and_(words, ir.Constant(WORDS, [-(1 << 16)] * BLOCK)),
    ):
        left, right = (builder.bitcast(widen_half(words), FLOATS) for words in (one, two))
        added = multiply_add(builder, left, right, added)
    return added


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's type of bf16, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _word_at(context, builder, signature, arguments, index):
    """Give the address of a word, whose index is the argument behind the array."""
    data = context.make_array(signature.args[index])(context, builder, arguments[index]).data
    return builder.gep(builder.bitcast(data, FLOAT.as_pointer()), [arguments[index + 1]])
