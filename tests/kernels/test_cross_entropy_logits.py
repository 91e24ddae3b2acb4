import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dsllm.kernels import cross_entropy_logits as module
from dsllm.kernels.checks import losses
from dsllm.kernels.cross_entropy_logits import (
    cross_entropy_formula,
    cross_entropy_in_place,
    overwrite_with_gradient,
)

BACKENDS = pytest.mark.parametrize("backend", ["torch", "triton"])


def random_inputs(device, n_rows=7, vocab_size=50, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n_rows, vocab_size, generator=generator)
    targets = torch.randint(vocab_size, (n_rows,), generator=generator)
    targets[2::3] = -100
    return logits.to(device, dtype), targets.to(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("z_loss", losses.Z_LOSSES)
@pytest.mark.parametrize("shape", losses.LOGIT_SHAPES, ids=str)
def test_kernel_matches_the_formula_in_fp64(shape, z_loss, dtype, device):
    row = losses.check_in_place(shape, z_loss, dtype, device)
    assert row.is_right, row


@settings(max_examples=15)
@given(
    n_rows=st.integers(0, 4),
    vocab_size=st.one_of(st.integers(1, 40), st.integers(4090, 4100)),
    gap=st.integers(0, 5),
    z_loss=st.sampled_from(losses.Z_LOSSES),
)
def test_any_shape(n_rows, vocab_size, gap, z_loss):
    row = losses.check_in_place((n_rows, vocab_size, vocab_size + gap), z_loss, torch.float32, "cpu")
    assert row.is_right, row


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_loss_and_gradient_are_torchs(backend, dtype, device):
    logits, targets = random_inputs(device, dtype=dtype)
    wide = logits.double().requires_grad_()
    expected = functional.cross_entropy(wide, targets)
    expected.backward()
    leaf = logits.requires_grad_()
    loss = cross_entropy_in_place(leaf * 1, targets, backend=backend) / 5  # 7 rows, 2 of them ignored
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)  # fp32
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]  # bf16: rounded twice
    torch.testing.assert_close(leaf.grad.double(), wide.grad, rtol=tolerance, atol=1e-7)


def test_formula_is_torchs(device):
    logits, targets = random_inputs(device, dtype=torch.float64)
    expected = functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(cross_entropy_formula(logits, targets), expected)


@BACKENDS
def test_by_hand(backend, device):
    # Softmax of (0, ln 3) is (1/4, 3/4); the logarithm of its denominator is ln 4.
    logits = torch.tensor([[0.0, math.log(3)]], device=device)
    loss = overwrite_with_gradient(logits, torch.tensor([1], device=device), z_loss=0.5, backend=backend)
    torch.testing.assert_close(loss.cpu(), torch.tensor([math.log(4 / 3) + 0.5 * math.log(4) ** 2]))
    factor = 1 + 2 * 0.5 * math.log(4)
    expected = torch.tensor([[factor / 4, factor * 3 / 4 - 1]])
    torch.testing.assert_close(logits.cpu(), expected)


@BACKENDS
def test_gradient_lies_where_the_logits_lay(backend, device):
    leaf, targets = random_inputs(device)
    logits = leaf.requires_grad_() * 1
    loss = cross_entropy_in_place(logits, targets, backend=backend)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.data_ptr() == logits.data_ptr()
    assert gradient[targets == -100].count_nonzero() == 0


@BACKENDS
def test_the_backward_pass_runs_once(backend, device):
    leaf, targets = random_inputs(device)
    loss = cross_entropy_in_place(leaf.requires_grad_() * 1, targets, backend=backend)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@BACKENDS
def test_losses_alone(backend, device):
    logits, targets = random_inputs(device)
    expected = cross_entropy_formula(logits, targets, z_loss=0.1)
    actual = overwrite_with_gradient(logits, targets, has_gradient=False, z_loss=0.1, backend=backend)
    torch.testing.assert_close(actual, expected)


@BACKENDS
def test_large_logits_and_words_that_are_ruled_out(backend, device):
    row = [[1e4, -math.inf, 1e4, -1e4], [-math.inf, -math.inf, -math.inf, -1e4]]
    logits, targets = torch.tensor(row, device=device), torch.tensor([0, 3], device=device)
    loss = overwrite_with_gradient(logits, targets, backend=backend)
    torch.testing.assert_close(loss.cpu(), torch.tensor([math.log(2), 0.0]))
    torch.testing.assert_close(logits.cpu(), torch.tensor([[-0.5, 0, 0.5, 0], [0, 0, 0, 0]]))


@BACKENDS
def test_logits_that_are_no_numbers_show_in_the_loss(backend, device):
    logits, targets = random_inputs(device)
    logits[0, 3] = math.nan
    assert overwrite_with_gradient(logits, targets, backend=backend)[:2].isnan().tolist() == [True, False]


def test_a_target_outside_of_the_vocabulary_shows(device):
    logits, targets = random_inputs(device)
    targets[:2] = torch.tensor([50, -1], device=device)
    assert overwrite_with_gradient(logits, targets, backend="triton").isnan().tolist()[:4] == [
        True,
        True,
        False,
        False,
    ]


def test_what_cannot_be_overwritten_is_refused():
    targets = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="leaf"):
        cross_entropy_in_place(torch.zeros(2, 3, requires_grad=True), targets)
    with pytest.raises(ValueError, match="strides"):
        cross_entropy_in_place(torch.zeros(3, 2).T, targets)
    with pytest.raises(ValueError, match="strides"):
        cross_entropy_in_place(torch.zeros(1, 3).expand(2, 3), targets)
    with pytest.raises(ValueError, match=r"targets \(2,\)"):
        cross_entropy_in_place(torch.zeros(1, 3), targets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("has_upstream", [False, True])
def test_rows_at_a_time_are_bit_equal_to_all_at_once(dtype, has_upstream, monkeypatch):
    found = []
    for n_near in (1000, 3, 1):  # rows: all seven, three, three and one, one by one
        monkeypatch.setattr(module, "NEAR_LOGITS", 50 * n_near)
        logits, targets = random_inputs("cpu", dtype=dtype)
        upstream = torch.arange(1.0, 8.0) if has_upstream else None
        losses = overwrite_with_gradient(logits, targets, upstream=upstream, z_loss=1e-3, backend="torch")
        found.append((losses, logits))
    for losses, logits in found[1:]:
        assert torch.equal(losses, found[0][0])
        assert torch.equal(logits, found[0][1])
