import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsllm.kernels.checks import blocks
from dsllm.kernels.swiglu import swiglu, swiglu_formula


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", blocks.SWIGLU_SHAPES, ids=str)
def test_kernel_and_its_gradients_match_the_formula_in_fp64(shape, dtype, device):
    row = blocks.check_swiglu(shape, dtype, device)
    assert row.is_right, row


@settings(max_examples=15)
@given(shape=st.lists(st.integers(0, 40), min_size=1, max_size=3))
def test_any_shape(shape):
    row = blocks.check_swiglu(shape, torch.float32, "cpu")
    assert row.is_right, row


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_by_hand(backend, device):
    # silu(ln 3) = ln 3 * 3/4; silu(0) = 0; far below 0 the gate is shut, far above it is open.
    gate = torch.tensor([math.log(3), 0.0, -80.0, 80.0], device=device)
    actual = swiglu(gate, torch.tensor([8.0, 5.0, 2.0, 2.0], device=device), backend=backend).cpu()
    torch.testing.assert_close(actual, torch.tensor([6 * math.log(3), 0.0, 0.0, 160.0]))
    torch.testing.assert_close(swiglu(gate, gate, backend=backend), nn.SiLU()(gate) * gate)


def test_formula_is_torchs(device):
    gate, up = (torch.randn(50, device=device, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(swiglu_formula(gate, up), nn.functional.silu(gate) * up)


def test_nothing_is_kept_but_gate_and_up(device):
    gate, up = (torch.randn(4, 6, device=device, requires_grad=True) for _ in range(2))
    kept = []

    def keep(x):
        kept.append(x.data_ptr())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        swiglu(gate, up, backend="triton")
    assert kept == [gate.data_ptr(), up.data_ptr()]


def test_views_are_read_as_they_are(device):
    both = torch.randn(3, 20, device=device)
    gate, up = both.chunk(2, dim=1)
    torch.testing.assert_close(swiglu(gate, up, backend="triton"), swiglu(gate, up, backend="torch"))


def test_shapes_and_dtypes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"gate is \(2,\)"):
        swiglu(torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="bfloat16"):
        swiglu(torch.ones(2), torch.ones(2).bfloat16())
