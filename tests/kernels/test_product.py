import pytest
import torch
from torch.nn.functional import linear

import dsllm.kernels.product
from dsllm.kernels.product import MIN_WEIGHTS, fast_fp32_products, product

LARGE = torch.ones(MIN_WEIGHTS)


def random_factors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 150, 192, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(180, 192, generator=generator).to(dtype).requires_grad_()
    return x, weight


def test_forward_and_backward_are_exact_to_fp32():
    x, weight = random_factors()
    upstream = torch.randn(2, 150, 180, generator=torch.Generator().manual_seed(1))
    result = product(x, weight)
    result.backward(upstream)
    wide_x, wide_weight = (factor.detach().double().requires_grad_() for factor in (x, weight))
    expected = linear(wide_x, wide_weight)
    expected.backward(upstream.double())
    # Sums of up to 300 terms, each rounded to 2**-24 of itself.
    for actual, exact in ((result, expected), (x.grad, wide_x.grad), (weight.grad, wide_weight.grad)):
        assert (actual - exact).abs().max() < 300 * 2**-24 * exact.abs().max()


def test_a_factor_that_wants_no_gradient_gets_none():
    x, weight = random_factors()
    product(x, weight.detach()).sum().backward()
    torch.testing.assert_close(x.grad, weight.detach().sum(dim=0).expand_as(x), rtol=1e-5, atol=1e-5)


def test_autocast_and_other_dtypes_are_left_to_torch():
    x, weight = random_factors()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(product(x, weight), linear(x, weight))
    x, weight = random_factors(torch.bfloat16)
    assert torch.equal(product(x, weight), linear(x, weight))


def test_the_switch_is_only_set_within_and_only_where_exact(monkeypatch):
    monkeypatch.setattr(dsllm.kernels.product, "_is_exact", lambda: True)
    with pytest.raises(KeyError), fast_fp32_products(LARGE):
        assert torch.get_float32_matmul_precision() == "medium"
        raise KeyError
    for other in (LARGE.bfloat16(), LARGE[1:]):
        with fast_fp32_products(other):
            assert torch.get_float32_matmul_precision() == "highest"
    monkeypatch.setattr(dsllm.kernels.product, "_is_exact", lambda: False)
    with fast_fp32_products(LARGE):
        assert torch.get_float32_matmul_precision() == "highest"
