import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.errors import ConfigError
from dsllm.kernels import backend, rms_norm_triton
from dsllm.kernels.checks import blocks
from dsllm.kernels.rms_norm import add_rms_norm, rms_norm

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@DTYPES
@pytest.mark.parametrize("shape", blocks.NORM_SHAPES, ids=str)
def test_kernel_and_its_gradients_match_the_formula_in_fp64(shape, dtype, device):
    row = blocks.check_rms_norm(shape, dtype, device)
    assert row.is_right, row


@DTYPES
@pytest.mark.parametrize("shape", blocks.NORM_SHAPES, ids=str)
def test_kernel_behind_an_addition_matches_the_formula_in_fp64(shape, dtype, device):
    row = blocks.check_add_rms_norm(shape, dtype, dtype, device)
    assert row.is_right, row


def test_a_layer_in_bf16_adds_to_a_stream_in_fp32(device):
    row = blocks.check_add_rms_norm((3, 40), torch.bfloat16, torch.float32, device)
    assert row.is_right, row
    x, residual = torch.randn(3, 40, device=device).bfloat16(), torch.randn(3, 40, device=device)
    x, residual = x.requires_grad_(), residual.requires_grad_()
    normed, stream = add_rms_norm(x, residual, torch.ones(40, device=device), backend="triton")
    (normed.sum() + stream.sum()).backward()
    dtypes = (normed.dtype, stream.dtype, x.grad.dtype, residual.grad.dtype)
    assert dtypes == (torch.float32, torch.float32, torch.bfloat16, torch.float32)


@settings(max_examples=12)
@given(n_rows=st.integers(0, 5), d_model=st.integers(1, 300))
def test_any_shape(n_rows, d_model):
    row = blocks.check_add_rms_norm((n_rows, d_model), torch.float32, torch.float32, "cpu")
    assert row.is_right, row


def test_the_stream_is_the_rounded_sum_and_the_norm_is_taken_of_it(device):
    x, residual = (torch.randn(4, 33, device=device).bfloat16() for _ in range(2))
    weight = torch.ones(33, device=device)
    normed, stream = add_rms_norm(x, residual, weight, backend="triton")
    assert torch.equal(stream, x + residual)
    assert torch.equal(normed, rms_norm(x + residual, weight, backend="triton"))


def test_gradient_of_the_gain_has_the_same_bits_every_time(device, monkeypatch):
    monkeypatch.setattr(rms_norm_triton, "N_PROGRAMS", 4)  # of 2 or 3 rows each
    x, weight = torch.randn(10, 300, device=device), torch.ones(300, device=device, requires_grad=True)
    grads = []
    for _ in range(2):
        (grad,) = torch.autograd.grad(rms_norm(x, weight, backend="triton").sum(), weight)
        grads.append(grad)
    assert torch.equal(*grads)


def test_gain_in_fp32_over_activations_in_bf16_keeps_both_dtypes(device):
    x = torch.randn(3, 40, device=device, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(40, device=device, requires_grad=True)
    y = rms_norm(x, weight, backend="triton")
    y.sum().backward()
    assert (y.dtype, x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


def test_formula_by_hand(device):
    x, weight = torch.tensor([[3.0, 4.0]], device=device), torch.tensor([1.0, 2.0], device=device)
    expected = torch.tensor([[3.0, 8.0]], device=device) / 12.5**0.5  # mean of 9 and 16 is 12.5
    torch.testing.assert_close(rms_norm(x, weight, eps=0.0, backend="torch"), expected)
    parts = x - 1, torch.ones_like(x)
    torch.testing.assert_close(add_rms_norm(*parts, weight, eps=0.0, backend="torch"), (expected, x))


def test_gradient_by_hand(device):
    # y = x / sqrt((x1^2 + x2^2) / 2): at (3, 4) with dy = (1, 0), dx = sqrt(2) (x2^2, -x1 x2) / 5^3.
    x = torch.tensor([[3.0, 4.0]], device=device, requires_grad=True)
    rms_norm(x, torch.ones(2, device=device), eps=0.0, backend="triton")[0, 0].backward()
    torch.testing.assert_close(x.grad, 2**0.5 * torch.tensor([[16.0, -12.0]]) / 125)


def test_no_rows_give_no_rows(device):
    x = torch.empty(0, 8, device=device, requires_grad=True)
    weight = torch.ones(8, device=device, requires_grad=True)
    rms_norm(x, weight, backend="triton").sum().backward()
    assert x.grad.shape == (0, 8)
    assert weight.grad.tolist() == [0.0] * 8


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="5 columns but weight has 4"):
        rms_norm(torch.ones(2, 5), torch.ones(4))
    with pytest.raises(ValueError, match=r"x is \(2, 4\) but the residual is \(1, 4\)"):
        add_rms_norm(torch.ones(2, 4), torch.ones(1, 4), torch.ones(4))


def test_triton_on_a_cpu_without_the_interpreter_is_refused(monkeypatch):
    monkeypatch.setattr(backend, "is_interpreting", lambda: False)
    with pytest.raises(ConfigError, match="on cpu") as caught:
        rms_norm(torch.ones(2, 4), torch.ones(4), backend="triton")
    assert "TRITON_INTERPRET=1" in caught.value.hint
