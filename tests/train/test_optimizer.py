import math

import pytest
import torch
from torch import nn

from dsllm.train.optimizer import clip_gradients, make_optimizer, set_learning_rate


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
