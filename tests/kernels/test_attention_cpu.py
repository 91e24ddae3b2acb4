"""Attention by compiled loops on a CPU, against the formula in fp64."""

import pytest
import torch

from dsllm.kernels import attention_cpu as loops
from dsllm.kernels import check
from dsllm.kernels.attention import attention, attention_formula, document_starts
from dsllm.kernels.attention_cpu import attention_cpu
from dsllm.kernels.backend import has_wide_vectors

GENERATOR_SEED = 0


def random_inputs(batch, seq_len, n_heads, n_kv_heads, head_dim):
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    return [
        torch.randn(batch, seq_len, heads, head_dim, generator=generator)
        for heads in (n_heads, n_kv_heads, n_kv_heads, n_heads)
    ]


def make_ids(lengths):
    return torch.stack([torch.repeat_interleave(torch.tensor(row)) for row in lengths])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ((1, 1, 1, 1, 16), None),
        ((2, 7, 2, 1, 16), None),
        ((2, 37, 6, 2, 48), None),
        ((1, 100, 4, 4, 64), None),
        ((2, 130, 4, 1, 32), None),
        ((1, 96, 8, 1, 128), None),
        ((2, 130, 4, 2, 32), [[1, 64, 65], [33, 31, 1, 1, 64]]),
        ((1, 70, 2, 2, 80), [[1] * 70]),
        ((2, 65, 2, 1, 16), [[65], [64, 1]]),
        ((2, 133, 2, 1, 48), [[70, 29, 34], [1, 130, 2]]),
    ],
    ids=str,
)
def test_loops_and_their_gradients_match_the_formula_in_fp64(shape, lengths, dtype):
    *inputs, dout = (x.to(dtype) for x in random_inputs(*shape))
    ids = None if lengths is None else make_ids(lengths)
    starts = None if ids is None else document_starts(ids)
    error = check.worst_error(
        lambda q, k, v: attention_cpu(q, k, v, starts),
        lambda q, k, v: attention_formula(q, k, v, ids),
        inputs,
        dout,
    )
    assert error <= check.TOLERANCES[dtype]


def test_scores_far_apart_and_far_from_zero():
    q, k, v, _ = random_inputs(1, 40, 2, 1, 16)
    for factor in (1e-3, 30.0, 1e3):
        expected = attention_formula((q * factor).double(), k.double(), v.double()).float()
        found = attention_cpu(q * factor, k, v, None)
        # The scores themselves are rounded: by 2**-24 of their size, up to 1e4 here.
        torch.testing.assert_close(found, expected, rtol=0, atol=max(2e-6, factor * 5e-6))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_number_reaches_the_tokens_that_see_it(place):
    inputs = random_inputs(1, 64, 1, 1, 16)[:3]
    inputs[place][0, 40, 0, 3] = float("nan")
    is_hit = attention_cpu(*inputs, None).isnan().any(dim=-1).flatten()
    assert is_hit[40]
    assert is_hit[40:].all() or place == 0
    assert not is_hit[:32].any()  # what is in a tile of keys ahead is not multiplied


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_have_the_same_bits_with_any_number_of_threads(dtype, monkeypatch):
    monkeypatch.setattr(loops, "MIN_THREAD_PRODUCTS", 1)
    *inputs, dout = (x.to(dtype) for x in random_inputs(3, 70, 4, 2, 32))
    found = []
    for n_threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = attention_cpu(*leaves, None)
        found.append([out.detach(), *torch.autograd.grad(out, leaves, dout)])
    for others in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], others, strict=True))


def test_tensors_that_do_not_lie_in_a_row():
    q, k, v, dout = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in random_inputs(2, 50, 4, 2, 16))
    error = check.worst_error(
        lambda q, k, v: attention_cpu(q, k, v, None), attention_formula, [q, k, v], dout
    )
    assert error <= check.TOLERANCES[torch.float32]


def test_what_is_no_number_does_not_reach_gradients_of_other_heads_and_rows():
    *inputs, dout = random_inputs(2, 70, 2, 2, 16)
    inputs[0][0, 69, 0] = float("nan")  # the last token of a row whose last tile is not full
    leaves = [x.requires_grad_() for x in inputs]
    grads = torch.autograd.grad(attention_cpu(*leaves, None), leaves, dout)
    for grad in grads:
        assert grad[0, :, 0].isnan().any()
        assert not grad[0, :, 1].isnan().any()
        assert not grad[1].isnan().any()


@pytest.mark.parametrize("can_pair", [False, True])
@pytest.mark.skipif(not has_wide_vectors(), reason="the loops are for 512-bit vectors")
def test_who_goes_by_loops(can_pair, monkeypatch):
    went = []
    monkeypatch.setattr("dsllm.kernels.attention.has_pair_products", lambda: can_pair)
    monkeypatch.setattr(
        "dsllm.kernels.attention.attention_cpu",
        lambda *arguments: went.append(arguments[3] is not None) or attention_cpu(*arguments),
    )
    inputs = random_inputs(2, 256, 4, 2, 32)[:3]
    attention(*inputs)
    attention(*inputs, document_ids=torch.zeros(2, 256, dtype=torch.int64))
    assert went == [False, True]
    attention(*inputs, backend="torch")
    attention(*(x.double() for x in inputs))
    attention(*random_inputs(1, 16, 1, 1, 32)[:3])  # too few
    attention(*random_inputs(2, 256, 4, 2, 24)[:3])  # channels
    with torch.no_grad():
        attention(*inputs)
    assert len(went) == 2
    attention(*(x.bfloat16() for x in inputs))
    assert len(went) == 2 + can_pair
    attention(inputs[0].bfloat16(), *inputs[1:])  # of two kinds, which the loops would misread
    assert len(went) == 2 + can_pair
