import pytest
import torch
from torch.nn import functional

from dsllm.kernels import cross_entropy as module
from dsllm.kernels.checks import losses
from dsllm.kernels.cross_entropy import cross_entropy, token_cross_entropy

N_TOKENS, D_MODEL, VOCAB_SIZE = 23, 12, 50


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Six tokens at a time, half of d_model: the last chunk of 19 that count is short."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * VOCAB_SIZE)
    monkeypatch.setattr(module, "MIN_CHUNK_TOKENS", 3)
    monkeypatch.setattr(module, "NEAR_NUMBERS", 7 * D_MODEL)  # of the weight's 50 rows seven at a time


def random_inputs(device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N_TOKENS, D_MODEL, generator=generator).to(device, dtype)
    weight = torch.randn(VOCAB_SIZE, D_MODEL, generator=generator).to(device, dtype)
    targets = torch.randint(VOCAB_SIZE, (N_TOKENS,), generator=generator).to(device)
    targets[[0, 7, 8, 22]] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def reference(hidden, weight, targets, reduction="sum"):
    """Compute torch's own loss in fp64, on fresh leaves."""
    leaves = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    losses = functional.cross_entropy(leaves[0] @ leaves[1].T, targets, reduction=reduction)
    return losses, leaves


def test_sum_and_gradients_match_torch(device):
    hidden, weight, targets = random_inputs(device)
    expected, leaves = reference(hidden, weight, targets)
    (expected / 19).backward()
    loss, n_targets = cross_entropy(hidden, weight, targets)
    (loss / n_targets).backward()

    assert n_targets.item() == 19
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)  # fp32
    torch.testing.assert_close(hidden.grad.double(), leaves[0].grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), leaves[1].grad, rtol=1e-5, atol=1e-6)
    assert hidden.grad[targets == -100].count_nonzero() == 0


def test_losses_of_tokens_and_gradients_under_any_weights_match_torch(device):
    hidden, weight, targets = random_inputs(device)
    weights = torch.linspace(-1, 2, N_TOKENS, device=device)
    expected, leaves = reference(hidden, weight, targets, reduction="none")
    (expected * weights.double()).sum().backward()
    losses = token_cross_entropy(hidden, weight, targets)
    (losses * weights).sum().backward()

    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)  # fp32
    torch.testing.assert_close(hidden.grad.double(), leaves[0].grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), leaves[1].grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function", [lambda *x: cross_entropy(*x)[0], lambda *x: token_cross_entropy(*x).sum()]
)
def test_bf16_has_its_logits_rounded_and_its_sums_in_fp32(function, device):
    hidden, weight, targets = random_inputs(device, torch.bfloat16)
    expected, leaves = reference(hidden, weight, targets)
    expected.backward()
    loss = function(hidden, weight, targets)
    loss.backward()

    torch.testing.assert_close(loss.double(), expected, rtol=2**-8, atol=0)  # logits are rounded to bf16
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    for actual, leaf in ((hidden.grad, leaves[0]), (weight.grad, leaves[1])):
        torch.testing.assert_close(actual.double(), leaf.grad, rtol=2**-5, atol=2**-5)


def test_under_autocast_the_gradients_are_fp32_of_bf16_products(device):
    hidden, weight, targets = random_inputs(device)
    rounded = [x.detach().bfloat16().requires_grad_() for x in (hidden, weight)]
    cross_entropy(*rounded, targets)[0].backward()
    with torch.autocast(device, dtype=torch.bfloat16):
        loss, _ = cross_entropy(hidden, weight, targets)
    loss.backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.float32, torch.float32)
    for leaf, same in ((hidden, rounded[0]), (weight, rounded[1])):
        torch.testing.assert_close(leaf.grad.bfloat16(), same.grad)


def test_logits_are_never_whole_and_never_computed_for_ignored_tokens(device, monkeypatch):
    rows = []
    original = module.overwrite_with_gradient

    def count(logits, *rest, **options):
        rows.append(len(logits))
        return original(logits, *rest, **options)

    monkeypatch.setattr(module, "overwrite_with_gradient", count)
    cross_entropy(*random_inputs(device))[0].backward()
    assert rows == [6, 6, 6, 1]


def test_chunks_grow_with_the_width_and_shrink_with_the_vocabulary(monkeypatch):
    monkeypatch.undo()
    assert module.chunk_tokens(1024, 64, torch.float32) == 4096
    assert module.chunk_tokens(102400, 256, torch.float32) == 512
    assert module.chunk_tokens(102400, 256, torch.bfloat16) == 1024
    assert module.chunk_tokens(102400, 4096, torch.bfloat16) == 2048


def test_batches_of_sequences_keep_their_shape(device):
    hidden, weight, targets = random_inputs(device)
    sequences, ids = hidden[:20].view(4, 5, D_MODEL), targets[:20].view(4, 5)
    losses = token_cross_entropy(sequences, weight, ids)
    assert losses.shape == (4, 5)
    torch.testing.assert_close(losses.sum(), cross_entropy(sequences, weight, ids)[0])


def test_nothing_to_predict_is_a_loss_of_zero(device):
    hidden, weight, targets = random_inputs(device)
    loss, n_targets = cross_entropy(hidden, weight, torch.full_like(targets, -100))
    loss.backward()
    assert (loss.item(), n_targets.item()) == (0.0, 0)
    assert hidden.grad.count_nonzero() == 0
    assert weight.grad.count_nonzero() == 0


def test_frozen_factors_get_no_gradient_and_no_grad_mode_keeps_none(device):
    hidden, weight, targets = random_inputs(device)
    loss, _ = cross_entropy(hidden, weight.detach(), targets)
    loss.backward()
    assert hidden.grad is not None
    with torch.no_grad():
        assert not cross_entropy(hidden, weight, targets)[0].requires_grad
    token_cross_entropy(hidden.detach(), weight, targets).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("z_loss", losses.Z_LOSSES)
@pytest.mark.parametrize("shape", losses.LINEAR_SHAPES, ids=str)
def test_kernel_matches_the_formula_in_fp64(shape, z_loss, dtype, device):
    row = losses.check_linear(shape, z_loss, dtype, device)
    assert row.is_right, row


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_z_loss_is_that_of_autograd(backend, device):
    hidden, weight, targets = random_inputs(device)
    counted = targets != -100
    leaves = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    logits = (leaves[0] @ leaves[1].T)[counted]
    expected = functional.cross_entropy(logits, targets[counted], reduction="sum")
    expected = expected + 0.1 * logits.logsumexp(dim=1).square().sum()
    expected.backward()
    loss, _ = cross_entropy(hidden, weight, targets, z_loss=0.1, backend=backend)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)  # fp32
    for leaf, wide in zip((hidden, weight), leaves, strict=True):
        torch.testing.assert_close(leaf.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)


def test_a_mean_scales_gradients_in_bf16_by_a_factor_in_fp32(device):
    hidden, weight, targets = random_inputs(device, torch.bfloat16)
    once = torch.autograd.grad(cross_entropy(hidden, weight, targets)[0], hidden)[0]
    mean = torch.autograd.grad(cross_entropy(hidden, weight, targets)[0] / 19, hidden)[0]
    assert torch.equal(mean, (once.float() * (1 / 19)).bfloat16())  # 1/19 in bf16 is off by a part in 500


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="targets"):
        cross_entropy(torch.zeros(3, 4), torch.zeros(9, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="weight"):
        cross_entropy(torch.zeros(3, 4), torch.zeros(9, 5), torch.zeros(3, dtype=torch.int64))


def test_the_gradient_is_given_away_once(device):
    loss, _ = cross_entropy(*random_inputs(device))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward can run once"):
        loss.backward()


def test_the_gradient_is_zero_where_no_target_counts(device):
    hidden, weight, targets = random_inputs(device)
    loss, n_targets = cross_entropy(hidden, weight, torch.full_like(targets, -100))
    loss.backward()
    assert (loss.item(), n_targets.item()) == (0, 0)
    assert not hidden.grad.any()
    assert not weight.grad.any()
