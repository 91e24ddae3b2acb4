import pytest
import torch

from dsllm.errors import ConfigError
from dsllm.kernels import backend, check
from dsllm.kernels.rms_norm import rms_norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", check.NORM_SHAPES, ids=str)
def test_kernel_and_its_gradients_match_the_formula_in_fp64(shape, dtype, device):
    row = check.check_rms_norm(shape, dtype, device)
    assert row.is_right, row


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


def test_gain_of_another_width_is_refused():
    with pytest.raises(ValueError, match="5 columns but weight has 4"):
        rms_norm(torch.ones(2, 5), torch.ones(4))


def test_triton_on_a_cpu_without_the_interpreter_is_refused(monkeypatch):
    monkeypatch.setattr(backend, "is_interpreting", lambda: False)
    with pytest.raises(ConfigError, match="on cpu") as caught:
        rms_norm(torch.ones(2, 4), torch.ones(4), backend="triton")
    assert "TRITON_INTERPRET=1" in caught.value.hint
