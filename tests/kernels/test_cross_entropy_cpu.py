"""Cross-entropy in place by compiled loops on a CPU, against the formula in fp64."""

import math

import pytest
import torch

from dsllm.kernels import cross_entropy_cpu, cross_entropy_logits
from dsllm.kernels.backend import has_wide_vectors
from dsllm.kernels.checks.measure import TOLERANCES
from dsllm.kernels.cross_entropy_cpu import overwrite_by_loops
from dsllm.kernels.cross_entropy_logits import IGNORED, cross_entropy_formula, overwrite_with_gradient

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@pytest.fixture(params=[1, 3], ids="{} threads".format, autouse=True)
def use_threads(request, monkeypatch):
    monkeypatch.setattr(cross_entropy_cpu, "MIN_THREAD_LOGITS", 1)
    monkeypatch.setattr(cross_entropy_logits, "MIN_LOOP_LOGITS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)


def random_inputs(n_rows, vocab_size, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(n_rows, vocab_size, generator=generator) * 4).to(dtype)
    targets = torch.randint(vocab_size, (n_rows,), generator=generator)
    targets[3::4] = IGNORED
    return logits, targets


def overwrite(logits, targets, upstream=None, *, has_gradient=True, z_loss=0.0):
    return overwrite_by_loops(
        logits, targets, upstream, has_gradient=has_gradient, z_loss=z_loss, ignore_index=IGNORED
    )


@DTYPES
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("has_upstream", [False, True])
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (5, 50), (4, 1024), (3, 4097), (2, 102_400)], ids=str)
def test_losses_and_gradients(shape, has_upstream, z_loss, dtype):
    logits, targets = random_inputs(*shape, dtype)
    upstream = torch.arange(shape[0], dtype=torch.float32) if has_upstream else None
    wide = logits.double().requires_grad_()
    losses = cross_entropy_formula(wide, targets, z_loss=z_loss)
    (gradient,) = torch.autograd.grad(
        losses, wide, torch.ones_like(losses) if upstream is None else upstream.double()
    )
    found = overwrite(logits, targets, upstream, z_loss=z_loss)
    torch.testing.assert_close(found, losses.detach().float(), rtol=1e-6, atol=1e-6)
    if gradient.numel():
        largest = float(gradient.abs().max()) or 1.0
        assert float((logits.double() - gradient).abs().max()) <= TOLERANCES[dtype] * largest


@DTYPES
def test_losses_alone(dtype):
    logits, targets = random_inputs(5, 50, dtype)
    expected = cross_entropy_formula(logits.double(), targets, z_loss=0.1).float()
    torch.testing.assert_close(
        overwrite(logits, targets, has_gradient=False, z_loss=0.1), expected, rtol=1e-6, atol=1e-6
    )


def test_large_logits_and_words_that_are_ruled_out():
    row = [[1e4, -math.inf, 1e4, -1e4], [-math.inf, -math.inf, -math.inf, -1e4]]
    logits, targets = torch.tensor(row), torch.tensor([0, 3])
    torch.testing.assert_close(overwrite(logits, targets), torch.tensor([math.log(2), 0.0]))
    assert logits.tolist() == [[-0.5, 0, 0.5, 0], [0, 0, 0, 0]]


@DTYPES
def test_logits_that_are_no_numbers_show_in_the_loss_and_in_the_gradient(dtype):
    logits, targets = random_inputs(3, 50, dtype)
    logits[0, 3] = math.nan
    logits[1, 3] = math.inf
    assert overwrite(logits, targets).isnan().tolist() == [True, True, False]
    assert logits.isnan().any(dim=1).tolist() == [True, True, False]


@DTYPES
def test_rounding_is_to_the_nearest_and_to_even(dtype):
    logits, targets = random_inputs(40, 300, dtype)
    wide = logits.float()
    overwrite(logits, targets)
    overwrite(wide, targets)
    assert torch.equal(logits, wide.to(dtype))


@pytest.mark.skipif(not has_wide_vectors(), reason="needs 512-bit vectors")
def test_who_takes_the_loops(monkeypatch):
    calls = []
    monkeypatch.setattr(
        cross_entropy_logits, "overwrite_by_loops", lambda *_, **__: calls.append(1) or torch.zeros(5)
    )
    logits, targets = random_inputs(5, 50, torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        overwrite_with_gradient(logits.to(dtype), targets)
    assert len(calls) == 2
    overwrite_with_gradient(logits.double(), targets)
    overwrite_with_gradient(logits.clone()[:, :40], targets.clamp_max(39))
    overwrite_with_gradient(logits.clone(), targets, backend="torch")
    with pytest.raises((RuntimeError, IndexError), match="out of bounds|out of range"):
        overwrite_with_gradient(logits.clone(), targets + 50)
    assert len(calls) == 2
