"""Blocks of 16 numbers and tiles of products in compiled code, against NumPy."""

import numpy as np
import pytest
import torch

from dsllm.kernels.exponential_compiled import exponential
from dsllm.text import compiled as module
from dsllm.text.compiled import compiled
from dsllm.text.vector_blocks import (
    count_lanes,
    multiply_add,
    put_block,
    put_pairs,
    take_block,
    two_to,
    where_less,
)
from dsllm.text.vector_tiles import copy_word, multiply_tile_16, multiply_tile_32, turn_tile


@compiled
def _compute(x, out):
    """Every operator and instruction, a row of results each."""
    one, two, number = take_block(x, 0), take_block(x, 16), np.float32(3)
    put_block(out, 0, (one + two) * number - two / one)
    put_block(out, 16, number - one)
    put_block(out, 32, where_less(one, two, count_lanes(), number))
    put_block(out, 48, multiply_add(one, number, two))
    put_block(out, 64, two_to(count_lanes() - np.float32(20)))
    put_block(out, 80, exponential(two * np.float32(-1)))
    out[96] = exponential(np.float32(-1.5)) + where_less(number, np.float32(4), number, np.float32(0))


@compiled
def _pair(x, out):
    for column in range(0, x.shape[1], 16):
        put_pairs(out, 1, x.shape[1], column, take_block(x, column), take_block(x, x.shape[1] + column))


@compiled
def _turn(x, out):
    turn_tile(x, 3, 20, out, 5, 18)
    copy_word(x, 0, out, 0)


@compiled
def _multiply(a, b, n, out, is_sum):
    multiply_tile_16(a, 0, n, 1, n, b, 0, 32, out, 0, 48, is_sum)
    multiply_tile_32(a, 0, n, 1, n, b, 0, 32, out, 16, 48, is_sum)


@pytest.fixture(autouse=True)
def _forget_code(tmp_path, monkeypatch):
    """Compile anew: the folder of code knows nothing of this file's changes."""
    monkeypatch.setattr(module, "code_folder", lambda: tmp_path)
    for function in (_compute, _pair, _turn, _multiply):
        function._runs.clear()
        function.__dict__.pop("dispatcher", None)


def as_numbers(x, dtype):
    """Give what the loops take: bf16 as the bits."""
    tensor = torch.from_numpy(x).to(dtype)
    return (tensor.view(torch.int16) if dtype == torch.bfloat16 else tensor).numpy()


def as_floats(numbers):
    tensor = torch.from_numpy(numbers)
    return (tensor.view(torch.bfloat16) if numbers.dtype == np.int16 else tensor).float().numpy()


def random_floats(*shape):
    return np.random.default_rng(0).uniform(0.5, 2, shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_operators_and_choices(dtype):
    given = as_numbers(random_floats(32), dtype)
    one, two = np.split(as_floats(given).astype(np.float64), 2)
    lanes, out = np.arange(16), np.zeros(97, np.float32)
    _compute(given, out)
    rows = [(one + two) * 3 - two / one, 3 - one, np.where(one < two, lanes, 3), one * 3 + two]
    rows += [2.0 ** (lanes - 20), np.exp(-two)]
    np.testing.assert_allclose(out[:96].reshape(6, 16), rows, rtol=3e-7, atol=1e-6)
    assert out[96] == pytest.approx(np.exp(-1.5) + 3, rel=3e-7)


def test_comparing_with_what_is_no_number_chooses_the_other():
    given, out = random_floats(32), np.zeros(97, np.float32)
    given[[4, 20]] = np.nan
    _compute(given, out)
    assert out[32 + 4] == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pairs_of_rows(dtype):
    given = as_numbers(random_floats(2, 32), dtype)
    out = np.zeros((4, 32), given.dtype)
    _pair(given, out)
    expected = given if dtype == torch.float32 else given.T.reshape(2, 32)  # number by number of both
    np.testing.assert_array_equal(out[2:], expected)
    assert not out[:2].any()


def test_numbers_halfway_between_two_bf16_go_to_the_even_one():
    given = np.zeros((2, 32), np.float32)
    given[0, :4] = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20]
    out = np.zeros((4, 32), np.int16)
    _pair(given, out)
    np.testing.assert_array_equal(
        as_floats(np.ascontiguousarray(out[2, :8:2])), [1, 1 + 2**-6, -1, 1 + 2**-7]
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_turning_a_tile(dtype):
    n = 2 if dtype == np.int16 else 1  # numbers to a word
    given = np.arange(20 * 20 * n).astype(dtype)
    out = np.zeros(18 * 18 * n, dtype)
    _turn(given, out)
    words = given.view(np.int32)
    tile = np.stack([words[3 + 20 * row :][:16] for row in range(16)])
    found = out.view(np.int32)
    np.testing.assert_array_equal(np.stack([found[5 + 18 * row :][:16] for row in range(16)]), tile.T)
    assert found[0] == words[0]


@pytest.mark.parametrize("has_instruction", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tiles_of_products(dtype, has_instruction, monkeypatch):
    from dsllm.text import vector_tiles_llvm

    if not has_instruction:
        monkeypatch.setattr(vector_tiles_llvm.llvm, "get_host_cpu_features", dict)
    n = 5  # words
    n_numbers = 2 * n if dtype == torch.bfloat16 else n
    a, b = random_floats(8, n_numbers), random_floats(n_numbers, 32)
    a, b = as_numbers(a, dtype), as_numbers(b, dtype)
    expected = as_floats(a).astype(np.float64) @ as_floats(b)
    words = b if dtype == torch.float32 else b.reshape(n, 2, 32).transpose(0, 2, 1).copy()
    out = np.ones((8, 48), np.float32)
    for is_sum in (0, 1):
        _multiply(a, words, n, out, is_sum)
        both = np.concatenate([expected[:, :16], expected], axis=1) * (1 + is_sum)
        np.testing.assert_allclose(out, both, rtol=1e-6)
