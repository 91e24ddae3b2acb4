import copy
import math

import pytest
import torch
from torch import nn

from dsllm.train.optimizer import EPS, MasterAdamW, clip_gradients, make_optimizer, set_learning_rate


class TwoKinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.full((1, 1), 2.0))
        self.gain = nn.Parameter(torch.full((1,), 2.0))


def step(model, lr, **settings):
    optimizer = make_optimizer(model, **settings)
    for gradient in (0.5, -0.25):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        set_learning_rate(optimizer, lr)
        optimizer.step()


def adamw_by_hand(weight, gradients, *, lr, decay, betas=(0.9, 0.95), eps=1e-8):
    """Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, one number at a time in fp64."""
    first = second = 0.0
    for t, gradient in enumerate(gradients, start=1):
        weight -= lr * decay * weight
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        corrected = first / (1 - betas[0] ** t), second / (1 - betas[1] ** t)
        weight -= lr * corrected[0] / (math.sqrt(corrected[1]) + eps)
    return weight


@pytest.mark.parametrize(
    ("decay", "matrix_decay", "gain_decay"), [("matrices", 0.1, 0), ("all", 0.1, 0.1), ("none", 0, 0)]
)
def test_updates_by_hand(decay, matrix_decay, gain_decay):
    model = TwoKinds()
    step(model, 0.3, weight_decay=0.1, decay=decay)
    expected_matrix = adamw_by_hand(2.0, [0.5, -0.25], lr=0.3, decay=matrix_decay)
    expected_gain = adamw_by_hand(2.0, [0.5, -0.25], lr=0.3, decay=gain_decay)
    assert model.matrix.item() == pytest.approx(expected_matrix, rel=1e-6)  # fp32
    assert model.gain.item() == pytest.approx(expected_gain, rel=1e-6)


def test_clipping_by_hand():
    model = TwoKinds()
    model.matrix.grad, model.gain.grad = torch.full((1, 1), 3.0), torch.full((1,), 4.0)
    assert clip_gradients(model.parameters(), 1.0) == pytest.approx(5.0)  # 3, 4, 5
    assert (model.matrix.grad.item(), model.gain.grad.item()) == pytest.approx((0.6, 0.8))
    assert clip_gradients(model.parameters(), 2.0) == pytest.approx(1.0)  # short enough: left alone
    assert (model.matrix.grad.item(), model.gain.grad.item()) == pytest.approx((0.6, 0.8))


@pytest.mark.parametrize("max_norm", [None, math.inf])
def test_no_clipping(max_norm):
    model = TwoKinds()
    model.matrix.grad = torch.full((1, 1), 300.0)
    assert clip_gradients(model.parameters(), max_norm) == pytest.approx(300.0)
    assert model.matrix.grad.item() == 300.0


def test_bad_gradient_shows_in_the_norm():
    model = TwoKinds()
    model.matrix.grad, model.gain.grad = torch.full((1, 1), math.nan), torch.full((1,), 4.0)
    assert math.isnan(clip_gradients(model.parameters(), 1.0))


def train(model, optimizer, n_steps, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        set_learning_rate(optimizer, 0.01)
        optimizer.step(**options)


def copies(dtype, n=2):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7)).to(dtype)
    return [first, *(copy.deepcopy(first) for _ in range(n - 1))]


def test_the_kernel_updates_as_torch_does():
    expected, actual = copies(torch.float32)
    train(expected, make_optimizer(expected, weight_decay=0.1), 5)
    optimizer = make_optimizer(actual, weight_decay=0.1, backend="triton")
    train(actual, optimizer, 5)
    for ours, theirs in zip(actual.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # fp32
        assert "master" not in optimizer.state[ours]


def test_clipping_inside_the_update_is_clipping_before_it():
    expected, actual = copies(torch.float32)
    train(
        actual, make_optimizer(actual, weight_decay=0.0, backend="triton"), 3, grad_factor=torch.tensor(0.5)
    )
    optimizer = make_optimizer(expected, weight_decay=0.0, eps=2 * EPS)  # half the gradients: twice epsilon
    train(expected, optimizer, 3)
    for ours, theirs in zip(actual.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # fp32


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_weights_in_bf16_follow_their_fp32_copies(backend):
    narrow, wide = copies(torch.bfloat16)
    wide.float()
    optimizer = make_optimizer(narrow, weight_decay=0.1, backend=backend)
    assert isinstance(optimizer, MasterAdamW)
    gradients = torch.Generator().manual_seed(1)
    reference = make_optimizer(wide, weight_decay=0.1)
    for _ in range(4):
        for ours, theirs in zip(narrow.parameters(), wide.parameters(), strict=True):
            ours.grad = torch.randn(ours.shape, generator=gradients).bfloat16()
            theirs.grad = ours.grad.float()
        for each in (optimizer, reference):
            set_learning_rate(each, 0.01)
            each.step()
    for ours, theirs in zip(narrow.parameters(), wide.parameters(), strict=True):
        master = optimizer.state[ours]["master"]
        torch.testing.assert_close(master, theirs.detach(), rtol=1e-6, atol=1e-6)  # fp32
        assert torch.equal(ours, master.bfloat16())


def test_a_state_goes_on_with_the_same_bits():
    whole, cut = copies(torch.bfloat16)
    optimizer = make_optimizer(whole, weight_decay=0.1)
    train(whole, optimizer, 3)
    train(whole, optimizer, 3, seed=1)
    before = make_optimizer(cut, weight_decay=0.1)
    train(cut, before, 3)
    after = make_optimizer(cut, weight_decay=0.1)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    train(cut, after, 3, seed=1)
    for ours, theirs in zip(cut.parameters(), whole.parameters(), strict=True):
        assert torch.equal(after.state[ours]["master"], optimizer.state[theirs]["master"])
        assert after.state[ours]["exp_avg"].dtype == torch.float32
