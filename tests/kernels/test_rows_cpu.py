"""RMSNorm, SwiGLU and RoPE by compiled loops on a CPU, against the formulas in fp64."""

import pytest
import torch

from dsllm.kernels import check, rms_norm, rope, rows_cpu, swiglu
from dsllm.kernels.backend import has_wide_vectors, takes_loops

ALLOWED = check.TOLERANCES[torch.float32]


def randoms(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.fixture(params=[1, 3], ids="{} threads".format, autouse=True)
def use_threads(request, monkeypatch):
    monkeypatch.setattr(rows_cpu, "MIN_THREAD_NUMBERS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)


@pytest.mark.parametrize("shape", [(1, 16), (3, 32), (2, 65, 48), (130, 16), (0, 16)], ids=str)
def test_rms_norm(shape):
    x, weight, dout = randoms(shape, shape[-1:], shape)
    error = check.worst_error(
        lambda x, weight: rows_cpu.rms_norm_cpu(x, None, weight, 1e-5)[0],
        lambda x, weight: rms_norm.rms_norm_torch(x, weight, 1e-5),
        [x, weight],
        dout,
    )
    assert error <= ALLOWED


@pytest.mark.parametrize("uses_both", [True, False], ids=["both results", "the stream alone"])
def test_add_rms_norm(uses_both):
    x, residual, weight, dout = randoms((2, 65, 48), (2, 65, 48), (48,), (2, 65, 48))

    def combined(normed, stream):
        return normed * (0.5 if uses_both else 0) + stream

    error = check.worst_error(
        lambda x, residual, weight: combined(*rows_cpu.rms_norm_cpu(x, residual, weight, 1e-5)),
        lambda x, residual, weight: combined(
            rms_norm.rms_norm_torch(x + residual, weight, 1e-5), x + residual
        ),
        [x, residual, weight],
        dout,
    )
    assert error <= ALLOWED


@pytest.mark.parametrize("shape", [(1, 16), (5, 37), (2, 3, 160)], ids=str)
def test_swiglu(shape):
    gate, up, dout = randoms(shape, shape, shape)
    error = check.worst_error(rows_cpu.swiglu_cpu, swiglu.swiglu_formula, [gate * 4, up], dout)
    assert error <= ALLOWED


@pytest.mark.parametrize("shape", [(1, 16), (5, 37), (2, 3, 160)], ids=str)
def test_swiglu_in_bf16_is_rounded_once(shape):
    inputs = [x.to(torch.bfloat16).requires_grad_() for x in randoms(shape, shape)]
    dout = randoms(shape)[0].to(torch.bfloat16)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    found, expected = rows_cpu.swiglu_cpu(*inputs), swiglu.swiglu_formula(*wide)
    gradients = torch.autograd.grad(found, inputs, dout), torch.autograd.grad(expected, wide, dout.double())
    for own, other in zip((found, *gradients[0]), (expected, *gradients[1]), strict=True):
        assert own.dtype == torch.bfloat16
        torch.testing.assert_close(own.double(), other, rtol=2**-8, atol=1e-6)


def test_gates_far_from_zero():
    gate = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4, float("nan")])
    found = rows_cpu.swiglu_cpu(gate, torch.ones(6))
    torch.testing.assert_close(found, gate * torch.sigmoid(gate), rtol=1e-6, atol=1e-30, equal_nan=True)


@pytest.mark.parametrize("n_rows", [1, 2])
def test_rope(n_rows):
    x, cos, sin, dout = randoms((2, 9, 3, 32), (n_rows, 9, 1, 16), (n_rows, 9, 1, 16), (2, 9, 3, 32))
    error = check.worst_error(
        lambda x: rows_cpu.rotate_cpu(x, cos, sin),
        lambda x: rope.apply_rope(x, cos.to(x.dtype), sin.to(x.dtype)),
        [x],
        dout,
    )
    assert error <= ALLOWED


def test_rope_in_bf16_is_rounded_once():
    x, cos, sin, dout = randoms((2, 9, 3, 32), (2, 9, 1, 16), (2, 9, 1, 16), (2, 9, 3, 32))
    narrow, wide = (
        x.to(torch.bfloat16).to(dtype).requires_grad_() for dtype in (torch.bfloat16, torch.float64)
    )
    found = rows_cpu.rotate_cpu(narrow, cos, sin)
    expected = rope.apply_rope(wide, cos.double(), sin.double())
    dout = dout.to(torch.bfloat16)
    (own,), (other,) = (
        torch.autograd.grad(result, given, dout.to(given.dtype))
        for result, given in ((found, narrow), (expected, wide))
    )
    for result, exact in ((found, expected), (own, other)):
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result.double(), exact, rtol=2**-8, atol=1e-6)


def test_gradients_of_gains_have_the_same_bits_with_any_number_of_threads(monkeypatch):
    x, weight, dout = randoms((500, 64), (64,), (500, 64))
    found = []
    for n_threads in (1, 2, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        leaf = weight.clone().requires_grad_()
        rows_cpu.rms_norm_cpu(x, None, leaf, 1e-5)[0].backward(dout)
        found.append(leaf.grad)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.skipif(not has_wide_vectors(), reason="the loops are for 512-bit vectors")
def test_who_goes_by_loops():
    x, weight = randoms((64, 1024), (1024,))
    assert takes_loops("auto", x, torch.nn.Parameter(weight))
    assert not takes_loops("torch", x, weight)
    assert not takes_loops("auto", x.bfloat16(), weight)
    assert not takes_loops("auto", x, weight.double())
    with torch.no_grad():
        assert not takes_loops("auto", x, weight)
    assert rows_cpu.suits_loops(x)
    assert not rows_cpu.suits_loops(x[:2])  # too few
    assert not rows_cpu.suits_loops(torch.zeros(100, 1000))  # channels


@pytest.mark.skipif(not has_wide_vectors(), reason="the loops are for 512-bit vectors")
def test_the_operators_agree_with_their_formulas():
    x, other, weight = randoms((64, 1024), (64, 1024), (1024,))
    heads, cos, sin = randoms((1, 64, 8, 128), (1, 64, 1, 64), (1, 64, 1, 64))
    pairs = [
        (rms_norm.rms_norm(x, weight), rms_norm.rms_norm(x, weight, backend="torch")),
        *zip(
            rms_norm.add_rms_norm(x, other, weight),
            rms_norm.add_rms_norm(x, other, weight, backend="torch"),
            strict=True,
        ),
        (swiglu.swiglu(x, other), swiglu.swiglu(x, other, backend="torch")),
        *zip(
            rope.rotate(heads, heads, cos, sin),
            rope.rotate(heads, heads, cos, sin, backend="torch"),
            strict=True,
        ),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=3e-6)
